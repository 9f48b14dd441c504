"""CIFAR-10 images, from the binary version or from a lossy copy.

A file of the binary version holds 10,000 records: the class, then 1,024 red,
1,024 green and 1,024 blue values, row by row. The six files are known by their
digests, so any archive of them passes. The python version holds pickles, which
may run anything, and is not read.

Source of the data: A. Krizhevsky, "Learning multiple layers of features from
tiny images", 2009.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lorap_jax.data.containers.images import Images
from lorap_jax.data.files import archives, sources, store
from lorap_jax.data.files.store import AbsentDataError, DataError

SIZE = 32
ARCHIVE = 'cifar-10-binary.tar.gz'
LOSSY = 'cifar10_jpeg.npz'
URLS = (f'https://www.cs.toronto.edu/~kriz/{ARCHIVE}',)
ARCHIVE_SHA256 = (
  'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd'
)
ARCHIVE_SIZE = 170052171
_RECORD = 1 + 3 * SIZE**2
_FOLDERS = ('', 'cifar10/')
_PLACES = tuple(
  f'{folder}{sub}'
  for folder in _FOLDERS
  for sub in ('', 'cifar-10-batches-bin')
)
_PICKLED = ('cifar-10-python.tar.gz', 'cifar-10-batches-py/data_batch_1')


class BinFile(NamedTuple):
  """One file: its name, its digest and the number of its images."""

  name: str
  sha256: str
  count: int = 10000


# The last one is the test set.
BIN_FILES = (
  BinFile(
    'data_batch_1.bin',
    'cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5',
  ),
  BinFile(
    'data_batch_2.bin',
    'a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed',
  ),
  BinFile(
    'data_batch_3.bin',
    'bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67',
  ),
  BinFile(
    'data_batch_4.bin',
    '014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48',
  ),
  BinFile(
    'data_batch_5.bin',
    '755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add',
  ),
  BinFile(
    'test_batch.bin',
    '8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b',
  ),
)
_WANTED = f'{ARCHIVE} (the binary version), its six .bin files or {LOSSY}'


class Cifar10(NamedTuple):
  """The images, and what they come from.

  Attributes:
    rest: the training images.
    test: the test images.
    lossy: whether the images are a compressed copy.
    path: the archive, folder or npz file.
    sha256: digests by file name.
  """

  rest: Images
  test: Images
  lossy: bool
  path: str
  sha256: dict[str, str]


def from_folder(folder: pathlib.Path) -> Cifar10:
  """Reads the binary version, or else the lossy copy, from a folder.

  Raises:
    DataError: nothing is there, or a file is damaged or is not CIFAR-10.
  """
  if path := sources.first_file(folder, _PLACES, [BIN_FILES[0].name]):
    files = {
      file.name: store.read_bytes(path.with_name(file.name))
      for file in BIN_FILES
    }
    return _from_bin(files, str(path.parent))
  if path := sources.first_file(folder, _PLACES, [ARCHIVE]):
    return _from_archive(path)
  if path := sources.first_file(folder, _PLACES, [LOSSY]):
    return _from_lossy(path)
  if path := sources.first_file(folder, _PLACES, _PICKLED):
    raise DataError(
      f'{path}: the python version of CIFAR-10 holds pickles, which are not '
      f'read. Put {ARCHIVE} (the binary version) beside it; it is at {URLS[0]}.'
    )
  raise AbsentDataError(
    f'data_dir {folder}: CIFAR-10 is not there. Put in it {_WANTED}.'
  )


def from_download(folder: pathlib.Path, *, offline: bool) -> Cifar10:
  """Reads the archive from the cache folder; downloads it if it is not there.

  Raises:
    DataError: it cannot be downloaded, or is not there and `offline`.
  """
  path = folder / ARCHIVE
  if not offline:
    store.download_checked(
      URLS,
      path,
      check=_check_archive,
      max_size=ARCHIVE_SIZE,
      remedy=f'put {_WANTED} into a folder and give it as data_dir.',
    )
  elif not path.is_file():
    raise DataError(f'{path}: offline, and not downloaded before.')
  return _from_archive(path)


def _check_archive(content: bytes, name: str) -> None:
  store.refuse_web_page(content, name)
  if (found := store.content_digest(content)) != ARCHIVE_SHA256:
    raise DataError(
      f'{name}: expected SHA-256 {ARCHIVE_SHA256}, found {found}.'
    )


def _from_archive(path: pathlib.Path) -> Cifar10:
  members = archives.read_members(path, ['.bin'], max_total=1 << 28)
  files = {member.rpartition('/')[2]: text for member, text in members.items()}
  return _from_bin(files, str(path))


def _from_bin(files: Mapping[str, bytes], path: str) -> Cifar10:
  parts = []
  for file in BIN_FILES:
    if file.name not in files:
      raise DataError(f'{path}: {file.name} is missing.')
    content, name = files[file.name], f'{path}: {file.name}'
    store.check_content(
      content, name, sha256=file.sha256, size=file.count * _RECORD
    )
    parts.append(_parse_bin(content))
  *rest, test = parts
  return Cifar10(
    rest=Images(*(np.concatenate(both) for both in zip(*rest, strict=True))),
    test=test,
    lossy=False,
    path=path,
    sha256={file.name: file.sha256 for file in BIN_FILES},
  )


def _parse_bin(content: bytes) -> Images:
  """Returns the images of a .bin file, u8[n, 32, 32, 3]."""
  records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
  planes = records[:, 1:].reshape(-1, 3, SIZE, SIZE)
  images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
  return Images(images, records[:, 0])


def _from_lossy(path: pathlib.Path) -> Cifar10:
  """Reads JPEG files out of an npz file.

  For each of `train` and `test` it holds jpeg_SPLIT, u8, the files one after
  the other; size_SPLIT, integers, their lengths; y_SPLIT, u8, the classes.
  """
  arrays = store.read_npz(path)
  rest = _decode(arrays, 'train', str(path))
  test = _decode(arrays, 'test', str(path))
  digest = store.content_digest(store.read_bytes(path))
  return Cifar10(rest, test, True, str(path), {path.name: digest})


def _decode(arrays: Mapping[str, np.ndarray], split: str, name: str) -> Images:
  keys = [f'{key}_{split}' for key in ('jpeg', 'size', 'y')]
  for key in keys:
    if key not in arrays or arrays[key].dtype.kind != 'u':
      raise DataError(
        f'{name}: expected unsigned integers {keys}; {key} is missing or of '
        'another type.'
      )
  content, sizes, labels = (arrays[key] for key in keys)
  ends = np.cumsum(sizes, dtype=np.int64)
  if len(sizes) != len(labels) or not len(ends) or ends[-1] != len(content):
    raise DataError(
      f'{name}: {keys} do not fit together: {len(content)} bytes, '
      f'{len(sizes)} lengths, {len(labels)} classes.'
    )
  if labels.max() > 9:
    raise DataError(f'{name}: y_{split} has the class {labels.max()}.')
  buffer = content.astype(np.uint8).tobytes()
  images = np.empty((len(sizes), SIZE, SIZE, 3), np.uint8)
  for i, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
    images[i] = _decode_jpeg(buffer[start:end], f'{name}: {split} image {i}')
  return Images(images, labels.astype(np.uint8))


def _decode_jpeg(content: bytes, name: str) -> np.ndarray:
  from PIL import Image  # Late: scikit-image brings it, few users need it.

  try:
    with Image.open(io.BytesIO(content), formats=['JPEG']) as image:
      if image.size != (SIZE, SIZE) or image.mode != 'RGB':
        raise DataError(f'{name}: {image.mode} of size {image.size}.')
      return np.asarray(image)
  except DataError:
    raise
  except Exception as error:  # Damage shows in a dozen types of exception.
    raise DataError(f'{name}: damaged JPEG file ({error}).') from error
