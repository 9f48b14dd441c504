"""Tests of the user's own data."""

import json

import numpy as np
import pytest
from scipy import sparse

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import custom, own_arrays

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
    ({'nodes': np.zeros(7)}, r'nodes has shape \(7,\); expected \[n, f\]'),
    ({'nodes': np.full((7, 2), 'a')}, 'nodes is <U1; expected numbers'),
    ({'nodes': np.full((7, 2), 1e60)}, 'graph 0 has a feature that is not fin'),
    ({'nodes': np.zeros((6, 2))}, 'nodes has 6 rows'),
    ({'senders': np.zeros(5)}, 'senders is float64; expected integers'),
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
    ({'train_mask': np.zeros(4)}, 'train_mask is float64; expected booleans'),
    (
      {'train_mask': np.arange(4)},
      'train_mask holds integers other than 0 and',
    ),
    (
      {'train_mask': np.ones((4, 2))},
      r'train_mask has shape \(4, 2\); expected',
    ),
    ({'train_mask': None}, 'train_mask missing'),
    ({'nodes': np.zeros((4, 0))}, r'nodes has shape \(4, 0\), no features'),
    ({'nodes': [[0], [1, 2]]}, 'nodes is no array: its rows differ in length'),
    ({'receivers': None}, 'receivers is missing'),
    (
      {'edge_index': np.zeros((2, 3), int)},
      'give either senders and receivers',
    ),
    ({'train_mask': np.zeros(4, bool)}, 'the train split is empty'),
    ({'test_mask': np.arange(4) > 2}, 'node 3 is in the test split without a'),
    ({'valid_mask': np.arange(4) < 2}, 'node 0 is in the train and in the val'),
    ({'senders': np.array([0, 1, 4])}, 'edge 2 has the senders id 4'),
    ({'num_classes': 1}, 'num_classes is 1; expected 2 or more'),
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
    (
      GRAPHS,
      {'edges': np.zeros(3)},
      r"no layer uses weights or features of edges; leave \['edges'\]",
    ),
    (
      GRAPHS,
      {'num_classes': np.zeros(1, int)},
      r'num_classes has shape \(1,\); expected \[\]',
    ),
    (GRAPHS, {'nodes': np.zeros(7)}, 'nodes has shape'),
    (NODES, {'mine': np.zeros(3)}, r"unknown arrays \['mine'\]"),
    (NODES, {'edge_weight': np.ones(3)}, r"no layer .*\['edge_weight'\] out"),
    (NODES, {'task': np.array('rank')}, "task is 'rank'; expected one of"),
    (NODES, {'undirected': np.array(2)}, 'undirected holds integers other'),
    (GRAPHS, {'labels': np.array([{}] * 4)}, 'it holds pickled objects'),
  ],
)
def test_bad_files_are_named(tmp_path, arrays, change, reason):
  path = saved(tmp_path, arrays, **change)
  with pytest.raises(DataError, match=f'{path}: .*{reason}'):
    custom.load_custom(path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(DataError, match=f'{tmp_path}/no.npz: no such file'):
    custom.load_custom(tmp_path / 'no.npz')


FLOATS = {'nodes': [0.0, 1, 1, np.nan], 'graphs': [1.0, 0, 2, 0]}


def built(level, **changes):
  if level == 'nodes':
    return custom.node_dataset(**{**NODES, **changes})
  return custom.graph_splits(**{**GRAPHS, **changes})


def labels_of(data):
  if data.level == 'node':
    return data.labels
  return np.concatenate([p.labels for p in (data.train, data.valid, data.test)])


@pytest.mark.parametrize('level', ['nodes', 'graphs'])
class TestTask:
  def test_is_said_by_the_type_unless_by_the_user(self, level, caplog):
    data = built(level, labels=FLOATS[level])
    assert data.task == 'regression' and data.num_classes == 1
    assert 'Set task (an argument, or an array of the npz' in caplog.text
    caplog.clear()
    assert built(level, labels=np.array(FLOATS[level]) + 0.5).num_classes == 1
    assert built(level).task == 'classification'
    for task in ('classification', 'regression'):
      assert built(level, labels=FLOATS[level], task=task).task == task
    assert not caplog.text

  def test_classes_may_be_floats(self, level):
    found = built(level, labels=FLOATS[level], task='classification')
    assert found.num_classes == built(level).num_classes
    np.testing.assert_array_equal(labels_of(found), labels_of(built(level)))
    assert labels_of(found).dtype == np.int32

  def test_numbers_may_be_integers(self, level):
    data = built(level, labels=[11000, 7, -3, 0], task='regression')
    assert data.num_classes == 1 and data.task == 'regression'
    assert labels_of(data).dtype == np.float32
    assert labels_of(data).tolist() == [11000, 7, -3, 0]

  def test_booleans_are_two_classes(self, level):
    data = built(level, labels=np.array([True, False, True, False]))
    assert labels_of(data).tolist() == [1, 0, 1, 0] and data.num_classes == 2

  @pytest.mark.parametrize(
    ('change', 'reason'),
    [
      (
        {'labels': [0.5, 1, 0, 1], 'task': 'classification'},
        '0 has the label 0.5, which is no class; set task to',
      ),
      (
        {'labels': [1, 0, np.inf, 0], 'task': 'classification'},
        '2 has the label inf',
      ),
      ({'labels': list('abab')}, "not numbers .*'a'.*number the classes"),
      (
        {'labels': np.array([0, 1, 0, None])},
        'not numbers .*number the classes',
      ),
      (
        {'labels': np.eye(4, dtype=int)},
        r'of shape \(4, 4\); expected one num',
      ),
      ({'labels': [0, 1j, 0, 1]}, 'labels is complex128'),
      ({'labels': [0, 1000, 0, 1000]}, '999 of these 1001 classes have no ex'),
      ({'labels': [0, 0, 0, 0]}, 'all of one class'),
      ({'num_classes': 1}, 'num_classes is 1; expected [23] or more'),
      ({'num_classes': -1}, 'num_classes is -1; expected'),
      ({'task': 'regression', 'num_classes': 2}, 'expected 1 for regression'),
      ({'task': 'ranking'}, "task is 'ranking'; expected one of"),
    ],
  )
  def test_what_suits_no_task(self, level, change, reason):
    with pytest.raises(DataError, match=f'custom: .*{reason}'):
      built(level, **change)

  def test_classes_without_an_example(self, level, caplog):
    assert built(level, labels=[1, 2, 2, 1]).num_classes == 3
    assert '1 of 3 classes have no example, the first of them is 0' in (
      caplog.text
    )
    caplog.clear()
    many = built(level, labels=[1, 2, 1000, 1], num_classes=1001)
    assert many.num_classes == 1001 and not caplog.text


def test_a_class_for_nearly_every_example_is_reported(caplog):
  labels = np.arange(20)
  part = labels % 3
  custom.node_dataset(
    np.ones((20, 1)), [0], [1], labels, part == 0, part == 1, part == 2
  )
  assert '20 classes for 20 examples' in caplog.text


def test_nodes_of_a_regression(caplog):
  data = built('nodes', labels=[0.5, 1.5, -2, np.nan])
  data.check()
  assert data.task == 'regression' and not caplog.text
  with pytest.raises(DataError, match='node 2 is in the test split without a'):
    built('nodes', labels=[0.5, 1.5, np.nan, 0])


def test_masks_may_be_zeros_and_ones():
  as_integers = {
    key: array.astype(np.uint8) if 'mask' in key else array
    for key, array in NODES.items()
  }
  found = custom.node_dataset(**as_integers)
  assert same(found[:7], custom.node_dataset(**NODES)[:7])


@pytest.mark.parametrize('level', ['nodes', 'graphs'])
def test_edge_index_is_senders_and_receivers(level):
  arrays = NODES if level == 'nodes' else GRAPHS
  index = np.stack([arrays['senders'], arrays['receivers']])
  found = built(level, edge_index=index, senders=None, receivers=None)
  left, right = (
    data[:7] if level == 'nodes' else data.train
    for data in (found, built(level))
  )
  assert same(left, right)
  for wrong in (index.T, index[0]):
    with pytest.raises(
      DataError, match='edge_index has shape .* expected .2, e'
    ):
      built(level, edge_index=wrong, senders=None, receivers=None)


def test_edges_listed_once():
  once = {**NODES, 'senders': [0, 1, 2, 2], 'receivers': [1, 3, 2, 1]}
  data = custom.node_dataset(**once, undirected=True)
  data.check()
  pairs = list(zip(data.senders.tolist(), data.receivers.tolist(), strict=True))
  assert sorted(pairs) == [
    (0, 1),
    (1, 0),
    (1, 2),
    (1, 3),
    (2, 1),
    (2, 2),
    (3, 1),
  ]
  assert custom.node_dataset(**once).senders.tolist() == [0, 1, 2, 2]
  again = {**NODES, 'senders': data.senders, 'receivers': data.receivers}
  assert same(custom.node_dataset(**again, undirected=True)[:7], data[:7])


def test_edges_of_graphs_listed_once():
  data = custom.graph_splits(**GRAPHS, undirected=True)
  assert data.train.n_edge.tolist() == [2, 0]
  assert data.valid.n_edge.tolist() == [6] and data.test.n_edge.tolist() == [0]
  pairs = zip(data.valid.senders, data.valid.receivers, strict=True)
  assert {(int(a), int(b)) for a, b in pairs} == {
    (0, 1),
    (1, 0),
    (1, 2),
    (2, 1),
    (0, 2),
    (2, 0),
  }
  assert data.train.senders.dtype == np.uint16
  for part in (data.train, data.valid, data.test):
    part.check()


def words(seed=0, shape=(200, 1000)):
  """A sparse matrix with few ones, some rows of zeros."""
  x = np.random.default_rng(seed).random(shape) < 0.01
  return sparse.csr_matrix(x.astype(np.float64))


def bag_of_words(**changes):
  part = np.arange(200) % 3
  given = {
    'nodes': words(),
    'edge_index': np.random.default_rng(1).integers(0, 200, (2, 500)),
    'labels': np.arange(200) % 4,
    'train_mask': part == 0,
    'valid_mask': part == 1,
    'test_mask': part == 2,
  }
  return custom.node_dataset(**{**given, **changes})


def test_sparse_features(tmp_path):
  data = bag_of_words()
  np.testing.assert_array_equal(data.nodes, words().toarray())
  assert data.nodes.dtype == np.float32
  for form in ('tocoo', 'tocsc', 'tolil'):
    nodes = getattr(words(), form)()
    assert same(bag_of_words(nodes=nodes)[:7], data[:7])


def test_files_of_sparse_features_are_small(tmp_path):
  data = bag_of_words()
  path = tmp_path / 'words.npz'
  custom.save(path, data)
  assert path.stat().st_size < 8 * words().nnz + 20000
  assert set(own_arrays.CSR) < np.load(path).keys()
  found = custom.load_custom(path)
  assert same(found[:7], data[:7])


def test_the_arrays_of_sparse_features_are_scipys(tmp_path):
  rows = words()
  arrays = {
    **{key: getattr(bag_of_words(), key) for key in custom._NODE_FIELDS[1:]},
    'nodes_data': rows.data,
    'nodes_indices': rows.indices,
    'nodes_indptr': rows.indptr,
    'nodes_shape': rows.shape,
  }
  path = saved(tmp_path, arrays)
  assert same(custom.load_custom(path)[:7], bag_of_words()[:7])
  for change, reason in (
    ({'nodes_indices': rows.indices + 1000}, 'a column outside 0 to 999'),
    ({'nodes_data': rows.data[1:]}, 'nodes_data has shape .*expected'),
    ({'nodes_indptr': rows.indptr[1:]}, r'indptr has shape .*expected .201.'),
    ({'nodes_indptr': rows.indptr[::-1]}, 'nodes_indptr does not ascend'),
    ({'nodes_shape': np.array(5)}, r'shape \(\); expected \[2\]'),
    ({'nodes_shape': None}, r"missing arrays \['nodes_shape'\]"),
    ({'nodes': rows.toarray()}, r"unknown arrays \['nodes'\]"),
    ({'nodes_indices': rows.indices + 0.5}, 'nodes_indices is float64'),
  ):
    with pytest.raises(DataError, match=reason):
      custom.load_custom(saved(tmp_path, arrays, **change))


def test_a_column_that_is_there_twice_is_summed():
  rows = sparse.csr_matrix(([1.0, 2, 4], [1, 1, 0], [0, 2, 3, 3, 3]), (4, 2))
  data = custom.node_dataset(**{**NODES, 'nodes': rows})
  assert data.nodes.tolist() == [[0, 3], [4, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
  'make',
  [
    lambda: custom.node_dataset(**NODES, num_classes=5),
    lambda: built('nodes', labels=[0.5, 1.5, -2, np.nan]),
    lambda: custom.graph_splits(**GRAPHS),
    lambda: built('graphs', labels=[1.0, 2, 3, 4], task='regression'),
  ],
)
def test_what_is_saved_comes_back(tmp_path, make, caplog):
  data = make()
  path = tmp_path / 'sub' / 'mine.npz'
  custom.save(path, data)
  found = custom.load_custom(path)
  assert (found.task, found.num_classes) == (data.task, data.num_classes)
  parts = zip(found[:7], data[:7], strict=True)
  if data.level == 'graph':
    parts = zip(
      (array for part in found[:3] for array in part),
      (array for part in data[:3] for array in part),
      strict=True,
    )
  for left, right in parts:
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left, right)
  assert not caplog.text and [p.name for p in path.parent.iterdir()] == [
    'mine.npz'
  ]


def test_what_cannot_be_saved(tmp_path):
  data = custom.node_dataset(**NODES)
  path = tmp_path / 'mine.npz'
  with pytest.raises(DataError, match=f'{path}: labels is float32; expected'):
    custom.save(path, data._replace(labels=np.ones(4, np.float32)))
  assert not path.exists()
  (tmp_path / 'file').touch()
  with pytest.raises(DataError, match='cannot be written'):
    custom.save(tmp_path / 'file' / 'mine.npz', data)


def test_options_of_a_file(tmp_path):
  options = {'undirected': True, 'task': 'regression', 'num_classes': 1}
  arrays = {**NODES, 'labels': [3, 4, 5, 6]}
  found = custom.load_custom(saved(tmp_path, {**arrays, **options}))
  assert same(found[:7], custom.node_dataset(**arrays, **options)[:7])
  assert found.task == 'regression' and len(found.senders) == 4


def test_relations_are_kept(tmp_path):
  data = custom.node_dataset(**NODES, relations=[2, 0, 1])
  assert data.relations.dtype == np.int32 and data.num_relations == 3
  custom.save(tmp_path / 'mine.npz', data)
  again = custom.load_custom(tmp_path / 'mine.npz')
  np.testing.assert_array_equal(again.relations, data.relations)
  assert again.num_relations == 3
  more = saved(tmp_path, NODES, relations=np.arange(3), num_relations=7)
  assert custom.load_custom(more).num_relations == 7
  other = custom.node_dataset(**NODES, relations=[2, 1, 0])
  assert other.source['sha256'] != data.source['sha256']


def test_the_other_direction_is_a_relation_of_its_own():
  ends = {'senders': [0, 1, 0, 0, 2], 'receivers': [1, 0, 1, 1, 2]}
  data = custom.node_dataset(
    **{**NODES, **ends}, relations=[0, 0, 1, 1, 0], undirected=True
  )
  edges = (data.receivers, data.relations, data.senders)
  assert [tuple(map(int, edge)) for edge in zip(*edges, strict=True)] == [
    (0, 0, 1),  # Receiver, relation, sender.
    (0, 2, 1),
    (0, 3, 1),
    (1, 0, 0),
    (1, 1, 0),
    (1, 2, 0),
    (2, 0, 2),
    (2, 2, 2),
  ]
  assert data.num_relations == 4


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'relations': [0, 1]}, 'there are 2 relations for 3 edges'),
    ({'relations': [0, -1, 1]}, 'edge 1 is of relation -1, outside 0 to 1'),
    ({'relations': [0.5, 1, 1]}, 'relations is float64; expected integers'),
    ({'relations': [0, 1, 2], 'num_relations': 2}, 'edge 2 is of relation 2'),
    ({'relations': [0, 1, 2], 'num_relations': 0}, 'num_relations is 0'),
    ({'num_relations': 2}, 'num_relations is 2, but there are no relations'),
  ],
)
def test_relations_that_fit_no_edges_are_refused(changes, reason):
  with pytest.raises(DataError, match=reason):
    custom.node_dataset(**NODES, **changes)


def test_graphs_have_no_relations(tmp_path):
  with pytest.raises(DataError, match=r"unknown arrays \['relations'\]"):
    custom.load_custom(saved(tmp_path, GRAPHS, relations=np.arange(5)))
