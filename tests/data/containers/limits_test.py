"""Tests of the choice of a few items; also see mnist_test."""

import numpy as np
import pytest

from lorap_jax.data.containers import limits
from lorap_jax.data.containers.images import Images, ImageSplits


@pytest.fixture
def whole():
  """Splits of 30, 20 and 10 images, each of one grey value of its own."""
  values = np.arange(60, dtype=np.uint8)
  images = Images(values[:, None, None], values)
  parts = (
    images.take(np.arange(a, b)) for a, b in ((0, 30), (30, 50), (50, 60))
  )
  source = {'note': 'all', 'subset': False, 'comparable': True, 'counts': {}}
  return ImageSplits(*parts, source=source)


def test_none_keeps_all(whole):
  assert limits.limited(whole, None, 'images') is whole


def test_a_smaller_limit_keeps_a_part_of_a_larger_one(whole):
  few = limits.limited(whole, (5, 4, 3), 'images')
  more = limits.limited(whole, (9, 20, 10), 'images')
  for name, size in (('train', 5), ('valid', 4), ('test', 3)):
    kept = getattr(few, name).labels.tolist()
    assert kept == getattr(more, name).labels[:size].tolist()
    assert set(kept) <= set(getattr(whole, name).labels)
  assert few.train.labels.tolist() != [0, 1, 2, 3, 4]


def test_the_record_says_so(whole):
  few = limits.limited(whole, [5, 4, 3], 'images')
  assert few.source == {
    'note': 'all; LIMITED to (5, 4, 3) images',
    'subset': True,
    'comparable': False,
    'counts': {'train': 5, 'valid': 4, 'test': 3},
  }
  assert whole.source['comparable']


def test_too_much_is_refused(whole):
  with pytest.raises(ValueError, match='11 test images; there are 10'):
    limits.limited(whole, (1, 1, 11), 'images')


@pytest.mark.parametrize('limit', [(), (1, 2), (1, 2, 3, 4), (1, 0, 1)])
def test_check_limit(limit):
  limits.check_limit(None)
  limits.check_limit((1, 1, 1))
  with pytest.raises(ValueError, match='three positive numbers'):
    limits.check_limit(limit)
