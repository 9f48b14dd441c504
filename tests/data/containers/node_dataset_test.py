"""Tests of the container of one graph."""

import numpy as np
import pytest

from lorap_jax.data.containers import node_dataset
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.files.store import DataError


@pytest.fixture
def data():
  """Five nodes in a ring with a self loop; the last node has no label."""
  ring = np.arange(5)
  senders, receivers = node_dataset.both_directions(
    np.append(ring, 2), np.append((ring + 1) % 5, 2), 5
  )
  return NodeDataset(
    nodes=np.arange(10, dtype=np.float32).reshape(5, 2),
    senders=senders,
    receivers=receivers,
    labels=np.array([0, 1, 1, 0, -1], np.int32),
    train_mask=node_dataset.mask_of(np.array([0, 1]), 5),
    valid_mask=node_dataset.mask_of(np.array([2]), 5),
    test_mask=node_dataset.mask_of(np.array([3]), 5),
    num_classes=2,
    source={},
  )


def test_a_sound_data_set_passes(data):
  data.check()
  assert data.num_nodes == 5


@pytest.mark.parametrize(
  ('field', 'position', 'value', 'reason'),
  [
    ('nodes', (3, 1), np.nan, 'node 3 has a feature that is not finite'),
    ('nodes', (0, 0), -np.inf, 'node 0 has a feature that is not finite'),
    ('senders', 4, 5, 'edge 4 has the senders id 5, outside 0 to 4'),
    ('receivers', 2, -1, 'edge 2 has the receivers id -1, outside'),
    ('labels', 1, 2, 'node 1 has a label outside -1 .none. to 1'),
    ('labels', 4, -2, 'node 4 has a label outside'),
    ('labels', 3, -1, 'node 3 is in the test split without a label'),
    ('train_mask', 3, True, 'node 3 is in the train and in the test split'),
    ('valid_mask', 1, True, 'node 1 is in the train and in the valid split'),
    ('test_mask', 2, True, 'node 2 is in the valid and in the test split'),
    ('valid_mask', 2, False, 'the valid split is empty'),
  ],
)
def test_check_names_what_is_wrong(data, field, position, value, reason):
  getattr(data, field)[position] = value
  with pytest.raises(DataError, match=f'mine: {reason}'):
    data.check('mine')


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'nodes': np.zeros((5, 2))}, 'nodes is float64'),
    ({'nodes': np.zeros(5, np.float32)}, r'nodes is float32 of shape \(5,\)'),
    ({'nodes': np.zeros((0, 2), np.float32)}, 'there are no nodes'),
    ({'nodes': np.zeros((5, 0), np.float32)}, r'shape \(5, 0\), no features'),
    ({'nodes': np.zeros((4, 2), np.float32)}, 'labels has 5 entries for 4'),
    ({'labels': np.zeros(5, np.int64)}, 'labels is int64'),
    ({'test_mask': np.zeros(5, np.int32)}, 'test_mask is int32'),
    ({'test_mask': np.zeros(6, bool)}, 'test_mask has 6 entries for 5 nodes'),
    ({'senders': np.zeros(2, np.int32)}, '2 senders and 11 receivers'),
  ],
)
def test_check_names_the_array(data, change, reason):
  with pytest.raises(DataError, match=reason):
    data._replace(**change).check()


def test_numbers_to_predict_pass(data):
  labels = np.array([0.5, -1, 2, 0, np.nan], np.float32)
  numbers = data._replace(labels=labels, num_classes=1, task='regression')
  numbers.check()
  assert numbers.level == data.level == 'node'
  assert data.task == 'classification'
  for at, value, reason in (
    (4, np.inf, 'node 4 has a label that is not finite'),
    (3, np.nan, 'node 3 is in the test split without a label'),
  ):
    wrong = numbers._replace(labels=labels.copy())
    wrong.labels[at] = value
    with pytest.raises(DataError, match=reason):
      wrong.check()
  with pytest.raises(DataError, match='labels is float32; expected int32'):
    numbers._replace(task='classification').check()


def test_both_directions_against_a_set():
  rng = np.random.default_rng(0)
  senders, receivers = rng.integers(0, 20, (2, 150), np.uint16)
  expected = set()
  for u, v in zip(senders.tolist(), receivers.tolist(), strict=True):
    expected |= {(v, u), (u, v)}  # Receiver first: the order of the result.
  found = node_dataset.both_directions(senders, receivers, 20)
  assert [ids.dtype for ids in found] == [np.int32, np.int32]
  assert list(zip(found[1], found[0], strict=True)) == sorted(expected)


def test_both_directions_of_many_nodes_do_not_overflow():
  last = 2**31 - 2
  senders, receivers = node_dataset.both_directions(
    np.array([0], np.int32), np.array([last], np.int32), last + 1
  )
  assert senders.tolist() == [last, 0] and receivers.tolist() == [0, last]
