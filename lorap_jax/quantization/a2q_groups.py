"""A2Q on many graphs: groups of (scale, bits), their choice and their memory.

A node of an unseen graph has no parameters of its own. It borrows those of
one group out of a learned table, in the published code the group whose range
is nearest to the node's largest value.

| their name              | ours                    |
|-------------------------|-------------------------|
| get_scale_index_uniform | nearest_group           |
| get_scale_index         | nearest_group_by_degree |
| get_scale_index_naive   | degree_group            |

References:
  Zhu, Li, Mo, Hu, Li, Liu, Liang, Cheng: A2Q: Aggregation-Aware Quantization
  for Graph Neural Networks, ICLR 2023, arXiv 2302.00193, Algorithm 1.
"""

import jax
import jax.numpy as jnp

from lorap_jax import ops
from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.quantization import a2q, grids, numerics

_KIB = 8 * 1024  # bits
_SIDES = ('left', 'right')


def nearest_group(
  max_abs: Float[Array, 'n'],
  scale: Float[Array, 'm'],
  bits: Float[Array, 'm'],
  *,
  exact_range: bool = False,
) -> Int[Array, 'n']:
  """Nearest Neighbour Strategy: the group whose range is closest to the row.

  g(i) = argmin_g (f_i - t_g)^2 with f_i = max_j |x_ij| (`max_abs`) and
  t_g = |s_g| 2**(b^_g - 1), found by binary search in the sorted t: no [n, m]
  array. Of equal distances the smallest g, as argmin does.

  Differs from the published code: where candidates lie closer together than
  the float32 rounding of f - t, another group at an equal distance may be
  chosen. The published search uses 2**(b-1), though the largest code is
  2**(b-1) - 1; `exact_range=True` uses the latter, as Algorithm 1 of the
  paper does. The default is the published one: the group it prefers is a
  little smaller than the row's maximum, and a slight clipping lowers the
  mean error at few bits.

  Args:
    max_abs: largest magnitude of each row [n].
    scale: table of step sizes [m].
    bits: table of learned bit-widths [m].
    exact_range: t_g = |s_g| (2**(b^_g - 1) - 1).

  Returns:
    int32 group of each row [n]. No gradient flows through it.
  """
  target = jnp.abs(scale) * range_factor(bits, exact_range=exact_range)
  return _nearest(max_abs, target)


def range_factor(
  bits: Float[Array, 'm'], *, exact_range: bool = False
) -> Float[Array, 'm']:
  """Range of a group over its scale: 2**(b^-1), or 2**(b^-1) - 1 if exact.

  Args:
    bits: learned bit-widths [m].
    exact_range: take the largest value of the group as its range.

  Returns:
    t_g / |s_g| [m].
  """
  rounded = jnp.round(jnp.abs(bits))
  return numerics.power_of_two(rounded - 1) - float(exact_range)


def _nearest(values: Array, target: Array) -> Array:
  """Index of the nearest target, the smallest of equally near ones."""
  values, target = jax.lax.stop_gradient((values, target))
  # Keys are sorted alone: with their positions it would take five times as
  # long on a CPU. A run of equal targets belongs to its smallest index.
  ranked = ops.from_sort_key(jnp.sort(ops.sort_key(target)))
  owner = jnp.full(target.shape, target.size, jnp.int32)
  owner = owner.at[jnp.searchsorted(ranked, target)].min(
    jnp.arange(target.size, dtype=jnp.int32)
  )
  right = jnp.clip(jnp.searchsorted(ranked, values), 0, target.size - 1)
  left = jnp.maximum(right - 1, 0)
  first = jnp.searchsorted(ranked, ranked)  # Of each run.
  left, right = first[left], first[right]
  distance_left = (values - ranked[left]) ** 2
  distance_right = (values - ranked[right]) ** 2
  left, right = owner[left], owner[right]
  nearer = jnp.where(distance_left < distance_right, left, right)
  tie = jnp.minimum(left, right)
  return jnp.where(distance_left == distance_right, tie, nearer)


