import functools
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import mixq, mixq_search

SOME_BITS = [1, 2, 3, 4, 8, 16]
PUBLISHED = pytest.mark.parametrize('published', [False, True])
# s = 1/2, z = 1, 3 bits signed: u = 1 + 2 x, codes -4 ... 3, bounds -2.5 and 1.
# Columns: x, q, D_s, D_z.
SCALE, ZERO_POINT = 0.5, 1.0
POINTS = [
  (-9.0, -4, -5.0, -0.5),
  (-2.5 - 2**-22, -4, -5.0, -0.5),
  (-2.5, -4, 0.0, 0.0),  # On the bound: inside.
  (-2.5 + 2**-22, -4, -(2**-21), 0.0),
  (-2.25, -4, -0.5, 0.0),  # Halves go to the even code.
  (-1.75, -2, 0.5, 0.0),
  (-0.5, 0, 0.0, 0.0),
  (0.0, 1, 0.0, 0.0),
  (0.25, 2, 0.5, 0.0),
  (0.375, 2, 0.25, 0.0),
  (0.75, 2, -0.5, 0.0),
  (1.0 - 2**-23, 3, 2**-22, 0.0),
  (1.0, 3, 0.0, 0.0),
  (1.0 + 2**-22, 3, 2.0, -0.5),
  (1.25, 3, 2.0, -0.5),
  (9.0, 3, 2.0, -0.5),
]
EACH = (len(POINTS), 1)


def full(value, shape=(1, 1)):
  return jnp.full(shape, value, jnp.float32)


def untyped(function):
  """Without the type checks of the test run, as a user calls it."""
  return getattr(function, '__wrapped__', function)


def eager_pull_back(arrays, dy, *, function=mixq.fake_quant, mask=None, **how):
  """The output and the gradients for the upstream gradient dy."""
  out, vjp = jax.vjp(functools.partial(function, mask=mask, **how), *arrays)
  return out, vjp(jnp.broadcast_to(jnp.asarray(dy, jnp.float32), out.shape))


pull_back = jax.jit(
  eager_pull_back,
  static_argnames=('function', 'bits', 'candidates', 'signed', 'published'),
)


