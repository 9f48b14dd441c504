"""Sums over neighbours, and the memory layouts that make them fast.

    s_i = sum over edges e with receivers[e] = i of x[senders[e]]

Without a layout this is gather and segment_sum, which runs on every device.
On a CPU XLA turns that into a serial scatter behind an [e, f] temporary; a
`Layout`, built once per batch on the host, gives both directions of the graph
in a form that needs neither:

* `Csr`: row pointers and column indices, multiplied by XLA's CSR kernel.
* `Table`: [n, d] neighbour indices for small degrees d, summed slot by slot.

The gradient with respect to x is the same sum over the reversed graph, and
takes the other half of the layout.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax.experimental import sparse

from lorap_jax._typing import Array, Float

MAX_TABLE_DEGREE = 16  # Beyond it the unrolled sum loses to CSR.


class Csr(NamedTuple):
  """Neighbours of node i: indices[indptr[i]:indptr[i + 1]].

  Attributes:
    indptr: int32 [n + 1].
    indices: int32 [e]; entries from indptr[-1] on are padding.
  """

  indptr: Array | np.ndarray
  indices: Array | np.ndarray


class Table(NamedTuple):
  """Neighbours of node i: indices[i], where n or more marks an empty slot.

  Attributes:
    indices: int32 [n, d].
  """

  indices: Array | np.ndarray


class Layout(NamedTuple):
  """Both directions of a graph.

  Attributes:
    incoming: for each node the senders of the edges it receives.
    outgoing: for each node the receivers of the edges it sends.
  """

  incoming: Csr | Table
  outgoing: Csr | Table


def make_layout(
  senders: np.ndarray,
  receivers: np.ndarray,
  num_nodes: int,
  *,
  max_out_degree: int | None = None,
) -> Layout:
  """Builds the layout of one graph or batch on the host.

  Args:
    senders: int [e], of the real edges only.
    receivers: int [e].
    num_nodes: n, padding included.
    max_out_degree: a bound on the edges any node sends. With one of 16 or
      less the outgoing side becomes a table of that width.

  Returns:
    int32 numpy arrays. The CSR arrays have one index per edge given; pad them
    if shapes must stay the same (`batching` does).

  Raises:
    ValueError: a node sends more than max_out_degree edges.
  """
  incoming = _csr(receivers, senders, num_nodes)
  outgoing = _csr(senders, receivers, num_nodes)
  if max_out_degree is None or max_out_degree > MAX_TABLE_DEGREE:
    return Layout(incoming, outgoing)
  degree = np.diff(outgoing.indptr)
  if degree.size and degree.max() > max_out_degree:
    raise ValueError(
      f'node {degree.argmax()} sends {degree.max()} edges, more than '
      f'`max_out_degree` = {max_out_degree}'
    )
  table = np.full((num_nodes, max_out_degree), num_nodes, np.int32)
  rows = np.repeat(np.arange(num_nodes), degree)
  slots = np.arange(rows.size) - np.repeat(outgoing.indptr[:-1], degree)
  table[rows, slots] = outgoing.indices
  return Layout(incoming, Table(table))


def _csr(rows: np.ndarray, columns: np.ndarray, num_rows: int) -> Csr:
  # 16-bit keys are radix-sorted, four times faster than a comparison sort.
  keys = rows.astype(np.uint16 if num_rows <= 1 << 16 else np.int32)
  order = np.argsort(keys, kind='stable')
  counts = np.bincount(rows, minlength=num_rows)
  indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
  return Csr(indptr, columns[order].astype(np.int32))


def aggregate(
  x: Float[Array, 'n f'],
  graph: jraph.GraphsTuple,
  layout: Layout | None = None,
) -> Float[Array, 'n f']:
  """Sums the features of the senders at each receiver, in float32.

  Args:
    x: node features [n, f].
    graph: its senders and receivers are used; duplicate edges count twice.
    layout: of the same graph, from `make_layout`; None for segment_sum.

  Returns:
    s [n, f]; 0 for nodes that receive no edge.

  Gradient:
    dx_j = sum over the edges that j sends of ds.
  """
  if layout is None:
    receivers: Any = graph.receivers
    return jax.ops.segment_sum(x[graph.senders], receivers, x.shape[0])
  return gather_sum(x, layout.incoming, layout.outgoing)


@jax.custom_vjp
def gather_sum(
  x: Float[Array, 'm f'], incoming: Csr | Table, outgoing: Csr | Table
) -> Float[Array, 'n f']:
  """Sums rows of x: y_i = sum of x[j] over the neighbours j of i.

  Args:
    x: [m, f].
    incoming: the neighbours of each of the n outputs, indices into x.
    outgoing: its transpose, for the gradient.

  Returns:
    y [n, f].
  """
  del outgoing
  if isinstance(incoming, Table):
    # `fill` reads an empty slot as 0. One gather per slot fuses into one loop.
    slots = [
      x.at[incoming.indices[:, d]].get(mode='fill', fill_value=0)
      for d in range(incoming.indices.shape[1])
    ]
    return sum(slots[1:], start=slots[0])
  matrix = sparse.BCSR(
    (
      jnp.ones(incoming.indices.shape, x.dtype),
      jnp.asarray(incoming.indices),
      jnp.asarray(incoming.indptr),
    ),
    shape=(incoming.indptr.shape[0] - 1, x.shape[0]),
  )
  return matrix @ x


gather_sum.defvjp(
  lambda x, incoming, outgoing: (
    gather_sum(x, incoming, outgoing),
    (incoming, outgoing),
  ),
  lambda layout, ds: (gather_sum(ds, layout[1], layout[0]), None, None),
)
