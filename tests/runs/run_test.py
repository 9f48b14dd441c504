"""What runs share: learning-rate factors, and how one says it diverged."""

import shutil
import types

import jax
import jax.numpy as jnp
import pytest
import tiny_run

from lorap_jax.runs import checkpointing, loop, settings
from lorap_jax.runs import run as run_lib
from lorap_jax.training import history, schedules, tasks, train_config
from lorap_jax.training import state as state_lib


def make_run(folder, **changes):
  chosen = settings.from_config(tiny_run.config(**changes))
  return run_lib.Run(chosen, tiny_run.splits(), folder)


class TestStepSchedule:
  @pytest.mark.parametrize(
    'epoch, factor',
    [(0, 1), (49, 1), (49.99, 1), (50, 0.5), (99.5, 0.5), (100, 0.25)],
  )
  def test_halves_at_the_start_of_a_period(self, epoch, factor):
    assert schedules.step(epoch, every=50) == factor

  def test_other_decay(self):
    factors = [schedules.step(e, every=2, decay=0.1) for e in range(5)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])

  def test_period_of_one_epoch(self):
    factors = [schedules.step(e / 2, every=1) for e in range(6)]
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25]


class TestFactor:
  def factors(self, folder, **changes):
    run = make_run(folder, train__epochs=4, **changes)
    return [run.factor(e) for e in (0, 1, 2.5, 3)]

  def test_step(self, tmp_path):
    found = self.factors(tmp_path, train__schedule='step', train__step_epochs=1)
    assert found == [1, 0.5, 0.25, 0.125]

  def test_cosine_counts_in_epochs_of_the_run(self, tmp_path):
    found = self.factors(tmp_path, train__schedule='cosine', train__warmup=0.5)
    assert found == pytest.approx([0, 0.5, 0.5 + 0.5**1.5, 0.5])

  def test_constant(self, tmp_path):
    assert self.factors(tmp_path, train__schedule='constant') == [1, 1, 1, 1]

  def test_plateau_follows_the_progress(self, tmp_path):
    run = make_run(tmp_path, train__schedule='plateau')
    run.progress.plateau = schedules.Plateau(0.125, 1.0, 0)
    assert run.factor(0) == run.factor(2.5) == 0.125


class TestFail:
  PARAMS = {
    'conv_0': {'dense': {'kernel': jnp.ones((2, 2))}, 'eps': jnp.zeros(())},
    'readout_0': {'bias': jnp.ones(2), 'kernel': jnp.ones((2, 2))},
  }

  def message(self, folder, finite, loss=1.5):
    run = make_run(folder)
    run.progress.epoch = 4
    empty = state_lib.TrainState(
      jnp.int32(7), self.PARAMS, {}, {}, (), jax.random.key(0)
    )
    run.state = empty
    run._culprit = lambda: ''  # It has no batch to look at.
    with pytest.raises(run_lib.NonFiniteError) as caught:
      run.fail(loss, finite, 7)
    run.close()
    return str(caught.value)

  @pytest.mark.parametrize(
    'finite, name',
    [
      ([False, False, True, False], 'conv_0/dense/kernel'),
      ([True, False, True, True], 'conv_0/eps'),
      ([True, True, True, False], 'readout_0/kernel'),
      ([True, True, True, True], 'none'),
    ],
  )
  def test_names_the_first_tensor(self, tmp_path, finite, name):
    text = self.message(tmp_path, finite)
    assert f'first non-finite gradient: {name};' in text

  def test_names_loss_step_and_epoch(self, tmp_path):
    text = self.message(tmp_path, [True] * 4, loss=float('inf'))
    assert text.startswith('loss inf at step 7 (epoch 5);')
    assert 'last good checkpoint: none in ' in text
    assert str(tmp_path) in text and '\n' not in text


@pytest.mark.parametrize(
  'aggregation, words',
  [('auto', 'CSR; gradients table'), ('segment_sum', 'gather and segment_sum')],
)
def test_aggregation_is_logged_and_reported(
  tmp_path, caplog, aggregation, words
):
  config = tiny_run.config(
    train__aggregation=aggregation,
    train__epochs=1,
    train__plots=False,
    scheme__name='fp32',
    prompt__name='none',
  )
  with caplog.at_level('INFO'):
    report = loop.train_and_evaluate(
      config, tmp_path / 'run', data=tiny_run.splits()
    )
  assert f'Sums over neighbours: {words}' in caplog.text
  assert report['aggregation'].startswith(words)


