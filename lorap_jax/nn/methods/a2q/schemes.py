"""A2Q at graph and at node level."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.nn.methods.a2q.quantizers import (
  ChannelQuantizer,
  ColumnQuantizer,
  GroupedQuantizer,
  NodeQuantizer,
)
from lorap_jax.nn.methods.fp32 import Identity
from lorap_jax.nn.methods.scheme import HIDDEN_OPERANDS, Forms, Point, name_of
from lorap_jax.quantization import a2q, a2q_groups, a2q_published

_STARTS = ('data', 'uniform', 'normal')


@dataclasses.dataclass(frozen=True)
class A2QBase:
  """What `A2QGraph` and `A2QNode` have in common.

  Attributes:
    bits: initial bits of features, and the fixed bits of messages and weights.
    start: how scales start: `data` from the first tensor, `uniform` or `normal`
      at random, as published; see the quantizers.
    memory_weight: a of the penalty a relu(M - T)^2, per KiB^2.
    memory_target: T of that penalty, KiB.
    target_bits: average bits of the features. If it is set, it replaces that
      penalty: the first part of a run drives the average to it, see
      `quantization.bit_budget`, and the last part trains no bits. None for the
      penalty.
    published: the published code's arithmetic (`quantization.a2q_published`)
      and layer forms, see docs/differences.md.
    gradient: `clipped` stops the gradient of clipped values, `plain` does not.
    quantize_features: quantize raw node features that enter a convolution.
    level: `graph` or `node`, which selects the rules of `a2q.a2q_rule`.
  """

  bits: int = 4
  start: str = 'data'
  memory_weight: float = 5e-5
  memory_target: float = 0.1
  target_bits: float | None = None
  published: bool = False
  gradient: a2q.Gradient = 'clipped'
  quantize_features: bool = False
  level: ClassVar[a2q.Level]
  stored = HIDDEN_OPERANDS
  edge_messages = False
  edge_weights = False

  def __post_init__(self):
    if not 1 <= self.bits <= 8:
      raise ValueError(
        f'`bits` must be in 1..8, got {self.bits}; use the scheme fp32 for no '
        'quantization'
      )
    if self.start not in _STARTS:
      raise ValueError(
        f"`start` must be 'data', 'uniform' or 'normal', got {self.start!r}"
      )
    if self.target_bits is not None and not 1 <= self.target_bits <= self.bits:
      raise ValueError(
        f'`target_bits` must be between 1 and `bits` = {self.bits}, where they '
        f'start; got {self.target_bits}'
      )
    self._rule('feature')  # Checks the gradient.

  def _rule(self, tensor: a2q.Tensor) -> a2q.Rule:
    if self.published:
      return a2q_published.published_rule(self.level, tensor)
    return a2q.a2q_rule(self.level, tensor, gradient=self.gradient)

  def in_convolution(self) -> 'A2QBase':
    """The scheme itself: all dense layers are quantized alike."""
    return self

  @property
  def bit_schedule(self) -> tuple[float, float] | None:
    """`bits` and `target_bits`; None where the penalty drives the bits."""
    if self.target_bits is None:
      return None
    return float(self.bits), float(self.target_bits)

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """The memory penalty a relu(M - T)^2, unless there is a target in bits."""
    if self.target_bits is not None:
      return 0 * memory
    return a2q_groups.memory_penalty(
      memory, target=self.memory_target, weight=self.memory_weight
    )

  def protection(self) -> None:
    """None: no row is protected."""


@dataclasses.dataclass(frozen=True)
class A2QGraph(A2QBase):
  """A2Q for graph-level tasks. `A2QBase` describes the other fields.

  | point                     | quantizer                                     |
  |---------------------------|-----------------------------------------------|
  | input, readout, aggregate | group table, learned scale and bits           |
  | features                  | the same, if `quantize_features`; else none,  |
  |                           | only reported                                 |
  | message                   | per column, learned scale, fixed bits         |
  | logits                    | group table, learned scale, fixed bits (GAT)  |
  | weight, attention         | per output channel, learned scale, fixed bits |
  | all others                | none                                          |

  Attributes:
    num_groups: groups (scale, bits) in each table.
  """

  num_groups: int = 1000
  level = 'graph'
  per_node = False

  def __post_init__(self):
    super().__post_init__()
    if self.num_groups < 1:
      raise ValueError(f'`num_groups` must be at least 1: {self.num_groups}')

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """The quantizer that the table of the class has for the point."""
    shared: dict[str, Any] = {'bits': self.bits, 'start': self.start}
    tables = (*HIDDEN_OPERANDS, 'logits')
    if point in tables or (point == 'features' and self.quantize_features):
      return GroupedQuantizer(
        rule=self._rule('feature'),
        num_groups=self.num_groups,
        non_negative=non_negative,
        fixed_bits=point == 'logits',
        name=name_of(point),
        **shared,
      )
    if point == 'message':
      return ColumnQuantizer(rule=self._rule('message'), name=point, **shared)
    if point in ('weight', 'attention'):
      return ChannelQuantizer(rule=self._rule('weight'), name=point, **shared)
    if point == 'features':
      return Identity(name=point)
    return None

  @property
  def forms(self) -> Forms:
    """If `published`, GIN drops self loops; batch norm averages as torch's."""
    on = self.published
    return Forms(drops_self_loops=on, unbiased_variance=on)


