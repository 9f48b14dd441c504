"""Tests of single superpixel graphs against plain loops."""

import numpy as np
import pytest
from skimage.segmentation import slic

from lorap_jax.data.images import slic_graphs
from lorap_jax.data.images.slic_graphs import (
  CIFAR10_RECIPE,
  MNIST_RECIPE,
)
from lorap_jax.data.sets import mnist


@pytest.fixture(scope='module')
def images():
  return mnist.load_mnist(source='embedded').valid.images[::25]


@pytest.fixture(scope='module')
def colours():
  """Colour images that vary slowly, with some noise, u8[3, 32, 32, 3]."""
  rng = np.random.default_rng(0)
  row, column = np.mgrid[:32, :32][..., None] / 32
  images = []
  for _ in range(3):
    a, b, c = rng.uniform(-6, 6, (3, 3))
    wave = np.sin(a * row + b * column + c) * 100 + 128
    images.append(np.clip(wave + rng.normal(0, 12, wave.shape), 0, 255))
  return np.array(images).astype(np.uint8)


def plain_segment(image, first, most, **settings):
  """The published search: one number less each time, no shortcut."""
  scaled = (image / 255.0).astype(np.float32)
  for number in range(first, 0, -1):
    labels = slic(scaled, n_segments=number, **settings)
    if len(np.unique(labels)) <= most:
      return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
  raise AssertionError


def plain_neighbors(features, k):
  """A of the documentation, entry by entry; ties go to the lower id."""
  n = len(features)

  def distance(i, j, columns):
    return np.linalg.norm(features[i, columns] - features[j, columns])

  def sigma(i, columns):
    others = sorted(distance(i, j, columns) for j in range(n) if j != i)
    return np.mean(others[:k]) + 1e-8

  kernel = np.zeros((n, n))
  for columns in (range(features.shape[1])[:-2], [-2, -1]):
    for i in range(n):
      s = sigma(i, columns)
      for j in range(n):
        kernel[i, j] += (distance(i, j, columns) / s) ** 2
  kernel = np.exp(-kernel)
  result = []
  for i in range(n):
    similar = [(-(kernel[i, j] + kernel[j, i]) / 2, j) for j in range(n)]
    result.append([j for _, j in sorted(similar) if j != i][:k])
  return np.array(result), (kernel + kernel.T) / 2


def test_segment_is_the_plain_search(images):
  searched_on = 0
  for image in images:
    labels = slic_graphs.segment(image, MNIST_RECIPE)
    expected = plain_segment(image, 95, 75, compactness=0.25, channel_axis=None)
    np.testing.assert_array_equal(labels, expected)
    assert labels.max() + 1 == len(np.unique(labels)) <= 75
    searched_on += labels.max() < 55
  assert searched_on  # Some image needed a second number.


def test_segment_in_colour_is_the_plain_search(colours):
  for image in colours:
    labels = slic_graphs.segment(image, CIFAR10_RECIPE)
    expected = plain_segment(image, 200, 150, compactness=10, channel_axis=-1)
    np.testing.assert_array_equal(labels, expected)
    assert 80 < labels.max() + 1 <= 150


def test_segment_of_a_blank_image():
  labels = slic_graphs.segment(np.zeros((28, 28), np.uint8), MNIST_RECIPE)
  assert 1 <= len(np.unique(labels)) <= 75


def test_node_features_are_the_means(images):
  for image in images[:5]:
    labels = slic_graphs.segment(image, MNIST_RECIPE)
    features = slic_graphs.node_features(image, labels)
    for i, row in enumerate(features):
      rows, columns = np.nonzero(labels == i)
      expected = [
        image[rows, columns].mean() / 255,
        rows.mean() / 28,
        columns.mean() / 28,
      ]
      np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_node_features_in_colour_are_the_means(colours):
  for image in colours:
    labels = slic_graphs.segment(image, CIFAR10_RECIPE)
    features = slic_graphs.node_features(image, labels)
    assert features.shape == (labels.max() + 1, 5)
    for i, row in enumerate(features):
      rows, columns = np.nonzero(labels == i)
      colour = image[rows, columns].mean(axis=0) / 255
      expected = [*colour, rows.mean() / 32, columns.mean() / 32]
      np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_node_features_scale_each_axis_by_its_size():
  image = np.full((2, 4), 51, np.uint8)
  labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
  np.testing.assert_allclose(
    slic_graphs.node_features(image, labels),
    [[0.2, 0.25, 0.125], [0.2, 0.25, 0.625]],
  )


def test_neighbors_are_those_of_the_oracle(images):
  for image in images[:3]:
    labels = slic_graphs.segment(image, MNIST_RECIPE)
    features = slic_graphs.node_features(image, labels)
    found = slic_graphs.nearest_neighbors(features, 8)
    expected, similarity = plain_neighbors(features, 8)
    # Where two similarities agree but for rounding, either order is right.
    np.testing.assert_allclose(
      np.take_along_axis(similarity, found, axis=1),
      np.take_along_axis(similarity, expected, axis=1),
      rtol=1e-9,
    )
    assert (found == expected).mean() > 0.9


@pytest.mark.parametrize('columns', [3, 5])
def test_neighbors_of_random_points_are_exactly_the_oracle(columns):
  features = np.random.default_rng(1).random((30, columns))
  found = slic_graphs.nearest_neighbors(features, 8)
  np.testing.assert_array_equal(found, plain_neighbors(features, 8)[0])


def test_equal_nodes_are_ordered_by_id():
  # All distances are 0: every width is 1e-8 and every similarity is 1.
  found = slic_graphs.nearest_neighbors(np.full((12, 3), 0.5), 8)
  for i, row in enumerate(found):
    assert row.tolist() == [j for j in range(12) if j != i][:8]


def test_zero_similarities_do_not_bring_self_loops():
  # Node 11 differs from 11 equal ones, and its own width is large: fine. The
  # others give it exp(-1e15) = 0, yet each still has 8 distinct neighbours.
  features = np.zeros((12, 3))
  features[:, 1] = np.linspace(0, 1e-12, 12)
  features[3, 0] = 1.0
  found = slic_graphs.nearest_neighbors(features, 11)
  for i, row in enumerate(found):
    assert sorted([i, *row]) == list(range(12))


@pytest.mark.parametrize('n', [1, 2, 8, 9, 10])
def test_small_graphs_have_the_neighbors_there_are(n):
  features = np.random.default_rng(n).random((n, 3))
  found = slic_graphs.nearest_neighbors(features, 8)
  assert found.shape == (n, min(8, n - 1))
  for i, row in enumerate(found):
    assert i not in row and len(set(row)) == len(row)
