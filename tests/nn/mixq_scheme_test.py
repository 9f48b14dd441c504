import typing

import helpers
import jax
import jax.numpy as jnp
import pytest

from lorap_jax.nn import methods

EACH_POINT = pytest.mark.parametrize('point', typing.get_args(methods.Point))


class TestMixQ:
  CHOSEN = (
    'features',
    'readout',
    'weight',
    'output',
    'attention',
    'norm',
  )

  @pytest.mark.parametrize('inside', [False, True])
  @pytest.mark.parametrize('published', [False, True])
  @EACH_POINT
  def test_search(self, point, published, inside):
    scheme = methods.MixQSearch(
      candidates=(3, 5), points=self.CHOSEN, published=published
    )
    if inside:
      scheme = scheme.in_convolution()
    module = scheme.quantizer(point, non_negative=True)
    if point not in self.CHOSEN:
      assert type(module) is type(None)
      return
    assert type(module) is methods.RelaxedQuantizer
    assert helpers.fields_of(module) == {
      'candidates': (3, 5),
      'transposed': point == 'weight',
      'published': published,
      # The published code divides twice in a convolution, and once for the
      # input, the weight and the output of a layer outside.
      'depth': 2
      if published and (inside or point not in ('readout', 'weight', 'output'))
      else 1,
    }

  @EACH_POINT
  def test_fixed(self, point):
    assignment = (('conv_0/norm', 2),)
    scheme = methods.MixQ(assignment=assignment, bits=6, points=self.CHOSEN)
    module = scheme.quantizer(point, non_negative=True)
    if point not in self.CHOSEN:
      assert type(module) is type(None)
      return
    assert type(module) is methods.FixedQuantizer
    assert helpers.fields_of(module) == {
      'bits': assignment,
      'default_bits': 6,
      'transposed': point == 'weight',
      'published': False,
    }

  @pytest.mark.parametrize('kind', [methods.MixQSearch, methods.MixQ])
  def test_edge_weights_are_needed_for_norm(self, kind):
    assert kind().edge_weights
    assert not kind(points=('weight',)).edge_weights

  @pytest.mark.parametrize('published', [False, True])
  def test_forms(self, published):
    """The published search has no bias; what it finds has one."""
    search = methods.MixQSearch(published=published).forms
    assert search.dense_bias == (not published)
    assert methods.MixQ(published=published).forms.dense_bias
    assert search.unbiased_variance == published

  def test_penalties(self):
    search = methods.MixQSearch(cost_weight=0.25)
    value, grad = jax.value_and_grad(search.penalty)(jnp.float32(3))
    assert value == 0.75 and grad == 0.25
    assert methods.MixQ().penalty(jnp.float32(3)) == 0
    assert search.protection() is None and methods.MixQ().protection() is None

  @pytest.mark.parametrize(
    'kind, values, message',
    [
      (methods.MixQSearch, {'candidates': ()}, '`candidates` must be one or'),
      (methods.MixQSearch, {'candidates': (4, 4)}, r'got \(4, 4\)'),
      (methods.MixQSearch, {'candidates': (4, 17)}, r'in 1\.\.16'),
      (methods.MixQSearch, {'points': ('norms',)}, r"`points` has \['norms'\]"),
      (methods.MixQ, {'points': ('norms',)}, r"`points` has \['norms'\]"),
      (methods.MixQ, {'bits': 0}, r'`bits` must be an integer in 1\.\.16'),
      (methods.MixQ, {'assignment': (('a', 20),)}, 'got 20'),
    ],
  )
  def test_errors(self, kind, values, message):
    with pytest.raises(ValueError, match=message):
      helpers.create_untyped(kind, values)
