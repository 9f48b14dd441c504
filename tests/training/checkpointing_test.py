from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from lorap_jax.training.checkpointing import CheckpointError, Checkpoints


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
  instance = Checkpoints(tmp_path / 'checkpoints')
  yield instance
  instance.close()


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


def test_each_folder_keeps_one(checkpoints, tmp_path):
  for step in (1, 2, 3):
    checkpoints.save('latest', step, make_state(step), {})
  checkpoints.save('best', 2, make_state(2), {})
  assert checkpoints.step('latest') == 3
  assert checkpoints.step('best') == 2
  checkpoints.close()
  for kind in ('latest', 'best'):
    assert len(list((tmp_path / 'checkpoints' / kind).iterdir())) == 1
  again = Checkpoints(tmp_path / 'checkpoints')
  assert int(again.load('latest', make_state())[0].step) == 3
  again.close()


def test_same_step_is_replaced(checkpoints):
  checkpoints.save('latest', 4, make_state(), {'try': 1})
  checkpoints.save('latest', 4, make_state(), {'try': 2})
  assert checkpoints.load('latest', make_state())[1] == {'try': 2}


def test_looking_leaves_no_trace(checkpoints, tmp_path):
  assert checkpoints.step('latest') is None
  assert list(tmp_path.iterdir()) == []


def test_no_checkpoint(checkpoints):
  with pytest.raises(CheckpointError, match='no best checkpoint in .*/best'):
    checkpoints.load('best', make_state())


def test_half_written_checkpoint_is_ignored(checkpoints, tmp_path):
  checkpoints.save('latest', 1, make_state(1), {})
  checkpoints.close()
  folder = tmp_path / 'checkpoints' / 'latest'
  (folder / '2.orbax-checkpoint-tmp').mkdir()
  assert checkpoints.step('latest') == 1
  assert int(checkpoints.load('latest', make_state())[0].step) == 1


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


def test_damaged(checkpoints, monkeypatch):
  checkpoints.save('latest', 7, make_state(), {})

  def load(self, step, like):
    raise OSError('short read\nat byte 12')

  monkeypatch.setattr(ocp.training.Checkpointer, 'load', load)
  with pytest.raises(CheckpointError, match='7 in .* is damaged: short read$'):
    checkpoints.load('latest', make_state())


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
