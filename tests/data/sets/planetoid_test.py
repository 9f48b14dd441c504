"""Tests of the Planetoid loaders, on a small data set and the real ones."""

import json
import os
import pickle
import struct
import types
import warnings

import numpy as np
import pytest
from run_folder import made_in

from lorap_jax.data.containers import node_dataset
from lorap_jax.data.files import store, unpickle
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import planetoid, planetoid_files

NAME = 'citeseer'
PARTS = ('x', 'tx', 'allx', 'y', 'ty', 'ally', 'graph', 'test.index')
LABELS = np.array([0, 1, 2, 0, 1, 2, 1, 0, 2, -1, 0, 1], np.int32)
# Node 3 has a self loop, the edge from 0 to 2 is there twice, 9 is alone.
GRAPH = {
  **{0: [1, 2, 2], 1: [0], 2: [0, 3], 3: [2, 3], 4: [5], 5: [4]},
  **{6: [7, 8], 7: [6], 8: [6, 11], 9: [], 10: [11], 11: [10, 8]},
}
EDGES = [(0, 1), (0, 2), (2, 3), (3, 3), (4, 5), (6, 7), (6, 8), (8, 11)]
EDGES += [(10, 11)]
TEST = [11, 8, 10]  # Node 9 is described by no file.


class Csr(types.SimpleNamespace):
  """The dense array of a matrix that is pickled in compressed rows."""


def dump(value):
  """A pickle of protocol 2, as Python 2 writes it."""
  return b'\x80\x02' + opcodes(value) + b'.'


def opcodes(value):
  if isinstance(value, int):
    return b'J' + struct.pack('<i', value)
  if isinstance(value, bytes):
    return b'T' + struct.pack('<i', len(value)) + value
  if isinstance(value, tuple):
    return b'(' + b''.join(map(opcodes, value)) + b't'
  if isinstance(value, list):
    return b'](' + b''.join(map(opcodes, value)) + b'e'
  if isinstance(value, dict):
    items = b''.join(opcodes(k) + opcodes(v) for k, v in value.items())
    new = b'ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R'
    return new + b'(' + items + b'u'
  if isinstance(value, Csr):
    return csr_opcodes(value.dense)
  new = (
    b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R'
  )
  dtype = b'cnumpy\ndtype\n' + opcodes(value.dtype.str[1:].encode())
  dtype += b'K\0K\1\x87R(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb'
  shape, content = opcodes(value.shape), opcodes(value.tobytes())
  return new + b'(K\1' + shape + dtype + b'\x89' + content + b'tb'


def csr_opcodes(dense):
  rows, columns = np.nonzero(dense)
  starts = np.searchsorted(rows, np.arange(len(dense) + 1))
  fields = {
    b'_shape': dense.shape,
    b'indptr': starts.astype(np.int32),
    b'indices': columns.astype(np.int32),
    b'data': dense[rows, columns],
  }
  items = b''.join(opcodes(k) + opcodes(v) for k, v in fields.items())
  return b'cscipy.sparse.csr\ncsr_matrix\n)\x81}(' + items + b'ub'


def test_dump_writes_pickles():
  """Python and SciPy read what the tests below take for the real format."""
  sparse = pytest.importorskip('scipy.sparse')
  dense = np.array([[0, 1, 0], [0, 0, 0], [2, 0, 3]], np.float32)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # The old names of SciPy and NumPy.
    matrix, array, graph = (
      pickle.loads(dump(value), encoding='latin1')
      for value in (Csr(dense=dense), dense, GRAPH)
    )
  assert isinstance(matrix, sparse.csr_matrix)
  np.testing.assert_array_equal(matrix.toarray(), dense)
  np.testing.assert_array_equal(array, dense)
  assert graph == GRAPH


@pytest.fixture
def parts():
  """The contents of the eight files, not yet pickled."""
  rng = np.random.default_rng(0)
  nodes = rng.integers(0, 3, (12, 4)).astype(np.float32)
  nodes[:, 0] = 1
  nodes[9] = 0
  one_hot = np.eye(3, dtype=np.int32)[LABELS]
  one_hot[9] = 0
  values = (nodes[:3], nodes[TEST], nodes[:8], *(one_hot[:3], one_hot[TEST]))
  values = dict(zip(PARTS[:5], values, strict=True)) | {'ally': one_hot[:8]}
  for part in ('x', 'tx', 'allx'):
    values[part] = Csr(dense=values[part])
  return {**values, 'graph': GRAPH, 'test.index': b'11\n8\n10\n'}


