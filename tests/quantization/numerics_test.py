import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import numerics

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize(
  'bits, qmax', [(0, -0.5), (1, 0), (2, 1), (3, 3), (4, 7), (8, 127), (9, 255)]
)
def test_symmetric_qmax(bits, qmax):
  assert numerics.symmetric_qmax(jnp.float32(bits)) == qmax


@helpers.JIT
def test_power_of_two_is_exact(jit):
  exponent = np.arange(-20, 31)
  function = jax.jit(numerics.power_of_two) if jit else numerics.power_of_two
  powers = function(jnp.asarray(exponent, jnp.float32))
  np.testing.assert_array_equal(powers, 2.0**exponent)


@pytest.mark.parametrize(
  'x, rounded',
  [
    (-2.5, -3),
    (-1.5, -2),
    (-0.5, -1),
    (-0.4, 0),
    (0.0, 0),
    (0.5, 1),
    (1.5, 2),
    (2.4, 2),
    (2.5, 3),
  ],
)
def test_round_half_away(x, rounded):
  assert numerics.round_half_away(jnp.float32(x)) == rounded


@pytest.mark.parametrize(
  'name', ['power_of_two', 'symmetric_qmax', 'round_half_away']
)
def test_shape_and_dtype_are_kept(name):
  x = jnp.ones((2, 3), jnp.float32)
  y = getattr(numerics, name)(x)
  assert y.shape == (2, 3) and y.dtype == jnp.float32


class TestDivide:
  """As numpy divides float32: rounded once, compiled or not."""

  SHAPES = [(), (1, 1), (64, 1), (1, 48)]

  @helpers.JIT
  @pytest.mark.parametrize('shape', SHAPES, ids=str)
  def test_pixels(self, shape, jit):
    pixels = np.arange(256, dtype=np.float32) / np.float32(255)
    x = np.resize(pixels, (64, 48))
    for j in range(1, 40):
      divisor = np.full(shape, np.float32(2 * j) / np.float32(255))
      np.testing.assert_array_equal(divided(x, divisor, jit=jit), x / divisor)

  @helpers.JIT
  @pytest.mark.parametrize('shape', SHAPES, ids=str)
  def test_all_floats(self, shape, jit):
    rng = np.random.default_rng(0)
    floats = lambda shape: (
      rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
      if shape
      else np.float32(-3.7e-3)
    )
    x, divisor = floats((64, 48)), floats(shape)
    if shape:
      divisor = np.where(np.isfinite(divisor), divisor, np.float32(1.1))
    with np.errstate(all='ignore'):
      expected = x / divisor
      tiny = np.finfo(np.float32).tiny
      # XLA's CPU backend may read and write subnormal numbers as 0.
      normal = (np.abs(x) >= tiny) & (np.abs(divisor) >= tiny)
      normal &= (np.abs(expected) >= tiny) | (expected == 0)
      normal |= np.isnan(x)
    found = divided(x, divisor, jit=jit)
    assert np.mean(normal) > 0.4
    np.testing.assert_array_equal(found[normal], expected[normal])

  @helpers.JIT
  @pytest.mark.parametrize('number', [7, 15, 127, 255, 0.1])
  def test_numbers(self, number, jit):
    x = np.random.default_rng(1).normal(size=(64, 48)).astype(np.float32)
    function = lambda x: numerics.divide(x, number)
    found = (jax.jit(function) if jit else function)(jnp.asarray(x))
    np.testing.assert_array_equal(found, x / np.float32(number))


def divided(x, divisor, *, jit):
  function = numerics.divide
  function = jax.jit(function) if jit else function
  return np.asarray(function(jnp.asarray(x), jnp.asarray(divisor)))
