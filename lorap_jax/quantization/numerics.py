"""Integer ranges and rounding shared by the quantizers.

| bits b | signed symmetric range  | levels      |
|--------|-------------------------|-------------|
| 2      | -1 ... 1                | 3           |
| 4      | -7 ... 7                | 15          |
| 8      | -127 ... 127            | 255         |

The symmetric range drops the most negative code, so that zero and both ends
are representable with one scale.
"""

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Float


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
