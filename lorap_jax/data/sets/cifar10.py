"""CIFAR-10 as superpixel graphs.

The recipe is that of `slic_graphs`: at most 150 nodes with 5 features, the mean
red, green and blue and the centroid.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from lorap_jax.data.containers import images, limits, normalization, splits
from lorap_jax.data.containers.dataset import DataSplits
from lorap_jax.data.containers.images import ImageSplits
from lorap_jax.data.containers.normalization import Normalize
from lorap_jax.data.files import parallel, sources, store
from lorap_jax.data.files.store import PathLike
from lorap_jax.data.images.slic_graphs import CIFAR10_RECIPE
from lorap_jax.data.sets import cifar10_files, superpixels

NUM_CLASSES = 10
SPLIT_SEED = 20
_VALID_SIZE = 5000  # Of the 50,000 training images, as in the benchmark.


def load_cifar10_superpixels(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  workers: int | None = None,
  limit: Sequence[int] | None = None,
  normalize: Normalize = 'none',
  cache_dir: PathLike | None = None,
) -> DataSplits:
  """Loads CIFAR-10 superpixel graphs, building those that are not cached.

  Args:
    source: of the images: 'auto', 'data_dir' or 'download', see `load_cifar10`.
    data_dir: folder with the binary version, or with a lossy copy.
    offline: whether to use a downloaded file only if it is there already.
    workers: processes that build graphs; None takes one per processor. The
      graphs do not depend on it.
    limit: numbers of training, validation and test graphs; None means all.
    normalize: 'none', 'center' or 'standard', of the node features; see
      `normalization.normalized`.
    cache_dir: folder of the cache; `store.cache_dir()` by default.

  Returns:
    Splits whose nodes have 5 features, with `num_classes` 10.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: the images cannot be had, or the cache cannot be written.
  """
  workers = parallel.check_workers(workers)
  normalization.check(normalize)
  cache = pathlib.Path(cache_dir or store.cache_dir())
  whole = load_cifar10(
    source=source,
    data_dir=data_dir,
    offline=offline,
    limit=limit,
    cache_dir=cache,
  )
  return superpixels.image_graphs(
    whole,
    CIFAR10_RECIPE,
    cache,
    num_classes=NUM_CLASSES,
    published_nodes=117.6,
    workers=workers,
    normalize=normalize,
  )


def load_cifar10(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  limit: Sequence[int] | None = None,
  cache_dir: PathLike | None = None,
) -> ImageSplits:
  """Loads CIFAR-10, 45,000 / 5,000 / 10,000 images.

  The validation images are drawn from the training images by
  `splits.stratified` with `SPLIT_SEED`. A lossy copy is called so in the record
  and compares with nothing published.

  Args:
    source: 'auto' takes `data_dir` if it is given, else a download;
      'data_dir' and 'download' take that one.
    data_dir: folder with the binary version, cifar-10-binary.tar.gz or its six
      .bin files, or with a lossy copy, cifar10_jpeg.npz (arrays: see
      `cifar10_files`).
    offline: whether to use a downloaded file only if it is there already.
    limit: numbers of training, validation and test images to keep; None keeps
      all.
    cache_dir: folder for downloads; `store.cache_dir()` by default.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or is not CIFAR-10.
  """
  limits.check_limit(limit)
  folder = sources.choose_folder(source, data_dir)
  if folder is None:
    cache = pathlib.Path(cache_dir or store.cache_dir())
    found = cifar10_files.from_download(cache / 'cifar10', offline=offline)
    origin = 'download'
  else:
    found = cifar10_files.from_folder(folder)
    origin = 'data_dir'
  whole = _split(found, origin)
  whole = limits.limited(whole, limit, 'images')
  return whole


def _split(found: cifar10_files.Cifar10, origin: str) -> ImageSplits:
  labels = found.rest.labels
  sizes = (len(labels) - _VALID_SIZE, _VALID_SIZE)
  train, valid = (
    found.rest.take(part)
    for part in splits.stratified(labels, sizes, SPLIT_SEED)
  )
  kind = 'LOSSY COPY of CIFAR-10' if found.lossy else 'full CIFAR-10'
  record = {
    'name': 'cifar10-lossy-copy' if found.lossy else 'cifar10',
    'origin': origin,
    'files': [found.path],
    'sha256': found.sha256,
    'split_seed': SPLIT_SEED,
    'subset': False,
    'comparable': not found.lossy,
    'note': f'{kind} from {origin} ({found.path})',
  }
  return images.recorded(train, valid, found.test, record)
