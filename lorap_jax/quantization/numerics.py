"""Integer ranges and rounding shared by the quantizers.

| bits b | signed symmetric range  | levels      |
|--------|-------------------------|-------------|
| 2      | -1 ... 1                | 3           |
| 4      | -7 ... 7                | 15          |
| 8      | -127 ... 127            | 255         |

The symmetric range drops the most negative code, so that zero and both ends
are representable with one scale.
"""

import jax.numpy as jnp

from lorap_jax._typing import Array, Float

_LARGE = 1e38  # Under a third of the largest float32.


def power_of_two(exponent: Float[Array, '*s']) -> Float[Array, '*s']:
  """2**exponent, exact in float32 for integral exponents.

  `jnp.exp2` and `2.0 ** x` go through exp and log and may be off by one unit
  in the last place, which moves a clipping bound.

  Args:
    exponent: integral values, any shape.

  Returns:
    Powers of two, same shape.
  """
  return jnp.ldexp(jnp.ones_like(exponent), exponent.astype(jnp.int32))


def symmetric_qmax(bits: Float[Array, '*s']) -> Float[Array, '*s']:
  """Largest code of a signed symmetric quantizer, 2**(b-1) - 1.

  Args:
    bits: integral bit-widths, any shape.

  Returns:
    qmax, same shape. bits 0 gives -0.5 (see `a2q` for what that does in the
    published code); bits 1 gives 0.
  """
  return power_of_two(bits - 1) - 1


def round_half_away(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """sign(x) floor(|x| + 1/2): halves go away from zero.

  `jnp.round` sends halves to the even neighbour instead.

  Args:
    x: values, any shape.

  Returns:
    Integral values, same shape.
  """
  return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def divide(
  x: Float[Array, '*s'], divisor: Float[Array, '...'] | float | int
) -> Float[Array, '*s']:
  """The quotients x / divisor as float32 division has it, compiled or not.

  XLA turns a division by a broadcast array or by a constant into a product
  with its inverse, which rounds twice: values exactly halfway between two
  codes, and values on a clipping bound, would fall on either side. The select,
  without effect on any value, keeps the division, which also cannot be
  contracted with a following addition.

  Args:
    x: values, any shape.
    divisor: broadcastable to x, or a number.

  Returns:
    The quotients, rounded once.
  """
  return x / jnp.where(jnp.isnan(x), 1, divisor)


def bounded(x: Float[Array, '*s']) -> Float[Array, '*s']:
  """Ends of a range, finite ones at most 1e38 from 0.

  The width of such a range, and every code times its scale, are float32
  numbers. Infinity and NaN stay what they are.

  Args:
    x: ends, any shape.

  Returns:
    The same, bounded.
  """
  return jnp.where(jnp.isinf(x), x, jnp.clip(x, -_LARGE, _LARGE))
