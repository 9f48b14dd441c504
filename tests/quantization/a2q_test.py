import functools
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import a2q, a2q_published

pytestmark = pytest.mark.optimized

LN2 = np.log(2.0)
QUANTIZERS = [
  ('node', 'feature'),
  ('node', 'message'),
  ('node', 'weight'),
  ('graph', 'feature'),
  ('graph', 'message'),
  ('graph', 'weight'),
]
# The table of `a2q_rule`: reductions of ds and db.
REDUCTIONS = {
  ('node', 'feature'): ('local', 'local'),
  ('node', 'message'): ('local', 'local'),
  ('node', 'weight'): ('task', 'task'),
  ('graph', 'feature'): ('task', 'task'),
  ('graph', 'message'): ('local', 'task'),
  ('graph', 'weight'): ('task', 'task'),
}
# s = 1/2, b = 3: qmax = 3, bound 1.5. Columns: x, q, D_s, D_b / ln 2, and the
# sign of the quantization error x^ - x.
POINTS = [
  (-9.0, -3, -3.0, -2.0, 1),
  (-1.625, -3, -3.0, -2.0, 1),
  (-1.5, -3, 0.0, 0.0, 0),  # On the bound: not clipped.
  (-1.25, -3, -0.5, 0.0, -1),  # Halves go away from zero.
  (-0.625, -1, 0.25, 0.0, 1),
  (-0.125, 0, 0.25, 0.0, 1),
  (0.0, 0, 0.0, 0.0, 0),
  (0.125, 0, -0.25, 0.0, -1),
  (0.25, 1, 0.5, 0.0, 1),
  (0.75, 2, 0.5, 0.0, 1),
  (1.375, 3, 0.25, 0.0, 1),
  (1.5, 3, 0.0, 0.0, 0),
  (1.625, 3, 3.0, 2.0, -1),
  (9.0, 3, 3.0, 2.0, -1),
]
RULES = {False: a2q.a2q_rule, True: a2q_published.published_rule}
TASK = a2q.a2q_rule('graph', 'feature')
LOCAL = a2q.a2q_rule('node', 'feature')


def full(value, shape=(1, 1)):
  return jnp.full(shape, value, jnp.float32)


def eager_pull_back(x, scale, bits, dy, *, rule, mask=None):
  """The output and the gradients for the upstream gradient dy."""
  out, vjp = jax.vjp(
    lambda *args: a2q.fake_quant(*args, rule=rule, mask=mask), x, scale, bits
  )
  return out, vjp(jnp.broadcast_to(jnp.asarray(dy, jnp.float32), out.shape))


pull_back = jax.jit(eager_pull_back, static_argnames='rule')


def oracle(x, scale, bits, dy, rule, rows):
  """The module docstring, in float64 and without a thought for speed."""
  x, scale, bits, dy = (np.asarray(v, np.float64) for v in (x, scale, bits, dy))
  width = np.clip(np.round(np.abs(bits)), rule.min_bits, rule.max_bits)
  qmax, step = 2 ** (width - 1) - 1, np.abs(scale)
  codes = np.sign(x) * np.floor(np.minimum(np.abs(x) / step, qmax) + 0.5)
  clipped = np.abs(x) > step * qmax
  d_scale = np.where(clipped, np.sign(x) * qmax, codes - x / step)
  d_bits = np.where(clipped, np.sign(x) * 2 ** (width - 1) * LN2 * step, 0)
  axes = tuple(i for i in (0, 1) if scale.shape[i] == 1)
  count = np.prod([(rows, x.shape[1])[i] for i in axes], initial=1)

  def reduce(kind, derivative):
    if kind == 'task':
      return np.sum((dy * derivative)[:rows], axes, keepdims=True)
    error_sign = np.sign(step * codes - x)
    return np.sum((error_sign * derivative)[:rows], axes, keepdims=True) / count

  ds = reduce(rule.scale_grad, d_scale) * np.sign(scale)
  db = reduce(rule.bits_grad, d_bits) * np.sign(bits)
  return step * codes, np.where(clipped, 0, dy), ds, db


