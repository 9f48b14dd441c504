"""Tests of CIFAR-10, on small files with digests of their own."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import cifar10, cifar10_files

FOLDER = 'cifar-10-batches-bin'


def smooth_images(n, seed):
  """Colour images that vary slowly, as photographs do, u8[n, 32, 32, 3]."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (n, 5, 5, 3), np.uint8)
  return np.stack(
    [np.array(Image.fromarray(c).resize((32, 32))) for c in coarse]
  )


@pytest.fixture
def small_cifar(monkeypatch):
  """Pins six files of 20 images; returns images, classes and content."""
  files, contents, images, labels = [], {}, [], []
  for i, file in enumerate(cifar10_files.BIN_FILES):
    images.append(smooth_images(20, i))
    labels.append((np.arange(20, dtype=np.uint8) + i) % 10)
    content = b''
    for image, label in zip(images[-1], labels[-1], strict=True):
      content += bytes([label])  # Then all red values, all green, all blue.
      content += b''.join(image[:, :, c].tobytes() for c in range(3))
    digest = store.content_digest(content)
    files.append(file._replace(sha256=digest, count=20))
    contents[file.name] = content
  monkeypatch.setattr(cifar10_files, 'BIN_FILES', tuple(files))
  monkeypatch.setattr(cifar10, '_VALID_SIZE', 30)
  return np.concatenate(images), np.concatenate(labels), contents


def archive(contents):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
    for name, content in {'readme.html': b'<html>', **contents}.items():
      info = tarfile.TarInfo(f'{FOLDER}/{name}')
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


def check_small(found, images, labels):
  """Checks a 70 / 30 / 20 split of the small files."""
  assert found.source['counts'] == {'train': 70, 'valid': 30, 'test': 20}
  np.testing.assert_array_equal(found.test.images, images[100:])
  np.testing.assert_array_equal(found.test.labels, labels[100:])
  label_of = {
    image.tobytes(): label
    for image, label in zip(images[:100], labels[:100], strict=True)
  }
  for part in (found.train, found.valid):
    for image, label in zip(part.images, part.labels, strict=True):
      assert label_of.pop(image.tobytes()) == label
  assert not label_of
  assert np.bincount(found.valid.labels).tolist() == [3] * 10


def write(folder, contents):
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in contents.items():
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
  'layout', ['', FOLDER, f'cifar10/{FOLDER}', 'tar', 'cifar10/tar']
)
def test_data_dir_layouts(small_cifar, tmp_path, layout):
  images, labels, contents = small_cifar
  if 'tar' in layout:
    folder = tmp_path / layout.removesuffix('tar')
    write(folder, {cifar10_files.ARCHIVE: archive(contents)})
  else:
    write(tmp_path / layout, contents)
  found = cifar10.load_cifar10(data_dir=tmp_path)
  check_small(found, images, labels)
  source = json.loads(json.dumps(found.source))
  assert source['name'] == 'cifar10' and source['origin'] == 'data_dir'
  assert source['comparable'] and not source['subset']
  assert source['sha256'].keys() == contents.keys()


def test_missing_files_say_what_to_put_where(small_cifar, tmp_path):
  with pytest.raises(
    DataError, match=f'{tmp_path}: CIFAR-10 is not there. Put .*binary.tar.gz'
  ):
    cifar10.load_cifar10(data_dir=tmp_path)


@pytest.mark.parametrize(
  'name', ['cifar-10-python.tar.gz', 'cifar-10-batches-py/data_batch_1']
)
def test_the_pickled_version_is_refused_with_a_hint(tmp_path, name):
  (tmp_path / name).parent.mkdir(exist_ok=True)
  (tmp_path / name).touch()
  with pytest.raises(DataError, match='python version.*cifar-10-binary.tar.gz'):
    cifar10.load_cifar10(data_dir=tmp_path)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (lambda files: files.pop('test_batch.bin'), 'test_batch.bin is missing'),
    (
      lambda files: files.update({'data_batch_2.bin': b'\0' * 3073 * 20}),
      'data_batch_2.bin: expected SHA-256',
    ),
    (
      lambda files: files.update({'data_batch_3.bin': b'\0' * 3073}),
      'data_batch_3.bin: expected 61460 bytes',
    ),
  ],
)
def test_bad_archives_are_named(small_cifar, tmp_path, change, reason):
  contents = dict(small_cifar[2])
  change(contents)
  path = tmp_path / cifar10_files.ARCHIVE
  path.write_bytes(archive(contents))
  with pytest.raises(DataError, match=f'{path}: {reason}'):
    cifar10.load_cifar10(data_dir=tmp_path)


