"""Ranges of tensors: of one batch, and running over the batches of a training.

A range is what `affine.affine_qparams` turns into a scale and a zero point:

    current = batch_range(x, mask=mask)
    running = update_range(running, current, rule='momentum')

Everything is float32 and without gradient. A batch that shows no row has the
range (inf, -inf), the neutral elements of min and max; it leaves a running
range as it is.

| published name | `rule`     | `percentile`               |
|----------------|------------|----------------------------|
| `abs`          | `extreme`  | 0                          |
| `mom`          | `momentum` | 0                          |
| `per`          | `extreme`  | .001 at 8, .01 at 4 bits   |

References:
  Tailor, Fernandez-Marques, Lane: Degree-Quant: Quantization-Aware Training
  for Graph Neural Networks, ICLR 2021, arXiv 2008.05000; its code,
  github.com/camlsys/degree-quant.
"""

import fractions
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lorap_jax import ops
from lorap_jax._typing import Array, Bool, Float

UpdateRule = Literal['extreme', 'momentum']

_MAX_DENOMINATOR = 10_000  # Its square fits into int32.
_LAST = jnp.iinfo(jnp.int32).max


class Range(NamedTuple):
  """A running range.

  Attributes:
    min_val: float32, [] per tensor or [1, f] per column.
    max_val: float32, the shape of min_val.
    initialized: bool scalar, False until a batch has been seen.
  """

  min_val: Array
  max_val: Array
  initialized: Array


def init_range(shape: tuple[int, ...] = ()) -> Range:
  """A range that has seen nothing: [0, 0], for which qparams are (1, 0).

  Args:
    shape: () per tensor, (1, f) per column.

  Returns:
    The range; the first batch replaces it.
  """
  return Range(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros((), bool))


def batch_range(
  x: Float[Array, 'n f'],
  *,
  mask: Bool[Array, 'n 1'] | None = None,
  axis: Literal[0] | None = None,
  percentile: float = 0.0,
  stride: int = 1,
) -> tuple[Float[Array, '...'], Float[Array, '...']]:
  """The smallest and the largest value of the rows under the mask.

  With a percentile p they are the k-th smallest values, exactly,

      k_min = clip(floor(m p), 1, m),  k_max = clip(floor(m (1 - p)), 1, m)

  of the m values under the mask. Beyond them lie floor(m p) - 1 values below
  and ceil(m p) above: the published definition is not symmetric.

  Args:
    x: values [n, f].
    mask: True for the rows that count, None for all.
    axis: one range per tensor (None) or per column (0).
    percentile: p, 0 or from .0001 to below .5; read as the nearest fraction
      with a denominator of up to 10000.
    stride: use only the rows 0, stride, 2 stride, ... : a cheaper estimate.

  Returns:
    Minimum and maximum, float32, [] or [1, f] with axis=0; (inf, -inf) if the
    mask has no row. No gradient flows through them.

  Raises:
    ValueError: percentile or stride out of bounds.
  """
  if percentile != 0 and not 1 / _MAX_DENOMINATOR <= percentile < 0.5:
    raise ValueError(
      f'`percentile` must be 0 or in [0.0001, 0.5), got {percentile}'
    )
  if stride < 1:
    raise ValueError(f'`stride` must be at least 1, got {stride}')
  x = jax.lax.stop_gradient(x[::stride]).astype(jnp.float32)
  rows = jnp.ones((len(x), 1), bool) if mask is None else mask[::stride]
  if percentile != 0:
    return _percentiles(x, rows, axis, percentile)
  per_column = axis == 0
  return (
    jnp.min(x, axis, where=rows, initial=jnp.inf, keepdims=per_column),
    jnp.max(x, axis, where=rows, initial=-jnp.inf, keepdims=per_column),
  )