class TestForward:
  def test_values_written_out(self):
    x = jnp.asarray([[p[0] for p in POINTS]], jnp.float32)
    out = a2q.fake_quant(x, full(0.5), full(3.0), rule=TASK)
    np.testing.assert_array_equal(out, [[p[1] / 2 for p in POINTS]])

  def test_codes_written_out(self):
    x = jnp.asarray([[p[0] for p in POINTS]], jnp.float32)
    codes = a2q.quantize(x, full(0.5), full(3.0), rule=TASK)
    assert codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, [[p[1] for p in POINTS]])

  @helpers.JIT
  @pytest.mark.parametrize('published', [False, True])
  @pytest.mark.parametrize('shape', [(1, 1), (1, 16), (256, 1)], ids=str)
  def test_codes_of_pixels(self, shape, published, jit):
    """As float32 division has them: 1.5 steps are 2, for all scales."""
    x = np.resize(np.arange(256, dtype=np.float32) / np.float32(255), (256, 16))
    rule = RULES[published]('graph', 'feature')
    quant = functools.partial(a2q.quantize, rule=rule)
    quant = jax.jit(quant) if jit else quant
    for j in range(1, 30):
      scale = np.full(shape, np.float32(2 * j) / np.float32(255))
      codes = np.floor(np.minimum(x / scale, 7) + np.float32(0.5))
      for sign in (1, -1):
        found = quant(jnp.asarray(sign * x), jnp.asarray(scale), full(4, shape))
        np.testing.assert_array_equal(found, sign * codes)

  def test_one_and_a_half_steps(self):
    x, scale = np.float32(0.1016005), np.float32(0.06773367)
    assert x / scale == 1.5
    quant = jax.jit(functools.partial(a2q.quantize, rule=TASK))
    rows = jnp.full((3, 2), x)
    assert np.all(quant(rows, full(scale), full(4)) == 2)

  @helpers.JIT
  @pytest.mark.parametrize('bits', [2, 3, 4, 5, 6, 7, 8])
  def test_outputs_are_exact_integer_multiples(self, key, bits, jit):
    x = jax.random.normal(key, (500, 7))
    scale, bits = full(0.0371), full(bits)
    quant = functools.partial(a2q.fake_quant, rule=TASK)
    out = (jax.jit(quant) if jit else quant)(x, scale, bits)
    codes = a2q.quantize(x, scale, bits, rule=TASK)
    grid = np.float32(0.0371) * np.asarray(codes, np.float32)
    np.testing.assert_array_equal(out, grid)
    assert np.abs(codes).max() <= 2 ** (int(bits[0, 0]) - 1) - 1

  def test_idempotent(self, key):
    keys = jax.random.split(key, 3)
    x = 2 * jax.random.normal(keys[0], (200, 5))
    scale = jax.random.uniform(keys[1], (200, 1), minval=0.01, maxval=0.5)
    bits = jax.random.uniform(keys[2], (200, 1), minval=2, maxval=8)
    once = a2q.fake_quant(x, scale, bits, rule=TASK)
    twice = a2q.fake_quant(once, scale, bits, rule=TASK)
    np.testing.assert_array_equal(once, twice)

  def test_odd_and_monotone(self, key):
    x = jnp.sort(jax.random.normal(key, (1, 400)))
    out = a2q.fake_quant(x, full(0.11), full(4.0), rule=TASK)
    mirrored = a2q.fake_quant(-x, full(0.11), full(4.0), rule=TASK)
    np.testing.assert_array_equal(out, -mirrored)
    assert np.all(np.diff(out) >= 0)

  def test_error_is_at_most_half_a_step_inside(self, key):
    x = jax.random.uniform(key, (50, 8), minval=-0.77, maxval=0.77)
    out = a2q.fake_quant(x, full(0.11), full(4.0), rule=TASK)
    # Half a step, and the rounding of x / s and s q in float32.
    assert np.abs(out - x).max() <= 0.055 * (1 + 1e-5)

  @pytest.mark.parametrize(
    'bits, width',
    [(0.3, 2), (1.2, 2), (2.5, 2), (2.51, 3), (3.5, 4), (8.4, 8), (30, 8)],
  )
  def test_bits_are_rounded_and_clamped(self, bits, width):
    x = jnp.linspace(-3, 3, 61)[None]
    for sign in (1, -1):
      out = a2q.fake_quant(x, full(0.1), full(sign * bits), rule=TASK)
      expected = a2q.fake_quant(x, full(0.1), full(width), rule=TASK)
      np.testing.assert_array_equal(out, expected)

  def test_round_bits(self):
    bits = jnp.asarray([-4.6, 0.3, 2.5, 3.5, 6.4, 9.0])
    np.testing.assert_array_equal(a2q.round_bits(bits), [5, 2, 2, 4, 6, 8])
    free = a2q.round_bits(bits, min_bits=None, max_bits=None)
    np.testing.assert_array_equal(free, [5, 0, 2, 4, 6, 9])

  def test_sign_bit_raises_the_clamp(self):
    rule = a2q.with_sign_bit(TASK, 1)
    assert (rule.min_bits, rule.max_bits) == (2, 9)
    assert a2q.with_sign_bit(TASK, 0) == TASK
    published = a2q_published.published_rule('graph', 'feature')
    assert a2q.with_sign_bit(published, 1) == published
    x = full(1e3)
    codes = a2q.quantize(x, full(1.0), full(20.0), rule=rule)
    np.testing.assert_array_equal(codes, [[255]])

  @pytest.mark.parametrize('scale', [0.0, -0.0])
  @pytest.mark.parametrize('level, tensor', QUANTIZERS[2:5])
  def test_scale_zero_is_finite(self, level, tensor, scale):
    rule = a2q.a2q_rule(level, tensor)
    x = jnp.asarray([[-1.0, 0.0, 2.0]])
    out, grads = pull_back(x, full(scale), full(4.0), 1.0, rule=rule)
    for value in (out, *grads):
      assert np.all(np.isfinite(value))
    np.testing.assert_allclose(out, 0, atol=1e-18)


