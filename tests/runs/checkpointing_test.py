from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from run_folder import contents

from lorap_jax.runs.checkpointing import (
  CheckpointError,
  Checkpoints,
  DamagedError,
)


class State(NamedTuple):
  step: Any
  params: Any
  empty: Any
  key: Any


def make_state(step=7, shape=(2, 3)):
  return State(
    step=jnp.int32(step),
    params={'a': {'kernel': jnp.arange(6.0).reshape(shape) / 3}},
    empty={},
    key=jax.random.fold_in(jax.random.key(5), step),
  )


@pytest.fixture
def checkpoints(tmp_path):
  return Checkpoints(tmp_path / 'checkpoints')


@pytest.mark.parametrize('abstract', [False, True])
def test_round_trip(checkpoints, abstract):
  state = make_state()
  progress = {'epoch': 3, 'history': [{'loss': 0.1 + 0.2}], 'best': None}
  checkpoints.save('latest', 7, state, progress)
  like = make_state(0)
  if abstract:
    like = jax.eval_shape(lambda: make_state(0))
  loaded, saved = checkpoints.load('latest', like)
  assert saved == progress  # Floats to the last digit.
  assert jax.tree.structure(loaded) == jax.tree.structure(state)
  assert loaded.step == 7 and loaded.step.dtype == jnp.int32
  np.testing.assert_array_equal(
    loaded.params['a']['kernel'], state.params['a']['kernel']
  )
  assert loaded.key.dtype == state.key.dtype  # Typed, and of the same stream.
  np.testing.assert_array_equal(
    jax.random.normal(loaded.key, (3,)), jax.random.normal(state.key, (3,))
  )


def steps(checkpoints):
  return [checkpoints.steps(kind) for kind in ('latest', 'best')]


def test_two_of_each_are_kept(checkpoints, tmp_path):
  for step in (1, 2, 3):
    checkpoints.save('latest', step, make_state(step), {})
    # Nothing goes before its successor is whole.
    assert checkpoints.steps('latest') == [1, 2, 3][:step]
  checkpoints.save('best', 2, make_state(2), {})
  checkpoints.prune()
  assert steps(checkpoints) == [[2, 3], [2]]
  again = Checkpoints(tmp_path / 'checkpoints')
  assert again.step('latest') == 3
  assert int(again.load('latest', make_state())[0].step) == 3
  assert int(again.load('latest', make_state(), step=2)[0].step) == 2


def test_what_is_there_is_not_written_again(checkpoints, tmp_path):
  checkpoints.save('best', 4, make_state(), {'try': 1})
  before = contents(tmp_path)
  checkpoints.save('best', 4, make_state(), {'try': 2})
  assert contents(tmp_path) == before


def test_later_ones_are_dropped(checkpoints):
  for step in (3, 10, 20):
    checkpoints.save('latest', step, make_state(step), {})
    checkpoints.save('best', step + 1, make_state(step), {})
  checkpoints.drop_after(10)
  assert steps(checkpoints) == [[3, 10], [4]]


def test_looking_leaves_no_trace(checkpoints, tmp_path):
  assert checkpoints.step('latest') is None
  assert list(tmp_path.iterdir()) == []


def test_no_checkpoint(checkpoints):
  with pytest.raises(CheckpointError, match='no best checkpoint in .*/best'):
    checkpoints.load('best', make_state())


@pytest.mark.parametrize('left', ['2.orbax-checkpoint-tmp', '2.removed'])
def test_half_written_and_half_removed_are_ignored(checkpoints, tmp_path, left):
  checkpoints.save('latest', 1, make_state(1), {})
  folder = tmp_path / 'checkpoints' / 'latest'
  (folder / left).mkdir()
  assert checkpoints.step('latest') == 1
  assert int(checkpoints.load('latest', make_state())[0].step) == 1
  checkpoints.save('latest', 2, make_state(2), {})
  assert sorted(p.name for p in folder.iterdir()) == ['1', '2']