@pytest.fixture
def expected(parts, monkeypatch):
  """The arrays of the small data set, whose sizes and digest are pinned."""
  nodes = np.zeros((12, 4), np.float32)
  nodes[:8], nodes[TEST] = parts['allx'].dense, parts['tx'].dense
  both = sorted({(v, u) for u, v in EDGES} | set(EDGES))  # Receiver first.
  arrays = {
    'nodes': nodes,
    'senders': np.array([u for _, u in both], np.int32),
    'receivers': np.array([v for v, _ in both], np.int32),
    'labels': LABELS,
    'train_mask': node_dataset.mask_of(np.arange(3), 12),
    'valid_mask': node_dataset.mask_of(np.arange(3, 6), 12),
    'test_mask': node_dataset.mask_of(np.array(TEST), 12),
  }
  published = planetoid_files.Statistics(
    title='CiteSeer',
    nodes=12,
    edges=8,
    self_loops=1,
    features=4,
    classes=3,
    unlabelled=1,
    train=3,
    valid=3,
    test=3,
    sha256=store.arrays_digest(arrays),
  )
  monkeypatch.setitem(planetoid_files.PUBLISHED, NAME, published)
  return arrays


@pytest.fixture
def write(expected, monkeypatch, tmp_path):
  """Writes the eight files to a folder, and pins them."""

  def write_parts(parts, folder=tmp_path / 'given'):
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for part in PARTS:
      value = parts[part]
      content = value if isinstance(value, bytes) else dump(value)
      name = f'ind.{NAME}.{part}'
      (folder / name).write_bytes(content)
      digest = store.content_digest(content)
      files.append(planetoid_files.PinnedFile(name, len(content), digest))
    monkeypatch.setitem(planetoid_files.FILES, NAME, tuple(files))
    return folder

  return write_parts


@pytest.fixture
def npz(expected, write, parts, tmp_path):
  """The arrays of citeseer.npz."""
  write(parts, tmp_path / 'elsewhere')
  rows, columns = np.nonzero(expected['nodes'])
  return {
    'edges': np.array(EDGES, np.uint16),
    'x_indptr': np.searchsorted(rows, np.arange(13)).astype(np.int32),
    'x_indices': columns.astype(np.uint16),
    'x_values': expected['nodes'][rows, columns],
    'x_shape': np.array([12, 4], np.int32),
    'y': LABELS.astype(np.int8),
    'train_idx': np.arange(3, dtype=np.uint16),
    'val_idx': np.arange(3, 6, dtype=np.uint16),
    'test_idx': np.array(TEST, np.uint16),
  }


def check_small(data, expected):
  data.check()
  for field, array in expected.items():
    found = getattr(data, field)
    assert found.dtype == array.dtype, field
    np.testing.assert_array_equal(found, array, field)
  assert data.num_classes == 3


@pytest.mark.parametrize(
  'sub', ['', 'citeseer', 'citeseer/raw', 'CiteSeer/raw', 'planetoid']
)
def test_files_in_data_dir(write, parts, expected, tmp_path, sub):
  write(parts, tmp_path / sub)
  data = planetoid.load_planetoid(NAME, data_dir=tmp_path)
  check_small(data, expected)
  record = json.loads(json.dumps(data.source))
  assert record['origin'] == 'data_dir' and record['comparable']
  assert record['normalize'] == 'none' and not record['subset']
  assert record['counts'] == {
    **{'nodes': 12, 'edges': 8, 'self_loops': 1, 'features': 4, 'classes': 3},
    **{'unlabelled': 1, 'train': 3, 'valid': 3, 'test': 3},
  }
  assert list(record['sha256']) == [f'ind.{NAME}.{part}' for part in PARTS]


