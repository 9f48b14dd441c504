import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from lorap_jax.nn import methods
from lorap_jax.training import passes

SCHEMES = {
  'fp32': methods.FP32(),
  'qat': methods.QAT(bits=3),
  'dq': methods.DegreeQuant(low=0.5, change=0.0),
  'a2q': methods.A2QGraph(num_groups=4, memory_weight=1.0, memory_target=0.0),
}


@pytest.fixture(scope='module', params=SCHEMES)
def made(request):
  scheme = SCHEMES[request.param]
  model = networks.make('gin', scheme, num_layers=1)
  graph = networks.batch_of().graph
  return scheme, model, graph, start(model, graph)


@pytest.fixture(scope='module')
def trained(made):
  """A pass in training."""
  _, model, graph, variables = made
  return train(model)(variables, graph, key=jax.random.key(0))[1]


def start(model, graph):
  init = jax.jit(functools.partial(passes.init, model, train=True))
  return init(jax.random.key(0), graph)


def train(model):
  return jax.jit(functools.partial(passes.apply, model, train=True))


def same(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in leaves)


def test_evaluation_changes_nothing(made):
  _, model, graph, variables = made
  # Compiled alike, to the last bit.
  outputs, seen = jax.jit(functools.partial(passes.apply, model))(
    variables, graph
  )
  plain = jax.jit(functools.partial(model.apply, train=False))(variables, graph)
  np.testing.assert_array_equal(outputs, plain)
  assert seen.variables.keys() == variables.keys()
  assert same(seen.variables, variables)


def test_training_updates_the_statistics_and_no_parameter(made, trained):
  *_, variables = made
  seen = trained
  assert same(seen.variables['params'], variables['params'])
  for name in {'batch_stats', 'quant_stats'} & variables.keys():
    assert not same(seen.variables[name], variables[name]), name


def test_memory_and_bits_are_those_of_the_scheme(made, trained):
  scheme, *_ = made
  seen = trained
  bits = float(passes.average_bits(seen, scheme))
  charged = float(scheme.penalty(seen.memory))
  if isinstance(scheme, methods.A2QGraph):
    assert 3.5 <= bits <= 4.5 and charged > 0
    assert charged == pytest.approx(float(seen.memory) ** 2, rel=1e-6)
  else:
    expected = {'FP32': 32, 'QAT': 3, 'DegreeQuant': 4}
    assert bits == expected[type(scheme).__name__] and charged == 0
  assert seen.local_loss == 0


def test_keys_draw_the_protected_nodes():
  model = networks.make('gin', SCHEMES['dq'], num_layers=1)
  graph = networks.batch_of().graph
  variables, run = start(model, graph), train(model)
  outputs = [
    run(variables, graph, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
  ]
  assert jnp.array_equal(outputs[0], outputs[1])
  assert not jnp.array_equal(outputs[0], outputs[2])
