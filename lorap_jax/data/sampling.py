"""Sampled neighbourhoods of one graph, as batches of static shapes.

From each node of a batch, and from each node found in turn, up to k of the
edges that it receives are drawn without replacement, another k for each layer.
A node's edges are drawn once, where it is found first. The draw depends on
(seed, epoch, step, node) alone: a run that goes on draws what it would have
drawn. The arrays of the graph may lie on disk (`numpy.memmap`): only rows and
edges that a batch needs are read.

References:
  Hamilton, Ying, Leskovec, NeurIPS 2017, arXiv 1706.02216, appendix A.
  Floyd, in Bentley: Programming Pearls, CACM 30(9), 1987 (draws without
  replacement).
  Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA
  2014 (the mixing function).
"""

import math
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lorap_jax.data import pipeline
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.graphs import batching, neighborhood
from lorap_jax.graphs.relations import Relations

_CHUNK = 1 << 22  # Edges that are looked at together.
_PROBES = 4  # Batches that the first budget is measured on.
_MARGIN = 1.1


class InEdges(NamedTuple):
  """The edges of a graph, in the order of their receivers.

  Attributes:
    indptr: int64 [n + 1]; node i receives edges indptr[i] to indptr[i + 1] - 1.
    senders: int32 [e].
    loops: int32 [n], edges from each node to itself; None where there is none.
    share: float32 [d + 1], share of nodes that receive at most so many edges.
    relations: int32 [e], in order among the edges of each node; None where all
      edges are of one kind.
    relation_degree: int32 [n, R], edges of each relation that each node
      receives; None likewise.
  """

  indptr: np.ndarray
  senders: np.ndarray
  loops: np.ndarray | None
  share: np.ndarray
  relations: np.ndarray | None = None
  relation_degree: np.ndarray | None = None

  @property
  def num_nodes(self) -> int:
    """Number of nodes n."""
    return len(self.indptr) - 1

  def degree(self, nodes: np.ndarray) -> np.ndarray:
    """Edges that these nodes receive, int64."""
    return self.indptr[nodes + 1] - self.indptr[nodes]

  def facts(self, nodes: np.ndarray) -> neighborhood.Facts:
    """What the whole graph has for these nodes."""
    degree = self.degree(nodes)
    zeros = np.zeros(len(nodes), np.int32)
    return neighborhood.Facts(
      nodes,
      self.num_nodes,
      degree,
      self.share[degree],
      zeros if self.loops is None else self.loops[nodes],
      None if self.relation_degree is None else self.relation_degree[nodes],
    )

  def relations_at(self, places: np.ndarray) -> Relations | None:
    """The relations of edges, receiver by receiver; None of one kind."""
    if self.relations is None or self.relation_degree is None:
      return None
    count = self.relation_degree.shape[1]
    return Relations(self.relations[places], count, True)


def in_edges(data: NodeDataset) -> InEdges:
  """The edges of a data set by receiver; sorted here if they are not.

  Raises:
    ValueError: edges said to be in order are not in that of their relations.
  """
  count, indptr = data.num_nodes, data.indptr
  senders, receivers = data.senders, data.receivers
  relations = data.relations
  if indptr is None:
    degree = np.bincount(receivers, minlength=count)
    indptr = np.concatenate([[0], np.cumsum(degree)])
    if relations is not None:
      order = np.lexsort((relations, receivers))
      senders, relations = senders[order], relations[order]
    elif np.any(receivers[1:] < receivers[:-1]):
      senders = senders[np.argsort(receivers, kind='stable')]
  indptr = np.asarray(indptr, np.int64)
  counts = np.bincount(np.diff(indptr))
  return InEdges(
    indptr,
    senders,
    _loops(indptr, senders),
    (np.cumsum(counts) / count).astype(np.float32),
    relations,
    _relation_degree(indptr, relations, data.num_relations),
  )


