"""The operations of integer programs in ONNX operators.

`OPERATIONS` has a function for each: its first argument is the model that is
written, the others are names of tensors, constants and options as in
`program.OPERATIONS`; it returns the name of the result.
"""

from collections.abc import Callable

import numpy as np

from lorap_jax.integers.onnx_graph import FLOAT32_WHOLE, largest
from lorap_jax.integers.program import EXACT, INT32

_FEW = 256  # Thresholds that one comparison takes.


def _fix(w, x, factor, *, low, high):
  product = w.emit('Mul', x, w.real(factor))
  return w.from_whole(w.rounded(product, low, high, INT32))


def _scale(w, a, factor, row=None, limit=None, bias=None, *, low, high):
  value, reach = w.as_float(a), INT32
  more = 0 if bias is None else largest(w.all_of(bias))
  if row is not None:
    value = w.emit('Mul', value, row)
  else:
    top = np.float32(np.max(np.abs(w.all_of(factor))))
    reach = np.float32(w.bound[a]) * top
    reach = int(min(np.rint(reach), np.float32(INT32)))
  if w.limit < min(high, -low):
    reach = min(reach, w.limit + more)
  if row is None and a in w.products:
    # Else engines put the factor into the product, and round its parts.
    value = w.emit('Round', value)
  if np.any(w.all_of(factor) != 1):
    value = w.emit('Mul', value, w.columns(factor, w.width[a]))
  if row is not None or np.any(w.all_of(factor) % 1):
    value = w.emit('Round', value)
  if bias is None:
    if limit is None or w.bound[limit] > min(high, -low, EXACT):
      value = w.clipped(value, max(low, -EXACT), min(high, EXACT), reach)
    value = w.from_whole(value)
  else:
    value = w.from_whole(w.clipped(value, -EXACT, EXACT, reach))
    reach = min(reach, EXACT) + more
    bias = w.columns(bias, w.width[a])
    value = w.exact('Add', value, bias, limit=reach)
    if w.limit >= min(high, -low):
      value = _clip(w, value, low, high, reach)
  if limit is not None:
    value = w.exact('Min', value, limit)
    if not (bias is None and {a, row} <= w.non_negative and np.all(factor > 0)):
      value = w.exact('Max', value, w.exact('Neg', limit))
  return value


def _clip(w, value, low, high, reach):
  """clip(value) of int32 numbers up to `reach`."""
  if reach <= min(high, -low):
    return value
  if reach <= FLOAT32_WHOLE:
    return w.from_whole(w.clipped(w.as_float(value), low, high, reach))
  if max(abs(low), abs(high)) <= FLOAT32_WHOLE:
    return w.emit('Clip', value, w.number(low), w.number(high))
  # By Max twice: OpenVINO makes a Clip of Max and Min.
  value = w.emit('Max', value, w.number(low))
  value = w.emit('Max', w.emit('Neg', value), w.number(-high))
  return w.emit('Neg', value)


def _product(w, a, weight, bias=None):
  size = np.abs(w.all_of(weight).astype(np.int64)).sum(-2)
  size = int(size.max(initial=0))
  total = _exact_product(w, a, w.bound[a], weight, max(size, 1))
  if bias is None:
    return total
  return w.exact('Add', total, w.constant(np.asarray(bias)))


