import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import ops

pytestmark = pytest.mark.optimized

# Narrow, at the bound, not narrow.
SHAPES = [(40, 3), (12, 3), (11, 3), (5, 8)]


@pytest.mark.parametrize('rows, columns', SHAPES)
@helpers.JIT
def test_matmul_has_the_values_and_gradients_of_the_product(rows, columns, jit):
  rng = np.random.default_rng(rows)
  x, kernel = rng.normal(size=(9, rows)), rng.normal(size=(rows, columns))
  dy = rng.normal(size=(9, columns))

  def run(x, kernel, dy):
    y, pull = jax.vjp(ops.matmul, x, kernel)
    return y, *pull(dy)

  arguments = [jnp.asarray(a, jnp.float32) for a in (x, kernel, dy)]
  found = (jax.jit(run) if jit else run)(*arguments)
  expected = x @ kernel, dy @ kernel.T, x.T @ dy
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def test_matmul_takes_what_multiplies_matrices():
  class Doubled:
    def __matmul__(self, kernel):
      return 2 * kernel

  kernel = jnp.ones((40, 2))
  np.testing.assert_array_equal(ops.matmul(Doubled(), kernel), 2 * kernel)


@pytest.mark.parametrize('r', [1, 3, 8, 9])
@pytest.mark.parametrize('batched', [False, True])
def test_combine_has_the_values_and_gradients_of_the_product(r, batched):
  rng = np.random.default_rng(r)
  weights, basis = rng.normal(size=(2, 7, r)), rng.normal(size=(2, r, 5))
  dy = rng.normal(size=(2, 7, 5))

  def run(weights, basis, dy):
    y, pull = jax.vjp(ops.combine, weights, basis)
    return y, *pull(dy)

  arguments = [jnp.asarray(a, jnp.float32) for a in (weights, basis, dy)]
  if batched:
    found = jax.jit(jax.vmap(run))(*arguments)
  else:
    each = [run(*(a[i] for a in arguments)) for i in range(2)]
    found = [np.stack(parts) for parts in zip(*each, strict=True)]
  expected = (
    weights @ basis,
    dy @ basis.transpose(0, 2, 1),
    weights.transpose(0, 2, 1) @ dy,
  )
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('shape', [(), (5,), (11, 3), (2, 3, 4)])
def test_uniform_draws_those_of_jax(key, shape):
  found = ops.uniform(key, shape, 0.3)
  expected = jax.random.uniform(key, shape, minval=-0.3, maxval=0.3)
  np.testing.assert_allclose(found, expected, rtol=0, atol=2.0**-25)


def test_flat_draws_of_dropout(key):
  flat = jax.random.bernoulli(key, 0.4, (33,)).reshape(11, 3)
  np.testing.assert_array_equal(flat, jax.random.bernoulli(key, 0.4, (11, 3)))


def test_glorot_draws_those_of_jax(key):
  found = ops.glorot_uniform(key, (11, 3))
  expected = jax.nn.initializers.glorot_uniform()(key, (11, 3))
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@helpers.JIT
def test_computed_once_is_the_identity(jit):
  x = jnp.asarray([0.0, -0.5, 1.0, 127.0, 32767.0, 1e-30, 2.0**99, -(2.0**40)])
  function = ops.computed_once
  y = (jax.jit(function) if jit else function)(x)
  np.testing.assert_array_equal(y, x)


@helpers.JIT
def test_pass_where(jit):
  passing = jnp.asarray([True, True, False, False, True])
  dy = jnp.asarray([1e-30, -3.7, 2.5, -1e30, 0.0])
  function = jax.jit(ops.pass_where) if jit else ops.pass_where
  np.testing.assert_array_equal(function(passing, dy), np.where(passing, dy, 0))


def test_sort_key_has_the_order_of_the_values():
  x = [-np.inf, -3e38, -1.5, -1e-38, -0.0, 0.0, 1e-38, 0.25, 7.0, np.inf]
  x = jnp.asarray(x, jnp.float32)
  key = ops.sort_key(x)
  assert key.dtype == jnp.int32
  assert np.all(np.diff(np.asarray(key, np.int64)) > 0)
  np.testing.assert_array_equal(ops.from_sort_key(key), x)


def test_plain_forms_have_the_values():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  arguments = {
    'matmul': (draw(9, 40), draw(40, 3)),
    'combine': (draw(9, 3), draw(3, 5)),
    'uniform': (jax.random.key(0), (11, 3), 0.3),
    'computed_once': (draw(4),),
    'pass_where': (draw(9, 3) > 0, draw(9, 3)),
  }
  assert {*arguments, 'sort_key'} == set(ops.PLAIN)
  for name, values in arguments.items():
    np.testing.assert_allclose(
      getattr(ops, name)(*values),
      ops.PLAIN[name](*values),
      rtol=2e-5,
      atol=1e-6,
      err_msg=name,
    )
  x = draw(50)
  order = jnp.argsort(ops.sort_key(x))
  np.testing.assert_array_equal(order, jnp.argsort(ops.PLAIN['sort_key'](x)))


def test_a_row_is_added_where_sums_over_rows_would_end_the_process():
  # More than 16,384 rows, no multiple of 32, a product right behind.
  n, width = 16_385, 64

  @jax.jit
  def gradient(row, x, kernel):
    zeros = jnp.zeros((n, width))
    _, pull = jax.vjp(lambda r: ops.to_each_row(r, n) + zeros, row)
    return pull(x @ kernel.T)[0]

  row, x, kernel = (
    jnp.ones((1, width)),
    jnp.ones((n, 16)),
    jnp.ones((width, 16)),
  )
  found = gradient(row, x, kernel)
  np.testing.assert_array_equal(found, np.full((1, width), 16.0 * n))


def test_a_row_is_the_same_in_each_row():
  row = jnp.arange(3.0)[None]
  for count in (7, 16_384, 16_385, 16_416):
    given = ops.to_each_row(row, count)
    assert given.shape == ((count, 3) if count == 16_385 else (1, 3))
    np.testing.assert_array_equal(given, np.broadcast_to(row, given.shape))
