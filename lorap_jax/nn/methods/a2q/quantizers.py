"""Where A2Q's learned scales and bit-widths live."""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import partition
from lorap_jax.nn import telemetry
from lorap_jax.nn.quantized import Quantized, Rows, real_rows
from lorap_jax.quantization import a2q, a2q_groups, bit_budget, grids, numerics

_START_MARGIN = 1.2  # Largest range at the start, over the first batch's max.
_BITS_JITTER = 0.49  # Equal bits would cross a half all at once.
# Parameter groups of learned and of fixed bits.
_LEARNED = {'scale': 'feature_scale', 'bits': 'feature_bits'}
_FIXED = {'scale': 'message_scale', 'bits': 'frozen'}


class _FeatureQuantizer:
  """Which parameters of a feature quantizer are trained, by `fixed_bits`."""

  fixed_bits: bool

  @property
  def param_groups(self) -> dict[str, str]:
    """Groups of `scale` and `bits`; with fixed bits those of messages."""
    return _FIXED if self.fixed_bits else _LEARNED


class GroupedQuantizer(_FeatureQuantizer, nn.Module):
  """A2Q at graph level: each row borrows (scale, bits) from a learned table.

  Parameters: `scale` [m], `bits` [m]. Sows `memory`, the KiB that the penalty
  charges for this quantizer.

  With start `data`, the ranges of the groups are spread evenly from 0 to 1.2
  times the largest value of the batch that `init` sees, which therefore has
  to be a real one, and the bits are jittered by +-0.49.

  Attributes:
    bits: initial bits, before one is added for non-negative data.
    rule: arithmetic and gradients, from `a2q.a2q_rule`.
    num_groups: m, size of the table.
    non_negative: x has no negative values: one bit more inside, reported as
      one less.
    start: `data`, `uniform` (scales U(0, 1)) or `normal` (|N(.01, .1)|); the
      last two are the published ones.
    fixed_bits: bits are not trained, as for the logits of GAT.
  """

  bits: int
  rule: a2q.Rule
  num_groups: int
  non_negative: bool
  start: str
  fixed_bits: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'n f'], *, rows: Rows) -> Quantized:
    """Puts each row of x on the grid of its nearest group.

    Args:
      x: [n, f].
      rows: real rows of x; a mask of None means all.

    Returns:
      Values on the grid, and the stored bits of each row [n, 1].
    """
    mask = real_rows(x, rows)
    sign_bit = int(self.non_negative)
    rule = a2q.with_sign_bit(self.rule, sign_bit)
    bits = self.param('bits', self._init_bits, sign_bit)
    # Without |x|, which would be written out in full.
    max_abs = jnp.maximum(jnp.max(x, axis=1), -jnp.min(x, axis=1))
    scale = self.param('scale', self._init_scale, bits, max_abs, mask)

    used_bits = a2q.round_bits(
      bits, min_bits=rule.min_bits, max_bits=rule.max_bits
    )
    group = a2q_groups.nearest_group(max_abs, scale, used_bits)
    y = a2q.fake_quant(
      x, scale[group][:, None], bits[group][:, None], rule=rule, mask=mask
    )
    memory = a2q_groups.group_memory(
      bits,
      group,
      width=x.shape[1],
      mask=mask[:, 0],
      min_bits=rule.min_bits,
      max_bits=None,  # What lies above the clamp is pulled back.
    )
    telemetry.sow(self, 'memory', 'kib', memory)
    usage = bit_budget.bit_usage(
      bits[group],
      width=x.shape[1],
      mask=mask[:, 0],
      count=self.num_groups,
      min_bits=rule.min_bits,
      sign_bit=sign_bit,
    )
    stored = used_bits[group] - sign_bit
    return Quantized(
      y,
      stored[:, None],
      metadata_bytes=self.num_groups * 5,  # float32 scale, one byte of bits
      row_metadata_bits=math.ceil(math.log2(max(self.num_groups, 2))),
      usage=None if self.fixed_bits else usage,
      bounds=_bounds(scale[group][:, None], used_bits[group][:, None]),
    )

  @property
  def snapped(self) -> Callable[[Any], Any] | None:
    """From parameters to those that files of integers hold, see `a2q_groups`.

    None with fixed bits: their scales are trained with those of messages.
    """
    if self.fixed_bits:
      return None
    rule = a2q.with_sign_bit(self.rule, int(self.non_negative))
    return functools.partial(_snapped, rule=rule)

  def grid(self, params: Any, statistics: Any, path: str) -> grids.GroupGrid:
    """The table of groups; a limit of 2**(b-1) - 1 for b bits."""
    del statistics, path
    rule = a2q.with_sign_bit(self.rule, int(self.non_negative))
    scale, bits, limit = _table(params, rule)
    return grids.GroupGrid(scale, limit, scale * 2.0 ** (bits - 1))

  def _init_bits(self, key: Array, sign_bit: int) -> Array:
    start = jnp.full((self.num_groups,), self.bits + sign_bit, jnp.float32)
    if self.start != 'data':
      return start
    return start + jax.random.uniform(
      key, start.shape, minval=-_BITS_JITTER, maxval=_BITS_JITTER
    )

  def _init_scale(
    self, key: Array, bits: Array, max_abs: Array, mask: Array
  ) -> Array:
    shape = (self.num_groups,)
    if self.start == 'uniform':
      return jax.random.uniform(key, shape)
    if self.start == 'normal':
      return _normal_start(key, shape, (0.01, 0.1))
    largest = jnp.max(jnp.where(mask[:, 0], max_abs, 0))
    largest = jnp.where(largest > 0, largest, 1) * _START_MARGIN
    ranges = numerics.divide(largest * jnp.arange(1, shape[0] + 1), shape[0])
    levels = a2q_groups.range_factor(bits)
    return (ranges / levels).astype(jnp.float32)


