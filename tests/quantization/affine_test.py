import functools
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import affine

pytestmark = pytest.mark.optimized

GRADIENTS = ('plain', 'clipped', 'clipped_strict')
# s = 1/4, z = -1, 3 bits signed: codes -4...3, range -.75...1. Columns: x, q,
# whether the gradient passes with `clipped` and with `clipped_strict`.
POINTS = [
  (-9.0, -4, 0, 0),
  (-0.9375, -4, 0, 0),  # Below lo by more than half a step: code -5.
  (-0.875, -4, 1, 0),  # -4.5, and halves go to the even neighbour.
  (-0.75, -4, 1, 0),  # lo
  (-0.625, -4, 1, 0),
  (-0.5, -3, 1, 1),
  (-0.375, -2, 1, 1),
  (0.0, -1, 1, 1),
  (0.125, 0, 1, 1),
  (0.375, 0, 1, 1),
  (0.875, 2, 1, 1),
  (0.9375, 3, 1, 0),
  (1.0, 3, 1, 0),  # hi
  (1.0625, 3, 1, 0),
  (1.125, 3, 0, 0),  # 3.5, to the even 4.
  (9.0, 3, 0, 0),
]
X = jnp.asarray([[p[0] for p in POINTS]])
QPARAMS = affine.QParams(jnp.float32(0.25), jnp.float32(-1))
FORMAT = {'bits': 3, 'signed': True}


def random_ranges(key, shape=(200,)):
  """Ranges with and without 0 inside."""
  ends = jax.random.normal(key, (2, *shape))
  return jnp.min(ends, axis=0), jnp.max(ends, axis=0)


def pull_back(x, dy, *, qparams=QPARAMS, **kwargs):
  """Dx for the upstream gradient dy."""
  return jax.vjp(
    lambda x: affine.fake_quant(x, qparams, **(FORMAT | kwargs)), x
  )[1](dy)[0]


class TestCodeRange:
  @pytest.mark.parametrize(
    'bits, signed, expected',
    [
      (2, True, (-2, 1)),
      (2, False, (0, 3)),
      (4, True, (-8, 7)),
      (4, False, (0, 15)),
      (8, True, (-128, 127)),
      (8, False, (0, 255)),
    ],
  )
  def test_written_out(self, bits, signed, expected):
    assert affine.code_range(bits, signed=signed) == expected

  @pytest.mark.parametrize('bits', [0, 1, 17, 32])
  def test_bits_out_of_range(self, bits):
    message = rf'`bits` must be in 2\.\.16, got {bits}'
    with pytest.raises(ValueError, match=message):
      affine.code_range(bits, signed=True)
    with pytest.raises(ValueError, match=message):
      affine.affine_qparams(jnp.zeros(()), jnp.ones(()), bits=bits)