def test_npz_gives_the_same(npz, expected, tmp_path):
  np.savez_compressed(tmp_path / f'{NAME}.npz', **npz)
  data = planetoid.load_planetoid(NAME, data_dir=tmp_path)
  check_small(data, expected)
  assert data.source['files'] == [str(tmp_path / f'{NAME}.npz')]
  files = planetoid.load_planetoid(NAME, data_dir=tmp_path / 'elsewhere')
  assert data.source['sha256'] == files.source['sha256']


def test_npz_without_values_has_ones(npz, tmp_path):
  del npz['x_values']
  np.savez_compressed(tmp_path / f'{NAME}.npz', **npz)
  # Some features are 2, so these are other arrays.
  with pytest.raises(DataError, match='expected SHA-256 .* of the arrays'):
    planetoid.load_planetoid(NAME, data_dir=tmp_path)


def test_row_normalization(write, parts, expected):
  data = planetoid.load_planetoid(NAME, data_dir=write(parts), normalize='row')
  sums = data.nodes.sum(axis=1)
  assert sums[9] == 0 and data.nodes.dtype == np.float32
  np.testing.assert_allclose(np.delete(sums, 9), 1, rtol=1e-6)
  ratio = data.nodes * expected['nodes'].sum(axis=1, keepdims=True)
  np.testing.assert_allclose(ratio, expected['nodes'], rtol=1e-6)
  assert data.source['normalize'] == 'row'


def test_data_dir_must_be_complete(write, parts, tmp_path):
  folder = write(parts)
  (folder / f'ind.{NAME}.ty').unlink()
  with pytest.raises(DataError, match='found ind.citeseer.x, .*citeseer.npz'):
    planetoid.load_planetoid(NAME, data_dir=folder)
  with pytest.raises(DataError, match=f'{tmp_path}/nowhere: no such folder'):
    planetoid.load_planetoid(NAME, data_dir=tmp_path / 'nowhere')


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    (lambda content: content[:-1], 'expected [0-9]+ bytes'),
    (lambda content: content[:-2] + b'?.', 'expected SHA-256'),
    (lambda content: b'<html>' + content, 'web page'),
  ],
)
@pytest.mark.parametrize('part', ['allx', 'graph', 'test.index'])
def test_damaged_files_are_named(write, parts, part, damage, reason):
  path = write(parts) / f'ind.{NAME}.{part}'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(DataError, match=f'{path}: .*{reason}'):
    planetoid.load_planetoid(NAME, data_dir=path.parent)


@pytest.mark.parametrize('part', PARTS[:-1])
def test_even_pinned_pickles_cannot_run_code(write, parts, part, tmp_path):
  command = f'touch {tmp_path}/done'.encode()
  parts[part] = b'\x80\x02cposix\nsystem\n' + opcodes((command,)) + b'R.'
  folder = write(parts)
  with pytest.raises(DataError, match=f'ind.{NAME}.{part}: .*posix.system'):
    planetoid.load_planetoid(NAME, data_dir=folder)
  assert not (tmp_path / 'done').exists()
  pickle.loads(parts[part])  # The exploit is real.
  assert (tmp_path / 'done').exists()


