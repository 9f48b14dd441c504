"""Tests of the MNIST sources, on small files with digests of their own."""

import gzip
import json
import os

import numpy as np
import pytest

from lorap_jax.data.files import idx
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import mnist, mnist_files


def all_images(digits):
  parts = (digits.train, digits.valid, digits.test)
  return [image.tobytes() for part in parts for image in part.images]


def check_small(digits, arrays):
  """Checks a 40 / 20 / 20 split of the small files."""
  assert digits.source['counts'] == {'train': 40, 'valid': 20, 'test': 20}
  np.testing.assert_array_equal(digits.test.images, arrays['x_test'])
  np.testing.assert_array_equal(digits.test.labels, arrays['y_test'])
  both = np.concatenate([arrays['x_train'], arrays['x_test']])
  assert sorted(all_images(digits)) == sorted(image.tobytes() for image in both)
  label_of = {
    image.tobytes(): label
    for image, label in zip(arrays['x_train'], arrays['y_train'], strict=True)
  }
  for part in (digits.train, digits.valid):
    for image, label in zip(part.images, part.labels, strict=True):
      assert label_of[image.tobytes()] == label
  assert np.bincount(digits.valid.labels).tolist() == [2] * 10


@pytest.mark.parametrize('layout', ['gz', 'plain', 'dots', 'MNIST/raw', 'npz'])
def test_data_dir_layouts(idx_folder, small_mnist, layout):
  for path in list(idx_folder.iterdir()):
    if layout == 'plain':
      path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
    elif layout == 'dots':
      path.rename(idx_folder / path.name.replace('-idx', '.idx'))
    elif layout == 'MNIST/raw':
      (idx_folder / layout).mkdir(parents=True, exist_ok=True)
      path.rename(idx_folder / layout / path.name)
    if layout in ('plain', 'npz'):
      path.unlink()
  if layout == 'npz':
    np.savez_compressed(idx_folder / 'mnist.npz', **small_mnist)
  digits = mnist.load_mnist(data_dir=idx_folder)
  check_small(digits, small_mnist)
  assert digits.source['origin'] == 'data_dir'
  assert digits.source['comparable'] and not digits.source['subset']
  json.dumps(digits.source)


def test_data_dir_must_exist(tmp_path):
  with pytest.raises(DataError, match=f'{tmp_path}/nowhere: no such folder'):
    mnist.load_mnist(data_dir=tmp_path / 'nowhere')


def test_data_dir_must_be_complete(idx_folder):
  (idx_folder / 't10k-labels-idx1-ubyte.gz').unlink()
  # No silent fall to another source: the files were asked for.
  with pytest.raises(DataError, match='not complete.*train-images.*mnist.npz'):
    mnist.load_mnist(data_dir=idx_folder)


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    (lambda gz: gz[:-30], 'truncated gzip'),
    (lambda gz: b'<html>' + gz, 'web page'),
    (lambda gz: gzip.compress(gzip.decompress(gz)[:-1]), 'expected 68 bytes'),
    (
      lambda gz: gzip.compress(gzip.decompress(gz)[:-1] + b'\x07'),
      'expected SHA-256',
    ),
  ],
)
def test_damaged_idx_files_are_named(idx_folder, damage, reason):
  path = idx_folder / 'train-labels-idx1-ubyte.gz'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(DataError, match=f'{path}.*{reason}'):
    mnist.load_mnist(data_dir=idx_folder)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'y_train': None}, r"has arrays .*expected \['x_train'"),
    ({'y_train': np.zeros(60)}, 'y_train is float64'),
    ({'y_train': np.zeros(60, np.uint8)}, 'y_train as IDX: expected SHA-256'),
    ({'x_test': np.zeros((20, 784), np.uint8)}, 'x_test as IDX: expected'),
  ],
)
def test_other_npz_files_are_refused(tmp_path, small_mnist, change, reason):
  arrays = {**small_mnist, **change}
  arrays = {key: array for key, array in arrays.items() if array is not None}
  np.savez(tmp_path / 'mnist.npz', **arrays)
  with pytest.raises(DataError, match=reason):
    mnist.load_mnist(data_dir=tmp_path)


