"""Tests of the IDX file format."""

import numpy as np
import pytest

from lorap_jax.data.files import idx
from lorap_jax.data.files.store import DataError

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_bytes_are_those_of_the_format():
  header = '00000803 00000002 00000003 00000004'
  expected = bytes.fromhex(header) + bytes(range(24))
  assert idx.serialize(IMAGES) == expected


@pytest.mark.parametrize('array', [IMAGES, IMAGES[0, 0], IMAGES[:0]])
def test_parse_inverts_serialize(array):
  parsed = idx.parse(idx.serialize(array), 'file')
  assert parsed.dtype == np.uint8
  np.testing.assert_array_equal(parsed, array)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'', 'not an IDX file'),
    (b'\0\0\x0d\x01' + bytes(8), 'not an IDX file'),
    (b'PK\x03\x04', 'not an IDX file'),
    (idx.serialize(IMAGES)[:10], 'truncated IDX header'),
    (idx.serialize(IMAGES)[:-1], r'announces \[2, 3, 4\] values, found 23'),
    (idx.serialize(IMAGES) + b'x', 'found 25 bytes'),
    (b'\0\0\x08\x02' + b'\xff' * 8, 'found 0 bytes'),
  ],
)
def test_damaged_files_are_refused(content, reason):
  with pytest.raises(DataError, match=f'myfile.*{reason}'):
    idx.parse(content, 'myfile')
