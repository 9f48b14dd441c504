"""Random starts of weights, in programs that compile fast.

The draws are those of jax.random for the same key and shape, made in one
dimension: XLA's CPU backend unrolls the generator over short rows, to more than
half a megabyte of LLVM code for a matrix [110, 10].
"""

import math

import jax

from lorap_jax._typing import Array, Float


def uniform(
  key: Array, shape: tuple[int, ...], bound: float
) -> Float[Array, '...']:
  """Uniform in +-bound."""
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
