"""Shards of a batch: padded batches of one shape, one behind the other.

A batch for s devices has s shards. No edge goes from one to another, so that
sums over neighbours and pooling run in each shard alone; all else (products,
norms, ranges, penalties, losses) sees the rows of all shards as one array.
Under a mesh of JAX (`jax.set_mesh`) whose axis `data` has s devices each shard
is on its own device: XLA adds what has to go between them, and the network does
not know. Without such a mesh the same batch runs on one device.

The shape of `RealGraphs.mask` says how many shards there are.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lorap_jax._typing import Array, Bool, Int, PyTree

AXIS = 'data'


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=(), meta_fields=('num_nodes',)
)
@dataclasses.dataclass(frozen=True)
class Partition:
  """The shards are parts of one graph, see `graphs.partition`.

  Attributes:
    num_nodes: real nodes; padding is behind them.
  """

  num_nodes: int


class RealGraphs(NamedTuple):
  """The `globals` of a padded batch: which of its graphs are real.

  For a batch padded elsewhere, such as by `jraph.pad_with_graphs`:

      mask = jraph.get_graph_padding_mask(padded)
      padded = padded._replace(globals=RealGraphs(mask))

  Attributes:
    mask: bool [g], True for real graphs; [s, g / s] for a batch of s shards.
    neighborhood: what the one real graph is of a larger one that it was sampled
      from, see `graphs.neighborhood`; None for whole graphs.
    partition: the shards are parts of one graph, between which edges go; None
      where no edge leaves its shard.
  """

  mask: Any
  neighborhood: Any = None
  partition: Any = None  # Partition | None.


def count(graph: jraph.GraphsTuple) -> int:
  """The number s of shards; 1 unless `globals` says otherwise."""
  real = graph.globals
  if isinstance(real, RealGraphs) and real.mask.ndim == 2:
    return real.mask.shape[0]
  return 1


def in_each(function: Callable[..., Any], s: int, *arrays: PyTree) -> Any:
  """Runs a function in each shard.

  Args:
    function: of the arrays of one shard, whose indices count from its own first
      row; its results have rows too.
    s: number of shards.
    *arrays: of all shards, one behind the other.

  Returns:
    The results, one behind the other.
  """
  if s == 1:
    return function(*arrays)
  if dict(jax.sharding.get_abstract_mesh().shape).get(AXIS) == s:
    spec = PartitionSpec(AXIS)
    mapped = jax.shard_map(
      function, in_specs=spec, out_specs=spec, check_vma=False
    )
    return mapped(*arrays)
  split = lambda a: jnp.reshape(a, (s, a.shape[0] // s, *a.shape[1:]))
  join = lambda a: a.reshape(-1, *a.shape[2:])
  return jax.tree.map(join, jax.vmap(function)(*jax.tree.map(split, arrays)))


def inside(ids: tuple[Any, ...], s: int, rows: int) -> tuple[Any, ...]:
  """Indices into rows of all shards as indices into those of their own shard.

  Args:
    ids: int32 arrays.
    s: number of shards.
    rows: of all shards.
  """
  return ids if s == 1 else tuple(i % (rows // s) for i in ids)


def order(mask: Bool[Array, 'n'], s: int) -> Int[Array, 'n'] | None:
  """The rows as a batch of one shard has them, the real ones first.

  What depends on the place of a row, such as a random draw, is then the same
  for any number of shards.

  Args:
    mask: True for real rows.
    s: number of shards.

  Returns:
    int32 [n]; None of one shard, whose rows lie so.
  """
  return None if s == 1 else jnp.argsort(~mask, stable=True)


def joined_order(*orders: Array | None) -> Array | None:
  """The `order` of several kinds of rows, one behind the other."""
  starts = itertools.accumulate(
    (0 if o is None else len(o) for o in orders), initial=0
  )
  shifted = [
    o + start for o, start in zip(orders, starts, strict=False) if o is not None
  ]
  return jnp.concatenate(shifted) if shifted else None


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
  """A mesh of devices that get a shard each."""
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def by_device(mesh: Mesh) -> NamedSharding:
  """Where the shards of a batch lie."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def in_this_process(mesh: Mesh) -> list[int]:
  """The shards that lie on devices of this process."""
  own = jax.process_index()
  return [i for i, d in enumerate(mesh.devices.flat) if d.process_index == own]


def put(batch: PyTree, mesh: Mesh) -> PyTree:
  """The shards of this process, on its devices, as part of the whole batch.

  Args:
    batch: arrays whose rows are those of `in_this_process`, in their order.
    mesh: of the devices of all processes.
  """
  own, s = len(in_this_process(mesh)), mesh.size
  sharding = by_device(mesh)
  if own == s:
    return jax.device_put(batch, sharding)
  whole = lambda a: (a.shape[0] // own * s, *a.shape[1:])
  return jax.tree.map(
    lambda a: jax.make_array_from_process_local_data(sharding, a, whole(a)),
    batch,
  )


def placed(batch: PyTree, mesh: Mesh) -> PyTree:
  """The rows of a batch, which each process has whole, on the devices of all.

  Args:
    batch: arrays whose rows are those of all shards, in their order.
    mesh: of the devices of all processes.
  """
  sharding = by_device(mesh)
  return jax.tree.map(
    lambda a: jax.make_array_from_callback(a.shape, sharding, a.__getitem__),
    batch,
  )


def replicated(tree: PyTree) -> PyTree:
  """The same arrays, whole on each device of the mesh if there is one."""
  if AXIS not in jax.sharding.get_abstract_mesh().axis_names:
    return tree
  return jax.lax.with_sharding_constraint(tree, PartitionSpec())
