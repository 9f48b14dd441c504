"""Data in shards: whatever goes wrong, the whole is whole or refused."""

import errno
import functools
import json
import os
import pathlib
import time

import numpy as np
import pytest

from lorap_jax.data.files import parallel, prepared, store
from lorap_jax.data.files.store import AbsentDataError, DataError

COUNT = 5


def build(seed, index):
  rng = np.random.default_rng([seed, index])
  return {
    'rows': rng.normal(size=(index + 1, 2)).astype(np.float32),
    'count': np.array([index], np.int32),
  }


def job(seed=0, count=COUNT, make=build):
  record = {'kind': 'test', 'seed': seed}
  return prepared.Job(record, count, functools.partial(make, seed))


def whole(seed=0):
  parts = [build(seed, index) for index in range(COUNT)]
  return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_whole(arrays):
  assert arrays.keys() == whole().keys()
  for name, value in whole().items():
    assert arrays[name].dtype == value.dtype
    np.testing.assert_array_equal(arrays[name], value)


@pytest.fixture
def folder(tmp_path):
  """All shards, joined."""
  place = tmp_path / 'given'
  prepared.write_all(place, job(), workers=1)
  prepared.join(place, job())
  return place


@pytest.mark.parametrize('workers', [1, 2])
def test_any_order_gives_the_same_bytes(folder, tmp_path, workers):
  other = tmp_path / 'other'
  order = [3, 0, 0, 4, 2, 1]
  prepared.write_all(other, job(), workers=workers, indices=order)
  prepared.join(other, job())
  assert files(other) == files(folder)
  assert len(files(other)) == COUNT + 1
  assert_whole(prepared.load(other, job().record))
  for index, arrays in enumerate(prepared.shards(other)):
    np.testing.assert_array_equal(arrays['rows'], build(0, index)['rows'])


def test_name_is_of_what_decides_the_bytes():
  names = {made.name for made in (job(), job(1), job(count=4))}
  assert len(names) == 3 and job().name in names


def test_only_what_is_missing_is_made(folder):
  before, made = files(folder), []
  (folder / '000002.npz').unlink()
  for read in (prepared.join, lambda f, j: prepared.load(f, j.record)):
    with pytest.raises(AbsentDataError, match='shard 2 of 5 is missing; the'):
      read(folder, job())

  def make(seed, index):
    made.append(index)
    return build(seed, index)

  prepared.write_all(folder, job(make=make), workers=1)
  assert made == [2]
  assert files(folder) == before


