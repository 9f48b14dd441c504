"""Outputs of some nodes of one large graph, from all edges they depend on.

Layer by layer, for pieces of the nodes at a time: each piece takes the rows
that the layer before gave for its nodes and their neighbours. What is held is
two layers' rows of the nodes that matter, on disk if they are many, and a
piece; the number of edges does not enter. In evaluation every row stands for
itself, so that the outputs are those of the whole graph at once.

References:
  Chen, Ma, Xiao: FastGCN, ICLR 2018, arXiv 1801.10247 (on inference by full
  layers where training samples).
"""

import functools
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from lorap_jax import graphs
from lorap_jax._typing import Array, PyTree
from lorap_jax.data import pipeline, sampling
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.files import store
from lorap_jax.graphs import neighborhood
from lorap_jax.training import steps

_RECEIVERS = 4096
_EDGES = 1 << 16
_IN_MEMORY = 1 << 29  # Bytes of a layer's rows from which on they go to disk.


class Piece(NamedTuple):
  """Some nodes of a layer.

  Attributes:
    layer: its number.
    start: place of the first among the nodes of the layer.
    stop: place behind the last.
  """

  layer: int
  start: int
  stop: int


class Layerwise:
  """Computes the outputs of the same nodes again and again.

  Attributes:
    targets: int32 [t], the nodes, in ascending order.
  """

  def __init__(
    self,
    model: nn.Module,
    data: NodeDataset,
    edges: sampling.InEdges,
    targets: np.ndarray,
    *,
    layout: bool,
    weighted: bool = False,
  ):
    """Finds what the nodes depend on.

    Args:
      model: `models.Network` of a node task.
      data: the graph.
      edges: by receiver.
      targets: bool [n].
      layout: attach layouts.
      weighted: those that serve sums with edge weights.
    """
    self._model, self._data, self._edges = model, data, edges
    self._layout, self._weighted = layout, weighted
    self.targets = np.flatnonzero(targets).astype(np.int32)
    count: int = model.num_layers  # pyrefly: ignore
    self._nodes = [self.targets]
    for _ in range(count - 1):
      self._nodes.insert(0, _with_senders(edges, self._nodes[0]))
    self._pieces = [list(self._cut(layer)) for layer in range(count)]
    self._numbering = sampling.Numbering(edges.num_nodes)
    self._num_edges = [
      max(int(self._degrees(p).sum()) for p in pieces)
      for pieces in self._pieces
    ]
    self._num_receivers = [
      max(p.stop - p.start for p in pieces) + 1 for pieces in self._pieces
    ]
    self._num_rows = [self._measured(pieces) for pieces in self._pieces]

  def _cut(self, layer: int):
    """Pieces of up to so many nodes, and edges unless one node has more."""
    nodes = self._nodes[layer]
    ends = np.cumsum(self._edges.degree(nodes))
    start, done = 0, 0
    while start < len(nodes):
      stop = int(np.searchsorted(ends, done + _EDGES, 'right'))
      stop = min(max(stop, start + 1), start + _RECEIVERS)
      yield Piece(layer, start, stop)
      start, done = stop, int(ends[stop - 1])

  def _degrees(self, piece: Piece) -> np.ndarray:
    nodes = self._nodes[piece.layer][piece.start : piece.stop]
    return self._edges.degree(nodes)

  def _measured(self, pieces: list[Piece]) -> int:
    """Rows that nearly every piece fits into."""
    some = pieces[:: max(len(pieces) // 4, 1)]
    most = max(len(self._find(piece)[0]) for piece in some)
    rows = min(64 * (int(1.1 * most) // 64 + 1), self._edges.num_nodes) + 1
    return max(rows, self._num_receivers[pieces[0].layer])

  def _find(self, piece: Piece) -> tuple[np.ndarray, ...]:
    """Nodes of the rows, row of each sender, edges of each receiver, which."""
    receivers = self._nodes[piece.layer][piece.start : piece.stop]
    counts = self._edges.degree(receivers)
    places = pipeline.ranges(self._edges.indptr[receivers], counts)
    sent = self._edges.senders[places]
    self._numbering.add(receivers)
    self._numbering.add(sent)
    rows = self._numbering.rows(sent)
    return self._numbering.take(), rows, counts, places

  def _graph(self, piece: Piece, values: np.ndarray, places: Any) -> Any:
    """The padded graph of a piece and its layout, on the device."""
    ids, senders, counts, edges = self._find(piece)
    layer = piece.layer
    while self._num_rows[layer] <= len(ids):
      self._num_rows[layer] = int(1.25 * self._num_rows[layer]) + 1
    graph, lay = neighborhood.layer_graph(
      self._edges.facts(ids),
      senders,
      counts,
      num_rows=self._num_rows[layer],
      num_receivers=self._num_receivers[layer],
      num_edges=self._num_edges[layer],
      layout=self._layout,
      weighted=self._weighted,
      relations=self._edges.relations_at(edges),
    )
    rows = ids if places is None else np.searchsorted(places, ids)
    nodes = np.zeros((self._num_rows[layer], values.shape[1]), np.float32)
    np.take(values, rows, axis=0, out=nodes[: len(ids)], mode='clip')
    layouts = None if lay is None else (lay,)
    return jax.device_put((graphs.Sampled(nodes, (graph,)), layouts))

  def outputs(self, variables: PyTree) -> np.ndarray:
    """The outputs of the targets.

    Args:
      variables: of the network.

    Returns:
      float32 [t, outputs].
    """
    values, places = self._data.nodes, None
    with tempfile.TemporaryDirectory(prefix='lorap_jax-') as folder:
      for layer, pieces in enumerate(self._pieces):
        step = make_layer_step(self._model, layer)
        build = lambda p, v=values, at=places: (p, self._graph(p, v, at))
        nodes = self._nodes[layer]
        found: Any = None
        for piece, inputs in pipeline.ahead(pieces, build):
          rows = step(variables, *inputs)
          if found is None:
            found = _room((len(nodes), rows.shape[1]), f'{folder}/{layer}')
          size = piece.stop - piece.start
          found[piece.start : piece.stop] = np.asarray(rows)[:size]
        values, places = found, nodes
      return np.array(values)


@functools.lru_cache(steps.NUM_PROGRAMS)
def make_layer_step(
  model: nn.Module, layer: int
) -> Callable[[PyTree, graphs.Sampled, Any], Array]:
  """The jitted evaluation of one convolution, see `Network`.

  Args:
    model: Linen module with `only`.
    layer: number of the convolution.

  Returns:
    step(variables, graph, layout) -> rows [m, f] of the receivers.
  """

  def step(variables, graph, layout):
    return model.apply(variables, graph, layout=layout, train=False, only=layer)

  return jax.jit(step)  # pyrefly: ignore


def _with_senders(edges: sampling.InEdges, nodes: np.ndarray) -> np.ndarray:
  """These nodes and all that send to them, in ascending order."""
  there = np.zeros(edges.num_nodes, bool)
  there[nodes] = True
  for start in range(0, len(nodes), _RECEIVERS):
    some = nodes[start : start + _RECEIVERS]
    places = pipeline.ranges(edges.indptr[some], edges.degree(some))
    there[edges.senders[places]] = True
  return np.flatnonzero(there).astype(np.int32)


def _room(shape: tuple[int, int], path: str) -> np.ndarray:
  if 4 * shape[0] * shape[1] < _IN_MEMORY:
    return np.empty(shape, np.float32)
  rows = np.memmap(path, np.float32, 'w+', shape=shape)
  store.allocate(path)
  return rows
