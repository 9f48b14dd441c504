import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.nn import methods, telemetry
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization import affine, observers

MASK = jnp.arange(10)[:, None] < 8
PROTECTED = jnp.arange(10)[:, None] % 4 == 1  # Rows 1, 5 and 9.
TRAIN = Rows(MASK, True)
GUARDED = Rows(MASK, True, PROTECTED)
COLLECTIONS = ['quant_stats', telemetry.COLLECTION]


def make(**changes):
  return methods.AffineQuantizer(**{'bits': 4, 'signed': True, **changes})


@pytest.fixture
def x(key):
  """Eight real rows, the second and sixth of them large, and large padding."""
  x = jax.random.normal(key, (10, 3))
  return jnp.where(PROTECTED, 10 * x, x).at[8:].set(1e4)


def ranges(stats):
  return [
    float(stats['quant_stats']['range'][n]) for n in ('min_val', 'max_val')
  ]


def extremes(x):
  return [float(x.min()), float(x.max())]


def started(module, x):
  return module.init(jax.random.key(0), x, rows=TRAIN)


def apply(module, variables, x, rows):
  return module.apply(
    {'quant_stats': variables['quant_stats']}, x, rows=rows, mutable=COLLECTIONS
  )


class TestRange:
  @pytest.mark.parametrize('guard', [None, PROTECTED])
  @pytest.mark.parametrize('percentile', [0.0, 0.3])
  def test_of_the_rows_that_are_observed(self, x, guard, percentile):
    module = make(protects=True, percentile=percentile)
    x = x.at[3].multiply(20)
    seen = jnp.arange(10)[:, None] % 4 != 3  # All but 3 and 7.
    rows = Rows(MASK, True, guard, observed=seen)
    kept = [0, 1, 2, 4, 5, 6] if guard is None else [0, 2, 4, 6]
    y, stats = apply(module, started(module, x), x, rows)
    expected = observers.batch_range(x[jnp.array(kept)], percentile=percentile)
    assert ranges(stats) == [float(v) for v in expected]
    if guard is not None:  # The others are quantized all the same.
      assert not np.array_equal(y.values[0], x[0])

  def test_variable(self, x):
    spec = helpers.tree_spec(started(make(), x)['quant_stats'])
    assert spec == {
      'range/min_val': (),
      'range/max_val': (),
      'range/initialized': (),
    }

  @pytest.mark.parametrize('train', [False, True])
  def test_init_leaves_it_empty(self, x, train):
    variables = make().init(jax.random.key(0), x, rows=Rows(MASK, train))
    assert ranges(variables) == [0, 0]
    assert not variables['quant_stats']['range']['initialized']

  def test_first_batch_is_taken_as_it_is(self, x):
    _, new = apply(make(), started(make(), x), x, TRAIN)
    assert ranges(new) == extremes(x[:8])
    assert new['quant_stats']['range']['initialized']

  @pytest.mark.parametrize('rule', ['momentum', 'extreme'])
  def test_rules(self, x, rule):
    module = make(range_rule=rule, momentum=0.25)
    _, one = apply(module, started(module, x), x, TRAIN)
    smaller = 0.5 * x
    _, two = apply(module, one, smaller, TRAIN)
    first = extremes(np.asarray(x[:8]))
    expected = first
    if rule == 'momentum':  # A quarter of the way to half the range.
      expected = [0.875 * v for v in first]
    np.testing.assert_allclose(ranges(two), expected, rtol=1e-6)

  def test_evaluation_keeps_it(self, x):
    _, one = apply(make(), started(make(), x), x, TRAIN)
    _, two = apply(make(), one, 100 * x, Rows(MASK))
    helpers.assert_trees_close(two['quant_stats'], one['quant_stats'])

  def test_training_without_mutable_statistics(self, x):
    """Quantizes with the updated range, and stores nothing."""
    module = make()
    start = {'quant_stats': started(module, x)['quant_stats']}
    out = module.apply(start, x, rows=TRAIN)
    expected, _ = apply(module, start, x, TRAIN)
    np.testing.assert_array_equal(out.values, expected.values)

  def test_padding_stays_out(self, x):
    _, one = apply(make(), started(make(), x), x, TRAIN)
    _, two = apply(make(), started(make(), x), x.at[8:].set(0), TRAIN)
    helpers.assert_trees_close(two['quant_stats'], one['quant_stats'])

  def test_percentile_and_stride(self, x):
    module = make(percentile=0.2, stride=2)
    _, new = apply(module, started(module, x), x, TRAIN)
    expected = observers.batch_range(x, mask=MASK, percentile=0.2, stride=2)
    stats = new['quant_stats']['range']
    np.testing.assert_array_equal(stats['min_val'], expected[0])
    np.testing.assert_array_equal(stats['max_val'], expected[1])
    assert np.any(stats['max_val'] < np.asarray(x[:8]).max())

  def test_no_gradient_flows_through_it(self, x):
    """With `plain`, dx = dy, whatever the range does."""
    start = {'quant_stats': started(make(), x)['quant_stats']}
    grad = jax.grad(
      lambda x: jnp.sum(make().apply(start, x, rows=TRAIN).values)
    )(x)
    np.testing.assert_array_equal(grad, 1)


