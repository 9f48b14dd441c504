"""Draws which nodes a scheme leaves in full precision while training."""

import flax.linen as nn
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array
from lorap_jax.graphs import neighborhood, partition, shards
from lorap_jax.nn.methods import Scheme
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization import degree_quant


def node_rows(
  module: nn.Module,
  scheme: Scheme,
  graph: jraph.GraphsTuple,
  mask: Array,
  *,
  train: bool,
) -> Rows:
  """The rows of the nodes, with a new draw of protected ones if there are any.

  Args:
    module: the calling module, for its random stream `quantization`.
    scheme: says who is protected.
    graph: a padded batch.
    mask: bool [n, 1], True for real nodes.
    train: nothing is protected at evaluation.

  Returns:
    Rows [n, 1].
  """
  chance = scheme.protection()
  order = shards.order(mask[:, 0], shards.count(graph))
  there, shared = neighborhood.of(graph), partition.of(graph)
  numbers = None if there is None else there.numbers
  if shared is not None:  # Whose padding is behind all nodes.
    order = None
    ids = jnp.arange(mask.shape[0], dtype=jnp.int32)
    numbers = neighborhood.NodeNumbers(ids, shared.num_nodes)
  seen = None if there is None or not train else there.observed
  seen = None if seen is None else jnp.asarray(seen)[:, None]
  if chance is None or not train:
    return Rows(mask, train, order=order, numbers=numbers, observed=seen)
  num_nodes = mask.shape[0]
  bounds = {'low': chance.low, 'change': chance.change}
  if there is None:
    probability = degree_quant.protection_probability(
      graphs.in_degree(graph, num_nodes),
      graphs.node_graph_idx(graph, num_nodes),
      **bounds,
    )
  else:
    probability = degree_quant.probability_of_share(
      jnp.asarray(there.degree_share), **bounds
    )
  key = module.make_rng('quantization')
  if order is None:
    drawn = degree_quant.protective_mask(key, probability)
  else:
    drawn = degree_quant.protective_mask(key, probability[order])
    drawn = drawn[jnp.argsort(order)]
  return Rows(mask, train, drawn[:, None], order, numbers, seen)


def redraws(scheme: Scheme) -> bool:
  """True if every layer has a draw of its own."""
  chance = scheme.protection()
  return chance is not None and chance.redraw