def snapped_table(
  scale: Float[Array, 'm'], bits: Float[Array, 'm'], *, rule: a2q.Rule
) -> tuple[Float[Array, 'm'], Float[Array, 'm']]:
  """The table with the ranges that files of integers hold.

  The range t = |s| 2**(b^ - 1) of a group becomes the nearest whole number of
  `grids.RANGE_BITS` bits times a power of two, ties to even, and no less than
  2**-15 of the power of two below the largest. Groups of equal ranges become
  equal: all have the median of their bits, the upper one of two. A second time
  nothing changes.

  Args:
    scale: table of step sizes [m].
    bits: table of learned bit-widths [m].
    rule: with the limits of the bits.

  Returns:
    Step sizes, positive, and whole bits.
  """
  used = a2q.round_bits(bits, min_bits=rule.min_bits, max_bits=rule.max_bits)
  reach = jnp.abs(scale) * range_factor(used)
  # The power of two below each, without a rounded logarithm.
  exponent = jnp.frexp(reach)[1] - 1
  exponent = jnp.maximum(exponent, jnp.max(exponent) - grids.RANGE_OCTAVES)
  reach = jnp.maximum(reach, jnp.ldexp(jnp.float32(1), exponent))
  step = exponent - (grids.RANGE_BITS - 1)
  reach = jnp.ldexp(jnp.round(jnp.ldexp(reach, -step)), step)
  order = jnp.lexsort((used, reach))
  ranked = reach[order]
  first, last = (jnp.searchsorted(ranked, reach, side=s) for s in _SIDES)
  median = used[order][(first + last) // 2]
  return reach / range_factor(median), median


def nearest_group_by_degree(
  max_abs: Float[Array, 'n'],
  degree: Int[Array, 'n'],
  scale: Float[Array, 'm'],
  bits: Float[Array, 'm'],
) -> Int[Array, 'n']:
  """Nearest group within the part of the table that a node's degree allows.

  Degree 5 and more: groups 0...9. Degree 2 to 4: groups 10...99. Less:
  groups 100...m-1. As the published `uniform=False` (which no published
  script uses), bits are rounded without |.|.

  Args:
    max_abs: largest magnitude of each row [n].
    degree: number of edges each node sends [n].
    scale: table of step sizes [m], m > 100.
    bits: table of learned bit-widths [m].

  Returns:
    int32 group of each row [n].

  Raises:
    ValueError: a table of 100 groups or fewer.
  """
  if scale.shape[0] <= 100:
    raise ValueError(
      f'`scale` has {scale.shape[0]} groups; the degree classes need more '
      'than 100'
    )
  target = jnp.abs(scale) * numerics.power_of_two(jnp.round(bits) - 1)
  high = _nearest(max_abs, target[:10])
  middle = _nearest(max_abs, target[10:100]) + 10
  low = _nearest(max_abs, target[100:]) + 100
  return jnp.where(degree >= 5, high, jnp.where(degree >= 2, middle, low))


def degree_group(
  degree: Int[Array, 'n'], *, num_groups: int
) -> Int[Array, 'n']:
  """The group of a node is its degree, at most num_groups - 1.

  Args:
    degree: number of edges each node sends [n].
    num_groups: size of the table.

  Returns:
    int32 group of each node [n].
  """
  return jnp.minimum(degree, num_groups - 1).astype(jnp.int32)


def group_memory(
  bits: Float[Array, 'm'],
  group: Int[Array, 'n'],
  *,
  width: int,
  mask: Bool[Array, 'n'] | None = None,
  min_bits: int | None = 2,
  max_bits: int | None = 8,
) -> Float[Array, '']:
  """Memory that the penalty charges for one grouped quantizer, in KiB.

  M = width / 8192 * sum over the distinct groups in use of b_g: a group is
  charged once however many rows use it, and b is not rounded, so that it has
  a gradient.

  Args:
    bits: table of learned bit-widths [m].
    group: group of each row [n].
    width: features per row.
    mask: True for real rows [n].
    min_bits: lower clamp on |b|, without gradient beyond it. None together with
      max_bits=None charges the raw signed b, as the published code does: a
      negative b is then rewarded.
    max_bits: upper clamp on |b|, without gradient beyond it.

  Returns:
    KiB, a scalar.
  """
  rows = jnp.ones(group.shape, bool) if mask is None else mask
  used = jnp.zeros(bits.shape, bool).at[group].max(rows)
  charge = _charged_bits(bits, min_bits, max_bits)
  return width * jnp.sum(jnp.where(used, charge, 0)) / _KIB


def node_memory(
  bits: Float[Array, 'n'],
  *,
  width: int,
  mask: Bool[Array, 'n'] | None = None,
  min_bits: int | None = 2,
  max_bits: int | None = 8,
) -> Float[Array, '']:
  """Memory that the penalty charges for one node-wise quantizer, in KiB.

  M = width / 8192 * sum_i |b_i|. The published scripts pass the hidden width
  for every layer.

  Args:
    bits: learned bit-width of each node [n].
    width: features per node.
    mask: True for real nodes.
    min_bits: lower clamp on |b|, without gradient beyond it. None together with
      max_bits=None charges |b|, as the published code does at node level.
    max_bits: upper clamp on |b|, without gradient beyond it.

  Returns:
    KiB, a scalar.
  """
  charge = _charged_bits(jnp.abs(bits), min_bits, max_bits)
  if mask is not None:
    charge = jnp.where(mask, charge, 0)
  return width * jnp.sum(charge) / _KIB


def _charged_bits(bits, min_bits, max_bits):
  if min_bits is None and max_bits is None:
    return bits
  return jnp.clip(jnp.abs(bits), min_bits, max_bits)


def memory_penalty(
  memory: Float[Array, ''], *, target: float, weight: float
) -> Float[Array, '']:
  """Pulls the memory towards a target: weight * relu(M - T)^2.

  Args:
    memory: M, the sum over all feature quantizers, KiB.
    target: T, KiB that cost nothing.
    weight: factor, per KiB^2.

  Returns:
    A scalar to be added to the loss.
  """
  return weight * jnp.maximum(memory - target, 0) ** 2


def published_average_bits(tables: list[Float[Array, '_']]) -> float:
  """Average bits as the published analysis prints it.

  mean over quantizers of mean over the table of (round(|b|) - 1). Unweighted,
  the -1 always applied, groups that no row uses included.

  Args:
    tables: the learned bits of every feature quantizer.

  Returns:
    Average bits.
  """
  means = [float(jnp.mean(jnp.round(jnp.abs(b)) - 1)) for b in tables]
  return sum(means) / len(means)
