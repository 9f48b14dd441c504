"""Sums over neighbours.

    s_i = sum over edges e with receivers[e] = i of w_e x[senders[e]]

with w_e = 1 in `aggregate`. Without a layout this is gather and segment_sum,
which runs on every device; `layout` says what else there is, and why.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jraph
from jax.experimental import sparse

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import neighborhood, partition, shards
from lorap_jax.graphs.layout import Csr, Layout, Table

_EDGE_CHUNK = 4096  # Edges at a time in the gradient of the weights.
_VECTOR = 8  # Columns that the CSR kernel takes at a time.


def aggregate(
  x: Float[Array, 'n f'],
  graph: jraph.GraphsTuple,
  layout: Layout | None = None,
  *,
  factor: Float[Array, 'n 1'] | None = None,
  grid: partition.Grid | None = None,
) -> Float[Array, 'm f']:
  """Sums the features of the senders at each receiver, in float32.

  Args:
    x: node features [n, f].
    graph: its senders and receivers are used; duplicate edges count twice.
    layout: of the same graph, from `make_layout`; None for segment_sum.
    factor: multiplies each row of x before the sum; None for 1.
    grid: that x is on; between devices its codes travel, with a layout.

  Returns:
    s [n, f]; 0 for nodes that receive no edge. Of a sampled graph [m, f], the
    estimates of the sums over all edges, see `graphs.neighborhood`.

  Gradient:
    dx_j = sum over the edges that j sends of ds.
  """
  s = shards.count(graph)
  scaled = x if factor is None else factor * x
  if partition.of(graph) is not None:
    still = jax.lax.stop_gradient
    if layout is None:
      # Differentiated as it stands, which codes can't be: values travel.
      return partition.segment_sum(partition.pack(scaled), graph, s)
    rows = partition.pack(*jax.tree.map(still, (x, factor, grid)))
    return partition.gather_sum(
      _unweighted, s, rows.kinds, scaled, rows.each, rows.same, *layout
    )
  x = scaled
  if layout is not None:
    total = shards.in_each(gather_sum, s, x, layout.incoming, layout.outgoing)
    return neighborhood.whole_sum(total, graph)
  ends = shards.inside((graph.senders, graph.receivers), s, x.shape[0])
  total = shards.in_each(_sum_of_senders, s, x, *ends)
  return neighborhood.whole_sum(neighborhood.at_receivers(total, graph), graph)


def _unweighted(side: Csr | Table, x: Array) -> Array:
  return gather_sum(x, side, side)


def _sum_of_senders(x: Array, senders: Any, receivers: Any) -> Array:
  return jax.ops.segment_sum(x[senders], receivers, x.shape[0])


def aggregate_weighted(
  x: Float[Array, 'n *h f'],
  weights: Float[Array, 'e *h'],
  graph: jraph.GraphsTuple,
  layout: Layout | None = None,
  *,
  grid: partition.Grid | None = None,
) -> Float[Array, 'm *h f']:
  """Sums weighted features of the senders at each receiver, in float32.

  s_i = sum over the edges e that i receives of w_e x_sender(e), for each head.

  Args:
    x: node features [n, f] or, with heads, [n, h, f].
    weights: w [e] or [e, h], in the order of the edges of `graph`.
    graph: its senders and receivers are used.
    layout: of the same graph, from `make_layout` with `weighted`; None for
      segment_sum.
    grid: that x is on, of shapes that broadcast to [n, h f]; see `aggregate`.

  Returns:
    s, the shape of x; 0 for nodes that receive no edge. Of a sampled graph its
    first m rows, sums over its own edges.

  Gradient:
    dx_j = sum over the edges e that j sends of w_e ds_receiver(e),
    dw_e = <x_sender(e), ds_receiver(e)>.

  Raises:
    ValueError: a layout for sums without weights.
  """
  if layout is not None and layout.outgoing.order is None:
    raise ValueError(
      '`layout` serves sums without weights only; build it with '
      'make_layout(..., weighted=True)'
    )
  num_heads = weights.shape[1] if weights.ndim == 2 else 1
  s = shards.count(graph)
  by_head = x.reshape(x.shape[0], num_heads, x.shape[-1])
  factors = weights.reshape(weights.shape[0], num_heads)
  if partition.of(graph) is not None:
    flat = by_head.reshape(x.shape[0], -1)
    if layout is None:
      rows = partition.pack(flat)
      total = partition.segment_sum(rows, graph, s, factors)
      return total.reshape(x.shape)
    rows = partition.pack(
      *jax.tree.map(jax.lax.stop_gradient, (flat, None, grid))
    )
    total = partition.weighted_sum(
      _weighted_gather_sum,
      s,
      rows.kinds,
      by_head,
      rows.each,
      rows.same,
      factors,
      (graph.senders, graph.receivers),
      *layout,
    )
    return total.reshape(x.shape)
  total = shards.in_each(
    weighted_sum,
    s,
    by_head,
    factors,
    *shards.inside((graph.senders, graph.receivers), s, x.shape[0]),
    layout,
  )
  total = total.reshape(-1, *x.shape[1:])
  return neighborhood.at_receivers(total, graph)


def edge_aggregate(
  messages: Float[Array, 'e *f'], graph: jraph.GraphsTuple
) -> Float[Array, 'n *f']:
  """Sums the messages of the edges at each receiver, in float32.

  There is no layout for this: with messages of its own for every edge, the
  [e, f] array exists anyway, and segment_sum was the fastest on a CPU too.

  Args:
    messages: one per edge, [e, f] or [e, h, f].
    graph: batch of which the receivers and the number of nodes n are used.

  Returns:
    s [n, f] or [n, h, f]; 0 for nodes that receive no edge. Of a sampled graph
    as from `aggregate`.
  """
  nodes: Any = graph.nodes
  s, num_nodes = shards.count(graph), nodes.shape[0]
  if partition.of(graph) is not None:
    # Every edge is where its receiver is.
    count = num_nodes // s
    return partition.with_all(
      lambda i, _, t, ids: jax.ops.segment_sum(t, ids - i * count, count),
      s,
      ((), ()),
      messages,
      graph.receivers,
    )
  total = shards.in_each(
    lambda t, ids: jax.ops.segment_sum(t, ids, num_nodes // s),
    s,
    messages,
    *shards.inside((graph.receivers,), s, num_nodes),
  )
  return neighborhood.whole_sum(neighborhood.at_receivers(total, graph), graph)


@jax.custom_vjp
def gather_sum(
  x: Float[Array, 'm f'], incoming: Csr | Table, outgoing: Csr | Table
) -> Float[Array, 'n f']:
  """Sums rows of x: y_i = sum of x[j] over the neighbours j of i.

  Args:
    x: values [m, f].
    incoming: the neighbours of each of the n outputs, indices into x.
    outgoing: transpose of incoming, for the gradient.

  Returns:
    y [n, f].
  """
  del outgoing
  if isinstance(incoming, Table):
    return _sum_slots(_slots(incoming, x), incoming, x)
  return _csr_product(incoming, jnp.ones(incoming.indices.shape, x.dtype), x)


gather_sum.defvjp(
  lambda x, incoming, outgoing: (
    gather_sum(x, incoming, outgoing),
    (incoming, outgoing),
  ),
  lambda layout, ds: (gather_sum(ds, layout[1], layout[0]), None, None),
)


@jax.custom_vjp
def weighted_sum(
  x: Float[Array, 'm h f'],
  weights: Float[Array, 'e h'],
  senders: Any,
  receivers: Any,
  layout: Layout | None,
) -> Float[Array, 'n h f']:
  """`aggregate_weighted` of x [m, h, f] and weights [e, h].

  With a layout the receivers need not be nodes as the senders are: their
  number n is that of its incoming side, and the result [n, h, f].
  """
  if layout is None:
    messages = weights[:, :, None] * x[senders]
    return jax.ops.segment_sum(messages, receivers, x.shape[0])
  return _weighted_gather_sum(x, weights, layout.incoming)


def _weighted_sum_fwd(*args):
  return weighted_sum(*args), args


def _weighted_sum_bwd(residuals, ds):
  x, weights, senders, receivers, layout = residuals
  dot = lambda ends: jnp.sum(x[ends[0]] * ds[ends[1]], axis=-1)
  ends = (senders, receivers)
  if layout is None:
    messages = weights[:, :, None] * ds[receivers]
    dx = jax.ops.segment_sum(messages, senders, x.shape[0])
    dw = dot(ends)
  else:
    dx = _weighted_gather_sum(ds, weights, layout.outgoing)
    # A CPU would write both gathers out, as two [e, h, f] arrays.
    dw = jax.lax.map(dot, ends, batch_size=_EDGE_CHUNK)
  return dx, dw, None, None, None


weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def _weighted_gather_sum(x: Array, weights: Array, side: Csr | Table) -> Array:
  """Weighted sum over the neighbours of one side: x [m, h, f], w [e, h]."""
  if not weights.size:  # Nothing can be gathered from no weights.
    return _zeros(side, x)
  if side.order is not None:
    weights = weights.at[side.order].get(mode='fill', fill_value=0)
  if isinstance(side, Table):
    # Of one head without its axis. XLA's CPU backend takes a view of x for
    # another array, and writes sums over an x that is still read through one.
    one = weights.shape[2] == 1
    slots = _slots(side, x[:, 0] if one else x)
    factors = weights if one else weights[..., None]
    total = _sum_slots(
      [factors[:, d] * slot for d, slot in enumerate(slots)],
      side,
      x[:, 0] if one else x,
    )
    return total[:, None] if one else total
  heads = range(weights.shape[1])
  products = [_csr_product(side, weights[:, h], x[:, h]) for h in heads]
  return jnp.stack(products, axis=1)


def _slots(table: Table, x: Array) -> list[Array]:
  # `fill` reads an empty slot as 0. One gather per slot fuses into one loop.
  return [
    x.at[table.indices[:, d]].get(mode='fill', fill_value=0)
    for d in range(table.indices.shape[1])
  ]


def _sum_slots(slots: list[Array], table: Table, x: Array) -> Array:
  """Sums what `_slots` of this table and x gave; no slots where no edges."""
  return sum(slots[1:], start=slots[0]) if slots else _zeros(table, x)


def _zeros(side: Csr | Table, x: Array) -> Array:
  """A sum over no neighbours, for each node of a side: [n, *] of x [m, *]."""
  count = side.indices.shape[0]
  num_nodes = side.indptr.shape[0] - 1 if isinstance(side, Csr) else count
  return jnp.zeros((num_nodes, *x.shape[1:]), x.dtype)


@jax.custom_batching.custom_vmap
def _csr_product(rows: Csr, values: Array, x: Array) -> Array:
  """Rows of a sparse matrix times x [m, f].

  Only ever called inside of rules that say what its gradient is. Whatever the
  matrix says, nothing outside of the arrays is read: the kernel looks at no
  bounds, and would end the process.
  """
  indptr, indices = jnp.asarray(rows.indptr), jnp.asarray(rows.indices)
  num_columns = x.shape[0]
  if not num_columns:
    return jnp.zeros((indptr.shape[0] - 1, x.shape[1]), x.dtype)
  matrix = sparse.BCSR(
    (
      values,
      jnp.clip(indices, 0, num_columns - 1),
      jnp.clip(indptr, 0, indices.shape[0]),
    ),
    shape=(indptr.shape[0] - 1, num_columns),
  )
  # The kernel is up to four times faster on columns in whole vectors. A zero
  # that XLA cannot see through, as it does through the 0 that starts a cumsum.
  zero = jnp.minimum(indptr[-1], 0)
  return (matrix @ _in_whole_vectors(x, zero))[:, : x.shape[1]]


def _in_whole_vectors(x: Array, zero: Array) -> Array:
  """Appends columns to x [m, f] that nothing reads in the end.

  Not by `jnp.pad`, into whose loop XLA would draw what computes x, such as a
  quantizer, and then not vectorize it: training steps took a quarter longer.
  Their value is some value of x, because of zeros XLA would make one array for
  all calls, and a copy of it for each.

  Args:
    x: [m, f].
    zero: 0, but only known at run time; of a constant XLA makes a pad.

  Returns:
    [m, f'] with f' the next multiple of `_VECTOR`.
  """
  width = -(-x.shape[1] // _VECTOR) * _VECTOR
  wide = jnp.broadcast_to(x[:1, :1], (x.shape[0], width))
  return jax.lax.dynamic_update_slice(wide, x, (zero, zero))


@_csr_product.def_vmap
def _csr_products(
  size: int, batched: Any, rows: Csr, values: Array, x: Array
) -> tuple[Array, bool]:
  """`_csr_product` under `vmap`: XLA has no kernel for batches of matrices."""
  arguments = [rows, values, x]
  if any(jax.tree.leaves(batched[:2])):
    take = lambda i: jax.tree.map(
      lambda a, is_batched: a[i] if is_batched else a, arguments, batched
    )
    one_by_one = lambda i: _csr_product(*take(i))
    return jax.lax.map(one_by_one, jnp.arange(size)), True
  # One matrix: what it multiplies can lie side by side.
  columns = jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
  y = _csr_product(rows, values, columns)
  return jnp.moveaxis(y.reshape(-1, size, x.shape[2]), 1, 0), True
