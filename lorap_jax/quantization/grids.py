"""The integer form of quantizers: which codes stand for which values.

A quantizer module that can be exported has a method `grid(params, statistics)`
that returns one of these, in NumPy and without gradients.
"""

from typing import NamedTuple

import numpy as np

RANGE_BITS = 5  # Of the range of a group in a file, times a power of two.
RANGE_OCTAVES = 15  # From the smallest such range to the largest.


class UniformGrid(NamedTuple):
  """x^ = s (q - z) with low <= q <= high, for a tensor or for each column.

  Attributes:
    scale: s, float64 [] or [f].
    zero_point: z, whole numbers, the shape of `scale`.
    low: smallest code.
    high: largest code.
  """

  scale: np.ndarray
  zero_point: np.ndarray
  low: int
  high: int


class RowGrid(NamedTuple):
  """x^ = s_i q with |q| <= limit_i, for each row i of one graph.

  Attributes:
    scale: s, float64 [n].
    limit: largest codes, int [n].
  """

  scale: np.ndarray
  limit: np.ndarray


class GroupGrid(NamedTuple):
  """x^ = s_g q with |q| <= limit_g; a row takes the group of nearest range.

  Row x belongs to the group g that minimizes (max |x| - range_g)^2.

  Attributes:
    scale: s, float64 [m].
    limit: largest codes, int [m].
    reach: the range by which a group is found, float64 [m].
  """

  scale: np.ndarray
  limit: np.ndarray
  reach: np.ndarray


Grid = UniformGrid | RowGrid | GroupGrid
