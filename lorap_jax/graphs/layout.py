"""Memory layouts of a graph that make sums over neighbours fast on a CPU.

Gather and segment_sum become a serial scatter behind an [e, f] temporary
there. A `Layout`, built once per batch on the host, gives both directions of
the graph in a form that needs neither:

* `Csr`: row pointers and column indices, multiplied by XLA's CSR kernel.
* `Table`: [n, d] neighbour indices for small degrees d, summed slot by slot.

The gradient of a sum over neighbours is the same sum over the reversed graph,
and takes the other half of the layout. The reversed graph meets the edges in
another order than their weights are stored in, which is why a layout for sums
with weights carries that order.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lorap_jax._typing import Array

MAX_TABLE_DEGREE = 16  # Beyond it the unrolled sum loses to CSR.

Aggregation = Literal['auto', 'layout', 'segment_sum']
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


class Csr(NamedTuple):
  """Neighbours of node i: indices[indptr[i]:indptr[i + 1]].

  Attributes:
    indptr: int32 [n + 1].
    indices: int32 [e]; entries from indptr[-1] on are padding.
    order: int32 [e], the edge behind each entry; None where the entries are
      the edges in their order, and in layouts for sums without weights.
  """

  indptr: Array | np.ndarray
  indices: Array | np.ndarray
  order: Array | np.ndarray | None = None


class Table(NamedTuple):
  """Neighbours of node i: indices[i], where n or more marks an empty slot.

  Attributes:
    indices: int32 [n, d].
    order: int32 [n, d], the edge behind each slot, e or more for an empty
      one; None in layouts for sums without weights.
  """

  indices: Array | np.ndarray
  order: Array | np.ndarray | None = None


class Layout(NamedTuple):
  """Both directions of a graph.

  Attributes:
    incoming: for each node the senders of the edges it receives.
    outgoing: for each node the receivers of the edges it sends.
  """

  incoming: Csr | Table
  outgoing: Csr | Table


def wants_layout(aggregation: Aggregation, backend: str) -> bool:
  """Whether batches carry a layout.

  Args:
    aggregation: `layout` or `segment_sum` forces one; `auto` is a layout on a
      CPU, where `benchmarks/aggregation.py` finds it faster for every
      workload, and segment_sum elsewhere, where nothing has been measured.
    backend: JAX's, such as `cpu`.

  Raises:
    ValueError: another aggregation.
  """
  if aggregation not in AGGREGATIONS:
    raise ValueError(
      f'`aggregation` must be one of {AGGREGATIONS}, got {aggregation!r}'
    )
  return aggregation == 'layout' or (aggregation == 'auto' and backend == 'cpu')


def describe(layout: Layout | tuple[Layout, ...] | None) -> str:
  """How sums over neighbours and their gradients are computed, in words.

  Args:
    layout: of a graph, or of each layer's; None for segment_sum.
  """
  if layout is None:
    return 'gather and segment_sum'
  if not isinstance(layout, Layout):
    layout = layout[0]

  def side(form: Csr | Table) -> str:
    if isinstance(form, Csr):
      return 'CSR'
    return f'table of {form.indices.shape[1]} slots'

  return f'{side(layout.incoming)}; gradients {side(layout.outgoing)}'


def make_layout(
  senders: np.ndarray,
  receivers: np.ndarray,
  num_nodes: int,
  *,
  max_out_degree: int | None = None,
  weighted: bool = False,
) -> Layout:
  """Builds the layout of one graph or batch on the host.

  Args:
    senders: int [e], of the real edges only.
    receivers: int [e]; sorted if `weighted`.
    num_nodes: n, padding included.
    max_out_degree: a bound on the edges any node sends. With one of 16 or
      less the outgoing side becomes a table of that width.
    weighted: serve `aggregate_weighted` as well.

  Returns:
    int32 numpy arrays. The CSR arrays have one index per edge given; pad them
    if shapes must stay the same (`batching` does).

  Raises:
    ValueError: an end of an edge is no node, or there is one end more than the
      other; a node sends more edges than the table is wide; or `weighted` and
      receivers that are not sorted.
  """
  _check_count(num_nodes, 'num_nodes')
  if max_out_degree is not None:
    _check_count(max_out_degree, 'max_out_degree')
  for name, ids in (('senders', senders), ('receivers', receivers)):
    _check_ids(ids, num_nodes, name)
  if len(senders) != len(receivers):
    raise ValueError(
      f'there are {len(senders)} `senders` and {len(receivers)} `receivers`; '
      'give both ends of each edge'
    )
  if weighted:
    _check_sorted(receivers)
  incoming = make_csr(receivers, senders, num_nodes)._replace(order=None)
  outgoing = make_csr(senders, receivers, num_nodes)
  if not weighted:
    outgoing = outgoing._replace(order=None)
  if max_out_degree is None or max_out_degree > MAX_TABLE_DEGREE:
    return Layout(incoming, outgoing)
  degree = np.diff(outgoing.indptr)
  if degree.size and degree.max() > max_out_degree:
    raise ValueError(
      f'node {degree.argmax()} sends {degree.max()} edges, more than '
      f'`max_out_degree` = {max_out_degree}'
    )
  return Layout(incoming, _table(outgoing, max_out_degree))


def _check_count(value: Any, name: str) -> None:
  whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
  most = np.iinfo(np.int32).max
  if not whole or not 0 <= value <= most:
    raise ValueError(
      f'`{name}` must be an integer from 0 to {most}, got {value!r}'
    )


def _check_ids(ids: Any, num_nodes: int, name: str) -> None:
  # Nothing looks at bounds behind this.
  if not isinstance(ids, np.ndarray):
    raise ValueError(
      f'`{name}` is a {type(ids).__name__}; give a numpy array of integers'
    )
  if ids.ndim != 1 or (ids.size and ids.dtype.kind not in 'iu'):
    raise ValueError(
      f'`{name}` is {ids.dtype} {ids.shape}; give integers of one axis'
    )
  if ids.size and not (0 <= ids.min() and ids.max() < num_nodes):
    edge = int(np.argmax((ids < 0) | (ids >= num_nodes)))
    raise ValueError(
      f'`{name}` of edge {edge} is {ids[edge]}, but the nodes are 0 to '
      f'{num_nodes - 1}'
    )


def _check_sorted(receivers: np.ndarray) -> None:
  falls = np.flatnonzero(receivers[1:] < receivers[:-1])
  if falls.size:
    before, edge = falls[0], falls[0] + 1
    raise ValueError(
      '`receivers` must be sorted for a weighted layout, but edge '
      f'{edge} has {receivers[edge]} after {receivers[before]}; order the '
      "edges by np.argsort(receivers, kind='stable')"
    )


def make_csr(rows: np.ndarray, columns: np.ndarray, num_rows: int) -> Csr:
  """The columns of each row, of the entries of a matrix.

  Args:
    rows: row of each entry, int [e], in any order.
    columns: column of each entry, int [e].
    num_rows: n, number of rows.

  Returns:
    int32 numpy arrays, with the order of the entries.
  """
  # 16-bit keys are radix-sorted, four times faster than a comparison sort.
  keys = rows.astype(np.uint16 if num_rows <= 1 << 16 else np.int32)
  order = np.argsort(keys, kind='stable')
  counts = np.bincount(rows, minlength=num_rows)
  indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
  indices = columns[order].astype(np.int32)
  return Csr(indptr, indices, order.astype(np.int32))


def _table(csr: Csr, width: int) -> Table:
  degree = np.diff(csr.indptr)
  num_rows = degree.size
  rows = np.repeat(np.arange(num_rows), degree)
  slots = np.arange(rows.size) - np.repeat(csr.indptr[:-1], degree)

  def spread(entries: Any, empty: int) -> np.ndarray:
    table = np.full((num_rows, width), empty, np.int32)
    table[rows, slots] = entries
    return table

  indices = spread(csr.indices, num_rows)
  if csr.order is None:
    return Table(indices)
  # Beyond all edges, those that padding will append included.
  return Table(indices, spread(csr.order, np.iinfo(np.int32).max))
