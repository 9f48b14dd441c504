import dataclasses
import typing

import jax
import jax.numpy as jnp
import pytest

from lorap_jax.nn import methods
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization.a2q_published import published_rule

KINDS = {
  'input': methods.GroupedQuantizer,
  'aggregate': methods.GroupedQuantizer,
  'message': methods.ColumnQuantizer,
  'weight': methods.ChannelQuantizer,
  'output': None,
  'neighbor_sum': None,
  'update': None,
}


@pytest.mark.parametrize('non_negative', [False, True])
@pytest.mark.parametrize('point', list(KINDS))
def test_points_of_a2q(point, non_negative):
  scheme = methods.A2QGraph(bits=3, num_groups=7, start='uniform')
  module = scheme.quantizer(point, non_negative=non_negative)
  if KINDS[point] is None:
    assert module is None
    return
  assert type(module) is KINDS[point]
  assert (module.name, module.bits, module.start) == (point, 3, 'uniform')
  if point in ('input', 'aggregate'):
    assert (module.num_groups, module.non_negative) == (7, non_negative)


@pytest.mark.parametrize('point', list(KINDS))
def test_points_of_fp32(point):
  module = methods.FP32().quantizer(point, non_negative=False)
  reported = point in ('input', 'aggregate', 'message')
  assert isinstance(module, methods.Identity) == reported
  assert (module is None) == (not reported)


def test_point_without_a_quantizer_is_passed_by():
  x = jnp.ones((2, 3))
  out = methods.quantize(methods.FP32(), 'output', x, rows=Rows())
  assert out.values is x and out.bits == 32


def test_penalties():
  scheme = methods.A2QGraph(memory_weight=0.5, memory_target=1.0)
  value, grad = jax.value_and_grad(scheme.penalty)(jnp.float32(3))
  assert value == 2 and grad == 2
  assert methods.FP32().penalty(jnp.float32(3)) == 0


@pytest.mark.parametrize(
  'values, message',
  [
    ({'bits': 0}, r'`bits` must be in 1\.\.8, got 0'),
    ({'bits': 32}, 'use the scheme fp32'),
    ({'num_groups': 0}, '`num_groups` must be at least 1'),
    ({'start': 'zeros'}, "`start` must be 'data', 'uniform' or 'normal'"),
  ],
)
def test_errors(values, message):
  with pytest.raises(ValueError, match=message):
    methods.A2QGraph(**values)


POINTS = typing.get_args(methods.Point)
EACH_POINT = pytest.mark.parametrize('point', POINTS)
EVERY_SCHEME = pytest.mark.parametrize(
  'scheme',
  [
    methods.FP32(),
    methods.QAT(),
    methods.DegreeQuant(),
    methods.A2QGraph(),
    methods.A2QNode(),
    methods.MixQSearch(),
    methods.MixQ(),
  ],
  ids=lambda scheme: type(scheme).__name__,
)


def name_at(point):
  return 'input' if point == 'readout' else point


@EVERY_SCHEME
@EACH_POINT
def test_names(scheme, point):
  module = scheme.quantizer(point, non_negative=False)
  assert module is None or module.name == name_at(point)


@EVERY_SCHEME
def test_schemes_have_the_protocol(scheme):
  assert isinstance(scheme, methods.Scheme)
  assert hash(scheme) == hash(dataclasses.replace(scheme))


class TestA2QGraph:
  @EACH_POINT
  def test_kinds(self, point):
    kinds = {
      'features': methods.Identity,
      'input': methods.GroupedQuantizer,
      'readout': methods.GroupedQuantizer,
      'aggregate': methods.GroupedQuantizer,
      'logits': methods.GroupedQuantizer,
      'message': methods.ColumnQuantizer,
      'weight': methods.ChannelQuantizer,
      'attention': methods.ChannelQuantizer,
    }
    module = methods.A2QGraph().quantizer(point, non_negative=False)
    assert type(module) is kinds.get(point, type(None))

  def test_raw_features(self):
    scheme = methods.A2QGraph(quantize_features=True, published=True)
    module = scheme.quantizer('features', non_negative=False)
    assert type(module) is methods.GroupedQuantizer
    assert module.rule == published_rule('graph', 'feature')
