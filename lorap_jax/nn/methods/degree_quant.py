"""Degree-Quant: QAT that leaves nodes of high in-degree in full precision."""

import dataclasses
from typing import Any, ClassVar

from lorap_jax.nn.methods.qat import QAT, unset
from lorap_jax.nn.methods.scheme import Point, Protection, check_points
from lorap_jax.quantization import affine, observers


@dataclasses.dataclass(frozen=True)
class DegreeQuant(QAT):
  """Degree-Quant: nodes of high in-degree often stay in full precision.

  In training a node is protected with a probability between `low` and
  `low + change` that grows with the rank of its in-degree in its graph; at
  evaluation all nodes are quantized. Ranges are percentiles that never shrink:
  `percentile` .001 for 8 bits, .01 for 4 as published.

  Attributes:
    low: smallest probability of protection.
    change: largest minus smallest.
    redraw: draw a new mask for every layer, not one per step. The published
      REDDIT-BINARY code has one per step.
    protected_points: points at which protected rows stay in full precision. In
      the published GIN, and with `published`, the MLP has no protected rows.

  References:
    Tailor, Fernandez-Marques, Lane: Degree-Quant: Quantization-Aware Training
    for Graph Neural Networks, ICLR 2021, arXiv 2008.05000.
  """

  # Of ranges that only widen.
  momentum: float = dataclasses.field(default=1.0, init=False)
  percentile: float = unset()
  gradient: affine.Gradient = unset()
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
  range_rule: ClassVar[observers.UpdateRule] = 'extreme'

  def _by_form(self) -> dict[str, tuple[Any, Any]]:
    """Adds ours and the published `percentile` and `gradient`."""
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
    """The probabilities of protection, and how often masks are drawn."""
    return Protection(self.low, self.change, self.redraw)
