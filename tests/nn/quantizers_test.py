import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.nn import methods, telemetry
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization import a2q, a2q_groups
from lorap_jax.quantization.a2q_published import published_rule

COLLECTIONS = ['memory', telemetry.COLLECTION]
MASK = jnp.arange(12)[:, None] < 10


def grouped(**changes):
  fields = {
    'bits': 4,
    'num_groups': 16,
    'non_negative': False,
    'start': 'data',
    'rule': a2q.a2q_rule('graph', 'feature'),
  }
  return methods.GroupedQuantizer(**{**fields, **changes})


def rows(key, *, non_negative=False):
  """Ten real rows of different sizes, and two of large padding."""
  x = jax.random.normal(key, (12, 5)) * jnp.arange(1.0, 13)[:, None]
  x = jnp.where(MASK, x, 1e6)
  return jnp.abs(x) if non_negative else x


@functools.partial(jax.jit, static_argnums=0)
def run(module, x, key, **kwargs):
  variables = {'params': module.init(key, x, **kwargs)['params']}
  out, sown = module.apply(variables, x, mutable=COLLECTIONS, **kwargs)
  return variables['params'], out, sown


class TestGrouped:
  @pytest.mark.parametrize('non_negative', [False, True])
  def test_rows_are_on_the_grid_of_their_group(self, key, non_negative):
    x = rows(key, non_negative=non_negative)
    module = grouped(non_negative=non_negative)
    params, out, _ = run(module, x, key, rows=Rows(MASK))
    largest = np.abs(x).max(1)
    group = a2q_groups.nearest_group(
      jnp.asarray(largest), params['scale'], params['bits']
    )
    scale = params['scale'][group][:, None]
    width = np.round(params['bits'])[group][:, None]
    codes = np.round(out.values / scale)
    np.testing.assert_array_equal(out.values, codes * scale)
    assert np.all(np.abs(codes) <= 2 ** (width - 1) - 1)
    np.testing.assert_array_equal(out.bits, width - non_negative)

  def test_data_start_covers_the_real_rows(self, key):
    x = rows(key)
    params, out, _ = run(grouped(), x, key, rows=Rows(MASK))
    ranges = params['scale'] * a2q_groups.range_factor(params['bits'])
    largest = np.abs(x[:10]).max()
    expected = 1.2 * largest * np.arange(1, 17) / 16
    np.testing.assert_allclose(ranges, expected, rtol=1e-6)
    # A group's range, 8 steps, is at most half a spacing off the row's
    # maximum f; its largest code is 7 steps, so that at worst f - 7/8 (f - d)
    # is clipped.
    error = np.abs(out.values - x)[:10].max(1)
    half_spacing = 1.2 * largest / 16 / 2
    assert np.all(error <= np.abs(x[:10]).max(1) / 8 + half_spacing)

  @pytest.mark.parametrize('non_negative', [False, True])
  def test_data_start_jitters_the_bits(self, key, non_negative):
    x = rows(key)
    module = grouped(num_groups=200, non_negative=non_negative)
    params, _, _ = run(module, x, key, rows=Rows(MASK))
    start = 4 + non_negative
    assert np.all(np.round(params['bits']) == start)
    spread = np.abs(params['bits'] - start)
    assert 0.45 < spread.max() <= 0.49

  def test_data_start_of_zeros_is_finite(self, key):
    params, out, _ = run(grouped(), jnp.zeros((12, 5)), key, rows=Rows(MASK))
    assert np.all(np.isfinite(params['scale'])) and np.all(params['scale'] > 0)
    np.testing.assert_array_equal(out.values, 0)

  @pytest.mark.parametrize('start', ['uniform', 'normal'])
  def test_published_starts(self, key, start):
    module = grouped(start=start, num_groups=2000)
    params, _, _ = run(module, rows(key), key, rows=Rows(MASK))
    scale = np.asarray(params['scale'])
    np.testing.assert_array_equal(params['bits'], 4)
    if start == 'uniform':
      assert 0 <= scale.min() < 0.01 and 0.99 < scale.max() <= 1
    else:
      # |N(.01, .1)|: its mean is about .0802.
      assert np.all(scale >= 0) and abs(scale.mean() - 0.0802) < 0.006

  def test_padding_rows_change_nothing(self, key):
    x = rows(key)
    other = jnp.where(MASK, x, -3.0)
    module = grouped()
    params, out, sown = run(module, x, key, rows=Rows(MASK))
    params_other, out_other, sown_other = run(
      module, other, key, rows=Rows(MASK)
    )
    helpers.assert_trees_close(params, params_other)
    np.testing.assert_array_equal(out.values[:10], out_other.values[:10])
    helpers.assert_trees_close(sown['memory'], sown_other['memory'])

  def test_memory_is_that_of_the_groups_of_real_rows(self, key):
    x = rows(key)
    params, _, sown = run(grouped(), x, key, rows=Rows(MASK))
    group = a2q_groups.nearest_group(
      jnp.abs(x).max(1), params['scale'], params['bits']
    )
    expected = 5 / 8192 * params['bits'][np.unique(group[:10])].sum()
    np.testing.assert_allclose(sown['memory']['kib'], expected, rtol=1e-6)

  def test_gradients_reach_the_groups_in_use(self, key):
    x = rows(key)
    module = grouped()
    params = module.init(key, x, rows=Rows(MASK))['params']
    group = a2q_groups.nearest_group(
      jnp.abs(x).max(1), params['scale'], params['bits']
    )

    def loss(params):
      out = module.apply({'params': params}, x, rows=Rows(MASK))
      return jnp.sum(jnp.where(MASK, out.values, 0) ** 2)

    grad = jax.grad(loss)(params)
    used = np.isin(np.arange(16), group[:10])
    assert np.all((np.asarray(grad['scale']) != 0) == used)

  def test_published_rule_is_used(self, key):
    """One bit erases a row; the default clamps to two."""
    x = rows(key)
    module, published = (
      grouped(start='uniform'),
      grouped(start='uniform', rule=published_rule('graph', 'feature')),
    )
    params = {'bits': jnp.full(16, 1.0), 'scale': jnp.full(16, 0.5)}
    kept = module.apply({'params': params}, x, rows=Rows(MASK))
    erased = published.apply({'params': params}, x, rows=Rows(MASK))
    assert np.any(kept.values) and not np.any(erased.values)

  def test_telemetry(self, key):
    x = rows(key, non_negative=True)
    _, out, _ = run(grouped(non_negative=True), x, key, rows=Rows(MASK))
    report = helpers.feature_report(x, out, Rows(MASK))
    np.testing.assert_array_equal(report.bits, out.bits[:, 0])
    np.testing.assert_allclose(
      report.error, np.sum((out.values - x) ** 2, 1), rtol=1e-5
    )
    np.testing.assert_allclose(report.energy, np.sum(x**2, 1), rtol=1e-5)
    np.testing.assert_array_equal(report.mask, MASK[:, 0])
    assert report.width == 5
    assert report.row_metadata_bits == 4  # log2(16 groups)
    assert report.table_bytes == 16 * 5

  @pytest.mark.parametrize('num_groups, index_bits', [(1, 1), (1000, 10)])
  def test_index_bits(self, key, num_groups, index_bits):
    module = grouped(num_groups=num_groups)
    _, out, _ = run(module, rows(key), key, rows=Rows(MASK))
    assert out.row_metadata_bits == index_bits


