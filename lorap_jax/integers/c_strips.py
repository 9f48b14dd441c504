"""Which operations of an integer program run together, a few rows at a time.

A row of most operations needs that row of their arguments alone. So a run of
such operations is one loop over strips of rows: what nothing else reads then
takes a strip of the arena, not all rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from lorap_jax.integers.c_arena import Value
from lorap_jax.integers.program import Node

_BY_ROW = frozenset(
  (
    'fix',
    'scale',
    'product',
    'weigh',
    'add',
    'relu',
    'row_max',
    'row_index',
    'search',
    'nearest',
    'quotient',
    'lookup',
    'loop_norm',
    'soften',
  )
)
_POOLS = ('pool_sum', 'pool_max')  # They take rows in order, to other rows.


@dataclasses.dataclass(frozen=True)
class Loop:
  """Operations `first` to `last` of a program, over the same rows.

  Attributes:
    rows: `n`, `e` or `g`; None for a single operation that takes all rows.
    first: the first operation.
    last: the last one.
  """

  rows: str | None
  first: int
  last: int


def loops(nodes: Sequence[Node], values: Mapping[str, Value]) -> list[Loop]:
  """The loops of a program, in order."""
  found: list[Loop] = []
  for i, node in enumerate(nodes):
    rows = 'n' if node.op in _POOLS else values[node.output].rows
    alone = node.op not in (*_BY_ROW, *_POOLS)
    if not alone and found and found[-1].rows == rows:
      found[-1] = dataclasses.replace(found[-1], last=i)
    else:
      found.append(Loop(None if alone else rows, i, i))
  return found


def passing(
  nodes: Sequence[Node], found: Sequence[Loop], output: str
) -> set[str]:
  """The values that only the loop that makes them reads."""
  loop_of = {
    i: loop for loop in found for i in range(loop.first, loop.last + 1)
  }
  made = {
    node.output: loop_of[i]
    for i, node in enumerate(nodes)
    if node.op in _BY_ROW
  }
  read = {
    name
    for i, node in enumerate(nodes)
    for name in node.inputs.values()
    if made.get(name) is not loop_of[i]
  }
  return set(made) - read - {output}
