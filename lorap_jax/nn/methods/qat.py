"""Vanilla QAT: affine quantizers with observed ranges."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows, partition
from lorap_jax.nn.methods.fp32 import Identity
from lorap_jax.nn.methods.scheme import (
  HIDDEN_OPERANDS,
  OPERANDS,
  PARAMETERS,
  Forms,
  Point,
  Protection,
  check_points,
  name_of,
)
from lorap_jax.nn.quantized import Quantized, Rows, real_rows
from lorap_jax.quantization import affine, grids, observers

_METADATA_BYTES = 8  # float32 scale and int32 zero point.


class AffineQuantizer(nn.Module):
  """Affine quantizer with one observed range.

  Variable: `range` in the collection `quant_stats`. Training observes the
  batch, its protected rows left out, and quantizes with the updated range;
  evaluation keeps the range.

  Attributes:
    bits: bits per element.
    signed: codes are signed.
    symmetric: zero point 0.
    percentile: share of the values cut off at either end of a batch's range;
      0 for minimum and maximum.
    range_rule: `momentum` (a running average) or `extreme` (never shrinks).
    momentum: weight of the new batch in the running average.
    gradient: of clipped values: `plain`, `clipped` or `clipped_strict`, see
      `affine`.
    protects: protected rows stay in full precision.
    stride: the range of a dense x is measured on every stride-th row only.
    published: multiply by 1 / s, as the published code does, not divide by s.
  """

  bits: int
  signed: bool
  symmetric: bool = False
  percentile: float = 0.0
  range_rule: observers.UpdateRule = 'momentum'
  momentum: float = 0.1
  gradient: affine.Gradient = 'plain'
  protects: bool = False
  stride: int = 1
  published: bool = False

  param_groups: ClassVar[dict[str, str]] = {}

  @property
  def takes_sparse(self) -> bool:
    """Whether x may be sparse: not with percentiles."""
    return not self.percentile

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """Puts x on the grid of the observed range.

    Args:
      x: [n, f]; if `takes_sparse` also `SparseRows` whose `left` is None and
        which have fewer than f nonzeros in every row.
      rows: real and protected rows, and whether this is training.

    Returns:
      Values on the grid; protected rows as they were. `bits` is a scalar.
    """
    stats = self.variable(
      'quant_stats', 'range', lambda: observers.init_range()._asdict()
    )
    seen = observers.Range(**stats.value)
    keep = rows.protected if rows.train and self.protects else None
    mask = real_rows(x, rows)
    if rows.train:
      seen = observers.update_range(
        seen,
        self._batch_range(x, _observed(mask, keep, rows), rows),
        rule=self.range_rule,
        momentum=self.momentum,
      )
      if not self.is_initializing() and self.is_mutable_collection(
        'quant_stats'
      ):
        stats.value = seen._asdict()
    qparams = affine.affine_qparams(
      seen.min_val,
      seen.max_val,
      bits=self.bits,
      signed=self.signed,
      symmetric=self.symmetric,
    )
    put_on_grid = functools.partial(
      affine.fake_quant,
      qparams=qparams,
      bits=self.bits,
      signed=self.signed,
      gradient=self.gradient,
      published=self.published,
    )
    if isinstance(x, SparseRows):
      y = _sparse_on_grid(x, put_on_grid, keep)
    else:
      y = put_on_grid(x, keep=keep)
    codes = affine.code_range(self.bits, signed=self.signed)
    low, high = ((c - qparams.zero_point) * qparams.scale for c in codes)
    as_bytes = keep is None and self.bits <= 8
    return Quantized(
      y,
      float(self.bits),
      _METADATA_BYTES,
      bounds=(low, high),
      grid=_grid(qparams, codes[0]) if as_bytes else None,
    )

  def grid(self, params: Any, statistics: Any, path: str) -> grids.UniformGrid:
    """The grid of the observed range; a network without one is refused."""
    del params, path
    seen = statistics['range']
    if not seen['initialized']:
      raise ValueError('a quantizer has seen no data; train the run first')
    qparams = affine.affine_qparams(
      jnp.asarray(seen['min_val']),
      jnp.asarray(seen['max_val']),
      bits=self.bits,
      signed=self.signed,
      symmetric=self.symmetric,
    )
    low, high = affine.code_range(self.bits, signed=self.signed)
    return grids.UniformGrid(
      np.asarray(qparams.scale, np.float64),
      np.asarray(qparams.zero_point).astype(np.int64),
      low,
      high,
    )

  def _batch_range(
    self, x: Array | SparseRows, mask: Array, rows: Rows
  ) -> tuple[Array, Array]:
    if not isinstance(x, SparseRows):
      stride = self.stride
      if rows.order is not None and stride > 1:
        sample = rows.order[::stride]
        x, mask, stride = x[sample], mask[sample], 1
      return observers.batch_range(
        x, mask=mask, percentile=self.percentile, stride=stride
      )
    low, high = observers.batch_range(x.elements[:, None], mask=mask[x.rows])
    beside = jnp.any(mask)  # Every row has a zero.
    if x.right is not None:
      # But not every column, which then does not show its prompt alone.
      kept = mask[x.rows, 0].astype(jnp.int32)
      nonzeros = jax.ops.segment_sum(kept, x.columns, x.shape[1])
      beside = nonzeros < jnp.sum(mask, dtype=jnp.int32)
    return (
      jnp.minimum(low, jnp.min(jnp.where(beside, x.row, jnp.inf))),
      jnp.maximum(high, jnp.max(jnp.where(beside, x.row, -jnp.inf))),
    )


def _observed(mask: Array, keep: Array | None, rows: Rows) -> Array:
  """The rows [n, 1] that a range is of."""
  if keep is not None:
    mask = mask & ~keep
  return mask if rows.observed is None else mask & rows.observed


def _grid(qparams: affine.QParams, low: int) -> partition.Grid:
  scale, zero_point = (jnp.reshape(q, (1, 1)) for q in qparams)
  return partition.Grid(scale, low - zero_point)


def _sparse_on_grid(
  x: SparseRows, put_on_grid: Callable[..., Array], keep: Array | None
) -> Any:
  """The grid values of the matrix, but for the rows `keep`."""
  of_nonzeros = lambda rows: rows[x.rows, 0]
  elements = put_on_grid(
    x.elements, keep=None if keep is None else of_nonzeros(keep)
  )
  if x.right is None:  # 0 is on every grid.
    return x._replace(values=elements)
  row = put_on_grid(x.row)
  if keep is None:
    return x.of_elements(elements, row)
  # Rows that are kept, and the others.
  left = jnp.concatenate([keep, ~keep], axis=1).astype(row.dtype)
  beside = jnp.where(of_nonzeros(keep), x.row[0, x.columns], row[0, x.columns])
  return x._replace(
    values=elements - beside,
    left=left,
    right=jnp.concatenate([x.row, row]),
  )


# The published layers have all of them (camlsys/degree-quant).
POINTS: tuple[Point, ...] = get_args(Point)
_SUMS = ('neighbor_sum', 'aggregate')


def unset() -> Any:
  """Default of a field that has another value where `published`."""
  return None


@dataclasses.dataclass(frozen=True)
class QAT:
  """Quantization-aware training with observed ranges.

  Attributes:
    bits: bits per element, at every point.
    points: quantized points; tensors at the others stay in full precision.
    symmetric: zero point 0.
    momentum: weight of the new batch in the running average. The default is .1,
      and .01 where `published`, which cannot follow in 200 full-batch steps.
    percentile: share of values cut off at either end of a range; 0 for minimum
      and maximum.
    sum_percentile: `percentile` of sums over neighbours, whose few hubs would
      otherwise take up the range; None for the same.
    feature_percentile: `percentile` of raw features, None for the same. Bags of
      words with a smaller share of nonzeros would lose every word.
    gradient: of clipped values: `plain`, `clipped` or `clipped_strict`, see
      `affine`.
    edge_messages: quantize the message of each edge, not of each node; True by
      default where `published`. It is slower. If edges have no weights, only
      two things change: ranges are those of the edges, and GIN's own term is
      the raw node.
    stride: ranges of dense features are measured on every stride-th row only.
    published: the published code's arithmetic and layer forms, see
      docs/differences.md. Fields that are set keep their value.

  References:
    Jacob et al.: Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, CVPR 2018, arXiv 1712.05877.
  """

  bits: int = 4
  points: tuple[Point, ...] = POINTS
  symmetric: bool = False
  momentum: float = unset()
  percentile: float = 0.0
  sum_percentile: float | None = None
  feature_percentile: float | None = None
  gradient: affine.Gradient = 'plain'
  edge_messages: bool = unset()
  stride: int = 1
  published: bool = False
  stored = HIDDEN_OPERANDS
  per_node = False
  bit_schedule = None
  range_rule: ClassVar[observers.UpdateRule] = 'momentum'

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
    allowed = get_args(affine.Gradient)
    if self.gradient not in allowed:
      raise ValueError(
        f'`gradient` must be one of {allowed}, got {self.gradient!r}'
      )

  @property
  def forms(self) -> Forms:
    """Layers as usual, or as in Degree-Quant's code if `published`."""
    if not self.published:
      return Forms()
    return Forms(
      degree_of='senders',
      drops_self_loops=True,
      protects_mlp=False,
      unbiased_variance=True,
    )

  def in_convolution(self) -> 'QAT':
    """The scheme itself: all dense layers are quantized alike."""
    return self

  @property
  def edge_weights(self) -> bool:
    """True where `norm` is quantized."""
    return 'norm' in self.points

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """An `AffineQuantizer` at each of `points`, none elsewhere."""
    if point not in self.points:
      if point in OPERANDS:
        return Identity(name=name_of(point))
      return None
    percentile = self.percentile
    if point in _SUMS and self.sum_percentile is not None:
      percentile = self.sum_percentile
    if point == 'features' and self.feature_percentile is not None:
      percentile = self.feature_percentile
    return AffineQuantizer(
      bits=self.bits,
      signed=not non_negative,
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
