import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.nn import methods, telemetry
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization import mixq, mixq_search

MASK = jnp.arange(10)[:, None] < 8
ROWS = Rows(MASK)
COLLECTIONS = ['memory', telemetry.COLLECTION]
BITS = (2, 4, 8)
PUBLISHED = pytest.mark.parametrize('published', [False, True])


def relaxed(**changes):
  return methods.RelaxedQuantizer(**{'candidates': BITS, **changes})


def fixed(**changes):
  return methods.FixedQuantizer(**{'bits': (), 'default_bits': 4, **changes})


@pytest.fixture
def x(key):
  """Columns of different ranges; padding is large."""
  x = jax.random.normal(key, (10, 3)) * jnp.asarray([[1.0, 5.0, 20.0]])
  return x.at[8:].set(1e4)


def run(module, x, rows=ROWS):
  params = module.init(jax.random.key(0), x, rows=rows)['params']
  out, sown = module.apply(
    {'params': params}, x, rows=rows, mutable=COLLECTIONS
  )
  return params, out, sown


def _start():
  """Mixture and mean bits before the search."""
  p = np.asarray(jax.nn.softmax(mixq_search.initial_logits(BITS)))
  return p, p @ BITS


class TestRelaxed:
  def test_parameters(self, x):
    params, _, _ = run(relaxed(), x)
    assert helpers.tree_spec(params) == {
      'logits': (3,),
      'range_scale': (3, 1, 3),
      'range_zero_point': (3, 1, 3),
    }
    start = mixq_search.initial_logits(BITS)
    np.testing.assert_array_equal(params['logits'], start)

  def test_starts_from_the_real_rows(self, x):
    params, _, _ = run(relaxed(), x)
    for i, bits in enumerate(BITS):
      scale, zero_point = mixq.calibrate(x[:8], bits=bits)
      np.testing.assert_array_equal(params['range_scale'][i], scale)
      np.testing.assert_array_equal(params['range_zero_point'][i], zero_point)

  @PUBLISHED
  def test_equals_the_pure_function(self, x, published):
    module = relaxed(published=published)
    params, _, _ = run(module, x)
    params['logits'] = jnp.asarray([0.3, -1.0, 0.5])
    dy = jax.random.normal(jax.random.key(1), x.shape)
    out, pull_back = jax.vjp(
      lambda p: module.apply({'params': p}, x, rows=ROWS).values, params
    )
    expected, pure_back = jax.vjp(
      lambda p: mixq_search.relaxed_fake_quant(
        x,
        p['range_scale'],
        p['range_zero_point'],
        p['logits'],
        candidates=BITS,
        mask=MASK,
        published=published,
      ),
      params,
    )
    np.testing.assert_array_equal(out, expected)
    grads = pull_back(dy)[0]
    helpers.assert_trees_close(grads, pure_back(dy)[0])
    assert all(np.any(leaf) for leaf in grads.values())

  def test_published_start_of_the_logits(self, x):
    params, _, _ = run(relaxed(published=True), x)
    np.testing.assert_allclose(
      params['logits'], [0.214, 0.217, 0.569], atol=1e-3
    )

  def test_padding_changes_no_parameter_and_no_gradient(self, x):
    module = relaxed()
    params, _, _ = run(module, x)
    other, _, _ = run(module, x.at[8:].set(-3.0))
    helpers.assert_trees_close(other, params)

    def gradient(x):
      return jax.grad(
        lambda p: jnp.sum(module.apply({'params': p}, x, rows=ROWS).values ** 2)
      )(params)

    # The loss has padding rows as well; what reaches the parameters has not.
    helpers.assert_trees_close(
      gradient(x), gradient(x.at[8:].set(-3.0)), rtol=1e-6, atol=1e-6
    )

  def test_weight_is_quantized_per_input_feature(self, key):
    """Each row of [in, out] on a grid of its own."""
    kernel = jax.random.normal(key, (4, 6)) * 10.0 ** jnp.arange(4)[:, None]
    module = relaxed(candidates=(4,), transposed=True)
    params, out, sown = run(module, kernel, Rows(train=True))
    assert params['range_scale'].shape == (1, 1, 4)
    codes = (
      np.asarray(out.values) / np.asarray(params['range_scale'][0, 0])[:, None]
    )
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    error = np.abs(out.values - kernel)
    assert np.all(error <= 1.01 * params['range_scale'][0, 0][:, None])
    assert out.metadata_bytes == 8 * 4

  @pytest.mark.parametrize('depth', [1, 2])
  def test_memory_of_real_rows(self, x, depth):
    module = relaxed(depth=depth)
    params, _, _ = run(module, x)
    params['logits'] = jnp.log(jnp.asarray([0.5, 0.25, 0.25]))
    out, sown = module.apply(
      {'params': params}, x, rows=ROWS, mutable=COLLECTIONS
    )
    # 8 rows of 3 numbers, 2/2 + 4/4 + 8/4 = 4 bits each.
    np.testing.assert_allclose(
      sown['memory']['kib'], 24 * 4 / 8192**depth, rtol=1e-6
    )
    np.testing.assert_allclose(out.bits, 4, rtol=1e-6)
    report = helpers.feature_report(x, out, ROWS)
    np.testing.assert_allclose(report.bits, 4, rtol=1e-6)
    assert (report.width, report.table_bytes) == (3, 8 * 3)

  def test_memory_of_a_weight(self, key):
    kernel = jax.random.normal(key, (4, 6))
    module = relaxed(transposed=True)
    _, _, sown = run(module, kernel, Rows(train=True))
    np.testing.assert_allclose(
      sown['memory']['kib'], 24 * _start()[1] / 8192, rtol=1e-6
    )

  def test_price_reaches_the_logits(self, x):
    module = relaxed()
    params, _, _ = run(module, x)

    def kib(params):
      _, sown = module.apply(
        {'params': params}, x, rows=ROWS, mutable=['memory']
      )
      return sown['memory']['kib']

    grad = jax.grad(kib)(params)
    p, mean = _start()
    # dE/dtheta_i = p_i (b_i - E).
    expected = 24 / 8192 * p * (np.asarray(BITS) - mean)
    np.testing.assert_allclose(grad['logits'], expected, rtol=1e-5)
    assert not np.any(grad['range_scale'])