class NodeQuantizer(_FeatureQuantizer, nn.Module):
  """A2Q at node level: every row has its own learned scale and bits.

  Parameters: `scale` [n], `bits` [n], padding rows included: one graph, whose
  number of nodes is fixed. Sows `memory`, the KiB that the penalty charges,
  unless the bits are fixed. Of a sampled graph the parameters are those of all
  nodes, of which the rows take theirs, and the memory is an estimate of all
  nodes' from those drawn; nodes that `init` does not see start from the median
  of those it sees.

  Attributes:
    bits: initial bits, before one is added for non-negative data.
    rule: arithmetic and gradients, from `a2q.a2q_rule`.
    non_negative: x has no negative values: one bit more inside, reported as
      one less.
    start: `data` (largest magnitude of the row over qmax, learned bits jittered
      by +-0.49), `uniform` (scales U(0, 1)) or `normal`.
    normal: mean and deviation of |N| for start `normal`.
    fixed_bits: bits are not trained, as for the projected features of GAT.
    memory_width: columns that the penalty charges; None for those of x. The
      published scripts charge the hidden width for every layer.
  """

  bits: int
  rule: a2q.Rule
  non_negative: bool
  start: str
  normal: tuple[float, float] = (0.01, 0.01)
  fixed_bits: bool = False
  memory_width: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'n f'], *, rows: Rows) -> Quantized:
    """Puts each row of x on its own grid.

    Args:
      x: [n, f].
      rows: real rows of x; a mask of None means all.

    Returns:
      Values on the grid, and the stored bits of each row [n, 1].
    """
    mask = real_rows(x, rows)
    sign_bit = int(self.non_negative)
    rule = a2q.with_sign_bit(self.rule, sign_bit)
    numbers = rows.numbers
    count = x.shape[0] if numbers is None else numbers.count
    ids = None
    if numbers is not None:
      # Padding has a place behind the last, which nothing learns from.
      ids = jnp.where(mask[:, 0], numbers.ids, count)
    bits = self.param('bits', self._init_bits, count, sign_bit)
    scale = self.param('scale', self._init_scale, x, sign_bit, count, ids)
    if ids is not None:
      bits, scale = (
        t.at[ids].get(mode='fill', fill_value=1) for t in (bits, scale)
      )
    used = bits
    if self.fixed_bits:
      used = jax.lax.stop_gradient(bits)
    y = a2q.fake_quant(x, scale[:, None], used[:, None], rule=rule, mask=mask)
    usage = None
    if not self.fixed_bits:
      memory = a2q_groups.node_memory(
        bits,
        width=self.memory_width or x.shape[1],
        mask=mask[:, 0],
        min_bits=rule.min_bits,
        max_bits=None,  # What lies above the clamp is pulled back.
      )
      if numbers is not None:
        memory *= count / jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1)
      telemetry.sow(self, 'memory', 'kib', memory)
      usage = bit_budget.bit_usage(
        bits,
        width=x.shape[1],
        mask=mask[:, 0],
        count=count,
        min_bits=rule.min_bits,
        sign_bit=sign_bit,
      )
    used_bits = a2q.round_bits(
      bits, min_bits=rule.min_bits, max_bits=rule.max_bits
    )
    return Quantized(
      y,
      (used_bits - sign_bit)[:, None],
      row_metadata_bits=32 + 8,
      usage=usage,
      bounds=_bounds(scale[:, None], used_bits[:, None]),
      grid=_grid(scale[:, None], used_bits[:, None]),
    )

  def grid(self, params: Any, statistics: Any, path: str) -> grids.RowGrid:
    """A grid for each node of the graph."""
    del statistics, path
    rule = a2q.with_sign_bit(self.rule, int(self.non_negative))
    scale, _, limit = _table(params, rule)
    return grids.RowGrid(scale, limit)

  def _init_bits(self, key: Array, num_rows: int, sign_bit: int) -> Array:
    start = jnp.full((num_rows,), self.bits + sign_bit, jnp.float32)
    if self.start != 'data' or self.fixed_bits:
      return start
    return start + jax.random.uniform(
      key, start.shape, minval=-_BITS_JITTER, maxval=_BITS_JITTER
    )

  def _init_scale(
    self,
    key: Array,
    x: Array,
    sign_bit: int,
    count: int,
    ids: Array | None,
  ) -> Array:
    shape = (count,)
    if self.start == 'uniform':
      return jax.random.uniform(key, shape)
    if self.start == 'normal':
      return _normal_start(key, shape, self.normal)
    seen = _max_scale(x, axis=1, bits=self.bits + sign_bit)
    if ids is None:
      return seen
    usual = jnp.nanmedian(jnp.where(ids < count, seen, jnp.nan))
    return jnp.full(shape, usual).at[ids].set(seen, mode='drop')


