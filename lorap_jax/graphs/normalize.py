"""Symmetric normalisation of GCN, and self loops.

    y = D^-1/2 (A + C) D^-1/2 x,     D = diag(row sums of A + C)

A counts the edges and the diagonal matrix C is the self loops that the layer
adds. With d = D^-1/2 as a column, y = d (A (d x) + C (d x)): no edge needs a
weight and no self loop needs an edge.

`existing` says what happens at a node that already has k > 0 self loops, when
self loops of weight w are added:

| `existing`  | C, k = 0 | C, k > 0 | self loops afterwards                |
|-------------|----------|----------|--------------------------------------|
| `remaining` | w        | 1 - k    | those of the graph, counted once     |
| `keep`      | w        | w        | those of the graph, and one more     |

`remaining` is `add_remaining_self_loops` of torch_geometric, which replaces
the self loops of a node by one of them. The published codes:

| code                            | self loops       | degree of   |
|---------------------------------|------------------|-------------|
| torch_geometric `gcn_norm`      | `remaining`, w=1 | `receivers` |
| A2Q, citation graphs            | `keep`, w=1      | `receivers` |
| A2Q, ogbn-arxiv                 | `remaining`, w=1 | `receivers` |
| A2Q, superpixels and ZINC       | none             | `receivers` |
| Degree-Quant                    | `remaining`, w=1 | `senders`   |
| MixQ                            | `remaining`, w=2 | `receivers` |

MixQ asks for w = 2 with `improved=True`. torch_geometric 2.3 and later ignore
that for graphs without edge weights and add loops of weight 1, so that MixQ's
published numbers most likely have w = 1.

References:
  Kipf, Welling: Semi-Supervised Classification with Graph Convolutional
  Networks, ICLR 2017, arXiv 1609.02907, equation 2.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.graphs import neighborhood, partition
from lorap_jax.graphs.aggregate import aggregate
from lorap_jax.graphs.layout import Layout

Existing = Literal['keep', 'remaining']
DegreeOf = Literal['receivers', 'senders']


def add_self_loops(
  senders: np.ndarray,
  receivers: np.ndarray,
  num_nodes: int,
  *,
  existing: Existing,
) -> tuple[np.ndarray, np.ndarray]:
  """Adds self loops as edges, on the host, for layers that need them so.

  Args:
    senders: int [e], the node that each edge leaves.
    receivers: int [e], the node that it enters.
    num_nodes: n, number of nodes.
    existing: `remaining` leaves every node with exactly one self loop, as
      attention layers have it; `keep` adds one to whatever is there.

  Returns:
    (senders, receivers): the edges that stay in their order, then the self
    loops of nodes 0 to n - 1.

  Raises:
    ValueError: unknown `existing`.
  """
  _check_existing(existing)
  if existing == 'remaining':
    proper = senders != receivers
    senders, receivers = senders[proper], receivers[proper]
  loops = np.arange(num_nodes, dtype=senders.dtype)
  return np.concatenate([senders, loops]), np.concatenate([receivers, loops])


def self_loop_weights(
  graph: jraph.GraphsTuple,
  mask: Bool[Array, 'n 1'],
  *,
  self_loops: bool,
  self_loop_weight: float = 1.0,
  existing: Existing = 'remaining',
) -> Float[Array, 'n 1']:
  """The diagonal C: what to add to A so that every node has its self loop.

  Args:
    graph: batch whose edges are used.
    mask: [n, 1], True for real nodes.
    self_loops: False gives zeros.
    self_loop_weight: w, weight of the added loops.
    existing: `remaining` counts self loops of the graph once, `keep` adds to
      them; see the table of the module.

  Returns:
    C [n, 1]; 0 at padding nodes.

  Raises:
    ValueError: unknown `existing`.
  """
  _check_existing(existing)
  if not self_loops:
    return jnp.zeros(mask.shape)
  if existing == 'keep':
    return jnp.where(mask, self_loop_weight, 0.0)
  there = neighborhood.of(graph)
  loops = num_loops(graph, mask.shape[0]) if there is None else there.loops
  count = jnp.asarray(loops)[:, None]
  weight = jnp.where(count == 0, self_loop_weight, 1.0 - count)
  return jnp.where(mask, weight, 0.0)


def num_loops(graph: jraph.GraphsTuple, num_nodes: int) -> Int[Array, 'n']:
  """Edges from each node to itself that the graph has; drawn ones, if sampled.

  Args:
    graph: batch whose edges are used.
    num_nodes: n, padding included (static).

  Returns:
    int32 [n].
  """
  receivers: Any = graph.receivers
  is_loop = jnp.asarray(graph.senders == receivers, jnp.int32)
  return jax.ops.segment_sum(is_loop, receivers, num_nodes)


def gcn_degree(
  graph: jraph.GraphsTuple,
  mask: Bool[Array, 'n 1'],
  *,
  self_loops: bool,
  self_loop_weight: float = 1.0,
  existing: Existing = 'remaining',
  degree_of: DegreeOf = 'receivers',
) -> Float[Array, 'n 1']:
  """Degrees D: edges at each node, duplicates counted, plus its C.

  Args:
    graph: batch whose edges are used.
    mask: [n, 1], True for real nodes.
    self_loops: whether the layer adds self loops.
    self_loop_weight: w, 2 for the improved GCN.
    existing: `remaining` counts self loops of the graph once, `keep` adds to
      them; see the table of the module.
    degree_of: count an edge at its receiver or at its sender. The two differ
      in directed graphs only.

  Returns:
    D [n, 1]; 0 at padding nodes.

  Raises:
    ValueError: unknown `existing` or `degree_of`; or senders' degrees of a
      sampled graph.
  """
  if degree_of not in ('receivers', 'senders'):
    raise ValueError(
      f"`degree_of` must be 'receivers' or 'senders', got {degree_of!r}"
    )
  there = neighborhood.of(graph)
  if there is None:
    ends: Any = getattr(graph, degree_of)
    ones = jnp.ones(ends.shape, jnp.int32)
    edges = jax.ops.segment_sum(ones, ends, mask.shape[0])[:, None]
  elif degree_of == 'receivers':
    edges = jnp.asarray(there.in_degree)[:, None]
  else:
    raise ValueError(
      "`degree_of` 'senders' is not known of a sampled graph; use 'receivers'"
    )
  added = self_loop_weights(
    graph,
    mask,
    self_loops=self_loops,
    self_loop_weight=self_loop_weight,
    existing=existing,
  )
  return jnp.where(mask, edges + added, 0.0)


def gcn_scale(
  graph: jraph.GraphsTuple,
  mask: Bool[Array, 'n 1'],
  *,
  self_loops: bool,
  self_loop_weight: float = 1.0,
  existing: Existing = 'remaining',
  degree_of: DegreeOf = 'receivers',
) -> Float[Array, 'n 1']:
  """The column d = D^-1/2.

  Args:
    graph: batch whose edges are used.
    mask: [n, 1], True for real nodes.
    self_loops: whether the layer adds self loops.
    self_loop_weight: w, weight of the added loops.
    existing: `remaining` counts self loops of the graph once, `keep` adds to
      them; see the table of the module.
    degree_of: the end of an edge that counts it, `receivers` or `senders`.

  Returns:
    d [n, 1]; 0 where the degree is 0 and at padding nodes.

  Raises:
    ValueError: unknown `existing` or `degree_of`.
  """
  degree = gcn_degree(
    graph,
    mask,
    self_loops=self_loops,
    self_loop_weight=self_loop_weight,
    existing=existing,
    degree_of=degree_of,
  )
  return jnp.where(degree > 0, jnp.where(degree > 0, degree, 1.0) ** -0.5, 0.0)


def gcn_edge_weights(
  graph: jraph.GraphsTuple, scale: Float[Array, 'n 1']
) -> Float[Array, 'e']:
  """Coefficient of each edge, w_e = d_sender d_receiver.

  For frameworks that quantize the coefficients or the message of each edge;
  a self loop that is not an edge has the coefficient C_i d_i^2.

  Args:
    graph: batch whose edges are used.
    scale: d [n, 1], from `gcn_scale`.

  Returns:
    w [e]; 0 for padding edges, whose nodes have d = 0.
  """
  return scale[graph.senders, 0] * scale[graph.receivers, 0]


def gcn_aggregate(
  x: Float[Array, 'n f'],
  graph: jraph.GraphsTuple,
  scale: Float[Array, 'n 1'],
  loop: Float[Array, 'n 1'],
  layout: Layout | None = None,
  *,
  grid: partition.Grid | None = None,
) -> Float[Array, 'm f']:
  """The normalised sum over neighbours, y = d (A (d x) + C (d x)).

  Args:
    x: node features [n, f].
    graph: batch whose edges are used.
    scale: d, from `gcn_scale`.
    loop: C, from `self_loop_weights`.
    layout: of the graph, from `make_layout`; None for segment_sum.
    grid: that x is on, see `aggregate`.

  Returns:
    y [n, f]; 0 where the degree is 0. Of a sampled graph [m, f].
  """
  total = aggregate(x, graph, layout, factor=scale, grid=grid)
  here = lambda t: neighborhood.at_receivers(t, graph)
  return here(scale) * (total + here(loop * (scale * x)))


def _check_existing(existing: str) -> None:
  if existing not in ('keep', 'remaining'):
    raise ValueError(
      f"`existing` must be 'keep' or 'remaining', got {existing!r}"
    )
