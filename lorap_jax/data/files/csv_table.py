"""Tables of numbers in the csv.gz files of the Open Graph Benchmark.

They are read block by block, so that a hostile file is refused before its
content fills the memory.
"""

from __future__ import annotations

import io
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lorap_jax.data.files import number_text, progress, store
from lorap_jax.data.files.store import DataError

_MAX_ROWS = 10_000_000  # The citations of ogbn-mag are 5.4 million.
_MAX_LINE = 1 << 14  # Characters; 128 features have about 1,500.
_BLOCK = 4096  # Lines parsed at a time.


class Table(NamedTuple):
  """A csv file: its name, for error messages, and its content, gzip or not."""

  name: str
  content: bytes


def read_count(table: Table, column: str | None = None) -> int:
  """Returns the one number of a table.

  Args:
    table: one line with one number; with `column`, two lines, of which the
      first names the columns.
    column: the column to read.

  Raises:
    DataError: it is something else, or no number from 1 to ten million.
  """
  text = store.gunzip(table.content, table.name, max_size=_MAX_LINE)
  rows = [
    line.removesuffix(',').split(',')
    for line in text.decode('utf-8-sig', errors='replace').split()
  ]
  try:
    if column is None:
      ((value,),) = rows
    else:
      header, values = rows
      value = values[header.index(column)]
    count = int(value)
  except (ValueError, IndexError) as error:
    raise DataError(
      f'{table.name}: expected a single number'
      f'{f" for {column!r}" if column else ""}, found {text[:80]!r}.'
    ) from error
  if not 1 <= count <= _MAX_ROWS:
    raise DataError(
      f'{table.name}: {count} is outside 1 to {_MAX_ROWS}, the largest table '
      'that is read.'
    )
  return count


def read_table(
  table: Table,
  *,
  dtype: str,
  columns: int | None = None,
  rows: int | None = None,
  max_rows: int | None = None,
) -> np.ndarray:
  """Returns [rows, columns] of a table of numbers without a header.

  Args:
    table: the table.
    dtype: type of the result.
    columns: number of columns that it must have; None for any.
    rows: number of rows that it must have; None for any.
    max_rows: most rows that are read; `rows` by default.

  Raises:
    DataError: the file is damaged, has no rows or another shape, or something
      in it is not a number. The message names the line, from 1.
  """
  limit = max_rows or rows or _MAX_ROWS
  store.refuse_web_page(table.content, table.name)
  blocks: list[np.ndarray] = []
  count = 0
  description = f'Reading {pathlib.PurePath(table.name).name}'
  try:
    plain = store.open_gzip(table.content)
    with (
      io.TextIOWrapper(plain, encoding='utf-8-sig', errors='replace') as file,
      progress.track(description, limit) as advance,
    ):
      for text in _texts(file):
        block = number_text.parse(
          text, dtype=dtype, columns=columns, first=count + 1
        )
        columns = block.shape[1]
        count += len(block)
        if count > limit:
          raise ValueError(f'more than {limit} rows')
        blocks.append(block)
        advance(len(block))
    if not blocks or rows not in (None, count):
      raise ValueError(f'{count} rows, expected {rows or "some"}')
    return np.concatenate(blocks)
  except store.GZIP_ERRORS as error:
    raise DataError(f'{table.name}: {store.gzip_fault(error)}.') from error
  except ValueError as error:
    raise DataError(f'{table.name}: not a sound table ({error}).') from error


def read_ids(
  table: Table, *, columns: int, below: int, rows: int | None = None
) -> np.ndarray:
  """Returns i64[rows, columns] of a table of integers from 0 to `below - 1`.

  Args:
    table: the table.
    columns: number of columns that it must have.
    below: the smallest integer that is too large.
    rows: number of rows that it must have; None for at most `below`.

  Raises:
    DataError: the file is no table of that shape, or an entry is no such
      integer; names the line or the row.
  """
  # As floats, since some writers leave a decimal point in whole numbers.
  values = read_table(
    table, dtype='f8', columns=columns, rows=rows, max_rows=rows or below
  )
  good = (values >= 0) & (values < below) & (values == np.floor(values))
  if not good.all():
    row = int(np.argmin(good.all(axis=1)))
    raise DataError(
      f'{table.name}: row {row} is not made of integers from 0 to {below - 1}.'
    )
  return values.astype(np.int64)


def _texts(file: io.TextIOBase) -> Iterator[str]:
  """Yields some lines at a time; bounded, even without any line end."""
  while lines := list(
    itertools.islice(iter(lambda: file.readline(_MAX_LINE), ''), _BLOCK)
  ):
    if any(len(line) == _MAX_LINE for line in lines):
      raise ValueError(f'a line has {_MAX_LINE} characters')
    empty = (i for i, line in enumerate(lines) if not line.strip())
    end = next(empty, len(lines))
    if end:
      yield ''.join(lines[:end])
    if end < len(lines):
      rest = ''.join(lines[end:]) + file.read(_MAX_LINE)
      if rest.strip() or len(rest) >= _MAX_LINE:
        raise ValueError('a line is empty')
      return
