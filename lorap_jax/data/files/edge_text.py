"""Edge lists as text, read in blocks, in order or one by one.

Two integers in each line, by comma or white space. Names in the first line, and
lines that begin with #, are left out; .gz files are unpacked as they are read.
Block i holds the lines that begin in bytes i B to (i + 1) B of the text,
B = 32 MiB: about two million edges.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import pathlib
import zlib
from collections.abc import Generator, Iterator

import numpy as np

from lorap_jax.data.files.prepared import Job
from lorap_jax.data.files.store import DataError, PathLike

KIND = 'edges of a text'
_VERSION = 1  # Raise it when the same text gives other arrays.
_BLOCK = 1 << 25
_PIECE = 1 << 20
_FAULTS = (ValueError, EOFError, OSError, zlib.error)


def pieces(path: PathLike) -> Iterator[np.ndarray]:
  """The edges of all blocks in order, i32[2, k] each, but for empty ones.

  Raises:
    DataError: a line is something else; says where.
  """
  index = 0
  try:
    with _opened(path) as file:
      while (text := _lines(file, (index + 1) * _BLOCK)) is not None:
        edges = _parsed(text, header=not index)
        if len(edges):
          yield edges.T
        index += 1
  except _FAULTS as error:
    raise _refusal(path, index * _BLOCK, error) from error


def job(path: PathLike) -> Job:
  """The edges of a text in shards, one for each block.

  A .gz file is unpacked up to its block, by each that makes a shard.

  Args:
    path: of the text.

  Returns:
    A job whose arrays are `edges`, i32[k, 2].

  Raises:
    DataError: the file cannot be read.
  """
  path = pathlib.Path(path).expanduser()
  try:
    with open(path, 'rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
    size = _size(path)
  except _FAULTS as error:
    raise DataError(f'{path}: cannot be read ({error!s:.200}).') from error
  record = {
    'kind': KIND,
    'version': _VERSION,
    'sha256': digest,
    'block': _BLOCK,
  }
  count = max(-(-size // _BLOCK), 1)
  return Job(record, count, functools.partial(_block, str(path), _BLOCK))


def _block(path: str, size: int, index: int) -> dict[str, np.ndarray]:
  start = index * size
  try:
    with _opened(path) as file:
      if index:  # The line that began before, or the end of it.
        file.seek(start - 1)
        file.readline()
      text = _lines(file, start + size) or b''
    return {'edges': _parsed(text, header=not index)}
  except _FAULTS as error:
    raise _refusal(path, start, error) from error


def _lines(file: io.BufferedIOBase, end: int) -> bytes | None:
  """Lines from here on that begin before `end`; None if the text has ended."""
  if file.tell() >= end:  # A longer line than a block was before.
    return b''
  text = file.read(end - file.tell())
  if not text:
    return None
  return text if text.endswith(b'\n') else text + file.readline()


def _parsed(text: bytes, *, header: bool) -> np.ndarray:
  lines = io.StringIO(text.decode('utf-8-sig'), newline=None)
  rows = [n for n in lines if n.strip() and n.lstrip()[0] != '#']
  if header and rows:
    rows = rows[rows[0].lstrip(' \t"\'')[:1].isalpha() :]
  if not rows:
    return np.zeros((0, 2), np.int32)
  text_rows = (row.replace(',', ' ') for row in rows)
  values = np.loadtxt(text_rows, np.int64, ndmin=2)
  if values.shape[1] != 2:
    raise ValueError(f'{values.shape[1]} numbers in each line')
  edges = values.astype(np.int32)
  if (edges != values).any():
    raise ValueError(f'node {values[edges != values][0]} is beyond int32')
  return edges


def _refusal(path: PathLike, start: int, error: Exception) -> DataError:
  done = 0
  with contextlib.suppress(*_FAULTS), _opened(path) as file:
    while part := file.read(min(_PIECE, start)):
      done += part.count(b'\n')
      start -= len(part)
  return DataError(
    f'{path}: lines {done} and following are not two integers each: '
    f'{error!s:.200}'
  )


@contextlib.contextmanager
def _opened(path: PathLike) -> Generator[io.BufferedIOBase]:
  is_gzip = pathlib.Path(path).suffix == '.gz'
  with (gzip.open if is_gzip else open)(path, 'rb') as file:
    yield file  # pyrefly: ignore


def _size(path: pathlib.Path) -> int:
  if path.suffix != '.gz':
    return path.stat().st_size
  with _opened(path) as file:
    return sum(len(part) for part in iter(lambda: file.read(_PIECE), b''))