@pytest.mark.parametrize(
  ('part', 'value', 'reason'),
  [
    ('graph', {**GRAPH, 9: [12]}, 'edges has an id outside 0 to 11'),
    ('graph', {**GRAPH, 9: [-1]}, 'edges has an id outside'),
    ('graph', {**GRAPH, 9: [4]}, 'expected 8 edges, found 9'),
    ('graph', {**GRAPH, 9: [9]}, 'expected 1 self_loops, found 2'),
    ('graph', {**GRAPH, 9: 5}, 'do not fit together'),
    ('graph', [1, 2], 'do not fit together'),
    ('graph', {**GRAPH, 5: [6, 4], 4: []}, 'expected 8 edges, found 9'),
    ('test.index', b'11\n8\nten\n', 'do not fit together'),
    ('test.index', b'11\n8\n', 'do not fit together'),
    ('test.index', b'11\n8\n99\n', 'do not fit together'),
    ('test.index', b'11\n8\n9\n', 'of the arrays'),
    ('test.index', b'11\n8\n3\n', 'expected 1 unlabelled, found 2'),
    ('test.index', b'11\n8\n8\n', 'expected 1 unlabelled, found 2'),
    ('ty', np.eye(3, dtype=np.int32)[[0, 0, 0]], 'of the arrays'),
    ('ty', np.zeros((2, 3), np.int32), 'do not fit together'),
    ('ally', np.zeros((8, 3), np.int32), 'expected 1 unlabelled, found 9'),
    ('allx', Csr(dense=np.ones((13, 4), np.float32)), 'at most 12 rows of 4'),
    ('tx', Csr(dense=np.ones((3, 5), np.float32)), 'at most 12 rows of 4'),
    ('tx', np.ones((3, 4), np.float32), 'do not fit together'),
    ('tx', Csr(dense=np.ones((3, 4), np.float32)), 'of the arrays'),
  ],
)
def test_structural_errors(write, parts, part, value, reason):
  folder = write({**parts, part: value})
  with pytest.raises(DataError, match=f'{folder}.*{reason}'):
    planetoid.load_planetoid(NAME, data_dir=folder)


@pytest.mark.parametrize(
  ('key', 'change', 'reason'),
  [
    ('edges', lambda a: None, r"has arrays .*expected \['edges', 'x_indptr'"),
    ('edges', lambda a: a.astype(float), 'edges is float64'),
    ('edges', lambda a: a.ravel(), 'edges is uint16 of shape .18,.'),
    ('edges', lambda a: a[:, [0, 1, 1]], 'edges is uint16 of shape .9, 3.'),
    ('edges', lambda a: a[:-1], 'expected 8 edges, found 7'),
    ('edges', lambda a: a + 1, 'edges has an id outside 0 to 11'),
    ('x_indptr', lambda a: a[:-1], 'with 11 row starts'),
    ('x_indptr', lambda a: a[::-1], 'rows of the features do not fit'),
    ('x_indptr', lambda a: a + 1, 'rows of the features do not fit'),
    ('x_indices', lambda a: a[:-1], 'rows of the features do not fit'),
    ('x_indices', lambda a: a * 2, 'column is outside 0 to 3'),
    ('x_values', lambda a: a[:-1], 'rows of the features do not fit'),
    ('x_values', lambda a: a.astype('U1'), 'x_values is <U1'),
    ('x_values', lambda a: a * np.nan, 'node 0 has a feature that is not'),
    ('x_values', lambda a: a * 2, 'of the arrays'),
    ('x_shape', lambda a: a + 1, r'shape \(13, 5\) with 12 row starts'),
    ('x_shape', lambda a: a[:1], r'shape \(12,\) with 12'),
    ('x_shape', lambda a: a[0], r'x_shape is int32 of shape \(\)'),
    ('y', lambda a: a[:-1], 'labels has 11 entries for 12 nodes'),
    ('y', lambda a: a + 1, 'expected 3 classes, found 4'),
    ('y', lambda a: np.maximum(a, 0), 'expected 1 unlabelled, found 0'),
    ('y', lambda a: a[::-1], 'node 2 is in the train split without'),
    ('train_idx', lambda a: a + 1, 'node 3 is in the train and in the valid'),
    ('val_idx', lambda a: a + 4, 'in the valid split without a label'),
    ('test_idx', lambda a: a + 1, 'test has an id outside'),
    ('test_idx', lambda a: a[[0, 0, 1]], 'expected 3 test, found 2'),
  ],
)
def test_other_npz_files_are_refused(npz, tmp_path, key, change, reason):
  npz[key] = change(npz[key])
  arrays = {key: array for key, array in npz.items() if array is not None}
  np.savez(tmp_path / f'{NAME}.npz', **arrays)
  with pytest.raises(DataError, match=f'{tmp_path}.*{reason}'):
    planetoid.load_planetoid(NAME, data_dir=tmp_path)


@pytest.fixture
def mirror(server, write, parts, monkeypatch):
  for path in write(parts).iterdir():
    server.add(f'/data/{path.name}', path.read_bytes())
  urls = (f'{server.url}/none/', f'{server.url}/data/')
  monkeypatch.setattr(planetoid_files, 'MIRRORS', urls)
  return server


