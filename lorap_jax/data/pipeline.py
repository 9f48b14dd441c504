"""From a data set to padded batches on the device.

The order of an epoch depends on (seed, epoch) alone, so that a resumed run
needs no more than its position.
"""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from lorap_jax.data.containers.dataset import GraphDataset
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.graphs import batching, shards, sparse
from lorap_jax.graphs.relations import Relations

_DONE = object()
_QUEUE_SIZE = 4  # Batches ready ahead of the step.


class Loader:
  """Cuts a data set into padded batches of one static shape.

  Attributes:
    data: the graphs.
    budget: the static shape of a batch that one device takes; it alone says
      which graphs a batch has.
    layout: attach memory layouts to the batches.
    weighted: layouts that serve sums with edge weights.
    num_shards: pieces of a batch, see `graphs.shards`.
    shard: the static shape of each where there are several; a batch that does
      not fit gets larger ones.
    mesh: devices that get a shard each; None for one device.
    relations: of all edges; None where they are of one kind.
  """

  def __init__(
    self,
    data: GraphDataset,
    budget: batching.Budget,
    *,
    layout: bool,
    weighted: bool = False,
    num_shards: int = 1,
    shard: batching.Budget | None = None,
    mesh: jax.sharding.Mesh | None = None,
    relations: Relations | None = None,
  ):
    self.data = data
    self.budget = budget
    self.layout = layout
    self.weighted = weighted
    self.num_shards = num_shards
    self.shard = shard
    self.mesh = mesh
    self.relations = relations
    self._node_start = np.concatenate([[0], np.cumsum(data.n_node)])
    self._edge_start = np.concatenate([[0], np.cumsum(data.n_edge)])

  def shuffled(self, seed: int, epoch: int) -> list[np.ndarray]:
    """Graph numbers of each batch of a training epoch.

    Args:
      seed: seed of the run.
      epoch: number of the epoch, from 0.

    Returns:
      One array per batch; every graph appears once.
    """
    rng = np.random.default_rng((seed, epoch))
    return self._plan(rng.permutation(self.data.num_graphs))

  def ordered(self) -> list[np.ndarray]:
    """Graph numbers of each batch in the order of the data set."""
    return self._plan(np.arange(self.data.num_graphs))

  def _plan(self, order: np.ndarray) -> list[np.ndarray]:
    return list(
      batching.plan_batches(
        order, self.data.n_node, self.data.n_edge, self.budget
      )
    )

  def batch(self, indices: np.ndarray) -> batching.Batch:
    """The padded batch of these graphs, on the host.

    Args:
      indices: graph numbers that fit the budget.

    Returns:
      numpy arrays; of several processes each has the shards of its devices.
    """
    if self.num_shards == 1:
      return self._padded(indices, self.budget)
    pieces = np.array_split(indices, self.num_shards)
    budget = self.shard or self.budget
    # Of all pieces, so that all processes take the same.
    while not all(self._fits(piece, budget) for piece in pieces):
      budget = batching.larger(budget)
    own = range(self.num_shards)
    if self.mesh is not None:
      own = shards.in_this_process(self.mesh)
    return batching.join_shards(
      [self._padded(pieces[i], budget) for i in own], own
    )

  def put(self, batch: batching.Batch) -> batching.Batch:
    """A batch on its device, or its shards on theirs."""
    if self.mesh is None:
      return jax.device_put(batch)
    return shards.put(batch, self.mesh)

  def _fits(self, indices: np.ndarray, budget: batching.Budget) -> bool:
    nodes, edges = (
      int(counts[indices].sum())
      for counts in (self.data.n_node, self.data.n_edge)
    )
    return nodes < budget.num_nodes and edges <= budget.num_edges

  def _padded(
    self, indices: np.ndarray, budget: batching.Budget
  ) -> batching.Batch:
    data = self.data
    n_node, n_edge = data.n_node[indices], data.n_edge[indices]
    nodes = ranges(self._node_start[indices], n_node)
    edges = ranges(self._edge_start[indices], n_edge)
    offset = np.repeat(np.cumsum(n_node) - n_node, n_edge)
    return batching.pad_batch(
      data.nodes[nodes],
      data.senders[edges] + offset,
      data.receivers[edges] + offset,
      n_node,
      n_edge,
      data.labels[indices],
      budget,
      layout=self.layout,
      weighted=self.weighted,
      relations=self.relations and self.relations.take(edges),
    )

  def stream(
    self, plan: list[np.ndarray]
  ) -> Generator[batching.Batch, None, None]:
    """Device batches, built ahead of their use on another thread.

    Args:
      plan: graph numbers of each batch.

    Returns:
      Batches of device arrays.
    """
    return ahead(plan, lambda indices: self.put(self.batch(indices)))


def ahead(
  plan: list[Any], build: Callable[[Any], Any]
) -> Generator[Any, None, None]:
  """Batches, built ahead of their use on another thread.

  Args:
    plan: what each batch is built from.
    build: a batch of an element of the plan.

  Yields:
    Batches.
  """
  ready: queue.Queue = queue.Queue(_QUEUE_SIZE)
  stop = threading.Event()

  def put(item) -> bool:
    while not stop.is_set():
      try:
        ready.put(item, timeout=0.1)
      except queue.Full:
        continue
      return True
    return False

  def work():
    try:
      for element in plan:
        if not put(build(element)):
          return
      put(_DONE)
    except Exception as error:  # Raised again on the consumer's thread.
      put(error)

  worker = threading.Thread(target=work, daemon=True)
  worker.start()
  try:
    while (item := ready.get()) is not _DONE:
      if isinstance(item, Exception):
        raise item
      yield item
  finally:
    stop.set()
    worker.join()