def test_cut_archives_and_missing_files_are_named(small_cifar, tmp_path):
  path = tmp_path / cifar10_files.ARCHIVE
  path.write_bytes(archive(small_cifar[2])[:-100])
  with pytest.raises(DataError, match=f'{path}: truncated gzip'):
    cifar10.load_cifar10(data_dir=tmp_path)
  write(tmp_path, small_cifar[2])
  (tmp_path / 'data_batch_4.bin').unlink()
  with pytest.raises(DataError, match='data_batch_4.bin: cannot be read'):
    cifar10.load_cifar10(data_dir=tmp_path)


def jpeg(image, **changes):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, **{'format': 'JPEG', **changes})
  return buffer.getvalue()


def lossy_arrays(images, labels, **changes):
  arrays = {}
  for split, part in (('train', slice(100)), ('test', slice(100, None))):
    files = [jpeg(image, **changes) for image in images[part]]
    arrays[f'jpeg_{split}'] = np.frombuffer(b''.join(files), np.uint8)
    arrays[f'size_{split}'] = np.array([len(f) for f in files], np.uint16)
    arrays[f'y_{split}'] = labels[part]
  return arrays


def test_the_lossy_copy_says_so(small_cifar, tmp_path):
  images, labels, _ = small_cifar
  np.savez(tmp_path / 'cifar10_jpeg.npz', **lossy_arrays(images, labels))
  found = cifar10.load_cifar10(data_dir=tmp_path)
  decoded = [
    np.asarray(Image.open(io.BytesIO(jpeg(image)))) for image in images
  ]
  check_small(found, np.stack(decoded), labels)
  assert found.source['name'] == 'cifar10-lossy-copy'
  assert 'LOSSY COPY' in found.source['note']
  assert not found.source['comparable']


def test_the_true_files_go_before_the_lossy_copy(small_cifar, tmp_path):
  images, labels, contents = small_cifar
  np.savez(tmp_path / 'cifar10_jpeg.npz', **lossy_arrays(images, labels))
  write(tmp_path, {cifar10_files.ARCHIVE: archive(contents)})
  check_small(cifar10.load_cifar10(data_dir=tmp_path), images, labels)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'y_test': None}, 'y_test is missing or of another type'),
    ({'y_test': np.zeros(20)}, 'y_test is missing or of another type'),
    ({'y_test': np.full(20, 10, np.uint8)}, 'y_test has the class 10'),
    ({'y_test': np.zeros(19, np.uint8)}, 'do not fit together.*19 classes'),
    ({'size_train': np.full(100, 5, np.uint16)}, 'do not fit together'),
  ],
)
def test_bad_lossy_copies_are_named(small_cifar, tmp_path, change, reason):
  arrays = {**lossy_arrays(*small_cifar[:2]), **change}
  arrays = {key: array for key, array in arrays.items() if array is not None}
  np.savez(tmp_path / 'cifar10_jpeg.npz', **arrays)
  with pytest.raises(DataError, match=f'cifar10_jpeg.npz: .*{reason}'):
    cifar10.load_cifar10(data_dir=tmp_path)


