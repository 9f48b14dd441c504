"""Layers of a program that are alike: their operations, not their constants."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from lorap_jax.integers.program import Node, Program

_TABLES = ('nearest', 'lookup')  # May be padded by their last entry.
_LIMITS = ('low', 'high')


@dataclasses.dataclass(frozen=True)
class Repeat:
  """Blocks of nodes that follow each other and do the same.

  Attributes:
    start: number of the first node.
    blocks: the nodes of each; tables of one place are equally long.
    given: the value that the first block reads; the others read the result of
      the block before.
    result: number of a block's node that has it.
  """

  start: int
  blocks: tuple[tuple[Node, ...], ...]
  given: str
  result: int

  @property
  def stop(self) -> int:
    """Number of the node behind them."""
    return self.start + len(self.blocks) * len(self.blocks[0])


def find(program: Program) -> Repeat | None:
  """The repetition that has most nodes behind its first block.

  Blocks are alike in their operations, options and shapes of constants. Each
  reads of the others one value of the block before, and what follows reads that
  of the last block alone. Tables may differ in length, and so may limits that
  no value reaches.

  Args:
    program: any.

  Returns:
    It, or None.
  """
  found = [
    (count * period - period, -start, period, count)
    for start, period, count in _alike([_kind(n) for n in program.nodes])
  ]
  for _, start, period, count in sorted(found, reverse=True):
    repeat = _wired(program, -start, period, count)
    if repeat is not None:
      return repeat
  return None


def _kind(node: Node) -> object:
  """What blocks have in common, but for the limits of a rounding."""
  table = node.op in _TABLES
  shape = lambda array: 'table' if table and array.ndim == 1 else array.shape
  constants = {k: np.asarray(v) for k, v in node.constants.items()}
  return (
    node.op,
    tuple(node.inputs),
    tuple(
      sorted(item for item in node.options.items() if item[0] not in _LIMITS)
    ),
    tuple((k, shape(v), v.dtype.kind) for k, v in constants.items()),
  )


def _is_free(node: Node, bounds: Mapping[str, int]) -> bool:
  """Whether wider limits of a rounding would change nothing."""
  if node.op != 'scale':
    return False
  limit = min(node.options['high'], -node.options['low'])
  if 'limit' in node.inputs:  # It cuts off at the row's own.
    return bounds[node.inputs['limit']] <= limit
  if bounds[node.output] < limit:
    return True
  if 'row' in node.inputs:
    return False
  largest = lambda name: np.max(np.abs(node.constants.get(name, 0)))
  factor = np.float32(largest('factor'))
  reach = np.rint(np.float32(bounds[node.inputs['a']]) * factor)
  return bool(reach + largest('bias') <= limit)


def _alike(kinds: list[object]) -> Iterator[tuple[int, int, int]]:
  """Start, length and number of the blocks of runs that repeat."""
  for period in range(1, len(kinds) // 2 + 1):
    run = 0
    for i in range(len(kinds) - period, -1, -1):
      same = i < len(kinds) - period and kinds[i] == kinds[i + period]
      run = run + 1 if same else 0
      for count in range(2, run // period + 2):
        yield i, period, count


def _wired(
  program: Program, start: int, period: int, count: int
) -> Repeat | None:
  """The repetition, if its values go from block to block as they have to."""
  stop = start + period * count
  place = {
    node.output: divmod(i, period)
    for i, node in enumerate(program.nodes[start:stop])
  }
  nodes = program.nodes[start:stop]
  blocks = [nodes[k * period :][:period] for k in range(count)]
  carried = set()
  for alike in zip(*blocks, strict=True):
    for key in alike[0].inputs:
      names = [node.inputs[key] for node in alike]
      at = [place.get(name) for name in names]
      second = at[1]
      if second is None:  # Of no block: the same for all.
        if set(names) != {names[0]}:
          return None
      elif second[0]:  # Of the block itself.
        if at != [(k, second[1]) for k in range(count)]:
          return None
      else:  # Of the block before.
        if at != [None, *((k, second[1]) for k in range(count - 1))]:
          return None
        carried.add((names[0], second[1]))
  if len(carried) != 1:
    return None
  given, result = carried.pop()
  after = {program.output}.union(
    *(node.inputs.values() for node in program.nodes[stop:])
  )
  if any(place[x] != (count - 1, result) for x in after if x in place):
    return None
  levelled = _levelled(blocks, program.bounds)
  if levelled is None:
    return None
  return Repeat(start, levelled, given, result)


def _levelled(
  blocks: list[tuple[Node, ...]], bounds: Mapping[str, int]
) -> tuple[tuple[Node, ...], ...] | None:
  """Blocks with the longest tables and the widest limits of their place.

  None where limits that some value reaches are not the widest.
  """
  places = []
  for alike in zip(*blocks, strict=True):
    given = [
      # Copies, that no place has the array of another.
      {k: np.array(v) for k, v in node.constants.items()}
      for node in alike
    ]
    if alike[0].op in _TABLES:
      for key, array in given[0].items():
        if array.ndim == 1:
          length = max(len(constants[key]) for constants in given)
          for constants in given:
            more = length - len(constants[key])
            constants[key] = np.pad(constants[key], (0, more), mode='edge')
    options = dict(alike[0].options)
    if 'low' in options:
      options['low'] = min(node.options['low'] for node in alike)
      options['high'] = max(node.options['high'] for node in alike)
    for node in alike:
      if dict(node.options) != options and not _is_free(node, bounds):
        return None
    places.append(
      [
        dataclasses.replace(node, constants=constants, options=options)
        for node, constants in zip(alike, given, strict=True)
      ]
    )
  return tuple(zip(*places, strict=True))
