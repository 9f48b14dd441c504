"""What the tests of graph layers share: a batch, and recorded quantizers."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax import graphs
from lorap_jax.nn import schemes, telemetry
from lorap_jax.nn.rows import Rows

REAL = 18  # Nodes of the batch that are not padding.
BUDGET = graphs.Budget(24, 60, 6, 16)
LARGER = graphs.Budget(40, 80, 8, 16)
KINDS = ('none', 'csr', 'table')


class Call(NamedTuple):
  """What a quantizer received, and what it returned."""

  x: np.ndarray
  mask: np.ndarray | None
  protected: np.ndarray | None
  values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Unquantized(schemes.FP32):
  """Full precision, summed as a scheme with quantized edges is."""

  edge_weights: bool = False
  edge_messages: bool = False


def graph_list(features=4):
  """Directed graphs with duplicate edges, self loops and isolated nodes."""
  return helpers.random_graphs(1, features=features)


def batch_of(graph_list, *, budget=BUDGET, kind='table'):
  """A batch of weighted layout; outgoing edges as CSR, a table or none."""
  if kind == 'csr':
    budget = budget._replace(max_out_degree=100)
  return graphs.batch_graphs(
    graph_list,
    np.zeros(len(graph_list), int),
    budget,
    layout=kind != 'none',
    weighted=True,
  )


def rows_of(batch, *, train=False, protected=None):
  return Rows(graphs.node_mask(batch.graph)[:, None], train, protected)


def adjacency(graph):
  """A[i, j]: edges that node i receives from node j, in float64."""
  matrix = np.zeros((len(graph.nodes),) * 2)
  np.add.at(matrix, (graph.receivers, graph.senders), 1)
  return matrix


def init(layer, batch, *, train=True, key=0):
  """Variables of a layer, the batch's own nodes its input."""
  return jax.jit(
    lambda key: layer.init(
      {'params': key, 'dropout': key},
      jnp.asarray(batch.graph.nodes),
      batch.graph,
      rows=rows_of(batch, train=train),
      layout=batch.layout,
    )
  )(jax.random.key(key))


def apply(layer, variables, batch, *, nodes=None, rows=None, rngs=None):
  """Output, what the layer wrote, and the calls of its quantizers by path."""
  mutable = ['quant_stats', 'batch_stats', 'memory', 'local_loss', 'telemetry']
  variables = {
    name: tree
    for name, tree in variables.items()
    if name in ('params', 'quant_stats', 'batch_stats')
  }

  def run(variables, nodes):
    seen = {}

    def note(function, args, kwargs, context):
      out = function(*args, **kwargs)
      if isinstance(out, telemetry.Quantized):
        rows = kwargs['rows']
        path = '/'.join(context.module.path)
        seen[path] = Call(args[0], rows.mask, rows.protected, out.values)
      return out

    with nn.intercept_methods(note):
      out, written = layer.apply(
        variables,
        nodes,
        batch.graph,
        rows=rows_of(batch) if rows is None else rows,
        layout=batch.layout,
        mutable=mutable,
        rngs=rngs,
      )
    return out, written, seen

  nodes = batch.graph.nodes if nodes is None else nodes
  return jax.device_get(jax.jit(run)(variables, nodes))


def with_start(variables, name, value):
  """The variables with one parameter of the layer replaced."""
  return {**variables, 'params': {**variables['params'], name: value}}