class TestValues:
  @pytest.mark.parametrize(
    'fields',
    [
      {'signed': True},
      {'signed': False},
      {'signed': True, 'symmetric': True},
      {'signed': True, 'bits': 8},
    ],
    ids=['signed', 'unsigned', 'symmetric', '8_bits'],
  )
  def test_equal_the_pure_functions(self, x, fields):
    module = make(**fields)
    out, _ = apply(module, started(module, x), x, TRAIN)
    bits, signed = module.bits, module.signed
    qparams = affine.affine_qparams(
      *observers.batch_range(x, mask=MASK),
      bits=bits,
      signed=signed,
      symmetric=module.symmetric,
    )
    expected = affine.fake_quant(
      x, qparams, bits=bits, signed=signed, gradient='plain'
    )
    np.testing.assert_array_equal(out.values, expected)
    assert out.bits == bits
    assert out.metadata_bytes == 8

  def test_evaluation_uses_the_stored_range(self, x):
    _, one = apply(make(), started(make(), x), x, TRAIN)
    # The same grid, although these values have another range.
    out, _ = apply(make(), one, 0.3 * x, Rows(MASK))
    low, high = ranges(one)
    codes = np.asarray(out.values[:8]) / ((high - low) / 15)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert len(np.unique(np.round(codes))) > 4

  def test_before_any_training_the_scale_is_one(self, x):
    out, _ = apply(make(), started(make(), x), x, Rows(MASK))
    expected = np.clip(np.round(x), -8, 7)
    np.testing.assert_array_equal(out.values, expected)

  @pytest.mark.parametrize('gradient', ['plain', 'clipped', 'clipped_strict'])
  def test_gradients(self, x, gradient):
    module = make(gradient=gradient, percentile=0.2)
    start = {'quant_stats': started(module, x)['quant_stats']}
    grad = jax.grad(
      lambda x: jnp.sum(module.apply(start, x, rows=TRAIN).values)
    )(x)
    qparams = affine.affine_qparams(
      *observers.batch_range(x, mask=MASK, percentile=0.2), bits=4
    )
    code = np.round(x / qparams.scale + qparams.zero_point)
    passing = {
      'plain': np.ones_like(code, bool),
      'clipped': (code >= -8) & (code <= 7),
      'clipped_strict': (code > -8) & (code < 7),
    }[gradient]
    np.testing.assert_array_equal(grad, passing)