def draw(seed, shape, *, n=24, f=7):
  """x, a scale and a zero point with about a third of x clipped, and dy."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, f)) * 3
  scale = rng.uniform(0.1, 0.6, shape)
  zero_point = rng.uniform(-2, 2, shape)
  dy = rng.normal(size=(n, f))
  return [jnp.asarray(v, jnp.float32) for v in (x, scale, zero_point, dy)]


class TestCodeRange:
  def test_values(self):
    assert mixq.code_range(1) == mixq.code_range(1, signed=False) == (-1, 1)
    assert mixq.code_range(2) == (-2, 1)
    assert mixq.code_range(8) == (-128, 127)
    assert mixq.code_range(2, signed=False) == (0, 3)
    assert mixq.code_range(16, signed=False) == (0, 65535)

  @pytest.mark.parametrize('bits', [0, 17, -1, 2.5, '4'])
  def test_errors(self, bits):
    message = f'`bits` must be an integer in 1..16, got {bits!r}'
    with pytest.raises(ValueError, match=re.escape(message)):
      untyped(mixq.code_range)(bits)


class TestCalibrate:
  def test_values_written_out(self):
    x = jnp.asarray([[-1.0, 0.5], [3.0, 2.0]])
    scale, zero_point = mixq.calibrate(x, bits=2)
    # Columns -1 ... 3 and 0 ... 2: 1 - 2.25 is rounded, 1 - 3 is not.
    np.testing.assert_allclose(scale, [[4 / 3, 2 / 3]], rtol=1e-7)
    np.testing.assert_array_equal(zero_point, [[-1, -2]])

  def test_axes(self, key):
    x = jax.random.normal(key, (6, 4))
    rows = mixq.calibrate(x, bits=4, axis=1)
    for ours, columns in zip(rows, mixq.calibrate(x.T, bits=4), strict=True):
      np.testing.assert_array_equal(ours, columns.T)
    whole = mixq.calibrate(x, bits=4, axis=None)
    flat = mixq.calibrate(x.reshape(-1, 1), bits=4)
    for ours, one in zip(whole, flat, strict=True):
      assert ours.shape == (1, 1)
      np.testing.assert_array_equal(ours, one)

  @pytest.mark.parametrize('signed', [True, False])
  @pytest.mark.parametrize('bits', SOME_BITS)
  def test_range_is_covered_and_zero_is_kept(self, key, bits, signed):
    x = jax.random.normal(key, (50, 4)) + jnp.asarray([[-9, 9, 0, 1.0]])
    scale, zero_point = mixq.calibrate(x, bits=bits, signed=signed)
    qmin, qmax = mixq.code_range(bits, signed=signed)
    assert np.all(zero_point >= qmin) and np.all(zero_point <= qmax)
    zeros = jnp.zeros_like(x)
    how = {'bits': bits, 'signed': signed}
    np.testing.assert_array_equal(
      mixq.fake_quant(zeros, scale, zero_point, **how), zeros
    )
    error = jnp.abs(mixq.fake_quant(x, scale, zero_point, **how) - x)
    # Half a step, and up to another where z was rounded.
    assert np.all(error <= 1.01 * scale)

  @pytest.mark.parametrize('bits', SOME_BITS[1:])
  def test_signedness_moves_codes_only(self, key, bits):
    x = jax.random.normal(key, (50, 4))
    scale, zero_point = mixq.calibrate(x, bits=bits)
    other_scale, other_zero_point = mixq.calibrate(x, bits=bits, signed=False)
    np.testing.assert_array_equal(scale, other_scale)
    np.testing.assert_array_equal(
      other_zero_point - zero_point, 2 ** (bits - 1)
    )

  def test_no_range(self):
    x = jnp.zeros((3, 2))
    scale, zero_point = mixq.calibrate(x, bits=4)
    assert np.all(scale == 1) and np.all(zero_point == 0)
    scale, zero_point = mixq.calibrate(x, bits=4, published=True)
    assert np.all(scale == np.float32(1e-16)) and np.all(zero_point == 7)

  @PUBLISHED
  @pytest.mark.parametrize('axis', [0, None])
  def test_padding_does_not_count(self, key, axis, published):
    x = jax.random.normal(key, (5, 3))
    padded = jnp.pad(x, ((0, 3), (0, 0)), constant_values=1e9)
    padded = padded.at[6].set(-1e9).at[7].set(jnp.nan)
    mask = jnp.arange(8)[:, None] < 5
    how = {'bits': 4, 'published': published, 'axis': axis}
    expected = mixq.calibrate(x, **how)
    for ours, one in zip(
      mixq.calibrate(padded, mask=mask, **how), expected, strict=True
    ):
      np.testing.assert_array_equal(ours, one)

  def test_all_rows_masked(self):
    mask = jnp.zeros((3, 1), bool)
    scale, zero_point = mixq.calibrate(full(9.0, (3, 2)), bits=8, mask=mask)
    assert np.all(scale == 1) and np.all(zero_point == 0)

  @pytest.mark.optimized
  def test_jit_is_the_same(self, key):
    x = jax.random.normal(key, (50, 40))
    for bits in (2, 4, 7, 16):
      calibrate = functools.partial(mixq.calibrate, bits=bits)
      for ours, one in zip(jax.jit(calibrate)(x), calibrate(x), strict=True):
        np.testing.assert_array_equal(ours, one)

  @pytest.mark.parametrize('axis', [2, -1, 'rows'])
  def test_axis_error(self, axis):
    message = f'`axis` must be 0, 1 or None, got {axis!r}'
    with pytest.raises(ValueError, match=message):
      untyped(mixq.calibrate)(jnp.ones((2, 2)), bits=4, axis=axis)


@pytest.mark.optimized
class TestForward:
  @helpers.JIT
  @PUBLISHED
  def test_values_written_out(self, published, jit):
    x = jnp.asarray([[p[0] for p in POINTS]], jnp.float32)
    arrays = (x, full(SCALE), full(ZERO_POINT))
    run = pull_back if jit else eager_pull_back
    out, _ = run(arrays, 1.0, bits=3, published=published)
    np.testing.assert_array_equal(out, [[(p[1] - 1) / 2 for p in POINTS]])

  @helpers.JIT
  @pytest.mark.parametrize('bits', SOME_BITS)
  def test_outputs_are_exactly_on_the_grid(self, bits, jit):
    """Also for scales and zero points that training has moved anywhere."""
    x, scale, zero_point, _ = draw(bits, (1, 7), n=300)
    scale = scale / 2**bits
    quant = functools.partial(mixq.fake_quant, bits=bits)
    out = (jax.jit(quant) if jit else quant)(x, scale, zero_point)
    x, scale, zero_point = (np.asarray(v) for v in (x, scale, zero_point))
    qmin, qmax = mixq.code_range(bits)
    codes = np.round(np.clip(zero_point + x / scale, qmin, qmax))
    assert codes.min() == qmin and codes.max() == qmax
    np.testing.assert_array_equal(out, scale * (codes - zero_point))

  def test_idempotent_and_monotone(self, key):
    x = jnp.sort(2 * jax.random.normal(key, (200, 5)), axis=0)
    scale, zero_point = mixq.calibrate(x, bits=5)
    once = mixq.fake_quant(1.2 * x, scale, zero_point, bits=5)
    twice = mixq.fake_quant(once, scale, zero_point, bits=5)
    np.testing.assert_array_equal(once, twice)
    assert np.all(np.diff(once, axis=0) >= 0)

  def test_one_bit_has_three_codes(self):
    x = jnp.asarray([[-3.0, -0.4, 0.4, 3.0]])
    out = mixq.fake_quant(x, full(0.5), full(0.0), bits=1)
    np.testing.assert_array_equal(out, [[-0.5, -0.5, 0.5, 0.5]])
    assert mixq.fake_quant(full(0.1), full(0.5), full(0.0), bits=1) == 0

  @pytest.mark.parametrize('scale', [0.0, -0.0])
  def test_scale_zero_is_finite(self, scale):
    x = jnp.asarray([[-1.0, 0.0, 2.0]])
    out, grads = pull_back((x, full(scale), full(0.0)), 1.0, bits=4)
    for value in (out, *grads):
      assert np.all(np.isfinite(value))
    np.testing.assert_allclose(out, 0, atol=1e-30)

  def test_negative_scale_mirrors_the_codes(self):
    x, scale, zero_point, dy = draw(0, (1, 7))
    arrays = (x, scale, zero_point)
    out, (dx, ds, dz) = pull_back(arrays, dy, bits=3)
    # Codes q become qmin + qmax - q.
    mirrored, (dx_minus, ds_minus, dz_minus) = pull_back(
      (x, -scale, -1 - zero_point), dy, bits=3
    )
    np.testing.assert_allclose(mirrored, out, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dx_minus, dx)
    np.testing.assert_allclose(ds_minus, -ds, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dz_minus, -dz, rtol=1e-5, atol=1e-6)


class TestGradient:
  @pytest.mark.optimized
  @helpers.JIT
  def test_closed_form(self, jit):
    x, _, d_scale, d_zero_point = np.float32(POINTS).T[..., None]
    arrays = (jnp.asarray(x), full(SCALE, EACH), full(ZERO_POINT, EACH))
    run = pull_back if jit else eager_pull_back
    _, (dx, ds, dz) = run(arrays, 2.0, bits=3)
    np.testing.assert_array_equal(dx, np.where(d_zero_point == 0, 2, 0))
    np.testing.assert_array_equal(ds, 2 * d_scale)
    np.testing.assert_array_equal(dz, 2 * d_zero_point)

  @pytest.mark.optimized
  @helpers.JIT
  def test_published_closed_form(self, jit):
    x, _, _, d_zero_point = np.float32(POINTS).T[..., None]
    arrays = (jnp.asarray(x), full(SCALE, EACH), full(ZERO_POINT, EACH))
    run = pull_back if jit else eager_pull_back
    _, (dx, ds, dz) = run(arrays, 2.0, bits=3, published=True)
    np.testing.assert_array_equal(dx, np.where(d_zero_point == 0, 2, 0))
    # (z + x/s) - z, as published.
    np.testing.assert_allclose(ds, 2 * x / SCALE, rtol=1e-6)
    np.testing.assert_array_equal(dz, full(2.0, EACH))

  @pytest.mark.parametrize('shape', [(24, 1), (1, 7), (1, 1)])
  @pytest.mark.parametrize('bits', [1, 2, 4, 8])
  def test_against_straight_through_autodiff(self, bits, shape):
    x, scale, zero_point, dy = draw(bits, shape)
    scale = scale * 8 / 2**bits
    qmin, qmax = mixq.code_range(bits)

    def oracle(x, scale, zero_point):
      clipped = jnp.clip(zero_point + x / scale, qmin, qmax)
      error = jax.lax.stop_gradient(jnp.round(clipped) - clipped)
      return scale * (clipped + error - zero_point)

    arrays = (x, scale, zero_point)
    expected, vjp = jax.vjp(oracle, *arrays)
    out, grads = pull_back(arrays, dy, bits=bits)
    # float32 sums of up to 168 terms of up to 2**8.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(grads, vjp(dy), strict=True):
      assert ours.shape == theirs.shape and np.any(theirs)
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)

  @helpers.JIT
  def test_zero_point_without_clipped_elements(self, jit):
    """Exactly 0, not the difference of two roundings that Adam would scale."""
    x, _, _, dy = draw(0, (1, 110), n=3000, f=110)
    scale, zero_point = mixq.calibrate(x, bits=4)
    run = pull_back if jit else eager_pull_back
    _, (dx, ds, dz) = run((x, scale * 1.3, zero_point), dy, bits=4)
    np.testing.assert_array_equal(dx, dy)
    assert np.all(ds) and not np.any(dz)

  def test_published_means(self):
    """Over rows, over columns, and per tensor the sum of means over rows."""
    x, scale, zero_point, dy = draw(0, (1, 1))
    ratio = np.asarray(x) / float(scale[0, 0])
    terms = {'ds': np.asarray(dy) * ratio, 'dz': np.asarray(dy)}
    for shape, total in {
      (1, 7): lambda t: t.mean(0, keepdims=True),
      (24, 1): lambda t: t.mean(1, keepdims=True),
      (1, 1): lambda t: t.mean(0, keepdims=True).sum(1, keepdims=True),
    }.items():
      arrays = [x, *(jnp.broadcast_to(v, shape) for v in (scale, zero_point))]
      _, (_, ds, dz) = pull_back(arrays, dy, bits=3, published=True)
      np.testing.assert_allclose(ds, total(terms['ds']), rtol=1e-4, atol=1e-4)
      np.testing.assert_allclose(dz, total(terms['dz']), rtol=1e-4, atol=1e-5)

  @PUBLISHED
  @pytest.mark.parametrize('shape', [(1, 7), (1, 1)])
  def test_padded_equals_unpadded(self, shape, published):
    x, scale, zero_point, dy = draw(1, shape)
    rows = [[0, 3], [0, 0]]
    padded = jnp.pad(x, rows).at[-2:].set(jnp.asarray([[1e9], [jnp.nan]]))
    padded_dy = jnp.pad(dy, rows, constant_values=5.0)
    mask = jnp.arange(27)[:, None] < 24
    how = {'bits': 3, 'published': published}
    out, grads = pull_back((x, scale, zero_point), dy, **how)
    out_padded, (dx, ds, dz) = pull_back(
      (padded, scale, zero_point), padded_dy, mask=mask, **how
    )
    np.testing.assert_array_equal(out_padded[:24], out)
    np.testing.assert_array_equal(dx[:24], grads[0])
    # The same terms; sums of another length may be added in another order.
    np.testing.assert_allclose(ds, grads[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dz, grads[2], rtol=1e-5, atol=1e-5)

  def test_padding_is_quantized_too(self):
    x, scale, zero_point, dy = draw(2, (1, 7))
    arrays = (x, scale, zero_point)
    out, (dx, *_) = pull_back(arrays, dy, bits=3)
    masked, (dx_masked, *_) = pull_back(
      arrays, dy, bits=3, mask=jnp.zeros((24, 1), bool)
    )
    np.testing.assert_array_equal(masked, out)
    np.testing.assert_array_equal(dx_masked, dx)

  @PUBLISHED
  def test_all_rows_masked(self, published):
    x, scale, zero_point, dy = draw(3, (1, 7))
    mask = jnp.zeros((24, 1), bool)
    _, (_, ds, dz) = pull_back(
      (x, scale, zero_point), dy, bits=3, published=published, mask=mask
    )
    assert not np.any(ds) and not np.any(dz)

  def test_column_that_was_empty_comes_alive(self):
    x = full(0.75, (4, 1))
    dx, ds = {}, {}
    for published in (False, True):
      start = mixq.calibrate(0 * x, bits=4, published=published)
      out, (dx[published], ds[published], _) = pull_back(
        (x, *start), 1.0, bits=4, published=published
      )
      assert np.all(out == (0 if published else 1))
    assert np.all(dx[False] == 1) and ds[False] == 1
    assert np.all(dx[True] == 0) and ds[True] > 1e15

  def test_vmap(self, key):
    x = jax.random.normal(key, (4, 6, 3))
    grad = jax.grad(
      lambda s, x: jnp.sum(mixq.fake_quant(x, s, full(0.0), bits=3) ** 2)
    )
    together = jax.jit(jax.vmap(grad, (None, 0)))(full(0.1), x)
    one = jax.jit(grad)(full(0.1), x[2])
    np.testing.assert_allclose(one, together[2], rtol=1e-5)

  @pytest.mark.parametrize('shape', [(4, 3), (1, 2), (3, 1), (3,)])
  def test_scale_shape_error(self, shape):
    message = f'`scale` of shape {shape} does not fit x of shape (4, 3)'
    with pytest.raises(ValueError, match=re.escape(message)):
      untyped(mixq.fake_quant)(
        jnp.ones((4, 3)), full(1.0, shape), full(0.0, shape), bits=4
      )

  @pytest.mark.parametrize('shape', [(1, 1), (4, 1), (4, 3)])
  def test_zero_point_shape_error(self, shape):
    message = f'`zero_point` of shape {shape} does not fit x of shape (4, 3)'
    with pytest.raises(ValueError, match=re.escape(message)):
      untyped(mixq.fake_quant)(
        jnp.ones((4, 3)), full(1.0, (1, 3)), full(0.0, shape), bits=4
      )


CANDIDATES = (2, 4, 8)
LOGITS = (0.3, -0.7, 0.4)


def mixture_inputs(seed, *, axis=0):
  x, *_, dy = draw(seed, (1, 1))
  starts = [mixq.calibrate(x / 2, bits=b, axis=axis) for b in CANDIDATES]
  scales, zero_points = (jnp.stack(v) for v in zip(*starts, strict=True))
  return [x, scales, zero_points, jnp.asarray(LOGITS)], dy


relaxed = functools.partial(
  pull_back, function=mixq_search.relaxed_fake_quant, candidates=CANDIDATES
)


class TestRelaxed:
  @pytest.mark.optimized
  @pytest.mark.parametrize(
    'axis, published', [(0, False), (1, False), (None, False), (0, True)]
  )
  def test_is_the_weighted_sum(self, axis, published):
    arrays, dy = mixture_inputs(0, axis=axis)
    x, scales, zero_points, logits = arrays
    out, (dx, dscales, dzero_points, dlogits) = relaxed(
      arrays, dy, published=published
    )
    p = np.exp(LOGITS) / np.sum(np.exp(LOGITS))
    each = [
      pull_back((x, scales[i], zero_points[i]), dy, bits=b, published=published)
      for i, b in enumerate(CANDIDATES)
    ]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(out, sum(p[i] * np.asarray(y) for i, (y, _) in enumerate(each)))
    close(dx, sum(p[i] * np.asarray(g[0]) for i, (_, g) in enumerate(each)))
    for i, (_, (_, ds, dz)) in enumerate(each):
      np.testing.assert_allclose(dscales[i], p[i] * ds, rtol=1e-4, atol=1e-4)
      np.testing.assert_allclose(
        dzero_points[i], p[i] * dz, rtol=1e-4, atol=1e-4
      )
    # dp_i = sum of dy x^_i, and the derivative of the softmax.
    dp = np.asarray([np.sum(np.asarray(dy * y, np.float64)) for y, _ in each])
    close(dlogits, p * (dp - np.sum(p * dp)))
    assert logits.shape == dlogits.shape and np.all(np.abs(dlogits) > 1e-3)

  @PUBLISHED
  @pytest.mark.parametrize('winner', range(3))
  def test_hardened_equals_the_plain_quantizer(self, winner, published):
    (x, scales, zero_points, _), dy = mixture_inputs(1)
    logits = 1e4 * jax.nn.one_hot(winner, 3)
    out, (dx, dscales, dzero_points, _) = relaxed(
      (x, scales, zero_points, logits), dy, published=published
    )
    plain, (dx_plain, ds, dz) = pull_back(
      (x, scales[winner], zero_points[winner]),
      dy,
      bits=CANDIDATES[winner],
      published=published,
    )
    np.testing.assert_array_equal(out, plain)
    np.testing.assert_array_equal(dx, dx_plain)
    for ours, one in ((dscales, ds), (dzero_points, dz)):
      np.testing.assert_allclose(ours[winner], one, rtol=1e-6)
      assert not np.any(np.delete(ours, winner, axis=0))

  @pytest.mark.optimized
  def test_jit_is_the_same(self):
    arrays, dy = mixture_inputs(2)
    compiled = relaxed(arrays, dy)
    eager = eager_pull_back(
      arrays, dy, function=mixq_search.relaxed_fake_quant, candidates=CANDIDATES
    )
    for ours, one in zip(
      jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True
    ):
      np.testing.assert_allclose(ours, one, rtol=1e-5, atol=1e-5)

  @PUBLISHED
  def test_padded_equals_unpadded(self, published):
    (x, *parameters), dy = mixture_inputs(3)
    rows = [[0, 3], [0, 0]]
    padded = jnp.pad(x, rows).at[-2:].set(jnp.asarray([[1e9], [jnp.nan]]))
    padded_dy = jnp.pad(dy, rows, constant_values=5.0)
    mask = jnp.arange(27)[:, None] < 24
    out, grads = relaxed((x, *parameters), dy, published=published)
    out_padded, (dx, *others) = relaxed(
      (padded, *parameters), padded_dy, published=published, mask=mask
    )
    np.testing.assert_allclose(out_padded[:24], out, rtol=1e-6)
    np.testing.assert_allclose(dx[:24], grads[0], rtol=1e-6)
    for ours, one in zip(others, grads[1:], strict=True):
      np.testing.assert_allclose(ours, one, rtol=1e-5, atol=1e-5)

  def test_unsigned(self):
    (x, scales, zero_points, logits), dy = mixture_inputs(4)
    moved = zero_points + jnp.asarray([2.0, 8.0, 128.0])[:, None, None]
    signed, _ = relaxed((x, scales, zero_points, logits), dy)
    unsigned, _ = relaxed((x, scales, moved, logits), dy, signed=False)
    np.testing.assert_allclose(unsigned, signed, rtol=1e-6, atol=1e-6)

  def test_only_x_is_kept_for_the_backward_pass(self):
    arrays, _ = mixture_inputs(5)
    _, vjp = jax.vjp(
      functools.partial(mixq_search.relaxed_fake_quant, candidates=CANDIDATES),
      *arrays,
    )
    kept = {id(v) for v in jax.tree.leaves(vjp) if v.size >= arrays[0].size}
    assert len(kept) <= 1

  @pytest.mark.parametrize('name', ['scales', 'zero_points', 'logits'])
  def test_errors(self, name):
    names = ('x', 'scales', 'zero_points', 'logits')
    args = dict(zip(names, mixture_inputs(0)[0], strict=True))
    args[name] = args[name][:2]
    message = f'`{name}` has 2 entries for 3 candidates (2, 4, 8)'
    with pytest.raises(ValueError, match=re.escape(message)):
      untyped(mixq_search.relaxed_fake_quant)(**args, candidates=CANDIDATES)


class TestSearch:
  def test_start_prefers_many_bits(self):
    logits = mixq_search.initial_logits(CANDIDATES)
    np.testing.assert_allclose(logits, [0.2140, 0.2174, 0.5686], atol=5e-5)
    mixture = jax.nn.softmax(logits)
    np.testing.assert_allclose(mixture, [0.2916, 0.2926, 0.4158], atol=5e-5)

  def test_expected_bits_and_gradient(self):
    p = np.exp(LOGITS) / np.sum(np.exp(LOGITS))
    mean = p @ CANDIDATES
    value, grad = jax.value_and_grad(mixq_search.expected_bits)(
      jnp.asarray(LOGITS), CANDIDATES
    )
    assert float(value) == pytest.approx(mean, rel=1e-6)
    np.testing.assert_allclose(grad, p * (CANDIDATES - mean), rtol=1e-5)

  def test_expected_bits_of_many(self):
    logits = jnp.asarray([LOGITS, (0.0, 0.0, 0.0), (-1e4, 0.0, -1e4)])
    bits = mixq_search.expected_bits(logits, CANDIDATES)
    assert bits[0] == mixq_search.expected_bits(logits[0], CANDIDATES)
    np.testing.assert_allclose(bits[1:], [14 / 3, 4], rtol=1e-6)

  @pytest.mark.parametrize('num_elements', [8192, jnp.int32(8192)])
  def test_cost_is_in_kib(self, num_elements):
    cost = mixq_search.bit_cost(num_elements, jnp.zeros(2), (4, 8))
    assert cost == 6
    nested = mixq_search.bit_cost(num_elements, jnp.zeros(2), (4, 8), depth=2)
    assert nested == 6 / 8192

  def test_penalty_gradient(self):
    p = np.exp(LOGITS) / np.sum(np.exp(LOGITS))

    def penalty(logits):
      cost = mixq_search.bit_cost(3000, logits, CANDIDATES)
      return mixq_search.search_penalty(cost, weight=0.125)

    grad = jax.jit(jax.grad(penalty))(jnp.asarray(LOGITS))
    expected = 0.125 * 3000 / 8192 * p * (CANDIDATES - p @ CANDIDATES)
    np.testing.assert_allclose(grad, expected, rtol=1e-5)

  @helpers.JIT
  def test_select_bits(self, jit):
    select = functools.partial(mixq_search.select_bits, candidates=CANDIDATES)
    logits = jnp.asarray(
      [
        [[0.1, 0.3, 0.2], [0.1, -0.3, 0.2]],
        [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]],  # Of equal ones the first.
      ]
    )
    bits = (jax.jit(select) if jit else select)(logits)
    assert bits.dtype == jnp.int32
    np.testing.assert_array_equal(bits, [[4, 8], [2, 4]])
    # The order of the candidates is the caller's.
    assert mixq_search.select_bits(logits[0, 0], (8, 2, 4)) == 2

  def test_equal_in_softmax(self):
    logits = jnp.asarray([0.25, 0.25 + 2**-25])
    assert logits[1] > logits[0]
    assert mixq_search.select_bits(logits, (4, 8)) == 4

  def test_average_bits_and_operations(self):
    assert mixq_search.average_bits([2, 4, 8, 8]) == 5.5
    assert mixq_search.bit_operations(100, [2, 8]) == 500
    assert mixq_search.bit_operations(100, []) == 0

  def test_average_of_nothing(self):
    with pytest.raises(ValueError, match='`selected` is empty'):
      mixq_search.average_bits([])

  @pytest.mark.parametrize('candidates', [(), (0, 4), (4, 17), (4, 4)], ids=str)
  def test_candidates_are_checked(self, candidates):
    message = '`candidates` must be one or more different integers in 1..16'
    logits = jnp.zeros(len(candidates))
    for call in (
      lambda: mixq_search.check_candidates(candidates),
      lambda: mixq_search.initial_logits(candidates),
      lambda: mixq_search.expected_bits(logits, candidates),
      lambda: mixq_search.bit_cost(1, logits, candidates),
      lambda: mixq_search.select_bits(logits, candidates),
      lambda: mixq_search.relaxed_fake_quant(
        jnp.ones((2, 2)),
        jnp.ones((len(candidates), 1, 1)),
        jnp.zeros((len(candidates), 1, 1)),
        logits,
        candidates=candidates,
      ),
    ):
      with pytest.raises(ValueError, match=message):
        call()

  @pytest.mark.parametrize('candidates', [(2.5, 4), ('4',)], ids=str)
  def test_candidates_are_integers(self, candidates):
    message = re.escape(f'(2, 4, 8), got {candidates!r}')
    with pytest.raises(ValueError, match=message):
      untyped(mixq_search.check_candidates)(candidates)

  def test_number_of_logits_is_checked(self):
    message = '`logits` has 2 entries for 3 candidates'
    for function in (mixq_search.expected_bits, mixq_search.select_bits):
      with pytest.raises(ValueError, match=message):
        function(jnp.zeros(2), CANDIDATES)

  def test_depth_is_checked(self):
    with pytest.raises(ValueError, match='`depth` must be at least 1, got 0'):
      mixq_search.bit_cost(1, jnp.zeros(3), CANDIDATES, depth=0)


@pytest.mark.parametrize('shape', [(1, 1), (2, 1)])
def test_a_ratio_beyond_float32_has_a_gradient(shape):
  """X / s = 1e40 is clipped; ds is that of the last code, dz that of s."""
  x = jnp.full((2, 1), 1e37)
  arrays = x, full(1e-3, shape), full(0.0, shape)
  _, (dx, ds, dz) = eager_pull_back(arrays, 1.0, bits=4)
  np.testing.assert_array_equal(dx, np.zeros((2, 1)))
  rows = 2 // shape[0]
  np.testing.assert_array_equal(ds, np.full(shape, 7.0 * rows))
  np.testing.assert_allclose(dz, np.full(shape, -1e-3 * rows), rtol=1e-6)


def test_forward_mode_is_refused():
  """A custom reverse rule; a JVP must not silently return something else."""
  with pytest.raises(TypeError, match='jvp'):
    jax.jvp(
      lambda x: mixq.fake_quant(x, full(0.5), full(0.0), bits=4),
      (full(1.0),),
      (full(1.0),),
    )


@pytest.mark.parametrize('bits', [1, 4, 8])
def test_the_widest_range_has_a_finite_grid(bits):
  x = jnp.array([[-3.4e38], [0.0], [3.4e38]], jnp.float32)
  scale, zero_point = mixq.calibrate(x, bits=bits)
  y = mixq.fake_quant(x, scale, zero_point, bits=bits)
  assert np.isfinite(scale).all() and np.isfinite(y).all()
