"""What runs share: learning-rate factors, and how one says it diverged."""

import jax
import jax.numpy as jnp
import pytest
import tiny_run

from lorap_jax.training import loop, schedules, settings
from lorap_jax.training import run as run_lib
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
  config = tiny_run.config(train__aggregation=aggregation)
  config.train.epochs = 1
  with caplog.at_level('INFO'):
    report = loop.train_and_evaluate(
      config, tmp_path / 'run', data=tiny_run.splits()
    )
  assert f'Sums over neighbours: {words}' in caplog.text
  assert report['aggregation'].startswith(words)
