"""What the tests of graph layers share: a batch, and recorded quantizers."""

import contextlib
import dataclasses
from typing import NamedTuple

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax import graphs
from lorap_jax.nn import methods
from lorap_jax.nn.quantized import Quantized, Rows

REAL, EDGES = 22, 58  # Nodes and edges of the batch that are not padding.
BUDGET = graphs.Budget(28, 64, 7, 16)
LARGER = graphs.Budget(40, 80, 9, 16)
WRITTEN = ['quant_stats', 'batch_stats', 'memory', 'local_loss']


class Call(NamedTuple):
  """What a quantizer received, and what it returned."""

  x: np.ndarray
  mask: np.ndarray | None
  protected: np.ndarray | None
  values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Unquantized(methods.FP32):
  """Full precision, summed as a scheme with quantized edges is."""

  edge_weights: bool = False
  edge_messages: bool = False


def graph_list(features=4):
  """Directed graphs with duplicate edges, self loops and isolated nodes."""
  source = helpers.random_graph(np.random.default_rng(5), 4, 4)
  # Node 0 sends without receiving, node 2 has a self loop, node 3 no edge.
  source = source._replace(
    nodes=np.random.default_rng(6).normal(size=(4, features)),
    senders=np.array([0, 0, 1, 2], np.int32),
    receivers=np.array([1, 2, 2, 2], np.int32),
  )
  return [*helpers.random_graphs(1, features=features), source]


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
  if protected is not None:
    protected = jnp.asarray(protected)
  mask = np.asarray(graphs.node_mask(batch.graph))[:, None]
  return Rows(jnp.asarray(mask), train, protected)


def adjacency(graph):
  """A[i, j]: edges that node i receives from node j, in float64."""
  matrix = np.zeros((len(graph.nodes),) * 2)
  np.add.at(matrix, (graph.receivers, graph.senders), 1)
  return matrix


def init(layer, batch, *, train=True):
  """Variables of a layer, the batch's own nodes its input."""
  batch = jax.tree.map(jnp.asarray, batch)
  variables = layer.init(
    {name: jax.random.key(0) for name in ('params', 'dropout')},
    batch.graph.nodes,
    batch.graph,
    rows=rows_of(batch, train=train),
    layout=batch.layout,
  )
  kept = ('params', 'quant_stats', 'batch_stats')
  return {name: variables[name] for name in kept if name in variables}


def apply(layer, variables, batch, *, nodes=None, rows=None, rngs=None):
  """Output, what the layer wrote, and the calls of its quantizers by path.

  Not compiled: a layer runs a few times only, and most operations are those of
  layers that ran before.
  """
  batch = jax.tree.map(jnp.asarray, batch)
  return recorded(
    lambda: layer.apply(
      variables,
      batch.graph.nodes if nodes is None else jnp.asarray(nodes),
      batch.graph,
      rows=rows_of(batch) if rows is None else rows,
      layout=batch.layout,
      mutable=WRITTEN,
      rngs=rngs,
    )
  )


def recorded(run):
  """What `run` returns, a pair, and the calls of its quantizers by path."""
  calls = {}

  def note(module, x, rows, out):
    call = Call(x, rows.mask, rows.protected, out.values)
    calls['/'.join(module.path)] = jax.device_get(call)

  with _on_quantizer(note):
    out, written = run()
  return jax.device_get(out), written, calls


def quantizers_of(init):
  """The quantizers that an initialization calls, by path; only traced."""
  found = {}

  def note(module, x, rows, out):
    del x, rows, out
    found['/'.join(module.path)] = module

  with _on_quantizer(note):
    jax.eval_shape(init, jax.random.key(0))
  return found


def points_of(layer, batch):
  """The quantizers that a layer calls, by path."""
  batch, rows = jax.tree.map(jnp.asarray, batch), rows_of(batch)
  return quantizers_of(
    lambda key: layer.init(key, batch.graph.nodes, batch.graph, rows=rows)
  )


@contextlib.contextmanager
def _on_quantizer(note):
  def intercept(function, args, kwargs, context):
    out = function(*args, **kwargs)
    # A network's own methods return quantized tensors as well.
    called = context.method_name == '__call__'
    if called and isinstance(out, Quantized):
      note(context.module, args[0], kwargs['rows'], out)
    return out

  with nn.intercept_methods(intercept):
    yield


def with_start(variables, name, value):
  """The variables with one parameter of the layer replaced."""
  return {**variables, 'params': {**variables['params'], name: value}}