class Layer(nn.Module):
  """Two quantizers with paths."""

  assignment: tuple[tuple[str, int], ...]

  @nn.compact
  def __call__(self, x):
    bits = {'bits': self.assignment}
    first = fixed(name='first', **bits)(x, rows=ROWS)
    return first, fixed(name='second', **bits)(x, rows=ROWS)


class Model(nn.Module):
  """Layers with paths."""

  assignment: tuple[tuple[str, int], ...]

  @nn.compact
  def __call__(self, x):
    return [Layer(self.assignment, name=f'conv_{i}')(x) for i in range(2)]


class TestFixed:
  def test_parameters(self, x):
    params, _, _ = run(fixed(), x)
    assert helpers.tree_spec(params) == {
      'range_scale': (1, 3),
      'range_zero_point': (1, 3),
    }

  @PUBLISHED
  @pytest.mark.parametrize('bits', [2, 8])
  def test_equals_the_pure_functions(self, x, bits, published):
    module = fixed(default_bits=bits, published=published)
    params, out, _ = run(module, x)
    scale, zero_point = mixq.calibrate(x[:8], bits=bits, published=published)
    np.testing.assert_array_equal(params['range_scale'], scale)
    np.testing.assert_array_equal(params['range_zero_point'], zero_point)
    dy = jax.random.normal(jax.random.key(1), x.shape)
    _, pull_back = jax.vjp(
      lambda p: module.apply({'params': p}, x, rows=ROWS).values, params
    )
    expected, pure_back = jax.vjp(
      lambda s, z: mixq.fake_quant(
        x, s, z, bits=bits, mask=MASK, published=published
      ),
      scale,
      zero_point,
    )
    np.testing.assert_array_equal(out.values, expected)
    d_scale, d_zero_point = pure_back(dy)
    grads = pull_back(dy)[0]
    np.testing.assert_array_equal(grads['range_scale'], d_scale)
    np.testing.assert_array_equal(grads['range_zero_point'], d_zero_point)

  def test_weight_is_quantized_per_input_feature(self, key):
    kernel = jax.random.normal(key, (4, 6)) * 10.0 ** jnp.arange(4)[:, None]
    module = fixed(transposed=True)
    params, out, sown = run(module, kernel, Rows(train=True))
    columns, transposed, _ = run(fixed(), kernel.T, Rows(train=True))
    helpers.assert_trees_close(params, columns)
    np.testing.assert_array_equal(out.values, transposed.values.T)
    assert out.metadata_bytes == 8 * 4

  def test_bits_by_path(self, x):
    """The path from the root; what is not assigned has the default."""
    model = Model((('conv_0/second', 2), ('conv_1/first', 8), ('first', 3)))
    params = model.init(jax.random.key(0), x)['params']
    outs = model.apply({'params': params}, x)
    bits = [[float(out.bits) for out in pair] for pair in outs]
    assert bits == [[4, 2], [8, 4]]
    levels = [
      [len(np.unique(out.values[:8, 2])) for out in pair] for pair in outs
    ]
    assert levels[0][1] <= 4 < levels[0][0]
    np.testing.assert_array_equal(outs[0][0].values, outs[1][1].values)
    assert np.abs(outs[1][0].values - x)[:8].max() < 0.3

  def test_report(self, x):
    _, out, sown = run(fixed(), x)
    report = helpers.feature_report(x, out, ROWS)
    np.testing.assert_array_equal(report.bits, 4)
    np.testing.assert_array_equal(report.mask, MASK[:, 0])
    assert (report.width, report.table_bytes) == (3, 8 * 3)
    assert 'memory' not in sown and out.bits == 4
