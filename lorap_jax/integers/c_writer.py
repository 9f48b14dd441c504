"""Writes an integer program as one C99 header, for any compiler and any chip.

The header is `engine.h`, the tables of the program, and one call for each of
its operations. One file of a project defines MODEL_IMPLEMENTATION before it
includes the header; others see only what they need for a call:

  static unsigned char arena[MODEL_ARENA_BYTES];
  int32_t out[MODEL_MAX_ROWS * MODEL_OUTPUTS];
  int error = model_run(nodes, senders, receivers, graph_of, n, e, g,
                        arena, sizeof arena, out);

`nodes` is [n, MODEL_FEATURES]. An error is one of `LORAP_...`, and leaves `out`
as it was. A result times `model_scale` is an output of the network.
"""

import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lorap_jax.integers.program import EXACT, INT32, Node, Program, num_types

ENGINE = (pathlib.Path(__file__).parent / 'engine.h').read_text()
# Each row or block is read before it is written, in order: the result may lie
# where an argument lay.
_IN_PLACE = ('fix', 'scale', 'weigh', 'add', 'relu')


def write(
  program: Program,
  *,
  name: str = 'model',
  max_nodes: int,
  max_edges: int,
  max_graphs: int,
  narrow: bool = True,
) -> str:
  """A C99 header that runs a program.

  Args:
    program: what to write.
    name: what the names in C begin with.
    max_nodes: most nodes of a call, all its graphs together; fewer if the
      program has scales for fewer.
    max_edges: most edges of a call.
    max_graphs: most graphs of a call.
    narrow: store each value in the smallest type that holds its bound, else
      all in int32.

  Returns:
    The text of the header.

  Raises:
    ValueError: an argument or a program that has no header, and why.
  """
  if not re.fullmatch('[a-z][a-z0-9_]*', name) or name.startswith('lorap'):
    raise ValueError(f'name={name!r} is no lower-case name in C of your own')
  most = {'n': max_nodes, 'e': max_edges, 'g': max_graphs}
  for key, value in most.items():
    if not 0 <= value <= INT32:
      raise ValueError(f'a maximum ({key}) of {value} is not in 0..{INT32}')
  return _Writer(program, name, most, narrow=narrow).text()


@dataclasses.dataclass
class _Value:
  """What a value is, and its place.

  Attributes:
    name: in C.
    rows: of nodes `n`, edges `e` or graphs `g`.
    width: number of columns.
    size: bytes of a number.
    bound: largest magnitude; None for float32.
    maker: the operation.
    at: the place, in C.
  """

  name: str
  rows: str
  width: int
  size: int
  bound: int | None
  maker: str
  at: str = ''

  def declaration(self) -> str:
    if self.bound is None:
      return f'unsigned char *const {self.name} = {self.at};'
    return (
      f'const lorap_value {self.name} = '
      f'{{{self.at}, {self.size}, {self.width}}};'
    )


@dataclasses.dataclass
class _Span:
  """Bytes that are in use from one operation to another."""

  size: int
  first: int
  last: int
  offset: int = 0


class _Tables:
  """Constant arrays, each written once."""

  def __init__(self, name: str):
    self._name = name
    self._names: dict[tuple[str, bytes], str] = {}
    self.lines: list[str] = []
    self.bytes = 0

  def add(self, array: Any, kind: str) -> str:
    """The name of a table of the C type `kind`."""
    dtype = np.dtype({'float': 'float32'}.get(kind, kind.removesuffix('_t')))
    array = np.asarray(array, dtype).reshape(-1)
    if not np.all(np.isfinite(array)):
      raise ValueError('a table has numbers that are not finite')
    key = (kind, array.tobytes())
    if key not in self._names:
      name = self._names[key] = f'{self._name}_table_{len(self._names)}'
      # C has no arrays without numbers.
      numbers = [_number(x) for x in array] or ['0']
      self.lines += [
        f'static const {kind} {name}[] = {{',
        *_wrapped(numbers),
        '};',
      ]
      self.bytes += array.nbytes
    return self._names[key]

  def value(self, array: np.ndarray) -> str:
    """Whole numbers in their smallest type, as a value."""
    size = _size(_largest(array))
    table = self.add(array, f'int{8 * size}_t')
    return f'(lorap_value){{(void *){table}, {size}, {array.size}}}'


