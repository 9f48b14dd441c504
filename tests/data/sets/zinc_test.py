"""Tests of ZINC, on small molecules; also see zinc_archive_test."""

import json
import os

import numpy as np
import pytest

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import zinc, zinc_archive

SIZES = {'train': 6, 'val': 3, 'test': 2}


@pytest.fixture(autouse=True)
def small_zinc(monkeypatch):
  monkeypatch.setattr(zinc_archive, 'SIZES', SIZES)


def small_arrays(seed=0):
  """Trees of 2 to 6 atoms; atom i > 0 has a bond with an atom before it."""
  rng = np.random.default_rng(seed)
  arrays = {}
  for split, size in SIZES.items():
    n_atoms = rng.integers(2, 7, size, np.uint8)
    ends = [(rng.integers(i), i) for n in n_atoms for i in range(1, n)]
    source, target = np.array(ends, np.uint8).T
    arrays |= {
      f'{split}_n_atoms': n_atoms,
      f'{split}_n_bonds': n_atoms - 1,
      f'{split}_atom_type': rng.integers(0, 28, n_atoms.sum(), np.uint8),
      f'{split}_bond_src': source,
      f'{split}_bond_dst': target,
      f'{split}_y': rng.normal(size=size).astype(np.float32),
    }
  return arrays


@pytest.fixture
def given(tmp_path):
  folder = tmp_path / 'given'
  folder.mkdir()
  np.savez(folder / 'zinc12k.npz', **small_arrays(), other=np.zeros(3))
  return folder


def test_molecules_become_graphs(given):
  data = zinc.load_zinc(data_dir=given)
  arrays = small_arrays()
  for part, split in (
    (data.train, 'train'),
    (data.valid, 'val'),
    (data.test, 'test'),
  ):
    part.check(split)
    get = lambda key, split=split: arrays[f'{split}_{key}']
    assert part.nodes.tolist() == [[float(kind)] for kind in get('atom_type')]
    np.testing.assert_array_equal(part.labels, get('y'))
    assert part.labels.dtype == np.float32
    np.testing.assert_array_equal(part.n_node, get('n_atoms'))
    bond = 0
    for i, count in enumerate(get('n_bonds')):
      graph = part.take([i])
      edges = sorted(zip(graph.senders, graph.receivers, strict=True))
      expected = []
      for _ in range(count):
        u, v = get('bond_src')[bond], get('bond_dst')[bond]
        expected += [(u, v), (v, u)]
        bond += 1
      assert edges == sorted(expected)
  assert data.num_classes == 1 and data.task == 'regression'


def test_another_draw_of_the_training_molecules_says_so(given):
  source = json.loads(json.dumps(zinc.load_zinc(data_dir=given).source))
  assert 'TRAIN IS NOT the official choice' in source['note']
  assert source['name'] == 'zinc12k-other-train' and not source['comparable']
  assert source['num_atom_types'] == 28
  path = given / 'zinc12k.npz'
  assert source['sha256'] == {
    path.name: store.content_digest(path.read_bytes())
  }
  np.savez(path, **small_arrays(), official=np.array(True))
  source = zinc.load_zinc(data_dir=given).source
  assert source['name'] == 'zinc12k' and source['comparable']
  assert 'official' not in source['note']


def test_limit(given):
  data = zinc.load_zinc(data_dir=given, limit=(4, 2, 1))
  assert data.source['counts'] == {'train': 4, 'valid': 2, 'test': 1}
  assert data.train.num_graphs == 4 and data.source['subset']


def test_missing_files_say_what_to_put_where(tmp_path):
  with pytest.raises(
    DataError, match=f'{tmp_path}: ZINC-12k is not there. Put in it zinc12k.npz'
  ):
    zinc.load_zinc(data_dir=tmp_path)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'val_y': None}, 'val_y is missing'),
    (
      {'val_y': np.zeros(3, int)},
      r'val_y is int64 of shape \(3,\); expected floats',
    ),
    ({'test_n_atoms': np.zeros(2)}, 'test_n_atoms is float64 of shape'),
    ({'test_n_atoms': np.ones(3, np.uint8)}, 'expected 2 test molecules, fo'),
    ({'test_n_atoms': np.ones(2, np.uint8)}, 'test: nodes has .* add up to 2'),
    ({'test_y': np.zeros(3, np.float32)}, 'test: labels has 3 entries for 2'),
    ({'test_y': np.full(2, np.inf)}, 'test: graph 0 has a label that is not'),
    ({'test_bond_src': np.zeros(1, np.uint8)}, 'test has bonds with one end'),
    ({'train_n_bonds': np.zeros(6, np.uint8)}, 'train: senders has .* up to 0'),
    ({'train_atom_type': np.full(99, 28, np.uint8)}, 'has the atom type 28'),
  ],
)
def test_bad_files_are_named(given, change, reason):
  arrays = {**small_arrays(), **change}
  arrays = {key: array for key, array in arrays.items() if array is not None}
  np.savez(given / 'zinc12k.npz', **arrays)
  with pytest.raises(DataError, match=f'{given}/zinc12k.npz.*{reason}'):
    zinc.load_zinc(data_dir=given)


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'source': 'embedded'}, "source is 'embedded'"),
    ({'limit': (1, 2)}, 'three positive numbers'),
    ({'limit': (1, 4, 1)}, 'asks for 4 valid molecules; there are 3'),
  ],
)
def test_bad_arguments(given, arguments, reason):
  with pytest.raises(ValueError, match=reason):
    zinc.load_zinc(data_dir=given, **arguments)


@pytest.mark.skipif(
  'LORAP_JAX_DATA_DIR' not in os.environ,
  reason='needs ZINC-12k in $LORAP_JAX_DATA_DIR',
)
def test_real_molecules(monkeypatch):
  monkeypatch.undo()
  try:
    data = zinc.load_zinc(data_dir=os.environ['LORAP_JAX_DATA_DIR'])
  except DataError as error:
    pytest.skip(str(error))
  counts = {'train': 10000, 'valid': 1000, 'test': 1000}
  assert data.source['counts'] == counts
  sizes = np.concatenate([data.train.n_node, data.test.n_node])
  assert sizes.mean() == pytest.approx(23.15, abs=0.1)
  assert 9 <= sizes.min() and sizes.max() <= 38
  assert data.valid.labels.std() == pytest.approx(2.0, abs=0.2)