def test_download_happens_once(mirror, expected, cache):
  data = planetoid.load_planetoid(NAME)
  check_small(data, expected)
  assert data.source['origin'] == 'download'
  assert len(mirror.requests) == 16  # The first mirror has nothing.
  planetoid.load_planetoid(NAME)
  again = planetoid.load_planetoid(NAME, source='download', offline=True)
  assert len(mirror.requests) == 16
  assert again.source['files'][0] == str(cache / 'planetoid' / 'ind.citeseer.x')


@pytest.mark.parametrize(
  ('page', 'reason'),
  [
    ((404, {}, b''), '404'),
    ((200, {}, b'<!DOCTYPE html><html>log in</html>'), 'web page'),
    ((200, {'Content-Length': 999}, b'cut'), 'connection ended'),
    ((200, {}, b'wrong'), 'expected [0-9]+ bytes'),
  ],
)
def test_bad_downloads_say_what_to_put_where(mirror, cache, page, reason):
  mirror.pages['/data/ind.citeseer.graph'] = page
  with pytest.raises(
    DataError, match=f'ind.citeseer.graph .*{reason}.*put citeseer.npz or the'
  ):
    planetoid.load_planetoid(NAME)
  left = sorted(path.name for path in made_in(cache / 'planetoid'))
  assert left == sorted(f'ind.{NAME}.{part}' for part in PARTS[:6])


def test_changed_downloads_are_not_unpickled(mirror, cache, monkeypatch):
  planetoid.load_planetoid(NAME)
  path = cache / 'planetoid' / f'ind.{NAME}.x'
  content = path.read_bytes()
  path.write_bytes(content[:-2] + b'0.')
  monkeypatch.setattr(unpickle, '_Unpickler', None)
  with pytest.raises(DataError, match=f'{path}: expected SHA-256'):
    planetoid.load_planetoid(NAME, offline=True)


def test_offline_asks_no_server(mirror):
  with pytest.raises(DataError, match='offline, and ind.citeseer.x.*data_dir'):
    planetoid.load_planetoid(NAME, offline=True)
  assert not mirror.requests


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'name': 'Cora'}, r"name is 'Cora'; choose one of \('cora', 'citeseer'"),
    ({'source': 'web'}, "source is 'web'"),
    ({'source': 'data_dir'}, 'data_dir is None'),
    ({'normalize': 'l2'}, "normalize is 'l2'"),
  ],
)
def test_bad_arguments(arguments, reason):
  with pytest.raises(ValueError, match=reason):
    planetoid.load_planetoid(**{'name': NAME, **arguments})


REAL_DIR = os.environ.get('LORAP_JAX_DATA_DIR', '')
NAMES = tuple(planetoid_files.PUBLISHED)


@pytest.mark.skipif(
  not os.path.isdir(f'{REAL_DIR}/raw/planetoid'),
  reason='needs raw/planetoid/ind.* in $LORAP_JAX_DATA_DIR',
)
@pytest.mark.parametrize('name', NAMES)
def test_real_files(name):
  data = planetoid.load_planetoid(name, data_dir=f'{REAL_DIR}/raw/planetoid')
  counts = data.source['counts']
  assert counts['test'] == 1000 and counts['valid'] == 500
  assert counts['train'] == 20 * data.num_classes
  assert np.bincount(data.labels[data.train_mask]).tolist() == (
    [20] * data.num_classes
  )
  assert not data.nodes[data.labels == -1].any()
  assert len(data.senders) == 2 * counts['edges'] + counts['self_loops']


@pytest.mark.skipif(
  not all(os.path.isfile(f'{REAL_DIR}/{name}.npz') for name in NAMES),
  reason='needs cora.npz, citeseer.npz, pubmed.npz in $LORAP_JAX_DATA_DIR',
)
@pytest.mark.parametrize('name', NAMES)
def test_real_npz(name):
  # The pinned digest says that its arrays are those of the files.
  data = planetoid.load_planetoid(name, data_dir=REAL_DIR)
  assert data.source['files'] == [f'{REAL_DIR}/{name}.npz']