def update_range(
  running: Range,
  current: tuple[Float[Array, '*s'], Float[Array, '*s']],
  *,
  rule: UpdateRule,
  momentum: float = 0.01,
) -> Range:
  """Takes the range of one batch into a running range.

  | `rule`     | minimum                    | maximum                    |
  |------------|----------------------------|----------------------------|
  | `extreme`  | min(min_val, m)            | max(max_val, M)            |
  | `momentum` | min_val + mu (m - min_val) | max_val + mu (M - max_val) |

  for a batch with range (m, M). `extreme` never shrinks. The first batch is
  taken as it is. A batch without rows, or whose range is NaN, changes nothing.

  Args:
    running: running range, from `init_range` or an earlier update.
    current: (m, M) from `batch_range`, the shape of running.min_val.
    rule: `extreme` or `momentum`, a row of the table.
    momentum: mu, the weight of the new batch.

  Returns:
    The new running range.

  Raises:
    ValueError: unknown rule, or shapes that differ.
  """
  if rule not in ('extreme', 'momentum'):
    raise ValueError(f"`rule` must be 'extreme' or 'momentum', got {rule!r}")
  low, high = jax.lax.stop_gradient(current)
  if low.shape != running.min_val.shape:
    raise ValueError(
      f'`current` has shape {low.shape}, the running range '
      f'{running.min_val.shape}; give `init_range` the shape of the batch range'
    )
  seen = jnp.all(low <= high)
  if rule == 'extreme':
    new = jnp.minimum(running.min_val, low), jnp.maximum(running.max_val, high)
  else:
    new = (
      running.min_val + momentum * (low - running.min_val),
      running.max_val + momentum * (high - running.max_val),
    )

  def choose(old, new, first):
    return jnp.where(seen, jnp.where(running.initialized, new, first), old)

  return Range(
    choose(running.min_val, new[0], low),
    choose(running.max_val, new[1], high),
    running.initialized | seen,
  )


def _percentiles(
  x: Array, rows: Array, axis: int | None, percentile: float
) -> tuple[Array, Array]:
  """Both order statistics of `batch_range`."""
  key = jnp.where(rows, ops.sort_key(x), _LAST)
  key = key.reshape(1, -1) if axis is None else key.T
  per_row = x.shape[1] if axis is None else 1
  count = jnp.sum(rows, dtype=jnp.int32) * per_row
  share = fractions.Fraction(percentile).limit_denominator(_MAX_DENOMINATOR)

  def rank(part):
    return jnp.clip(_floor_product(count, part), 1, count)

  low, high = _order_statistics(key, (rank(share), rank(1 - share)))
  low = jnp.where(count > 0, low, jnp.inf)
  high = jnp.where(count > 0, high, -jnp.inf)
  return (low[0], high[0]) if axis is None else (low[None], high[None])


def _floor_product(count: Array, part: fractions.Fraction) -> Array:
  """floor(count * part) without leaving int32."""
  n, d = part.numerator, part.denominator
  return count // d * n + count % d * n // d


def _order_statistics(key: Array, ranks: tuple[Array, Array]) -> list[Array]:
  """The values at two ranks of each row, by bisection of the 2**32 keys.

  The rank-th smallest key is the smallest one with `rank` keys up to it; 32
  counts find it, whatever the rank. A sort and `lax.top_k` give the same, but
  take more than ten times as long on a CPU.
  """
  zeros = (jnp.int32(0), jnp.int32(0))

  def halve(_, bounds):
    middle = [(a & b) + ((a ^ b) >> 1) for a, b in bounds]  # No overflow.
    up_to = tuple((key <= m[:, None]).astype(jnp.int32) for m in middle)
    # Both counts in one reduction, because XLA's CPU backend vectorizes it,
    # and does not vectorize two sums.
    counts: Any = jax.lax.reduce(
      up_to, zeros, lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,)
    )
    enough = [count >= rank for count, rank in zip(counts, ranks, strict=True)]
    return tuple(
      (jnp.where(e, a, m + 1), jnp.where(e, m, b))
      for e, m, (a, b) in zip(enough, middle, bounds, strict=True)
    )

  shape = key.shape[:1]
  whole = jnp.full(shape, -_LAST - 1), jnp.full(shape, _LAST)
  found = jax.lax.fori_loop(0, 32, halve, (whole, whole))
  return [ops.from_sort_key(upper) for _, upper in found]
