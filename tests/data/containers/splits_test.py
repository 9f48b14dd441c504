"""Tests of the seeded choices."""

import numpy as np
import pytest

from lorap_jax.data.containers import splits


def test_permutation_is_pinned():
  # Results on record depend on these numbers.
  assert splits.permutation(8, [20]).tolist() == PINNED_ORDER
  assert sorted(splits.permutation(1000, [20])) == list(range(1000))


PINNED_ORDER = [5, 6, 2, 0, 4, 1, 3, 7]


@pytest.mark.parametrize('sizes', [(80, 20), (33, 33, 34), (99, 1), (100, 0)])
def test_stratified_parts_are_a_partition(sizes):
  labels = np.random.default_rng(0).integers(0, 7, 100)
  parts = splits.stratified(labels, sizes, seed=3)
  assert tuple(len(part) for part in parts) == sizes
  assert sorted(np.concatenate(parts)) == list(range(100))
  assert all((np.diff(part) > 0).all() for part in parts)


def test_stratified_keeps_the_proportions():
  labels = np.repeat([0, 1, 2], [500, 300, 200])
  for part in splits.stratified(labels, (600, 250, 150), seed=3):
    counts = np.bincount(labels[part])
    np.testing.assert_allclose(counts / len(part), [0.5, 0.3, 0.2], atol=0.01)


def test_stratified_draws_each_class_for_itself():
  labels = np.arange(16) % 2
  expected = [
    np.flatnonzero(labels == c)[splits.permutation(8, [3, c])[:4]]
    for c in (0, 1)
  ]
  first, _ = splits.stratified(labels, (8, 8), seed=3)
  assert first.tolist() == sorted(np.concatenate(expected))


def test_stratified_rounds_the_largest_remainder_up():
  labels = np.repeat([0, 1], [5, 10])
  # 7 of 15 are 2.33 and 4.67.
  first, _ = splits.stratified(labels, (7, 8), seed=3)
  assert np.bincount(labels[first]).tolist() == [2, 5]


def test_stratified_depends_on_the_seed_alone():
  labels = np.arange(60) % 3
  first, again, other = (
    splits.stratified(labels, (30, 30), seed)[0] for seed in (1, 1, 2)
  )
  assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_stratified_refuses_other_totals():
  with pytest.raises(ValueError, match='add up to 9; there are 10'):
    splits.stratified(np.zeros(10, int), (4, 5), seed=0)