class TestColumn:
  def module(self, start='data', bits=4):
    return methods.ColumnQuantizer(
      bits=bits, start=start, rule=a2q.a2q_rule('graph', 'message')
    )

  def test_largest_of_each_column_is_the_largest_code(self, key):
    x = rows(key)
    params, out, _ = run(self.module(), x, key, rows=Rows(MASK))
    real = np.asarray(x[:10])
    np.testing.assert_allclose(
      params['scale'], np.abs(real).max(0) / 7, rtol=1e-6
    )
    np.testing.assert_array_equal(params['bits'], 4)
    scale = params['scale'][None]
    codes = np.round(out.values[:10] / scale)
    np.testing.assert_array_equal(np.abs(codes).max(0), 7)
    np.testing.assert_array_equal(codes * scale, out.values[:10])
    assert out.bits == 4

  def test_zero_column(self, key):
    x = rows(key).at[:, 2].set(0)
    params, out, _ = run(self.module(), x, key, rows=Rows(MASK))
    assert params['scale'][2] > 0
    np.testing.assert_array_equal(out.values[:, 2], 0)

  def test_published_start(self, key):
    x = jnp.ones((12, 4000))
    params, _, _ = run(self.module('normal'), x, key, rows=Rows(MASK))
    # |N(.01, .01)|: its mean is about .0117.
    assert abs(np.mean(params['scale']) - 0.0117) < 0.0006

  def test_padding_stays_out_of_the_scale_gradient(self, key):
    x = rows(key)
    module = self.module()
    params = module.init(key, x, rows=Rows(MASK))['params']

    def loss(params, x):
      out = module.apply({'params': params}, x, rows=Rows(MASK))
      return jnp.sum(jnp.where(MASK, out.values, 0))

    one = jax.grad(loss)(params, x)
    other = jax.grad(loss)(params, jnp.where(MASK, x, 0.3))
    helpers.assert_trees_close(one['scale'], other['scale'], rtol=1e-5)
    assert np.any(one['scale'])
    np.testing.assert_array_equal(one['bits'], 0)  # Never trained.


