"""Tests of the text format, against sets of plain tuples."""

import numpy as np
import pytest

from lorap_jax.data import tu_text
from lorap_jax.data.store import DataError

# Graphs with 3, 1 and 2 nodes. Edge 2-3 is there twice, 1-2 in one direction
# only, node 1 has a self loop.
TEXTS = {
  'A': b'1, 2\n2, 3\n3, 2\n2,3\n1, 1\n 6, 5\n5,6\n',
  'graph_indicator': b'1\n1\n1\n2\n3\n3\n',
  'graph_labels': b'5\n-1\n5\n',
  'node_labels': b'2\n4\n2\n2\n2\n4\n',
  'node_attributes': b'0.5, 1\n1, 2\n1.5, 3\n2, 4\n2.5, 5\n3e0, 6\n',
}


def edges_of(graphs):
  """The edges of each graph, as a sorted list of pairs."""
  ends = np.cumsum(graphs.n_edge)
  pairs = list(
    zip(graphs.senders.tolist(), graphs.receivers.tolist(), strict=True)
  )
  return [
    sorted(pairs[end - count : end])
    for end, count in zip(ends, graphs.n_edge, strict=True)
  ]


def test_parse():
  graphs = tu_text.parse(TEXTS, 'mine')
  assert graphs.n_node.tolist() == [3, 1, 2]
  assert edges_of(graphs) == [
    [(0, 1), (1, 0), (1, 2), (2, 1)],
    [],
    [(0, 1), (1, 0)],
  ]
  assert graphs.labels.tolist() == [1, 0, 1]
  assert graphs.node_labels.tolist() == [[2], [4], [2], [2], [2], [4]]
  assert graphs.node_attributes[:, 0].tolist() == [0.5, 1, 1.5, 2, 2.5, 3]
  types = [array.dtype.name for array in graphs]
  assert types == 'int32 int32 uint16 uint16 int32 int32 float32'.split()


def test_optional_files_may_be_missing():
  texts = {key: TEXTS[key] for key in tu_text.REQUIRED}
  graphs = tu_text.parse(texts, 'mine')
  assert graphs.node_labels.shape == graphs.node_attributes.shape == (6, 0)


def test_random_graphs_against_sets():
  rng = np.random.default_rng(0)
  graph = np.sort(np.append(rng.integers(0, 20, 180), np.arange(20)))
  a, b = rng.integers(0, 200, (2, 4000))
  inside = graph[a] == graph[b]
  a, b = a[inside], b[inside]
  expected = [set() for _ in range(20)]
  first = np.searchsorted(graph, np.arange(20))
  for u, v in zip(a.tolist(), b.tolist(), strict=True):
    if u != v:
      start = int(first[graph[u]])
      expected[graph[u]] |= {(u - start, v - start), (v - start, u - start)}
  texts = {
    'A': '\n'.join(
      f'{u + 1}, {v + 1}' for u, v in zip(a, b, strict=True)
    ).encode(),
    'graph_indicator': '\n'.join(str(g + 1) for g in graph).encode(),
    'graph_labels': b'1\n' * 20,
  }
  found = edges_of(tu_text.parse(texts, 'mine'))
  assert found == [sorted(edges) for edges in expected]
  assert sum(map(len, found)) > 100


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'graph_labels': None}, 'graph_labels.txt is missing'),
    ({'A': b'1, 2\n2, x\n'}, "mine, A: .*' x' to int64 at row 1, column 2.$"),
    ({'A': b'1, 2\n2\n'}, 'mine, A: the number of columns changed'),
    ({'A': b'1, 2.5\n'}, 'mine, A: could not convert'),
    ({'A': b' \n'}, 'mine, A: the file is empty'),
    ({'A': b'1, 2, 3\n'}, '3 numbers per line, not 2'),
    ({'A': b'1, 7\n'}, 'an edge names node 7; there are 6'),
    ({'A': b'0, 1\n'}, 'an edge names node 0; there are 6'),
    ({'A': b'1, 2\n3, 4\n'}, 'edge 2 joins graphs 1 and 2'),
    ({'graph_indicator': b'1\n1\n2\n1\n3\n3\n'}, 'not in ascending order'),
    ({'graph_indicator': b'0\n1\n1\n2\n3\n3\n'}, 'not in ascending order'),
    ({'graph_indicator': b'1\n1\n1\n2\n3\n4\n'}, 'from 1 to 3'),
    ({'graph_indicator': b'1\n1\n1\n3\n3\n3\n'}, 'graph 2 has no nodes'),
    ({'node_labels': b'1\n' * 5}, 'node_labels has 5 rows; there are 6'),
    ({'node_attributes': b'1\n' * 7}, 'node_attributes has 7 rows'),
  ],
)
def test_bad_files_are_named(changes, reason):
  texts = {k: v for k, v in {**TEXTS, **changes}.items() if v is not None}
  with pytest.raises(DataError, match=reason):
    tu_text.parse(texts, 'mine')


def test_graphs_too_large_for_their_ids_are_refused():
  with pytest.raises(DataError, match='graph 2 has over 65536 nodes'):
    tu_text.assemble(
      'mine',
      n_node=np.array([1, 65537]),
      senders=np.zeros(0, int),
      receivers=np.zeros(0, int),
      labels=np.array([0, 1]),
    )