class TestTakeUp:
  """Which step runs go on from, by what lies in their folders."""

  def state(self, step, **params):
    return state_lib.TrainState(
      jnp.int32(step), params, {}, {}, (), jax.random.key(0)
    )

  def run(self, folder):
    """A run without a network, at its start."""
    run = run_lib.Run.__new__(run_lib.Run)
    run.folder = folder
    run.checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
    run.progress, run.state = history.Progress(), self.state(0)
    run.settings = types.SimpleNamespace(
      train=train_config.TrainConfig(selection='val_loss'),
      scheme=types.SimpleNamespace(bit_schedule=None),
    )
    run.task = tasks.Task()
    return run

  def saved(self, folder, *, latest, best=()):
    """A run with checkpoints; the best loss is that of step 2."""
    run = self.run(folder)
    for kind, steps in (('best', best), ('latest', latest)):
      for step in steps:
        records = [
          {'step': s, 'epoch': s, 'valid_loss': abs(s - 2.0)}
          for s in range(1, step + 1)
        ]
        progress = history.Progress(epoch=step, history=records)
        state = self.state(step)
        run.checkpoints.save(kind, step, state, progress.to_json())
    return run

  def damage(self, run, *places):
    for place in places:
      (run.checkpoints.directory / place / '_CHECKPOINT_METADATA').unlink()

  def check(self, run, step):
    assert int(run.state.step) == run.progress.epoch == step
    assert len(run.progress.history) == step

  def test_newest(self, tmp_path):
    run = self.saved(tmp_path, latest=(4, 6), best=(2,))
    run_lib.take_up([run])
    self.check(run, 6)

  def test_best_beyond_the_latest_does_not_count(self, tmp_path):
    run = self.saved(tmp_path, latest=(4,), best=(2, 5))
    run_lib.take_up([run])
    self.check(run, 4)

  @pytest.mark.parametrize(
    'damaged, step',
    [
      (['latest/6'], 4),
      (['latest/6', 'latest/4'], 2),  # The best epoch's.
      (['best/2'], None),
    ],
  )
  def test_damaged(self, tmp_path, caplog, damaged, step):
    run = self.saved(tmp_path, latest=(4, 6), best=(2,))
    self.damage(run, *damaged)
    if step is None:  # No best state, which the report needs.
      with pytest.raises(checkpointing.CheckpointError) as caught:
        run_lib.take_up([run])
      text = str(caught.value)
      assert f'no whole checkpoint in {tmp_path / "checkpoints"}' in text
      assert 'best is damaged' in text
      assert text.endswith('remove it to begin anew')
      return
    run_lib.take_up([run])
    self.check(run, step)
    for place in damaged:
      kind, number = place.split('/')
      folder = run.checkpoints.directory / kind
      assert f'checkpoint {number} in {folder} is damaged' in caplog.text

  def test_latest_stands_in_for_a_best_that_is_gone(self, tmp_path):
    run = self.saved(tmp_path, latest=(2, 4), best=(2,))
    shutil.rmtree(run.checkpoints.directory / 'best')
    run_lib.take_up([run])
    self.check(run, 4)

  def test_newest_that_all_have(self, tmp_path):
    runs = [
      self.saved(tmp_path / 'a', latest=(4, 6), best=(2,)),
      self.saved(tmp_path / 'b', latest=(2, 4), best=(2,)),
    ]
    run_lib.take_up(runs)
    for run in runs:
      self.check(run, 4)

  def test_all_begin_anew_if_one_has_none(self, tmp_path, caplog):
    runs = [
      self.saved(tmp_path / 'a', latest=(2,), best=(2,)),
      self.run(tmp_path / 'b'),
    ]
    run_lib.take_up(runs)
    for run in runs:
      self.check(run, 0)
    assert f'{tmp_path / "a"} begins anew' in caplog.text

  def test_all_begin_anew_if_one_never_saved_a_latest(self, tmp_path, caplog):
    """It was stopped between its first best one and its first latest."""
    runs = [
      self.saved(tmp_path / 'a', latest=(4,), best=(2,)),
      self.saved(tmp_path / 'b', latest=(), best=(3,)),
    ]
    run_lib.take_up(runs)
    for run in runs:
      self.check(run, 0)
    assert 'before the end of its first save' in caplog.text

  def test_no_common_step_is_an_error(self, tmp_path):
    runs = [
      self.saved(tmp_path / 'a', latest=(6, 8), best=(2,)),
      self.saved(tmp_path / 'b', latest=(3, 4), best=(3,)),
    ]
    with pytest.raises(checkpointing.CheckpointError, match='remove them'):
      run_lib.take_up(runs)

  def test_another_model_is_no_damage(self, tmp_path):
    run = self.saved(tmp_path, latest=(4, 6), best=(2,))
    run.state = self.state(0, b=jnp.zeros(2))
    with pytest.raises(checkpointing.CheckpointError, match='does not fit'):
      run_lib.take_up([run])
    assert run.checkpoints.steps('latest') == [4, 6]


@pytest.mark.parametrize(
  'left', [None, '', 'first', 'cut'], ids=['missing', 'empty', 'first', 'cut']
)
def test_metrics_come_back_from_the_checkpoint(tmp_path, monkeypatch, left):
  tiny_run.feed_short_node_runs(monkeypatch)
  config, folder = tiny_run.node_config(), tmp_path / 'run'
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after_dispatch(patch, 2)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(config, folder)
  path = folder / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  assert len(lines) == 4
  if left is None:
    path.unlink()
  else:
    ends = {'': '', 'first': lines[0], 'cut': ''.join(lines)[:-30]}
    path.write_text(ends[left])
  loop.train_and_evaluate(config, folder)
  after = path.read_text().splitlines(keepends=True)
  assert after[:4] == lines and len(after) == 6
