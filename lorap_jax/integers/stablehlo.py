"""An integer program as StableHLO, by jax.export.

The numbers of nodes, edges and graphs are free. Constants lie packed in uint8
(`packing`), and are taken apart by the program itself.
"""

import dataclasses
from typing import Any

import jax
import jax.export  # An attribute of jax only once it is imported.
import jax.numpy as jnp
import numpy as np

from lorap_jax.integers import packing
from lorap_jax.integers.program import Graph, Program, execute


class CannotExportError(Exception):
  """A program that jax.export cannot write with free sizes, and why."""


PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(program: Program) -> bytes:
  """The program, serialized; `jax.export.deserialize` reads it.

      run = jax.export.deserialize(bytearray(content)).call
      codes = run(nodes, senders, receivers, n_node)

  Args:
    program: what to write.

  Returns:
    Bytes. What is called takes nodes float32 [n, num_features], senders and
    receivers int32 [e] and n_node int32 [g], whose sum is n, and returns int32
    [g, outputs] or [n, outputs].

  Raises:
    CannotExportError: jax.export has no form of it.
  """
  n, e, g = jax.export.symbolic_shape('n, e, g')
  shaped = lambda kind, *shape: jax.ShapeDtypeStruct(shape, kind)
  run = jax.jit(lambda *arrays: _run(program, *arrays))
  try:
    exported = jax.export.export(run, platforms=PLATFORMS)(
      shaped(jnp.float32, n, program.num_features),
      shaped(jnp.int32, e),
      shaped(jnp.int32, e),
      shaped(jnp.int32, g),
    )
  except (
    NotImplementedError,
    jax.errors.InconclusiveDimensionOperation,
  ) as error:
    raise CannotExportError(str(error)) from error
  return bytes(exported.serialize())


def _run(program: Program, nodes: Any, senders: Any, receivers: Any, n_node):
  # How many graphs end at or before each node.
  ends = jnp.zeros(nodes.shape[0] + 1, jnp.int32).at[jnp.cumsum(n_node)].add(1)
  graph_of = jnp.cumsum(ends)[:-1]
  known: dict[bytes, Any] = {}

  def unpacked(array: Any) -> Any:
    array = np.asarray(array)
    key = f'{array.dtype} {array.shape} '.encode() + array.tobytes()
    if key not in known:
      known[key] = _unpacked(array)
    return known[key]

  inner = dataclasses.replace(
    program,
    nodes=tuple(
      dataclasses.replace(
        node, constants={k: unpacked(v) for k, v in node.constants.items()}
      )
      for node in program.nodes
    ),
  )
  graph = Graph(nodes, senders, receivers, graph_of, n_node.shape[0])
  return execute(inner, graph, xp=jnp)


def _unpacked(array: np.ndarray) -> Any:
  """The array, made of its bytes where that takes less."""
  packed = packing.pack(array)
  if packed is None or packing.size(packed.bits, array.size) >= array.nbytes:
    return jnp.asarray(array)
  codes, shift = jnp.int32(0), 0
  for width, content in packing.fields(packed.codes, packed.bits):
    parts = width * np.arange(8 // width, dtype=np.uint8)[:, None]
    part = jnp.asarray(content)[None] >> parts & np.uint8(2**width - 1)
    part = part.astype(jnp.int32).reshape(-1)[: array.size]
    codes = codes + (part << shift)
    shift += width
  if packed.fraction is not None:
    one = 2**packed.fraction
    codes = (one + codes % one) << (codes // one)
  codes = codes.reshape(array.shape) + packed.offset.astype(np.int32)
  if array.dtype.kind == 'f':
    return codes.astype(jnp.float32) * np.float32(2.0**packed.exponent)
  if packed.exponent < 0:
    return (codes >> -packed.exponent).astype(array.dtype)
  return (codes << packed.exponent).astype(array.dtype)