@pytest.mark.parametrize(
  ('images', 'options', 'reason'),
  [
    (lambda x: x[:, :16], {}, r'train image 0: RGB of size \(32, 16\)'),
    (lambda x: x[..., 0], {}, 'train image 0: L of size'),
    (lambda x: x, {'format': 'PNG'}, 'train image 0: damaged JPEG'),
  ],
)
def test_other_pictures_are_named(
  small_cifar, tmp_path, images, options, reason
):
  arrays = lossy_arrays(images(small_cifar[0]), small_cifar[1], **options)
  np.savez(tmp_path / 'cifar10_jpeg.npz', **arrays)
  with pytest.raises(DataError, match=reason):
    cifar10.load_cifar10(data_dir=tmp_path)


@pytest.fixture
def mirror(server, monkeypatch, small_cifar):
  content = archive(small_cifar[2])
  url = server.add('/cifar-10-binary.tar.gz', content)
  monkeypatch.setattr(cifar10_files, 'URLS', (url,))
  monkeypatch.setattr(
    cifar10_files, 'ARCHIVE_SHA256', store.content_digest(content)
  )
  return server


def test_download_happens_once(mirror, small_cifar, cache):
  check_small(cifar10.load_cifar10(), *small_cifar[:2])
  again = cifar10.load_cifar10(source='download', offline=True)
  cifar10.load_cifar10()
  assert len(mirror.requests) == 1
  assert again.source['files'] == [
    str(cache / 'cifar10' / 'cifar-10-binary.tar.gz')
  ]


def test_bad_downloads_say_what_to_put_where(mirror):
  with pytest.raises(DataError, match='offline, and not downloaded before'):
    cifar10.load_cifar10(offline=True)
  for body in (b'<html>', b'\x1f\x8bother'):
    mirror.add('/cifar-10-binary.tar.gz', body)
    with pytest.raises(DataError, match='web page|SHA-256.*give it as data_d'):
      cifar10.load_cifar10()


def test_superpixels(small_cifar, tmp_path):
  write(tmp_path, small_cifar[2])
  data = cifar10.load_cifar10_superpixels(
    data_dir=tmp_path, limit=(4, 3, 2), workers=1
  )
  for name, size in (('train', 4), ('valid', 3), ('test', 2)):
    part = getattr(data, name)
    part.check(name)
    assert part.num_graphs == size and part.nodes.shape[1] == 5
    assert 50 < part.n_node.min() and part.n_node.max() <= 150
    assert (part.n_edge == 8 * part.n_node).all()
    assert part.nodes.min() >= 0 and part.nodes.max() <= 1
  assert data.num_classes == 10
  source = json.loads(json.dumps(data.source))
  assert source['name'] == 'cifar10-superpixels' and source['subset']
  assert source['superpixels']['compactness'] == 10
  assert '117.6 nodes' in source['note'] and not source['comparable']


@pytest.mark.parametrize(
  ('arguments', 'reason'),
  [
    ({'source': 'embedded'}, "source is 'embedded'"),
    ({'workers': 0}, 'workers is 0'),
    ({'limit': (1, 2)}, 'three positive numbers'),
    ({'limit': (71, 1, 1)}, 'asks for 71 train images; there are 70'),
  ],
)
def test_bad_arguments(small_cifar, tmp_path, arguments, reason):
  write(tmp_path, small_cifar[2])
  with pytest.raises(ValueError, match=reason):
    cifar10.load_cifar10_superpixels(data_dir=tmp_path, **arguments)


@pytest.mark.skipif(
  'LORAP_JAX_DATA_DIR' not in os.environ,
  reason='needs CIFAR-10 in $LORAP_JAX_DATA_DIR',
)
def test_real_images():
  try:
    found = cifar10.load_cifar10(data_dir=os.environ['LORAP_JAX_DATA_DIR'])
  except DataError as error:
    pytest.skip(str(error))
  counts = {'train': 45000, 'valid': 5000, 'test': 10000}
  assert found.source['counts'] == counts
  assert np.bincount(found.valid.labels).tolist() == [500] * 10
  assert np.bincount(found.test.labels).tolist() == [1000] * 10
  # Mean colour, as commonly published.
  mean = found.train.images.mean((0, 1, 2)) / 255
  np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=2e-3)
