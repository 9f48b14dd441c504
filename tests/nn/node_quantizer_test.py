import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.nn import methods, telemetry
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization import a2q
from lorap_jax.quantization.a2q_published import published_rule

MASK = jnp.arange(12)[:, None] < 10
ROWS = Rows(MASK)
COLLECTIONS = ['memory', telemetry.COLLECTION]
SIGNS = pytest.mark.parametrize('non_negative', [False, True])


def make(**changes):
  fields = {
    'bits': 4,
    'non_negative': False,
    'start': 'data',
    'rule': a2q.a2q_rule('node', 'feature'),
  }
  return methods.NodeQuantizer(**{**fields, **changes})


def nodes(key, *, non_negative=False, width=5):
  """Ten real rows of different sizes, and two of padding."""
  x = jax.random.normal(key, (12, width)) * jnp.arange(1.0, 13)[:, None]
  return jnp.abs(x) if non_negative else x


@functools.partial(jax.jit, static_argnums=0)
def run(module, x, key):
  params = module.init(key, x, rows=ROWS)['params']
  out, sown = module.apply(
    {'params': params}, x, rows=ROWS, mutable=COLLECTIONS
  )
  return params, out, sown


class TestStart:
  @SIGNS
  @pytest.mark.parametrize('bits', [2, 4, 8])
  def test_data_start_uses_the_last_code_of_each_row(
    self, key, non_negative, bits
  ):
    x = nodes(key, non_negative=non_negative)
    module = make(non_negative=non_negative, bits=bits)
    params, out, _ = run(module, x, key)
    inside = bits + non_negative
    qmax = 2 ** (inside - 1) - 1
    np.testing.assert_allclose(
      params['scale'], np.abs(x).max(1) / qmax, rtol=1e-6
    )
    assert np.all(np.round(params['bits']) == inside)
    assert 0.2 < np.abs(params['bits'] - inside).max() <= 0.49
    np.testing.assert_allclose(
      np.abs(out.values).max(1), np.abs(x).max(1), rtol=1e-6
    )
    np.testing.assert_array_equal(out.bits, np.full((12, 1), bits))

  def test_empty_row_is_finite(self, key):
    x = nodes(key).at[3].set(0)
    params, out, _ = run(make(), x, key)
    assert params['scale'][3] == pytest.approx(1 / 7)
    np.testing.assert_array_equal(out.values[3], 0)

  @SIGNS
  @pytest.mark.parametrize('start', ['uniform', 'normal'])
  def test_published_starts(self, key, start, non_negative):
    module = make(start=start, normal=(0.5, 0.1), non_negative=non_negative)
    x = jnp.ones((3000, 1))
    params = module.init(key, x, rows=Rows())['params']
    np.testing.assert_array_equal(params['bits'], 4 + non_negative)
    scale = np.asarray(params['scale'])
    if start == 'uniform':
      assert 0 <= scale.min() < 0.01 and 0.99 < scale.max() <= 1
    else:
      assert abs(scale.mean() - 0.5) < 0.01 and abs(scale.std() - 0.1) < 0.01

  def test_negative_draws_are_folded(self, key):
    module = make(start='normal', normal=(-0.5, 0.01))
    params = module.init(key, nodes(key), rows=ROWS)['params']
    assert np.all(params['scale'] > 0.4)


