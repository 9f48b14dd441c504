"""Sampled neighbourhoods: what a layer needs to know of them.

A batch of target nodes needs fewer rows from layer to layer: the last layer
gives those of the targets, the layer before it those and their sampled
neighbours, and so on. Nodes are in the order in which they were found, so that
the rows of a later layer are the first rows of an earlier one. Each layer has
a padded graph of its own, whose receivers are the rows of the next.

Of the d_i edges that node i receives k_i are drawn, all alike. A sum over the
drawn ones is multiplied by d_i / k_i, which makes it an unbiased estimate of
the sum over all; degrees and norms are those of the whole graph.

References:
  Hamilton, Ying, Leskovec: Inductive Representation Learning on Large Graphs,
  NeurIPS 2017, arXiv 1706.02216, appendix A (fixed numbers of neighbours).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from lorap_jax._typing import Array
from lorap_jax.graphs.layout import Csr, Layout, make_csr
from lorap_jax.graphs.shards import RealGraphs


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('ids',),
  meta_fields=('count',),
)
class NodeNumbers:
  """Which nodes of the whole graph the rows of a tensor are.

  Attributes:
    ids: int32 [n]; 0 for padding.
    count: nodes of the whole graph.
  """

  def __init__(self, ids: Any, count: int):
    self.ids = ids
    self.count = count

  def first(self, count: int) -> 'NodeNumbers':
    """The numbers of the first rows."""
    return NodeNumbers(self.ids[:count], self.count)


class Neighborhood(NamedTuple):
  """What a sampled graph of n rows is of the whole one.

  Attributes:
    receivers: bool [m], real rows among the first m: those that sums are of.
    weight: float32 [m], d_i / k_i; 1 for nodes that receive no edge.
    in_degree: int32 [n], edges that each node receives in the whole graph.
    degree_share: float32 [n], share of its nodes that receive at most as many.
    loops: int32 [n], edges from each node to itself in the whole graph.
    numbers: of the nodes.
    relation_degree: int32 [m, R], edges of each relation that the receivers
      have in the whole graph; None where all edges are of one kind.
    observed: bool [n], rows that are drawn from the whole graph, all nodes
      alike, which ranges are observed on; None for all rows.
  """

  receivers: Any
  weight: Any
  in_degree: Any
  degree_share: Any
  loops: Any
  numbers: NodeNumbers
  relation_degree: Any = None
  observed: Any = None


class Sampled(NamedTuple):
  """The sampled neighbourhood of a batch of nodes, layer by layer.

  Attributes:
    nodes: float32 [n, f], the features that enter the first layer.
    layers: a padded graph for each layer; its nodes [n, 0] say how many rows
      enter it, its `RealGraphs` has the `Neighborhood`.
  """

  nodes: Any
  layers: tuple[jraph.GraphsTuple, ...]


class Facts(NamedTuple):
  """What a whole graph has for some of its nodes; numpy arrays.

  Attributes:
    ids: int [n], the nodes.
    count: nodes of the whole graph.
    in_degree: int [n], see `Neighborhood`.
    degree_share: float32 [n], likewise.
    loops: int32 [n], likewise.
    relation_degree: int32 [n, R], likewise.
  """

  ids: np.ndarray
  count: int
  in_degree: np.ndarray
  degree_share: np.ndarray
  loops: np.ndarray
  relation_degree: np.ndarray | None = None


def layer_graph(
  facts: Facts,
  senders: np.ndarray,
  counts: np.ndarray,
  *,
  num_rows: int,
  num_receivers: int,
  num_edges: int,
  layout: bool,
  weighted: bool,
  relations: Any = None,
  observed: np.ndarray | None = None,
) -> tuple[jraph.GraphsTuple, Layout | None]:
  """The padded graph of one layer, on the host.

  Args:
    facts: of the nodes of its rows; the first ones are the receivers.
    senders: row of each edge's sender, receiver by receiver.
    counts: edges of each receiver, k.
    num_rows: n, padding included, one row at least.
    num_receivers: m, padding included, one row at least; n at most.
    num_edges: e, padding included.
    layout: attach a layout.
    weighted: one that serves sums with edge weights.
    relations: of the edges, `graphs.Relations`; None where all are of one kind.
    observed: rows that ranges are observed on, their numbers; None for all.

  Returns:
    Graph with nodes [n, 0] and `Neighborhood`, and layout; numpy arrays.
  """
  n, m, e = len(facts.ids), len(counts), len(senders)
  receivers = np.repeat(np.arange(m, dtype=np.int32), counts)
  degree = facts.in_degree
  weight = np.where(counts > 0, degree[:m] / np.maximum(counts, 1), 1)
  by_relation = None
  if relations is not None:
    by_relation = np.zeros((num_receivers, relations.count), np.int32)
    by_relation[:m] = facts.relation_degree[:m]  # pyrefly: ignore
  seen = None
  if observed is not None:
    seen = np.zeros(num_rows, bool)
    seen[observed] = True
  lay = None
  if layout:
    incoming = Csr(
      padded(np.concatenate([[0], np.cumsum(counts)]), num_receivers + 1, e),
      padded(senders, num_edges),
    )
    outgoing = make_csr(senders, receivers, num_rows)
    order = padded(outgoing.order, num_edges) if weighted else None
    outgoing = Csr(outgoing.indptr, padded(outgoing.indices, num_edges), order)
    lay = Layout(incoming, outgoing)
  graph: Any = jraph.GraphsTuple
  graph = graph(
    nodes=np.zeros((num_rows, 0), np.float32),
    edges=None if relations is None else relations.padded(num_edges),
    senders=padded(senders, num_edges, num_rows - 1),
    receivers=padded(receivers, num_edges, num_receivers - 1),
    n_node=np.array([n, num_rows - n], np.int32),
    n_edge=np.array([e, num_edges - e], np.int32),
    globals=RealGraphs(
      np.array([True, False]),
      Neighborhood(
        receivers=np.arange(num_receivers) < m,
        weight=padded(weight.astype(np.float32), num_receivers, 1),
        in_degree=padded(degree, num_rows),
        degree_share=padded(facts.degree_share, num_rows),
        loops=padded(facts.loops, num_rows),
        numbers=NodeNumbers(padded(facts.ids, num_rows), facts.count),
        relation_degree=by_relation,
        observed=seen,
      ),
    ),
  )
  return graph, lay


def padded(a: Any, size: int, value: int | float = 0) -> np.ndarray:
  """A one-dimensional array in 32 bits, filled up to a size."""
  kind = np.float32 if np.asarray(a).dtype.kind == 'f' else np.int32
  out = np.full(size, value, kind)
  out[: len(a)] = a
  return out


def of(graph: jraph.GraphsTuple) -> Neighborhood | None:
  """What the graph is of a larger one; None where it is whole."""
  real = graph.globals
  return real.neighborhood if isinstance(real, RealGraphs) else None


def of_layers(
  graph: jraph.GraphsTuple | Sampled, layout: Any, count: int
) -> list[tuple[jraph.GraphsTuple, Any]]:
  """The graph and the layout of each layer.

  Args:
    graph: one for all layers, or a sampled one.
    layout: of the graph, or of each layer of a sampled one; None for none.
    count: number of layers.

  Raises:
    ValueError: a sampled graph of another number of layers.
  """
  if not isinstance(graph, Sampled):
    return [(graph, layout)] * count
  if len(graph.layers) != count:
    raise ValueError(
      f'`graph` is sampled for {len(graph.layers)} layers, there are {count}; '
      'sample one fan-out for each'
    )
  layouts = [None] * count if layout is None else layout
  return list(zip(graph.layers, layouts, strict=True))


def at_receivers(t: Array, graph: jraph.GraphsTuple) -> Array:
  """The rows of t [n, ...] that have sums: all, or the first m."""
  there = of(graph)
  return t if there is None else t[: there.receivers.shape[0]]


def whole_sum(total: Array, graph: jraph.GraphsTuple) -> Array:
  """The estimate of a sum over all edges from that over the drawn ones.

  Args:
    total: sums [m, ...] over the edges of `graph`.
    graph: where it is whole, so are its sums.
  """
  there = of(graph)
  if there is None:
    return total
  return total * there.weight.reshape(-1, *[1] * (total.ndim - 1))


def edge_factor(graph: jraph.GraphsTuple) -> Array | None:
  """The factor d / k of each edge's receiver [e]; None of a whole graph."""
  there = of(graph)
  return None if there is None else jnp.asarray(there.weight)[graph.receivers]
