"""The four files of MNIST: found in a folder or downloaded, and verified.

Source of the data: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of
handwritten digits". The digests are those of the decompressed files, so any
compression by any mirror passes.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lorap_jax.data.files import idx, store
from lorap_jax.data.files.store import AbsentDataError, DataError

MIRRORS = (
  'https://storage.googleapis.com/cvdf-datasets/mnist/',
  'https://ossci-datasets.s3.amazonaws.com/mnist/',
)
# Folders that common tools put the files in, below the one that is given.
_FOLDERS = ('', 'mnist', 'MNIST/raw')


class IdxFile(NamedTuple):
  """One file: its name, its key in a mnist.npz, its digest and its size."""

  name: str
  key: str
  sha256: str
  size: int


IDX_FILES = (
  IdxFile(
    'train-images-idx3-ubyte',
    'x_train',
    'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
    47040016,
  ),
  IdxFile(
    'train-labels-idx1-ubyte',
    'y_train',
    '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
    60008,
  ),
  IdxFile(
    't10k-images-idx3-ubyte',
    'x_test',
    '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
    7840016,
  ),
  IdxFile(
    't10k-labels-idx1-ubyte',
    'y_test',
    'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
    10008,
  ),
)
_WANTED = 'mnist.npz or the four files ' + ', '.join(
  f'{file.name}.gz' for file in IDX_FILES
)


class MnistFiles(NamedTuple):
  """The verified arrays, and the paths of the files they come from."""

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  paths: list[str]


def from_folder(folder: pathlib.Path) -> MnistFiles:
  """Reads the four IDX files (.gz or not) or a mnist.npz from a folder.

  Raises:
    DataError: the folder or a file is missing, damaged or is not MNIST.
  """
  if not folder.is_dir():
    raise DataError(f'data_dir {folder}: no such folder.')
  found: list[str] = []
  for place in (folder / sub for sub in _FOLDERS):
    paths = [
      path for file in IDX_FILES if (path := _idx_path(place, file.name))
    ]
    if len(paths) == len(IDX_FILES):
      return _read(paths)
    if (place / 'mnist.npz').is_file():
      return _read_npz(place / 'mnist.npz')
    found += [path.name for path in paths]
  raise AbsentDataError(
    f'data_dir {folder}: MNIST is not complete there (found '
    f'{", ".join(found) or "none of its files"}). Put in it '
    f'{_WANTED}.'
  )


def from_download(folder: pathlib.Path, *, offline: bool) -> MnistFiles:
  """Reads the files from the cache folder, downloading those not there.

  Raises:
    DataError: a file cannot be downloaded, or is not there and `offline`.
  """
  paths = [folder / file.name for file in IDX_FILES]
  missing = [path.name for path in paths if not path.is_file()]
  if offline and missing:
    raise DataError(
      f'{folder}: offline, and {", ".join(missing)} not downloaded before.'
    )
  for path, file in zip(paths, IDX_FILES, strict=True):
    if not offline:
      urls = [f'{mirror}{file.name}.gz' for mirror in MIRRORS]
      try:
        store.download(urls, path, sha256=file.sha256, size=file.size)
      except DataError as error:
        raise DataError(
          f'{error} Or put {_WANTED} into a folder and give it as data_dir.'
        ) from error
  return _read(paths)


def _idx_path(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  # Some copies write a dot before "idx".
  for stem in (name, name.replace('-idx', '.idx')):
    for path in (folder / stem, folder / f'{stem}.gz'):
      if path.is_file():
        return path
  return None


def _read(paths: Sequence[pathlib.Path]) -> MnistFiles:
  arrays = []
  for path, file in zip(paths, IDX_FILES, strict=True):
    content = store.read_file(path, max_size=file.size)
    _check(content, str(path), file)
    arrays.append(idx.parse(content, str(path)))
  return MnistFiles(*arrays, paths=[str(path) for path in paths])


def _read_npz(path: pathlib.Path) -> MnistFiles:
  arrays = store.read_npz(path)
  keys = [file.key for file in IDX_FILES]
  for key, file in zip(keys, IDX_FILES, strict=True):
    if key not in arrays:
      raise DataError(f'{path}: has arrays {sorted(arrays)}; expected {keys}.')
    if arrays[key].dtype != np.uint8:
      raise DataError(f'{path}: {key} is {arrays[key].dtype}; expected uint8.')
    _check(idx.serialize(arrays[key]), f'{path}: {key} as IDX', file)
  return MnistFiles(*(arrays[key] for key in keys), paths=[str(path)])


def _check(content: bytes, name: str, file: IdxFile) -> None:
  store.check_content(content, name, sha256=file.sha256, size=file.size)
