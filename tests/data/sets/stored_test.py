"""One large graph in a folder: written in pieces, opened without reading."""

import gzip
import json
import os

import numpy as np
import pytest

from lorap_jax import convert
from lorap_jax.data import sampling
from lorap_jax.data.files import edge_text
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import custom, stored

N = 50


def arrays(seed=0):
  rng = np.random.default_rng(seed)
  part = np.arange(N) % 3
  return {
    'nodes': rng.normal(size=(N, 3)),
    'labels': rng.integers(0, 4, N),
    'train_mask': part == 0,
    'valid_mask': part == 1,
    'test_mask': part == 2,
  }


def ends(seed=0, count=400):
  return np.random.default_rng(seed).integers(0, N, (2, count))


def in_pieces(edges, size=37):
  return lambda: (
    edges[:, start : start + size] for start in range(0, edges.shape[1], size)
  )


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
  monkeypatch.setattr(stored, '_PIECE', 64)


def kinds(count=400):
  return np.random.default_rng(7).integers(0, 3, count)


@pytest.mark.parametrize('undirected', [False, True])
def test_relations_are_those_of_the_arrays(tmp_path, undirected):
  both = np.concatenate([ends(), ends()[:, :40]], axis=1)  # Some twice.
  of = np.concatenate([kinds(), kinds()[:40]])
  options = {'relations': of, 'undirected': undirected}
  write(tmp_path / 'big', in_pieces(both), **options)
  data = custom.load_custom(tmp_path / 'big')
  same = custom.node_dataset(**arrays(), edge_index=both, **options)
  order = np.lexsort((same.senders, same.relations, same.receivers))
  for field in ('senders', 'receivers', 'relations'):
    np.testing.assert_array_equal(
      getattr(data, field), getattr(same, field)[order]
    )
  assert data.num_relations == same.num_relations == (6 if undirected else 3)
  assert isinstance(data.relations, np.memmap)
  data.check()
  stored.check_digests(tmp_path / 'big')
  for field, array in {**arrays(), 'edges': both, 'relations': of}.items():
    np.save(tmp_path / field, array)
  file = lambda field: str(tmp_path / f'{field}.npy')
  masks = [file(f'{split}_mask') for split in ('train', 'valid', 'test')]
  named = [
    f'--{f}={file(f)}' for f in ('nodes', 'edges', 'labels', 'relations')
  ]
  more = ['--undirected'] if undirected else []
  place = str(tmp_path / 'converted')
  assert not convert.main([place, *named, '--splits', *masks, *more])
  texts = [
    (tmp_path / made / stored.MANIFEST).read_text()
    for made in ('big', 'converted')
  ]
  assert texts[0] == texts[1]
  one, other = sampling.in_edges(data), sampling.in_edges(same)
  np.testing.assert_array_equal(one.relation_degree, other.relation_degree)


@pytest.mark.parametrize(
  'relations, reason',
  [
    (kinds(399), '399 relations for 400 edges'),
    (kinds(401), '401 relations for 400 edges'),
    (kinds() - 1, 'relations are -1 to 1; expected 0 to 1'),
    (kinds() / 2, r'relations is float64 \(400,\); expected integers'),
  ],
)
def test_relations_of_other_edges_are_refused(tmp_path, relations, reason):
  with pytest.raises(DataError, match=reason):
    write(tmp_path / 'big', relations=relations)
  assert not (tmp_path / 'big').exists()


def write(folder, edges=None, **changes):
  edges = in_pieces(ends()) if edges is None else edges
  stored.write(folder, edges=edges, **{**arrays(), **changes})


@pytest.mark.parametrize('undirected', [False, True])
def test_is_the_data_set_of_the_arrays(tmp_path, undirected):
  write(tmp_path / 'big', undirected=undirected)
  data = custom.load_custom(tmp_path / 'big')
  same = custom.node_dataset(
    **arrays(), edge_index=ends(), undirected=undirected
  )
  for field in ('nodes', 'labels', 'train_mask', 'valid_mask', 'test_mask'):
    np.testing.assert_array_equal(getattr(data, field), getattr(same, field))
    assert isinstance(getattr(data, field), np.memmap)
  order = np.lexsort((same.senders, same.receivers))
  np.testing.assert_array_equal(data.senders, same.senders[order])
  np.testing.assert_array_equal(data.receivers, same.receivers[order])
  degree = np.bincount(same.receivers, minlength=N)
  np.testing.assert_array_equal(np.diff(data.indptr), degree)
  assert (data.num_classes, data.task) == (same.num_classes, same.task)
  data.check()
  one, other = sampling.in_edges(data), sampling.in_edges(same)
  np.testing.assert_array_equal(one.indptr, other.indptr)
  np.testing.assert_array_equal(one.loops, other.loops)


