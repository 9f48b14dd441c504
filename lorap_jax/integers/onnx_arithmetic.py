"""Arithmetic of integer programs by ONNX operators, exact in int32."""

import numpy as np

from lorap_jax.integers.onnx_graph import FLOAT32_WHOLE, INT64, Operators
from lorap_jax.integers.program import INT32

_SPLIT_BITS = 12


class Arithmetic(Operators):
  """The part of a model for sums, products and rounding."""

  def exact(self, op: str, *inputs: str, limit: int | None = None) -> str:
    """An operator on whole numbers, in float32 where that is exact.

    Args:
      op: the same in both.
      *inputs: names in int32.
      limit: largest magnitude of the result; that of the present operation if
        it is None.

    Returns:
      The name in int32.
    """
    limit = self.limit if limit is None else limit
    if limit <= FLOAT32_WHOLE and self.in_float(*inputs):
      return self.from_whole(self.emit(op, *(self._real[x] for x in inputs)))
    return self.emit(op, *inputs)

  def rounded(self, value: str, low: int, high: int, reach: int) -> str:
    """clip(rint(value)) of float32 numbers up to `reach`, in float32."""
    return self.clipped(self.emit('Round', value), low, high, reach)

  def clipped(self, value: str, low: int, high: int, reach: int) -> str:
    """clip(value) of float32 numbers up to `reach`, in float32."""
    if reach <= min(high, -low):
      return value
    return self.emit('Clip', value, self.real(low), self.real(high))

  # Graphs.

  def num_nodes(self) -> str:
    """The number of nodes, int64 [1]."""
    return self.emit('Shape', 'nodes', end=1)

  def num_graphs(self) -> str:
    """The number of graphs, int64 [1]."""
    return self.emit('Cast', 'num_graphs', to=INT64)

  def full(self, rows: str, width: int, value: int) -> str:
    """The same number everywhere, int32 [rows, width]."""
    shape = self.emit('Concat', rows, self.whole(width), axis=0)
    return self.emit('Expand', self.number(value), shape)

  def counts(self, of: str, rows: str) -> str:
    """How often each row is named in `of`, int32 [rows]."""
    ones = self.emit('Expand', self.number(1), self.emit('Shape', of))
    start = self.emit('Expand', self.number(0), rows)
    return self.emit('ScatterElements', start, of, ones, reduction='add')

  def segments(
    self, values: str, of: str, rows: str, width: int, *, reduction: str = 'add'
  ) -> str:
    """Sums or maxima of the rows with the same number in `of`.

    Sums start at 0, maxima at -INT32.
    """
    index, flat = of, self.whole(-1)
    if width > 1:
      index = self.emit('Unsqueeze', of, self.whole(1))
      index = self.emit('Mul', index, self.number(width))
      columns = self.constant(np.arange(width, dtype=np.int32)[None])
      index = self.emit('Reshape', self.emit('Add', index, columns), flat)
      rows = self.emit('Mul', rows, self.whole(width))
    start = self.number(-INT32 if reduction == 'max' else 0)
    total = self.emit(
      'ScatterElements',
      self.emit('Expand', start, rows),
      index,
      self.emit('Reshape', values, flat),
      reduction=reduction,
    )
    return self.emit('Reshape', total, self.whole(-1, width))

  def run_sums(self, values: str, counts: str) -> str:
    """Sums of runs of rows, so many rows each.

    Differences of the running sum over all rows, which may wrap: differences
    undo it. For several columns this takes a third of the time of `segments`.
    The rows have to be in the order of their runs.

    Args:
      values: int32 [k + 1, columns]; the first row is 0.
      counts: int32 [rows].
    """
    running = self.emit('CumSum', values, self.number(0))
    last = self.emit('CumSum', counts, self.number(0))
    first = self.emit('Sub', last, counts)
    return self.emit(
      'Sub',
      self.emit('Gather', running, last),
      self.emit('Gather', running, first),
    )

  def behind_zeros(self, values: str, width: int) -> str:
    """Rows behind a first one of zeros."""
    zeros = self.emit('Expand', self.number(0), self.whole(1, width))
    return self.emit('Concat', zeros, values, axis=0)

  def edge_sums(self, a: str, weight: str | None) -> str:
    """Sums over the edges into each node, of weight times a of the sender.

    In the order of the receivers, behind a first edge of weight 0.
    """
    join = lambda first, then: self.emit('Concat', first, then, axis=0)
    # A first edge, of weight 0 into the node -1.
    ends = join(self.constant(np.array([-1], np.int32)), 'receivers')
    none = self.constant(np.array([0], np.int32))
    after = self.emit('Add', 'senders', self.number(1))
    order = self.emit('TopK', ends, self.emit('Shape', ends), largest=0)
    senders = self.emit('Gather', join(none, after), order)
    sent = self.behind_zeros(a, self.width[a])
    sent = self.emit('Gather', sent, senders)
    if weight is not None:
      # onnx before 1.23 takes no rows as no columns either.
      heads = self.width[weight]
      weight = self.emit('Reshape', weight, self.whole(-1, heads))
      weight = self.emit('Gather', self.behind_zeros(weight, heads), order)
      sent = self.emit('Mul', sent, self.heads(weight, heads, self.width[a]))
    counts = self.counts('receivers', self.num_nodes())
    return self.run_sums(sent, counts)

  def heads(self, weight: str, heads: int, width: int) -> str:
    """Weights of heads [k, heads], repeated for the columns of each."""
    if heads == 1:
      return weight
    columns = [k for k in range(heads) for _ in range(width // heads)]
    return self.emit('Gather', weight, self.whole(*columns), axis=1)

  def degrees(self) -> str:
    """The number of edges into each node, int32 [n, 1]."""
    counts = self.counts('receivers', self.num_nodes())
    return self.emit('Unsqueeze', counts, self.whole(1))

  def loops(self) -> str:
    """Which edges are self loops, bool [e, 1]."""
    gap = self.emit('Sub', 'senders', 'receivers')
    return self.is_zero(self.emit('Unsqueeze', gap, self.whole(1)))

  def edges_at(self, a: str, end: str, *, loops: int = 0) -> str:
    """Rows of nodes at an end of each edge, or of each self loop."""
    return a if loops else self.emit('Gather', a, end)

  # Numbers that float32 does not hold.

  def halves(self, a: str, bits: int, bound: int) -> tuple[str, str]:
    """High and low with a = high 2**bits + low, |low| <= 2**(bits-1) + 128."""
    # float32 rounds a by 128 at most. high never falls where a rises.
    part = self.emit('Mul', self.as_float(a), self.real(2.0**-bits))
    high = self.from_whole(self.emit('Round', part))
    big = self.times_power(high, bits, bound + 2**bits)
    return high, self.exact('Sub', a, big, limit=bound + 2**bits)

  def times_power(self, a: str, bits: int, limit: int) -> str:
    """The product of whole numbers and 2**bits, up to `limit`."""
    if limit <= FLOAT32_WHOLE:
      return self.from_whole(
        self.emit('Mul', self.as_float(a), self.real(2.0**bits))
      )
    return self.emit('Mul', a, self.number(2**bits))

  def row_max(self, a: str, bound: int) -> str:
    """The largest of the columns, int32 [n, 1]."""
    largest = lambda x: self.emit('ReduceMax', x, self.whole(1))
    if bound <= FLOAT32_WHOLE:
      return self.from_whole(largest(self.as_float(a)))
    high, low = self.halves(a, _SPLIT_BITS, bound)
    top = largest(high)
    # Where high is less than the largest, low loses more than it can have.
    behind = self.emit('Max', self.emit('Sub', high, top), self.number(-1))
    loss = self.emit('Mul', behind, self.number(2 ** (_SPLIT_BITS + 2)))
    low = largest(self.emit('Add', low, loss))
    big = self.emit('Mul', top, self.number(2**_SPLIT_BITS))
    return self.emit('Add', big, low)

  def is_zero(self, a: str) -> str:
    """Where int32 numbers are 0, also if float32 does not hold them."""
    return self.emit('Equal', a, self.number(0))
