"""Small networks for tests, what they are made of, and their runs."""

import functools

import helpers
import jax
import jax.numpy as jnp
import layers
import numpy as np

from lorap_jax.models import backbones, network
from lorap_jax.nn import methods

BACKBONES = {
  'gcn': backbones.GCN(),
  'gin': backbones.GIN(mlp_norm='last'),
  'gat': backbones.GAT(heads=3, last_heads=2),
  'rgcn': backbones.RGCN(),
}
REAL_GRAPHS = 6
KEPT = ('params', 'quant_stats', 'batch_stats')  # From step to step.


def as_arrays(graph_list, **kwargs):
  return jax.tree.map(jnp.asarray, layers.batch_of(graph_list, **kwargs))


@functools.cache
def batch_of(larger=False):
  budget = layers.LARGER if larger else layers.BUDGET
  return as_arrays(layers.graph_list(), budget=budget)


def make(backbone='gcn', scheme=None, **changes):
  fields = {'outputs': 3, 'features': 6, 'num_layers': 2, **changes}
  return network.Network(
    backbone=BACKBONES[backbone], scheme=scheme or methods.FP32(), **fields
  )


@functools.cache
def variables_of(model, *, jit=False):
  """Variables of a run; what starts at 0 or 1 has moved away from there."""
  init = functools.partial(model.init, train=True)
  init = jax.jit(init) if jit else init
  batch = batch_of()
  keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
  variables = init(keys, batch.graph, layout=batch.layout)
  rng = np.random.default_rng(0)

  def moved(path, leaf):
    at_start = path[-1].key == 'bias' or path[-2].key == 'bn'
    shift = rng.uniform(0.1, 0.5, leaf.shape) if at_start else 0.0
    return leaf + jnp.asarray(shift, leaf.dtype)

  for name in ('params', 'batch_stats'):
    if name in variables:
      variables[name] = jax.tree_util.tree_map_with_path(moved, variables[name])
  return {name: variables[name] for name in KEPT if name in variables}


def apply(model, variables, batch=None, *, train=False, rngs=None):
  """Outputs, what was written, and the calls of quantizers."""
  batch = batch or batch_of()
  return layers.recorded(
    lambda: model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=train,
      mutable=layers.WRITTEN,
      rngs=rngs,
    )
  )


def shapes_of(model, collection='params'):
  """Paths and shapes of a collection."""
  batch = batch_of()
  init = functools.partial(model.init, layout=batch.layout, train=False)
  tree = jax.eval_shape(init, jax.random.key(0), batch.graph)
  return helpers.tree_spec(tree.get(collection, {}))


def quantizers_of(model):
  """The quantizers of a network, by path."""
  batch = batch_of()
  return layers.quantizers_of(
    lambda key: model.init(key, batch.graph, layout=batch.layout, train=False)
  )