class TestValues:
  @SIGNS
  def test_each_row_is_on_its_own_grid(self, key, non_negative):
    x = nodes(key, non_negative=non_negative)
    module = make(non_negative=non_negative, start='uniform')
    params, _, _ = run(module, x, key)
    params['bits'] = jnp.linspace(1.6, 8.7, 12)
    params['scale'] = params['scale'] + 0.2
    out = module.apply({'params': params}, x, rows=ROWS)
    top = 8 + non_negative  # The clamp, as stored.
    width = np.clip(np.round(params['bits']), 2, top)
    qmax = 2 ** (width - 1) - 1
    codes = np.asarray(out.values / params['scale'][:, None])
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert np.all(np.abs(np.round(codes)).max(1) <= qmax)
    ratio = np.abs(x).max(1) / params['scale']
    np.testing.assert_array_equal(
      np.round(np.abs(codes).max(1)), np.minimum(np.floor(ratio + 0.5), qmax)
    )
    np.testing.assert_array_equal(out.bits[:, 0], width - non_negative)

  @SIGNS
  @pytest.mark.parametrize('rule_of', [a2q.a2q_rule, published_rule])
  def test_equal_the_pure_function(self, key, rule_of, non_negative):
    """Values and gradients; the gradients are local."""
    x = nodes(key, non_negative=non_negative)
    rule = rule_of('node', 'feature')
    module = make(rule=rule, non_negative=non_negative)
    params, _, _ = run(module, x, key)
    # Half of the rows are clipped.
    params['scale'] = params['scale'] * jnp.where(jnp.arange(12) % 2, 0.5, 1.3)
    dy = jax.random.normal(jax.random.key(1), x.shape)
    out, pull_back = jax.vjp(
      lambda p, x: module.apply({'params': p}, x, rows=ROWS).values, params, x
    )
    rule = a2q.with_sign_bit(rule, int(non_negative))
    pure = functools.partial(a2q.fake_quant, rule=rule, mask=MASK)
    expected, pure_back = jax.vjp(
      pure, x, params['scale'][:, None], params['bits'][:, None]
    )
    np.testing.assert_array_equal(out, expected)
    d_params, dx = pull_back(dy)
    pure_dx, d_scale, d_bits = pure_back(dy)
    np.testing.assert_array_equal(dx, pure_dx)
    np.testing.assert_array_equal(d_params['scale'], d_scale[:, 0])
    np.testing.assert_array_equal(d_params['bits'], d_bits[:, 0])
    assert np.any(d_bits) and np.all(d_scale != 0)
    # The task's gradient plays no part.
    other, _ = pull_back(-3 * dy)
    helpers.assert_trees_close(other, d_params)

  def test_a_row_changes_no_other(self, key):
    module = make()
    x = nodes(key)
    params, out, _ = run(module, x, key)
    changed = module.apply({'params': params}, x.at[2].set(99.0), rows=ROWS)
    same = np.arange(12) != 2
    np.testing.assert_array_equal(changed.values[same], out.values[same])
    assert np.any(changed.values[2] != out.values[2])


class TestMemory:
  def kib(self, module, params, x):
    _, sown = module.apply({'params': params}, x, rows=ROWS, mutable=['memory'])
    return sown.get('memory', {}).get('kib')

  @pytest.mark.parametrize('memory_width', [None, 16])
  def test_real_rows_are_charged(self, key, memory_width):
    module = make(memory_width=memory_width)
    params, _, sown = run(module, nodes(key), key)
    width = memory_width or 5
    expected = width / 8192 * np.asarray(params['bits'], np.float64)[:10].sum()
    np.testing.assert_allclose(sown['memory']['kib'], expected, rtol=1e-6)

  def test_gradient_is_the_width(self, key):
    module, x = make(), nodes(key)
    params, _, _ = run(module, x, key)
    # Above the upper clamp the charge goes on, below the lower one it stops.
    params['bits'] = params['bits'].at[:3].set(jnp.asarray([9.7, 1.2, -5.0]))
    grad = jax.grad(lambda p: self.kib(module, p, x))(params)['bits']
    expected = np.full(12, 5 / 8192)
    expected[1] = 0
    expected[2] *= -1
    expected[10:] = 0
    np.testing.assert_allclose(grad, expected, rtol=1e-6)

  def test_fixed_bits_are_neither_charged_nor_trained(self, key):
    module, x = make(fixed_bits=True), nodes(key)
    params, _, _ = run(module, x, key)
    np.testing.assert_array_equal(params['bits'], 4)  # Without jitter.
    assert self.kib(module, params, x) is None
    params['scale'] = params['scale'] * 0.5
    grad = jax.grad(
      lambda p: jnp.sum(module.apply({'params': p}, x, rows=ROWS).values)
    )(params)
    assert not np.any(grad['bits']) and np.all(grad['scale'] != 0)
    learned = jax.grad(
      lambda p: jnp.sum(make().apply({'params': p}, x, rows=ROWS).values)
    )(params)
    assert np.any(learned['bits'])


def test_report(key):
  x = nodes(key, non_negative=True)
  _, out, _ = run(make(non_negative=True), x, key)
  report = helpers.feature_report(x, out, ROWS)
  np.testing.assert_array_equal(report.bits, 4)
  np.testing.assert_allclose(
    report.error, np.sum((out.values - x) ** 2, 1), rtol=1e-5
  )
  np.testing.assert_array_equal(report.mask, MASK[:, 0])
  assert (report.width, report.table_bytes) == (5, 0)
  assert report.row_metadata_bits == 32 + 8  # A scale, and its bits.
