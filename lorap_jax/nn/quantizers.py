"""Quantizer modules: where the parameters of the pure quantizers live."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float
from lorap_jax.nn import telemetry
from lorap_jax.nn.telemetry import Quantized
from lorap_jax.quantization import a2q, a2q_groups

_START_MARGIN = 1.2  # Largest range at the start, over the first batch's max.
_BITS_JITTER = 0.49  # Equal bits would cross a half all at once.


class Identity(nn.Module):
  """A quantization point that leaves its tensor in full precision."""

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, mask: Bool[Array, 'n 1']
  ) -> Quantized:
    """Returns x with its 32 bits."""
    telemetry.report_feature(
      self,
      x,
      x,
      jnp.float32(telemetry.FULL_BITS),
      mask,
      row_metadata_bits=0,
      table_bytes=0,
    )
    return Quantized(x)


class GroupedQuantizer(nn.Module):
  """A2Q at graph level: each row borrows (scale, bits) from a learned table.

  Parameters: `scale` [m], `bits` [m]. Sows `memory`, the KiB that the penalty
  charges for this quantizer.

  With start `data`, the ranges of the groups are spread evenly from 0 to 1.2
  times the largest value of the batch that `init` sees, which therefore has
  to be a real one, and the bits are jittered by +-0.49.

  Attributes:
    bits: initial bits, before one is added for non-negative data.
    num_groups: m, size of the table.
    non_negative: x has no negative values: one bit more inside, reported as
      one less.
    start: `data`, `uniform` (scales U(0, 1)) or `normal` (|N(.01, .1)|); the
      last two are the published ones.
    published: compute exactly what the published code computes.
    exact_range: see `a2q_groups.nearest_group`.
  """

  bits: int
  num_groups: int
  non_negative: bool
  start: str
  published: bool
  exact_range: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, mask: Bool[Array, 'n 1']
  ) -> Quantized:
    """Puts each row of x on the grid of its nearest group.

    Args:
      x: [n, f].
      mask: [n, 1], True for real rows.

    Returns:
      Values on the grid, and the stored bits of each row [n, 1].
    """
    sign_bit = int(self.non_negative)
    rule = a2q.with_sign_bit(
      a2q.a2q_rule('graph', 'feature', published=self.published), sign_bit
    )
    bits = self.param('bits', self._init_bits, sign_bit)
    max_abs = jnp.max(jnp.abs(x), axis=1)
    scale = self.param('scale', self._init_scale, bits, max_abs, mask)

    used_bits = a2q.round_bits(
      bits, min_bits=rule.min_bits, max_bits=rule.max_bits
    )
    group = a2q_groups.nearest_group(
      max_abs, scale, used_bits, exact_range=self.exact_range
    )
    y = a2q.fake_quant(
      x, scale[group][:, None], bits[group][:, None], rule=rule, mask=mask
    )
    memory = a2q_groups.group_memory(
      bits,
      group,
      width=x.shape[1],
      mask=mask[:, 0],
      min_bits=rule.min_bits,
      max_bits=rule.max_bits,
    )
    self.sow('memory', 'kib', memory)
    stored = used_bits[group] - sign_bit
    telemetry.report_feature(
      self,
      x,
      y,
      stored,
      mask,
      row_metadata_bits=math.ceil(math.log2(max(self.num_groups, 2))),
      table_bytes=self.num_groups * 5,  # float32 scale, one byte of bits
    )
    return Quantized(y, stored[:, None])

  def _init_bits(self, key: Array, sign_bit: int) -> Array:
    start = jnp.full((self.num_groups,), float(self.bits + sign_bit))
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
      return jnp.abs(0.01 + 0.1 * jax.random.normal(key, shape))
    largest = jnp.max(jnp.where(mask[:, 0], max_abs, 0))
    largest = jnp.where(largest > 0, largest, 1) * _START_MARGIN
    ranges = largest * jnp.arange(1, shape[0] + 1) / shape[0]
    levels = a2q_groups.range_factor(bits, exact_range=self.exact_range)
    return (ranges / levels).astype(jnp.float32)


class ColumnQuantizer(nn.Module):
  """A2Q messages: one learned scale per feature column, fixed bits.

  Parameters: `scale` [f], `bits` [f] (never trained).

  Attributes:
    bits: bits per element.
    level: `node` or `graph`, which gradient rule.
    start: `data` (largest magnitude of the column over qmax) or anything else
      for the published |N(.01, .01)|.
    published: compute exactly what the published code computes.
  """

  bits: int
  level: a2q.Level
  start: str
  published: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, mask: Bool[Array, 'n 1']
  ) -> Quantized:
    """Puts each column of x on its own grid.

    Args:
      x: [n, f].
      mask: [n, 1], True for real rows.

    Returns:
      Values on the grid, and the bits, a scalar.
    """
    rule = a2q.a2q_rule(self.level, 'message', published=self.published)
    width = x.shape[1]
    scale = self.param('scale', self._init_scale, x, mask)
    bits = self.param('bits', lambda _: jnp.full((width,), float(self.bits)))
    y = a2q.fake_quant(x, scale[None], bits[None], rule=rule, mask=mask)
    telemetry.report_feature(
      self,
      x,
      y,
      jnp.float32(self.bits),
      mask,
      row_metadata_bits=0,
      table_bytes=4 * width,
    )
    return Quantized(y, float(self.bits))

  def _init_scale(self, key: Array, x: Array, mask: Array) -> Array:
    if self.start != 'data':
      noise = jax.random.normal(key, (x.shape[1],))
      return jnp.abs(0.01 + 0.01 * noise)
    return _max_scale(jnp.where(mask, x, 0), axis=0, bits=self.bits)


class ChannelQuantizer(nn.Module):
  """A2Q weights: one learned scale per output channel, fixed bits.

  Parameters: `scale` [out], `bits` [out] (never trained).

  Attributes:
    bits: bits per entry.
    level: `node` or `graph`, which gradient rule.
    start: `data` (largest magnitude of the channel over qmax, which kills no
      channel) or anything else for the published |N(.01, .1)|.
    published: compute exactly what the published code computes.
  """

  bits: int
  level: a2q.Level
  start: str
  published: bool

  @nn.compact
  def __call__(self, kernel: Float[Array, 'i o']) -> Quantized:
    """Puts each column of kernel [in, out] on its own grid."""
    rule = a2q.a2q_rule(self.level, 'weight', published=self.published)
    width = kernel.shape[1]
    scale = self.param('scale', self._init_scale, kernel)
    bits = self.param('bits', lambda _: jnp.full((width,), float(self.bits)))
    y = a2q.fake_quant(kernel, scale[None], bits[None], rule=rule)
    return Quantized(y, float(self.bits))

  def _init_scale(self, key: Array, kernel: Array) -> Array:
    if self.start != 'data':
      noise = jax.random.normal(key, (kernel.shape[1],))
      return jnp.abs(0.01 + 0.1 * noise)
    return _max_scale(kernel, axis=0, bits=self.bits)


def _max_scale(x: Array, *, axis: int, bits: int) -> Array:
  largest = jnp.max(jnp.abs(x), axis=axis)
  return jnp.where(largest > 0, largest, 1) / max(2 ** (bits - 1) - 1, 1)
