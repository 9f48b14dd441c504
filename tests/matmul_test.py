import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import _matmul

# Narrow, at the bound, not narrow.
SHAPES = [(40, 3), (12, 3), (11, 3), (5, 8)]


@pytest.mark.parametrize('rows, columns', SHAPES)
@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
def test_matmul_has_the_values_and_gradients_of_the_product(rows, columns, jit):
  rng = np.random.default_rng(rows)
  x, kernel = rng.normal(size=(9, rows)), rng.normal(size=(rows, columns))
  dy = rng.normal(size=(9, columns))

  def run(x, kernel, dy):
    y, pull = jax.vjp(_matmul.matmul, x, kernel)
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
  np.testing.assert_array_equal(_matmul.matmul(Doubled(), kernel), 2 * kernel)


@pytest.mark.parametrize('r', [1, 3, 8, 9])
@pytest.mark.parametrize('batched', [False, True])
def test_combine_has_the_values_and_gradients_of_the_product(r, batched):
  rng = np.random.default_rng(r)
  weights, basis = rng.normal(size=(2, 7, r)), rng.normal(size=(2, r, 5))
  dy = rng.normal(size=(2, 7, 5))

  def run(weights, basis, dy):
    y, pull = jax.vjp(_matmul.combine, weights, basis)
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
