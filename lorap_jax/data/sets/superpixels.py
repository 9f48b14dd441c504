"""Images as superpixel graphs: built in shards, cached, loaded.

The recipe is that of `slic_graphs`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.data.containers import normalization
from lorap_jax.data.containers.dataset import DataSplits, GraphDataset
from lorap_jax.data.containers.images import Images, ImageSplits
from lorap_jax.data.containers.normalization import Normalize
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files import idx, parallel, prepared, store
from lorap_jax.data.files.prepared import Job
from lorap_jax.data.files.store import PathLike
from lorap_jax.data.images import slic_graphs
from lorap_jax.data.images.slic_graphs import MNIST_RECIPE, Recipe
from lorap_jax.data.sets import mnist

_SCIKIT_IMAGE = importlib.metadata.version('scikit-image')
_CODE_VERSION = 1  # Raise it when the same image gives other arrays.
_PER_SHARD = 500  # Images: about a second of work.


class Graphs(NamedTuple):
  """Graphs of some images, compactly.

  Attributes:
    nodes: f32[sum(n_node), 3] mean intensity, centroid row, centroid column;
      f32[sum(n_node), 5] in colour.
    neighbors: u8[sum(n_edge)] receivers, ordered by sender and then from the
      most to the least similar; every sender of a graph has as many.
    n_node: i32[g] superpixels per image.
  """

  nodes: np.ndarray
  neighbors: np.ndarray
  n_node: np.ndarray


def load_mnist_superpixels(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  workers: int | None = None,
  limit: Sequence[int] | None = None,
  normalize: Normalize = 'none',
  cache_dir: PathLike | None = None,
) -> DataSplits:
  """Loads MNIST superpixel graphs, building those that are not cached.

  Args:
    source: of the digits: 'auto', 'data_dir', 'download' or 'embedded', see
      `mnist.load_mnist`.
    data_dir: folder with the four IDX files, or with a mnist.npz.
    offline: whether to use downloaded files only if they are there already.
    workers: processes that build graphs; None takes one per processor. The
      graphs do not depend on it.
    limit: numbers of training, validation and test graphs; None means all.
    normalize: 'none', 'center' or 'standard', of the node features; see
      `normalization.normalized`.
    cache_dir: folder of the cache; `store.cache_dir()` by default.

  Returns:
    Splits whose nodes have 3 features, with `num_classes` 10.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: the digits cannot be had, or the cache cannot be written.
  """
  workers = parallel.check_workers(workers)
  normalization.check(normalize)
  cache = pathlib.Path(cache_dir or store.cache_dir())
  digits = mnist.load_mnist(
    source=source,
    data_dir=data_dir,
    offline=offline,
    limit=limit,
    cache_dir=cache,
  )
  return image_graphs(
    digits,
    MNIST_RECIPE,
    cache,
    num_classes=mnist.NUM_CLASSES,
    published_nodes=70.57,
    workers=workers,
    normalize=normalize,
  )


def image_graphs(
  images: ImageSplits,
  recipe: Recipe,
  cache: PathLike,
  *,
  num_classes: int,
  published_nodes: float,
  workers: int,
  normalize: Normalize = 'none',
) -> DataSplits:
  """Turns the images of each split into graphs.

  Args:
    images: the splits.
    recipe: settings.
    cache: folder of the cache.
    num_classes: number of classes.
    published_nodes: mean number of nodes of the published graphs, for the
      record.
    workers: processes to use.
    normalize: 'none', 'center' or 'standard', of the node features.

  Raises:
    DataError: the cache cannot be written.
  """
  parts = {}
  for name in SPLITS:
    part: Images = getattr(images, name)
    graphs = cached_graphs(part.images, recipe, cache, workers=workers)
    parts[name] = to_dataset(graphs, part.labels, recipe)
    parts[name].check(f'{images.source["name"]} superpixels, {name}')
  record = {
    **images.source,
    'name': f'{images.source["name"]}-superpixels',
    'note': (
      f'{images.source["note"]}; superpixels by scikit-image '
      f'{_SCIKIT_IMAGE} (the published ones, by an older version, have '
      f'{published_nodes} nodes on average)'
    ),
    'superpixels': _settings(recipe),
    'mean_nodes': _mean(parts, 'n_node'),
    'mean_edges': _mean(parts, 'n_edge'),
  }
  splits = DataSplits(
    **parts,
    num_classes=num_classes,
    source=record,
    task='classification',
    positions=slic_graphs.positions(
      images.train.images.shape[1:], parts['train'].nodes.shape[1]
    ),
  )
  return normalization.normalized(splits, normalize)


def cached_graphs(
  images: np.ndarray, recipe: Recipe, cache: PathLike, *, workers: int
) -> Graphs:
  """Returns the graphs of `images`, from the cache or built and then cached.

  The cache has a folder of shards, named by the images, the recipe and the
  versions of this code and of scikit-image. Shards that are damaged are built
  again, with a warning; those that a killed process left are taken.

  Args:
    images: u8[g, height, width] or u8[g, height, width, 3].
    recipe: settings.
    cache: folder of the cache.
    workers: processes to use.
  """
  job = graph_job(images, recipe)
  title = 'Building superpixel graphs, shards of 500'
  return Graphs(
    **prepared.cached(
      folder_of(job, cache), job, workers=workers, description=title
    )
  )


def folder_of(job: Job, cache: PathLike) -> pathlib.Path:
  """Where the shards of a job of `graph_job` are."""
  return pathlib.Path(cache) / 'superpixels' / job.name


def graph_job(images: np.ndarray, recipe: Recipe) -> Job:
  """The graphs of images in shards of 500 images."""
  record = {
    **_settings(recipe),
    'images': store.content_digest(idx.serialize(images)),
    'images_per_shard': _PER_SHARD,
  }
  build = functools.partial(_shard, images, recipe, _PER_SHARD)
  return Job(record, -(-len(images) // _PER_SHARD), build)


def _shard(
  images: np.ndarray, recipe: Recipe, size: int, index: int
) -> dict[str, np.ndarray]:
  part = images[index * size : (index + 1) * size]
  return chunk_graphs(part, recipe)._asdict()


def chunk_graphs(images: np.ndarray, recipe: Recipe) -> Graphs:
  """Builds the graphs of some images, one by one."""
  nodes, neighbors = [], []
  for image in images:
    features = slic_graphs.node_features(
      image, slic_graphs.segment(image, recipe)
    )
    nodes.append(features.astype(np.float32))
    nearest = slic_graphs.nearest_neighbors(features, recipe.neighbors)
    neighbors.append(nearest.ravel())
  return Graphs(
    nodes=np.concatenate(nodes),
    neighbors=np.concatenate(neighbors).astype(np.uint8),
    n_node=np.array([len(n) for n in nodes], np.int32),
  )


def to_dataset(
  graphs: Graphs, labels: np.ndarray, recipe: Recipe
) -> GraphDataset:
  """Writes the edges out: sender i to each of its neighbours."""
  degree = np.minimum(recipe.neighbors, graphs.n_node - 1)
  starts = np.cumsum(graphs.n_node) - graphs.n_node
  local = np.arange(len(graphs.nodes)) - np.repeat(starts, graphs.n_node)
  return GraphDataset(
    nodes=graphs.nodes,
    senders=np.repeat(
      local.astype(np.uint16), np.repeat(degree, graphs.n_node)
    ),
    receivers=graphs.neighbors.astype(np.uint16),
    n_node=graphs.n_node,
    n_edge=(graphs.n_node * degree).astype(np.int32),
    labels=labels.astype(np.int32),
  )


def _settings(recipe: Recipe) -> dict[str, Any]:
  return {
    **recipe._asdict(),
    'code_version': _CODE_VERSION,
    'scikit_image': _SCIKIT_IMAGE,
  }


def _mean(parts: dict[str, GraphDataset], field: str) -> float:
  counts = np.concatenate([getattr(part, field) for part in parts.values()])
  return float(counts.mean())
