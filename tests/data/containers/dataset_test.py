"""Tests of the ragged containers."""

import numpy as np
import pytest

from lorap_jax.data import DataError, DataSplits, GraphDataset


@pytest.fixture
def data():
  """Three graphs with 2, 1 and 3 nodes; the second has no edges."""
  return GraphDataset(
    nodes=np.arange(12, dtype=np.float32).reshape(6, 2),
    senders=np.array([0, 1, 0, 1, 2], np.uint16),
    receivers=np.array([1, 0, 1, 2, 0], np.uint16),
    n_node=np.array([2, 1, 3], np.int32),
    n_edge=np.array([2, 0, 3], np.int32),
    labels=np.array([1, 0, 1], np.int32),
  )


def test_a_sound_data_set_passes(data):
  data.check()
  assert data.num_graphs == 3


def test_numbers_to_predict_pass(data):
  numbers = data._replace(labels=np.array([-1.5, 0, 2], np.float32))
  numbers.check()
  assert numbers.take([2, 0]).labels.tolist() == [2, -1.5]
  numbers.labels[1] = np.nan
  with pytest.raises(DataError, match='graph 1 has a label that is not finite'):
    numbers.check()


@pytest.mark.parametrize('indices', [[0], [2, 0], [1, 1, 2], []])
def test_take_gathers_whole_graphs(data, indices):
  node_start, edge_start = [0, 2, 3], [0, 2, 2]
  taken = data.take(indices)
  taken.check()
  nodes, senders = [], []
  for i in indices:
    nodes.extend(data.nodes[node_start[i] :][: data.n_node[i]].tolist())
    senders.extend(data.senders[edge_start[i] :][: data.n_edge[i]].tolist())
  assert taken.nodes.tolist() == nodes
  assert taken.senders.tolist() == senders
  assert taken.labels.tolist() == [data.labels[i] for i in indices]


@pytest.mark.parametrize(
  ('field', 'position', 'value', 'reason'),
  [
    ('nodes', (3, 1), np.nan, 'graph 2 has a feature that is not finite'),
    ('nodes', (2, 0), np.inf, 'graph 1 has a feature that is not finite'),
    ('senders', 4, 3, 'graph 2 has an edge whose senders id is outside'),
    ('receivers', 0, 2, 'graph 0 has an edge whose receivers id is outside'),
    ('labels', 1, -1, 'graph 1 has a negative label'),
    ('n_node', 1, 0, 'graph 1 has no nodes'),
    ('n_edge', 1, -1, 'graph 1 has a negative number of edges'),
    ('n_node', 0, 3, 'nodes has 6 rows.*add up to 7'),
    ('n_edge', 0, 1, 'senders has 5 rows.*add up to 4'),
  ],
)
def test_check_names_the_graph(data, field, position, value, reason):
  getattr(data, field)[position] = value
  with pytest.raises(DataError, match=f'mine: {reason}'):
    data.check('mine')


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'nodes': np.zeros((6, 2))}, 'nodes is float64'),
    ({'nodes': np.zeros(6, np.float32)}, r'nodes is float32 of shape \(6,\)'),
    ({'nodes': np.zeros((6, 0), np.float32)}, r'shape \(6, 0\), no features'),
    ({'labels': np.zeros(2, np.int32)}, 'labels has 2 entries for 3 graphs'),
    (
      {'labels': np.zeros(3)},
      r'float64 of shape \(3,\); expected int32 or float32',
    ),
    ({'receivers': np.zeros(4, np.uint16)}, 'receivers has 4 rows'),
  ],
)
def test_check_names_the_array(data, change, reason):
  with pytest.raises(DataError, match=reason):
    data._replace(**change).check()


def test_the_task_is_said_and_the_labels_suit_it(data):
  whole = DataSplits(data, data, data, num_classes=2, source={})
  whole.check()
  assert whole.task == 'classification' and whole.level == 'graph'
  floats = data._replace(labels=np.array([0, 1, 2], np.float32))
  numbers = DataSplits(floats, floats, floats, 1, {}, task='regression')
  numbers.check()
  for wrong, reason in (
    (whole._replace(task='regression'), 'train: labels is int32; expected fl'),
    (whole._replace(num_classes=1), 'train: graph 0 has a label outside'),
    (whole._replace(task='ranking'), "train: task is 'ranking'; expected one"),
    (whole._replace(valid=floats), 'valid: labels is float32; expected int32'),
    (numbers._replace(num_classes=2), 'num_classes is 2; expected 1 for regr'),
  ):
    with pytest.raises(DataError, match=f'mine, .*{reason}'):
      wrong.check('mine')