def _number(x: Any) -> str:
  return f'{float(x).hex()}f' if x.dtype.kind == 'f' else str(x)


def _wrapped(words: Sequence[str]) -> list[str]:
  """Words in lines of 80 columns."""
  lines = ['']
  for word in words:
    if len(lines[-1]) + len(word) > 76:
      lines.append('')
    lines[-1] += f' {word},'
  return [f' {line}' for line in lines]


def _largest(array: Any) -> int:
  return int(np.max(np.abs(np.asarray(array, np.int64)), initial=0))


def _size(bound: int) -> int:
  """Bytes of the smallest type that holds -bound..bound."""
  _require(bound <= INT32, f'a number of {bound} takes more than 32 bits')
  return 1 if bound < 2**7 else 2 if bound < 2**15 else 4


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ValueError(message)


def constant(name: str) -> int:
  """A whole number that engine.h defines."""
  found = re.search(rf'^#define {name} (\d+)', ENGINE, re.MULTILINE)
  assert found
  return int(found[1])


def pack(weight: np.ndarray) -> tuple[np.ndarray, int]:
  """Integer weights [f, c] in 2, 4 or 8 bits, in the order of their reading.

  Args:
    weight: in -128..127.

  Returns:
    Bytes, and the bits of a weight.
  """
  low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
  bits = 2
  while low < -(2 ** (bits - 1)) or high >= 2 ** (bits - 1):
    bits *= 2
  _require(bits <= 8, f'weights in {low}..{high} take more than 8 bits')
  rows, columns = constant('LORAP_BLOCK'), constant('LORAP_COLUMNS')
  parts, packed = 8 // bits, [np.zeros(0, np.int64)]
  shifts = bits * np.arange(parts)[:, None]
  for c in range(0, weight.shape[1], columns):
    for k in range(0, weight.shape[0], rows):
      # Column after column, without gaps.
      codes = weight[k : k + rows, c : c + columns].T.reshape(-1)
      codes = codes.astype(np.int64) & (2**bits - 1)
      codes = np.pad(codes, (0, -len(codes) % parts))
      packed.append((codes.reshape(parts, -1) << shifts).sum(0))
  return np.concatenate(packed).astype(np.uint8), bits