@pytest.mark.parametrize('shape', ['2 e', 'e 2', 'csv', 'txt.gz'])
def test_command_reads_edges_of_any_form(tmp_path, shape, monkeypatch, capsys):
  monkeypatch.setattr(edge_text, '_BLOCK', 100)
  edges = ends()
  path = tmp_path / f'edges.{shape.replace(" ", "")}'
  if shape in ('2 e', 'e 2'):
    path = tmp_path / 'edges.npy'
    np.save(path, edges if shape == '2 e' else edges.T)
  elif shape == 'csv':
    lines = [f'{s},{r}' for s, r in edges.T]
    path.write_text('\n'.join(['from,to', *lines, '']))
  else:
    with gzip.open(path, 'wt') as file:
      file.write('# from to\n' + ''.join(f'{s}\t{r}\n' for s, r in edges.T))
  given = arrays()
  for name, array in given.items():
    ids = name == 'test_mask'
    np.save(tmp_path / name, np.flatnonzero(array) if ids else array)
  file = lambda name: str(tmp_path / f'{name}.npy')
  splits = [file(f'{split}_mask') for split in ('train', 'valid', 'test')]
  arguments = ['--nodes', file('nodes'), '--labels', file('labels')]
  folder = str(tmp_path / 'big')
  code = convert.main(
    [folder, '--edges', str(path), *arguments, '--splits', *splits, '--check']
  )
  assert code == 0
  assert '50 nodes, 400 edges, 3 features' in capsys.readouterr().out
  write(tmp_path / 'other')
  one, other = (
    json.loads((tmp_path / name / stored.MANIFEST).read_text())
    for name in ('big', 'other')
  )
  assert one == other


@pytest.mark.parametrize(
  'changes, reason',
  [
    ({'nodes': np.full((N, 3), np.nan)}, 'node 0 has a feature that is not'),
    ({'nodes': np.zeros(N)}, r'nodes is float64 \(50,\)'),
    ({'labels': np.arange(N - 1) % 2}, 'has 49 entries for 50 nodes'),
    ({'test_mask': np.zeros(N, bool)}, 'the test split is empty'),
    (
      {'edges': in_pieces(np.array([[0] * 40 + [N], [1] * 41]))},
      'edge 40 goes from node 50 to 1; the nodes are 0 to 49',
    ),
    ({'edges': in_pieces(np.zeros((2, 3)))}, 'edges are float64'),
  ],
)
def test_what_makes_no_folder_is_refused_and_leaves_nothing(
  tmp_path, changes, reason
):
  with pytest.raises(DataError, match=reason):
    write(tmp_path / 'big', **changes)
  assert os.listdir(tmp_path) == []


def test_edges_that_change_between_passes_are_refused(tmp_path):
  lists = iter([ends(0), ends(1)])
  with pytest.raises(DataError, match='others in a second pass'):
    write(tmp_path / 'big', edges=lambda: [next(lists)])
  assert os.listdir(tmp_path) == []


def test_a_folder_is_not_written_over(tmp_path):
  write(tmp_path / 'big')
  with pytest.raises(DataError, match='is there already'):
    write(tmp_path / 'big')


def test_a_damaged_folder_is_named(tmp_path):
  folder = tmp_path / 'big'
  write(folder)
  stored.check_digests(folder)
  values = np.load(folder / 'senders.npy')
  values[0] = (values[0] + 1) % N
  np.save(folder / 'senders.npy', values)
  with pytest.raises(DataError, match=r'senders.npy is not what was written'):
    stored.check_digests(folder)
  assert convert.main([str(folder), '--check']) == 2
  np.save(folder / 'senders.npy', values[:-1])
  with pytest.raises(DataError, match=r'senders.npy is int32 \(399,\)'):
    stored.open_folder(folder)
  (folder / 'labels.npy').unlink()
  (folder / 'senders.npy').unlink()
  with pytest.raises(DataError, match=r'senders.npy cannot be opened'):
    stored.open_folder(folder)
  (folder / stored.MANIFEST).write_text('{"version": 1}')
  with pytest.raises(DataError, match='is damaged or missing'):
    stored.open_folder(folder)


@pytest.mark.parametrize(
  'text',
  [
    '0,1\n2\n',
    '0 1 5\n2\n',
    '0,1\n1,a\n',
    '0,1\nabc 7\n',
    '0 1_0\n',
    '0 99999999999999999999\n',
  ],
)
def test_other_text_is_refused(tmp_path, text):
  path = tmp_path / 'edges.csv'
  path.write_text(text)
  with pytest.raises(DataError, match='edges.csv: lines 0 and following are'):
    list(stored.edge_list(path)())
  with pytest.raises(DataError, match='no such file'):
    stored.edge_list(tmp_path / 'none.csv')


def test_a_damaged_archive_of_text_is_named(tmp_path):
  path = tmp_path / 'edges.csv.gz'
  whole = gzip.compress(b'0,1\n' * 100_000)
  for content in (whole[: len(whole) // 2], b'0,1\n', b'\xff\xfe'):
    path.write_bytes(content)
    with pytest.raises(DataError, match='edges.csv.gz: lines'):
      list(stored.edge_list(path)())


def test_names_and_comments_are_left_out(tmp_path):
  path = tmp_path / 'edges.csv'
  text = '\ufeff# list\r\n"source","target"\r\n\r\n0,1\r\n# more\r\n2,3\r\n'
  path.write_bytes(text.encode())
  (edges,) = stored.edge_list(path)()
  np.testing.assert_array_equal(edges, [[0, 2], [1, 3]])


def test_an_indptr_of_other_edges_is_refused(tmp_path):
  write(tmp_path / 'big')
  ends = np.load(tmp_path / 'big' / 'indptr.npy')
  ends[-1] += 1
  np.save(tmp_path / 'big' / 'indptr.npy', ends)
  with pytest.raises(DataError, match='indptr goes from 0 to 401 for 400'):
    stored.open_folder(tmp_path / 'big')


def test_a_folder_is_made_or_checked(tmp_path, capsys):
  with pytest.raises(SystemExit):
    convert.main([str(tmp_path / 'big'), '--nodes', 'nodes.npy', '--check'])
  assert '--edges, --labels, --splits missing' in capsys.readouterr().err