DAMAGE = {
  'empty': lambda content: b'',
  'cut': lambda content: content[: len(content) // 2],
  'zeros': lambda content: bytes(len(content)),
  'a bit': lambda content: (
    content[:200] + bytes([content[200] ^ 1]) + content[201:]
  ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damage_is_named_and_made_again(folder, damage, caplog):
  path = folder / '000003.npz'
  sound = path.read_bytes()
  path.write_bytes(DAMAGE[damage](sound))
  for read in (prepared.join, lambda f, j: prepared.load(f, j.record)):
    with pytest.raises(DataError, match='000003.npz: shard 3 of 5 is damaged'):
      read(folder, job())
  prepared.write(folder, job(), 3)
  assert f'{path} is damaged and is built again' in caplog.text
  assert path.read_bytes() == sound


def another(folder, change):
  """Puts a sound shard of something else in the place of shard 1."""
  place = folder.parent / 'another'
  made = {'seed': job(1), 'number': job(count=4), 'place': job()}[change]
  index = 2 if change == 'place' else 1
  path = prepared.write(place, made, index)
  path.replace(folder / '000001.npz')


@pytest.mark.parametrize(
  'change, reason',
  [
    ('seed', 'seed is 1, not 0'),
    ('number', 'shards is 4, not 5'),
    ('place', 'shard is 2, not 1'),
  ],
)
def test_a_shard_of_another_job_is_refused_and_kept(folder, change, reason):
  another(folder, change)
  before = files(folder)
  for use in (
    prepared.join,
    lambda f, j: prepared.load(f),
    lambda f, j: prepared.write(f, j, 1),
    lambda f, j: prepared.cached(f, j, workers=1, description=''),
  ):
    with pytest.raises(prepared.OtherJobError, match=f'shard 1 .*{reason}; na'):
      use(folder, job())
  kept = files(folder)
  assert {name: kept[name] for name in before} == before


def test_a_shard_that_was_not_joined_is_refused(folder):
  changed = {**build(0, 1), 'count': np.array([7], np.int32)}
  store.save_arrays(
    folder / '000001.npz', changed, {**job().record, 'shard': 1, 'shards': 5}
  )
  with pytest.raises(DataError, match='shard 1 is not the one that was joined'):
    prepared.load(folder)


def test_a_manifest_is_of_its_job(folder):
  with pytest.raises(prepared.OtherJobError, match='seed is 0, not 1'):
    prepared.load(folder, job(1).record)
  path = folder / prepared.MANIFEST
  for content in (b'', b'[]', b'{"record": 3}', b'\xff'):
    path.write_bytes(content)
    with pytest.raises(DataError, match='manifest.json is damaged'):
      prepared.load(folder)
  path.unlink()
  with pytest.raises(AbsentDataError, match='write all shards and join them'):
    prepared.load(folder)


def test_manifest_holds_digests_and_sizes(folder):
  manifest = json.loads((folder / prepared.MANIFEST).read_text())
  meta = [store.load_verified(path)[2] for path in sorted(folder.glob('*.npz'))]
  assert manifest['sha256'] == meta and len(set(meta)) == COUNT
  assert manifest['arrays'] == {'rows': ['<f4', [15, 2]], 'count': ['<i4', [5]]}
  assert manifest['record'] == job().record


def wait_for(path):
  deadline = time.monotonic() + 60
  while not path.exists():
    assert time.monotonic() < deadline, path
    time.sleep(0.01)


def together(here, seed, index):
  """Has one process begin to write where the other has not yet renamed."""
  here, save = pathlib.Path(here), np.savez

  def meet(file, **arrays):
    try:
      (here / 'first').touch(exist_ok=False)
    except FileExistsError:
      wait_for(here / 'saved')
      file.write(b'half')
      file.flush()
      (here / 'begun').touch()
      path = here / 'shards' / f'{index:06d}.npz'
      wait_for(path)
      store.load_arrays(path)  # Whole at every moment.
      file.seek(0)
      save(file, **arrays)
    else:
      save(file, **arrays)
      file.flush()
      (here / 'saved').touch()
      wait_for(here / 'begun')

  np.savez = meet  # Of a process of its own.
  return build(seed, index)


def test_two_processes_write_the_same_shard_at_once(folder, tmp_path):
  place = tmp_path / 'shards'
  both = job(make=functools.partial(together, str(tmp_path)))
  write = functools.partial(prepared.write, place, both)
  assert len(set(parallel.ordered_map(write, [2, 2], workers=2))) == 1
  assert (tmp_path / 'begun').exists()
  name = '000002.npz'
  assert files(place) == {name: files(folder)[name]}


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, code):
  def fail(file, **arrays):
    file.write(b'half')
    raise OSError(code, os.strerror(code))

  with monkeypatch.context() as patch:
    patch.setattr(np, 'savez', fail)
    reason = 'is full; make' if code == errno.ENOSPC else 'cannot be written'
    with pytest.raises(DataError, match=reason):
      prepared.write(tmp_path / 'new', job(), 0)
  assert not files(tmp_path / 'new')
  with pytest.raises(ZeroDivisionError):
    prepared.write(tmp_path / 'new', job(make=lambda *_: 1 / 0), 0)
  assert not files(tmp_path / 'new')


def test_what_killed_writers_left_goes_when_all_is_whole(folder, monkeypatch):
  """Also under the hands of one that writes what others have finished."""
  before, save = files(folder), np.savez
  (folder / '000001.npz').unlink()
  (folder / '000001.npz.0123.part').write_bytes(b'half')

  def slow(file, **arrays):
    save(file, **arrays)
    monkeypatch.setattr(np, 'savez', save)
    prepared.write(folder, job(), 1)
    assert len(list(folder.glob('*.part'))) == 2
    prepared.join(folder, job())

  monkeypatch.setattr(np, 'savez', slow)
  prepared.write(folder, job(), 1)
  assert files(folder) == before


def test_cached_makes_what_is_missing_alone(folder):
  def fail(seed, index):
    raise AssertionError

  get = functools.partial(prepared.cached, workers=1, description='')
  assert_whole(get(folder, job(make=fail)))
  (folder / prepared.MANIFEST).unlink()  # As before the last step.
  assert_whole(get(folder, job(make=fail)))
  (folder / '000004.npz').write_bytes(b'')
  assert_whole(get(folder, job()))
  assert_whole(get(folder.parent / 'none' / 'yet', job()))


def test_shards_of_different_widths_are_not_joined(tmp_path):
  ragged = job(make=lambda seed, i: {'rows': np.zeros((1, i // 4 + 2))})
  prepared.write_all(tmp_path, ragged, workers=1)
  with pytest.raises(DataError, match='shard 4 holds .* one type and width'):
    prepared.join(tmp_path, ragged)
  assert not (tmp_path / prepared.MANIFEST).exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(DataError, match='000000.npz: cannot be written'):
    prepared.write(tmp_path / 'file' / 'folder', job(), 0)


@pytest.mark.parametrize('index', [-1, COUNT])
def test_there_is_no_such_shard(tmp_path, index):
  with pytest.raises(ValueError, match=f'index is {index}; the shards are 0 t'):
    prepared.write(tmp_path, job(), index)
