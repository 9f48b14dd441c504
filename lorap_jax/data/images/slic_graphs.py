r"""From an image to a superpixel graph, in the recipe of the GNN benchmark.

An image x in [0, 1] is cut into at most 75 (in colour 150) SLIC superpixels,
which are the nodes. Node i has the mean intensity f_i (a number, or red, green
and blue) and the centroid c_i (row, column), in units of the image size. With
d_c, d_f the Euclidean distances of centroids and of intensities, and s_i the
mean distance of node i to its 8 nearest nodes plus 1e-8,

  K_ij = exp(-(d_c(i, j) / s_c,i)^2 - (d_f(i, j) / s_f,i)^2),
  A = (K + K^T) / 2,

and node i sends to the 8 other nodes j with the largest A_ij.

Sources: V. P. Dwivedi et al., "Benchmarking Graph Neural Networks", JMLR 2023;
B. Knyazev et al., "Understanding attention and generalization in graph neural
networks", NeurIPS 2019; R. Achanta et al., "SLIC superpixels", TPAMI 2012.
The published MNIST graphs have 70.57 nodes on average, those of CIFAR-10
117.6; they come from an older scikit-image, and its newer versions cut the same
images a little differently.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from skimage.segmentation import slic
from skimage.util import regular_grid

from lorap_jax.data.containers.positions import Positions
from lorap_jax.data.files.store import DataError


class Recipe(NamedTuple):
  """Settings of the superpixel graphs.

  Attributes:
    compactness: weight of space against intensity in SLIC.
    first_segments: number of segments that is asked for first.
    max_nodes: largest number of superpixels that is accepted.
    neighbors: out-degree of a node.
  """

  compactness: float = 0.25
  first_segments: int = 95
  max_nodes: int = 75
  neighbors: int = 8


MNIST_RECIPE = Recipe()
CIFAR10_RECIPE = Recipe(compactness=10.0, first_segments=200, max_nodes=150)


def segment(image: np.ndarray, recipe: Recipe) -> np.ndarray:
  """Cuts an image into at most `recipe.max_nodes` superpixels.

  The number of segments asked for goes down from `recipe.first_segments` until
  few enough come back. scikit-image uses that number only to choose the grid of
  the first centres, with whole-pixel steps, so many numbers share one grid and
  one result. Numbers that repeat the grid just tried are passed over: the
  result is that of the plain loop. (For 28x28 images all of 95 to 65 share the
  grid with step 3; starting at 75 would give the same as well.)

  Args:
    image: u8[height, width], or u8[height, width, 3] in colour, which SLIC
      compares in the space Lab.
    recipe: settings.

  Returns:
    i64[height, width], labels 0 to n - 1.
  """
  scaled = (image / 255.0).astype(np.float32)
  size = image.shape[:2]
  for number in _distinct_numbers(size, recipe.first_segments):
    labels = slic(
      scaled,
      n_segments=number,
      compactness=recipe.compactness,
      channel_axis=None if image.ndim == 2 else -1,
    )
    ids, dense = np.unique(labels, return_inverse=True)
    if len(ids) <= recipe.max_nodes:
      return dense.reshape(size)
  raise DataError(
    f'SLIC found over {recipe.max_nodes} superpixels in an image.'
  )


@functools.cache
def _distinct_numbers(shape: tuple[int, ...], first: int) -> tuple[int, ...]:
  """Returns the numbers from `first` to 1 at which the SLIC grid changes."""
  grids = [str(regular_grid((1, *shape), n)) for n in range(first, 0, -1)]
  return tuple(
    first - i for i, grid in enumerate(grids) if not i or grid != grids[i - 1]
  )


def node_features(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns mean intensities, centroid row and column, in [0, 1].

  Args:
    image: u8[height, width] or u8[height, width, 3].
    labels: i64[height, width] superpixel of each pixel, 0 to n - 1.

  Returns:
    f64[n, 3], or f64[n, 5] in colour.
  """
  height, width = labels.shape
  rows, columns = np.divmod(np.arange(labels.size), width)
  channels = image.reshape(labels.size, -1).T
  flat = labels.ravel()
  # The sums are of integers and so do not depend on their order.
  sums = [np.bincount(flat, w) for w in (*channels, rows, columns)]
  means = np.stack(sums, axis=1) / np.bincount(flat)[:, None]
  return means / np.array([255.0] * len(channels) + [height, width])


def positions(shape: tuple[int, ...], num_features: int) -> Positions:
  """Where `node_features` has the centroids.

  A pixel in row r is at r / height, so that the middle is below one half.

  Args:
    shape: (height, width, ...) of an image.
    num_features: f of `node_features`.

  Returns:
    The last two columns.
  """
  height, width = shape[:2]
  return Positions(
    (num_features - 2, num_features - 1),
    middle=((height - 1) / (2 * height), (width - 1) / (2 * width)),
  )


def nearest_neighbors(features: np.ndarray, k: int) -> np.ndarray:
  """Returns the k most similar other nodes of each node, most similar first.

  Similarity is A of the module docstring, in float64; equal ones are ordered by
  node id. With n <= k nodes each has all n - 1 others.

  Args:
    features: f64[n, 3] mean intensity, centroid row, centroid column; or
      f64[n, 5] with three intensities.
    k: number of neighbours.

  Returns:
    i64[n, min(k, n - 1)].
  """
  exponent = _scaled_square(_distances(features[:, -2:]), k)
  exponent += _scaled_square(_distances(features[:, :-2]), k)
  kernel = np.exp(-exponent)
  similarity = (kernel + kernel.T) / 2
  np.fill_diagonal(similarity, -1.0)  # Below all others, of which many are 0.
  order = np.argsort(-similarity, axis=1, kind='stable')
  return order[:, : min(k, len(features) - 1)]


def _distances(points: np.ndarray) -> np.ndarray:
  """Returns the Euclidean distances of f64[n, d] points, f64[n, n]."""
  offsets = points[:, None] - points[None]
  return np.sqrt((offsets**2).sum(-1))


def _scaled_square(distance: np.ndarray, k: int) -> np.ndarray:
  """Returns (d_ij / s_i)^2; s_i is the mean of the k smallest, plus 1e-8."""
  k = min(k, len(distance) - 1)
  if not k:
    return np.zeros_like(distance)
  # The distance to itself, 0, is one of the k + 1 smallest and adds nothing.
  nearest = np.partition(distance, k, axis=1)[:, : k + 1]
  return (distance / (nearest.sum(axis=1, keepdims=True) / k + 1e-8)) ** 2