class TestProtection:
  def test_protected_rows_pass_and_stay_out_of_the_range(self, x):
    module = make(protects=True)
    out, new = apply(module, started(module, x), x, GUARDED)
    keep = np.asarray(PROTECTED)[:, 0]
    np.testing.assert_array_equal(out.values[keep], x[keep])
    others = np.asarray(x)[np.asarray(MASK)[:, 0] & ~keep]
    assert ranges(new) == extremes(others)
    assert np.all(out.values[:8][~keep[:8]] != x[:8][~keep[:8]])

  def test_gradient_of_protected_rows(self, x):
    module = make(protects=True, gradient='clipped', percentile=0.2)
    start = {'quant_stats': started(module, x)['quant_stats']}
    grad = jax.grad(
      lambda x: jnp.sum(module.apply(start, x, rows=GUARDED).values)
    )(x)
    np.testing.assert_array_equal(grad[PROTECTED[:, 0]], 1)
    assert np.any(grad[:8] == 0)

  @pytest.mark.parametrize(
    'protects, rows',
    [
      (False, GUARDED),
      (True, GUARDED._replace(train=False)),
    ],
    ids=['scheme_does_not', 'evaluation'],
  )
  def test_none(self, x, protects, rows):
    """Where the point is not protected, and at evaluation."""
    module = make(protects=protects)
    _, before = apply(module, started(module, x), x, TRAIN)
    out, new = apply(module, before, x, rows)
    expected, new_expected = apply(
      module, before, x, rows._replace(protected=None)
    )
    np.testing.assert_array_equal(out.values, expected.values)
    helpers.assert_trees_close(new['quant_stats'], new_expected['quant_stats'])

  def test_all_protected(self, x):
    """Nothing is seen, nothing changes, everything passes."""
    module = make(protects=True)
    everyone = Rows(MASK, True, jnp.ones((10, 1), bool))
    out, new = apply(module, started(module, x), x, everyone)
    np.testing.assert_array_equal(out.values, x)
    assert not new['quant_stats']['range']['initialized']


def test_report(x):
  module = make()
  out, _ = apply(module, started(module, x), x, TRAIN)
  report = helpers.feature_report(x, out, TRAIN)
  np.testing.assert_array_equal(report.bits, 4)
  np.testing.assert_allclose(
    report.error[:8], np.sum((out.values - x)[:8] ** 2, 1), rtol=1e-5
  )
  np.testing.assert_array_equal(report.mask, MASK[:, 0])
  assert (report.width, report.row_metadata_bits) == (3, 0)
  assert report.table_bytes == 8


def test_sparse_rows_move_the_range_as_dense_ones_do(key):
  """Their zeros count: after a negative value the minimum returns to 0."""
  module = methods.AffineQuantizer(bits=4, signed=True, momentum=0.5)
  dense = (
    np.float32([[0, -2, 0], [3, 0, 0]]),
    np.float32([[1, 0, 0], [0, 5, 0]]),
  )
  seen = []
  for form in (jnp.asarray, graphs.sparse_rows):
    variables = module.init(key, form(dense[0]), rows=Rows(train=True))
    for x in dense:
      _, variables = module.apply(
        variables, form(x), rows=Rows(train=True), mutable=['quant_stats']
      )
    seen.append(variables['quant_stats']['range'])
  assert seen[0]['min_val'] == -1 and seen[0]['max_val'] == 4
  assert seen[1]['min_val'] == -1 and seen[1]['max_val'] == 4


@pytest.mark.parametrize('masked', [False, True])
def test_range_of_sparse_rows_with_a_prompt(key, masked):
  """The prompt of a full column is nowhere to be seen by itself."""
  module = methods.AffineQuantizer(bits=4, signed=True)
  x = np.float32([[-9, 0, 2], [-9, 0, 0], [0, 1, 0]])
  prompt = np.float32([[20, 5, -3]])
  mask = jnp.asarray([[True], [True], [not masked]])
  rows = Rows(mask, train=True)
  sparse = graphs.sparse_rows(x).plus(None, jnp.asarray(prompt))
  for form in (jnp.asarray(x + prompt), sparse):
    variables = module.init(key, form, rows=rows)
    _, variables = module.apply(
      variables, form, rows=rows, mutable=['quant_stats']
    )
    seen = variables['quant_stats']['range']
    assert seen['min_val'] == -3 and seen['max_val'] == (11 if masked else 20)