class TestQParams:
  @helpers.JIT
  @pytest.mark.parametrize(
    'low, high, signed, scale, zero_point',
    [
      (-1.0, 14.0, True, 1.0, -7),
      (-1.0, 14.0, False, 1.0, 1),
      (-7.5, 22.5, True, 2.0, -4),  # 3.75 steps below 0.
      (0.0, 15.0, True, 1.0, -8),
      (4.0, 15.0, True, 1.0, -8),  # Widened to hold 0.
      (4.0, 15.0, False, 1.0, 0),
      (-15.0, -4.0, True, 1.0, 7),
      (-15.0, -4.0, False, 1.0, 15),
      (3.0, 3.0, True, 0.2, -8),  # A constant tensor.
      (-3.0, -3.0, False, 0.2, 15),
      (0.0, 0.0, True, 1.0, 0),
      (0.0, 0.0, False, 1.0, 0),
      (0.0, 1e-9, False, 2.0**-23, 0),
    ],
  )
  def test_affine(self, low, high, signed, scale, zero_point, jit):
    function = functools.partial(affine.affine_qparams, bits=4, signed=signed)
    function = jax.jit(function) if jit else function
    qparams = function(jnp.float32(low), jnp.float32(high))
    assert qparams.scale == np.float32(scale)
    assert qparams.zero_point == zero_point

  @pytest.mark.parametrize(
    'bits, signed, rule, zero_point',
    [
      (4, True, 'middle', 0),
      (4, True, 'published', 0),
      (4, False, 'middle', 8),
      (4, False, 'published', 128),
      (8, False, 'middle', 128),
      (8, False, 'published', 128),
    ],
  )
  def test_symmetric(self, bits, signed, rule, zero_point):
    qparams = affine.affine_qparams(
      jnp.asarray([-3.0, -1.0, 0.0]),
      jnp.asarray([1.0, 3.0, 0.0]),
      bits=bits,
      signed=signed,
      symmetric=True,
      zero_point_rule=rule,
    )
    step = np.float32(6 / (2**bits - 1))
    np.testing.assert_array_equal(qparams.scale, np.float32([step, step, 1]))
    np.testing.assert_array_equal(qparams.zero_point, [zero_point] * 2 + [0])

  def test_published_symmetric_zero_point_leaves_the_codes(self):
    """At 4 bits unsigned it makes one value of all; the default does not."""
    x = jnp.linspace(-1, 1, 50)
    counts = []
    for rule in ('published', 'middle'):
      qparams = affine.affine_qparams(
        x.min(),
        x.max(),
        bits=4,
        signed=False,
        symmetric=True,
        zero_point_rule=rule,
      )
      codes = affine.quantize(x, qparams, bits=4, signed=False)
      counts.append(len(np.unique(codes)))
    assert counts[0] == 1 and counts[1] >= 15  # The ends lie on ties.

  @pytest.mark.parametrize('bits', [2, 4, 8])
  @pytest.mark.parametrize('signed', [False, True])
  def test_zero_point_is_a_code_and_stands_for_0(self, key, bits, signed):
    qparams = affine.affine_qparams(
      *random_ranges(key), bits=bits, signed=signed
    )
    qmin, qmax = affine.code_range(bits, signed=signed)
    zero_point = np.asarray(qparams.zero_point)
    np.testing.assert_array_equal(zero_point, np.round(zero_point))
    assert zero_point.min() >= qmin and zero_point.max() <= qmax
    zeros = jnp.zeros(200)
    codes = affine.quantize(zeros, qparams, bits=bits, signed=signed)
    np.testing.assert_array_equal(codes, zero_point)
    np.testing.assert_array_equal(affine.dequantize(codes, qparams), 0)

  def test_columns_are_separate_tensors(self, key):
    low, high = random_ranges(key, (1, 7))
    columns = affine.affine_qparams(low, high, bits=4)
    for i in range(7):
      tensor = affine.affine_qparams(low[0, i], high[0, i], bits=4)
      assert columns.scale[0, i] == tensor.scale
      assert columns.zero_point[0, i] == tensor.zero_point

  @pytest.mark.parametrize('symmetric', [False, True])
  @pytest.mark.parametrize('bits', [4, 8])
  def test_jit_is_exact(self, key, bits, symmetric):
    function = functools.partial(
      affine.affine_qparams, bits=bits, symmetric=symmetric
    )
    low, high = random_ranges(key, (5000,))
    eager, jitted = function(low, high), jax.jit(function)(low, high)
    np.testing.assert_array_equal(eager.scale, jitted.scale)
    np.testing.assert_array_equal(eager.zero_point, jitted.zero_point)

  def test_no_gradient(self):
    grads = jax.grad(
      lambda *ends: affine.affine_qparams(*ends, bits=4).scale, (0, 1)
    )(jnp.float32(-1), jnp.float32(2))
    assert grads == (0, 0)

  def test_unknown_rule(self):
    function = affine.affine_qparams
    function = getattr(function, '__wrapped__', function)
    with pytest.raises(ValueError, match="`zero_point_rule` must .* 'other'"):
      function(jnp.zeros(()), jnp.ones(()), bits=4, zero_point_rule='other')


