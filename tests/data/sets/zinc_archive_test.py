"""Tests of the benchmark's archive, with stand-ins for PyTorch's pickles."""

import collections
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import zinc, zinc_archive

SIZES = {'train': 5, 'val': 3, 'test': 2}
POOL = 8  # Molecules in each pickle.


class Tensor:
  """Pickles as a PyTorch tensor does: a view of a storage of its own."""

  def __init__(self, array, offset=0):
    self.array, self.offset = array, offset

  def __reduce__(self):
    array = self.array
    step = array.itemsize
    base = array.base if array.base is not None else array
    return _rebuild_tensor_v2, (
      Storage(base.ravel()),
      self.offset,
      array.shape,
      tuple(stride // step for stride in array.strides),
      False,
      collections.OrderedDict(),
    )


class Storage:
  def __init__(self, values):
    self.values = values

  def __reduce__(self):
    return _load_from_bytes, (stored(self.values),)


STORAGES = {
  kind: type(name, (), {'__module__': 'torch'})
  for kind, name in (('i8', 'LongStorage'), ('f4', 'FloatStorage'))
}


class Mark:
  def __init__(self, kind):
    self.kind = kind


class StoragePickler(pickle.Pickler):
  key, count = 'key', 0

  def persistent_id(self, obj):
    if isinstance(obj, Mark):
      return 'storage', STORAGES[obj.kind], self.key, 'cpu', self.count, None
    return None


def stored(values, count=None, magic=0x1950A86A20F9469CFC6C):
  """The bytes of a storage, as PyTorch writes them into a pickle."""
  file = io.BytesIO()
  for value in (magic, 1001, {'little_endian': True}):
    pickle.dump(value, file, 2)
  pickler = StoragePickler(file, 2)
  pickler.count = len(values)
  pickler.dump(Mark(values.dtype.str[1:]))
  pickle.dump(['key'], file, 2)
  count = len(values) if count is None else count
  return file.getvalue() + count.to_bytes(8, 'little') + values.tobytes()


def _rebuild_tensor_v2(*_):
  raise AssertionError('never called')


def _load_from_bytes(_):
  raise AssertionError('never called')


_rebuild_tensor_v2.__module__ = 'torch._utils'
_load_from_bytes.__module__ = 'torch.storage'


@pytest.fixture(autouse=True)
def torch(monkeypatch):
  """Modules in which the pickler finds the names that PyTorch uses."""
  for name, contents in (
    ('torch', {kind.__name__: kind for kind in STORAGES.values()}),
    ('torch._utils', {'_rebuild_tensor_v2': _rebuild_tensor_v2}),
    ('torch.storage', {'_load_from_bytes': _load_from_bytes}),
  ):
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
  monkeypatch.setattr(zinc_archive, 'SIZES', SIZES)


def molecule(rng):
  n = int(rng.integers(2, 7))
  bonds = np.zeros((n, n), np.int64)
  for i in range(1, n):
    j = rng.integers(i)
    bonds[i, j] = bonds[j, i] = rng.integers(1, 4)
  return {
    'num_atom': n,
    'atom_type': rng.integers(0, 28, n),
    'bond_type': bonds,
    'logP_SA_cycle_normalized': rng.normal(size=1).astype(np.float32),
  }


@pytest.fixture
def pools():
  rng = np.random.default_rng(0)
  return {split: [molecule(rng) for _ in range(POOL)] for split in SIZES}


CHOSEN = {'train': [7, 0, 3, 2, 5], 'val': [1, 2, 6], 'test': [4, 0]}


def pickled(molecules, protocol=4):
  tensors = [
    {k: Tensor(v) if isinstance(v, np.ndarray) else v for k, v in m.items()}
    for m in molecules
  ]
  return pickle.dumps(tensors, protocol)


def write(folder, files, beside=True):
  """Writes molecules.zip, and the index files beside it or into it."""
  folder.mkdir(exist_ok=True)
  index = {
    f'{split}.index': (','.join(map(str, ids)) + '\n').encode()
    for split, ids in CHOSEN.items()
  }
  files = {**({} if beside else index), **files}
  with zipfile.ZipFile(folder / 'molecules.zip', 'w') as archive:
    for name, content in files.items():
      archive.writestr(f'molecules/{name}', content)
  for name, content in index.items() if beside else ():
    (folder / name).write_bytes(content)
  return folder / 'molecules.zip'


def pickles(pools, **changes):
  files = {f'{split}.pickle': pickled(mols) for split, mols in pools.items()}
  return {**files, **{f'{split}.pickle': c for split, c in changes.items()}}


def check(data, pools):
  for part, split in (
    (data.train, 'train'),
    (data.valid, 'val'),
    (data.test, 'test'),
  ):
    assert part.num_graphs == SIZES[split]
    for i, number in enumerate(CHOSEN[split]):
      graph, expected = part.take([i]), pools[split][number]
      assert graph.nodes[:, 0].tolist() == expected['atom_type'].tolist()
      bonds = np.zeros_like(expected['bond_type'])
      np.add.at(bonds, (graph.senders, graph.receivers), 1)
      np.testing.assert_array_equal(bonds, expected['bond_type'] > 0)
      assert graph.labels[0] == expected['logP_SA_cycle_normalized'][0]


@pytest.mark.parametrize('beside', [True, False])
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_the_archive_is_converted(tmp_path, pools, protocol, beside):
  files = {
    f'{split}.pickle': pickled(mols, protocol) for split, mols in pools.items()
  }
  write(tmp_path / 'given', files, beside)
  data = zinc.load_zinc(data_dir=tmp_path / 'given')
  check(data, pools)
  assert data.source['comparable'] and data.source['name'] == 'zinc12k'


def test_views_of_one_storage_are_read(tmp_path, pools):
  pool = pools['test']
  joint = np.concatenate([m['logP_SA_cycle_normalized'] for m in pool])
  views = [
    {
      'atom_type': Tensor(m['atom_type']),
      'bond_type': Tensor(m['bond_type'].T),
      'logP_SA_cycle_normalized': Tensor(joint[i : i + 1], offset=i),
    }
    for i, m in enumerate(pool)
  ]
  write(tmp_path / 'given', pickles(pools, test=pickle.dumps(views)))
  check(zinc.load_zinc(data_dir=tmp_path / 'given'), pools)


def test_conversion_happens_once(tmp_path, pools, monkeypatch):
  write(tmp_path / 'given', pickles(pools))
  first = zinc.load_zinc(data_dir=tmp_path / 'given')
  monkeypatch.setattr(zinc_archive, 'convert_zinc', None)
  assert zinc.load_zinc(data_dir=tmp_path / 'given').source == first.source


class Evil:
  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def refused(tmp_path, pools, reason, **changes):
  archive = write(tmp_path / 'given', pickles(pools, **changes))
  with pytest.raises(DataError, match=f'{archive}.*{reason}'):
    zinc_archive.convert_zinc(archive, tmp_path / 'out.npz')
  assert not list(tmp_path.glob('out*'))


ONES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
  ('make', 'reason'),
  [
    (lambda: Evil(eval, '1/0'), 'refused to unpickle builtins.eval'),
    (lambda: Evil(open, '/etc/hosts'), 'refused to unpickle .*open'),
    (lambda: Evil(types.SimpleNamespace), 'refused to unpickle types.Simple'),
    (lambda: Evil(_load_from_bytes, b'junk'), 'train.pickle: '),
    (
      lambda: Evil(_load_from_bytes, pickle.dumps(Evil(eval, '1'))),
      'refused to unpickle builtins.eval',
    ),
    (lambda: Tensor(ONES, offset=1), 'leaves its storage'),
    (lambda: Tensor(ONES, offset=-1), 'leaves its storage'),
    (
      lambda: Evil(_rebuild_tensor_v2, Storage(ONES.ravel()), 0, (9**9,), (0,)),
      'leaves its storage',
    ),
    (lambda: {'a': 1}, 'train.pickle is no list of molecules'),
    (lambda: [1] * POOL, 'train.pickle is no list of molecules'),
    (lambda: [{}] * POOL, 'train.pickle is no list of molecules'),
    (lambda: [], 'train.pickle is no list of molecules'),
  ],
)
def test_bad_pickles_are_refused(tmp_path, pools, make, reason):
  refused(tmp_path, pools, reason, train=pickle.dumps(make()))