def _receivers(indptr: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """Edges in pieces, and who receives each."""
  num_edges = int(indptr[-1])
  for start in range(0, num_edges, _CHUNK):
    stop = min(start + _CHUNK, num_edges)
    first = np.searchsorted(indptr, start, 'right') - 1
    last = np.searchsorted(indptr, stop, 'left')
    ends = np.clip(indptr[first : last + 1], start, stop)
    yield slice(start, stop), np.repeat(np.arange(first, last), np.diff(ends))


def _relation_degree(
  indptr: np.ndarray, relations: np.ndarray | None, count: int | None
) -> np.ndarray | None:
  if relations is None or count is None:
    return None
  degree = np.zeros((len(indptr) - 1) * count, np.int32)
  before = -1
  for piece, receivers in _receivers(indptr):
    keys = receivers * count + relations[piece]
    if keys[0] < before or np.any(keys[1:] < keys[:-1]):
      raise ValueError(
        'the edges of a node are not in the order of their relations; sort '
        'them, or leave `indptr` out'
      )
    before = keys[-1]
    ids, counts = np.unique(keys, return_counts=True)
    degree[ids] += counts.astype(np.int32)
  return degree.reshape(-1, count)


def _loops(indptr: np.ndarray, senders: np.ndarray) -> np.ndarray | None:
  found = []
  for piece, receivers in _receivers(indptr):
    found.append(receivers[senders[piece] == receivers])
  ids = np.concatenate(found) if found else np.zeros(0, np.int64)
  if not ids.size:
    return None
  return np.bincount(ids, minlength=len(indptr) - 1).astype(np.int32)


def draw_edges(
  indptr: np.ndarray, nodes: np.ndarray, fanout: int, key: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws up to `fanout` of the edges that each node receives.

  All subsets of that size are alike likely; all edges where there are no more.

  Args:
    indptr: of `InEdges`.
    nodes: int [m], distinct.
    fanout: k, at least 1.
    key: the draw of a node depends on it and on the node.

  Returns:
    Numbers of the edges, int64, node by node and in their order, and how many
    of each node, [m].
  """
  first = indptr[nodes]
  degree = indptr[nodes + 1] - first
  fanout = min(fanout, max(int(degree.max(initial=0)), 1))
  counts = np.minimum(degree, fanout)
  places = np.empty((fanout, len(nodes)), np.int64)
  places[:] = np.arange(fanout)[:, None]
  many = np.flatnonzero(degree > fanout)
  if many.size:
    drawn = _floyd(degree[many], nodes[many], fanout, key)
    places[:, many] = np.sort(drawn, axis=0)  # In the order of the edges.
  chosen = (first + places).T
  there = np.arange(fanout) < counts[:, None]
  return chosen[there], counts


def _floyd(
  degree: np.ndarray, nodes: np.ndarray, fanout: int, key: int
) -> np.ndarray:
  """Distinct numbers below each degree [fanout, m], by Floyd's method."""
  chosen = np.empty((fanout, len(nodes)), np.int64)
  state = _mixed(nodes.astype(np.uint64) ^ np.uint64(key))
  for j in range(fanout):
    last = degree - fanout + j
    bits = _mixed(state + np.uint64((j + 1) * _GOLDEN & _MASK)) >> _HALF
    # A product of 32-bit numbers; its upper half is below the range.
    pick = ((bits * (last + 1).astype(np.uint64)) >> _HALF).astype(np.int64)
    taken = (chosen[:j] == pick).any(axis=0)
    chosen[j] = np.where(taken, last, pick)
  return chosen


_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_HALF = np.uint64(32)
_ROUNDS = (
  (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
  (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def _mixed(x: np.ndarray) -> np.ndarray:
  """splitmix64's output function, on uint64."""
  for shift, factor in _ROUNDS:
    x = (x ^ (x >> shift)) * factor
  return x ^ (x >> np.uint64(31))


def draw_key(*numbers: int) -> int:
  """A key for `draw_edges` from numbers such as seed, epoch and step."""
  state = np.zeros(1, np.uint64)
  for number in numbers:
    word = np.uint64((number + _GOLDEN) & _MASK)
    state = _mixed(state * np.uint64(_ROUNDS[0][1]) + word)
  return int(state[0])


class Numbering:
  """Gives nodes the numbers of rows, in the order in which they come.

  Attributes:
    ids: the nodes so far.
  """

  def __init__(self, num_nodes: int):
    self._row = np.full(num_nodes, -1, np.int32)
    self._parts: list[np.ndarray] = []
    self.count = 0

  def add(self, nodes: np.ndarray) -> np.ndarray:
    """Numbers those that are new; returns them, each once."""
    new = nodes[self._row[nodes] < 0]
    # Of equal ones the last write stays: each node has one place.
    place = np.arange(len(new), dtype=np.int32)
    self._row[new] = place
    new = new[self._row[new] == place]
    self._row[new] = np.arange(self.count, self.count + len(new))
    self._parts.append(new)
    self.count += len(new)
    return new

  def rows(self, nodes: np.ndarray) -> np.ndarray:
    """The rows of nodes that were added, int32."""
    return self._row[nodes]

  def take(self) -> np.ndarray:
    """All nodes in the order of their rows; none is numbered afterwards."""
    ids = np.concatenate(self._parts)
    self._row[ids] = -1
    self._parts, self.count = [], 0
    return ids


class NeighborBudget(NamedTuple):
  """The static shape of a sampled batch, padding included.

  Attributes:
    rows: of the targets, of these with what is found in a hop, in two, ...;
      one of each is padding.
    edges: drawn in the first hop, in the first two, ...
  """

  rows: tuple[int, ...]
  edges: tuple[int, ...]


class Targets(NamedTuple):
  """The nodes that a batch is for.

  Attributes:
    ids: int [t], distinct.
    key: of the draws.
    beside: so many nodes are drawn from the whole graph, and those that are no
      targets are computed beside them. Nobody reads their labels.
  """

  ids: np.ndarray
  key: int
  beside: int = 0


class Found(NamedTuple):
  """The neighbourhoods of some nodes, without padding.

  Attributes:
    ids: nodes in the order of their rows.
    rows: how many after 0, 1, ... hops.
    senders: rows, per hop.
    counts: edges that each node of the frontier receives, per hop.
    places: numbers of the edges, per hop.
    drawn: rows of the nodes drawn from the whole graph; None for no draw.
  """

  ids: np.ndarray
  rows: list[int]
  senders: list[np.ndarray]
  counts: list[np.ndarray]
  places: list[np.ndarray]
  drawn: np.ndarray | None = None


def find(
  edges: InEdges,
  numbering: Numbering,
  targets: Targets,
  fanout: Sequence[int],
) -> Found:
  """Draws the neighbourhoods of some nodes.

  Args:
    edges: of the graph.
    numbering: without any node; so it is left.
    targets: the nodes.
    fanout: edges per node, hop by hop from the targets on.
  """
  frontier, drawn = numbering.add(targets.ids), None
  if targets.beside:
    # Floyd's method again, unless they are a large part of the graph.
    rng = np.random.default_rng(targets.key)
    count = min(targets.beside, edges.num_nodes)
    ids = rng.choice(edges.num_nodes, count, replace=False, shuffle=False)
    frontier = np.concatenate([frontier, numbering.add(ids)])
    drawn = numbering.rows(ids)
  rows, senders, counts, found = [numbering.count], [], [], []
  for k in fanout:
    places, received = draw_edges(edges.indptr, frontier, k, targets.key)
    sent = edges.senders[places]
    frontier = numbering.add(sent)
    rows.append(numbering.count)
    senders.append(numbering.rows(sent))
    counts.append(received)
    found.append(places)
  return Found(numbering.take(), rows, senders, counts, found, drawn)


class NeighborLoader:
  """Cuts the nodes of a split into batches with their sampled neighbourhoods.

  Attributes:
    data: the graph.
    edges: by receiver.
    fanout: edges per node, hop by hop from the targets on.
    budget: the static shape; a batch that does not fit gets a larger one.
    targets: bool [n], the nodes of the split.
  """

  def __init__(
    self,
    data: NodeDataset,
    split: str,
    edges: InEdges,
    fanout: Sequence[int],
    *,
    batch_size: int,
    layout: bool,
    weighted: bool = False,
    unlabelled: int = 0,
  ):
    """Measures the budget.

    Args:
      data: the graph.
      split: whose nodes are the targets.
      edges: by receiver.
      fanout: see above.
      batch_size: targets of a batch; at most those of the split.
      layout: attach layouts.
      weighted: those that serve sums with edge weights.
      unlabelled: nodes of the whole graph beside those of a shuffled batch.
    """
    batching.check_batch_size(batch_size)
    self.data, self.edges, self.fanout = data, edges, tuple(fanout)
    self.targets = getattr(data, f'{split}_mask')
    self._ids = np.flatnonzero(self.targets).astype(np.int32)
    self._batch_size = min(batch_size, len(self._ids))
    self._layout, self._weighted = layout, weighted
    self._unlabelled = min(unlabelled, edges.num_nodes)
    self._numbering = Numbering(edges.num_nodes)
    self._lock = threading.Lock()
    self.budget = self._measured()

  def shuffled(self, seed: int, epoch: int) -> list[Targets]:
    """The batches of a training epoch; every node of the split appears once.

    Args:
      seed: seed of the run.
      epoch: number of the epoch, from 0.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(self._ids))
    plan = self._plan(self._ids[order], (seed, epoch))
    return [t._replace(beside=self._unlabelled) for t in plan]

  def ordered(self) -> list[Targets]:
    """The batches of the split in the order of the nodes."""
    return self._plan(self._ids, (0,))

  def _plan(self, ids: np.ndarray, numbers: tuple[int, ...]) -> list[Targets]:
    size = self._batch_size
    return [
      Targets(ids[start : start + size], draw_key(*numbers, step))
      for step, start in enumerate(range(0, len(ids), size))
    ]

  def _measured(self) -> NeighborBudget:
    """A budget that nearly every batch fits."""
    plan = self.shuffled(0, 0)[:_PROBES]
    found = [self._find(targets) for targets in plan]
    most = self.edges.num_nodes
    worst = min(self._batch_size + self._unlabelled, most)
    rows, edges = [worst + 1], []
    for hop, k in enumerate(self.fanout):
      drawn = max(sum(len(s) for s in f.senders[: hop + 1]) for f in found)
      seen = max(f.rows[hop + 1] for f in found)
      edges.append(_rounded(_MARGIN * drawn))
      worst += worst * k
      rows.append(min(_rounded(_MARGIN * seen), worst, most) + 1)
    return NeighborBudget(tuple(rows), tuple(edges))

  def _find(self, targets: Targets) -> Found:
    with self._lock:  # A stream builds on a thread of its own.
      return find(self.edges, self._numbering, targets, self.fanout)

  def batch(self, targets: Targets) -> batching.Batch:
    """The padded batch of some nodes, on the host.

    Args:
      targets: no more than the batch size.

    Returns:
      numpy arrays; its graph is a `Sampled`, its layout one for each layer.
    """
    found = self._find(targets)
    # By the batch alone, so that a run that goes on has the same shapes.
    budget, count = _fitting(self.budget, found), len(self.fanout)
    graphs, layouts = [], []
    for hops in range(count, 0, -1):  # Layer by layer.
      graph, lay = neighborhood.layer_graph(
        self.edges.facts(found.ids[: found.rows[hops]]),
        np.concatenate(found.senders[:hops]),
        np.concatenate(found.counts[:hops]),
        num_rows=budget.rows[hops],
        num_receivers=budget.rows[hops - 1],
        num_edges=budget.edges[hops - 1],
        layout=self._layout,
        weighted=self._weighted,
        relations=self.edges.relations_at(np.concatenate(found.places[:hops])),
        observed=found.drawn,
      )
      graphs.append(graph)
      layouts.append(lay)
    width = self.data.nodes.shape[1]
    nodes = np.zeros((budget.rows[-1], width), np.float32)
    rows = nodes[: len(found.ids)]
    np.take(self.data.nodes, found.ids, axis=0, out=rows, mode='clip')
    labels = self.data.labels[targets.ids]
    size = budget.rows[0]
    return batching.Batch(
      neighborhood.Sampled(nodes, tuple(graphs)),  # pyrefly: ignore
      neighborhood.padded(labels, size),
      tuple(layouts) if self._layout else None,  # pyrefly: ignore
      np.arange(size) < len(labels),
    )

  def put(self, batch: batching.Batch) -> batching.Batch:
    """A batch on the device."""
    return jax.device_put(batch)

  def stream(
    self, plan: list[Targets]
  ) -> Generator[batching.Batch, None, None]:
    """Device batches, built ahead of their use on another thread."""
    return pipeline.ahead(plan, lambda t: self.put(self.batch(t)))


def _rounded(size: float) -> int:
  return 64 * max(math.ceil(size / 64), 1)


def _fitting(budget: NeighborBudget, found: Found) -> NeighborBudget:
  """The budget, a quarter larger where a batch does not fit."""

  def grown(size: int, needed: int) -> int:
    while size < needed:
      size = _rounded(1.25 * size)
    return size

  drawn = np.cumsum([len(s) for s in found.senders])
  rows = [
    grown(size, count + 1)
    for size, count in zip(budget.rows, found.rows, strict=True)
  ]
  return NeighborBudget(
    tuple(np.maximum.accumulate(rows).tolist()),  # A hop has those before it.
    tuple(
      grown(size, int(count))
      for size, count in zip(budget.edges, drawn, strict=True)
    ),
  )
