"""Products of matrices of which one dimension is small.

On XLA's CPU backend; elsewhere they cost what `@` costs.
"""

from typing import Any

import jax

from lorap_jax._typing import Array, Float

_NARROW = 4  # Rows per column.
_FEW = 8


def matmul(x: Any, kernel: Float[Array, 'd k']) -> Float[Array, 'n k']:
  """The product x @ kernel, whose gradient is fast for a narrow kernel.

  (dy^T x)^T takes half to a third of the time of x^T dy when k is far smaller
  than d, and the backend, left alone, turns the one into the other.

  Args:
    x: [n, d]; anything that multiplies matrices, such as `SparseRows`.
    kernel: W.

  Returns:
    x W. Values and gradients are those of `x @ kernel`.
  """
  rows, columns = kernel.shape
  if not isinstance(x, jax.Array) or rows < _NARROW * columns:
    return x @ kernel
  transposed = jax.lax.optimization_barrier(kernel.T)
  return jax.lax.dot_general(x, transposed, (((1,), (1,)), ((), ())))


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
