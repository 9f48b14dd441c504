"""Padded batches of a static shape, so that one compilation serves a run."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np

from lorap_jax._typing import Array
from lorap_jax.graphs import checks, segment, shards
from lorap_jax.graphs import relations as relations_lib
from lorap_jax.graphs.layout import Csr, Layout, Table, make_csr, make_layout
from lorap_jax.graphs.relations import Relations

_INT32 = np.iinfo(np.int32)


class Budget(NamedTuple):
  """The static shape of every batch, padding included.

  A batch has a padding graph of at least one node, unless its graphs are
  exactly as large as the budget.

  Attributes:
    num_nodes: n, padding included.
    num_edges: e, padding included.
    num_graphs: g, padding included.
    max_out_degree: bound on the edges a node sends, for the layout.
  """

  num_nodes: int
  num_edges: int
  num_graphs: int
  max_out_degree: int


class Batch(NamedTuple):
  """A padded batch.

  Attributes:
    graph: jraph.GraphsTuple with nodes [n, f] and int32 indices, padded as by
      `jraph.pad_with_graphs`, with `shards.RealGraphs` as its globals; edges
      are sorted by receiver.
    labels: int32 or float32 [g], 0 for padding graphs; [n] for node tasks.
    layout: of the graph, or None where segment_sum serves.
    targets: bool like labels, those that count; None for all real graphs.
  """

  graph: jraph.GraphsTuple
  labels: Array | np.ndarray
  layout: Layout | None
  targets: Array | np.ndarray | None = None

  def target_mask(self) -> Array | np.ndarray:
    """`targets`, or the mask of the real graphs."""
    if self.targets is not None:
      return self.targets
    return segment.graph_mask(self.graph)


def check_batch_size(batch_size: int) -> None:
  """Raises ValueError unless it is an integer from 1 on, of int32."""
  whole = isinstance(batch_size, int | np.integer)
  if not whole or isinstance(batch_size, bool) or batch_size > _INT32.max:
    raise ValueError(
      f'`batch_size` must be an integer of int32, got {batch_size!r}'
    )
  if batch_size < 1:
    raise ValueError(f'`batch_size` must be at least 1, got {batch_size}')


def choose_budget(
  n_node: np.ndarray,
  n_edge: np.ndarray,
  *,
  batch_size: int,
  max_out_degree: int,
) -> Budget:
  """A budget that nearly every batch of batch_size graphs fills and fits.

  Nodes: 4 standard deviations above the mean of a random batch, at least the
  largest graph, at most the batch_size largest, plus one for padding, rounded
  up to 64; edges likewise. Batches that would not fit take fewer graphs.

  Args:
    n_node: nodes of each graph of the data set.
    n_edge: edges of each graph.
    batch_size: graphs per batch.
    max_out_degree: bound on the edges a node sends.

  Returns:
    The budget.

  Raises:
    ValueError: batch_size below 1, or no graphs.
  """
  check_batch_size(batch_size)
  if n_node.size == 0:
    raise ValueError('no graphs to choose a budget for: the split is empty')

  def bound(sizes):
    spread = 4 * math.sqrt(batch_size) * float(sizes.std())
    usual = batch_size * float(sizes.mean()) + spread
    most = np.sort(sizes)[-batch_size:].sum()
    needed = max(int(sizes.max()), min(math.ceil(usual), int(most)))
    return 64 * math.ceil((needed + 1) / 64)

  return Budget(bound(n_node), bound(n_edge), batch_size + 1, max_out_degree)


def larger(budget: Budget) -> Budget:
  """The next larger shape, for what does not fit: a quarter more."""
  more = lambda size: 64 * math.ceil(1.25 * size / 64)
  return budget._replace(
    num_nodes=more(budget.num_nodes), num_edges=more(budget.num_edges)
  )


def plan_batches(
  order: np.ndarray, n_node: np.ndarray, n_edge: np.ndarray, budget: Budget
) -> Iterator[np.ndarray]:
  """Cuts an order of graphs into batches that fit the budget.

  Args:
    order: graph numbers in the order of training.
    n_node: nodes of every graph, indexed by graph number.
    n_edge: edges of every graph.
    budget: padded sizes, from `choose_budget`.

  Yields:
    Consecutive pieces of `order`.

  Raises:
    ValueError: a graph larger than the budget, by its number and size.
  """
  for sizes, limit, what in (
    (n_node, budget.num_nodes - 1, 'nodes'),
    (n_edge, budget.num_edges, 'edges'),
  ):
    large = order[sizes[order] > limit]
    if large.size:
      raise ValueError(
        f'graph {large[0]} has {sizes[large[0]]} {what}, more than the '
        f'{limit} of the batch budget; raise the budget or drop the graph'
      )
  start = nodes = edges = 0
  for stop, graph in enumerate(order):
    nodes += n_node[graph]
    edges += n_edge[graph]
    full = (
      nodes > budget.num_nodes - 1
      or edges > budget.num_edges
      or stop - start >= budget.num_graphs - 1
    )
    if full:
      yield order[start:stop]
      start, nodes, edges = stop, n_node[graph], n_edge[graph]
  if start < len(order):
    yield order[start:]


def batch_graphs(
  graphs: list[jraph.GraphsTuple],
  labels: np.ndarray,
  budget: Budget,
  *,
  layout: bool = True,
  weighted: bool = False,
) -> Batch:
  """Batches and pads single graphs.

  Args:
    graphs: each with n_node [1] and nodes [n_i, f]; some may have no node.
      Their `edges` are None, or `Relations` of one count.
    labels: int or float [len(graphs)].
    budget: the static shape.
    layout: False leaves the layout out.
    weighted: the layout serves sums with a weight per edge as well.

  Returns:
    A batch of numpy arrays.

  Raises:
    ValueError: the graphs do not fit the budget; no graphs, no nodes, another
      number of features or of labels, or what `checks.check_graph` refuses.
  """
  graphs = [
    checks.check_graph(graph, f'graphs[{i}]', empty=True)
    for i, graph in enumerate(graphs)
  ]
  if not graphs:
    raise ValueError('`graphs` is empty; give at least one graph')
  widths = sorted({graph.nodes.shape[1] for graph in graphs})  # pyrefly: ignore
  if len(widths) > 1:
    raise ValueError(f'`graphs` have different numbers of features: {widths}')
  labels = checks.as_array(labels, 'labels')
  count = sum(len(graph.n_node) for graph in graphs)
  if labels.shape != (count,) or labels.dtype.kind not in 'fiub':
    raise ValueError(
      f'`labels` is {labels.dtype} {labels.shape}; give a number for each of '
      f'the {count} graphs'
    )
  limits = np.finfo(np.float32) if labels.dtype.kind == 'f' else _INT32
  if not ((labels >= limits.min) & (labels <= limits.max)).all():
    raise ValueError(
      '`labels` holds a number that is not finite, or none of float32 or int32'
    )
  kinds = relations_lib.joined(graphs)
  joined: Any = jraph.batch_np([g._replace(edges=None) for g in graphs])
  return pad_batch(
    joined.nodes,
    joined.senders,
    joined.receivers,
    joined.n_node,
    joined.n_edge,
    labels,
    budget,
    layout=layout,
    weighted=weighted,
    relations=kinds,
  )


def pad_batch(
  nodes: np.ndarray,
  senders: np.ndarray,
  receivers: np.ndarray,
  n_node: np.ndarray,
  n_edge: np.ndarray,
  labels: np.ndarray,
  budget: Budget,
  *,
  layout: bool = True,
  weighted: bool = False,
  relations: Relations | None = None,
) -> Batch:
  """Pads the arrays of a batch to the budget.

  Args:
    nodes: [sum n, f].
    senders: batch-wide node numbers [sum e].
    receivers: batch-wide node numbers [sum e].
    n_node: [graphs].
    n_edge: [graphs].
    labels: int or float [graphs].
    budget: the static shape.
    layout: False leaves the layout out.
    weighted: the layout serves sums with a weight per edge as well.
    relations: of the edges; None where all are of one kind.

  Returns:
    A batch of numpy arrays, its edges sorted by receiver, those of a receiver
    by relation.

  Raises:
    ValueError: the graphs do not fit the budget.
  """
  free = (
    budget.num_nodes - len(nodes),
    budget.num_edges - len(senders),
    budget.num_graphs - len(n_node),
  )
  padded = free != (0, 0, 0)
  if padded and (free[0] < 1 or free[1] < 0 or free[2] < 1):
    raise ValueError(
      f'{len(n_node)} graphs with {len(nodes)} nodes and {len(senders)} edges '
      f'do not fit the budget {budget}, which keeps one node and one graph '
      'for padding; use fewer graphs or a larger budget'
    )
  if relations is not None:
    order = np.lexsort((relations.ids, receivers))
    senders, receivers = senders[order], receivers[order]
    ordered = Relations(relations.ids[order], relations.count, True)
    relations = ordered.padded(budget.num_edges)
  if weighted:
    order = np.argsort(receivers, kind='stable')
    senders, receivers = senders[order], receivers[order]
  # Edges in the order of their receivers, with a layout and without.
  lay = None
  if layout:
    made: Any = make_layout(
      senders,
      receivers,
      budget.num_nodes,
      max_out_degree=budget.max_out_degree,
      weighted=weighted,
    )
    incoming = made.incoming  # Always CSR.
    lay = Layout(*(_pad_side(side, free[1]) for side in made))
  else:
    incoming = make_csr(receivers, senders, budget.num_nodes)
  degree = np.diff(incoming.indptr)
  senders = np.asarray(incoming.indices)
  receivers = np.repeat(np.arange(budget.num_nodes, dtype=np.int32), degree)
  first_padding = len(nodes)
  if padded:
    n_node, n_edge = np.append(n_node, free[0]), np.append(n_edge, free[1])
  more_graphs = budget.num_graphs - len(n_node)
  real = np.arange(budget.num_graphs) < budget.num_graphs - free[2]
  graph = jraph.GraphsTuple(
    nodes=_pad(nodes.astype(np.float32), free[0]),
    edges=relations,  # pyrefly: ignore
    senders=_pad(senders, free[1], first_padding),
    receivers=_pad(receivers, free[1], first_padding),
    n_node=_pad(n_node.astype(np.int32), more_graphs),
    n_edge=_pad(n_edge.astype(np.int32), more_graphs),
    globals=shards.RealGraphs(real) if padded else None,
  )
  kind = np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int32
  labels = _pad(labels.astype(kind), free[2])
  return Batch(graph, labels, lay)


def join_shards(
  batches: Sequence[Batch], places: Sequence[int] | None = None
) -> Batch:
  """Padded batches of one shape as the shards of one batch, see `shards`.

  Args:
    batches: of numpy arrays, of graphs; padded, all to one budget.
    places: of each among all shards, where these are some of them.

  Returns:
    A batch whose rows are those of all, one behind the other.
  """
  shifted, masks = [], []
  for i, batch in zip(places or range(len(batches)), batches, strict=True):
    graph: Any = batch.graph
    shift = np.int32(i * len(graph.nodes))
    masks.append(graph.globals.mask)
    graph = graph._replace(
      senders=graph.senders + shift,
      receivers=graph.receivers + shift,
      globals=None,
    )
    shifted.append(batch._replace(graph=graph))
  joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *shifted)
  masks = np.stack(masks)
  return joined._replace(
    graph=joined.graph._replace(globals=shards.RealGraphs(masks))
  )


def _pad(a: Any, count: int, value: int = 0) -> Any:
  return np.concatenate([a, np.full((count, *a.shape[1:]), value, a.dtype)])


def _pad_side(side: Csr | Table, count: int) -> Csr | Table:
  if isinstance(side, Table):
    return side
  order = None if side.order is None else _pad(side.order, count)
  return Csr(side.indptr, _pad(side.indices, count), order)


def partition_graph(
  nodes: np.ndarray,
  senders: np.ndarray,
  receivers: np.ndarray,
  num_shards: int,
  *,
  layout: bool = True,
  weighted: bool = False,
) -> Batch:
  """One graph as a batch whose nodes several devices share, see `partition`.

  Args:
    nodes: [n, f].
    senders: int [e], numbers of nodes.
    receivers: int [e].
    num_shards: s.
    layout: False leaves the layout out.
    weighted: the layout serves sums with a weight per edge as well.

  Returns:
    A batch of numpy arrays without labels: s parts of as many nodes, with
    padding behind the last real one, and of as many edges, in the order of
    their receivers, padding behind those of each part.
  """
  n, s = len(nodes), num_shards
  size = -(-(n + 1) // s)  # One row at least is padding.
  total = s * size
  order = np.argsort(receivers, kind='stable')
  senders, receivers = senders[order], receivers[order]
  ends = np.searchsorted(receivers, size * np.arange(s + 1))
  num_edges = max(int(np.diff(ends).max()), 1)

  def by_part(values: np.ndarray, limits: np.ndarray, fill: int) -> np.ndarray:
    """Values of each part, filled up to as many."""
    room = max(int(np.diff(limits).max()), 1)
    out = np.full((s, room), fill, np.int32)
    for i in range(s):
      part = values[limits[i] : limits[i + 1]]
      out[i, : len(part)] = part
    return out.reshape(-1)

  def side(rows: np.ndarray, columns: np.ndarray, edges: Any) -> Csr:
    """The columns of each row, part by part."""
    csr: Any = make_csr(rows, columns, total)
    limits = csr.indptr[size * np.arange(s + 1)]
    starts = [csr.indptr[size * i : size * (i + 1) + 1] for i in range(s)]
    indptr = np.concatenate([part - part[0] for part in starts])
    ordered = None if edges is None else by_part(edges[csr.order], limits, 0)
    return Csr(
      indptr.astype(np.int32), by_part(csr.indices, limits, 0), ordered
    )

  lay = None
  if layout:
    part = np.repeat(np.arange(s), np.diff(ends))
    place = part * num_edges + np.arange(len(senders)) - ends[part]
    lay = Layout(
      side(receivers, senders, None),
      side(senders, receivers, place if weighted else None),
    )
  real = np.clip(n - size * np.arange(s), 0, size)
  counts = np.diff(ends)
  pairs = lambda a, whole: np.stack([a, whole - a], 1).reshape(-1)
  made: Any = jraph.GraphsTuple
  graph = made(
    nodes=_pad(nodes.astype(np.float32), total - n),
    edges=None,
    senders=by_part(senders, ends, total - 1),
    receivers=by_part(receivers, ends, total - 1),
    n_node=pairs(real, size).astype(np.int32),
    n_edge=pairs(counts, num_edges).astype(np.int32),
    globals=shards.RealGraphs(
      np.tile([True, False], (s, 1)), partition=shards.Partition(n)
    ),
  )
  return Batch(graph, np.zeros(total, np.int32), lay)
