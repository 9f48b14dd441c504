"""What travels between layers: a tensor with its bits, and its rows."""

from typing import NamedTuple

import jax.numpy as jnp
import jraph

from lorap_jax._typing import Array
from lorap_jax.graphs import SparseRows, at_receivers, neighborhood, partition
from lorap_jax.quantization.bit_budget import BitUsage

FULL_BITS = 32.0


class Rows(NamedTuple):
  """What layers and quantizers know about the rows of their tensor.

  Attributes:
    mask: bool [n, 1], True for real rows; None where all are real, as in a
      weight.
    train: batch norm and observers use and update the statistics of the batch,
      dropout drops.
    protected: bool [n, 1], rows that a scheme may leave in full precision
      (Degree-Quant); None for none.
    order: int32 [n], the rows as a batch of one shard has them, for what looks
      at their places (dropout, samples); None where they lie so.
    numbers: which nodes of a larger graph the rows are, for what has parameters
      of each node; None where the rows are the nodes.
    observed: bool [n, 1], rows that ranges are observed on; None for all.
  """

  mask: Array | None = None
  train: bool = False
  protected: Array | None = None
  order: Array | None = None
  numbers: neighborhood.NodeNumbers | None = None
  observed: Array | None = None


class Quantized(NamedTuple):
  """A tensor on its way to a product, with the width it is stored in.

  Attributes:
    values: [n, f], on the grid of its quantizer; `graphs.SparseRows` where
      that are raw features of few nonzeros.
    bits: bits per element, [n, 1] or a scalar; 32 for full precision.
    metadata_bytes: what the quantizer stores beside the codes, once.
    row_metadata_bits: what it stores beside the codes of each row.
    usage: of learned bits that a penalty may reach, else None.
    bounds: the smallest and the largest value of the grid, broadcast to
      [n, f]; None without a grid. For the report.
    grid: of values that can travel as bytes; None for others.
  """

  values: Array
  bits: Array | float = FULL_BITS
  metadata_bytes: int = 0
  row_metadata_bits: int = 0
  usage: BitUsage | None = None
  bounds: tuple[Array, Array] | None = None
  grid: partition.Grid | None = None


def real_rows(x: Array | SparseRows, rows: Rows) -> Array:
  """The mask [n, 1] of x, all True where `rows` has none."""
  return jnp.ones((x.shape[0], 1), bool) if rows.mask is None else rows.mask


def receiver_rows(rows: Rows, graph: jraph.GraphsTuple) -> Rows:
  """The rows that have sums over neighbours: all, or those a sample is for.

  Args:
    rows: of the nodes that enter a layer.
    graph: of the layer.
  """
  there = neighborhood.of(graph)
  if there is None:
    return rows
  protected, numbers = rows.protected, rows.numbers
  count = there.receivers.shape[0]
  return Rows(
    mask=jnp.asarray(there.receivers)[:, None],
    train=rows.train,
    protected=None if protected is None else at_receivers(protected, graph),
    numbers=None if numbers is None else numbers.first(count),
    observed=None if rows.observed is None else rows.observed[:count],
  )
