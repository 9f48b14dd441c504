"""Tests of the user's own data."""

import json

import numpy as np
import pytest

from lorap_jax.data import custom, store
from lorap_jax.data.store import DataError

GRAPHS = {
  'nodes': np.arange(14.0).reshape(7, 2),
  'senders': np.array([0, 1, 0, 1, 2]),
  'receivers': np.array([1, 0, 1, 2, 0]),
  'n_node': np.array([2, 1, 3, 1]),
  'n_edge': np.array([2, 0, 3, 0]),
  'labels': np.array([1, 0, 2, 0]),
  'split': np.array([0, 0, 1, 2], np.uint8),
}
NODES = {
  'nodes': np.arange(8).reshape(4, 2),
  'senders': np.array([0, 1, 2]),
  'receivers': np.array([1, 0, 1]),
  'labels': np.array([0, 1, 1, -1]),
  'train_mask': np.array([True, False, False, False]),
  'valid_mask': np.array([False, True, False, False]),
  'test_mask': np.array([False, False, True, False]),
}


def saved(folder, arrays, **changes):
  arrays = {**arrays, **changes}
  path = folder / 'mine.npz'
  np.savez(path, **{k: a for k, a in arrays.items() if a is not None})
  return path


def same(left, right):
  return all(
    a.dtype == b.dtype and np.array_equal(a, b)
    for a, b in zip(left, right, strict=True)
  )


def test_graph_splits():
  data = custom.graph_splits(**GRAPHS)
  for part in (data.train, data.valid, data.test):
    part.check()
  assert data.train.nodes.tolist() == [[0, 1], [2, 3], [4, 5]]
  assert data.train.senders.tolist() == [0, 1]
  assert data.valid.receivers.tolist() == [1, 2, 0]
  assert data.test.n_node.tolist() == [1]
  assert data.train.labels.tolist() == [1, 0] and data.num_classes == 3
  assert custom.graph_splits(**GRAPHS, num_classes=5).num_classes == 5


def test_plain_lists_will_do():
  lists = {name: array.tolist() for name, array in GRAPHS.items()}
  found, wanted = custom.graph_splits(**lists), custom.graph_splits(**GRAPHS)
  assert same(found.train, wanted.train) and same(found.test, wanted.test)
  edgeless = {**lists, 'senders': [], 'receivers': [], 'n_edge': [0] * 4}
  assert not custom.graph_splits(**edgeless).train.senders.size


def test_numbers_make_a_regression():
  numbers = np.array([0.5, -1, 2, 0])
  data = custom.graph_splits(**{**GRAPHS, 'labels': numbers})
  assert data.num_classes == 1
  assert data.train.labels.dtype == np.float32
  assert data.train.labels.tolist() == [0.5, -1]
  with pytest.raises(DataError, match='num_classes is 2; expected 1 for regr'):
    custom.graph_splits(**{**GRAPHS, 'labels': numbers}, num_classes=2)


def test_node_dataset():
  data = custom.node_dataset(**NODES)
  data.check()
  assert data.nodes.dtype == np.float32 and data.senders.dtype == np.int32
  assert data.labels.tolist() == [0, 1, 1, -1] and data.num_classes == 2
  assert data.source['counts'] == {'train': 1, 'valid': 1, 'test': 1}
  assert custom.node_dataset(**NODES, num_classes=7).num_classes == 7


@pytest.mark.parametrize('num_classes', [None, 4])
def test_files_hold_the_same(tmp_path, num_classes):
  count = None if num_classes is None else np.array(num_classes)
  path = saved(tmp_path, GRAPHS, num_classes=count)
  graphs = custom.load_custom(path)
  assert same(graphs.valid, custom.graph_splits(**GRAPHS).valid)
  assert graphs.num_classes == (num_classes or 3)
  path = saved(tmp_path, NODES, num_classes=count)
  nodes = custom.load_custom(str(path))
  assert same(nodes[:7], custom.node_dataset(**NODES)[:7])
  assert nodes.num_classes == (num_classes or 2)


def test_the_record(tmp_path):
  path = saved(tmp_path, GRAPHS)
  source = json.loads(json.dumps(custom.load_custom(path).source))
  assert source['name'] == 'mine' and source['origin'] == 'file'
  digest = store.content_digest(path.read_bytes())
  assert source['sha256'] == {'mine.npz': digest}
  assert source['counts'] == {'train': 2, 'valid': 1, 'test': 1}
  assert not source['comparable'] and not source['subset']


