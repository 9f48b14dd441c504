"""Where the values of an integer program lie in the arena of its C code."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from lorap_jax.integers.program import Node

# Each row or block is read before it is written, in order: the result may lie
# where an argument lay.
_IN_PLACE = ('fix', 'scale', 'weigh', 'add', 'relu')


@dataclasses.dataclass
class Value:
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
    """The variable that stands for it in C."""
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


def arrange(
  nodes: Sequence[Node],
  values: Mapping[str, Value],
  rows: Callable[[str], int],
  needed: Callable[[str, int], tuple[int, int]],
  result: Value,
) -> int:
  """Gives each value its place; returns the bytes of all.

  Args:
    nodes: the operations.
    values: their results by name.
    rows: how many rows of a value are there at a time.
    needed: the first and the last operation that runs while the rows that are
      there of a value, which an operation uses, are to stay.
    result: the value that has its own place.
  """
  # A result in the place of a wider one holds all of that: better or worse.
  tries = [
    _spans(nodes, values, rows, needed, result, some) for some in (False, True)
  ]
  sizes = [_place(list({id(s): s for s in t.values()}.values())) for t in tries]
  total = min(sizes)
  for name, span in tries[sizes.index(total)].items():
    values[name].at = f'(unsigned char *)arena + {span.offset}'
  result.at = 'out'
  return total


def _spans(nodes, values, rows, needed, result, narrower) -> dict[str, _Span]:
  """How long each value is needed; those in one place share a span.

  With `narrower` a result of fewer bytes may take the place of an argument.
  """
  last = {v: i for i, node in enumerate(nodes) for v in node.inputs.values()}
  spans: dict[str, _Span] = {}
  for i, node in enumerate(nodes):
    value = values[node.output]
    if value is result:
      continue
    start, _ = needed(node.output, i)
    _, end = needed(node.output, last[node.output])
    for old in node.inputs.values() if node.op in _IN_PLACE else ():
      was = values[old]
      fits = (rows(old), was.width) == (rows(node.output), value.width) and (
        was.size == value.size or (narrower and was.size > value.size)
      )
      if old in spans and last[old] == i and fits:
        spans[node.output] = spans[old]
        spans[old].last = max(spans[old].last, end)
        break
    else:
      numbers = rows(node.output) * value.width
      size = -(-numbers * value.size // 4) * 4
      spans[node.output] = _Span(size, start, end)
  return spans


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