class TestForward:
  def test_written_out(self):
    codes = affine.quantize(X, QPARAMS, **FORMAT)
    assert codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, [[p[1] for p in POINTS]])
    values = [[(p[1] + 1) / 4 for p in POINTS]]
    np.testing.assert_array_equal(affine.dequantize(codes, QPARAMS), values)
    for gradient in GRADIENTS:
      out = affine.fake_quant(X, QPARAMS, gradient=gradient, **FORMAT)
      np.testing.assert_array_equal(out, values)

  @helpers.JIT
  @pytest.mark.parametrize('signed', [False, True])
  @pytest.mark.parametrize('bits', [2, 4, 8])
  @pytest.mark.parametrize('per_column', [False, True])
  def test_grid(self, key, bits, signed, per_column, jit):
    """On the integer grid exactly, near, idempotent, monotone, clipped."""
    low, high = random_ranges(key, (1, 6) if per_column else ())
    x = jnp.sort(2 * jax.random.normal(key, (400, 6)), axis=0)
    qparams = affine.affine_qparams(low, high, bits=bits, signed=signed)
    quant = functools.partial(
      affine.fake_quant, bits=bits, signed=signed, gradient='plain'
    )
    quant = jax.jit(quant) if jit else quant
    out = np.asarray(quant(x, qparams))
    codes = functools.partial(affine.quantize, bits=bits, signed=signed)
    codes = np.asarray((jax.jit(codes) if jit else codes)(x, qparams))
    scale, zero_point = map(np.asarray, qparams)
    grid = (codes.astype(np.float32) - zero_point) * scale
    np.testing.assert_array_equal(out, grid)
    assert (codes.min(), codes.max()) == affine.code_range(bits, signed=signed)
    np.testing.assert_array_equal(quant(jnp.asarray(out), qparams), out)
    assert np.all(np.diff(out, axis=0) >= 0)
    inside = (x >= jnp.minimum(low, 0)) & (x <= jnp.maximum(high, 0))
    # Half a step, and another half where z was rounded, at the ends.
    error = np.where(inside, np.abs(out - x), 0)
    assert np.all(error <= scale * (1 + 1e-5))
    ends = (codes == codes.min()) | (codes == codes.max())
    assert np.all(np.where(ends, 0, error) <= 0.5 * scale * (1 + 1e-4))

  @helpers.JIT
  @pytest.mark.parametrize('published', [False, True])
  @pytest.mark.parametrize('shape', [(), (1, 16), (256, 1)], ids=str)
  def test_codes_of_pixels(self, shape, published, jit):
    """Many x / s + z are ties: none is rounded twice, or not at all."""
    x = np.resize(np.arange(256, dtype=np.float32) / np.float32(255), (256, 16))
    quant = functools.partial(
      affine.quantize, bits=8, signed=True, published=published
    )
    quant = jax.jit(quant) if jit else quant
    differing = 0
    for j in range(1, 30):
      scale = np.full(shape, np.float32(2 * j) / np.float32(255))
      zero_point = np.full(shape, np.float32(j % 7 - 3))
      quotient, product = x / scale, x * (np.float32(1) / scale)
      ratio = product if published else quotient
      codes = np.clip(np.round(ratio + zero_point), -128, 127)
      qparams = affine.QParams(jnp.asarray(scale), jnp.asarray(zero_point))
      np.testing.assert_array_equal(quant(jnp.asarray(x), qparams), codes)
      differing += np.sum(np.round(quotient) != np.round(product))
    assert differing > 100

  @pytest.mark.parametrize('shape', [(), (5,), (2, 3, 4)])
  def test_any_shape(self, key, shape):
    x = jax.random.normal(key, shape)
    out = affine.fake_quant(x, QPARAMS, gradient='plain', **FORMAT)
    assert out.shape == shape

  def test_low_precision_is_kept(self):
    x = X.astype(jnp.bfloat16)
    out = affine.fake_quant(x, QPARAMS, gradient='plain', **FORMAT)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
      out.astype(jnp.float32), [[(p[1] + 1) / 4 for p in POINTS]]
    )


