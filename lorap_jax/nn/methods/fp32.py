"""No quantization."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows
from lorap_jax.nn.methods.scheme import (
  HIDDEN_OPERANDS,
  OPERANDS,
  Forms,
  Point,
  name_of,
)
from lorap_jax.nn.quantized import Quantized, Rows


class Identity(nn.Module):
  """A quantization point that leaves its tensor in full precision."""

  param_groups: ClassVar[dict[str, str]] = {}

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """Returns x with its 32 bits."""
    del rows
    return Quantized(x)  # pyrefly: ignore


@dataclasses.dataclass(frozen=True)
class FP32:
  """Full precision: no point is quantized."""

  stored = HIDDEN_OPERANDS
  per_node = False
  bit_schedule = None
  edge_messages = False
  edge_weights = False
  forms = Forms()

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """An `Identity` at operands and messages, which are only reported."""
    del non_negative
    if point in (*OPERANDS, 'message'):
      return Identity(name=name_of(point))
    return None

  def in_convolution(self) -> 'FP32':
    """The scheme itself: FP32 is the same everywhere."""
    return self

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """No penalty: 0."""
    return 0 * memory

  def protection(self) -> None:
    """None: no row is protected."""
