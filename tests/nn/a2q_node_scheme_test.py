import dataclasses
import functools
import typing

import helpers
import jax
import jax.numpy as jnp
import pytest

from lorap_jax.nn import methods
from lorap_jax.quantization import a2q, a2q_published

EACH_POINT = pytest.mark.parametrize('point', typing.get_args(methods.Point))


class TestA2QNode:
  SCHEME = methods.A2QNode(
    bits=3,
    start='normal',
    memory_width=16,
    gradient='plain',
    weight_start=(1.0, 0.1),
    feature_start=(2.0, 0.2),
    message_start=(3.0, 0.3),
  )

  @pytest.mark.parametrize('non_negative', [False, True])
  @EACH_POINT
  def test_points(self, point, non_negative):
    rule = functools.partial(a2q.a2q_rule, 'node', gradient='plain')
    shared = {'bits': 3, 'start': 'normal'}
    feature = (
      methods.NodeQuantizer,
      {
        'rule': rule('feature'),
        'non_negative': non_negative,
        'normal': (2.0, 0.2),
        'fixed_bits': False,
        'memory_width': 16,
      },
    )
    channel = (
      methods.ChannelQuantizer,
      {
        'rule': rule('weight'),
        'normal': (1.0, 0.1),
      },
    )
    kinds = {
      'input': feature,
      'readout': feature,
      'aggregate': feature,
      'message': (
        methods.ColumnQuantizer,
        {'rule': rule('message'), 'normal': (3.0, 0.3)},
      ),
      'logits': (
        methods.ColumnQuantizer,
        {'rule': rule('message'), 'normal': (0.1, 0.1)},
      ),
      'weight': channel,
      'attention': channel,
    }
    module = self.SCHEME.quantizer(point, non_negative=non_negative)
    if point not in kinds:
      only_reported = methods.Identity if point == 'features' else type(None)
      assert type(module) is only_reported
      return
    kind, fields = kinds[point]
    assert type(module) is kind
    assert helpers.fields_of(module) == {**shared, **fields}

  @pytest.mark.parametrize(
    'point, tensor',
    [('input', 'feature'), ('message', 'message'), ('weight', 'weight')],
  )
  def test_published_rules(self, point, tensor):
    scheme = dataclasses.replace(self.SCHEME, published=True)
    module = scheme.quantizer(point, non_negative=False)
    assert module.rule == a2q_published.published_rule('node', tensor)

  def test_options(self):
    changed = dataclasses.replace(
      self.SCHEME, quantize_features=True, node_messages=True
    )
    features = changed.quantizer('features', non_negative=False)
    message = changed.quantizer('message', non_negative=False)
    assert type(features) is type(message) is methods.NodeQuantizer
    assert (features.fixed_bits, message.fixed_bits) == (False, True)
    assert (features.normal, message.normal) == ((2.0, 0.2), (3.0, 0.3))
    without = dataclasses.replace(changed, quantize_messages=False)
    assert without.quantizer('message', non_negative=False) is None

  def test_penalty(self):
    scheme = methods.A2QNode(memory_weight=0.5, memory_target=1.0)
    value, grad = jax.value_and_grad(scheme.penalty)(jnp.float32(4))
    assert value == 4.5 and grad == 3
    assert scheme.penalty(jnp.float32(0.5)) == 0

  @pytest.mark.parametrize(
    'values, message',
    [
      ({'bits': 0}, r'`bits` must be in 1\.\.8, got 0; use the scheme fp32'),
      ({'bits': 9}, r'`bits` must be in 1\.\.8, got 9'),
      ({'start': 'zeros'}, "`start` must be 'data', .* got 'zeros'"),
    ],
  )
  def test_errors(self, values, message):
    with pytest.raises(ValueError, match=message):
      methods.A2QNode(**values)