def _thresholds(node: Node) -> np.ndarray:
  """Those of a `search`, or of a `nearest` as a search."""
  if node.op == 'search':
    return np.asarray(node.constants['thresholds'])
  reach = np.asarray(node.constants['reach']).astype(np.int64)
  return -(-(reach[:-1] + reach[1:]) // 2)  # t <= 2 a: half of t, up.


def _used(program: Program) -> list[Node]:
  """The nodes that the result needs."""
  needed, nodes = {program.output}, []
  for node in reversed(program.nodes):
    if node.output in needed:
      needed |= set(node.inputs.values())
      nodes.append(node)
  return nodes[::-1]


def _joined(nodes: list[Node], output: str) -> list[Node]:
  """A `relu` of a `scale` that nothing else reads is its lower limit."""
  uses = collections.Counter(v for node in nodes for v in node.inputs.values())
  uses[output] += 1
  made = {node.output: i for i, node in enumerate(nodes)}
  gone = set()
  for i, node in enumerate(nodes):
    if node.op != 'relu' or uses[node.inputs['a']] > 1:
      continue
    j = made.get(node.inputs['a'], i)
    if nodes[j].op == 'scale' and nodes[j].options['high'] >= 0:
      options = {**nodes[j].options, 'low': max(nodes[j].options['low'], 0)}
      nodes[i] = dataclasses.replace(
        nodes[j], output=node.output, options=options
      )
      gone.add(j)
  return [node for i, node in enumerate(nodes) if i not in gone]


def _place(spans: Sequence[_Span]) -> int:
  """Sets offsets so that no two overlap at a time; returns the bytes of all."""
  placed: list[_Span] = []
  for span in sorted(spans, key=lambda s: (-s.size, s.first)):
    for other in sorted(placed, key=lambda s: s.offset):
      apart = other.last < span.first or span.last < other.first
      if not apart and other.offset < span.offset + span.size:
        span.offset = max(span.offset, other.offset + other.size)
    placed.append(span)
  return max((s.offset + s.size for s in spans), default=0)


class _Writer:
  """Text of one program."""

  def __init__(
    self, program: Program, name: str, most: dict[str, int], *, narrow: bool
  ):
    self._program, self._name, self._most = program, name, most
    self._narrow = narrow
    self._tables = _Tables(name)
    self._nodes = _joined(_used(program), program.output)
    self._degree = self._together = INT32
    self._values = {
      'nodes': _Value('nodes', 'n', program.num_features, 4, None, 'nodes')
    }
    self._calls: list[str] = []
    for i, node in enumerate(self._nodes):
      self._call(i, node)
    result = self._values.get(program.output)
    if result is None or result.bound is None or result.maker == 'nodes':
      raise ValueError(f'the result {program.output!r} is no whole numbers')
    _require(
      result.rows == ('g' if program.per_graph else 'n'),
      f'the result {program.output!r} has rows of another kind',
    )
    self._result = result
    self._bytes = self._arrange()

  def _call(self, i: int, node: Node) -> None:
    """Appends a call, and its result to the values."""
    given = {k: self._values[v] for k, v in node.inputs.items()}
    for key, value in given.items():
      real = key == 'x' or (key == 'row' and node.op != 'weigh')
      _require(
        real == (value.bound is None),
        f'{node.op} {node.output!r}: {key} is of another type',
      )
    rows, width, real, call = _CALLS[node.op](self, node, given)
    bound = None if real else self._program.bounds[node.output]
    if node.output == self._program.output or real or not self._narrow:
      size = 4
    else:
      size = _size(self._program.bounds[node.output])
    _require(width > 0, f'{node.output!r} has no columns')
    name = f'v{i}'
    self._values[node.output] = _Value(name, rows, width, size, bound, node.op)
    self._calls += [
      f'  /* {re.sub("[^A-Za-z0-9_/ -]", "_", node.output)} */',
      f'  {call.replace("RESULT", name)}',
    ]

  def _arrange(self) -> int:
    """Gives each value its place; returns the size of the arena."""
    # A result in the place of a wider one holds all of that: better or worse.
    tries = [self._spans(narrower) for narrower in (False, True)]
    sizes = [
      _place(list({id(s): s for s in t.values()}.values())) for t in tries
    ]
    total = min(sizes)
    for name, span in tries[sizes.index(total)].items():
      self._values[name].at = f'(unsigned char *)arena + {span.offset}'
    self._result.at = 'out'
    if self._degree < self._most['e']:
      total = max(total, 4 * self._most['n'])  # Degrees are counted there.
    _require(total <= INT32, f'an arena of {total} bytes takes too much')
    return max(total, 1)

  def _spans(self, narrower: bool) -> dict[str, _Span]:
    """How long each value is needed; those in one place share a span.

    Args:
      narrower: a result of fewer bytes may take the place of an argument.
    """
    last = {
      v: i for i, node in enumerate(self._nodes) for v in node.inputs.values()
    }
    spans: dict[str, _Span] = {}
    for i, node in enumerate(self._nodes):
      value = self._values[node.output]
      if value is self._result:
        continue
      end = last[node.output]
      for old in node.inputs.values() if node.op in _IN_PLACE else ():
        was = self._values[old]
        fits = (was.rows, was.width) == (value.rows, value.width) and (
          was.size == value.size or (narrower and was.size > value.size)
        )
        if old in spans and last[old] == i and fits:
          spans[node.output] = spans[old]
          spans[old].last = end
          break
      else:
        numbers = self._most[value.rows] * value.width
        size = -(-numbers * value.size // 4) * 4
        spans[node.output] = _Span(size, i, end)
    return spans

  def text(self) -> str:
    """The header."""
    program, most, upper = self._program, self._most, self._name.upper()
    scale = np.asarray(program.output_scale, np.float32).reshape(-1)
    scale = np.broadcast_to(scale, (self._result.width,))
    limit = lambda value, least: value if value < least else -1
    limits = ', '.join(
      str(x)
      for x in (
        most['n'],
        most['e'],
        most['g'],
        program.num_features,
        num_types(program) or 0,
        limit(self._degree, most['e']),
        limit(self._together, most['n']),
        self._bytes,
      )
    )
    defined = {
      'FEATURES': program.num_features,
      'OUTPUTS': self._result.width,
      'PER_GRAPH': int(program.per_graph),
      'MAX_NODES': most['n'],
      'MAX_EDGES': most['e'],
      'MAX_GRAPHS': most['g'],
      'MAX_ROWS': most[self._result.rows],
      'ARENA_BYTES': self._bytes,
      'TABLE_BYTES': self._tables.bytes,
    }
    signature = [
      f'int {self._name}_run(const float *nodes, const int32_t *senders,',
      '  const int32_t *receivers, const int32_t *graph_of,',
      '  int n, int e, int g, void *arena, size_t arena_bytes, int32_t *out)',
    ]
    lines = [
      '/* An integer network, written by lorap_jax.integers.c_writer. */',
      ENGINE.rstrip(),
      '',
      f'#ifndef {upper}_H',
      f'#define {upper}_H',
      *(f'#define {upper}_{key} {value}' for key, value in defined.items()),
      '/* What a unit of each output is worth. */',
      f'extern const float {self._name}_scale[{upper}_OUTPUTS];',
      '/* Returns LORAP_OK, or an error, which leaves `out` as it was.',
      f' * `out` is [{self._result.rows}, {upper}_OUTPUTS]. */',
      *signature[:-1],
      f'{signature[-1]};',
      '#endif',
      '',
      f'#ifdef {upper}_IMPLEMENTATION',
      *self._tables.lines,
      f'const float {self._name}_scale[{upper}_OUTPUTS] = {{',
      *_wrapped([_number(x) for x in scale]),
      '};',
      '',
      *signature,
      '{',
      f'  static const lorap_limits limits = {{{limits}}};',
      '  const lorap_graph graph = {senders, receivers, graph_of, n, e, g};',
      *(f'  {self._values[node.output].declaration()}' for node in self._nodes),
      '  const int error = lorap_check(&limits, nodes, &graph, arena,',
      '                                arena_bytes);',
      '  if (error) return error;',
      *self._calls,
      '  return LORAP_OK;',
      '}',
      f'#endif /* {upper}_IMPLEMENTATION */',
      '',
    ]
    return '\n'.join(lines)

  # Operations: rows, width and float32 of the result, and the call.

  def _fix(self, node, given):
    x = given['x']
    low, high = node.options['low'], node.options['high']
    _require(
      max(abs(low), abs(high)) <= EXACT + 1,
      f'{node.output!r} has limits that float32 does not hold',
    )
    scaling = self._scaling(node, x.width, low, high)
    call = f'lorap_fix({x.rows}, {x.name}, RESULT, {scaling});'
    return x.rows, x.width, False, call

  def _scale(self, node, given):
    a = given['a']
    row, limit = given.get('row'), given.get('limit')
    for column in (row, limit):
      self._same_rows(node, a, column)
    bias = node.constants.get('bias')
    _require(
      bias is None or _largest(bias) <= INT32 - EXACT,
      f'{node.output!r} has a bias that overflows',
    )
    scaling = self._scaling(
      node, a.width, node.options['low'], node.options['high'], row
    )
    to = (
      f'_to({a.rows}, {a.name}, {limit.name}'
      if limit
      else (f'({a.rows}, {a.name}')
    )
    return a.rows, a.width, False, f'lorap_scale{to}, RESULT, {scaling});'

  def _scaling(self, node, width, low, high, row=None) -> str:
    factor = np.asarray(node.constants['factor']).reshape(-1)
    _require(
      factor.size in (1, width),
      f'{node.output!r} has factors for other columns',
    )
    bias = self._bias(node, width)
    factors = self._tables.add(factor, 'float')
    row = row.name if row else 'NULL'
    return (
      f'(lorap_scaling){{{factors}, {factor.size}, {bias}, {row}, '
      f'{low}, {high}}}'
    )

  def _bias(self, node, width) -> str:
    bias = node.constants.get('bias')
    if bias is None:
      return 'NULL'
    bias = np.asarray(bias).reshape(-1)
    _require(
      bias.size in (1, width), f'{node.output!r} has a bias for other columns'
    )
    return self._tables.add(np.broadcast_to(bias, (width,)), 'int32_t')

  def _same_rows(self, node, a, column, *, width=1):
    _require(
      column is None or (column.rows, column.width) == (a.rows, width),
      f'{node.op} {node.output!r} has arguments that do not fit',
    )

  def _maker(self, node, argument) -> Node:
    return next(n for n in self._nodes if n.output == node.inputs[argument])

  def _product(self, node, given):
    a, weight = given['a'], np.asarray(node.constants['weight'])
    _require(
      weight.shape[0] == a.width, f'{node.output!r} has weights for other rows'
    )
    columns = np.abs(weight.astype(np.int64)).sum(0)
    largest = a.bound * int(columns.max(initial=0))
    bias = node.constants.get('bias')
    largest += 0 if bias is None else _largest(bias)
    _require(largest <= INT32, f'{node.output!r} could reach {largest}')
    packed, bits = pack(weight)
    call = (
      f'lorap_product({a.rows}, {a.name}, RESULT, '
      f'{self._tables.add(packed, "uint8_t")}, {bits}, '
      f'{self._bias(node, weight.shape[1])});'
    )
    return a.rows, weight.shape[1], False, call

  def _sum_edges(self, node, given):
    a, weight = given['a'], given.get('weight')
    _require(a.rows == 'n', f'{node.output!r} is no sum of nodes')
    _require(
      weight is None or (weight.rows == 'e' and a.width % weight.width == 0),
      f'{node.output!r} has weights that are not those of edges',
    )
    if weight and weight.maker == 'shares':
      # They add up to twice the whole at most, see docs/integers.md.
      largest = 2 * self._maker(node, 'weight').options['share'] * a.bound
      _require(largest <= INT32, f'{node.output!r} could reach {largest}')
    else:
      largest = max(a.bound, 1) * max(weight.bound if weight else 1, 1)
      most = self._program.bounds[node.output] // largest
      self._degree = min(self._degree, most)
    call = (
      f'lorap_sum_edges(&graph, {a.name}, '
      f'{f"&{weight.name}" if weight else "NULL"}, RESULT, '
      f'{node.options.get("drop_loops", 0)});'
    )
    return 'n', a.width, False, call

  def _weigh(self, node, given):
    a, row = given['a'], given['row']
    self._same_rows(node, a, row, width=row.width)
    _require(
      a.width % row.width == 0 and a.bound * row.bound <= INT32,
      f'{node.output!r} could reach {a.bound * row.bound}',
    )
    call = f'lorap_weigh({a.rows}, {a.name}, {row.name}, RESULT);'
    return a.rows, a.width, False, call

  def _meet(self, node, given):
    a, (rows, loops) = given['a'], self._edges_or_loops(node)
    _require(
      a.rows == 'n' and a.width % 2 == 0 and 2 * a.bound <= INT32,
      f'{node.output!r} has no two halves of nodes that can be added',
    )
    call = f'lorap_meet(&graph, {a.name}, RESULT, {loops});'
    return rows, a.width // 2, False, call

  def _edges_or_loops(self, node) -> tuple[str, int]:
    loops = node.options.get('loops', 0)
    return 'n' if loops else 'e', loops

  def _max_into(self, node, given):
    a, b = given['a'], given.get('b')
    _require(
      a.rows == 'e' and (b is None or (b.rows, b.width) == ('n', a.width)),
      f'{node.output!r} has arguments that do not fit',
    )
    start = f'&{b.name}' if b else 'NULL'
    call = f'lorap_max_into(&graph, {a.name}, {start}, RESULT);'
    return 'n', a.width, False, call

  def _sum_into(self, node, given):
    a = given['a']
    _require(a.rows == 'e', f'{node.output!r} is no sum of edges')
    most = self._program.bounds[node.output] // max(a.bound, 1)
    self._degree = min(self._degree, most)
    call = f'lorap_sum_into(&graph, {a.name}, RESULT);'
    return 'n', a.width, False, call

  def _powers(self, node, given):
    a, b, table = given['a'], given['b'], np.asarray(node.constants['table'])
    rows, loops = self._at_receivers(node, a, b)
    peak, of = self._maker(node, 'b'), 'b' if loops else 'a'
    _require(
      peak.op == 'max_into' and peak.inputs.get(of) == node.inputs['a'],
      f'{node.output!r} has logits that may exceed the largest',
    )
    call = (
      f'lorap_powers(&graph, {a.name}, {b.name}, {self._tables.value(table)}, '
      f'RESULT, {loops});'
    )
    return rows, a.width, False, call

  def _shares(self, node, given):
    a, b, share = given['a'], given['b'], node.options['share']
    rows, loops = self._at_receivers(node, a, b)
    _require(share <= EXACT, f'{node.output!r} has shares beyond float32')
    call = (
      f'lorap_shares(&graph, {a.name}, {b.name}, RESULT, {share}, {loops});'
    )
    return rows, a.width, False, call

  def _at_receivers(self, node, a, b) -> tuple[str, int]:
    rows, loops = self._edges_or_loops(node)
    _require(
      (a.rows, b.rows, b.width) == (rows, 'n', a.width),
      f'{node.output!r} has arguments that do not fit',
    )
    return rows, loops

  def _add(self, node, given):
    a, b = given['a'], given['b']
    self._same_rows(node, a, b, width=a.width)
    call = f'lorap_add({a.rows}, {a.name}, {b.name}, RESULT);'
    return a.rows, a.width, False, call

  def _each(self, node, given):
    a = given['a']
    width = a.width if node.op == 'relu' else 1
    return a.rows, width, False, f'lorap_{node.op}({a.rows}, {a.name}, RESULT);'

  def _row_index(self, node, given):
    rows = given['a'].rows
    return rows, 1, False, f'lorap_row_index({rows}, RESULT);'

  def _search(self, node, given):
    a, thresholds = given['a'], _thresholds(node)
    _require(
      bool(np.all(np.diff(thresholds.astype(np.int64)) >= 0)),
      f'{node.output!r} has thresholds that are not in order',
    )
    _require(
      self._program.bounds[node.output] >= thresholds.size,
      f'{node.output!r} has more thresholds than its bound',
    )
    _require(
      node.op == 'search' or 2 * a.bound <= INT32,
      f'{node.output!r} doubles numbers that are too large',
    )
    call = (
      f'lorap_search({a.rows}, {a.name}, {self._tables.value(thresholds)}, '
      'RESULT);'
    )
    return a.rows, 1, False, call

  def _lookup(self, node, given):
    a, table = given['a'], np.asarray(node.constants['table'])
    count, width = len(table), table[0].size
    if a.maker == 'row_index':
      self._most[a.rows] = min(self._most[a.rows], count)
    else:
      maker = self._maker(node, 'a')
      places = math.inf
      if maker.op in ('search', 'nearest'):
        places = _thresholds(maker).size + 1
      elif maker.op == 'fix' and maker.options['low'] >= 0:
        places = maker.options['high'] + 1
      _require(
        places <= count,
        f'{node.output!r} looks up what may lie outside of its table',
      )
    if table.dtype.kind == 'f':
      _require(width == 1, f'{node.output!r} looks up rows of float32')
      table = self._tables.add(table, 'float')
      call = f'lorap_lookup_f32({a.rows}, {a.name}, {table}, RESULT);'
      return a.rows, 1, True, call
    table = self._tables.value(table)
    return (
      a.rows,
      width,
      False,
      f'lorap_lookup({a.rows}, {a.name}, {table}, RESULT);',
    )

  def _pool(self, node, given):
    a = given['a']
    _require(a.rows == 'n', f'{node.output!r} is no pool of nodes')
    largest = node.op == 'pool_max'
    if not largest:
      most = self._program.bounds[node.output] // max(a.bound, 1)
      self._together = min(self._together, most)
    call = f'lorap_pool(&graph, {a.name}, RESULT, {int(largest)});'
    return 'g', a.width, False, call

  def _pool_share(self, node, given):
    del node, given
    return 'g', 1, True, 'lorap_pool_share(&graph, RESULT);'

  def _degrees(self, node, given):
    del given
    self._degree = min(self._degree, self._program.bounds[node.output])
    return 'n', 1, False, 'lorap_degrees(&graph, RESULT);'

  def _add_loops(self, node, given):
    del given
    keep = node.options.get('keep', 0)
    return 'n', 1, False, f'lorap_add_loops(&graph, RESULT, {keep});'

  def _edge_norm(self, node, given):
    row = given['row']
    _require(row.rows == 'n', f'{node.output!r} is no norm of nodes')
    return 'e', 1, True, f'lorap_edge_norm(&graph, {row.name}, RESULT);'

  def _loop_norm(self, node, given):
    a, row = given['a'], given['row']
    self._same_rows(node, a, row, width=a.width)
    call = f'lorap_loop_norm({a.rows}, {row.name}, {a.name}, RESULT);'
    return a.rows, 1, True, call

  def _quotient(self, node, given):
    a, b = given['a'], given['b']
    self._same_rows(node, a, b, width=1)
    self._same_rows(node, b, a, width=1)
    maker = self._maker(node, 'b')
    _require(
      maker.op == 'lookup' and int(np.min(maker.constants['table'])) > 0,
      f'{node.output!r} may divide by 0',
    )
    call = f'lorap_quotient({a.rows}, {a.name}, {b.name}, RESULT);'
    return a.rows, 1, True, call

  def _soften(self, node, given):
    a, table = given['a'], np.asarray(node.constants['table'])
    share = node.options['share']
    largest = _largest(table) * max(a.width, share)
    _require(
      int(table.min()) >= 0
      and int(table[0]) > 0
      and largest <= INT32
      and 2 * a.bound <= INT32
      and share <= EXACT,
      f'{node.output!r} has powers or logits that overflow',
    )
    call = (
      f'lorap_soften({a.rows}, {a.name}, {self._tables.value(table)}, RESULT, '
      f'{share});'
    )
    return a.rows, a.width, False, call


_CALLS: Mapping[str, Callable[..., tuple[str, int, bool, str]]] = {
  'fix': _Writer._fix,
  'scale': _Writer._scale,
  'product': _Writer._product,
  'sum_edges': _Writer._sum_edges,
  'weigh': _Writer._weigh,
  'meet': _Writer._meet,
  'max_into': _Writer._max_into,
  'sum_into': _Writer._sum_into,
  'powers': _Writer._powers,
  'shares': _Writer._shares,
  'add': _Writer._add,
  'relu': _Writer._each,
  'row_max': _Writer._each,
  'row_index': _Writer._row_index,
  'search': _Writer._search,
  'nearest': _Writer._search,
  'quotient': _Writer._quotient,
  'lookup': _Writer._lookup,
  'pool_sum': _Writer._pool,
  'pool_max': _Writer._pool,
  'pool_share': _Writer._pool_share,
  'degrees': _Writer._degrees,
  'add_loops': _Writer._add_loops,
  'edge_norm': _Writer._edge_norm,
  'loop_norm': _Writer._loop_norm,
  'soften': _Writer._soften,
}