class WholeGraph:
  """The one batch of a node task, without padding, seen from one split.

  Attributes:
    targets: bool [n], the nodes of the split.
  """

  def __init__(
    self,
    data: NodeDataset,
    split: str,
    *,
    layout: bool,
    weighted: bool = False,
    sparse_features: bool = False,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Keeps the data.

    Args:
      data: the graph.
      split: `train`, `valid` or `test`.
      layout: attach memory layouts.
      weighted: layouts that serve sums with edge weights.
      sparse_features: give features of few nonzeros in both forms, see
        `graphs.sparse`; for a CPU. Not with a mesh.
      mesh: devices that share the graph; the rows of padding are behind all
        others then.

    Raises:
      ValueError: devices that share a graph whose edges are of several kinds.
    """
    if mesh is not None and data.relations is not None:
      raise ValueError(
        'devices share graphs with one kind of edges, and this one has '
        f'{data.num_relations} relations; set config.train.devices to 1'
      )
    self._data, self._layout, self._weighted = data, layout, weighted
    self._sparse_features = sparse_features
    self._mesh = mesh
    self.targets = self._padded(getattr(data, f'{split}_mask'))

  def batch(self) -> batching.Batch:
    """The graph, on the host."""
    data = self._data
    if self._mesh is not None:
      batch = batching.partition_graph(
        data.nodes,
        data.senders,
        data.receivers,
        self._mesh.size,
        layout=self._layout,
        weighted=self._weighted,
      )
      return self._with_targets(batch)
    budget = whole_budget(data)
    batch = batching.pad_batch(
      data.nodes,
      data.senders,
      data.receivers,
      np.array([data.num_nodes]),
      np.array([len(data.senders)]),
      np.zeros(1, np.int32),
      budget,
      layout=self._layout,
      weighted=self._weighted,
      relations=relations_of(data),
    )
    if self._sparse_features:
      features: Any = sparse.in_both_forms(batch.graph.nodes)  # pyrefly: ignore
      batch = batch._replace(graph=batch.graph._replace(nodes=features))
    return self._with_targets(batch)

  def _with_targets(self, batch: batching.Batch) -> batching.Batch:
    data = self._data
    if data.task == 'regression':
      # What is no target is masked, but must be finite for the gradient. The
      # other splits' stay: a run evaluates them on the batch it trains on.
      labels = np.where(np.isfinite(data.labels), data.labels, np.float32(0))
    else:
      labels = data.labels.astype(np.int32)
    return batch._replace(labels=self._padded(labels), targets=self.targets)

  def _padded(self, values: np.ndarray) -> np.ndarray:
    """Values of the nodes, filled up to the rows of all parts."""
    if self._mesh is None:
      return values
    size = self._mesh.size
    rows = size * (-(-(len(values) + 1) // size))
    return np.concatenate([values, np.zeros(rows - len(values), values.dtype)])

  def put(self, batch: Any) -> Any:
    """Arrays with a row for each node on their device, or parts on theirs."""
    if self._mesh is None:
      return jax.device_put(batch)
    return shards.placed(batch, self._mesh)

  def ordered(self) -> list[None]:
    """One batch."""
    return [None]

  def stream(self, plan: list[None]) -> Generator[batching.Batch, None, None]:
    """The batch, on the device, as often as the plan says."""
    for _ in plan:
      yield self.put(self.batch())


def relations_of(data: NodeDataset) -> Relations | None:
  """The relations of the edges; None where they are of one kind."""
  if data.relations is None or data.num_relations is None:
    return None
  return Relations(data.relations, data.num_relations)


def whole_budget(data: NodeDataset | GraphDataset) -> batching.Budget:
  """The shape of a batch of all there is, without padding.

  Args:
    data: one graph, or graphs.

  Returns:
    The budget.
  """
  num_graphs = data.num_graphs if isinstance(data, GraphDataset) else 1
  num_edges = len(data.senders)
  return batching.Budget(len(data.nodes), num_edges, num_graphs, num_edges)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """The concatenation of arange(start, start + count)."""
  shift = starts - (np.cumsum(counts) - counts)
  return np.arange(counts.sum()) + np.repeat(shift, counts)


def max_out_degree(*datasets: GraphDataset) -> int:
  """The most edges that any node of these data sets sends.

  Args:
    *datasets: graphs.

  Returns:
    The degree, 0 without edges.
  """
  most = 0
  for data in datasets:
    starts = np.cumsum(data.n_node) - data.n_node
    sender = data.senders + np.repeat(starts, data.n_edge)
    if sender.size:
      most = max(most, int(np.bincount(sender).max()))
  return most


def joint_budget(
  datasets: tuple[GraphDataset, ...], *, batch_size: int
) -> batching.Budget:
  """One budget for several splits, so that they share compiled programs.

  Args:
    datasets: the splits.
    batch_size: graphs per batch.

  Returns:
    Sizes that fit every graph of every split, by `batching.choose_budget`.
  """
  join = lambda field: np.concatenate([getattr(d, field) for d in datasets])
  return batching.choose_budget(
    join('n_node'),
    join('n_edge'),
    batch_size=batch_size,
    max_out_degree=max_out_degree(*datasets),
  )
