"""Node features of few nonzeros, such as words of a text.

Only the nonzeros enter a product with a weight matrix and its gradient,

    (x W)_i = sum over the nonzeros k of row i of value_k W[column_k],

which is a weighted sum over neighbours in the graph whose edges, from columns
to rows, are the nonzeros: `aggregate` has the kernels.
"""

from typing import NamedTuple

import jax
import numpy as np

from lorap_jax._typing import Array, Float
from lorap_jax.graphs.aggregate import weighted_sum
from lorap_jax.graphs.layout import Layout, make_csr

# Share of nonzeros up to which product and gradient took less time than dense
# ones: on one CPU core, for 16 and 64 output columns.
MAX_DENSITY = 1 / 8


class SparseRows(NamedTuple):
  """A matrix [n, f] as its nonzeros, row by row.

  Attributes:
    values: f32 [k].
    rows: int32 [k], in ascending order.
    layout: the columns of the nonzeros of each row, and the rows of those of
      each column.
  """

  values: Array | np.ndarray
  rows: Array | np.ndarray
  layout: Layout

  @property
  def shape(self) -> tuple[int, int]:
    """(n, f)."""
    by_row, by_column = self.layout
    return by_row.indptr.shape[0] - 1, by_column.indptr.shape[0] - 1  # pyrefly: ignore

  def __matmul__(self, weight: Float[Array, 'f o']) -> Float[Array, 'n o']:
    """The product with a dense matrix; both factors have their gradients."""
    columns = self.layout.incoming.indices
    total = weighted_sum(
      weight[:, None], self.values[:, None], columns, self.rows, self.layout
    )
    return total[:, 0]

  def square_sums(self) -> Float[Array, 'n']:
    """The sum of squares of each row."""
    return jax.ops.segment_sum(
      self.values**2, self.rows, self.shape[0], indices_are_sorted=True
    )


class Features(NamedTuple):
  """Node features in both forms: a network takes the one that it can use.

  A jitted program leaves the other one alone.

  Attributes:
    dense: f32 [n, f].
    sparse: the same matrix.
  """

  dense: Array | np.ndarray
  sparse: SparseRows

  @property
  def shape(self) -> tuple[int, ...]:
    """(n, f)."""
    return self.dense.shape


def sparse_rows(x: np.ndarray) -> SparseRows:
  """The nonzeros of a matrix, on the host.

  Args:
    x: f32 [n, f].

  Returns:
    numpy arrays.
  """
  rows, columns = np.nonzero(x)
  layout = Layout(
    make_csr(rows, columns, x.shape[0])._replace(order=None),
    make_csr(columns, rows, x.shape[1]),
  )
  return SparseRows(x[rows, columns], rows.astype(np.int32), layout)


def in_both_forms(x: np.ndarray) -> np.ndarray | Features:
  """Adds the sparse form to features, if it makes their products faster.

  Args:
    x: f32 [n, f].

  Returns:
    Both forms, or x alone where more than MAX_DENSITY of it is not zero, or
    nothing is.
  """
  if 0 < np.count_nonzero(x) <= MAX_DENSITY * x.size:
    return Features(x, sparse_rows(x))
  return x
