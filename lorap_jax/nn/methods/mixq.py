"""MixQ: the search for bit-widths, and the network that it finds."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows, partition
from lorap_jax.nn import telemetry
from lorap_jax.nn.methods.fp32 import Identity
from lorap_jax.nn.methods.scheme import Forms, Point, check_points, name_of
from lorap_jax.nn.quantized import Quantized, Rows, real_rows
from lorap_jax.quantization import grids, mixq, mixq_search

_SCALE_BYTES = 8  # float32 scale and zero point, per column.


class RelaxedQuantizer(nn.Module):
  """A mixture of quantizers, one per candidate bit-width.

  Parameters: `logits` [m], `range_scale` and `range_zero_point` [m, 1, f],
  started from the tensor that `init` sees. Sows `memory`, the expected KiB.

  Attributes:
    candidates: m bit-widths.
    transposed: x is a weight [in, out], quantized per input feature.
    published: the published arithmetic, see `quantization.mixq`.
    depth: how often the published code divides this cost, see
      `mixq_search.bit_cost`.
  """

  candidates: tuple[int, ...]
  transposed: bool = False
  published: bool = False
  depth: int = 1

  param_groups: ClassVar[dict[str, str]] = {
    'logits': 'bit_logits',
    'range_scale': 'base',
    'range_zero_point': 'base',
  }

  @property
  def takes_sparse(self) -> bool:
    """Whether x may be sparse: not with the published gradients."""
    return not self.published

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """The mixture of x on the candidates' grids.

    Args:
      x: [n, f]; if `takes_sparse` also `SparseRows` whose `left` is None.
      rows: real rows of x.

    Returns:
      Values between the grids. `bits` is the mean of the mixture, a scalar.
    """
    t, mask = _oriented(x, rows, self.transposed)
    logits = self.param(
      'logits', lambda _: mixq_search.initial_logits(self.candidates)
    )
    start = [_calibrate(self, t, mask, bits) for bits in self.candidates]
    stacked = [jnp.stack(values) for values in zip(*start, strict=True)]
    y = _quantized(
      functools.partial(
        mixq_search.relaxed_fake_quant,
        logits=logits,
        candidates=self.candidates,
        published=self.published,
      ),
      t,
      _range_params(self, stacked),
      mask,
    )
    y = y.T if self.transposed else y
    elements = x.shape[1] * jnp.sum(real_rows(x, rows), dtype=jnp.float32)
    telemetry.sow(
      self,
      'memory',
      'kib',
      mixq_search.bit_cost(elements, logits, self.candidates, depth=self.depth),
    )
    bits = mixq_search.expected_bits(logits, self.candidates)
    return Quantized(y, bits, _SCALE_BYTES * t.shape[1])


class FixedQuantizer(nn.Module):
  """The quantizer of one bit-width, per column, with trained range.

  Parameters: `range_scale`, `range_zero_point` [1, f].

  Attributes:
    bits: (path of the quantizer, bits) pairs, from the search.
    default_bits: bits of a quantizer whose path is not among them.
    transposed: x is a weight [in, out], quantized per input feature.
    published: the published arithmetic, see `quantization.mixq`.
  """

  bits: tuple[tuple[str, int], ...]
  default_bits: int
  transposed: bool = False
  published: bool = False

  param_groups: ClassVar[dict[str, str]] = {
    'range_scale': 'base',
    'range_zero_point': 'base',
  }

  @property
  def takes_sparse(self) -> bool:
    """Whether x may be sparse: not with the published gradients."""
    return not self.published

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """Puts each column of x on its grid.

    Args:
      x: [n, f]; if `takes_sparse` also `SparseRows` whose `left` is None.
      rows: real rows of x.

    Returns:
      Values on the grid. `bits` is a scalar.
    """
    bits = dict(self.bits).get('/'.join(self.path), self.default_bits)
    t, mask = _oriented(x, rows, self.transposed)
    params = _range_params(self, _calibrate(self, t, mask, bits))
    y = _quantized(
      functools.partial(mixq.fake_quant, bits=bits, published=self.published),
      t,
      params,
      mask,
    )
    y = y.T if self.transposed else y
    return Quantized(
      y,
      float(bits),
      _SCALE_BYTES * t.shape[1],
      bounds=None if self.transposed else _bounds(*params, bits),
      grid=None if self.transposed or bits > 8 else _grid(*params, bits),
    )

  def grid(self, params: Any, statistics: Any, path: str) -> grids.UniformGrid:
    """A grid for each column; of a weight for each input feature."""
    del statistics
    bits = dict(self.bits).get(path, self.default_bits)
    low, high = mixq.code_range(bits)
    return grids.UniformGrid(
      np.asarray(params['range_scale'], np.float64)[0],
      np.asarray(params['range_zero_point'], np.float64)[0],
      low,
      high,
    )


def _bounds(scale: Array, zero_point: Array, bits: int) -> tuple[Array, Array]:
  ends = [(code - zero_point) * scale for code in mixq.code_range(bits)]
  return jnp.minimum(*ends), jnp.maximum(*ends)


def _grid(scale: Array, zero_point: Array, bits: int) -> partition.Grid:
  low, _ = mixq.code_range(bits)
  return partition.Grid(scale, low - zero_point)


def _oriented(x: Any, rows: Rows, transposed: bool):
  return (x.T, None) if transposed else (x, rows.mask)


def _calibrate(module: Any, t: Any, mask: Array | None, bits: int):
  if isinstance(t, SparseRows):
    t = t.dense()  # Of no use after `init`; jit leaves it out.
  return mixq.calibrate(t, bits=bits, mask=mask, published=module.published)


def _quantized(
  function: Callable[..., Array], t: Any, params: tuple[Array, Array], mask: Any
) -> Any:
  """The quantizer applied to t, whose padding has no upstream gradient."""
  if not isinstance(t, SparseRows):
    return function(t, *params, mask=mask)
  # [.., 1, f] of the columns becomes [.., k, 1] of the nonzeros.
  of_nonzeros = [jnp.swapaxes(p[..., t.columns], -1, -2) for p in params]
  elements = function(t.elements[:, None], *of_nonzeros)
  return t.of_elements(elements[:, 0], function(t.row, *params))


def _range_params(module: nn.Module, start) -> tuple[Array, Array]:
  scale, zero_point = start
  return (
    module.param('range_scale', lambda _: scale),
    module.param('range_zero_point', lambda _: zero_point),
  )


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
  # Ours: none is published.
  'rgcn': ('features', 'readout', 'weight', 'output', 'neighbor_sum'),
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
    points: quantized points; tensors at the others stay in full precision.
    cost_weight: lambda of the loss term lambda * expected KiB.
    published: the published arithmetic (`quantization.mixq`) and layer forms,
      see docs/differences.md.
    inside: whether the scheme is that of the dense layers in a convolution; set
      by `in_convolution`.

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
    """True where `norm` is quantized."""
    return 'norm' in self.points

  def __post_init__(self):
    mixq_search.check_candidates(self.candidates)
    check_points('points', self.points)

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """A mixture of the candidates at each of `points`."""
    del non_negative
    if point not in self.points:
      return _reported(point)
    return RelaxedQuantizer(
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
    """If `published`: no bias in dense layers, torch's running variance."""
    on = self.published
    return Forms(dense_bias=not on, unbiased_variance=on)

  def in_convolution(self) -> 'MixQSearch':
    """A copy with `inside`, on which the published cost depends."""
    return dataclasses.replace(self, inside=True)

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """Lambda times the expected KiB."""
    return mixq_search.search_penalty(memory, weight=self.cost_weight)

  def protection(self) -> None:
    """None: no row is protected."""


