import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lorap_jax.nn import groups, methods
from lorap_jax.nn.quantized import Quantized, Rows

X = jnp.ones((4, 3))
ROWS = Rows()


class Step(nn.Module):
  """A quantizer of somebody else, whose names say nothing."""

  param_groups = {'step': 'feature_scale', 'codes': 'frozen'}

  @nn.compact
  def __call__(self, x, *, rows):
    step = self.param('step', nn.initializers.ones, ())
    self.param('codes', nn.initializers.zeros, (2,))
    return Quantized(step * x)


class Undeclared(nn.Module):
  @nn.compact
  def __call__(self, x, *, rows):
    return Quantized(self.param('step', nn.initializers.ones, ()) * x)


class Forgetful(Step):
  param_groups = {'step': 'feature_scale'}


class Unknown(Step):
  param_groups = {'step': 'feature_scale', 'codes': 'fast'}


class Nested(nn.Module):
  """Declares its own parameter; the Dense inside is nobody's."""

  param_groups = {'step': 'feature_scale'}

  @nn.compact
  def __call__(self, x, *, rows):
    step = self.param('step', nn.initializers.ones, ())
    return Quantized(step * nn.Dense(3)(x))


class Layer(nn.Module):
  quantizer: type
  point: methods.Point = 'input'

  param_groups = 'base'

  @nn.compact
  def __call__(self, x):
    module = self.quantizer(name='output')
    y = methods.run_quantizer(module, self.point, x, rows=ROWS)
    return nn.Dense(2)(y.values)


def test_names_say_nothing():
  assert groups.param_labels(Layer(Step), X) == {
    'output': {'step': 'feature_scale', 'codes': 'frozen'},
    'Dense_0': {'kernel': 'base', 'bias': 'base'},  # As its network.
  }


def test_recorded_while_a_program_is_traced():
  layer = Layer(Step)
  params = layer.init(jax.random.key(0), X)['params']
  with groups.recording() as declared:
    jax.make_jaxpr(lambda p: layer.apply({'params': p}, X))(params)
  assert groups.label(params, declared) == groups.param_labels(layer, X)


def test_a_quantizer_that_declares_nothing():
  with pytest.raises(TypeError, match='Undeclared has no .*`param_groups`'):
    Layer(Undeclared).init(jax.random.key(0), X)


@pytest.mark.parametrize(
  'quantizer, message',
  [
    (Forgetful, "no module declares the .* of 'output/codes'; give its module"),
    (Unknown, "'output/codes' is of the parameter group 'fast'; the groups"),
    (Nested, "no module declares the parameter group of 'output/Dense_0/"),
  ],
)
def test_unknown_parameters(quantizer, message):
  with pytest.raises(ValueError, match=message):
    groups.param_labels(Layer(quantizer), X)


def test_network_without_a_declaration():
  with pytest.raises(ValueError, match="group of 'bias'"):
    groups.param_labels(nn.Dense(2), X)


def test_points_are_declared():
  """The quantizer is called `output`; what it holds is a readout's operand."""
  layer = Layer(Step, 'readout')
  variables = layer.init(jax.random.key(0), X)
  assert set(variables) == {'params'}
  _, sown = layer.apply(variables, X, mutable=['telemetry'])
  assert sown['telemetry']['output']['feature'].point == 'readout'
  weight = Layer(Step, 'weight')
  _, sown = weight.apply(variables, X, mutable=['telemetry'])
  assert 'output' not in sown.get('telemetry', {})
