"""Node features of few nonzeros, such as words of a text.

Only the nonzeros enter a product with a weight matrix and its gradient,

    (x W)_i = sum over the nonzeros k of row i of value_k W[column_k],

which is a weighted sum over neighbours in the graph whose edges, from columns
to rows, are the nonzeros: `aggregate` has the kernels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import Array, Float
from lorap_jax.graphs.aggregate import weighted_sum
from lorap_jax.graphs.layout import Layout, make_csr

# Share of nonzeros up to which product and gradient took less time than dense
# ones: on one CPU core, for 16 and 64 output columns.
MAX_DENSITY = 1 / 8


class SparseRows(NamedTuple):
  """A matrix S + L R [n, f]: nonzeros, row by row, and a product of low rank.

  Attributes:
    values: f32 [k], of S.
    rows: int32 [k], in ascending order.
    layout: the columns of the nonzeros of each row, and the rows of those of
      each column.
    left: L f32 [n, r], or None for ones [n, 1], the same row everywhere.
    right: R f32 [r, f], or None without the product.
  """

  values: Array | np.ndarray
  rows: Array | np.ndarray
  layout: Layout
  left: Array | None = None
  right: Array | None = None

  @property
  def shape(self) -> tuple[int, int]:
    """(n, f)."""
    by_row, by_column = self.layout
    return by_row.indptr.shape[0] - 1, by_column.indptr.shape[0] - 1  # pyrefly: ignore

  @property
  def columns(self) -> Array | np.ndarray:
    """int32 [k], of the nonzeros."""
    return self.layout.incoming.indices

  @property
  def row(self) -> Float[Array, '1 f']:
    """What every row holds beside its nonzeros, if L is ones."""
    assert self.left is None
    return jnp.zeros((1, self.shape[1])) if self.right is None else self.right

  @property
  def elements(self) -> Float[Array, 'k']:
    """S + L R at the nonzeros of S, if L is ones."""
    values = jnp.asarray(self.values)
    return values if self.right is None else values + self.row[0, self.columns]

  def of_elements(
    self, elements: Float[Array, 'k'], row: Float[Array, '1 f']
  ) -> 'SparseRows':
    """The matrix of these elements at the nonzeros, and this row elsewhere."""
    values = elements - row[0, self.columns]
    return self._replace(values=values, left=None, right=row)

  def dense(self) -> Float[Array, 'n f']:
    """The matrix with all its elements, if L is ones."""
    at = self.rows, self.columns
    return jnp.zeros(self.shape).at[at].set(self.values) + self.row

  def plus(
    self, left: Float[Array, 'n r'] | None, right: Float[Array, 'r f']
  ) -> 'SparseRows':
    """Adds left @ right to a matrix that has no such product yet."""
    assert self.right is None
    return self._replace(left=left, right=right)

  def __matmul__(self, weight: Float[Array, 'f o']) -> Float[Array, 'n o']:
    """S W + L (R W), for a dense W; all factors have their gradients."""
    total = weighted_sum(
      weight[:, None],
      self.values[:, None],
      self.columns,
      self.rows,
      self.layout,
    )[:, 0]
    if self.right is None:
      return total
    added = self.right @ weight
    return total + (added if self.left is None else self.left @ added)

  def __sub__(self, other: 'SparseRows') -> 'SparseRows':
    """The difference to a matrix with the same nonzeros."""
    difference = self._replace(values=self.values - other.values)
    if other.right is None:
      return difference
    if self.right is None:
      return difference._replace(left=other.left, right=-other.right)
    if self.left is other.left:
      return difference._replace(right=self.right - other.right)
    ones = jnp.ones((self.shape[0], 1))
    lefts = [ones if m.left is None else m.left for m in (self, other)]
    return difference._replace(
      left=jnp.concatenate(lefts, axis=1),
      right=jnp.concatenate([self.right, -other.right]),
    )

  def square_sums(self) -> Float[Array, 'n']:
    """The sum of squares of each row: |s|^2 + 2 s.(l R) + l R R^T l^T."""
    terms, extra = self.values**2, 0.0
    if self.right is not None:
      left = jnp.ones((self.shape[0], 1)) if self.left is None else self.left
      added = jnp.sum(left[self.rows] * self.right.T[self.columns], axis=1)
      terms += 2 * self.values * added
      gram = self.right @ self.right.T
      extra = jnp.sum((left @ gram) * left, axis=1)
    return extra + jax.ops.segment_sum(
      terms, self.rows, self.shape[0], indices_are_sorted=True
    )


class Features(NamedTuple):
  """Node features in both forms: a network takes the one that it can use.

  A jitted program leaves the other one alone.

  Attributes:
    dense: f32 [n, f].
    sparse: the same matrix, as `SparseRows`.
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
