import typing

import helpers
import jax.numpy as jnp
import pytest

from lorap_jax.nn import methods

EACH_POINT = pytest.mark.parametrize('point', typing.get_args(methods.Point))


class TestQAT:
  @pytest.mark.parametrize('non_negative', [False, True])
  @EACH_POINT
  def test_points(self, point, non_negative):
    scheme = methods.QAT(
      bits=5,
      symmetric=True,
      momentum=0.3,
      percentile=0.02,
      gradient='clipped_strict',
      stride=3,
    )
    module = scheme.quantizer(point, non_negative=non_negative)
    parameter = point in ('weight', 'attention')
    assert type(module) is methods.AffineQuantizer
    assert helpers.fields_of(module) == {
      'bits': 5,
      'signed': not non_negative,
      'symmetric': True,
      'percentile': 0.02,
      'range_rule': 'momentum',
      'momentum': 0.3,
      'gradient': 'clipped_strict',
      'protects': False,
      'stride': 1 if parameter else 3,
      'published': False,
    }

  @EACH_POINT
  def test_percentile_of_sums(self, point):
    scheme = methods.QAT(percentile=0.01, sum_percentile=0.1)
    module = scheme.quantizer(point, non_negative=False)
    is_sum = point in ('neighbor_sum', 'aggregate')
    assert module.percentile == (0.1 if is_sum else 0.01)

  def test_percentile_of_sums_may_be_zero(self):
    scheme = methods.QAT(percentile=0.01, sum_percentile=0.0)
    assert scheme.quantizer('aggregate', non_negative=False).percentile == 0

  @EACH_POINT
  def test_percentile_of_raw_features(self, point):
    scheme = methods.DegreeQuant(percentile=0.01, feature_percentile=0.0)
    module = scheme.quantizer(point, non_negative=False)
    assert module.percentile == (0 if point == 'features' else 0.01)

  @EACH_POINT
  def test_points_left_out(self, point):
    """Operands are still reported, with 32 bits."""
    module = methods.QAT(points=()).quantizer(point, non_negative=False)
    expected = methods.Identity if point in methods.OPERANDS else type(None)
    assert type(module) is expected

  def test_edge_weights_are_needed_for_norm(self):
    assert methods.QAT().edge_weights
    assert not methods.QAT(points=('message', 'input')).edge_weights

  def test_neither_penalty_nor_protection(self):
    assert methods.QAT().penalty(jnp.float32(3)) == 0
    assert methods.QAT().protection() is None

  @pytest.mark.parametrize(
    'values, message',
    [
      ({'bits': 1}, r'`bits` must be in 2\.\.8, got 1; use the scheme fp32'),
      ({'bits': 9}, r'`bits` must be in 2\.\.8, got 9'),
      (
        {'points': ('weight', 'wieght')},
        r"`points` has \['wieght'\]; the points are \('features'",
      ),
      ({'percentile': 0.5}, r'`percentile` must be 0 or in .*, got 0\.5'),
      ({'percentile': 5e-5}, '`percentile` must be 0 or in .*, got 5e-05'),
      ({'sum_percentile': -0.1}, r'`sum_percentile` must be 0 .*, got -0\.1'),
      (
        {'feature_percentile': 0.7},
        r'`feature_percentile` must be 0 or in .*, got 0\.7',
      ),
      ({'stride': 0}, '`stride` must be at least 1, got 0'),
      ({'gradient': 'ste'}, "`gradient` must be one of .*, got 'ste'"),
    ],
  )
  @pytest.mark.parametrize('kind', [methods.QAT, methods.DegreeQuant])
  def test_errors(self, kind, values, message):
    with pytest.raises(ValueError, match=message):
      helpers.create_untyped(kind, values)


@pytest.mark.parametrize('momentum', [0.0, 1.1])
def test_momentum_has_a_range(momentum):
  with pytest.raises(ValueError, match=r'`momentum` must be in \(0, 1\], got'):
    methods.QAT(momentum=momentum)


class TestDegreeQuant:
  def test_ranges_that_only_widen_have_no_momentum(self):
    with pytest.raises(TypeError, match='momentum'):
      methods.DegreeQuant(momentum=0.5)

  def test_defaults_are_those_of_the_paper(self):
    module = methods.DegreeQuant().quantizer('input', non_negative=False)
    assert (module.range_rule, module.percentile) == ('extreme', 0.01)
    assert module.gradient == 'clipped'

  @EACH_POINT
  def test_protected_points(self, point):
    """Rows of nodes by default; parameters, edges and graphs never."""
    module = methods.DegreeQuant().quantizer(point, non_negative=False)
    unprotected = ('readout', 'weight', 'norm', 'attention', 'logits')
    assert module.protects == (point not in unprotected)
    scheme = methods.DegreeQuant(protected_points=('message',))
    module = scheme.quantizer(point, non_negative=False)
    assert module.protects == (point == 'message')

  def test_protection(self):
    scheme = methods.DegreeQuant(low=0.1, change=0.2, redraw=True)
    assert scheme.protection() == methods.Protection(0.1, 0.2, True)
    assert methods.DegreeQuant().protection() == (0.0, 0.1, False)

  def test_unknown_protected_points(self):
    message = r"`protected_points` has \['mesage'\]; the points are"
    with pytest.raises(ValueError, match=message):
      helpers.create_untyped(
        methods.DegreeQuant, {'protected_points': ('mesage', 'input')}
      )

  @pytest.mark.parametrize('field', ['low', 'change'])
  @pytest.mark.parametrize('value', [-0.1, 1.5])
  def test_errors(self, field, value):
    message = rf'`{field}` must be in \[0, 1\], got {value}'
    with pytest.raises(ValueError, match=message):
      methods.DegreeQuant(**{field: value})
