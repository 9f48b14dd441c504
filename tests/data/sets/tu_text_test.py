"""Tests of the text format, against sets of plain tuples."""

import numpy as np
import pytest

from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import tu_text

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


@pytest.mark.parametrize(
  'change',
  [
    lambda text: b'\xef\xbb\xbf' + text,
    lambda text: text.replace(b'\n', b',\n'),
    lambda text: text.replace(b'\n', b' , \r\n'),
    lambda text: text + b'\n \n',
    lambda text: text.rstrip(),
  ],
  ids='mark comma blanks empty_line no_end'.split(),
)
@pytest.mark.parametrize('key', list(TEXTS))
def test_harmless_forms_hold_the_same(key, change):
  found = tu_text.parse({**TEXTS, key: change(TEXTS[key])}, 'mine')
  for a, b in zip(found, tu_text.parse(TEXTS, 'mine'), strict=True):
    np.testing.assert_array_equal(a, b)


def test_integers_may_have_a_decimal_point():
  texts = {**TEXTS, 'graph_labels': b'5.0\n-1.\n5\n'}
  assert tu_text.parse(texts, 'mine').labels.tolist() == [1, 0, 1]


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
    ({'A': b'1, 2\n2, x\n'}, "mine, A: line 2: 'x' is not a number.$"),
    ({'A': b'1, 2\n2\n'}, 'mine, A: line 2: 1 columns, expected 2'),
    ({'A': b'1, 2.5\n'}, 'mine, A: row 1 has 2.5, which is no integer'),
    ({'A': b' \n'}, 'mine, A: it is empty'),
    ({'A': b'1, 2, 3\n'}, 'A: line 1: 3 columns, expected 2'),
    ({'graph_labels': b'5, 0\n5, 1\n-1, 0\n'}, 'graph_labels: line 1: 2 col'),
    ({'graph_labels': b'5\n5, 1\n-1\n'}, 'graph_labels: line 2: 2 columns'),
    ({'graph_labels': b'5\n0.5\n-1\n'}, 'labels: row 2 has 0.5, which is no'),
    ({'graph_labels': b'5\nnan\n-1\n'}, 'labels: row 2 has nan, which is no'),
    ({'graph_labels': b'5\n\xff\n-1\n'}, 'labels: line 2: .* is not a number'),
    ({'graph_indicator': b'1,1\n' * 6}, 'graph_indicator: line 1: 2 columns'),
    ({'node_labels': b'1\n' * 5 + b'1e10\n'}, 'labels, row 6: .*32-bit'),
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
