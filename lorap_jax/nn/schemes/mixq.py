"""MixQ: the search for bit-widths, and the network that it finds."""

import dataclasses

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.nn import quantizers
from lorap_jax.nn.schemes.base import Forms, Point, check_points, name_of
from lorap_jax.quantization import mixq, mixq_search

# Points of the published layers, by backbone (SamirMoustafa/MixQ).
POINTS: dict[str, tuple[Point, ...]] = {
  'gcn': ('features', 'readout', 'weight', 'output', 'norm', 'neighbor_sum'),
  'gin': ('features', 'readout', 'weight', 'output', 'neighbor_sum'),
  'gat': (
    'features',
    'readout',
    'weight',
    'output',
    'attention',
    'neighbor_sum',
  ),
}
# Tensors of dense layers, in a convolution or outside.
_DENSE = ('weight', 'output')
# Between these tensors and the next product lie only maps that act on each
# column alone (bias, batch norm, ReLU): what is stored are their codes.
_STORED: tuple[Point, ...] = ('readout', 'output', 'neighbor_sum')


@dataclasses.dataclass(frozen=True)
class MixQSearch:
  """First phase: every point mixes the candidates' quantizers.

  Attributes:
    candidates: bit-widths to choose from.
    points: quantized points.
    cost_weight: lambda of the loss term lambda * expected KiB.
    published: the published arithmetic (`quantization.mixq`) and layer forms,
      see docs/differences.md.
    inside: the tensors are those of dense layers in a convolution; set by
      `in_convolution`.

  References:
    Moustafa, Kriege, Gansterer: Efficient Mixed Precision Quantization in
    Graph Neural Networks, 2025, arXiv 2505.09361.
  """

  candidates: tuple[int, ...] = (2, 4, 8)
  points: tuple[Point, ...] = POINTS['gcn']
  cost_weight: float = 0.1
  published: bool = False
  inside: bool = False
  stored = _STORED
  per_node = False
  bit_schedule = None
  edge_messages = False

  @property
  def edge_weights(self) -> bool:
    """See Scheme."""
    return 'norm' in self.points

  def __post_init__(self):
    mixq_search.check_candidates(self.candidates)
    check_points('points', self.points)

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """See Scheme."""
    del non_negative
    if point not in self.points:
      return _reported(point)
    return quantizers.RelaxedQuantizer(
      candidates=self.candidates,
      transposed=point == 'weight',
      published=self.published,
      depth=2 if self.published and self._charged_twice(point) else 1,
      name=name_of(point),
    )

  def _charged_twice(self, point: Point) -> bool:
    """Whether the published code divides its cost in a convolution too."""
    return self.inside or point not in ('readout', *_DENSE)

  @property
  def forms(self) -> Forms:
    """See Scheme."""
    on = self.published
    return Forms(dense_bias=not on, unbiased_variance=on)

  def in_convolution(self) -> 'MixQSearch':
    """With `inside`."""
    return dataclasses.replace(self, inside=True)

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """Lambda times the expected KiB."""
    return mixq_search.search_penalty(memory, weight=self.cost_weight)

  def protection(self) -> None:
    """None."""


@dataclasses.dataclass(frozen=True)
class MixQ:
  """Second phase: the bit-widths that the search chose.

  Attributes:
    assignment: (path of the quantizer, bits) pairs, from the search.
    bits: of quantizers that are not in the assignment.
    points: quantized points.
    published: the published arithmetic (`quantization.mixq`) and layer forms,
      see docs/differences.md.
  """

  assignment: tuple[tuple[str, int], ...] = ()
  bits: int = 4
  points: tuple[Point, ...] = POINTS['gcn']
  published: bool = False
  stored = _STORED
  per_node = False
  bit_schedule = None
  edge_messages = False

  @property
  def edge_weights(self) -> bool:
    """See Scheme."""
    return 'norm' in self.points

  def __post_init__(self):
    for bits in (self.bits, *(b for _, b in self.assignment)):
      mixq.code_range(bits)
    check_points('points', self.points)

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """See Scheme."""
    del non_negative
    if point not in self.points:
      return _reported(point)
    return quantizers.FixedQuantizer(
      bits=self.assignment,
      default_bits=self.bits,
      transposed=point == 'weight',
      published=self.published,
      name=name_of(point),
    )

  @property
  def forms(self) -> Forms:
    """See Scheme."""
    return Forms(unbiased_variance=self.published)

  def in_convolution(self) -> 'MixQ':
    """Itself."""
    return self

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """No penalty: 0."""
    return 0 * memory

  def protection(self) -> None:
    """None."""


def _reported(point: Point) -> nn.Module | None:
  if point in ('features', 'readout'):
    return quantizers.Identity(name=name_of(point))
  return None
