"""Tests of the files of a TUDataset: layouts, downloads, the cache."""

import io
import zipfile

import numpy as np
import pytest
from run_folder import made_in

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import tu_files, tu_text

NAME = 'TOY-SET'
TEXTS = {
  'A': b'1, 2\n2, 1\n4, 5\n5, 4\n5, 6\n6, 5\n',
  'graph_indicator': b'1\n1\n2\n3\n3\n3\n',
  'graph_labels': b'2\n1\n2\n',
  'node_labels': b'7\n8\n7\n7\n8\n8\n',
}


def zipped(texts=TEXTS, inside=f'{NAME}//'):
  """NAME.zip; the official archives write the folder with two slashes."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
    for key, text in texts.items():
      archive.writestr(f'{inside}{NAME}_{key}.txt', text)
    archive.writestr(f'{inside}{NAME}_edge_labels.txt', b'not needed')
  return buffer.getvalue()


def write(folder, texts=TEXTS):
  folder.mkdir(parents=True, exist_ok=True)
  for key, text in texts.items():
    (folder / f'{NAME}_{key}.txt').write_bytes(text)


NPZ = {
  'n_nodes': np.array([2, 1, 3], np.uint16),
  'n_edges': np.array([1, 0, 2], np.uint16),
  'edge_src': np.array([0, 1, 1], np.uint16),
  'edge_dst': np.array([1, 0, 2], np.uint16),
  'y': np.array([1, 0, 1], np.uint8),
  'node_label': np.array([7, 8, 7, 7, 8, 8], np.uint8),
}


@pytest.fixture
def given(tmp_path):
  folder = tmp_path / 'given'
  folder.mkdir()
  return folder


def read(given, tmp_path):
  return tu_files.from_folder(given, NAME, cache=tmp_path / 'cache')


def same(left, right):
  return all(
    a.dtype == b.dtype and np.array_equal(a, b)
    for a, b in zip(left, right, strict=True)
  )


@pytest.mark.parametrize(
  'layout',
  ['zip', 'flat zip', 'raw/tu zip', 'flat', NAME, f'{NAME}/raw', f'tu/{NAME}'],
)
def test_layouts(given, tmp_path, layout):
  if 'zip' in layout:
    path = given / ('raw/tu' if 'raw' in layout else '') / f'{NAME}.zip'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zipped(inside='' if 'flat' in layout else f'{NAME}//'))
  else:
    write(given / ('' if layout == 'flat' else layout))
  found = read(given, tmp_path)
  assert same(found.graphs, tu_text.parse(TEXTS, 'mine'))
  assert str(given) in found.path
  for name, digest in found.sha256.items():
    files = list(given.rglob(name))
    assert [store.content_digest(f.read_bytes()) for f in files] == [digest]


def test_npz_holds_the_same(given, tmp_path):
  np.savez_compressed(given / 'tu_toy_set.npz', **NPZ)
  assert same(read(given, tmp_path).graphs, tu_text.parse(TEXTS, 'mine'))


def test_missing_set_says_what_to_put_where(given, tmp_path):
  with pytest.raises(
    DataError, match=f'{given}: {NAME} is not there. Put in it {NAME}.zip'
  ):
    read(given, tmp_path)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'<html>no such set</html>', 'web page'),
    (zipped()[:-50], 'damaged or cut off'),
    (zipped({'A': b'1, 2'}), f'{NAME}_graph_indicator.txt is missing'),
    (zipped({**TEXTS, 'A': b'1, 3'}), 'edge 1 joins graphs 1 and 2'),
    (zipped(inside='../'), 'place outside'),
  ],
)
def test_bad_archives_are_named(given, tmp_path, content, reason):
  path = given / f'{NAME}.zip'
  path.write_bytes(content)
  with pytest.raises(DataError, match=f'{path}: .*{reason}'):
    read(given, tmp_path)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'y': None}, 'y is missing'),
    ({'y': np.zeros(3)}, r'y is float64 of shape \(3,\); expected integers'),
    ({'y': np.zeros((3, 1), int)}, r'y is int64 of shape \(3, 1\); expected'),
    ({'edge_src': np.zeros((1, 3), int)}, r'edge_src is .* shape \(1, 3\)'),
    ({'node_label': np.zeros((2, 3), int)}, r'label is .* shape \(2, 3\)'),
    ({'node_label': np.full(6, 0.5)}, 'node_label is float64'),
    ({'y': np.zeros(2, int)}, 'do not fit together.*2 y'),
    ({'n_edges': np.array([1, 1, 2])}, 'with the sum 4'),
    ({'n_edges': np.array([4, -3, 2])}, 'do not fit together'),
    ({'edge_dst': np.array([1, 0, 3])}, 'edge 2 has an id outside its graph'),
    ({'edge_src': np.array([0, -1, 1])}, 'edge 1 has an id outside its graph'),
    ({'node_label': np.zeros(5, int)}, 'node_labels has 5 rows'),
    ({'n_nodes': np.array([2, 0, 3])}, 'graph 2 has no nodes'),
  ],
)
def test_bad_npz_files_are_named(given, tmp_path, change, reason):
  arrays = {k: a for k, a in {**NPZ, **change}.items() if a is not None}
  np.savez(given / 'tu_toy_set.npz', **arrays)
  with pytest.raises(DataError, match=f'tu_toy_set.npz: .*{reason}'):
    read(given, tmp_path)


def test_parsed_graphs_are_kept(given, tmp_path, monkeypatch):
  path = given / f'{NAME}.zip'
  path.write_bytes(zipped())
  first = read(given, tmp_path)
  monkeypatch.setattr(tu_text, 'parse', None)
  assert same(read(given, tmp_path).graphs, first.graphs)
  (kept,) = made_in(tmp_path / 'cache')
  monkeypatch.undo()
  kept.write_bytes(kept.read_bytes()[:-9])  # Damaged: parsed again.
  assert same(read(given, tmp_path).graphs, first.graphs)
  path.write_bytes(zipped({**TEXTS, 'graph_labels': b'1\n1\n2\n'}))
  assert read(given, tmp_path).graphs.labels.tolist() == [0, 0, 1]
  assert len(made_in(tmp_path / 'cache')) == 2


@pytest.fixture
def mirror(server, monkeypatch):
  server.add(f'/tu/{NAME}.zip', zipped())
  monkeypatch.setattr(tu_files, 'URL', f'{server.url}/tu/')
  return server


def download(tmp_path, offline=False):
  return tu_files.from_download(NAME, offline=offline, cache=tmp_path / 'tu')


def test_download_happens_once(mirror, tmp_path):
  found = download(tmp_path)
  assert same(found.graphs, tu_text.parse(TEXTS, 'mine'))
  assert found.sha256 == {f'{NAME}.zip': store.content_digest(zipped())}
  download(tmp_path)
  download(tmp_path, offline=True)
  assert len(mirror.requests) == 1


def test_offline_asks_no_server(mirror, tmp_path):
  with pytest.raises(DataError, match=f'{NAME}.zip: offline, and not down'):
    download(tmp_path, offline=True)
  assert not mirror.requests


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'<html>moved</html>', 'web page'),
    (zipped()[:-50], 'damaged or cut off'),
    (zipped({'A': b'1, 2'}), 'graph_indicator.txt is missing'),
  ],
)
def test_bad_downloads_leave_nothing(mirror, tmp_path, content, reason):
  mirror.add(f'/tu/{NAME}.zip', content)
  with pytest.raises(DataError, match=f'{reason}.*put {NAME}.zip.* data_dir'):
    download(tmp_path)
  assert not made_in(tmp_path / 'tu')


def test_known_archives_are_pinned(mirror, tmp_path, monkeypatch):
  monkeypatch.setitem(tu_files.PINNED, NAME, '0' * 64)
  with pytest.raises(DataError, match='expected SHA-256 0000'):
    download(tmp_path)
