"""Edge lists as text, in blocks of any size."""

import gzip

import numpy as np
import pytest

from lorap_jax.data.files import edge_text, prepared
from lorap_jax.data.files.store import DataError

EDGES = np.random.default_rng(0).integers(0, 2000, (30, 2))
LINES = [f'{s},{r}' for s, r in EDGES]
TEXTS = {
  'plain': '\n'.join([*LINES, '']),
  'names, no end': '\n'.join(['from,to', *LINES]),
  'windows': '\ufefffrom,to\r\n' + '\r\n'.join([*LINES, '']),
  'comments': '# é\n\n' + '\n# x\n\n'.join(LINES),
}


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('packed', [False, True])
def test_each_edge_is_in_one_block(tmp_path, monkeypatch, text, packed):
  """Blocks end between lines, within them and within their ends."""
  content = TEXTS[text].encode()
  path = tmp_path / f'edges.csv{".gz" * packed}'
  path.write_bytes(gzip.compress(content) if packed else content)
  for block in (*range(16, 32), 100, 10_000):
    monkeypatch.setattr(edge_text, '_BLOCK', block)
    found = np.concatenate(list(edge_text.pieces(path)), axis=1).T
    np.testing.assert_array_equal(found, EDGES)
    job = edge_text.job(path)
    assert job.num_shards == -(-len(content) // block)
    parts = [job.build(i)['edges'] for i in range(job.num_shards)]
    assert {part.dtype for part in parts} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(np.concatenate(parts), EDGES)


def test_lines_longer_than_a_block(tmp_path, monkeypatch):
  monkeypatch.setattr(edge_text, '_BLOCK', 3)
  path = tmp_path / 'edges.txt'
  path.write_text('123456 7\n1 2\n# comment\n')
  job = edge_text.job(path)
  parts = [job.build(i)['edges'] for i in range(job.num_shards)]
  expected = [[123456, 7], [1, 2]]
  assert np.concatenate(parts).tolist() == expected
  found = np.concatenate(list(edge_text.pieces(path)), axis=1)
  assert found.T.tolist() == expected


def test_no_edges(tmp_path):
  path = tmp_path / 'edges.txt'
  path.write_text('')
  job = edge_text.job(path)
  assert job.num_shards == 1 and job.build(0)['edges'].shape == (0, 2)
  assert not list(edge_text.pieces(path))


@pytest.mark.parametrize('line', ['1,2,3', '1,x', f'1,{2**31}'])
def test_another_line_is_named_by_its_block(tmp_path, monkeypatch, line):
  monkeypatch.setattr(edge_text, '_BLOCK', 40)
  path = tmp_path / 'edges.csv'
  path.write_text('10,20\n' * 20 + f'{line}\n' + '10,20\n' * 20)
  with pytest.raises(DataError, match='edges.csv: lines 20 and following'):
    list(edge_text.pieces(path))
  job = edge_text.job(path)
  job.build(2)
  with pytest.raises(DataError, match='edges.csv: lines 20 and following'):
    job.build(3)


def test_another_text_is_another_job(tmp_path):
  path = tmp_path / 'edges.csv'
  path.write_text('1,2\n')
  prepared.write(tmp_path / 'shards', edge_text.job(path), 0)
  path.write_text('1,3\n')
  with pytest.raises(prepared.OtherJobError, match='shard 0 of 1 .* sha256 is'):
    prepared.write(tmp_path / 'shards', edge_text.job(path), 0)


def test_a_text_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(DataError, match='none.csv: cannot be read'):
    edge_text.job(tmp_path / 'none.csv')
  path = tmp_path / 'edges.csv.gz'
  path.write_bytes(gzip.compress(b'1,2\n' * 10_000)[:-20])
  with pytest.raises(DataError, match='edges.csv.gz: cannot be read'):
    edge_text.job(path)
