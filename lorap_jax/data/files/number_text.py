"""Rows of numbers in text, with commas between them.

Some writers end a row with a comma or with blanks, and a text with empty rows
or start it with a byte order mark; none of this changes what is meant.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

_MARK = '\ufeff'  # Byte order mark.
_SHOWN = 40  # Characters of a field in a message.


def parse(
  text: str, *, dtype: str = 'f8', columns: int | None = None, first: int = 1
) -> np.ndarray:
  """Returns the numbers, [rows, columns]; empty rows are left out.

  Args:
    text: rows that end with a newline, numbers with commas between them.
    dtype: floating type of the result.
    columns: numbers per row; None for any, as long as all rows have as many.
    first: what to call the first line in an error message.

  Raises:
    ValueError: there are no rows, a row has another number of numbers, or
      something is not a number. The message names the line.
  """
  if not text.strip(_MARK).strip():
    raise ValueError('it is empty')
  try:
    table = _table(io.StringIO(text), dtype)
  except ValueError:
    try:
      table = _table(_trimmed(text), dtype)
    except ValueError as error:
      raise ValueError(_fault(text, columns, first)) from error
  if columns not in (None, table.shape[1]):
    raise ValueError(_fault(text, columns, first))
  return table


def whole(table: np.ndarray) -> np.ndarray:
  """Returns i64 of floats without a fraction.

  Args:
    table: [rows, columns].

  Raises:
    ValueError: an entry has a fraction, or is beyond the whole numbers that a
      float holds; names its row, from 1.
  """
  good = (np.abs(table) < 2.0**53) & (table == np.floor(table))
  if not good.all():
    row = int(np.argmin(good.all(axis=1)))
    value = table[row, np.argmin(good[row])]
    raise ValueError(f'row {row + 1} has {value:g}, which is no integer')
  return table.astype(np.int64)


def _table(lines, dtype: str) -> np.ndarray:
  return np.loadtxt(lines, dtype, delimiter=',', comments=None, ndmin=2)


def _trimmed(text: str) -> Iterator[str]:
  """The lines, without a byte order mark, blanks and a comma at their end."""
  for line in io.StringIO(text):
    yield line.strip(_MARK).rstrip().removesuffix(',').rstrip()


def _fault(text: str, columns: int | None, first: int) -> str:
  """What is wrong with a text that is no table of numbers."""
  for number, line in enumerate(_trimmed(text), start=first):
    if not line:
      continue
    fields = line.split(',')
    for field in fields:
      try:
        float(field)
      except ValueError:
        return f'line {number}: {field.strip()[:_SHOWN]!r} is not a number'
    columns = columns or len(fields)
    if len(fields) != columns:
      return f'line {number}: {len(fields)} columns, expected {columns}'
  return 'it is not a table of numbers'
