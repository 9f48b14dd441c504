"""Relations: edges of several kinds, and means over the neighbours of each.

    a_ir = 1 / c_ir sum over the edges of relation r with receiver i of x_sender

where c_ir is the number of these edges, and a_ir = 0 where there is none.

A sum for each (receiver, relation) costs as many additions as one for each
receiver: edges in the order of both are those of R times as many receivers,
and a layout of the graph becomes one of these by new row pointers alone.

References:
  Schlichtkrull et al.: Modeling Relational Data with Graph Convolutional
  Networks, ESWC 2018, arXiv 1703.06103, equation 2.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from lorap_jax._typing import Array, Float, Int
from lorap_jax.graphs import neighborhood, segment, shards
from lorap_jax.graphs.aggregate import aggregate, edge_aggregate, weighted_sum
from lorap_jax.graphs.layout import Csr, Layout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('ids',),
  meta_fields=('count', 'ordered'),
)
class Relations:
  """The `edges` of a graph whose edges are of several kinds.

  Attributes:
    ids: int32 [e], the relation of each edge, from 0.
    count: R, the number of relations (static).
    ordered: edges are in the order of their receivers, and those of a receiver
      in that of their relations (static). Sums with a layout sort them if not.
  """

  def __init__(self, ids: Any, count: int, ordered: bool = False):
    self.ids = ids
    self.count = count
    self.ordered = ordered

  def take(self, edges: np.ndarray) -> 'Relations':
    """Those of some edges, in any order; on the host."""
    return Relations(self.ids[edges], self.count)

  def padded(self, num_edges: int) -> 'Relations':
    """With padding edges behind the others, of relation 0; on the host."""
    ids = np.zeros(num_edges, np.int32)
    ids[: len(self.ids)] = self.ids
    return Relations(ids, self.count, self.ordered)


def of(graph: jraph.GraphsTuple) -> Relations | None:
  """The relations of a graph; None where all edges are of one kind.

  Raises:
    ValueError: `edges` are something else.
  """
  found = graph.edges
  if found is None:
    return None
  senders: Any = graph.senders
  shape = getattr(getattr(found, 'ids', None), 'shape', None)
  if not isinstance(found, Relations) or shape != senders.shape:
    what = type(found).__name__ if shape is None else f'Relations of {shape}'
    raise ValueError(
      f'`graph.edges` is {what} for {senders.shape[0]} edges; give '
      'graphs.Relations(ids, count) with an integer for each edge, or None for '
      'one kind of edge'
    )
  return found


def joined(graphs: Sequence[jraph.GraphsTuple]) -> Relations | None:
  """The relations of the edges of several graphs, one after the other.

  Args:
    graphs: one at least, numpy arrays.

  Raises:
    ValueError: they have different numbers of relations.
  """
  found = [of(graph) for graph in graphs]
  counts = {None if r is None else r.count for r in found}
  if len(counts) > 1:
    raise ValueError(
      f'`graphs` have different numbers of relations: {counts}; give all of '
      'them Relations of one count'
    )
  (count,) = counts
  if count is None:
    return None
  return Relations(np.concatenate([r.ids for r in found if r]), count)


def degree(graph: jraph.GraphsTuple, num_nodes: int) -> Int[Array, 'm R']:
  """c_ir, edges of each relation that a node receives in the whole graph.

  Args:
    graph: whose edges are counted; padding edges count at padding nodes.
    num_nodes: n, padding included (static).

  Returns:
    int32 [n, R]; of a sampled graph [m, R].
  """
  relations, there = of(graph), neighborhood.of(graph)
  if relations is None:
    count = segment.in_degree(graph, num_nodes)
    return neighborhood.at_receivers(count, graph)[:, None]
  if there is not None:
    return jnp.asarray(there.relation_degree)
  keys = _keys(graph.receivers, relations, num_nodes)
  ones = jnp.ones(keys.shape, jnp.int32)
  size = num_nodes * relations.count
  return jax.ops.segment_sum(ones, keys, size).reshape(num_nodes, -1)


def mean_by_relation(
  x: Float[Array, 'n f'],
  graph: jraph.GraphsTuple,
  layout: Layout | None = None,
) -> Float[Array, 'm R f']:
  """a_ir, the mean over the senders of each relation.

  Args:
    x: node features [n, f].
    graph: its edges are used; they are of one relation without `Relations`.
    layout: of the same graph, from `make_layout` with `weighted`; None for
      segment_sum.

  Returns:
    [n, R, f]; of a sampled graph [m, R, f], unbiased estimates of the means
    over all edges: drawn ones count d / k times, c_ir is of the whole graph.

  Gradient:
    dx_j = sum over the edges that j sends of da_ir / c_ir.

  Raises:
    ValueError: other `edges` than `Relations`, or a layout for sums without
      weights, which does not say which edge is where.
  """
  relations, n, s = of(graph), x.shape[0], shards.count(graph)
  if relations is None:
    total = aggregate(x, graph, layout)
    return (total / jnp.maximum(degree(graph, n), 1))[:, None]
  if layout is not None and layout.outgoing.order is None:
    raise ValueError(
      '`layout` serves sums without weights only; build it with '
      'make_layout(..., weighted=True)'
    )
  senders, receivers = shards.inside((graph.senders, graph.receivers), s, n)
  total = shards.in_each(
    functools.partial(_sum_by_key, relations.ordered, relations.count),
    s,
    x,
    _weights(graph, relations, n),
    senders,
    _keys(receivers, relations, n),
    layout,
  )
  total = total.reshape(-1, relations.count, x.shape[1])
  return neighborhood.at_receivers(total, graph)


def mean_of_edges(
  messages: Float[Array, 'e f'], graph: jraph.GraphsTuple
) -> Float[Array, 'm R f']:
  """The mean over the edges of each relation, of a message for each edge.

  Args:
    messages: [e, f].
    graph: of which the edges and the number of nodes n are used.

  Returns:
    [n, R, f]; of a sampled graph as from `mean_by_relation`.

  Raises:
    ValueError: other `edges` than `Relations`.
  """
  relations, nodes = of(graph), graph.nodes
  n, s = nodes.shape[0], shards.count(graph)  # pyrefly: ignore
  if relations is None:
    total = edge_aggregate(messages, graph)
    return (total / jnp.maximum(degree(graph, n), 1))[:, None]
  receivers: Any = shards.inside((graph.receivers,), s, n)[0]
  total = shards.in_each(
    lambda t, k: jax.ops.segment_sum(t, k, n // s * relations.count),
    s,
    messages * _weights(graph, relations, n)[:, None],
    _keys(receivers, relations, n),
  )
  total = total.reshape(n, relations.count, -1)
  return neighborhood.at_receivers(total, graph)


def _weights(
  graph: jraph.GraphsTuple, relations: Relations, num_nodes: int
) -> Array:
  """1 / c of each edge [e]; of a drawn one d / (k c).

  On the edges, since dividing the sums [m, R, f] would be another pass over
  them: 40 % of the time of a mean, for R = 8 and 15 edges per node.
  """
  count = jnp.maximum(degree(graph, num_nodes), 1)
  weights = 1 / count[graph.receivers, relations.ids]
  factor = neighborhood.edge_factor(graph)
  return weights if factor is None else factor * weights


def _keys(receivers: Any, relations: Relations, num_nodes: int) -> Array:
  """Number of each edge's (receiver, relation)."""
  size = num_nodes * relations.count
  if size > np.iinfo(np.int32).max:
    raise ValueError(
      f'{num_nodes} nodes with {relations.count} relations are more sums than '
      'int32 counts; draw neighbourhoods'
    )
  return jnp.asarray(receivers) * relations.count + relations.ids


