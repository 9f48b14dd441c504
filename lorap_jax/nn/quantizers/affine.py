"""QAT and Degree-Quant: where observed ranges live."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows
from lorap_jax.nn.rows import Rows
from lorap_jax.nn.telemetry import Quantized, real_rows
from lorap_jax.quantization import affine, observers

_METADATA_BYTES = 8  # float32 scale and int32 zero point.


class AffineQuantizer(nn.Module):
  """Affine quantizer with an observed range, per tensor or per column.

  Variable: `range` in the collection `quant_stats`. Training observes the
  batch, its protected rows left out, and quantizes with the updated range;
  evaluation keeps the range.

  Attributes:
    bits: bits per element.
    signed: codes are signed.
    per_column: one range per column.
    symmetric: zero point 0.
    percentile: share of the values cut off at either end of a batch's range.
    range_rule: `momentum` or `extreme`, see `observers.update_range`.
    momentum: of the momentum rule.
    gradient: `plain`, `clipped` or `clipped_strict`, see `affine.fake_quant`.
    protects: protected rows stay in full precision.
    stride: rows between those that a percentile looks at.
    published: see `affine.fake_quant`.
  """

  bits: int
  signed: bool
  per_column: bool = False
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
    """The nonzeros and the row beside them suffice."""
    return not self.per_column and not self.percentile

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """Puts x on the grid of the observed range.

    Args:
      x: [n, f]; sparse ones if `takes_sparse`, whose rows are alike beside
        nonzeros, of which no row is full.
      rows: real and protected rows, and the mode.

    Returns:
      Values on the grid, and the bits.
    """
    shape = (1, x.shape[1]) if self.per_column else ()
    stats = self.variable(
      'quant_stats', 'range', lambda: observers.init_range(shape)._asdict()
    )
    seen = observers.Range(**stats.value)
    keep = rows.protected if rows.train and self.protects else None
    mask = real_rows(x, rows)
    if rows.train:
      seen = observers.update_range(
        seen,
        self._batch_range(x, mask if keep is None else mask & ~keep),
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
    metadata = _METADATA_BYTES * max(1, qparams.scale.size)
    codes = affine.code_range(self.bits, signed=self.signed)
    low, high = ((c - qparams.zero_point) * qparams.scale for c in codes)
    return Quantized(y, float(self.bits), metadata, bounds=(low, high))

  def _batch_range(
    self, x: Array | SparseRows, mask: Array
  ) -> tuple[Array, Array]:
    if not isinstance(x, SparseRows):
      return observers.batch_range(
        x,
        mask=mask,
        axis=0 if self.per_column else None,
        percentile=self.percentile,
        stride=self.stride,
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
