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
import re

import numpy as np

from lorap_jax.integers import c_arena, c_ops, c_strips
from lorap_jax.integers.c_tables import (
  ENGINE,
  Tables,
  constant,
  number,
  require,
  size,
  wrapped,
)
from lorap_jax.integers.program import INT32, Node, Program, num_types


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


class _Writer:
  """Text of one program."""

  def __init__(
    self, program: Program, name: str, most: dict[str, int], *, narrow: bool
  ):
    self.program, self._name, self.most = program, name, most
    self._narrow = narrow
    self.tables = Tables(name)
    self.nodes = c_strips.order(
      _joined(_used(program), program.output), program.output
    )
    self.degree = self.together = INT32
    self._values = {
      'nodes': c_arena.Value(
        'nodes', 'n', program.num_features, 4, None, 'nodes'
      )
    }
    self._calls: list[str] = []
    for i, node in enumerate(self.nodes):
      self._call(i, node)
    self._loops = c_strips.loops(self.nodes, self._values)
    self._passing = c_strips.passing(self.nodes, self._loops, program.output)
    result = self._values.get(program.output)
    if result is None or result.bound is None or result.maker == 'nodes':
      raise ValueError(f'the result {program.output!r} is no whole numbers')
    require(
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
      require(
        real == (value.bound is None),
        f'{node.op} {node.output!r}: {key} is of another type',
      )
    rows, width, real, call = c_ops.OPERATIONS[node.op](self, node, given)
    bound = None if real else self.program.bounds[node.output]
    small = self._narrow and not real and node.output != self.program.output
    bytes_each = size(self.program.bounds[node.output]) if small else 4
    require(width > 0, f'{node.output!r} has no columns')
    name = f'v{i}'
    self._values[node.output] = c_arena.Value(
      name, rows, width, bytes_each, bound, node.op
    )
    self._calls.append(call.replace('RESULT', name))

  def _arrange(self) -> int:
    """Gives each value its place; returns the size of the arena."""
    strip = constant('LORAP_STRIP')
    loop_of = {
      i: loop for loop in self._loops for i in range(loop.first, loop.last + 1)
    }

    def rows(name: str) -> int:
      most = self.most[self._values[name].rows]
      return min(most, strip) if name in self._passing else most

    def needed(name: str, i: int) -> tuple[int, int]:
      loop = loop_of[i]
      return (i, i) if name in self._passing else (loop.first, loop.last)

    total = c_arena.arrange(
      self.nodes, self._values, rows, needed, self._result
    )
    if self.degree < self.most['e']:
      total = max(total, 4 * self.most['n'])  # Degrees are counted there.
    require(total <= INT32, f'an arena of {total} bytes takes too much')
    return max(total, 1)

  def text(self) -> str:
    """The header."""
    upper = self._name.upper()
    scale = np.asarray(self.program.output_scale, np.float32).reshape(-1)
    scale = np.broadcast_to(scale, (self._result.width,))
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
      *self._defined(upper),
      '/* What a unit of each output is worth. */',
      f'extern const float {self._name}_scale[{upper}_OUTPUTS];',
      '/* Returns LORAP_OK, or an error, which leaves `out` as it was.',
      f' * `out` is [{self._result.rows}, {upper}_OUTPUTS]. */',
      *signature[:-1],
      f'{signature[-1]};',
      '#endif',
      '',
      f'#ifdef {upper}_IMPLEMENTATION',
      *self.tables.lines,
      f'const float {self._name}_scale[{upper}_OUTPUTS] = {{',
      *wrapped([number(x) for x in scale]),
      '};',
      '',
      *signature,
      *self._body(),
      f'#endif /* {upper}_IMPLEMENTATION */',
      '',
    ]
    return '\n'.join(lines)

  def _defined(self, upper: str) -> list[str]:
    """The sizes that a caller needs."""
    defined = {
      'FEATURES': self.program.num_features,
      'OUTPUTS': self._result.width,
      'PER_GRAPH': int(self.program.per_graph),
      'MAX_NODES': self.most['n'],
      'MAX_EDGES': self.most['e'],
      'MAX_GRAPHS': self.most['g'],
      'MAX_ROWS': self.most[self._result.rows],
      'ARENA_BYTES': self._bytes,
      'TABLE_BYTES': self.tables.bytes,
    }
    return [f'#define {upper}_{key} {value}' for key, value in defined.items()]

  def _body(self) -> list[str]:
    """What the run does."""
    limit = lambda value, least: value if value < least else -1
    numbers = (
      self.most['n'],
      self.most['e'],
      self.most['g'],
      self.program.num_features,
      num_types(self.program) or 0,
      limit(self.degree, self.most['e']),
      limit(self.together, self.most['n']),
      self._bytes,
    )
    limits = ', '.join(str(x) for x in numbers)
    return [
      '{',
      f'  static const lorap_limits limits = {{{limits}}};',
      '  const lorap_graph graph = {senders, receivers, graph_of, n, e, g};',
      *(['  int first, rows;'] if any(x.rows for x in self._loops) else []),
      *(f'  {self._values[node.output].declaration()}' for node in self.nodes),
      '  const int error = lorap_check(&limits, nodes, &graph, arena,',
      '                                arena_bytes);',
      '  if (error) return error;',
      *(line for loop in self._loops for line in self._loop(loop)),
      '  return LORAP_OK;',
      '}',
    ]

  def _loop(self, loop: c_strips.Loop) -> list[str]:
    """The calls of a loop, for a strip of rows at a time."""
    lines = []
    for i in range(loop.first, loop.last + 1):
      name = re.sub('[^A-Za-z0-9_/ -]', '_', self.nodes[i].output)
      call = self._calls[i]
      if loop.rows is not None:
        call = re.sub(r'\b\w+\b', lambda m: self._strip(loop, m[0]), call)
        call = call.replace('FIRST', 'first').replace('ROWS', 'rows')
      lines += [f'  /* {name} */', f'  {call}']
    if loop.rows is None:
      return lines
    return [
      '  first = 0;',
      '  do {',
      f'    rows = lorap_some((size_t)({loop.rows} - first), LORAP_STRIP);',
      *(f'  {line}' for line in lines),
      '    first += rows;',
      f'  }} while (first < {loop.rows});',
    ]

  def _strip(self, loop: c_strips.Loop, word: str) -> str:
    """The rows that a loop is at, if a word of a call is one of more."""
    name = next((k for k, v in self._values.items() if v.name == word), None)
    if name is None or name in self._passing:
      return word
    value = self._values[name]
    if value.rows != loop.rows:
      return word  # Of a pool.
    if value.maker == 'nodes':
      return f'{word} + (size_t)first * {value.width}'
    if value.bound is None:
      return f'{word} + (size_t)first * {value.width} * sizeof(float)'
    return f'lorap_from({word}, first)'
