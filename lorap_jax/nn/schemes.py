"""Schemes: which quantizer acts at each point that a layer names.

A layer calls `quantize(scheme, point, x, ...)` at the points below and knows
no framework. A scheme maps points to quantizer modules and knows no layer.

| point          | tensor                                                    |
|----------------|-----------------------------------------------------------|
| `input`        | left operand of a dense product                           |
| `weight`       | right operand of a dense product                          |
| `output`       | result of a dense product                                 |
| `message`      | node features before they are sent                        |
| `neighbor_sum` | sum over the neighbours, before the node itself joins     |
| `aggregate`    | what the aggregation hands to the update, LoRAP's place   |
| `update`       | result of a layer                                         |
"""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.nn import quantizers
from lorap_jax.nn.telemetry import Quantized
from lorap_jax.quantization import a2q_groups

Point = Literal[
  'input', 'weight', 'output', 'message', 'neighbor_sum', 'aggregate', 'update'
]
_PRODUCT_POINTS = ('input', 'aggregate')


@runtime_checkable
class Scheme(Protocol):
  """A quantization framework, as layers see it."""

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """A new, named quantizer for the point, or None to pass it by."""

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """What the scheme adds to the loss, given the `memory` sown, in KiB."""


def quantize(
  scheme: Scheme,
  point: Point,
  x: Float[Array, 'n f'],
  *,
  mask: Array | None = None,
  non_negative: bool = False,
) -> Quantized:
  """Sends x through the scheme's quantizer for this point, if it has one.

  To be called in a compact method: the quantizer becomes a child of the
  calling module, under the name of the point.

  Args:
    scheme: the framework.
    point: the point's name.
    x: the tensor [n, f].
    mask: [n, 1], True for real rows; None for weights.
    non_negative: x has no negative values.

  Returns:
    The tensor and its bits.
  """
  module = scheme.quantizer(point, non_negative=non_negative)
  if module is None:
    return Quantized(x)
  return module(x) if mask is None else module(x, mask=mask)


@dataclasses.dataclass(frozen=True)
class FP32:
  """Full precision: no point is quantized, operands are only reported."""

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """See Scheme."""
    del non_negative
    if point in (*_PRODUCT_POINTS, 'message'):
      return quantizers.Identity(name=point)
    return None

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """No penalty: 0."""
    return 0 * memory


@dataclasses.dataclass(frozen=True)
class A2QGraph:
  """A2Q for graph-level tasks.

  | point              | quantizer                                        |
  |--------------------|--------------------------------------------------|
  | input, aggregate   | group table, learned scale and bits              |
  | message            | per column, learned scale, fixed bits            |
  | weight             | per output channel, learned scale, fixed bits    |
  | all others         | none                                             |

  Attributes:
    bits: initial feature bits, and the fixed bits of messages and weights.
    num_groups: size of each table.
    start: `data`, `uniform` or `normal`, see `quantizers`.
    memory_weight: a of the penalty a relu(M - T)^2, per KiB^2.
    memory_target: T, KiB.
    published: the published code's arithmetic, see `quantization.a2q`.
    exact_range: see `a2q_groups.nearest_group`.
  """

  bits: int = 4
  num_groups: int = 1000
  start: str = 'data'
  memory_weight: float = 5e-5
  memory_target: float = 0.1
  published: bool = False
  exact_range: bool = False

  def __post_init__(self):
    if not 1 <= self.bits <= 8:
      raise ValueError(
        f'`bits` must be in 1..8, got {self.bits}; use the scheme fp32 for no '
        'quantization'
      )
    if self.num_groups < 1:
      raise ValueError(f'`num_groups` must be at least 1: {self.num_groups}')
    if self.start not in ('data', 'uniform', 'normal'):
      raise ValueError(
        f"`start` must be 'data', 'uniform' or 'normal', got {self.start!r}"
      )

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """See Scheme."""
    shared = {'start': self.start, 'published': self.published, 'name': point}
    if point in _PRODUCT_POINTS:
      return quantizers.GroupedQuantizer(
        bits=self.bits,
        num_groups=self.num_groups,
        non_negative=non_negative,
        exact_range=self.exact_range,
        **shared,
      )
    if point == 'message':
      return quantizers.ColumnQuantizer(bits=self.bits, level='graph', **shared)
    if point == 'weight':
      return quantizers.ChannelQuantizer(
        bits=self.bits, level='graph', **shared
      )
    return None

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """The memory penalty a relu(M - T)^2."""
    return a2q_groups.memory_penalty(
      memory, target=self.memory_target, weight=self.memory_weight
    )
