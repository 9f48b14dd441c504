"""Which rows of a tensor count, and in which mode a layer runs."""

from typing import NamedTuple

from lorap_jax._typing import Array


class Rows(NamedTuple):
  """What layers and quantizers know about the rows of their tensor.

  Attributes:
    mask: bool [n, 1], True for real rows; None where all are real, as in a
      weight.
    train: batch norm and observers use and update the statistics of the batch,
      dropout drops.
    protected: bool [n, 1], rows that a scheme may leave in full precision
      (Degree-Quant); None for none.
  """

  mask: Array | None = None
  train: bool = False
  protected: Array | None = None
