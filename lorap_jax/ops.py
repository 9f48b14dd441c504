"""Operations as XLA's CPU backend runs, or compiles, them fast.

Each has the values of a plain form, which `PLAIN` holds: `python -m benchmarks
ops` times the two, and says which operation has become of no use. Elsewhere
they cost what the plain forms cost.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float, Int

# Columns of a kernel, times this, that make it narrow.
_NARROW = 4
# Sums over so few rows, or over multiples of so many, end no process.
_SAFE_ROWS = 1 << 14
_SAFE_MULTIPLE = 32
# Outer products that a sum of them may have.
_FEW = 8


def matmul(x: Any, kernel: Float[Array, 'd k']) -> Float[Array, 'n k']:
  """The product x @ kernel, whose gradient is fast for a narrow kernel.

  (dy^T x)^T takes half to a third of the time of x^T dy when k is far smaller
  than d, and the backend, left alone, turns the one into the other.

  Args:
    x: [n, d]; anything that multiplies matrices, such as `SparseRows`.
    kernel: W [d, k].

  Returns:
    x W. Values and gradients are those of `x @ kernel`.
  """
  rows, columns = kernel.shape
  if not isinstance(x, jax.Array) or rows < _NARROW * columns:
    return x @ kernel
  transposed = jax.lax.optimization_barrier(kernel.T)
  return jax.lax.dot_general(x, transposed, (((1,), (1,)), ((), ())))


def to_each_row(row: Float[Array, '1 f'], count: int) -> Float[Array, '*n f']:
  """A row, to be added to each of `count` rows.

  The gradient of such an addition is a sum over the rows. Where nothing stands
  between that sum and the product that dy comes from, jaxlib 0.10.1 ends the
  process on a CPU, for more than 16,384 rows, no multiple of 32. There the sum
  is a product with ones.

  Args:
    row: r [1, f].
    count: n, rows that it is added to.

  Returns:
    r itself, or where that sum would end the process r in each row, [n, f].
  """
  if count <= _SAFE_ROWS or count % _SAFE_MULTIPLE == 0:
    return row
  return jnp.ones((count, 1), row.dtype) @ row


def combine(
  weights: Float[Array, 'n r'], basis: Float[Array, 'r d']
) -> Float[Array, 'n d']:
  """The product weights @ basis, to be added to something, for a small r.

  A sum of r outer products, which is fused with the addition: no array [n, d]
  is written for it.

  Args:
    weights: W [n, r].
    basis: B [r, d].

  Returns:
    W B, up to rounding. Gradients are those of `weights @ basis`.
  """
  return _combine(weights, basis) if len(basis) <= _FEW else weights @ basis


@jax.custom_vjp
def _combine(weights, basis):
  total = weights[:, :1] * basis[:1]
  for i in range(1, len(basis)):
    total += weights[:, i : i + 1] * basis[i : i + 1]
  return total


_combine.defvjp(
  lambda weights, basis: (_combine(weights, basis), (weights, basis)),
  lambda kept, dy: (dy @ kept[1].T, kept[0].T @ dy),
)


def uniform(
  key: Array, shape: tuple[int, ...], bound: float
) -> Float[Array, '...']:
  """Uniform in +-bound: jax.random's draws, made in one dimension.

  XLA's CPU backend unrolls the generator over short rows, to more than half a
  megabyte of LLVM code for a matrix [110, 10].
  """
  draws = jax.random.uniform(
    key, (math.prod(shape),), minval=-bound, maxval=bound
  )
  return draws.reshape(shape)


def glorot_uniform(key: Array, shape: tuple[int, int]) -> Float[Array, 'i o']:
  """Uniform in +-sqrt(6 / (in + out)).

  References:
    Glorot, Bengio: Understanding the difficulty of training deep feedforward
    neural networks, AISTATS 2010, equation 16.
  """
  return uniform(key, shape, math.sqrt(6 / sum(shape)))


def computed_once(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """The same x, for a small array that a large one is compared with.

  XLA's CPU backend computes cheap operations on a small array again for every
  element of the large one, behind optimization barriers too. It does not do so
  with a remainder, which of |x| < 2**100 by 2**100 is exactly x.

  Args:
    x: |x| < 2**100.

  Returns:
    x.
  """
  return jax.lax.rem(x, jnp.full_like(x, 2.0**100))


def pass_where(passing: Bool[Array, '*s'], dy: Float[Array, '*s']) -> Array:
  """The gradient of a clipped straight-through estimator.

  dx = dy where `passing`, else 0, computed as dy / 1 and dy / infinity: XLA's
  CPU backend would compute a cheaper operation again for every neighbour that
  gathers a row of dx.

  Args:
    passing: True for elements that were not clipped.
    dy: gradient of the output, finite.

  Returns:
    dx, exactly; some of the zeros are -0.
  """
  return dy / jnp.where(passing, 1, jnp.inf)


def sort_key(x: Float[Array, '*s']) -> Int[Array, '*s']:
  """Integers in the order of the float32 values; -0 comes before 0.

  XLA's CPU backend sorts and compares them faster than floats.

  Args:
    x: float32, any shape.

  Returns:
    int32, same shape.
  """
  return _flip(jax.lax.bitcast_convert_type(x, jnp.int32))


def from_sort_key(key: Int[Array, '*s']) -> Float[Array, '*s']:
  """The float32 values whose `sort_key` is given."""
  return jax.lax.bitcast_convert_type(_flip(key), jnp.float32)


def _flip(bits: Array) -> Array:
  """Reverses the order of the negative numbers; its own inverse."""
  return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)


PLAIN: Mapping[str, Callable[..., Any]] = MappingProxyType(
  {
    'matmul': lambda x, kernel: x @ kernel,
    'combine': lambda weights, basis: weights @ basis,
    'uniform': lambda key, shape, bound: jax.random.uniform(
      key, shape, minval=-bound, maxval=bound
    ),
    'computed_once': lambda x: x,
    'pass_where': lambda passing, dy: jnp.where(passing, dy, 0),
    'sort_key': lambda x: x,
  }
)