class TestGradient:
  @helpers.JIT
  @pytest.mark.parametrize('level, tensor', QUANTIZERS)
  def test_closed_form(self, level, tensor, jit):
    x, _, d_scale, d_bits, error_sign = np.float32(POINTS).T[..., None]
    rule = a2q.a2q_rule(level, tensor)
    each = (len(POINTS), 1)
    _, (dx, ds, db) = (pull_back if jit else eager_pull_back)(
      jnp.asarray(x), full(0.5, each), full(3.0, each), 2.0, rule=rule
    )
    factors = [
      {'task': 2.0, 'local': error_sign}[kind]
      for kind in REDUCTIONS[level, tensor]
    ]
    np.testing.assert_array_equal(dx, np.where(np.abs(x) > 1.5, 0, 2))
    np.testing.assert_array_equal(ds, factors[0] * d_scale)
    np.testing.assert_allclose(db, factors[1] * d_bits * LN2, rtol=1e-6)

  @pytest.mark.parametrize('level, tensor', QUANTIZERS)
  def test_plain_gradient(self, level, tensor):
    x = np.float32(POINTS).T[0][:, None]
    rule = a2q.a2q_rule(level, tensor, gradient='plain')
    each = (len(POINTS), 1)
    _, (dx, *_) = pull_back(
      jnp.asarray(x), full(0.5, each), full(3.0, each), 2.0, rule=rule
    )
    np.testing.assert_array_equal(dx, full(2.0, each))

  def test_clipped_gradient_leaves_the_scale_alone(self):
    x, _, d_scale, *_ = np.float32(POINTS).T[..., None]
    rule = TASK
    each = (len(POINTS), 1)
    _, (dx, ds, _) = pull_back(
      jnp.asarray(x), full(0.5, each), full(3.0, each), 2.0, rule=rule
    )
    np.testing.assert_array_equal(dx, np.where(np.abs(x) > 1.5, 0, 2))
    # The mask does not reach the scale.
    np.testing.assert_array_equal(ds, 2 * d_scale)

  @pytest.mark.parametrize('scale', [0.0, 1e-35, -1e-35, 1e-19])
  @pytest.mark.parametrize('level', ['node', 'graph'])
  def test_tiny_scale_is_trained(self, level, scale):
    rule = a2q.a2q_rule(level, 'feature')
    x = jnp.asarray([[-1.0, 0.5, 2.0]])
    _, (_, ds, db) = pull_back(
      x, full(scale), full(4.0), jnp.asarray([[1e-3, 2e-3, 4e-3]]), rule=rule
    )
    # All is clipped: sum or mean of dy sign(x) qmax.
    expected = {'graph': (-1e-3 + 2e-3 + 4e-3) * 7, 'node': -7}[level]
    np.testing.assert_allclose(ds[0, 0], np.sign(scale or 1) * expected, 1e-5)
    assert np.isfinite(db[0, 0])

  @pytest.mark.parametrize('level, tensor', QUANTIZERS)
  @pytest.mark.parametrize('signs', [(-1, -1), (-1, 1), (1, -1)], ids=str)
  def test_signs_are_chained(self, level, tensor, signs):
    """Each of its own parameter."""
    rule = a2q.a2q_rule(level, tensor)
    x, dy = full(9.0), 2.0
    _, (_, ds, db) = pull_back(x, full(0.5), full(3.0), dy, rule=rule)
    of_scale, of_bits = signs
    out, (dx, ds_signed, db_signed) = pull_back(
      x, full(of_scale * 0.5), full(of_bits * 3.0), dy, rule=rule
    )
    assert out == 1.5 and dx == 0
    assert ds_signed == of_scale * ds != 0
    assert db_signed == of_bits * db != 0

  @pytest.mark.parametrize('level, tensor', QUANTIZERS)
  def test_published_rules_do_not_chain_signs(self, level, tensor):
    rule = a2q_published.published_rule(level, tensor)
    _, (_, ds, _) = pull_back(full(9.0), full(0.5), full(3.0), 2.0, rule=rule)
    _, (_, ds_minus, _) = pull_back(
      full(9.0), full(-0.5), full(3.0), 2.0, rule=rule
    )
    assert ds_minus == ds

  @pytest.mark.parametrize('bits, width', [(1.0, 2), (12.0, 8)])
  def test_clamped_bits_have_the_slope_at_the_clamp(self, bits, width):
    x = full(1e3)
    _, (_, _, db) = pull_back(x, full(0.5), full(bits), 1.0, rule=TASK)
    np.testing.assert_allclose(db, 2 ** (width - 1) * LN2 * 0.5, rtol=1e-6)

  def test_local_gradient_ignores_upstream(self, key):
    x = jax.random.normal(key, (6, 4))
    scale, bits = full(0.1, (6, 1)), full(3.0, (6, 1))
    _, (dx, *some) = pull_back(x, scale, bits, 1.0, rule=LOCAL)
    _, (dx_none, *none) = pull_back(x, scale, bits, 0.0, rule=LOCAL)
    np.testing.assert_array_equal(dx, np.abs(x) <= np.float32(0.1) * 3)
    np.testing.assert_array_equal(dx_none, 0)
    for a, b in zip(some, none, strict=True):
      np.testing.assert_array_equal(a, b)
      assert np.any(a)

  def test_local_bits_gradient_only_raises_bits(self, key):
    x = jax.random.normal(key, (50, 4))
    shape = (50, 1)
    _, (_, _, db) = pull_back(
      x, full(0.2, shape), full(3, shape), 1, rule=LOCAL
    )
    share = np.mean(np.abs(x) > 0.6, axis=1, keepdims=True)
    np.testing.assert_allclose(db, -share * 4 * LN2 * 0.2, rtol=1e-6)

  @pytest.mark.parametrize('shape', [(24, 1), (1, 7), (1, 1), (24, 7)])
  @pytest.mark.parametrize('level, tensor', QUANTIZERS[2:5])
  def test_against_oracle(self, level, tensor, shape):
    """Random draws, with negative scales and bits, and padded rows."""
    rule = a2q.a2q_rule(level, tensor)
    rng = np.random.default_rng(sum(shape))
    rows, padding = 24, (3 if shape[0] == 1 else 0)
    x = rng.normal(size=(rows + padding, 7)).astype(np.float32)
    x[rows:] = 1e4
    sign = rng.choice([-1, 1], shape)
    scale = (sign * rng.uniform(0.02, 0.4, shape)).astype(np.float32)
    bits = (rng.choice([-1, 1], shape) * rng.uniform(0, 9, shape)).astype(
      np.float32
    )
    dy = rng.normal(size=x.shape).astype(np.float32)
    mask = jnp.arange(rows + padding)[:, None] < rows
    out, (dx, ds, db) = pull_back(
      *(jnp.asarray(v) for v in (x, scale, bits, dy)), rule=rule, mask=mask
    )
    expected_out, expected_dx, expected_ds, expected_db = oracle(
      x, scale, bits, dy, rule, rows
    )
    # float32 products, and sums of up to 168 terms of up to 127.
    np.testing.assert_allclose(out, expected_out, rtol=1e-6)
    np.testing.assert_array_equal(dx, np.float32(expected_dx))
    np.testing.assert_allclose(ds, expected_ds, rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(db, expected_db, rtol=1e-5, atol=2e-4)

  def test_mask_keeps_padding_out_of_column_means(self):
    rule = a2q.a2q_rule('graph', 'message')
    x = jnp.asarray([[0.25], [9.0], [9.0], [9.0]])
    mask = jnp.asarray([[True], [True], [False], [False]])
    args = (full(0.5), full(3.0), 0.0)
    _, (_, masked, _) = pull_back(x, *args, rule=rule, mask=mask)
    _, (_, unmasked, _) = pull_back(x, *args, rule=rule)
    # D_s is +.5 at the first row, and -3 (error sign times qmax) at others.
    assert masked == (0.5 - 3) / 2
    assert unmasked == (0.5 - 9) / 4

  def test_all_rows_masked(self):
    rule = a2q.a2q_rule('graph', 'message')
    mask = jnp.zeros((3, 1), bool)
    _, (_, ds, db) = pull_back(
      full(9.0, (3, 1)), full(0.5), full(3.0), 1.0, rule=rule, mask=mask
    )
    assert ds == 0 and db == 0

  def test_table_rows_add_up(self, key):
    """A gather in front, as groups are used, sums the rows of a group."""
    x = jax.random.normal(key, (5, 3))
    group = jnp.asarray([0, 2, 0, 2, 2])

    def loss(scale, bits):
      return jnp.sum(
        a2q.fake_quant(
          x, scale[group][:, None], bits[group][:, None], rule=TASK
        )
      )

    ds, db = jax.jit(jax.grad(loss, (0, 1)))(full(0.1, (3,)), full(3.0, (3,)))
    _, (_, rows_s, rows_b) = pull_back(
      x, full(0.1, (5, 1)), full(3.0, (5, 1)), 1.0, rule=TASK
    )
    for table, rows in ((ds, rows_s[:, 0]), (db, rows_b[:, 0])):
      sums = [rows[0] + rows[2], 0, rows[1] + rows[3] + rows[4]]
      np.testing.assert_allclose(table, sums, rtol=1e-6)

  def test_vmap(self, key):
    x = jax.random.normal(key, (4, 6, 3))
    grad = jax.grad(
      lambda s, x: jnp.sum(a2q.fake_quant(x, s, full(3.0), rule=TASK) ** 2)
    )
    together = jax.jit(jax.vmap(grad, (None, 0)))(full(0.1), x)
    one = jax.jit(grad)(full(0.1), x[2])
    np.testing.assert_allclose(one, together[2], rtol=1e-5)


class TestErrors:
  @pytest.mark.parametrize(
    'level, tensor', [('edge', 'feature'), ('node', 'bias'), ('graph', 'node')]
  )
  def test_unknown_rule(self, level, tensor):
    # Called without the type checks of the test run, as a user would.
    rule = getattr(a2q.a2q_rule, '__wrapped__', a2q.a2q_rule)
    with pytest.raises(ValueError, match=f'level={level!r}, tensor={tensor!r}'):
      rule(level, tensor)

  @pytest.mark.parametrize('shape', [(5, 1), (1, 2), (4, 2)])
  @pytest.mark.parametrize('name', ['scale', 'bits'])
  def test_shape(self, name, shape):
    x = jnp.ones((4, 3))
    # Called without the type checks of the test run, as a user would.
    function = getattr(a2q.fake_quant, '__wrapped__', a2q.fake_quant)
    args = {'scale': full(1.0), 'bits': full(4.0), name: full(1.0, shape)}
    message = re.escape(
      f'`{name}` of shape {shape} does not broadcast to x of shape (4, 3)'
    )
    with pytest.raises(ValueError, match=message):
      function(x, **args, rule=TASK)


def test_rules_are_the_table():
  for (level, tensor), (scale_grad, bits_grad) in REDUCTIONS.items():
    rule = a2q.a2q_rule(level, tensor)
    assert (rule.scale_grad, rule.bits_grad) == (scale_grad, bits_grad)
    assert (rule.min_bits, rule.max_bits) == (2, 8)
    published = a2q_published.published_rule(level, tensor)
    assert (published.min_bits, published.max_bits) == (None, None)
    assert (published.scale_grad, published.bits_grad) == (
      scale_grad,
      bits_grad,
    )


def test_forward_mode_is_refused():
  """A custom reverse rule; a JVP must not silently return something else."""
  with pytest.raises(TypeError, match='jvp'):
    jax.jvp(
      lambda x: a2q.fake_quant(x, full(0.5), full(3.0), rule=TASK),
      (full(1.0),),
      (full(1.0),),
    )
