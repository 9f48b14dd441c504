"""Tests of whole superpixel data sets, on the embedded digits."""

import json
import os

import numpy as np
import pytest
from run_folder import made_in

from lorap_jax.data import load_mnist_superpixels
from lorap_jax.data.containers.positions import Positions
from lorap_jax.data.images.slic_graphs import MNIST_RECIPE
from lorap_jax.data.sets import mnist, superpixels


@pytest.fixture(scope='module')
def images():
  return mnist.load_mnist(source='embedded').train.images[::100]


@pytest.fixture(scope='module')
def splits(tmp_path_factory):
  return load_mnist_superpixels(
    source='embedded',
    limit=(60, 20, 10),
    workers=1,
    cache_dir=tmp_path_factory.mktemp('cache'),
  )


def shards_of(cache):
  return sorted(cache.glob('superpixels/*/*.npz'))


def equal(left, right):
  return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_splits_are_sound(splits):
  digits = mnist.load_mnist(source='embedded', limit=(60, 20, 10))
  for name, size in (('train', 60), ('valid', 20), ('test', 10)):
    data = getattr(splits, name)
    data.check(name)
    assert data.num_graphs == size
    assert data.nodes.shape[1] == 3
    np.testing.assert_array_equal(data.labels, getattr(digits, name).labels)
  assert splits.num_classes == 10
  # 28 rows and columns, at 0 to 27 parts.
  assert splits.positions == Positions((1, 2), (27 / 56, 27 / 56))


def test_graphs_have_the_golden_properties(splits):
  data = splits.train
  assert data.n_node.max() <= 75 and data.n_node.min() >= 9
  assert 60 < data.n_node.mean() < 75
  assert (data.n_edge == 8 * data.n_node).all()
  assert data.nodes.min() >= 0 and data.nodes.max() <= 1
  assert (data.senders != data.receivers).all()
  for i in range(data.num_graphs):
    graph = data.take([i])
    assert (np.bincount(graph.senders) == 8).all()
    pairs = set(zip(graph.senders, graph.receivers, strict=True))
    assert len(pairs) == graph.n_edge[0]


def test_source_is_a_json_record(splits):
  record = json.loads(json.dumps(splits.source))
  assert record['counts'] == {'train': 60, 'valid': 20, 'test': 10}
  assert not record['comparable'] and record['superpixels']['neighbors'] == 8
  assert 60 < record['mean_nodes'] < 75
  assert record['mean_edges'] == pytest.approx(8 * record['mean_nodes'])


def test_two_workers_build_what_one_builds(images, tmp_path, monkeypatch):
  monkeypatch.setattr(superpixels, '_PER_SHARD', 7)
  one, two = (
    superpixels.cached_graphs(
      images, MNIST_RECIPE, tmp_path / str(workers), workers=workers
    )
    for workers in (1, 2)
  )
  whole = superpixels.chunk_graphs(images, MNIST_RECIPE)
  assert equal(one, two) and equal(one, whole)
  files = [shards_of(tmp_path / str(workers)) for workers in (1, 2)]
  assert len(files[0]) == len(files[1]) == 6
  for left, right in zip(*files, strict=True):
    assert left.read_bytes() == right.read_bytes()


@pytest.fixture
def cached(images, tmp_path):
  graphs = superpixels.cached_graphs(
    images[:5], MNIST_RECIPE, tmp_path, workers=1
  )
  (path,) = shards_of(tmp_path)
  return graphs, path


def test_cache_is_used(cached, images, tmp_path, monkeypatch):
  graphs, _ = cached
  monkeypatch.setattr(superpixels, 'chunk_graphs', None)
  again = superpixels.cached_graphs(
    images[:5], MNIST_RECIPE, tmp_path, workers=1
  )
  assert equal(graphs, again)


def test_damaged_cache_is_built_again_with_a_warning(
  cached, images, tmp_path, caplog
):
  graphs, path = cached
  sound = path.read_bytes()
  damaged = bytearray(sound)
  damaged[len(damaged) // 2] ^= 1
  path.write_bytes(damaged)
  again = superpixels.cached_graphs(
    images[:5], MNIST_RECIPE, tmp_path, workers=1
  )
  assert equal(graphs, again)
  assert f'{path} is damaged and is built again' in caplog.text
  superpixels.store.load_arrays(path)


@pytest.mark.parametrize('change', ['images', 'recipe', 'version'])
@pytest.mark.usefixtures('cached')
def test_cache_key_knows_what_matters(images, tmp_path, monkeypatch, change):
  use, recipe = images[:5], MNIST_RECIPE
  if change == 'images':
    use = use[::-1]
  elif change == 'recipe':
    recipe = recipe._replace(neighbors=4)
  else:
    monkeypatch.setattr(superpixels, '_CODE_VERSION', -1)
  superpixels.cached_graphs(use, recipe, tmp_path, workers=1)
  assert len(shards_of(tmp_path)) == 2


def test_interrupted_build_leaves_nothing(images, tmp_path, monkeypatch):
  def interrupt(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(superpixels, 'chunk_graphs', interrupt)
  with pytest.raises(KeyboardInterrupt):
    superpixels.cached_graphs(images, MNIST_RECIPE, tmp_path, workers=1)
  (place,) = (tmp_path / 'superpixels').iterdir()
  assert not made_in(place)


def test_workers_must_be_positive():
  with pytest.raises(ValueError, match='workers is 0'):
    load_mnist_superpixels(source='embedded', workers=0)


@pytest.mark.skipif(
  'LORAP_JAX_DATA_DIR' not in os.environ,
  reason='needs MNIST in $LORAP_JAX_DATA_DIR',
)
def test_real_files_give_the_expected_sizes():
  splits = load_mnist_superpixels(
    data_dir=os.environ['LORAP_JAX_DATA_DIR'], limit=(500, 1, 1), workers=1
  )
  assert splits.source['mean_nodes'] == pytest.approx(67, abs=1.5)
