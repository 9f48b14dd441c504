"""Which operations of an integer program run together, a few rows at a time.

A row of most operations needs that row of their arguments alone. So a run of
such operations is one loop over strips of rows: what nothing else reads then
takes a strip of the arena, not all rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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


def order(nodes: Sequence[Node], output: str) -> list[Node]:
  """What depends on edges alone comes first, and equal operations of it once.

  Degrees, norms and what follows from them have a column or a few. In between
  they would break a loop, and all rows of what passes there would be kept.

  Args:
    nodes: of a program, in an order of their execution.
    output: the result, which stays what it is.
  """
  of_edges: list[Node] = []
  rest: list[Node] = []
  seen: dict[Any, str] = {}
  same: dict[str, str] = {}
  depends = {'nodes'}
  for node in nodes:
    inputs = {key: same.get(name, name) for key, name in node.inputs.items()}
    node = dataclasses.replace(node, inputs=inputs)
    if depends.intersection(inputs.values()):
      depends.add(node.output)
      rest.append(node)
      continue
    constants = [(k, np.asarray(v)) for k, v in node.constants.items()]
    key = (
      node.op,
      tuple(inputs.items()),
      tuple((k, str(v.dtype), v.shape, v.tobytes()) for k, v in constants),
      tuple(node.options.items()),
    )
    first = seen.setdefault(key, node.output)
    if node.output in (first, output):
      of_edges.append(node)
    else:
      same[node.output] = first
  return of_edges + rest


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