@dataclasses.dataclass(frozen=True)
class A2QNode(A2QBase):
  """A2Q for one graph and its nodes. `A2QBase` describes the other fields.

  | point                     | quantizer                                     |
  |---------------------------|-----------------------------------------------|
  | input, readout, aggregate | per node, learned scale and bits              |
  | features                  | the same, if `quantize_features`; else none,  |
  |                           | only reported                                 |
  | message                   | per column, learned scale, fixed bits; with   |
  |                           | `node_messages` (GAT) per node, fixed bits    |
  | logits                    | per head, learned scale, fixed bits           |
  | weight, attention         | per output channel, learned scale, fixed bits |
  | all others                | none                                          |

  Attributes:
    memory_width: columns charged per node; None for those of each tensor.
    quantize_messages: False leaves messages in full precision, as published
      for ogbn-arxiv.
    node_messages: one message scale per node, not per column.
    weight_start: mean and deviation of initial weight scales, start `normal`.
    feature_start: mean and deviation of feature scales.
    message_start: mean and deviation of message scales.
  """

  memory_weight: float = 2.5
  memory_target: float = 5.0
  memory_width: int | None = None
  quantize_messages: bool = True
  node_messages: bool = False
  weight_start: tuple[float, float] = (0.1, 0.2)
  feature_start: tuple[float, float] = (0.01, 0.01)
  message_start: tuple[float, float] = (0.01, 0.01)
  level = 'node'
  per_node = True

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """The quantizer that the table of the class has for the point."""
    shared: dict[str, Any] = {'bits': self.bits, 'start': self.start}
    if point in HIDDEN_OPERANDS or (
      point == 'features' and self.quantize_features
    ):
      return NodeQuantizer(
        rule=self._rule('feature'),
        non_negative=non_negative,
        memory_width=self.memory_width,
        normal=self.feature_start,
        name=name_of(point),
        **shared,
      )
    if point == 'message' and self.quantize_messages:
      if self.node_messages:
        return NodeQuantizer(
          rule=self._rule('feature'),
          non_negative=non_negative,
          fixed_bits=True,
          normal=self.message_start,
          name=point,
          **shared,
        )
      return ColumnQuantizer(
        rule=self._rule('message'),
        normal=self.message_start,
        name=point,
        **shared,
      )
    if point == 'logits':
      return ColumnQuantizer(
        rule=self._rule('message'),
        normal=(0.1, 0.1),
        name=point,
        **shared,
      )
    if point in ('weight', 'attention'):
      return ChannelQuantizer(
        rule=self._rule('weight'),
        normal=self.weight_start,
        name=point,
        **shared,
      )
    if point == 'features':
      return Identity(name=point)
    return None

  @property
  def forms(self) -> Forms:
    """Those of `A2QGraph`; if `published`, GCN's messages have its bias too."""
    on = self.published
    return Forms(bias_in_messages=on, drops_self_loops=on, unbiased_variance=on)
