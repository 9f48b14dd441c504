"""What a forward pass reports about its bits and its cost.

Layers `sow` these records into the collection `telemetry`: `methods.quantize`
one for each feature tensor, layers and prompts one for each product and sum.
jit removes them from a program that does not read them. `training/accounting`
turns them into average bits, bytes and bit operations.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import jraph

from lorap_jax._typing import Array
from lorap_jax.graphs import SparseRows
from lorap_jax.nn.quantized import Quantized, Rows, real_rows

COLLECTION = 'telemetry'
# The collection of `bit_budget.BitUsage`, by point of the tensor.
BIT_USAGE = 'bit_usage'


@flax.struct.dataclass
class FeatureRecord:
  """One feature tensor [n, f] at one quantization point.

  Attributes:
    point: the point's name, see `methods.Point`.
    bits: stored bits per element of each row [n].
    error: sum of squared quantization errors of each row [n].
    energy: sum of squares of each row before quantization [n].
    energy_after: sum of squares of each row after quantization [n].
    clipped: elements of each row beyond the bounds of its grid [n].
    mask: True for real rows [n].
    width: f, elements per row.
    row_metadata_bits: bits that each row needs beside its codes.
    table_bytes: bytes that the quantizer's own parameters take.
  """

  point: str = flax.struct.field(pytree_node=False)
  bits: Array
  error: Array
  energy: Array
  energy_after: Array
  clipped: Array
  mask: Array
  width: Array
  row_metadata_bits: Array
  table_bytes: Array


Role = Literal['layer', 'prompt']


@flax.struct.dataclass
class ProductRecord:
  """One matrix product, over the real rows of the batch.

  Attributes:
    role: whether a `layer` computes it, or a `prompt`.
    macs: multiply-accumulates.
    bit_ops: macs times the bits of both operands.
  """

  role: Role = flax.struct.field(pytree_node=False)
  macs: Array
  bit_ops: Array


class SumRecord(NamedTuple):
  """One sum over neighbours, over the real edges of the batch.

  Attributes:
    additions: additions of single numbers.
    bit_ops: additions times the bits of the summand.
  """

  additions: Array
  bit_ops: Array


class WeightRecord(NamedTuple):
  """One weight matrix.

  Attributes:
    elements: number of entries.
    bits: bits per entry.
    metadata_bytes: scales, and biases in full precision.
  """

  elements: Array
  bits: Array
  metadata_bytes: Array


class PromptRecord(NamedTuple):
  """What a prompt does to its aggregate, over the real rows of the batch.

  Attributes:
    elements: elements of the aggregate.
    before: sum of squares of the aggregate.
    prompt: sum of squares of the prompt.
    after: sum of squares of the aggregate with it.
  """

  elements: Array
  before: Array
  prompt: Array
  after: Array


class SideRecord(NamedTuple):
  """A full-precision path beside a quantized tensor.

  Attributes:
    row_bits: bits of each real row that the path has to carry.
    mask: True for real rows [n].
  """

  row_bits: Array
  mask: Array


def sow(module: nn.Module, collection: str, name: str, value: Any) -> None:
  """Writes a value that describes one forward pass.

  Nothing is written while a module is initialized, and what an earlier pass
  wrote is replaced: variables that come from `init`, or from a pass before,
  carry nothing into the next.

  Args:
    module: whose variable it is.
    collection: collection of the variable.
    name: name of the variable.
    value: a tree of arrays.
  """
  if not module.is_initializing():
    module.sow(
      collection,
      name,
      value,
      reduce_fn=lambda old, new: new,
      init_fn=lambda: None,
    )


def record_feature(
  module: nn.Module,
  point: str,
  x: Array | SparseRows,
  y: Quantized,
  rows: Rows,
) -> None:
  """Sows the report of a feature tensor x stored as y.

  Args:
    module: the quantizer.
    point: the point's name.
    x: [n, f] before quantization.
    y: what the quantizer made of it.
    rows: real rows of x.
  """
  count = x.shape[0]
  bits = jnp.asarray(jax.lax.stop_gradient(y.bits), jnp.float32)
  same = y.values is x
  error: Any = None if same else y.values - x  # pyrefly: ignore
  report = FeatureRecord(
    point=point,
    bits=jnp.broadcast_to(bits[:, 0] if bits.ndim else bits, (count,)),
    error=jnp.zeros(count) if same else _square_sums(error),
    energy=_square_sums(x),
    energy_after=_square_sums(y.values),
    clipped=_clipped(x, y.bounds),
    mask=real_rows(x, rows)[:, 0],
    width=jnp.float32(x.shape[1]),
    row_metadata_bits=jnp.float32(y.row_metadata_bits),
    table_bytes=jnp.float32(y.metadata_bytes),
  )
  sow(module, COLLECTION, 'feature', report)


def _clipped(
  x: Array | SparseRows, bounds: tuple[Array, Array] | None
) -> Array:
  """Elements of each row beyond the bounds."""
  if bounds is None:
    return jnp.zeros(x.shape[0])
  low, high = bounds
  if not isinstance(x, SparseRows):
    return jnp.sum((x < low) | (x > high), axis=1, dtype=jnp.float32)
  # The nonzeros, and the row beside them at all other places.
  beyond = lambda t, at: (t < at(low)) | (t > at(high))
  beside = beyond(x.row, lambda bound: bound).astype(jnp.float32)[0]
  of_nonzeros = lambda b: b[0, x.columns] if b.shape == x.row.shape else b
  more = beyond(x.elements, of_nonzeros) - beside[x.columns]
  return jnp.sum(beside) + jax.ops.segment_sum(
    more, x.rows, x.shape[0], indices_are_sorted=True
  )


def _square_sums(x: Array | SparseRows) -> Array:
  if isinstance(x, SparseRows):
    return x.square_sums()
  return jnp.sum(x**2, axis=1)


def record_product(
  module: nn.Module,
  operand: Quantized,
  weight_bits: Array | float | int,
  mask: Array,
  macs: int,
  *,
  role: Role = 'layer',
) -> None:
  """Sows a product of `macs` multiply-accumulates per row.

  Args:
    module: the layer.
    operand: the left operand [n, f].
    weight_bits: bits of the right operand, a scalar.
    mask: [n, 1], True for real rows.
    macs: multiply-accumulates per row.
    role: whether a `layer` computes the product, or a `prompt`.
  """
  bits = jnp.broadcast_to(jnp.asarray(operand.bits, jnp.float32), mask.shape)
  report = ProductRecord(
    role=role,
    macs=macs * jnp.sum(mask, dtype=jnp.float32),
    bit_ops=macs * weight_bits * jnp.sum(bits * mask),
  )
  sow(module, COLLECTION, 'product', report)


def record_prompt(
  module: nn.Module, s: Array, prompt: Array, rows: Rows
) -> None:
  """Sows what a prompt adds to an aggregate.

  Args:
    module: the prompt.
    s: aggregate [n, d] that it is added to.
    prompt: [n, d], or one row [1, d] for all.
    rows: real rows of s.
  """
  mask = real_rows(s, rows)
  total = lambda t: jnp.sum(jnp.where(mask, t, 0) ** 2)
  elements = s.shape[1] * jnp.sum(mask, dtype=jnp.float32)
  report = PromptRecord(elements, total(s), total(prompt), total(s + prompt))
  sow(module, COLLECTION, 'prompt', report)


def record_sum(
  module: nn.Module,
  message: Quantized,
  graph: jraph.GraphsTuple,
  rows: Rows,
  *,
  loops: bool = True,
) -> None:
  """Sows the additions of a neighbour sum over the real edges.

  Args:
    module: the layer.
    message: what is summed, node messages [n, f].
    graph: batch whose edges are used.
    rows: real nodes.
    loops: edges from a node to itself count.
  """
  mask = real_rows(message.values, rows)[:, 0]
  summed = mask[graph.receivers] & mask[graph.senders]
  if not loops:
    summed &= jnp.asarray(graph.senders != graph.receivers)
  received = jnp.sum(summed, dtype=jnp.float32)
  additions = received * message.values.shape[1]
  # Messages whose bits differ from row to row are counted by their mean.
  bits = jnp.asarray(message.bits, jnp.float32)
  if bits.ndim:
    bits = jnp.sum(bits[:, 0] * mask) / jnp.maximum(jnp.sum(mask), 1)
  sow(module, COLLECTION, 'sum', SumRecord(additions, additions * bits))
