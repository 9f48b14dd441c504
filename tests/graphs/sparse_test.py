import importlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.graphs import sparse

aggregate = importlib.import_module('lorap_jax.graphs.aggregate')
N, F, WIDTH = 11, 7, 5


def matrix(seed=0, density=0.3):
  """Few nonzeros, of both signs; the last row and column 2 have none."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(N, F)) * (rng.random((N, F)) < density)
  x[-1], x[:, 2] = 0, 0
  return x.astype(np.float32)


def on_device(x):
  return jax.tree.map(jnp.asarray, graphs.sparse_rows(x))


def weight(*batch):
  shape = (*batch, F, WIDTH)
  return jnp.float32(np.random.default_rng(1).normal(size=shape))


def test_holds_the_nonzeros():
  x = matrix()
  found = graphs.sparse_rows(x)
  by_row, by_column = found.layout
  assert found.shape == (N, F)
  again = np.zeros_like(x)
  again[found.rows, by_row.indices] = found.values
  np.testing.assert_array_equal(again, x)
  assert len(found.values) == np.count_nonzero(x)
  columns = np.repeat(np.arange(F), np.diff(by_column.indptr))
  np.testing.assert_array_equal(columns, by_row.indices[by_column.order])
  np.testing.assert_array_equal(by_column.indices, found.rows[by_column.order])


class TestSumWithAProduct:
  LEFT = np.random.default_rng(3).normal(size=(N, 2)).astype(np.float32)
  RIGHT = np.random.default_rng(4).normal(size=(2, F)).astype(np.float32)

  def test_product(self):
    def loss(left, right, w):
      return jnp.sin(on_device(matrix()).plus(left, right) @ w).sum()

    def dense_loss(left, right, w):
      return jnp.sin((matrix() + left @ right) @ w).sum()

    arguments = (self.LEFT, self.RIGHT, weight())
    found, expected = (
      jax.value_and_grad(f, argnums=(0, 1, 2))(*arguments)
      for f in (loss, dense_loss)
    )
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

  def test_square_sums(self):
    added = jnp.asarray(self.LEFT), jnp.asarray(self.RIGHT)
    found = on_device(matrix()).plus(*added).square_sums()
    expected = np.sum((matrix() + self.LEFT @ self.RIGHT) ** 2, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@helpers.JIT
class TestProduct:
  def test_equals_the_dense_one(self, jit):
    product = lambda x, w: x @ w
    out = (jax.jit(product) if jit else product)(on_device(matrix()), weight())
    np.testing.assert_allclose(out, matrix() @ weight(), rtol=1e-5, atol=1e-6)
    assert not out[-1].any()

  def test_gradients_of_both_factors(self, jit):
    x, ds = (
      on_device(matrix()),
      np.random.default_rng(2).normal(size=(N, WIDTH)),
    )
    loss = lambda values, w: jnp.sum(
      (x._replace(values=values) @ w) * jnp.float32(ds)
    )
    grad = jax.grad(loss, (0, 1))
    dv, dw = (jax.jit(grad) if jit else grad)(x.values, weight())
    np.testing.assert_allclose(dw, matrix().T @ ds, rtol=1e-5, atol=1e-6)
    at = x.rows, x.layout.incoming.indices
    expected = (ds @ weight().T)[at]
    np.testing.assert_allclose(dv, expected, rtol=1e-5, atol=1e-6)
    assert not dw[2].any()

  @pytest.mark.parametrize('values', ['shared', 'own'])
  def test_of_a_batch_of_weights(self, jit, values):
    """Seeds share the features, unless each has dropped its own."""
    x, w = on_device(matrix()), weight(3)
    factors = jnp.ones(3) if values == 'shared' else jnp.arange(1.0, 4)
    v = factors[:, None] * x.values[None]
    axis = 0 if values == 'own' else None
    loss = lambda w, v: jnp.sum((x._replace(values=v) @ w) ** 2)
    run = jax.vmap(jax.value_and_grad(loss), in_axes=(0, axis))
    run = jax.jit(run) if jit else run
    value, dw = run(w, v if values == 'own' else x.values)
    for i, factor in enumerate(factors):
      scaled = float(factor) * matrix()
      y = scaled @ weight(3)[i]
      np.testing.assert_allclose(value[i], np.sum(y**2), rtol=1e-5)
      np.testing.assert_allclose(dw[i], 2 * scaled.T @ y, rtol=1e-4, atol=1e-5)


def test_square_sums():
  expected = (matrix() ** 2).sum(1)
  found = on_device(matrix()).square_sums()
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gradient_of_data_is_not_computed(monkeypatch):
  """That of the values is a loop, which a program for W leaves out."""
  monkeypatch.setattr(aggregate, '_EDGE_CHUNK', 4)
  x = on_device(matrix())
  loss = lambda v, w: jnp.sum((x._replace(values=v) @ w) ** 2)
  texts = [
    jax.jit(jax.grad(loss, i)).lower(x.values, weight()).compile().as_text()
    for i in (0, 1)
  ]
  assert [' while(' in text for text in texts] == [True, False]


class TestInBothForms:
  def test_few_nonzeros(self):
    x = matrix(density=0.1)
    features = graphs.in_both_forms(x)
    assert features.shape == features.sparse.shape == (N, F)
    assert features.dense is x
    np.testing.assert_array_equal(
      jax.device_put(features.sparse) @ jnp.eye(F), x
    )

  def test_up_to_the_limit(self):
    x = np.zeros((4, 4), np.float32)
    x[0, : int(sparse.MAX_DENSITY * 16)] = 1
    assert isinstance(graphs.in_both_forms(x), graphs.Features)
    x[1, 0] = 1
    assert graphs.in_both_forms(x) is x

  def test_nothing_to_multiply(self):
    x = np.zeros((4, 4), np.float32)
    assert graphs.in_both_forms(x) is x