class ColumnQuantizer(nn.Module):
  """A2Q messages: one learned scale per feature column, fixed bits.

  Parameters: `scale` [f], `bits` [f] (never trained).

  Attributes:
    bits: bits per element.
    rule: arithmetic and gradients, from `a2q.a2q_rule`.
    start: `data` (largest magnitude of the column over qmax) or anything else
      for the published |N(mean, deviation)|.
    normal: mean and deviation of that start.
  """

  bits: int
  rule: a2q.Rule
  start: str
  normal: tuple[float, float] = (0.01, 0.01)

  param_groups: ClassVar[dict[str, str]] = _FIXED

  @nn.compact
  def __call__(self, x: Float[Array, 'n f'], *, rows: Rows) -> Quantized:
    """Puts each column of x on its own grid.

    Args:
      x: [n, f].
      rows: real rows of x; a mask of None means all.

    Returns:
      Values on the grid, and the bits, a scalar.
    """
    mask = real_rows(x, rows)
    width = x.shape[1]
    scale = self.param('scale', self._init_scale, x, mask)
    bits = self.param(
      'bits', lambda _: jnp.full((width,), self.bits, jnp.float32)
    )
    bits = jax.lax.stop_gradient(bits)  # Else it costs a pass over x.
    y = a2q.fake_quant(x, scale[None], bits[None], rule=self.rule, mask=mask)
    return Quantized(
      y,
      float(self.bits),
      4 * width,
      bounds=_bounds(scale[None], bits[None]),
      grid=_grid(scale[None], bits[None]),
    )

  def grid(self, params: Any, statistics: Any, path: str) -> grids.UniformGrid:
    """A symmetric grid for each column."""
    del statistics, path
    return _uniform(params, self.rule)

  def _init_scale(self, key: Array, x: Array, mask: Array) -> Array:
    if self.start != 'data':
      return _normal_start(key, (x.shape[1],), self.normal)
    return _max_scale(jnp.where(mask, x, 0), axis=0, bits=self.bits)


