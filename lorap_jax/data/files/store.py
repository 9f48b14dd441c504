"""The one place that downloads, checks, caches and opens data files.

Nothing is trusted: a download counts only if its content passes a check, which
is its SHA-256 where that is known, and a cache file carries the digest of what
it holds. Nothing is unpickled here.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import http.client
import io
import json
import os
import pathlib
import secrets
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import filelock
import numpy as np
from absl import logging

from lorap_jax.data.files import progress

_TIMEOUT_S = 5.0
_CHUNK = 1 << 16
_META = '__meta__'
_DIGEST = '__sha256__'
_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 64
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
PathLike = str | os.PathLike[str]


class DataError(ValueError):
  """Data is missing, damaged or not what it should be."""


class AbsentDataError(DataError):
  """A data set, or a part of it, is not in the folder."""


class DiskFullError(DataError):
  """No space is left on a disk."""


@contextlib.contextmanager
def naming_full_disk(place: PathLike) -> Generator[None]:
  """Says in one line which disk is full, whoever noticed and in what words.

  Args:
    place: file or folder that the block writes to.

  Raises:
    DiskFullError: in place of the error of a full disk or quota.
  """
  try:
    yield
  except Exception as error:
    full = getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT)
    # Libraries that write by themselves pass the system's words on.
    if not full and os.strerror(errno.ENOSPC) not in str(error):
      raise
    raise DiskFullError(
      f'the disk of {place} is full; make room there, and the same command '
      'goes on, or choose a place on another disk.'
    ) from error


def cache_dir() -> pathlib.Path:
  """Returns the folder of everything that can be made again.

  It is $LORAP_JAX_CACHE, else $XDG_CACHE_HOME/lorap_jax, else
  ~/.cache/lorap_jax. The folder may not exist yet.
  """
  if own := os.environ.get('LORAP_JAX_CACHE'):
    return pathlib.Path(own).expanduser()
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(base).expanduser() / 'lorap_jax'


def content_digest(content: bytes | memoryview) -> str:
  """Returns the SHA-256 of `content` in hexadecimal."""
  return hashlib.sha256(content).hexdigest()


def refuse_web_page(content: bytes, name: str) -> None:
  """Raises DataError if a server sent a page instead of the file."""
  if content[:512].lstrip()[:1] == b'<':
    raise DataError(f'{name}: this is a web page, not the data file.')


def check_content(content: bytes, name: str, *, sha256: str, size: int) -> None:
  """Checks decompressed file content against its pinned size and digest.

  Raises:
    DataError: names `name`, what was expected and what was found.
  """
  refuse_web_page(content, name)
  if len(content) != size:
    raise DataError(
      f'{name}: expected {size} bytes (decompressed), found {len(content)}.'
    )
  if (found := content_digest(content)) != sha256:
    raise DataError(f'{name}: expected SHA-256 {sha256}, found {found}.')


def open_gzip(content: bytes) -> io.BytesIO | gzip.GzipFile:
  """Opens content to read, decompressed if it is gzip.

  A gzip file may have several members, one after the other, and zeros behind
  them. Reading raises one of `GZIP_ERRORS` if a member is damaged or ends
  early, or if something else follows it.
  """
  file = io.BytesIO(content)
  is_gzip = content[:2] == b'\x1f\x8b'
  return gzip.GzipFile(fileobj=file) if is_gzip else file


def gunzip(content: bytes, name: str, *, max_size: int) -> bytes:
  """Decompresses gzip content; other content is returned as it is.

  Gzip content is all of its members, see `open_gzip`. At most `max_size + 1`
  bytes are produced, so that a hostile file cannot fill the memory and an
  over-long one is still seen to be over-long.

  Raises:
    DataError: the gzip content is damaged, ends early or is followed by other
      bytes than zeros.
  """
  if content[:2] != b'\x1f\x8b':
    return content
  try:
    with open_gzip(content) as file:
      # In pieces: one large read takes all of its memory at once.
      plain = bytearray()
      while piece := file.read(min(_CHUNK, max_size + 1 - len(plain))):
        plain += piece
      return bytes(plain)
  except GZIP_ERRORS as error:
    raise DataError(f'{name}: {gzip_fault(error)}.') from error


def gzip_fault(error: Exception) -> str:
  """What one of `GZIP_ERRORS` says about a file."""
  if isinstance(error, EOFError):
    return 'truncated gzip file'
  if isinstance(error, gzip.BadGzipFile) and 'Not a gzipped' in str(error):
    return 'damaged gzip file (other bytes follow its end)'
  return f'damaged gzip file ({error})'


def read_bytes(path: PathLike) -> bytes:
  """Returns a file's content as it is.

  Raises:
    DataError: the file cannot be read.
  """
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise DataError(f'{path}: cannot be read ({error.strerror}).') from error


def read_file(path: PathLike, *, max_size: int) -> bytes:
  """Returns a file's content, decompressed if it is gzip.

  Raises:
    DataError: the file cannot be read or its gzip stream is damaged.
  """
  return gunzip(read_bytes(path), str(path), max_size=max_size)


def download(
  urls: Sequence[str], path: PathLike, *, sha256: str, size: int
) -> pathlib.Path:
  """Makes sure that a verified file lies at `path`.

  A file that is there already and has the right digest is left alone. Else the
  mirrors are tried in order, and the decompressed content of the first good
  answer is moved into place in one step. Parallel callers wait for each other.

  Args:
    urls: mirrors of one file, compressed with gzip or not.
    path: where the decompressed file goes.
    sha256: digest of the decompressed content.
    size: number of bytes of the decompressed content.

  Raises:
    DataError: no mirror gave the file; says why, and what to put where.
  """
  return download_checked(
    urls,
    path,
    check=functools.partial(check_content, sha256=sha256, size=size),
    max_size=size,
    remedy=(
      f'put the file with SHA-256 {sha256} (decompressed, {size} bytes) at '
      f'{path}.'
    ),
    decompress=True,
  )


def download_checked(
  urls: Sequence[str],
  path: PathLike,
  *,
  check: Callable[[bytes, str], object],
  max_size: int,
  remedy: str,
  decompress: bool = False,
) -> pathlib.Path:
  """Makes sure that a file that passes `check` lies at `path`.

  As `download`, for archives, which stay compressed, and for files of which no
  digest is known: the caller says what is accepted.

  Args:
    urls: mirrors of one file.
    path: where the file goes.
    check: raises DataError unless the content (first argument) is sound; the
      second argument is its name.
    max_size: largest number of bytes that is accepted.
    remedy: what the user can do if no mirror gives the file; the end of a
      sentence.
    decompress: whether to decompress gzip content before the check.

  Raises:
    DataError: no mirror gave the file; says why, and `remedy`.
  """
  path = pathlib.Path(path)
  if _is_intact(path, check):
    return path
  failures = []
  with lock(path):
    if _is_intact(path, check):  # Another process was faster.
      return path
    if path.exists():
      logging.warning('%s is damaged and is downloaded again.', path)
    for url in urls:
      try:
        content = _fetch(url, max_size)
        if decompress:
          content = gunzip(content, url, max_size=max_size)
        elif len(content) > max_size:
          raise DataError(f'{url}: more than {max_size} bytes.')
        check(content, url)
      except DataError as error:
        failures.append(str(error))
      else:
        with atomic_file(path) as part:
          part.write_bytes(content)
        return path
  raise DataError(
    f'{path.name} could not be downloaded: {" | ".join(failures)} Remedy: '
    f'{remedy}'
  )


def _is_intact(
  path: pathlib.Path, check: Callable[[bytes, str], object]
) -> bool:
  try:
    check(path.read_bytes(), str(path))
  except (OSError, DataError):
    return False
  return True


def _fetch(url: str, size: int) -> bytes:
  """Returns the body behind `url`, at most a little over `size` bytes."""
  body = bytearray()
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
      expected = int(response.headers.get('Content-Length') or 0)
      name = url.rsplit('/', 1)[-1]
      with progress.track(f'Downloading {name}', expected) as advance:
        while len(body) <= size + _CHUNK and (chunk := response.read(_CHUNK)):
          body += chunk
          advance(len(chunk))
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise DataError(f'{url}: {error}.') from error
  if len(body) < min(expected, size + _CHUNK):
    raise DataError(
      f'{url}: connection ended after {len(body)} of {expected} bytes.'
    )
  return bytes(body)


@contextlib.contextmanager
def lock(path: PathLike) -> Generator[None]:
  """Holds the exclusive lock of `path` across processes.

  The lock is on a hidden empty file beside `path`, which stays: to remove it
  would part those that wait for it. A killed holder holds nothing.

  Raises:
    DataError: the folder cannot be written.
  """
  path = pathlib.Path(path)
  guard = filelock.FileLock(path.with_name(f'.{path.name}.lock'))
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      guard.acquire(timeout=0)
    except filelock.Timeout:
      logging.info('Waiting for another process that makes %s', path.name)
      guard.acquire()
  except (OSError, NotImplementedError) as error:
    raise DataError(
      f'{path.parent}: cannot be written ({error}); point LORAP_JAX_CACHE to '
      'a folder that can.'
    ) from error
  try:
    yield
  finally:
    guard.release()


@contextlib.contextmanager
def atomic_file(
  path: PathLike, *, locked: bool = True
) -> Generator[pathlib.Path]:
  """Yields a path to write to, moved to `path` only if the block succeeds.

  Processes that may write the same file do it under `lock(path)`; what a killed
  one left is then overwritten by the next. Without a lock, as on machines that
  share a disk, each writes to a name of its own, which a killed one leaves.

  Args:
    path: of the file.
    locked: this process has the lock of `path`, or is the only one.
  """
  path = pathlib.Path(path)
  own = '' if locked else f'.{secrets.token_hex(8)}'
  part = path.with_name(f'{path.name}{own}.part')
  with naming_full_disk(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield part
      os.replace(part, path)
    finally:
      part.unlink(missing_ok=True)


def allocate(path: PathLike) -> None:
  """Takes the room of a file on the disk, before it is mapped and written.

  A disk that fills up under a mapping ends the process without a word.

  Raises:
    OSError: there is not enough.
  """
  if not hasattr(os, 'posix_fallocate'):
    return
  with open(path, 'r+b') as file:
    size = os.fstat(file.fileno()).st_size
    if size:
      os.posix_fallocate(file.fileno(), 0, size)


def read_npz(path: PathLike) -> dict[str, np.ndarray]:
  """Returns the arrays of an npz file; pickled ones are refused.

  So are arrays of over 1 GiB that were compressed to less than 1/64: such a
  file may fill any memory.

  Raises:
    DataError: the file is missing, damaged, holds pickles or would be too
      large.
  """
  try:
    with open(path, 'rb') as file:
      _refuse_bomb(file, path)
      npz = np.load(file, allow_pickle=False)
      if isinstance(npz, np.ndarray):
        raise DataError(f'{path}: a single array; expected an npz file.')
      with npz:
        arrays = {name: npz[name] for name in npz.files}
      # numpy hands on the bytes of a member that is no array.
      for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
          raise DataError(f'{path}: its member {name!r} is no numpy array.')
      return arrays
  except DataError:
    raise
  except FileNotFoundError as error:
    raise DataError(f'{path}: no such file.') from error
  except Exception as error:  # Damage shows in a dozen types of exception.
    if 'allow_pickle' in str(error):
      raise DataError(
        f'{path}: it holds pickled objects, which are not read; an npz file '
        'holds arrays of numbers, booleans or text.'
      ) from error
    raise DataError(f'{path}: not a sound npz file ({error}).') from error


def _refuse_bomb(file: Any, path: PathLike) -> None:
  if zipfile.is_zipfile(file):
    # Readers stop at these sizes, whatever follows.
    size = sum(item.file_size for item in zipfile.ZipFile(file).infolist())
    packed = os.fstat(file.fileno()).st_size
    if size > max(_BOMB_SIZE, _BOMB_RATIO * packed):
      raise DataError(
        f'{path}: {packed:,} bytes that would become {size:,}, more than '
        f'{_BOMB_RATIO} times as many; if that is right, write the file with '
        'numpy.savez, which does not compress.'
      )
  file.seek(0)


def save_arrays(
  path: PathLike,
  arrays: Mapping[str, np.ndarray],
  meta: Mapping[str, Any],
  *,
  locked: bool = True,
) -> None:
  """Writes arrays and a JSON-able record to one self-verifying npz file.

  Args:
    path: of the file.
    arrays: by name.
    meta: the record.
    locked: as of `atomic_file`.
  """
  meta_text = json.dumps(meta, sort_keys=True)
  digest = arrays_digest(arrays, meta_text)
  whole = atomic_file(path, locked=locked)
  with whole as part, open(part, 'wb') as file:
    np.savez(
      file,
      allow_pickle=False,
      **arrays,
      **{_META: np.array(meta_text), _DIGEST: np.array(digest)},
    )


def load_arrays(
  path: PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads what `save_arrays` wrote, and proves that it is unchanged.

  Returns:
    The arrays by name, and the record.

  Raises:
    DataError: the file is missing, is not such a file, or was changed.
  """
  return load_verified(path)[:2]


def load_verified(
  path: PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
  """As `load_arrays`, with the digest that was found as third."""
  arrays = read_npz(path)
  if not {_META, _DIGEST} <= arrays.keys():
    raise DataError(f'{path}: not a cache file of this library.')
  meta_text, expected = str(arrays.pop(_META)), str(arrays.pop(_DIGEST))
  if (found := arrays_digest(arrays, meta_text)) != expected:
    raise DataError(
      f'{path}: damaged cache file, expected digest {expected}, found {found}.'
    )
  return arrays, json.loads(meta_text), found


def arrays_digest(arrays: Mapping[str, np.ndarray], meta_text: str = '') -> str:
  """Returns a SHA-256 of names, types, shapes and values, and of a text."""
  digest = hashlib.sha256(meta_text.encode())
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'\n{name} {array.dtype.str} {array.shape}\n'.encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()
