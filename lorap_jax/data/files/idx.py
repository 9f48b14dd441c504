"""The IDX file format: unsigned bytes with a short header.

Two zero bytes, the type (8, unsigned byte), the number of axes, each axis as a
big-endian 32-bit integer, then the values with the last axis fastest.
"""

from __future__ import annotations

import math

import numpy as np

from lorap_jax.data.files.store import DataError


def parse(content: bytes, name: str) -> np.ndarray:
  """Returns the u8 array that an IDX file holds.

  Args:
    content: the file, decompressed.
    name: how to call the file in an error message.

  Raises:
    DataError: the header or the length is wrong.
  """
  if content[:3] != b'\0\0\x08' or len(content) < 4:
    raise DataError(
      f'{name}: not an IDX file of bytes (starts with {content[:4].hex()!r}, '
      "expected '000008..')."
    )
  start = 4 + 4 * content[3]
  if len(content) < start:
    raise DataError(f'{name}: truncated IDX header.')
  shape = [int(n) for n in np.frombuffer(content[4:start], '>u4')]
  if len(content) - start != math.prod(shape):
    raise DataError(
      f'{name}: the header announces {shape} values, found '
      f'{len(content) - start} bytes.'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def serialize(array: np.ndarray) -> bytes:
  """Returns the IDX file of a u8 array; `parse` inverts it."""
  header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, '>u4').tobytes()
  return header + array.tobytes()