class TestGradient:
  @helpers.JIT
  @pytest.mark.parametrize(
    'gradient, passing',
    [
      ('plain', [1] * len(POINTS)),
      ('clipped', [p[2] for p in POINTS]),
      ('clipped_strict', [p[3] for p in POINTS]),
    ],
  )
  def test_closed_form(self, gradient, passing, jit):
    dy = jnp.arange(1.0, len(POINTS) + 1)[None]
    expected = dy * jnp.asarray([passing], jnp.float32)
    function = functools.partial(pull_back, gradient=gradient)
    dx = (jax.jit(function) if jit else function)(X, dy)
    np.testing.assert_array_equal(dx, expected)

  @pytest.mark.parametrize('gradient', GRADIENTS)
  def test_zeros_behind_a_relu(self, gradient):
    """Code 0 of an unsigned tensor: the strict rule stops its gradient."""
    qparams = affine.affine_qparams(
      jnp.float32(0), jnp.float32(3), bits=4, signed=False
    )
    x = jnp.asarray([0.0, 1.5])
    dx = pull_back(
      x,
      jnp.ones(2),
      qparams=qparams,
      bits=4,
      signed=False,
      gradient=gradient,
    )
    np.testing.assert_array_equal(dx, [gradient != 'clipped_strict', 1])

  @pytest.mark.parametrize('gradient', GRADIENTS)
  def test_none_to_the_range(self, gradient):
    def loss(x, low, high, qparams):
      ranged = affine.affine_qparams(low, high, bits=3)
      quant = functools.partial(affine.fake_quant, gradient=gradient, **FORMAT)
      return jnp.sum(quant(x, ranged) + quant(x, qparams))

    arguments = (X, jnp.float32(-0.75), jnp.float32(1), QPARAMS)
    grads = jax.grad(loss, (1, 2, 3))(*arguments)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    assert jnp.any(jax.grad(loss)(*arguments))

  def test_unknown(self):
    function = getattr(affine.fake_quant, '__wrapped__', affine.fake_quant)
    message = re.escape("'clipped' or 'clipped_strict', got 'other'")
    with pytest.raises(ValueError, match=message):
      function(X, QPARAMS, gradient='other', **FORMAT)


@helpers.JIT
@pytest.mark.parametrize('gradient', GRADIENTS)
class TestKeep:
  def test_rows(self, gradient, jit):
    """Protected rows: unchanged, dx = dy. The others: as if alone."""
    x, dy = jnp.tile(X + 0.01, (3, 1)), jnp.full((3, len(POINTS)), 2.0)
    keep = jnp.asarray([[False], [True], [False]])

    def both(x, dy, keep):
      quant = functools.partial(affine.fake_quant, gradient=gradient, **FORMAT)
      out, vjp = jax.vjp(lambda x: quant(x, QPARAMS, keep=keep), x)
      return out, vjp(dy)[0]

    out, dx = (jax.jit(both) if jit else both)(x, dy, keep)
    np.testing.assert_array_equal(out[1], x[1])
    np.testing.assert_array_equal(dx[1], dy[1])
    alone, dx_alone = both(x, dy, None)
    np.testing.assert_array_equal(out[::2], alone[::2])
    np.testing.assert_array_equal(dx[::2], dx_alone[::2])
    assert not np.any(np.asarray(alone[1]) == np.asarray(x[1]))

  def test_elements(self, gradient, jit):
    keep = jnp.arange(len(POINTS))[None] % 2 == 0
    quant = functools.partial(affine.fake_quant, gradient=gradient, **FORMAT)
    out = (jax.jit(quant) if jit else quant)(X + 0.01, QPARAMS, keep=keep)
    np.testing.assert_array_equal(np.asarray(out == X + 0.01), np.asarray(keep))


@pytest.mark.parametrize('symmetric', [False, True])
@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('bits', [2, 4, 8])
def test_the_widest_range_has_a_finite_grid(bits, signed, symmetric):
  x = jnp.array([-3.4e38, -3e38, 0.0, 1.0, 3e38, 3.4e38], jnp.float32)
  qparams = affine.affine_qparams(
    x.min(), x.max(), bits=bits, signed=signed, symmetric=symmetric
  )
  y = affine.fake_quant(
    x, qparams, bits=bits, signed=signed, gradient='clipped'
  )
  assert np.isfinite(qparams.scale) and np.isfinite(y).all()
  assert y[2] == 0


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_a_range_that_is_no_number_shows_in_the_scale(wrong):
  qparams = affine.affine_qparams(jnp.float32(0), jnp.float32(wrong), bits=4)
  assert not np.isfinite(qparams.scale)
