"""The operations of integer programs as calls of engine.h.

`OPERATIONS` has a function for each. Its arguments are the header that is
written, the node and the values that it reads; it returns the rows and the
width of the result, whether that is float32, and the call, in which RESULT
stands for the name of the result.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from lorap_jax.integers.c_tables import largest, require, weight_blocks
from lorap_jax.integers.program import EXACT, INT32, Node


def _fix(w, node, given):
  x = given['x']
  low, high = node.options['low'], node.options['high']
  require(
    max(abs(low), abs(high)) <= EXACT + 1,
    f'{node.output!r} has limits that float32 does not hold',
  )
  scaling = _scaling(w, node, x.width, low, high)
  call = f'lorap_fix(ROWS, {x.name}, RESULT, {scaling});'
  return x.rows, x.width, False, call


def _scale(w, node, given):
  a = given['a']
  row, limit = given.get('row'), given.get('limit')
  for column in (row, limit):
    _same_rows(node, a, column)
  bias = node.constants.get('bias')
  require(
    bias is None or largest(bias) <= INT32 - EXACT,
    f'{node.output!r} has a bias that overflows',
  )
  scaling = _scaling(
    w, node, a.width, node.options['low'], node.options['high'], row
  )
  to = f'_to(ROWS, {a.name}, {limit.name}' if limit else (f'(ROWS, {a.name}')
  return a.rows, a.width, False, f'lorap_scale{to}, RESULT, {scaling});'


def _scaling(w, node, width, low, high, row=None) -> str:
  factor = np.asarray(node.constants['factor']).reshape(-1)
  require(
    factor.size in (1, width),
    f'{node.output!r} has factors for other columns',
  )
  bias = _bias(w, node, width)
  row = row.name if row else 'NULL'
  factors = w.tables.add(factor.astype(np.float32))
  return f'(lorap_scaling){{{factors}, {bias}, {row}, {low}, {high}}}'


def _bias(w, node, width) -> str:
  bias = node.constants.get('bias')
  if bias is None:
    return 'LORAP_NO_TABLE'
  bias = np.asarray(bias).reshape(-1)
  require(
    bias.size in (1, width), f'{node.output!r} has a bias for other columns'
  )
  return w.tables.add(np.broadcast_to(bias, (width,)))


def _same_rows(node, a, column, *, width=1):
  require(
    column is None or (column.rows, column.width) == (a.rows, width),
    f'{node.op} {node.output!r} has arguments that do not fit',
  )


def _maker(w, node, argument) -> Node:
  return next(n for n in w.nodes if n.output == node.inputs[argument])


def _product(w, node, given):
  a, weight = given['a'], np.asarray(node.constants['weight'])
  require(
    weight.shape[0] == a.width, f'{node.output!r} has weights for other rows'
  )
  columns = np.abs(weight.astype(np.int64)).sum(0)
  most = a.bound * int(columns.max(initial=0))
  bias = node.constants.get('bias')
  most += 0 if bias is None else largest(bias)
  require(most <= INT32, f'{node.output!r} could reach {most}')
  blocks, bits = weight_blocks(weight)
  call = (
    f'lorap_product(ROWS, {a.name}, RESULT, '
    f'{w.tables.add_bytes(blocks, bits)}, {bits}, '
    f'{_bias(w, node, weight.shape[1])});'
  )
  return a.rows, weight.shape[1], False, call


def _sum_edges(w, node, given):
  a, weight = given['a'], given.get('weight')
  require(a.rows == 'n', f'{node.output!r} is no sum of nodes')
  require(
    weight is None or (weight.rows == 'e' and a.width % weight.width == 0),
    f'{node.output!r} has weights that are not those of edges',
  )
  if weight and weight.maker == 'shares':
    # They add up to twice the whole at most, see docs/integers.md.
    most = 2 * _maker(w, node, 'weight').options['share'] * a.bound
    require(most <= INT32, f'{node.output!r} could reach {most}')
  else:
    each = max(a.bound, 1) * max(weight.bound if weight else 1, 1)
    w.degree = min(w.degree, w.program.bounds[node.output] // each)
  call = (
    f'lorap_sum_edges(&graph, {a.name}, '
    f'{f"&{weight.name}" if weight else "NULL"}, RESULT, '
    f'{node.options.get("drop_loops", 0)});'
  )
  return 'n', a.width, False, call


def _weigh(w, node, given):
  a, row = given['a'], given['row']
  _same_rows(node, a, row, width=row.width)
  require(
    a.width % row.width == 0 and a.bound * row.bound <= INT32,
    f'{node.output!r} could reach {a.bound * row.bound}',
  )
  call = f'lorap_weigh(ROWS, {a.name}, {row.name}, RESULT);'
  return a.rows, a.width, False, call


def _meet(w, node, given):
  del w
  a, (rows, loops) = given['a'], _edges_or_loops(node)
  require(
    a.rows == 'n' and a.width % 2 == 0 and 2 * a.bound <= INT32,
    f'{node.output!r} has no two halves of nodes that can be added',
  )
  call = f'lorap_meet(&graph, {a.name}, RESULT, {loops});'
  return rows, a.width // 2, False, call


def _edges_or_loops(node) -> tuple[str, int]:
  loops = node.options.get('loops', 0)
  return 'n' if loops else 'e', loops


def _max_into(w, node, given):
  del w
  a, b = given['a'], given.get('b')
  require(
    a.rows == 'e' and (b is None or (b.rows, b.width) == ('n', a.width)),
    f'{node.output!r} has arguments that do not fit',
  )
  start = f'&{b.name}' if b else 'NULL'
  call = f'lorap_max_into(&graph, {a.name}, {start}, RESULT);'
  return 'n', a.width, False, call


def _sum_into(w, node, given):
  a = given['a']
  require(a.rows == 'e', f'{node.output!r} is no sum of edges')
  w.degree = min(w.degree, w.program.bounds[node.output] // max(a.bound, 1))
  return 'n', a.width, False, f'lorap_sum_into(&graph, {a.name}, RESULT);'


def _powers(w, node, given):
  a, b, table = given['a'], given['b'], np.asarray(node.constants['table'])
  rows, loops = _at_receivers(node, a, b)
  peak, of = _maker(w, node, 'b'), 'b' if loops else 'a'
  require(
    peak.op == 'max_into' and peak.inputs.get(of) == node.inputs['a'],
    f'{node.output!r} has logits that may exceed the largest',
  )
  call = (
    f'lorap_powers(&graph, {a.name}, {b.name}, {w.tables.add(table)}, '
    f'RESULT, {loops});'
  )
  return rows, a.width, False, call


def _shares(w, node, given):
  del w
  a, b, share = given['a'], given['b'], node.options['share']
  rows, loops = _at_receivers(node, a, b)
  require(share <= EXACT, f'{node.output!r} has shares beyond float32')
  call = f'lorap_shares(&graph, {a.name}, {b.name}, RESULT, {share}, {loops});'
  return rows, a.width, False, call


def _at_receivers(node, a, b) -> tuple[str, int]:
  rows, loops = _edges_or_loops(node)
  require(
    (a.rows, b.rows, b.width) == (rows, 'n', a.width),
    f'{node.output!r} has arguments that do not fit',
  )
  return rows, loops


def _add(w, node, given):
  a, b = given['a'], given['b']
  _same_rows(node, a, b, width=a.width)
  call = f'lorap_add(ROWS, {a.name}, {b.name}, RESULT);'
  return a.rows, a.width, False, call


def _each(w, node, given):
  a = given['a']
  width = a.width if node.op == 'relu' else 1
  return a.rows, width, False, f'lorap_{node.op}(ROWS, {a.name}, RESULT);'


def _row_index(w, node, given):
  rows = given['a'].rows
  return rows, 1, False, 'lorap_row_index(FIRST, ROWS, RESULT);'


def _search(w, node, given):
  a, table = given['a'], _sorted(node)
  name = w.tables.add(table)
  require(
    bool(np.all(np.diff(table.astype(np.int64)) >= 0)),
    f'{node.output!r} has thresholds that are not in order',
  )
  require(
    w.program.bounds[node.output] >= _places(node) - 1,
    f'{node.output!r} has more thresholds than its bound',
  )
  require(
    node.op == 'search' or 2 * max(a.bound, largest(table)) <= INT32,
    f'{node.output!r} doubles numbers that are too large',
  )
  call = f'lorap_{node.op}(ROWS, {a.name}, {name}, RESULT);'
  return a.rows, 1, False, call


def _sorted(node):
  """The thresholds of a `search`, or the ranges of a `nearest`."""
  if node.op == 'search':
    return np.asarray(node.constants['thresholds'])
  return np.asarray(node.constants['reach']).astype(np.int32)


def _places(node):
  """How many results there are."""
  return len(_sorted(node)) + (node.op == 'search')


def _lookup(w, node, given):
  a, table = given['a'], np.asarray(node.constants['table'])
  count, width = len(table), table[0].size
  if a.maker == 'row_index':
    w.most[a.rows] = min(w.most[a.rows], count)
  else:
    maker = _maker(w, node, 'a')
    places = math.inf
    if maker.op in ('search', 'nearest'):
      places = _places(maker)
    elif maker.op == 'fix' and maker.options['low'] >= 0:
      places = maker.options['high'] + 1
    require(
      places <= count,
      f'{node.output!r} looks up what may lie outside of its table',
    )
  if table.dtype.kind == 'f':
    require(width == 1, f'{node.output!r} looks up rows of float32')
    table = w.tables.add(table)
    call = f'lorap_lookup_f32(ROWS, {a.name}, {table}, RESULT);'
    return a.rows, 1, True, call
  table = w.tables.add(table)
  return (
    a.rows,
    width,
    False,
    f'lorap_lookup(ROWS, {a.name}, {table}, RESULT);',
  )


def _pool(w, node, given):
  a = given['a']
  require(a.rows == 'n', f'{node.output!r} is no pool of nodes')
  of_most = node.op == 'pool_max'
  if not of_most:
    most = w.program.bounds[node.output] // max(a.bound, 1)
    w.together = min(w.together, most)
  call = f'lorap_pool(&graph, FIRST, ROWS, {a.name}, RESULT, {int(of_most)});'
  return 'g', a.width, False, call


def _pool_share(w, node, given):
  del node, given
  return 'g', 1, True, 'lorap_pool_share(&graph, RESULT);'


def _degrees(w, node, given):
  del given
  w.degree = min(w.degree, w.program.bounds[node.output])
  return 'n', 1, False, 'lorap_degrees(&graph, RESULT);'


def _add_loops(w, node, given):
  del given
  keep = node.options.get('keep', 0)
  return 'n', 1, False, f'lorap_add_loops(&graph, RESULT, {keep});'


def _edge_norm(w, node, given):
  row = given['row']
  require(row.rows == 'n', f'{node.output!r} is no norm of nodes')
  return 'e', 1, True, f'lorap_edge_norm(&graph, {row.name}, RESULT);'


def _loop_norm(w, node, given):
  a, row = given['a'], given['row']
  _same_rows(node, a, row, width=a.width)
  call = f'lorap_loop_norm(ROWS, {row.name}, {a.name}, RESULT);'
  return a.rows, 1, True, call


def _quotient(w, node, given):
  a, b = given['a'], given['b']
  _same_rows(node, a, b, width=1)
  _same_rows(node, b, a, width=1)
  maker = _maker(w, node, 'b')
  require(
    maker.op == 'lookup' and int(np.min(maker.constants['table'])) > 0,
    f'{node.output!r} may divide by 0',
  )
  call = f'lorap_quotient(ROWS, {a.name}, {b.name}, RESULT);'
  return a.rows, 1, True, call


def _soften(w, node, given):
  a, table = given['a'], np.asarray(node.constants['table'])
  share = node.options['share']
  most = largest(table) * max(a.width, share)
  require(
    int(table.min()) >= 0
    and int(table[0]) > 0
    and most <= INT32
    and 2 * a.bound <= INT32
    and share <= EXACT,
    f'{node.output!r} has powers or logits that overflow',
  )
  call = (
    f'lorap_soften(ROWS, {a.name}, {w.tables.add(table)}, RESULT, {share});'
  )
  return a.rows, a.width, False, call


OPERATIONS: Mapping[str, Callable[..., tuple[str, int, bool, str]]] = {
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
  'relu': _each,
  'row_max': _each,
  'row_index': _row_index,
  'search': _search,
  'nearest': _search,
  'quotient': _quotient,
  'lookup': _lookup,
  'pool_sum': _pool,
  'pool_max': _pool,
  'pool_share': _pool_share,
  'degrees': _degrees,
  'add_loops': _add_loops,
  'edge_norm': _edge_norm,
  'loop_norm': _loop_norm,
  'soften': _soften,
}