def test_damaged_storages_are_refused(tmp_path, pools):
  values = np.ones(3, np.float32)
  for content in (stored(values, 4), stored(values, magic=1)):
    evil = pickle.dumps(Evil(_load_from_bytes, content))
    refused(tmp_path, pools, 'train.pickle: (two sizes|not the)', train=evil)
  cut = pickle.dumps(Evil(_load_from_bytes, stored(values)[:-1]))
  refused(tmp_path, pools, 'train.pickle: buffer is smaller', train=cut)


def test_cut_pickles_are_refused(tmp_path, pools):
  whole = pickled(pools['val'])
  for end in range(0, len(whole), len(whole) // 20):
    refused(tmp_path, pools, 'val.pickle', val=whole[:end])


def test_odd_molecules_are_refused(tmp_path, pools):
  odd = pools['test'][4]
  for key, value, reason in (
    ('bond_type', np.arange(9).reshape(3, 3), 'test molecule 4 has odd bonds'),
    (
      'atom_type',
      np.full(len(odd['atom_type']), 300),
      'atom_type is not of integers',
    ),
  ):
    kept, odd[key] = odd[key], value
    refused(tmp_path, pools, reason)
    odd[key] = kept


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    (b'1,2,x', 'val.index: not a list of numbers'),
    (b'1,2', 'val.index: expected 3 different numbers from 0, found 2 in 2'),
    (b'1,2,2', 'val.index: .*found 2 in 3'),
    (b'1,2,-1', 'val.index: expected 3 different numbers from 0'),
    (b'1,2,99', 'val.pickle is no list of molecules'),
  ],
)
def test_bad_index_files_are_named(tmp_path, pools, text, reason):
  archive = write(tmp_path / 'given', pickles(pools))
  (tmp_path / 'given' / 'val.index').write_bytes(text)
  with pytest.raises(DataError, match=reason):
    zinc_archive.convert_zinc(archive, tmp_path / 'out.npz')


