"""Tests of labelled images."""

import numpy as np
import pytest

from lorap_jax.data.containers import images
from lorap_jax.data.containers.images import Images
from lorap_jax.data.files.store import DataError


def some(n):
  return Images(np.zeros((n, 2, 2, 3), np.uint8), np.arange(n, dtype=np.uint8))


def test_take_keeps_the_order():
  assert some(5).take(np.array([3, 0, 3])).labels.tolist() == [3, 0, 3]


def test_recorded_adds_the_sizes():
  found = images.recorded(some(3), some(2), some(1), {'name': 'mine'})
  counts = {'train': 3, 'valid': 2, 'test': 1}
  assert found.source == {'name': 'mine', 'counts': counts}
  assert len(found.valid.labels) == 2


def test_an_empty_split_is_refused():
  with pytest.raises(DataError, match='mine: the valid split is empty'):
    images.recorded(some(3), some(0), some(1), {'name': 'mine'})