def test_arrays_are_told_apart_by_their_digest():
  one = custom.graph_splits(**GRAPHS, name='one').source
  other = {**GRAPHS, 'split': GRAPHS['split'][::-1]}
  assert one['name'] == 'one' and one['origin'] == 'arrays'
  assert one['sha256'] == custom.graph_splits(**GRAPHS).source['sha256']
  assert one['sha256'] != custom.graph_splits(**other).source['sha256']


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'nodes': np.zeros(7)}, 'nodes is float64 with 1 axes; expected numbers'),
    ({'nodes': np.full((7, 2), 'a')}, 'nodes is <U1 with 2 axes'),
    ({'nodes': np.full((7, 2), 1e60)}, 'graph 0 has a feature that is not fin'),
    ({'nodes': np.zeros((6, 2))}, 'nodes has 6 rows'),
    ({'senders': np.zeros(5)}, 'senders is float64.*expected integers with 1'),
    ({'senders': np.full(5, 70000)}, 'senders holds 70000, outside 0 to 65535'),
    ({'senders': np.full(5, -1)}, 'senders holds -1, outside'),
    ({'senders': np.full(5, 2)}, 'graph 0 has an edge whose senders id'),
    ({'n_node': np.array([2, 1, 4, 0])}, 'graph 3 has no nodes'),
    ({'labels': np.array([0, 0, -1, 0])}, 'graph 2 has a negative label'),
    (
      {'labels': np.array([0, 0, np.nan, 0])},
      'graph 2 has a label that is not',
    ),
    ({'labels': np.zeros(3, int)}, 'labels has 3 entries for 4 graphs'),
    ({'split': np.array([0, 1, 2])}, 'split must be 4 numbers'),
    (
      {'split': np.array([0, 1, 2, 3])},
      'split must be 4 numbers, one per graph, of 0',
    ),
    ({'split': np.array([0, 1, 1, 0])}, 'the test split is empty'),
    ({'num_classes': 2}, 'num_classes is 2; expected 3 or more'),
  ],
)
def test_bad_graph_arrays_are_named(change, reason):
  with pytest.raises(DataError, match=f'custom: {reason}'):
    custom.graph_splits(**{**GRAPHS, **change})


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'train_mask': np.zeros(4, int)}, 'train_mask is int64.*booleans with 1'),
    ({'train_mask': np.zeros(4, bool)}, 'the train split is empty'),
    ({'test_mask': np.arange(4) > 2}, 'node 3 is in the test split without a'),
    ({'valid_mask': np.arange(4) < 2}, 'node 0 is in the train and in the val'),
    ({'senders': np.array([0, 1, 4])}, 'edge 2 has the senders id 4'),
    ({'labels': np.array([0.0, 1, 1, 0])}, 'labels is float64'),
    ({'num_classes': 1}, 'node 1 has a label outside -1 .none. to 0'),
  ],
)
def test_bad_node_arrays_are_named(change, reason):
  with pytest.raises(DataError, match=f'custom: {reason}'):
    custom.node_dataset(**{**NODES, **change})


@pytest.mark.parametrize(
  ('arrays', 'change', 'reason'),
  [
    (
      GRAPHS,
      {'split': None},
      r"missing arrays \['split'\], unknown arrays \[\]",
    ),
    (NODES, {'labels': None}, r"missing arrays \['labels'\].*A node task has"),
    (GRAPHS, {'edges': np.zeros(3)}, r"unknown arrays \['edges'\]"),
    (GRAPHS, {'num_classes': np.zeros(1, int)}, 'num_classes is int64 with 1'),
    (GRAPHS, {'nodes': np.zeros(7)}, 'nodes is float64'),
    (GRAPHS, {'labels': np.array([{}] * 4)}, 'allow_pickle'),
  ],
)
def test_bad_files_are_named(tmp_path, arrays, change, reason):
  path = saved(tmp_path, arrays, **change)
  with pytest.raises(DataError, match=f'{path}: .*{reason}'):
    custom.load_custom(path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(DataError, match=f'{tmp_path}/no.npz: no such file'):
    custom.load_custom(tmp_path / 'no.npz')