def test_missing_files_are_named(tmp_path, pools):
  archive = write(tmp_path / 'given', {'train.pickle': b''})
  with pytest.raises(DataError, match='val.pickle: cannot be read'):
    zinc_archive.convert_zinc(archive, tmp_path / 'out.npz')
  write(tmp_path / 'given', pickles(pools))
  (tmp_path / 'given' / 'test.index').unlink()
  with pytest.raises(DataError, match='test.index: cannot be read'):
    zinc_archive.convert_zinc(archive, tmp_path / 'out.npz')


@pytest.fixture
def mirror(server, monkeypatch, tmp_path, pools):
  folder = tmp_path / 'mirror'
  write(folder, pickles(pools))
  for path in folder.iterdir():
    server.add(f'/zinc/{path.name}', path.read_bytes())
  url = f'{server.url}/zinc/'
  monkeypatch.setattr(zinc, 'ARCHIVE_URLS', (f'{url}molecules.zip',))
  monkeypatch.setattr(zinc, 'INDEX_URL', url)
  return server


def test_download_happens_once(mirror, pools):
  check(zinc.load_zinc(), pools)
  check(zinc.load_zinc(source='download', offline=True), pools)
  source = zinc.load_zinc().source
  assert source['origin'] == 'download' and len(mirror.requests) == 4


@pytest.mark.parametrize(
  ('name', 'body', 'reason'),
  [
    ('molecules.zip', b'<html>', 'web page'),
    ('molecules.zip', b'PK\x03\x04', 'damaged or cut off'),
    ('val.index', b'<html>', 'not a list of numbers'),
  ],
)
def test_bad_downloads_say_what_to_put_where(mirror, name, body, reason):
  mirror.add(f'/zinc/{name}', body)
  with pytest.raises(DataError, match=f'{reason}.*put zinc12k.npz, or'):
    zinc.load_zinc()


def test_offline_asks_no_server(mirror):
  with pytest.raises(DataError, match='molecules.zip: offline, and not downl'):
    zinc.load_zinc(offline=True)
  assert not mirror.requests


def test_an_archive_without_the_pickles_is_refused(tmp_path):
  path = write(tmp_path / 'given', {'train.pickle': b''})
  with pytest.raises(DataError, match='mine: test.pickle, val.pickle missing'):
    zinc_archive.check_archive(store.read_bytes(path), 'mine')
