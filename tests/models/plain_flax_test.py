"""A Flax user's plain loop needs to know no collections of this library."""

import functools

import jax
import jax.numpy as jnp
import networks
import optax
import pytest

from lorap_jax.nn import methods
from lorap_jax.quantization import a2q_groups

SCHEMES = {
  'a2q': methods.A2QGraph(num_groups=4, memory_weight=1.0, memory_target=0.0),
  'mixq': methods.MixQSearch(points=methods.OPERANDS),
  'dq': methods.DegreeQuant(),
}
WRITTEN = ['quant_stats', 'batch_stats', 'memory', 'telemetry', 'bit_usage']


def keys():
  names = ('params', 'dropout', 'quantization')
  return {name: jax.random.key(0) for name in names}


@pytest.mark.parametrize('name', SCHEMES)
def test_init_returns_what_is_trained_or_kept(name):
  graph = networks.batch_of().graph
  model = networks.make('gin', SCHEMES[name])
  init = functools.partial(model.init, train=True)
  variables = jax.eval_shape(init, keys(), graph)
  assert set(variables) <= {'params', 'batch_stats', 'quant_stats'}


@pytest.mark.parametrize('name', ['a2q', 'mixq'])
def test_a_pass_charges_memory_once(name):
  """Whatever variables it is given: those of init, or of a pass before."""
  graph = networks.batch_of().graph
  model = networks.make('gin', SCHEMES[name], num_layers=1)
  variables = jax.jit(functools.partial(model.init, train=True))(keys(), graph)
  apply = jax.jit(
    functools.partial(model.apply, train=True, mutable=WRITTEN, rngs=keys())
  )
  charged = []
  for _ in range(3):
    _, new = apply(variables, graph)
    variables = {**variables, **new}
    charged.append(float(sum(jax.tree.leaves(new['memory']))))
  assert charged[0] > 0 and charged == [charged[0]] * 3


def test_plain_loop():
  graph = networks.batch_of().graph
  model = networks.make('gin', SCHEMES['a2q'], num_layers=1)
  variables = jax.jit(functools.partial(model.init, train=True))(keys(), graph)
  params = variables.pop('params')
  optimizer = optax.adam(1e-2)
  state = optimizer.init(params)

  def loss_of(params, variables):
    logits, new = model.apply(
      {'params': params, **variables},
      graph,
      train=True,
      mutable=['batch_stats', 'memory'],
    )
    labels = jnp.arange(networks.REAL_GRAPHS) % 3
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits[: networks.REAL_GRAPHS], labels
    )
    memory = sum(jax.tree.leaves(new['memory']))
    penalty = a2q_groups.memory_penalty(memory, target=0.0, weight=1.0)
    return losses.mean() + penalty, new

  @jax.jit
  def step(params, state, variables):
    run = jax.value_and_grad(loss_of, has_aux=True)
    (loss, variables), grads = run(params, variables)
    updates, state = optimizer.update(grads, state)
    return loss, optax.apply_updates(params, updates), state, variables

  found = []
  for _ in range(20):
    loss, params, state, variables = step(params, state, variables)
    found.append(float(loss))
  assert found[-1] < 0.9 * found[0]