@pytest.fixture
def mirror(server, monkeypatch, small_mnist):
  for file in mnist_files.IDX_FILES:
    content = gzip.compress(idx.serialize(small_mnist[file.key]))
    server.add(f'/mnist/{file.name}.gz', content)
  monkeypatch.setattr(mnist_files, 'MIRRORS', (f'{server.url}/mnist/',))
  return server


def test_download_happens_once(mirror, small_mnist, cache):
  digits = mnist.load_mnist()
  check_small(digits, small_mnist)
  assert digits.source['origin'] == 'download' and len(mirror.requests) == 4
  mnist.load_mnist()
  again = mnist.load_mnist(source='download', offline=True)
  assert len(mirror.requests) == 4
  assert again.source['files'] == [
    str(cache / 'mnist' / file.name) for file in mnist_files.IDX_FILES
  ]


def test_failed_download_says_what_to_put_where(mirror):
  mirror.pages.clear()
  with pytest.raises(DataError, match='404.*mnist.npz or the four.*data_dir'):
    mnist.load_mnist(source='download')


def test_auto_falls_to_the_embedded_subset_with_a_notice(mirror, caplog):
  mirror.pages.clear()
  digits = mnist.load_mnist()
  assert digits.source['origin'] == 'embedded'
  first, *details = caplog.messages[-1].splitlines()
  assert 'SUBSET' in first and len(first) < 80
  assert '404' in ''.join(details)


def test_offline_asks_no_server(mirror):
  assert mnist.load_mnist(offline=True).source['origin'] == 'embedded'
  with pytest.raises(DataError, match='offline, and train-images'):
    mnist.load_mnist(source='download', offline=True)
  assert not mirror.requests


def test_embedded_subset():
  digits = mnist.load_mnist(source='embedded')
  for part, per_class in (
    (digits.train, 400),
    (digits.valid, 50),
    (digits.test, 50),
  ):
    assert part.images.shape == (10 * per_class, 28, 28)
    assert part.images.dtype == part.labels.dtype == np.uint8
    assert np.bincount(part.labels).tolist() == [per_class] * 10
  assert len(set(all_images(digits))) == 5000  # Disjoint.
  assert digits.source['subset'] and not digits.source['comparable']
  assert 'SUBSET' in digits.source['note']
  json.dumps(digits.source)


def test_embedded_content_is_verified(monkeypatch):
  monkeypatch.setattr(mnist, '_SUBSET_SHA256', '0' * 64)
  with pytest.raises(DataError, match='expected SHA-256 0000'):
    mnist.load_mnist(source='embedded')


def test_limit_keeps_a_fixed_choice():
  full = mnist.load_mnist(source='embedded')
  few = mnist.load_mnist(source='embedded', limit=(30, 20, 10))
  more = mnist.load_mnist(source='embedded', limit=(40, 20, 10))
  assert few.source['counts'] == {'train': 30, 'valid': 20, 'test': 10}
  assert few.source['subset'] and not few.source['comparable']
  assert 'LIMITED to (30, 20, 10)' in few.source['note']
  np.testing.assert_array_equal(few.train.images, more.train.images[:30])
  assert len(set(few.train.labels)) > 5  # Shuffled, not sorted by class.
  known = {image.tobytes() for image in full.valid.images}
  assert all(image.tobytes() in known for image in few.valid.images)


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'source': 'web'}, "source is 'web'"),
    ({'source': 'data_dir'}, 'data_dir is None'),
    ({'limit': (1, 2)}, r'limit is \(1, 2\)'),
    ({'limit': (1, 0, 1)}, 'three positive numbers'),
    ({'limit': (1, 501, 1)}, 'asks for 501 valid digits; there are 500'),
  ],
)
def test_bad_arguments(arguments, reason):
  with pytest.raises(ValueError, match=reason):
    mnist.load_mnist(**{'source': 'embedded', **arguments})


@pytest.mark.skipif(
  'LORAP_JAX_DATA_DIR' not in os.environ,
  reason='needs MNIST in $LORAP_JAX_DATA_DIR',
)
def test_full_mnist():
  digits = mnist.load_mnist(data_dir=os.environ['LORAP_JAX_DATA_DIR'])
  counts = {'train': 55000, 'valid': 5000, 'test': 10000}
  assert digits.source['counts'] == counts
  assert digits.source['comparable']
  assert np.bincount(digits.valid.labels).tolist() == [
    *(493, 562, 496, 511, 487, 452, 493, 522, 488, 496)
  ]
