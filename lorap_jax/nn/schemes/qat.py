"""Vanilla QAT and Degree-Quant."""

import dataclasses
from typing import Any

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.nn import quantizers
from lorap_jax.nn.schemes.base import (
  HIDDEN_OPERANDS,
  OPERANDS,
  PARAMETERS,
  Forms,
  Point,
  Protection,
  check_points,
  name_of,
)
from lorap_jax.quantization import affine, observers

# All points of the published layers (camlsys/degree-quant).
POINTS: tuple[Point, ...] = (
  'features',
  'input',
  'readout',
  'weight',
  'output',
  'message',
  'norm',
  'attention',
  'logits',
  'neighbor_sum',
  'aggregate',
  'update',
)
_SUMS = ('neighbor_sum', 'aggregate')


def _unset() -> Any:
  """Default of a field that has another value where `published`."""
  return None


@dataclasses.dataclass(frozen=True)
class QAT:
  """Quantization-aware training with observed ranges.

  Attributes:
    bits: of every point.
    points: quantized points; the others pass by.
    symmetric: zero point 0.
    per_column: one range per column, not per tensor.
    range_rule: `momentum` or `extreme` (never shrinks).
    momentum: of the momentum rule; .1, and .01 where `published`, which cannot
      follow in 200 full-batch steps.
    percentile: share cut off at either end of a range; 0 for minimum and
      maximum.
    sum_percentile: the same for sums over neighbours, whose few hubs would
      otherwise spend the range; None for `percentile`.
    feature_percentile: the same for raw features: of bags of words with fewer
      nonzeros than `percentile` it would cut off every word. None for
      `percentile`.
    gradient: `plain`, `clipped` or `clipped_strict`.
    edge_messages: quantize the messages of edges, not of nodes, so where
      `published`; slower, and the same where edges have no weights, up to the
      ranges and to GIN's own term, which is then the raw node.
    stride: rows between those that a percentile looks at.
    published: the published code's arithmetic and layer forms, see
      docs/differences.md. Fields that are set keep their value.

  References:
    Jacob et al.: Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, CVPR 2018, arXiv 1712.05877.
  """

  bits: int = 4
  points: tuple[Point, ...] = POINTS
  symmetric: bool = False
  per_column: bool = False
  range_rule: observers.UpdateRule = 'momentum'
  momentum: float = _unset()
  percentile: float = 0.0
  sum_percentile: float | None = None
  feature_percentile: float | None = None
  gradient: affine.Gradient = 'plain'
  edge_messages: bool = _unset()
  stride: int = 1
  published: bool = False
  stored = HIDDEN_OPERANDS
  per_node = False
  bit_schedule = None

  def _by_form(self) -> dict[str, tuple[Any, Any]]:
    """Our value, and the published one, of fields that are not set."""
    return {'momentum': (0.1, 0.01), 'edge_messages': (False, True)}

  def __post_init__(self):
    for name, (ours, published) in self._by_form().items():
      if getattr(self, name) is None:
        value = published if self.published else ours
        object.__setattr__(self, name, value)
    if not 2 <= self.bits <= 8:
      raise ValueError(
        f'`bits` must be in 2..8, got {self.bits}; use the scheme fp32 for no '
        'quantization'
      )
    check_points('points', self.points)
    for name in ('percentile', 'sum_percentile', 'feature_percentile'):
      value = getattr(self, name)
      if value and not 1e-4 <= value < 0.5:
        raise ValueError(f'`{name}` must be 0 or in [0.0001, 0.5), got {value}')
    if not 0 < self.momentum <= 1:
      raise ValueError(f'`momentum` must be in (0, 1], got {self.momentum}')
    if self.stride < 1:
      raise ValueError(f'`stride` must be at least 1, got {self.stride}')
    for name, allowed in (
      ('range_rule', ('momentum', 'extreme')),
      ('gradient', ('plain', 'clipped', 'clipped_strict')),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'`{name}` must be one of {allowed}, got {getattr(self, name)!r}'
        )

  @property
  def forms(self) -> Forms:
    """See Scheme."""
    if not self.published:
      return Forms()
    return Forms(
      degree_of='senders',
      drops_self_loops=True,
      protects_mlp=False,
      unbiased_variance=True,
    )

  def in_convolution(self) -> 'QAT':
    """Itself."""
    return self

  @property
  def edge_weights(self) -> bool:
    """See Scheme."""
    return 'norm' in self.points

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """See Scheme."""
    if point not in self.points:
      if point in OPERANDS:
        return quantizers.Identity(name=name_of(point))
      return None
    percentile = self.percentile
    if point in _SUMS and self.sum_percentile is not None:
      percentile = self.sum_percentile
    if point == 'features' and self.feature_percentile is not None:
      percentile = self.feature_percentile
    return quantizers.AffineQuantizer(
      bits=self.bits,
      signed=not non_negative,
      per_column=self.per_column,
      symmetric=self.symmetric,
      percentile=percentile,
      range_rule=self.range_rule,
      momentum=self.momentum,
      gradient=self.gradient,
      protects=self._protects(point),
      published=self.published,
      stride=1 if point in PARAMETERS else self.stride,
      name=name_of(point),
    )

  def _protects(self, point: Point) -> bool:
    del point
    return False

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """No penalty: 0."""
    return 0 * memory

  def protection(self) -> Protection | None:
    """None: no row is protected."""
    return None


@dataclasses.dataclass(frozen=True)
class DegreeQuant(QAT):
  """Degree-Quant: nodes of high in-degree often stay in full precision.

  In training a node is protected with a probability between `low` and
  `low + change` that grows with the rank of its in-degree in its graph; at
  evaluation all nodes are quantized. Ranges are percentiles: `percentile` .001
  for 8 bits, .01 for 4 as published.

  Attributes:
    low: smallest probability of protection.
    change: largest minus smallest.
    redraw: draw a new mask for every layer, not one per step. The published
      REDDIT-BINARY code has one per step.
    protected_points: where protected rows pass by. The published GIN leaves its
      MLP out of it, as `published` does.

  References:
    Tailor, Fernandez-Marques, Lane: Degree-Quant: Quantization-Aware Training
    for Graph Neural Networks, ICLR 2021, arXiv 2008.05000.
  """

  range_rule: observers.UpdateRule = 'extreme'
  percentile: float = _unset()
  gradient: affine.Gradient = _unset()
  low: float = 0.0
  change: float = 0.1
  redraw: bool = False
  protected_points: tuple[Point, ...] = (
    'features',
    'input',
    'output',
    'message',
    'neighbor_sum',
    'aggregate',
    'update',
  )

  def _by_form(self) -> dict[str, tuple[Any, Any]]:
    """See QAT."""
    return super()._by_form() | {
      'percentile': (0.01, 0.001 if self.bits == 8 else 0.01),
      'gradient': ('clipped', 'clipped_strict'),
    }

  def __post_init__(self):
    super().__post_init__()
    check_points('protected_points', self.protected_points)
    for name in ('low', 'change'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f'`{name}` must be in [0, 1], got {getattr(self, name)}'
        )

  def _protects(self, point: Point) -> bool:
    return point in self.protected_points

  def protection(self) -> Protection:
    """See Scheme."""
    return Protection(self.low, self.change, self.redraw)
