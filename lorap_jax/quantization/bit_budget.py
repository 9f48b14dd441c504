"""Bits as a constraint: a penalty that drives the average to a target.

    b = sum over feature tensors of sum_i f b_i / sum over tensors of n f

is the usage-weighted average of the learned bits: row i of a tensor [n, f] has
b_i bits in each of its f elements. The penalty

    P = K/2 relu(b - target)^2,     K the number of learned bit-widths,

has a gradient of about b - target at each of them, whatever the size of the
data: dP/db_k = (b - target) K share_k, with the shares of the elements adding
up to 1. (A2Q's own, in KiB, has a weight and a target for every data set.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float


class BitUsage(NamedTuple):
  """The bits of one feature tensor.

  Attributes:
    bits: sum over its elements, of bit-widths that are not rounded.
    elements: number of those.
    count: number of learned bit-widths.
  """

  bits: Array
  elements: Array
  count: Array


def bit_usage(
  bits: Float[Array, 'n'],
  *,
  width: int,
  mask: Bool[Array, 'n'],
  count: int,
  min_bits: int | None,
  sign_bit: int = 0,
) -> BitUsage:
  """The usage of a tensor [n, f] whose rows have these learned bits.

  Args:
    bits: learned bits of each row [n], with the sign bit of non-negative data.
    width: f, elements per row.
    mask: True for real rows [n].
    count: number of learned bit-widths, n or the size of a table.
    min_bits: clamp on |b|, without gradient below it; None for none.
    sign_bit: bits to take off each row, 1 for non-negative data.

  Returns:
    Sums over the real rows.
  """
  magnitude = jnp.clip(jnp.abs(bits), min_bits, None) - sign_bit
  return BitUsage(
    bits=width * jnp.sum(jnp.where(mask, magnitude, 0)),
    elements=width * jnp.sum(mask, dtype=jnp.float32),
    count=jnp.float32(count),
  )


def target_penalty(
  usages: Sequence[BitUsage], target: Float[Array, ''] | float
) -> Float[Array, '']:
  """P of the module's docstring.

  Args:
    usages: usage of each feature tensor with learned bits; at least one.
    target: average bits above which the penalty acts.

  Returns:
    A scalar to be added to the loss.
  """
  total = [sum(values) for values in zip(*usages, strict=True)]
  bits, elements, count = total
  excess = jnp.maximum(bits / jnp.maximum(elements, 1) - target, 0)
  return count / 2 * excess**2
