"""Tests of downloads, locks and self-verifying array files."""

import errno
import gzip
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError

CONTENT = b'some data ' * 1000
PINNED = {'sha256': store.content_digest(CONTENT), 'size': len(CONTENT)}


def left_in(folder):
  """Names of the files there, but for the locks, which stay."""
  names = (path.name for path in folder.iterdir())
  return sorted(name for name in names if not name.endswith('.lock'))


@pytest.mark.parametrize(
  ('variables', 'expected'),
  [
    ({'LORAP_JAX_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}, '/a'),
    ({'XDG_CACHE_HOME': '/b'}, '/b/lorap_jax'),
    ({'HOME': '/h'}, '/h/.cache/lorap_jax'),
  ],
)
def test_cache_dir_follows_the_environment(monkeypatch, variables, expected):
  for name in ('LORAP_JAX_CACHE', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  assert str(store.cache_dir()) == expected


def in_members(content):
  """Three gzip files, one after the other, and zeros."""
  cuts = [content[:1], content[1:3000], content[3000:]]
  return b''.join(map(gzip.compress, cuts)) + bytes(9)


@pytest.mark.parametrize('compress', [gzip.compress, bytes, in_members])
def test_gunzip_returns_everything(compress):
  gunzip = lambda size: store.gunzip(compress(CONTENT), 'mine', max_size=size)
  assert gunzip(10000) == gunzip(1 << 40) == CONTENT
  assert gunzip(9000)[:9001] == CONTENT[:9001]


@pytest.mark.parametrize('end', [b'x', b'\0x', b'\x1f\x8b', CONTENT])
def test_gunzip_refuses_what_follows(end):
  with pytest.raises(DataError, match='mine: (damaged|truncated) gzip file'):
    store.gunzip(in_members(CONTENT) + end, 'mine', max_size=10000)


def test_gunzip_stops_in_any_member():
  bomb = in_members(CONTENT) + gzip.compress(bytes(10**7))
  assert len(store.gunzip(bomb, 'mine', max_size=20000)) == 20001


@pytest.mark.parametrize('compress', [gzip.compress, bytes, in_members])
def test_download_stores_the_decompressed_file(server, tmp_path, compress):
  url = server.add('/file', compress(CONTENT))
  path = store.download([url], tmp_path / 'sub' / 'file', **PINNED)
  assert path.read_bytes() == CONTENT
  assert left_in(path.parent) == ['file']


def test_download_leaves_an_intact_file_alone(server, tmp_path):
  (tmp_path / 'file').write_bytes(CONTENT)
  store.download([f'{server.url}/file'], tmp_path / 'file', **PINNED)
  assert not server.requests


def test_download_replaces_a_damaged_file(server, tmp_path, caplog):
  (tmp_path / 'file').write_bytes(CONTENT[:-1])
  url = server.add('/file', CONTENT)
  store.download([url], tmp_path / 'file', **PINNED)
  assert (tmp_path / 'file').read_bytes() == CONTENT
  assert 'is damaged and is downloaded again' in caplog.text


BAD_ANSWERS = {
  'status': ((404, {}, b''), '404'),
  'web page': ((200, {}, b'<!DOCTYPE html><html>log in</html>'), 'web page'),
  'cut': ((200, {'Content-Length': 99999}, CONTENT), 'ended after 10000 of'),
  'cut gzip': ((200, {}, gzip.compress(CONTENT)[:-20]), 'truncated gzip'),
  'bad gzip': ((200, {}, b'\x1f\x8b' + CONTENT), 'damaged gzip'),
  'short': ((200, {}, CONTENT[1:]), 'expected 10000 bytes'),
  'long': ((200, {}, CONTENT * 20), 'expected 10000 bytes'),
  'bomb': ((200, {}, gzip.compress(b'0' * 10**7)), 'found 10001'),
  'wrong': (
    (200, {}, CONTENT[::-1]),
    f'expected SHA-256 {PINNED["sha256"]}, found '
    f'{store.content_digest(CONTENT[::-1])}',
  ),
}


@pytest.mark.parametrize('kind', BAD_ANSWERS)
def test_download_refuses_bad_answers(server, tmp_path, kind):
  server.pages['/file'], reason = BAD_ANSWERS[kind]
  path = tmp_path / 'new' / 'file'
  with pytest.raises(DataError) as caught:
    store.download([f'{server.url}/file'], path, **PINNED)
  message = str(caught.value)
  assert reason in message and f'{server.url}/file' in message
  assert PINNED['sha256'] in message and str(path) in message  # The remedy.
  assert left_in(path.parent) == []


@pytest.mark.parametrize('kind', BAD_ANSWERS)
def test_download_goes_on_to_the_next_mirror(server, tmp_path, kind):
  server.pages['/bad'], _ = BAD_ANSWERS[kind]
  good = server.add('/good', gzip.compress(CONTENT))
  urls = [f'{server.url}/bad', good, f'{server.url}/unused']
  path = store.download(urls, tmp_path / 'new' / 'file', **PINNED)
  assert path.read_bytes() == CONTENT
  assert server.requests == ['/bad', '/good']


def test_download_reports_an_unreachable_server(tmp_path):
  with pytest.raises(DataError, match='refused'):
    store.download(['http://127.0.0.1:9/f'], tmp_path / 'f', **PINNED)


def refuse_x(content, name):
  if b'x' in content:
    raise DataError(f'{name}: has an x.')


def checked(url, path, **changes):
  arguments = {'check': refuse_x, 'max_size': 100, 'remedy': 'do without.'}
  return store.download_checked([url], path, **{**arguments, **changes})


def test_download_checked_keeps_the_file_as_it_is_sent(server, tmp_path):
  sent = gzip.compress(b'some data', mtime=0)  # A time may hold an x.
  url = server.add('/file', sent)
  for _ in range(2):  # The second time it is there.
    assert checked(url, tmp_path / 'file').read_bytes() == sent
  assert server.requests == ['/file']


def test_download_checked_replaces_what_does_not_pass(server, tmp_path, caplog):
  (tmp_path / 'file').write_bytes(b'xxx')
  url = server.add('/file', b'good')
  assert checked(url, tmp_path / 'file').read_bytes() == b'good'
  assert 'is damaged and is downloaded again' in caplog.text


@pytest.mark.parametrize(
  ('body', 'reason'),
  [(b'xxx', 'has an x'), (b'a' * 101, 'more than 100 bytes')],
)
def test_download_checked_refuses_bad_answers(server, tmp_path, body, reason):
  url = server.add('/file', body)
  path = tmp_path / 'new' / 'file'
  with pytest.raises(DataError, match=f'{url}: {reason}.*Remedy: do without'):
    checked(url, path)
  assert left_in(path.parent) == []


def test_two_processes_download_once(server, tmp_path):
  server.delay_s = 1.0
  url = server.add('/file', CONTENT)
  script = (
    'from lorap_jax.data.files import store\n'
    f'store.download([{url!r}], {str(tmp_path / "sub" / "file")!r}, '
    f'**{PINNED!r})\n'
  )
  path = os.pathsep.join(filter(None, sys.path))
  jobs = [
    subprocess.Popen(
      [sys.executable, '-c', script], env={**os.environ, 'PYTHONPATH': path}
    )
    for _ in range(2)
  ]
  assert [job.wait(timeout=60) for job in jobs] == [0, 0]
  assert server.requests == ['/file']
  assert left_in(tmp_path / 'sub') == ['file']


def test_lock_names_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').touch()
  with (
    pytest.raises(DataError, match='LORAP_JAX_CACHE'),
    store.lock(tmp_path / 'file' / 'sub' / 'x'),
  ):
    pass


def test_atomic_file_keeps_the_old_content_on_failure(tmp_path):
  (tmp_path / 'file').write_text('old')
  with (
    pytest.raises(KeyboardInterrupt),
    store.atomic_file(tmp_path / 'file') as part,
  ):
    part.write_text('half')
    raise KeyboardInterrupt
  assert (tmp_path / 'file').read_text() == 'old'
  assert left_in(tmp_path) == ['file']


@pytest.fixture
def saved(tmp_path):
  arrays = {
    'floats': np.linspace(0, 1, 50, dtype=np.float32).reshape(10, 5),
    'empty': np.zeros((0, 3), np.uint16),
    'bytes': np.arange(200, dtype=np.uint8),
  }
  path = tmp_path / 'arrays.npz'
  store.save_arrays(path, arrays, {'version': 1, 'note': 'ä'})
  return path, arrays


def same(left, right):
  return left.keys() == right.keys() and all(
    left[key].dtype == right[key].dtype
    and np.array_equal(left[key], right[key])
    for key in left
  )


def test_arrays_come_back(saved):
  path, arrays = saved
  loaded, meta = store.load_arrays(path)
  assert same(loaded, arrays)
  assert meta == {'version': 1, 'note': 'ä'}
  assert left_in(path.parent) == [path.name]


def test_a_flipped_byte_never_changes_what_is_loaded(saved):
  path, arrays = saved
  sound = path.read_bytes()
  refused = 0
  for position in range(0, len(sound), 3):
    damaged = bytearray(sound)
    damaged[position] ^= 0x55
    path.write_bytes(damaged)
    try:
      assert same(store.load_arrays(path)[0], arrays)  # Only a zip time stamp.
    except DataError as error:
      assert str(path) in str(error)
      refused += 1
  assert refused > 0.5 * len(sound) / 3


def test_a_replaced_array_is_refused(saved):
  path, _ = saved
  with np.load(path) as file:
    contents = dict(file)
  contents['bytes'] = contents['bytes'][::-1]
  np.savez(path, **contents)
  with pytest.raises(DataError, match='expected digest'):
    store.load_arrays(path)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04', b'\x93NUMPY\x01'])
def test_other_files_are_refused(tmp_path, content):
  (tmp_path / 'x.npz').write_bytes(content)
  with pytest.raises(DataError, match='not a sound npz'):
    store.load_arrays(tmp_path / 'x.npz')


def test_pickles_are_refused(tmp_path):
  np.savez(tmp_path / 'x.npz', a=np.array([{}], object))
  with pytest.raises(DataError, match='x.npz: it holds pickled objects'):
    store.read_npz(tmp_path / 'x.npz')


def test_member_that_is_no_array(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.zeros(2))
  with zipfile.ZipFile(path, 'a') as file:
    file.writestr('b.npy', b'text')
    file.writestr('README', b'text')
  with pytest.raises(DataError, match="x.npz: its member 'b' is no numpy arr"):
    store.read_npz(path)


def test_foreign_and_missing_npz_are_named(tmp_path):
  np.savez(tmp_path / 'x.npz', a=np.zeros(2))
  with pytest.raises(DataError, match='not a cache file'):
    store.load_arrays(tmp_path / 'x.npz')
  with pytest.raises(DataError, match='no such file'):
    store.load_arrays(tmp_path / 'y.npz')


def test_a_small_file_of_large_arrays_is_refused(tmp_path):
  path = tmp_path / 'bomb.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    with archive.open('x.npy', 'w', force_zip64=True) as member:
      for _ in range(65):
        member.write(bytes(1 << 24))
  started = path.stat().st_size
  assert started < 1 << 21
  with pytest.raises(store.DataError, match='would become .*numpy.savez, wh'):
    store.read_npz(path)


def test_a_full_disk_is_named(tmp_path):
  path = tmp_path / 'x.npz'
  with pytest.raises(store.DiskFullError, match=f'the disk of {path} is full'):
    with store.atomic_file(path) as part:
      part.write_text('half')
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  assert not list(tmp_path.iterdir())
  with pytest.raises(store.DiskFullError, match='is full'):
    with store.naming_full_disk(tmp_path):
      raise ValueError('RESOURCE_EXHAUSTED: x [No space left on device]')
  with pytest.raises(OSError, match='Permission'):
    with store.naming_full_disk(tmp_path):
      raise PermissionError(errno.EACCES, 'Permission denied')
