"""Damaged data files are read as something sound, or named; none runs code."""

import gzip
import io
import json
import pathlib
import pickle
import zipfile

import drawing
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny_run
from hostile import as_users_run, damaged  # noqa: F401

import lorap_jax.data as data_lib
from lorap_jax.data.files import idx
from lorap_jax.data.sets import (
  custom,
  mnist,
  mnist_files,
  ogb,
  ogb_files,
  planetoid,
  tu,
  zinc,
  zinc_archive,
)

pytestmark = pytest.mark.usefixtures('as_users_run')

RNG = np.random.default_rng(0)
ARMED = []


def fire() -> None:
  ARMED.append(1)


class Armed:
  """Calls `fire` if its pickle is run."""

  def __reduce__(self):
    return fire, ()


def npz(arrays) -> bytes:
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def own() -> dict[str, bytes]:
  data = tiny_run.node_data()
  names = ('nodes', 'senders', 'receivers', *custom.NODE_ARRAYS)
  return {'own.npz': npz({name: getattr(data, name) for name in names})}


def own_graphs() -> dict[str, bytes]:
  parts = [tiny_run.dataset(i, 6) for i in (1, 2, 3)]
  arrays = {
    name: np.concatenate([getattr(part, name) for part in parts])
    for name in parts[0]._fields
  }
  arrays |= {'split': np.repeat([0, 1, 2], 6), 'num_classes': np.array(3)}
  return {'own.npz': npz(arrays)}


def tu_arrays() -> dict[str, np.ndarray]:
  n_nodes = RNG.integers(2, 6, 30)
  return {
    'n_nodes': n_nodes.astype(np.uint16),
    'n_edges': np.full(30, 2, np.uint16),
    'edge_src': np.zeros(60, np.uint16),
    'edge_dst': np.ones(60, np.uint16),
    'y': (np.arange(30) % 2).astype(np.uint8),
    'node_label': RNG.integers(0, 3, n_nodes.sum()).astype(np.uint8),
  }


def tu_texts() -> dict[str, bytes]:
  sizes = np.arange(30) % 4 + 2
  first = np.cumsum(sizes) - sizes + 1
  text = lambda lines: ''.join(f'{line}\n' for line in lines).encode()
  return {
    'TOY_A.txt': text(f'{a}, {a + 1}\n{a + 1}, {a}' for a in first),
    'TOY_graph_indicator.txt': text(np.repeat(np.arange(30) + 1, sizes)),
    'TOY_graph_labels.txt': text(np.arange(30) % 2 * 2 - 1),
    'TOY_node_labels.txt': text(RNG.integers(0, 4, sizes.sum())),
    'TOY_node_attributes.txt': text(RNG.normal(size=sizes.sum())),
  }


def tu_zip() -> dict[str, bytes]:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, content in tu_texts().items():
      archive.writestr(f'TOY/{name}', content)
  return {'TOY.zip': file.getvalue()}


def ogb_tables() -> dict[str, bytes]:
  text = lambda rows: ''.join(f'{row}\n' for row in rows)
  tables = {
    'num_nodes': '8\n',
    'num_edges': '3\n',
    'edges': text(['0,1', '2,3', '7,5']),
    'nodes': text(f'{i / 8},{-i}' for i in range(8)),
    'labels': text([0, 1, 2, 3] * 2),
    'train': text([0, 3, 1]),
    'valid': text([5, 4]),
    'test': text([6, 7]),
  }
  names = ogb_files.ARXIV.files
  return {
    names[key]: gzip.compress(table.encode(), mtime=0)
    for key, table in tables.items()
  }


def idx_files() -> dict[str, bytes]:
  shapes = {'x_train': (30, 28, 28), 'x_test': (10, 28, 28)}
  files = {}
  for file in mnist_files.IDX_FILES:
    size = 30 if 'train' in file.key else 10
    array = RNG.integers(0, 256, shapes.get(file.key, size), np.uint8)
    if file.key[0] == 'y':
      array = np.arange(size, dtype=np.uint8) % 10
    files[f'{file.name}.gz'] = gzip.compress(idx.serialize(array), mtime=0)
  return files


def planetoid_npz() -> dict[str, bytes]:
  nodes, classes = 40, 6
  arrays = {
    'edges': RNG.integers(0, nodes, (60, 2)).astype(np.uint16),
    'x_indptr': np.arange(nodes + 1).astype(np.int32),
    'x_indices': (np.arange(nodes) % 5).astype(np.uint16),
    'x_values': np.ones(nodes, np.float32),
    'x_shape': np.array([nodes, 5], np.int32),
    'y': (np.arange(nodes) % classes).astype(np.int8),
    'train_idx': np.arange(12).astype(np.uint16),
    'val_idx': np.arange(12, 20).astype(np.uint16),
    'test_idx': np.arange(20, 30).astype(np.uint16),
  }
  return {'citeseer.npz': npz(arrays)}


def zinc_npz() -> dict[str, bytes]:
  arrays = {}
  for split, size in SIZES.items():
    arrays |= {
      f'{split}_n_atoms': np.full(size, 3, np.uint8),
      f'{split}_n_bonds': np.full(size, 2, np.uint8),
      f'{split}_atom_type': RNG.integers(0, 28, 3 * size).astype(np.uint8),
      f'{split}_bond_src': np.tile([0, 1], size).astype(np.uint8),
      f'{split}_bond_dst': np.tile([1, 2], size).astype(np.uint8),
      f'{split}_y': RNG.normal(size=size).astype(np.float32),
    }
  return {'zinc12k.npz': npz(arrays)}


