import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.nn import norm
from lorap_jax.nn.quantized import Rows

MASK = jnp.arange(9)[:, None] < 6


def apply(x, mask, *, train=True, stats=None, unbiased=False):
  module = norm.MaskedBatchNorm(unbiased)
  variables = module.init(jax.random.key(0), x, rows=Rows(mask))
  if stats is not None:
    variables['batch_stats'] = {'bn': stats}
  return module.apply(
    variables, x, rows=Rows(mask, train), mutable=['batch_stats']
  )


@pytest.fixture
def x(key):
  return 5 * jax.random.normal(key, (9, 4)) + 3


def test_normalizes_the_real_rows(x):
  out, _ = apply(x, MASK)
  real = np.asarray(x[:6], np.float64)
  expected = (real - real.mean(0)) / np.sqrt(real.var(0) + 1e-5)
  # The variance is computed as E[x^2] - E[x]^2.
  np.testing.assert_allclose(out[:6], expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_the_real_rows(x):
  _, new = apply(x, MASK)
  real = np.asarray(x[:6], np.float64)
  stats = new['batch_stats']['bn']
  np.testing.assert_allclose(stats['mean'], 0.1 * real.mean(0), rtol=1e-5)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * real.var(0), rtol=1e-5)


@pytest.mark.parametrize('garbage', [0.0, 1e4, -1e4])
def test_padding_changes_nothing(x, garbage):
  out, new = apply(jnp.where(MASK, x, garbage), MASK)
  alone, new_alone = apply(x[:6], MASK[:6])
  # Another number of rows may sum in another order.
  np.testing.assert_allclose(out[:6], alone, rtol=1e-5, atol=1e-6)
  helpers.assert_trees_close(new, new_alone, rtol=1e-6)


def test_evaluation_uses_the_running_statistics(x):
  stats = {'mean': jnp.arange(4.0), 'var': jnp.asarray([1.0, 4.0, 9.0, 16.0])}
  out, new = apply(x, MASK, train=False, stats=stats)
  expected = (x - stats['mean'][None]) / np.sqrt(stats['var'] + 1e-5)[None]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  helpers.assert_trees_close(new['batch_stats']['bn'], stats)


def test_gradient_ignores_padding(x):
  def loss(x):
    out, _ = apply(x, MASK)
    return jnp.sum(jnp.where(MASK, out, 0) ** 3)

  grad = jax.grad(loss)(x)
  np.testing.assert_array_equal(grad[6:], 0)
  assert np.all(grad[:6] != 0)


def test_unbiased_running_variance(x):
  """That of torch; the values themselves have the biased one."""
  biased, _ = apply(x, MASK)
  out, new = apply(x, MASK, unbiased=True)
  np.testing.assert_array_equal(out, biased)
  var = new['batch_stats']['bn']['var']
  expected = np.asarray(x[:6], np.float64).var(0, ddof=1)
  np.testing.assert_allclose(var, 0.9 + 0.1 * expected, rtol=1e-5)


def test_unbiased_variance_of_one_row(x):
  _, new = apply(x, jnp.arange(9)[:, None] < 1, unbiased=True)
  np.testing.assert_allclose(new['batch_stats']['bn']['var'], 0.9, rtol=1e-6)


def test_unbiased_variance_changes_no_evaluation(x):
  stats = {'mean': jnp.ones(4), 'var': jnp.full(4, 2.0)}
  out, new = apply(x, MASK, train=False, stats=stats, unbiased=True)
  same, _ = apply(x, MASK, train=False, stats=stats)
  np.testing.assert_array_equal(out, same)
  np.testing.assert_array_equal(new['batch_stats']['bn']['var'], stats['var'])
