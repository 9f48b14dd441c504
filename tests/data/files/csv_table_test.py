"""Tests of the tables of numbers."""

import gzip

import numpy as np
import pytest

from lorap_jax.data.files import csv_table
from lorap_jax.data.files.csv_table import Table
from lorap_jax.data.files.store import DataError


def table(text):
  return Table('mine', gzip.compress(text.encode()))


def test_numbers_come_back(monkeypatch):
  monkeypatch.setattr(csv_table, '_BLOCK', 3)  # The last block is shorter.
  values = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
  lines = [','.join(repr(float(v)) for v in row) for row in values]
  found = csv_table.read_table(table('\n'.join(lines)), dtype='f4', rows=10)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
  'content',
  [
    b'1,2\n3,4\n5,6\n',
    gzip.compress(b'1,2\n3') + gzip.compress(b',4\n') + gzip.compress(b'5,6'),
    gzip.compress(b'1,2\n3,4\n5,6\n') + bytes(600),
    gzip.compress(b'\xef\xbb\xbf1,2\r\n3,4\r\n5,6\r\n'),
    gzip.compress(b'1,2,\n3,4, \n5,6\n'),
    gzip.compress(b'1,2\n3,4\n5,6\n\n \n'),
    gzip.compress(b'1, 2 \n 3,4\n5.0,6.'),
  ],
  ids='plain members zeros mark comma empty_line blanks'.split(),
)
@pytest.mark.parametrize('block', [1, 2, 3, 4096])
def test_harmless_forms_hold_the_same(content, block, monkeypatch):
  monkeypatch.setattr(csv_table, '_BLOCK', block)
  found = csv_table.read_table(Table('mine', content), dtype='f4', rows=3)
  np.testing.assert_array_equal(found, [[1, 2], [3, 4], [5, 6]])


def test_both_readers_take_the_same_files():
  for text in (b'12\n', b'\xef\xbb\xbf12', b'12,\n\n'):
    middle = gzip.compress(text[:-2]) + gzip.compress(text[-2:]) + bytes(3)
    for content in (text, gzip.compress(text), middle):
      given = Table('mine', content)
      assert csv_table.read_count(given) == 12
      assert csv_table.read_ids(given, columns=1, below=13).tolist() == [[12]]


def test_columns_stay_as_many_from_block_to_block(monkeypatch):
  monkeypatch.setattr(csv_table, '_BLOCK', 2)
  with pytest.raises(DataError, match='mine: .*line 3: 1 columns, expected 2'):
    csv_table.read_table(table('1,2\n3,4\n5\n6\n'), dtype='f4')


def test_forms_of_numbers():
  found = csv_table.read_table(table('1,-2.5\n1e-3,.5\n'), dtype='f4')
  np.testing.assert_array_equal(found, np.float32([[1, -2.5], [1e-3, 0.5]]))
  ids = csv_table.read_ids(table('0\n2.0\n1\n'), columns=1, below=3)
  assert ids.dtype == np.int64 and ids.tolist() == [[0], [2], [1]]


@pytest.mark.parametrize(
  ('text', 'column', 'count'),
  [('12\n', None, 12), ('12', None, 12), ('a,paper,b\n1,34,5\n', 'paper', 34)],
)
def test_counts(text, column, count):
  assert csv_table.read_count(table(text), column) == count


@pytest.mark.parametrize(
  ('text', 'column', 'reason'),
  [
    ('', None, 'expected a single number, found'),
    ('1\n2\n', None, 'expected a single number'),
    ('1,2\n', None, 'expected a single number'),
    ('x\n', None, 'expected a single number'),
    ('1.5\n', None, 'expected a single number'),
    ('0\n', None, '0 is outside 1 to 10000000'),
    ('10000001\n', None, 'is outside'),
    ('paper\n', 'paper', "single number for 'paper'"),
    ('author\n3\n', 'paper', "single number for 'paper'"),
    ('a,paper\n3\n', 'paper', "single number for 'paper'"),
  ],
)
def test_other_counts_are_refused(text, column, reason):
  with pytest.raises(DataError, match=f'mine: .*{reason}'):
    csv_table.read_count(table(text), column)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'<html>log in</html>', 'web page'),
    (gzip.compress(b'1,2\n3,4\n')[:-9], 'truncated gzip'),
    (
      gzip.compress(b'1,2\n3,4\n')[:10] + b'\7' * 9,
      'damaged gzip file .*invalid block type',
    ),
    (gzip.compress(b'1,2\n3,4\n')[:-8] + bytes(8), 'CRC'),
    (gzip.compress(b'1,2\n3,4\n') + b'\0x', 'other bytes follow'),
    (gzip.compress(b'1,2\n') + gzip.compress(b'3')[:-9], 'truncated gzip'),
    (gzip.compress(b''), '0 rows, expected 2'),
    (gzip.compress(b'1,2\n'), '1 rows, expected 2'),
    (gzip.compress(b'1,2\n3,4\n5,6\n'), 'more than 2 rows'),
    (gzip.compress(b'1\n2\n'), 'line 1: 1 columns, expected 2'),
    (gzip.compress(b'1,2\n3\n'), 'line 2: 1 columns, expected 2'),
    (gzip.compress(b'1,2\n\n3,4\n'), 'a line is empty'),
    (gzip.compress(b'1,2\n3,x\n'), "line 2: 'x' is not a number"),
    (gzip.compress(b'1,2\n3,\n'), 'line 2: 1 columns, expected 2'),
    (gzip.compress('1,2\n3,ä\n'.encode()), "line 2: 'ä' is not a number"),
    (gzip.compress(b'1' * 20000), 'has 16384 characters'),
    (gzip.compress(b'1,2\n' * 10**6), 'more than 2 rows'),
  ],
)
def test_damage(content, reason):
  with pytest.raises(DataError, match=f'mine: .*{reason}'):
    csv_table.read_table(Table('mine', content), dtype='f4', columns=2, rows=2)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('0\n3\n', 'row 1 is not made of integers from 0 to 2'),
    ('0\n1\n-1\n', 'row 2 is not'),
    ('0.5\n', 'row 0 is not'),
    ('nan\n', 'row 0 is not'),
    ('inf\n', 'row 0 is not'),
    ('0\n1\n2\n0\n', 'more than 3 rows'),
    ('0,1\n', 'line 1: 2 columns, expected 1'),
  ],
)
def test_other_ids_are_refused(text, reason):
  with pytest.raises(DataError, match=f'mine: .*{reason}'):
    csv_table.read_ids(table(text), columns=1, below=3)