OTHERS = {
  'shape': (
    make_state(shape=(3, 2)),
    'params/a/kernel is (2, 3) there and (3, 2) in the model',
  ),
  'more leaves': (
    make_state()._replace(
      params={'a': {'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}}
    ),
    'it has no params/a/bias, which the model has',
  ),
  'fewer leaves': (
    make_state()._replace(params={}),
    'it has params/a/kernel, which the model has not',
  ),
}


@pytest.mark.parametrize(('like', 'difference'), OTHERS.values(), ids=OTHERS)
def test_another_structure(checkpoints, like, difference):
  checkpoints.save('latest', 7, make_state(), {})
  with pytest.raises(CheckpointError) as caught:
    checkpoints.load('latest', like)
  text = str(caught.value)
  assert text.startswith('checkpoint 7 in ')
  assert text.endswith(f'does not fit this model: {difference}')


def files(checkpoints):
  """The files of a checkpoint, by their paths in it."""
  folder = checkpoints.directory / 'latest' / '7'
  return folder, sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file()
  )


def damages(path):
  """Ways to damage a file, by name."""
  sound = path.read_bytes()
  middle = len(sound) // 2
  yield 'missing', lambda: path.unlink()
  yield 'empty', lambda: path.write_bytes(b'')
  yield 'cut', lambda: path.write_bytes(sound[:middle])
  yield 'zeros', lambda: path.write_bytes(bytes(len(sound)))
  if sound:
    flipped = bytearray(sound)
    flipped[middle] ^= 0xFF
    yield 'flipped', lambda: path.write_bytes(flipped)


def same(state, other):
  plain = lambda s: jax.tree.leaves(s._replace(key=jax.random.key_data(s.key)))
  return all(map(np.array_equal, plain(state), plain(other)))


def test_damage_is_harmless_or_named(checkpoints):
  state, progress = make_state(), {'history': [{'loss': 0.5}]}
  checkpoints.save('latest', 7, state, progress)
  folder, names = files(checkpoints)
  refused = set()
  for name in names:
    path = folder / name
    sound = path.read_bytes()
    for damage, apply in damages(path):
      apply()
      try:
        loaded, found = checkpoints.load('latest', make_state(0))
        assert same(loaded, state) and found == progress, (name, damage)
      except DamagedError as error:
        text = str(error)
        assert text.startswith(f'checkpoint 7 in {folder.parent} is damaged: ')
        assert '\n' not in text
        refused.add((name, damage))
      path.write_bytes(sound)
  harmless = {name for name in names if (name, 'missing') not in refused}
  assert harmless == {'sha256'}  # Then it passes for one of an older version.
  assert len(refused) >= 4 * (len(names) - 1)


def test_other_kind_stands_in_for_a_damaged_one(checkpoints):
  for kind in ('latest', 'best'):
    checkpoints.save(kind, 7, make_state(), {'of': kind})
  (checkpoints.directory / 'best' / '7' / '_CHECKPOINT_METADATA').unlink()
  assert checkpoints.load('best', make_state())[1] == {'of': 'latest'}


def test_checkpoint_of_a_version_without_digests(checkpoints):
  progress = {'epoch': 3}
  path = checkpoints.directory / 'latest' / '7'
  ocp.save(str(path), make_state(), custom_metadata=progress)
  loaded, found = checkpoints.load('latest', make_state(0))
  assert same(loaded, make_state()) and found == progress


class TestEntries:
  STATE = {'params': {'w': jnp.arange(3.0)}, 'opt_state': {'mu': jnp.ones(2)}}

  def saved(self, folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save('best', 1, self.STATE, {})
    return checkpoints

  def test_whatever_else_was_saved(self, tmp_path):
    like = {'params': {'w': jnp.zeros(3)}, 'batch_stats': {}}
    found = self.saved(tmp_path).load_entries('best', like)
    np.testing.assert_array_equal(found['params']['w'], jnp.arange(3.0))
    assert set(found) == {'params', 'batch_stats'} and not found['batch_stats']

  @pytest.mark.parametrize(
    'like, message',
    [
      ({'params': {'w': jnp.zeros(4)}}, r'params/w is \(3,\) there and \(4,\)'),
      ({'batch_stats': {'m': jnp.zeros(2)}}, 'it has no batch_stats/m'),
    ],
  )
  def test_another_structure(self, tmp_path, like, message):
    with pytest.raises(CheckpointError, match=message):
      self.saved(tmp_path).load_entries('best', like)

  def test_no_other_array_is_read(self, tmp_path, monkeypatch):
    checkpoints, wanted, load = self.saved(tmp_path), [], ocp.load
    monkeypatch.setattr(
      ocp, 'load', lambda path, like: wanted.append(like) or load(path, like)
    )
    checkpoints.load_entries('best', {'params': {'w': jnp.zeros(3)}})
    found = checkpoints.load_arrays('best', ('params',))
    assert list(found) == ['params']
    for like in wanted:
      assert like['opt_state']['mu'] is ocp.PLACEHOLDER
      assert like['params']['w'].shape == (3,)
    assert set(checkpoints.load_arrays('best')) == {'params', 'opt_state'}