def _sum_by_key(
  ordered: bool,
  count: int,
  x: Array,
  weights: Array,
  senders: Any,
  keys: Array,
  layout: Layout | None,
) -> Array:
  """Weighted sums by key [m count, f]; with a layout by one of other rows."""
  if layout is None:
    messages = weights[:, None] * x[senders]
    return jax.ops.segment_sum(messages, keys, x.shape[0] * count)
  by_node: Any = layout.incoming  # Always CSR.
  num_keys = (by_node.indptr.shape[0] - 1) * count
  ones = jnp.ones(keys.shape, jnp.int32)
  ends = jnp.cumsum(jax.ops.segment_sum(ones, keys, num_keys))
  indptr = jnp.concatenate([jnp.zeros(1, ends.dtype), ends])
  incoming = Csr(indptr, senders)
  if not ordered:
    order = jnp.argsort(keys, stable=True)
    incoming = Csr(indptr, jnp.asarray(senders)[order], order)
  side: Any = layout.outgoing
  # An empty slot of a table is behind all edges, and then behind all keys.
  sent = keys.at[side.order].get(mode='fill', fill_value=num_keys)
  by_key = Layout(incoming, side._replace(indices=sent))
  total = weighted_sum(x[:, None], weights[:, None], senders, keys, by_key)
  return total[:, 0]