class ChannelQuantizer(nn.Module):
  """A2Q weights: one learned scale per output channel, fixed bits.

  Parameters: `scale` [out], `bits` [out] (never trained).

  Attributes:
    bits: bits per entry.
    rule: arithmetic and gradients, from `a2q.a2q_rule`.
    start: `data` (largest magnitude of the channel over qmax, which kills no
      channel) or anything else for the published |N(mean, deviation)|.
    normal: mean and deviation of that start.
  """

  bits: int
  rule: a2q.Rule
  start: str
  normal: tuple[float, float] = (0.01, 0.1)

  param_groups: ClassVar[dict[str, str]] = {
    'scale': 'weight_scale',
    'bits': 'frozen',
  }

  @nn.compact
  def __call__(self, kernel: Float[Array, 'i o'], *, rows: Rows) -> Quantized:
    """Puts each column of kernel [in, out] on its own grid."""
    del rows
    width = kernel.shape[1]
    scale = self.param('scale', self._init_scale, kernel)
    bits = self.param(
      'bits', lambda _: jnp.full((width,), self.bits, jnp.float32)
    )
    bits = jax.lax.stop_gradient(bits)
    y = a2q.fake_quant(kernel, scale[None], bits[None], rule=self.rule)
    return Quantized(y, float(self.bits), 4 * width)

  def grid(self, params: Any, statistics: Any, path: str) -> grids.UniformGrid:
    """A symmetric grid for each output channel."""
    del statistics, path
    return _uniform(params, self.rule)

  def _init_scale(self, key: Array, kernel: Array) -> Array:
    if self.start != 'data':
      return _normal_start(key, (kernel.shape[1],), self.normal)
    return _max_scale(kernel, axis=0, bits=self.bits)


def _snapped(params: Any, *, rule: a2q.Rule) -> Any:
  scale, bits = a2q_groups.snapped_table(
    params['scale'], params['bits'], rule=rule
  )
  return {'scale': scale, 'bits': bits}


def _table(
  params: Any, rule: a2q.Rule
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Scales, bits in use and largest codes of a table."""
  bits, limit = jax.device_get(_bits_and_limit(params['bits'], rule))
  scale = np.abs(np.asarray(params['scale'], np.float64))
  return scale, np.asarray(bits, np.float64), limit.astype(np.int64)


@functools.partial(jax.jit, static_argnums=1)
def _bits_and_limit(bits: Array, rule: a2q.Rule) -> tuple[Array, Array]:
  used = a2q.round_bits(bits, min_bits=rule.min_bits, max_bits=rule.max_bits)
  return used, numerics.symmetric_qmax(used)


def _uniform(params: Any, rule: a2q.Rule) -> grids.UniformGrid:
  scale, _, limit = _table(params, rule)
  high = int(limit.max())
  return grids.UniformGrid(scale, np.zeros(scale.shape, np.int64), -high, high)


def _bounds(scale: Array, bits: Array) -> tuple[Array, Array]:
  high = jnp.abs(scale) * numerics.symmetric_qmax(bits)
  return -high, high


def _grid(scale: Array, bits: Array) -> partition.Grid:
  return partition.Grid(jnp.abs(scale), -numerics.symmetric_qmax(bits))


def _normal_start(
  key: Array, shape: tuple[int, ...], normal: tuple[float, float]
) -> Array:
  mean, deviation = normal
  return jnp.abs(mean + deviation * jax.random.normal(key, shape))


def _max_scale(x: Array, *, axis: int, bits: int) -> Array:
  largest = jnp.max(jnp.abs(x), axis=axis)
  largest = jnp.where(largest > 0, largest, 1)
  return numerics.divide(largest, max(2 ** (bits - 1) - 1, 1))