@dataclasses.dataclass(frozen=True)
class MixQ:
  """Second phase: the bit-widths that the search chose.

  Attributes:
    assignment: (path of the quantizer, bits) pairs, from the search.
    bits: of quantizers that are not in the assignment.
    points: quantized points; tensors at the others stay in full precision.
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
    """True where `norm` is quantized."""
    return 'norm' in self.points

  def __post_init__(self):
    for bits in (self.bits, *(b for _, b in self.assignment)):
      mixq.code_range(bits)
    check_points('points', self.points)

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """A quantizer of the assigned bits at each of `points`."""
    del non_negative
    if point not in self.points:
      return _reported(point)
    return FixedQuantizer(
      bits=self.assignment,
      default_bits=self.bits,
      transposed=point == 'weight',
      published=self.published,
      name=name_of(point),
    )

  @property
  def forms(self) -> Forms:
    """Batch norm's running variance is torch's if `published`."""
    return Forms(unbiased_variance=self.published)

  def in_convolution(self) -> 'MixQ':
    """The scheme itself: its bits are looked up by path."""
    return self

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """No penalty: 0."""
    return 0 * memory

  def protection(self) -> None:
    """None: no row is protected."""


def _reported(point: Point) -> nn.Module | None:
  if point in ('features', 'readout'):
    return Identity(name=name_of(point))
  return None