def _exact_product(w, a, bound, weight, size):
  """A product whose parts are each below 2**24."""
  if bound * size <= FLOAT32_WHOLE:
    return _matmul(w, a, weight)
  bits = (FLOAT32_WHOLE // size).bit_length()  # |low| <= 2**(bits-1).
  slack = 128 if bound > FLOAT32_WHOLE else 0
  while bits > 1 and (2 ** (bits - 1) + slack) * size > FLOAT32_WHOLE:
    bits -= 1
  if bits < 2:
    raise ValueError(
      f'a product of {len(weight)} columns exceeds 24 bits in every split'
    )
  high, low = w.halves(a, bits, bound)
  part = -(-bound // 2**bits) + 1
  high = _exact_product(w, high, part, weight, size)
  high = w.times_power(high, bits, min((part * size) << bits, INT32))
  return w.exact('Add', high, _matmul(w, low, weight), limit=bound * size)


def _matmul(w, a, weight):
  """A product all of whose sums are less than 2**24."""
  # In float32: ONNX Runtime takes ten times as long in int32.
  matrix = w.as_float(w.constant(np.asarray(weight)))
  total = w.from_whole(w.emit('MatMul', w.as_float(a), matrix))
  w.products.add(total)
  return total


def _sum_edges(w, a, weight=None, *, drop_loops=0):
  if drop_loops:
    proper = w.as_int(w.emit('Not', w.loops()))
    heads = 1 if weight is None else w.width[weight]
    weight = proper if weight is None else w.emit('Mul', weight, proper)
    w.width[weight] = heads
  if w.width[a] > 1:
    return w.edge_sums(a, weight)
  sent = w.edges_at(a, 'senders')
  if weight is not None:
    sent = w.emit('Mul', sent, weight)
  return w.segments(sent, 'receivers', w.num_nodes(), 1)


def _weigh(w, a, row):
  return w.exact('Mul', a, w.heads(row, w.width[row], w.width[a]))


def _meet(w, a, *, loops=0):
  heads = w.width[a] // 2
  sent, received = (
    w.edges_at(
      w.emit('Gather', a, w.whole(*range(k, k + heads)), axis=1),
      end,
      loops=loops,
    )
    for k, end in ((0, 'senders'), (heads, 'receivers'))
  )
  return w.emit('Add', sent, received)


def _max_into(w, a, b=None):
  found = w.segments(a, 'receivers', w.num_nodes(), w.width[a], reduction='max')
  found = w.emit('Max', found, w.number(0))
  return found if b is None else w.emit('Max', found, b)


def _sum_into(w, a):
  return w.segments(a, 'receivers', w.num_nodes(), w.width[a])


def _powers(w, a, b, table, *, loops=0):
  limit = w.bound[a] + w.bound[b]
  peak = w.edges_at(b, 'receivers', loops=loops)
  return _power(w, w.exact('Sub', peak, a, limit=limit), table, limit)


def _power(w, below, table, limit):
  """The table's number for a logit that lies below the largest."""
  entry = w.exact('Min', below, w.number(len(table) - 1), limit=limit)
  table = w.as_float(w.constant(np.asarray(table)))
  return w.from_whole(w.emit('Gather', table, entry))


def _shares(w, a, b, *, share, loops=0):
  # A power of two: where it enters changes no bit.
  inverse = _inverse(w, w.edges_at(b, 'receivers', loops=loops), share)
  part = w.emit('Mul', w.as_float(a), inverse)
  return w.from_whole(w.emit('Round', part))


def _add(w, a, b):
  return w.exact('Add', a, b)


def _relu(w, a):
  if w.in_float(a):
    result = w.exact('Relu', a)
  else:
    result = w.emit('Max', a, w.number(0))
  w.non_negative.add(result)
  return result


def _row_max(w, a):
  size = a if a in w.non_negative else w.exact('Abs', a)
  return w.row_max(size, w.bound[a])


def _search(w, a, thresholds):
  thresholds = np.asarray(thresholds, np.int32)
  if not thresholds.size:
    return w.full(w.emit('Shape', a, end=1), 1, 0)
  # float32 keeps the order of a and a threshold that is less than 2**24.
  reach = largest(thresholds)
  direct = reach < FLOAT32_WHOLE
  if not direct and reach + w.bound[a] > INT32:
    raise ValueError('a search of numbers and thresholds of 31 bits and more')
  if thresholds.size <= _FEW:
    return _count(w, a, w.constant(thresholds), direct=direct)
  # First the blocks that are full, then the next block alone.
  block = int(np.ceil(np.sqrt(thresholds.size)))
  full = _count(w, a, w.constant(thresholds[block - 1 :: block]), direct=direct)
  rows = thresholds.size // block + 1
  table = np.full(rows * block, thresholds[-1])
  table[: thresholds.size] = thresholds
  row = w.emit('Squeeze', full, w.whole(1))
  row = w.emit('Gather', w.constant(table.reshape(rows, block)), row)
  found = w.emit('Mul', full, w.number(block))
  found = w.emit('Add', found, _count(w, a, row, direct=direct))
  # What fills the last row counts only with all others.
  return w.emit('Min', found, w.number(thresholds.size))


def _count(w, a, thresholds, *, direct):
  """How many thresholds are <= a, int32 [n, 1]."""
  if direct:
    a, thresholds = w.as_float(a), w.as_float(thresholds)
  else:
    a, thresholds = w.emit('Sub', a, thresholds), w.number(0)
  below = w.as_int(w.emit('GreaterOrEqual', a, thresholds))
  return w.emit('ReduceSum', below, w.whole(1))


def _nearest(w, a, reach):
  reach = np.asarray(reach, np.float32)
  if reach.size > _FEW or w.bound[a] > FLOAT32_WHOLE:
    twice = w.exact('Add', a, a, limit=2 * w.bound[a])
    w.bound[twice] = 2 * w.bound[a]
    whole = reach.astype(np.int32)
    return _search(w, twice, whole[:-1] + whole[1:])
  # The table of ranges is there anyway, for a lookup.
  # From its end: of two that are equally near the larger one comes first.
  back = w.constant(reach[::-1])
  found = w.emit(
    'ArgMin', w.emit('Abs', w.emit('Sub', w.as_float(a), back)), axis=1
  )
  result = w.emit('Sub', w.number(reach.size - 1), w.as_int(found))
  w.from_end[result] = found
  return result


def _quotient(w, a, b):
  if a in w.powers or b in w.powers:  # These round once in any order.
    result = w.emit('Div', w.as_float(a), w.as_float(b))
  else:
    result = w.emit('Mul', w.as_float(a), _inverse(w, b))
  w.non_negative.add(result)  # Scales and ranges.
  return result


def _lookup(w, a, table):
  given = table = np.asarray(table)
  if a in w.from_end:
    table, a = table[::-1], w.from_end[a]
  elif table.ndim > 1:  # A row for each number of the first column.
    a = w.emit('Gather', a, w.constant(np.int64(0)), axis=1)
  name = w.constant(table)
  if table.dtype == np.float32:
    return w.emit('Gather', name, a)
  if largest(table) > FLOAT32_WHOLE:
    return w.emit('Gather', name, a)
  found = w.from_whole(w.emit('Gather', w.as_float(name), a))
  if np.all(np.frexp(w.all_of(given))[0] == 0.5):
    w.powers.add(found)
  return found


def _pool_sum(w, a):
  width = w.width[a]
  if width == 1:
    return w.segments(a, 'graph_of', w.num_graphs(), width)
  # In the order of graphs, whatever that of the nodes is.
  count = w.emit('Shape', 'graph_of')
  order = w.emit('TopK', 'graph_of', count, largest=0)
  rows = w.behind_zeros(w.emit('Gather', a, order), width)
  return w.run_sums(rows, w.counts('graph_of', w.num_graphs()))


def _pool_max(w, a):
  found = w.segments(
    a,
    'graph_of',
    w.num_graphs(),
    w.width[a],
    reduction='max',
  )
  above = w.emit('Add', w.emit('Min', found, w.number(0)), w.number(INT32))
  filled = w.as_int(w.emit('Not', w.is_zero(above)))
  return w.emit('Mul', found, filled)  # Where is in float32 in OpenVINO.


def _inverse(w, a, unit=1):
  """f32(unit) / f32(a) for a > 0; the unit is a power of two."""
  # Without Abs a product with it becomes a quotient, which rounds once.
  return w.emit('Abs', w.emit('Div', w.real(unit), w.as_float(a)))


def _pool_share(w):
  count = w.counts('graph_of', w.num_graphs())
  count = w.emit('Unsqueeze', count, w.whole(1))
  return _inverse(w, w.emit('Max', count, w.number(1)))


def _degrees(w):
  return w.degrees()


def _add_loops(w, *, keep=0):
  if keep:
    return w.full(w.num_nodes(), 1, 1)
  loops = w.as_int(w.loops())
  count = w.segments(loops, 'receivers', w.num_nodes(), 1)
  return w.emit('Sub', w.number(1), count)


def _edge_norm(w, row):
  ends = (w.edges_at(row, end) for end in ('senders', 'receivers'))
  return w.emit('Mul', *ends)


def _loop_norm(w, row, a):
  return w.emit('Mul', w.emit('Mul', row, row), w.as_float(a))


def _row_index(w, a):
  count = w.emit('Squeeze', w.emit('Shape', a, end=1), w.whole(0))
  index = w.emit('Range', w.number(0), w.as_int(count), w.number(1))
  return w.emit('Unsqueeze', index, w.whole(1))


def _soften(w, a, table, *, share):
  bound = 2 * w.bound[a]
  if largest(table) * w.width[a] > FLOAT32_WHOLE:
    raise ValueError(f'a softmax of {w.width[a]} columns exceeds 24 bits')
  below = w.exact('Sub', w.row_max(a, w.bound[a]), a, limit=bound)
  power = w.as_float(_power(w, below, table, bound))
  total = w.emit('ReduceSum', power, w.whole(1))
  # A power of two: where it enters changes no bit.
  part = w.emit('Mul', power, _inverse(w, w.from_whole(total), share))
  return w.from_whole(w.emit('Round', part))


OPERATIONS: dict[str, Callable[..., str]] = {
  'row_index': _row_index,
  'degrees': _degrees,
  'add_loops': _add_loops,
  'edge_norm': _edge_norm,
  'loop_norm': _loop_norm,
  'soften': _soften,
  'fix': _fix,
  'scale': _scale,
  'product': _product,
  'sum_edges': _sum_edges,
  'weigh': _weigh,
  'meet': _meet,
  'max_into': _max_into,
  'sum_into': _sum_into,
  'powers': _powers,
  'shares': _shares,
  'add': _add,
  'relu': _relu,
  'row_max': _row_max,
  'search': _search,
  'nearest': _nearest,
  'quotient': _quotient,
  'lookup': _lookup,
  'pool_sum': _pool_sum,
  'pool_max': _pool_max,
  'pool_share': _pool_share,
}
