"""One graph whose nodes are shared by several devices.

Device i has the nodes i q to (i + 1) q - 1, all edges that they receive, and,
in layouts, those that they send. Padding is at the end. Before a sum over
neighbours each device gets the rows of all nodes (`jax.lax.all_gather`), and
sums for its own nodes; the gradient does the same the other way round. Rows
that are on a grid travel as their codes, a byte for each number. Every node's
edges are summed on one device in one order, so that the sums are those of one
device, bit for bit, wherever sums of one device are (on a GPU, whose
segment_sum has no order, they are not).

All else sees the rows of all devices as one array, see `shards`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from lorap_jax._typing import Array, PyTree
from lorap_jax.graphs import shards


class Grid(NamedTuple):
  """Values step (low + u) with integers u from 0 to 255.

  Attributes:
    step: distance of neighbouring values, [n, 1], [1, f] or [1, 1].
    low: of the smallest value, over the step; of one of these shapes too.
  """

  step: Array
  low: Array

  def codes(self, values: Array) -> Array:
    """U of values on the grid, uint8."""
    step = jnp.where(self.step == 0, 1, self.step)
    return jnp.round(values / step - self.low).astype(jnp.uint8)

  def values(self, codes: Array) -> Array:
    """The values of codes u."""
    return self.step * (self.low + codes.astype(jnp.float32))


class Packed(NamedTuple):
  """What travels of a tensor [n, f].

  Attributes:
    each: arrays with n rows: the values, or their codes, and what has a row for
      each of them.
    same: arrays that all devices have.
    kinds: what `each` and `same` are, by name.
  """

  each: tuple[Array, ...]
  same: tuple[Array, ...]
  kinds: tuple[tuple[str, ...], tuple[str, ...]]


def of(graph: jraph.GraphsTuple) -> shards.Partition | None:
  """How the graph is shared; None where it is whole."""
  real = graph.globals
  return real.partition if isinstance(real, shards.RealGraphs) else None


def pack(
  x: Array, factor: Array | None = None, grid: Grid | None = None
) -> Packed:
  """What has to travel of factor x.

  Args:
    x: [n, f]; on the grid, if there is one.
    factor: [n, 1]; None for 1.
    grid: of x; None for values of any kind.
  """
  if grid is None:
    return Packed((x if factor is None else factor * x,), (), (('values',), ()))
  parts = {'codes': grid.codes(x), 'step': grid.step, 'low': grid.low}
  if factor is not None:
    parts['factor'] = factor
  each = {k: v for k, v in parts.items() if v.shape[0] == x.shape[0]}
  same = {k: v for k, v in parts.items() if k not in each}
  return Packed(
    tuple(each.values()), tuple(same.values()), (tuple(each), tuple(same))
  )


def _unpack(kinds: Any, each: Any, same: Any) -> Array:
  parts = dict(zip(kinds[0] + kinds[1], (*each, *same), strict=True))
  if 'values' in parts:
    return parts['values']
  values = Grid(parts['step'], parts['low']).values(parts['codes'])
  return parts['factor'] * values if 'factor' in parts else values


def with_all(
  function: Callable[..., Any], s: int, everywhere: PyTree, *arrays: PyTree
) -> Any:
  """Runs a function in each shard, with some rows of all shards.

  Args:
    function: of (number of the shard, rows of all shards, arrays of its own),
      whose results have rows too.
    s: number of shards.
    everywhere: a pair: arrays whose rows are gathered; arrays that all have.
    *arrays: of all shards, one behind the other.

  Returns:
    The results, one behind the other.
  """
  each, same = everywhere
  if dict(jax.sharding.get_abstract_mesh().shape).get(shards.AXIS) == s > 1:
    spec = jax.sharding.PartitionSpec

    def local(each, same, *own):
      gather = lambda a: jax.lax.all_gather(a, shards.AXIS, tiled=True)
      number = jax.lax.axis_index(shards.AXIS)
      return function(number, (jax.tree.map(gather, each), same), *own)

    rows, whole = spec(shards.AXIS), spec()
    return jax.shard_map(
      local,
      in_specs=(rows, whole, *[rows] * len(arrays)),
      out_specs=rows,
      check_vma=False,
    )(each, same, *arrays)
  split = lambda a: jnp.reshape(a, (s, a.shape[0] // s, *a.shape[1:]))
  join = lambda a: a.reshape(-1, *a.shape[2:])
  local = lambda number, own: function(number, (each, same), *own)
  results = jax.vmap(local)(jnp.arange(s), jax.tree.map(split, arrays))
  return jax.tree.map(join, results)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def gather_sum(
  product: Callable[..., Array],
  s: int,
  kinds: Any,
  x: Array,
  each: Any,
  same: Any,
  incoming: Any,
  outgoing: Any,
) -> Array:
  """Sums of rows of x over neighbours, by layouts.

  Args:
    product: of (a side of a layout, rows of all nodes): the sums of its rows.
    s: number of shards.
    kinds: of `Packed`.
    x: [n, f], which the gradient is for; its values come from the rows.
    each: of `Packed`.
    same: of `Packed`.
    incoming: of each shard's nodes, indices among all nodes.
    outgoing: likewise, for the gradient.
  """
  del x, outgoing
  run = lambda _, all_rows, side: product(side, _unpack(kinds, *all_rows))
  return with_all(run, s, (each, same), incoming)


def _gather_sum_fwd(product, s, kinds, x, each, same, incoming, outgoing):
  y = gather_sum(product, s, kinds, x, each, same, incoming, outgoing)
  return y, outgoing


def _gather_sum_bwd(product, s, kinds, outgoing, ds):
  del kinds
  run = lambda _, all_rows, side: product(side, all_rows[0])
  return with_all(run, s, (ds, ()), outgoing), None, None, None, None


gather_sum.defvjp(_gather_sum_fwd, _gather_sum_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def weighted_sum(
  product: Callable[..., Array],
  s: int,
  kinds: Any,
  x: Array,
  each: Any,
  same: Any,
  weights: Array,
  ends: Any,
  incoming: Any,
  outgoing: Any,
) -> Array:
  """Weighted sums over neighbours of x [n, h, f], by layouts.

  Args:
    product: of (rows of all nodes [n, h, f], weights [e, h], a side).
    s: see `gather_sum`; so are `kinds`, `each` and `same`.
    kinds: of `Packed`.
    x: [n, h, f], which the gradient is for.
    each: of `Packed` of x as [n, h f].
    same: likewise.
    weights: [e, h].
    ends: senders and receivers, numbers among all nodes.
    incoming: of each shard's nodes; its entries are the edges in their order.
    outgoing: of each shard's nodes, with numbers of edges among all.
  """
  del outgoing, ends
  shape = x.shape[1:]

  def run(_, all_rows, w, side):
    rows = _unpack(kinds, *all_rows)
    return product(rows.reshape(-1, *shape), w, side)

  return with_all(run, s, (each, same), weights, incoming)


def _weighted_sum_fwd(product, s, kinds, *args):
  return weighted_sum(product, s, kinds, *args), args


def _weighted_sum_bwd(product, s, kinds, saved, ds):
  x, each, same, weights, ends, _, outgoing = saved
  shape, count = x.shape[1:], x.shape[0] // s

  def of_x(_, all_rows, side):
    (ds_all, w_all), _ = all_rows
    return product(ds_all, w_all, side)

  def of_weights(number, all_rows, ds_own, own):
    senders, receivers = own
    rows = _unpack(kinds, *all_rows).reshape(-1, *shape)
    # Padding edges end at the last node of all, which may be elsewhere.
    here = receivers - number * count
    sent = ds_own.at[here].get(mode='fill', fill_value=0)
    return jnp.sum(rows[senders] * sent, axis=-1)

  dx = with_all(of_x, s, ((ds, weights), ()), outgoing)
  dw = with_all(of_weights, s, (each, same), ds, ends)
  return dx, None, None, dw, None, None, None


weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def segment_sum(
  x: Packed, graph: jraph.GraphsTuple, s: int, weights: Array | None = None
) -> Array:
  """Sums over neighbours without layouts; differentiated as it stands.

  Args:
    x: rows of values, [n, f], or [n, h f] where weights are [e, h].
    graph: its senders and receivers are used.
    s: number of shards.
    weights: of the edges, [e, h]; None for 1.
  """
  nodes: Any = graph.nodes
  count = nodes.shape[0] // s

  def run(number, all_rows, own):
    senders, receivers, *rest = own
    rows = _unpack(x.kinds, *all_rows)[senders]
    if rest:
      shape = rows.shape
      rows = rows.reshape(shape[0], rest[0].shape[1], -1) * rest[0][:, :, None]
      rows = rows.reshape(shape)
    # What ends at padding elsewhere is dropped.
    return jax.ops.segment_sum(rows, receivers - number * count, count)

  own = (graph.senders, graph.receivers)
  own = own if weights is None else (*own, weights)
  return with_all(run, s, (x.each, x.same), own)
