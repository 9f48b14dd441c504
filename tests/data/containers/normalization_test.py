import numpy as np
import pytest

from lorap_jax.data.containers import normalization
from lorap_jax.data.containers.dataset import DataSplits, GraphDataset


def _part(nodes):
  count = np.array([len(nodes)], np.int32)
  none = np.zeros(0, np.uint16)
  return GraphDataset(
    np.asarray(nodes, np.float32),
    none,
    none,
    count,
    np.zeros(1, np.int32),
    np.zeros(1, np.int32),
  )


def _splits():
  train = _part([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]])
  other = _part([[2.0, 0.5, 0.75]])
  return DataSplits(train, other, other, 2, {'name': 'toy'})


def test_standard_uses_the_training_nodes_alone():
  found = normalization.normalized(_splits(), 'standard')
  np.testing.assert_array_equal(found.train.nodes, [[-1, 1, 0], [1, -1, 0]])
  # (2 - .5) / .5; a constant column is only shifted.
  np.testing.assert_array_equal(found.test.nodes, [[3, 0, 0.25]])
  assert found.source == {'name': 'toy', 'normalize': 'standard'}


def test_center_shifts_by_a_half():
  found = normalization.normalized(_splits(), 'center')
  np.testing.assert_array_equal(found.valid.nodes, [[1.5, 0, 0.25]])


def test_none_is_what_came():
  data = _splits()
  assert normalization.normalized(data, 'none') is data


def test_refuses_what_it_does_not_know():
  with pytest.raises(ValueError, match="`normalize` must be one of .* 'row'"):
    normalization.check('row')