SIZES = {'train': 4, 'val': 3, 'test': 2}
KINDS = {
  'own nodes': (own, lambda at: data_lib.load_custom(at / 'own.npz')),
  'own graphs': (own_graphs, lambda at: data_lib.load_custom(at / 'own.npz')),
  'tu npz': (
    lambda: {'tu_toy.npz': npz(tu_arrays())},
    lambda at: tu.load_tu('TOY', data_dir=at, fold=0, num_folds=3),
  ),
  'tu text': (
    tu_texts,
    lambda at: tu.load_tu('TOY', data_dir=at, fold=0, num_folds=3),
  ),
  'tu zip': (
    tu_zip,
    lambda at: tu.load_tu('TOY', data_dir=at, fold=0, num_folds=3),
  ),
  'ogb': (
    ogb_tables,
    lambda at: ogb.load_ogbn_arxiv(data_dir=at, expect=None),
  ),
  'idx': (idx_files, lambda at: mnist.load_mnist(data_dir=at)),
  'planetoid': (
    planetoid_npz,
    lambda at: planetoid.load_planetoid('citeseer', data_dir=at),
  ),
  'zinc': (zinc_npz, lambda at: zinc.load_zinc(data_dir=at)),
}


@st.composite
def member_changes(draw, content: bytes) -> bytes:
  """An npz file one of whose arrays is missing, other, or an object."""
  with np.load(io.BytesIO(content)) as file:
    arrays = dict(file)
  name = draw(st.sampled_from(sorted(arrays)))
  array = arrays[name]
  how = draw(
    st.sampled_from(
      ['missing', 'dtype', 'shape', 'short', 'object', 'more', *['value'] * 6]
    )
  )
  if how == 'missing':
    del arrays[name]
  elif how == 'dtype':
    kind = draw(
      st.sampled_from(['f2', 'f8', 'i1', 'u8', '?', 'U3', 'c8', 'S1'])
    )
    with np.errstate(all='ignore'):
      arrays[name] = array.astype(kind)
  elif how == 'shape':
    arrays[name] = array.reshape(
      draw(st.sampled_from([(-1,), (1, -1), (-1, 1)]))
    )
  elif how == 'short':
    arrays[name] = array[..., :-1] if array.ndim else array[None][:0]
  elif how == 'value' and array.size:
    wide = array.astype(np.float64 if array.dtype.kind == 'f' else np.int64)
    numbers = [-1, 0, 1, 40, 2**16, 2**31, -(2**40), 2**62]
    if wide.dtype.kind == 'f':
      numbers += [np.nan, np.inf, -np.inf, 1e300]
    wide.reshape(-1)[draw(st.integers(0, array.size - 1))] = draw(
      st.sampled_from(numbers)
    )
    arrays[name] = wide
  elif how == 'object':
    arrays[name] = np.array([Armed()], object)
  elif how == 'more':
    arrays[draw(st.sampled_from(['weights', 'pickle', 'num_classes']))] = array
  return npz(arrays)


@st.composite
def changes(draw, files):
  """A file of a set, and what it holds now; None for no file."""
  name = draw(st.sampled_from(sorted(files)))
  content = files[name]
  if name.endswith('.npz') and draw(st.integers(0, 3)):
    return name, draw(member_changes(content))
  how = draw(st.sampled_from(['bytes', 'bytes', 'inner', 'none', 'pickle']))
  if how == 'none':
    return name, None
  if how == 'pickle':
    return name, pickle.dumps(Armed())
  if how == 'inner' and name.endswith('.gz'):
    inner = damaged(gzip.decompress(content), draw)
    return name, gzip.compress(inner, mtime=0)
  return name, damaged(content, draw)


def check_sound(found) -> None:
  """What was read can be trained on."""
  if hasattr(found, 'check'):
    found.check('found')
  else:
    for part in (found.train, found.valid, found.test):
      assert part.images.dtype == np.uint8 and part.images.ndim == 3
  json.dumps(found.source)


@drawing.sizes(8, 240)
@pytest.mark.parametrize('kind', KINDS)
def test_damaged_files(kind, count, tmp_path, monkeypatch):
  monkeypatch.setenv('LORAP_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(zinc_archive, 'SIZES', SIZES)
  files, load = KINDS[kind][0](), KINDS[kind][1]
  folder = tmp_path / 'given'
  folder.mkdir()
  if kind == 'idx':  # All that lies behind the check of the digest.
    monkeypatch.setattr(mnist_files, '_check', lambda *args: None)
    monkeypatch.setattr(mnist, '_VALID_SIZE', 10)

  def write(name: str, content: bytes | None) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
      path.write_bytes(content)

  for name, content in files.items():
    write(name, content)
  if kind != 'planetoid':  # It has to be the published set.
    check_sound(load(folder))

  def holds(change):
    name, content = change
    write(name, content)
    try:
      check_sound(load(folder))
    except (ValueError, OSError) as error:
      text = str(error)
      names = str(folder), pathlib.Path(name).name, 'TOY: '
      assert any(given in text for given in names), text
      assert 'Traceback' not in text
    finally:
      write(name, files[name])
    assert not ARMED

  drawing.check(count, holds, changes(files))


def test_the_pickles_are_armed():
  pickle.loads(pickle.dumps(Armed()))
  assert ARMED.pop() == 1 and not ARMED
