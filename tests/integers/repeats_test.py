"""Layers of a program that are alike, and what makes them unlike."""

import dataclasses

import numpy as np
import pytest

from lorap_jax.integers import program as program_lib
from lorap_jax.integers import repeats
from lorap_jax.integers.builder import Builder, Wide
from lorap_jax.integers.program import Graph

WIDTH = 3


def layered(count=3, *, tables=(4, 4, 4), read=None, high=100):
  """Layers of a nearest group, its range, a product and two more."""
  rng = np.random.default_rng(0)
  b = Builder(max_degree=4, max_nodes=9)
  x = b.add(
    'fix',
    'x',
    {'x': 'nodes'},
    {'factor': np.float32(9)},
    bound=50,
    low=-50,
    high=50,
  )
  for k in range(count):
    reach = np.arange(1, 1 + tables[k]) * 10.0
    size = b.add('row_max', f'size_{k}', {'a': x}, bound=100)
    group = b.add(
      'nearest',
      f'group_{k}',
      {'a': size},
      {'reach': reach.astype(np.float32)},
      bound=9,
    )
    range_ = b.add(
      'lookup',
      f'range_{k}',
      {'a': group},
      {'table': (100 / reach).astype(np.float32)},
    )
    total = b.add(
      'product',
      f'total_{k}',
      {'a': x},
      {'weight': rng.integers(-3, 4, (WIDTH, WIDTH)).astype(np.int8)},
      bound=900,
    )
    x = b.add(
      'scale',
      f'layer_{k}',
      {'a': total, 'row': range_},
      {'factor': np.float32(0.1 + k)},
      bound=100,
      low=-100,
      high=high if k == count - 1 else 100,
    )
  if read is not None:
    x = b.add('add', 'last', {'a': x, 'b': read}, bound=200)
  value = Wide(x, 1.0, 200, WIDTH)
  return b.program(value, per_graph=False, num_features=WIDTH)


def test_layers_are_found():
  found = repeats.find(layered())
  assert (found.start, found.stop, found.given) == (1, 16, 'x')
  assert [block[found.result].output for block in found.blocks] == [
    'layer_0',
    'layer_1',
    'layer_2',
  ]


def test_tables_are_padded_by_what_changes_nothing():
  program = layered(tables=(4, 6, 5))
  found = repeats.find(program)
  padded = [node for block in found.blocks for node in block]
  lengths = {
    len(node.constants[key])
    for node in padded
    for key in ('reach', 'table')
    if key in node.constants
  }
  assert lengths == {6}
  nodes = (*program.nodes[:1], *padded, *program.nodes[found.stop :])
  other = dataclasses.replace(program, nodes=nodes)
  rng = np.random.default_rng(1)
  none = np.zeros(0, np.int32)
  rows = rng.normal(0, 9, (200, WIDTH)).astype(np.float32)
  graph = Graph(rows, none, none, np.zeros(200, np.int32), 1)
  np.testing.assert_array_equal(
    program_lib.execute(other, graph), program_lib.execute(program, graph)
  )


def test_what_follows_may_read_the_first_value_and_the_last():
  assert repeats.find(layered(read='x')) is not None
  assert repeats.find(layered(read='layer_2')) is not None


@pytest.mark.parametrize(
  'name, layers',
  [('layer_1', 2), ('total_0', 2), ('group_2', 2), ('range_1', 0)],
)
def test_a_value_inside_is_read_elsewhere(name, layers):
  """Then its layer is not among them, or the last."""
  found = repeats.find(layered(read=name))
  assert (len(found.blocks) if found else 0) == layers


def test_limits_that_no_value_reaches_may_differ():
  free = layered(high=900_000)
  found = repeats.find(free)
  assert len(found.blocks) == 2  # The others reach theirs.
  nodes = [
    dataclasses.replace(node, options={'low': -10_000 - k, 'high': 9_000 + k})
    if node.op == 'scale'
    else node
    for k, node in enumerate(free.nodes)
  ]
  found = repeats.find(dataclasses.replace(free, nodes=tuple(nodes)))
  assert len(found.blocks) == 3
  assert {block[found.result].options['high'] for block in found.blocks} == {
    9_000 + 15
  }


def test_layers_of_other_options_are_left_out():
  found = repeats.find(layered(high=99))
  assert len(found.blocks) == 2 and found.stop == 11


def test_one_layer_is_no_repetition():
  assert repeats.find(layered(count=1)) is None
