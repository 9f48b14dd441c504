"""Tests of PyTorch Geometric's objects, by others that quack alike."""

import types

import numpy as np
import pytest

import lorap_jax
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import custom, pyg


class Tensor:
  """What a tensor on an accelerator lets be done with it, and no more."""

  is_sparse = False

  def __init__(self, array, steps=('to_dense', 'detach', 'cpu')):
    self._array, self._left = np.asarray(array), list(steps)
    if 'to_dense' in steps:
      self.is_sparse = True

  def __getattr__(self, name):
    if name not in ('to_dense', 'detach', 'cpu'):
      raise AttributeError(name)
    left = [step for step in self._left if step != name]
    return lambda: Tensor(self._array, left)

  def numpy(self):
    assert not self._left, f'{self._left} before numpy'
    return self._array

  def __array__(self, *_, **__):
    raise TypeError('not on this device')


def graph(seed=0, **changes):
  """A PyG `Data` with n nodes."""
  rng = np.random.default_rng(seed)
  n = 6 + seed
  values = {
    'x': rng.normal(size=(n, 3)),
    'edge_index': rng.integers(0, n, (2, 9)),
    'y': [seed % 2],
    'edge_attr': None,
    **changes,
  }
  return types.SimpleNamespace(
    **{key: None if v is None else Tensor(v) for key, v in values.items()}
  )


def one_graph(**changes):
  part = np.arange(6) // 2
  masks = {
    'train_mask': part == 0,
    'val_mask': part == 1,
    'test_mask': part == 2,
  }
  return graph(**{'y': np.arange(6) % 2, **masks, **changes})


def value(data, key):
  return getattr(data, key)._array


def test_a_graph_with_masks():
  given = one_graph()
  data = lorap_jax.from_pyg(given)
  index = value(given, 'edge_index')
  expected = custom.node_dataset(
    value(given, 'x'),
    *index,
    value(given, 'y'),
    *(value(given, f'{key}_mask') for key in ('train', 'val', 'test')),
  )
  for left, right in zip(data[:7], expected[:7], strict=True):
    np.testing.assert_array_equal(left, right)
  assert data.level == 'node' and data.task == 'classification'
  assert data.source['name'] == 'pyg'


def test_plain_arrays_will_do():
  given = one_graph()
  plain = types.SimpleNamespace(
    **{key: v and v._array for key, v in vars(given).items()}
  )
  for left, right in zip(
    pyg.from_pyg(given)[:7], pyg.from_pyg(plain)[:7], strict=True
  ):
    np.testing.assert_array_equal(left, right)


def test_a_column_of_labels_and_a_regression():
  labels = np.linspace(0, 1, 6)[:, None]
  data = pyg.from_pyg(one_graph(y=labels))
  assert data.task == 'regression'
  np.testing.assert_array_equal(data.labels, labels[:, 0].astype(np.float32))
  whole = pyg.from_pyg(one_graph(y=[0.0, 1, 1, 0, 1, 0]), task='classification')
  assert whole.labels.tolist() == [0, 1, 1, 0, 1, 0]


def test_graphs_with_a_split():
  graphs = [graph(i, y=np.array([[i % 2]])) for i in range(5)]
  data = pyg.from_pyg(iter(graphs), Tensor([0, 2, 0, 1, 0]), name='mine')
  assert data.level == 'graph' and data.num_classes == 2
  assert data.train.n_node.tolist() == [6, 8, 10]
  assert data.valid.labels.tolist() == [1] and data.source['name'] == 'mine'
  np.testing.assert_array_equal(
    data.test.senders, value(graphs[1], 'edge_index')[0]
  )
  np.testing.assert_array_equal(
    data.valid.nodes, value(graphs[3], 'x').astype(np.float32)
  )
  numbers = [graph(i, y=0.5 * i) for i in range(3)]
  assert pyg.from_pyg(numbers, [0, 1, 2]).task == 'regression'


def test_edges_listed_once():
  data = pyg.from_pyg(one_graph(edge_index=[[0, 1], [1, 2]]), undirected=True)
  assert data.senders.tolist() == [1, 0, 2, 1]


def test_values_of_edges_are_refused_or_ignored():
  given = one_graph(edge_attr=np.ones((9, 2)))
  with pytest.raises(DataError, match=r"edge_attr.*ignore=\('edge_attr',\)"):
    pyg.from_pyg(given)
  assert pyg.from_pyg(given, ignore=('edge_attr',)).num_nodes == 6
  graphs = [graph(i, edge_weight=np.ones(9)) for i in range(3)]
  with pytest.raises(DataError, match='pyg, graph 0: edges have edge_weight'):
    pyg.from_pyg(graphs, [0, 1, 2])
  assert pyg.from_pyg(graphs, [0, 1, 2], ignore=('edge_weight',)).num_classes
  with pytest.raises(DataError, match=r"ignore has \['y'\]; it may have"):
    pyg.from_pyg(given, ignore=('y',))


@pytest.mark.parametrize(
  ('data', 'split', 'reason'),
  [
    (one_graph(x=None), None, 'pyg: x is missing; give nodes features'),
    (one_graph(val_mask=None), None, 'pyg: val_mask is missing'),
    (
      one_graph(val_mask=np.ones((6, 10), bool)),
      None,
      r'val_mask has shape \(6, 10\); choose one split, such as data.val_mask',
    ),
    (one_graph(y=np.eye(6)), None, r'labels is float64 of shape \(6, 6\)'),
    ([graph()], None, 'for many graphs give split'),
    ([], [], 'there are no graphs'),
    ([graph(), graph(1, x=None)], [0, 1], 'pyg, graph 1: x is missing'),
    (
      [graph(), graph(1, x=np.ones((7, 4)))],
      [0, 1],
      r'graph 1: x has shape \(7, 4\); expected \[n, 3\]',
    ),
    (
      [graph(edge_index=np.ones((9, 2), int))],
      [0],
      r'graph 0: edge_index has shape \(9, 2\); expected \[2, e\]',
    ),
    ([graph(y=[1, 2])], [0], 'graph 0: y has 2 entries; expected one'),
    ([graph(i) for i in range(3)], [0, 1], 'split must be 3 numbers'),
    ([graph(i) for i in range(2)], [0, 1], 'the test split is empty'),
  ],
)
def test_what_does_not_fit_is_named(data, split, reason):
  with pytest.raises(DataError, match=reason):
    pyg.from_pyg(data, split)


def test_edge_type_is_the_relation():
  kinds = np.arange(9) % 2
  data = lorap_jax.from_pyg(one_graph(edge_type=kinds))
  np.testing.assert_array_equal(data.relations, kinds)
  assert data.num_relations == 2
  assert lorap_jax.from_pyg(one_graph()).relations is None