class TestChannel:
  def run(self, kernel, key, *, start='data', bits=4):
    module = methods.ChannelQuantizer(
      bits=bits, start=start, rule=a2q.a2q_rule('graph', 'weight')
    )
    params = module.init(key, kernel, rows=Rows())['params']
    return params, module.apply({'params': params}, kernel, rows=Rows())

  @pytest.mark.parametrize('bits', [2, 4, 8])
  def test_data_start_kills_no_channel(self, key, bits):
    sizes = 10.0 ** jnp.linspace(-6, 2, 40)
    kernel = jax.random.normal(key, (6, 40)) * sizes[None]
    params, out = self.run(kernel, key, bits=bits)
    scale = params['scale'][None]
    codes = np.round(out.values / scale)
    np.testing.assert_array_equal(np.abs(codes).max(0), 2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(codes * scale, out.values)
    assert out.bits == bits

  def test_published_start_does_kill_channels(self, key):
    """Why the default differs."""
    kernel = jax.random.uniform(key, (6, 300), minval=-0.05, maxval=0.05)
    _, out = self.run(kernel, key, start='normal')
    assert np.mean(np.all(out.values == 0, axis=0)) > 0.1

  def test_equals_the_pure_function(self, key):
    kernel = jax.random.normal(key, (6, 4))
    params, out = self.run(kernel, key)
    expected = a2q.fake_quant(
      kernel,
      params['scale'][None],
      params['bits'][None],
      rule=a2q.a2q_rule('graph', 'weight'),
    )
    np.testing.assert_array_equal(out.values, expected)

  def test_bits_have_no_gradient(self, key):
    kernel = jax.random.normal(key, (6, 4))
    module = methods.ChannelQuantizer(
      bits=2, start='normal', rule=a2q.a2q_rule('graph', 'weight')
    )
    params = module.init(key, kernel, rows=Rows())['params']
    grads = jax.grad(
      lambda p: jnp.sum(module.apply({'params': p}, kernel, rows=Rows()).values)
    )(params)
    np.testing.assert_array_equal(grads['bits'], 0)
    assert np.any(grads['scale'])


class TestIdentity:
  def test_reports_full_precision(self, key):
    x = rows(key)
    out = methods.Identity().apply({}, x, rows=Rows(MASK))
    np.testing.assert_array_equal(out.values, x)
    assert out.bits == 32
    report = helpers.feature_report(x, out, Rows(MASK))
    np.testing.assert_array_equal(report.bits, 32)
    np.testing.assert_array_equal(report.error, 0)
