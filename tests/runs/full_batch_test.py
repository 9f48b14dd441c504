"""Runs on one graph, whose epochs are scanned several per dispatch."""

from typing import Any, NamedTuple

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from plain_loop import plain_loop
from run_folder import metrics, without_times

from lorap_jax.runs import checkpointing, full_batch, loop, settings, writers
from lorap_jax.runs import run as run_lib
from lorap_jax.training import history, steps, tasks, train_config

EPOCHS = 6
# Its best epoch is the second, and the third is better than the first.
STEPWISE = {
  'train__schedule': 'step',
  'train__step_epochs': 2,
  'optim__learning_rate': 0.1,
  'seed': 1,
}
FACTORS = [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  """Feeds the node task, and has a run take three dispatches."""
  set_up(monkeypatch)


def set_up(monkeypatch):
  tiny_run.feed(monkeypatch, tiny_run.node_data)
  monkeypatch.setattr(full_batch, '_MOST_EPOCHS', 2)


class Finished(NamedTuple):
  folder: Any
  report: dict
  config: Any


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """An uninterrupted run."""
  folder = tmp_path_factory.mktemp('run')
  config = tiny_run.node_config(**STEPWISE)
  with pytest.MonkeyPatch.context() as monkeypatch:
    set_up(monkeypatch)
    return Finished(folder, loop.train_and_evaluate(config, folder), config)


def new_run(config, folder):
  """A run that has not begun."""
  chosen = settings.from_config(config)
  return loop.create_run(chosen, tiny_run.node_data(), folder)


def saved(folder, kind, config):
  """The state of a checkpoint and its progress, the key as numbers."""
  run = new_run(config, folder)
  try:
    state, progress = run.checkpoints.load(kind, run.state)
  finally:
    run.close()
  return state._replace(key=jax.random.key_data(state.key)), progress


@pytest.fixture(scope='module')
def expected(finished, tmp_path_factory):
  """What the same run is without scanning."""
  folder = tmp_path_factory.mktemp('plain')
  return plain_loop(new_run(finished.config, folder), FACTORS)


class TestScannedProgram:
  def test_records_are_those_of_a_loop(self, finished, expected):
    records = metrics(finished.folder)
    assert len(records) == EPOCHS
    for found, record in zip(records, expected[1], strict=True):
      assert {name: found[name] for name in record} == pytest.approx(
        record, abs=1e-6
      )

  def test_final_state_is_that_of_a_loop(self, finished, expected):
    state, _ = saved(finished.folder, 'latest', finished.config)
    last = expected[0][-1]
    helpers.assert_trees_close(state.params, last.params, atol=1e-6)
    assert int(state.step) == EPOCHS

  def test_running_statistics_are_those_of_a_loop(self, tmp_path):
    # At rest: a bias before batch norm has nothing but noise for a gradient.
    config = tiny_run.node_config(
      'gin,fp32,none',
      model__mlp_norm='each',
      optim__learning_rate=0.0,
    )
    states, records = plain_loop(
      new_run(config, tmp_path / 'plain'), [1] * EPOCHS
    )
    loop.train_and_evaluate(config, tmp_path / 'run')
    state, _ = saved(tmp_path / 'run', 'latest', config)
    for name in ('params', 'batch_stats'):
      found, expected = getattr(state, name), getattr(states[-1], name)
      assert jax.tree.leaves(found)
      helpers.assert_trees_close(found, expected, atol=1e-6)
    losses = [r['valid_loss'] for r in metrics(tmp_path / 'run')]
    assert losses == pytest.approx([r['valid_loss'] for r in records], abs=1e-6)
    assert len(set(losses)) == EPOCHS

  def test_other_fields_of_the_records(self, finished):
    records = metrics(finished.folder)
    assert [r['step'] for r in records] == [1, 2, 3, 4, 5, 6]
    assert [r['batches'] for r in records] == [1] * EPOCHS
    assert [r['factor'] for r in records] == FACTORS
    assert all(r['train_seconds'] > 0 for r in records)

  def test_no_settling_of_batch_norm(self, tmp_path, monkeypatch, finished):
    monkeypatch.delattr(steps, 'make_settle_step')
    again = loop.train_and_evaluate(finished.config, tmp_path)
    assert again['result'] == finished.report['result']


def test_best_state_is_that_of_the_selected_epoch(tmp_path, monkeypatch):
  # So fast that the best epoch by accuracy, by loss and the last one differ;
  # that by accuracy has no more of it than the one before, but less loss.
  monkeypatch.setattr(run_lib.Run, 'factor', lambda run, epoch: 20.0)
  config = tiny_run.node_config(seed=7)
  states, _ = plain_loop(new_run(config, tmp_path / 'plain'), [20] * EPOCHS)
  epochs = set()
  for rule in train_config.RULES:
    config.train.selection = rule
    result = loop.train_and_evaluate(config, tmp_path / rule)['result']
    selection = history.Selection(rule, tasks.Task())
    best = selection.best(metrics(tmp_path / rule))
    assert result['epoch'] == best['epoch'], rule
    assert result['test'] == best['test_accuracy'], rule
    state, _ = saved(tmp_path / rule, 'best', config)
    assert int(state.step) == best['epoch'], rule
    expected = states[best['epoch'] - 1]
    helpers.assert_trees_close(state.params, expected.params, atol=1e-5)
    epochs.add(best['epoch'])
  assert len(epochs) == len(
    train_config.RULES
  )  # Or one rule could pass for another.


def test_of_equal_epochs_the_first_is_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(run_lib.Run, 'factor', lambda run, epoch: 0.0)
  config = tiny_run.node_config()
  result = loop.train_and_evaluate(config, tmp_path)['result']
  assert len({r['valid_loss'] for r in metrics(tmp_path)}) == 1
  assert result['epoch'] == 1
  assert int(saved(tmp_path, 'best', config)[0].step) == 1


class TestInterruption:
  # After the first dispatch, the second, and the last one of the run.
  @pytest.mark.parametrize('dispatch', [1, 2, 3])
  def test_resumed_equals_uninterrupted(
    self, finished, tmp_path, monkeypatch, dispatch
  ):
    assert finished.report['result']['epoch'] == 2
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, dispatch)
      with pytest.raises(run_lib.Interrupted):
        loop.train_and_evaluate(finished.config, tmp_path)
    assert not (tmp_path / 'report.json').exists()
    assert len(metrics(tmp_path)) == 2 * dispatch
    result = loop.train_and_evaluate(finished.config, tmp_path)

    for kind in ('latest', 'best'):
      state, progress = saved(tmp_path, kind, finished.config)
      expected, wanted = saved(finished.folder, kind, finished.config)
      helpers.assert_trees_close(
        state._replace(opt_state=jax.tree.leaves(state.opt_state)),
        expected._replace(opt_state=jax.tree.leaves(expected.opt_state)),
      )
      found = without_times(progress['history'])
      assert found == without_times(wanted['history'])
    found = without_times(metrics(tmp_path))
    assert found == without_times(metrics(finished.folder))
    for part in ('result', 'cost'):
      assert result[part] == finished.report[part]

  def test_save_cut_off_after_its_first_part(self, tmp_path, monkeypatch):
    config = tiny_run.node_config(seed=1)  # Its best epoch is the last.
    whole = loop.train_and_evaluate(config, tmp_path / 'whole')
    assert whole['result']['epoch'] == EPOCHS
    folder = tmp_path / 'cut'
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, 1)
      with pytest.raises(run_lib.Interrupted):
        loop.train_and_evaluate(config, folder)
    save, writes = checkpointing.Checkpoints.save, []

    def cut_off(self, *args):
      if writes:
        raise OSError('no space left')
      writes.append(save(self, *args))

    with monkeypatch.context() as patch:
      patch.setattr(checkpointing.Checkpoints, 'save', cut_off)
      with pytest.raises(OSError, match='no space left'):
        loop.train_and_evaluate(config, folder)
    result = loop.train_and_evaluate(config, folder)
    assert result['result'] == whole['result']
    for kind in ('best', 'latest'):
      state, _ = saved(folder, kind, config)
      expected, _ = saved(tmp_path / 'whole', kind, config)
      helpers.assert_trees_close(state.params, expected.params)


def test_rates_change_inside_a_dispatch(tmp_path):
  config = tiny_run.node_config(
    train__schedule='cosine', train__warmup=1 / 3, optim__learning_rate=0.1
  )
  fall = 0.5 + 0.5 * np.cos(np.pi * np.arange(4) / 4)
  states, _ = plain_loop(new_run(config, tmp_path / 'plain'), [0, 0.5, *fall])
  loop.train_and_evaluate(config, tmp_path / 'run')
  state, _ = saved(tmp_path / 'run', 'latest', config)
  helpers.assert_trees_close(state.params, states[-1].params, atol=1e-6)


def test_seeds_share_one_compilation(tmp_path):
  full_batch.make_epochs.cache_clear()
  programs = set()
  for seed in (0, 1):
    run = new_run(tiny_run.node_config(seed=seed), tmp_path / str(seed))
    run.train(lambda: False)
    program = run.program(1)
    programs.add(program)
    run.close()
  assert len(programs) == 1
  assert program._cache_size() == 1


@pytest.mark.parametrize(
  'epochs, done, members, size',
  [
    (1, 0, 1, 1),
    (7, 0, 1, 7),
    (100, 0, 1, 100),
    (101, 0, 1, 1),
    (200, 0, 1, 100),
    (250, 0, 1, 50),
    (200, 0, 2, 50),
    (200, 0, 10, 20),
    (250, 0, 10, 10),
    (200, 100, 1, 100),
    (250, 50, 1, 50),  # As it began.
  ],
)
def test_dispatches_divide_the_run_wherever_it_goes_on(
  monkeypatch, tmp_path, epochs, done, members, size
):
  monkeypatch.undo()
  run = new_run(tiny_run.node_config(), tmp_path)
  run.epochs, run.progress.epoch = epochs, done
  assert run.dispatch_size(members) == size
  run.close()


@pytest.mark.parametrize(
  'members, most, size', [(1, 84, 1), (1, 840, 10), (5, 840, 2), (1, 1, 1)]
)
def test_large_graphs_have_fewer_epochs_per_dispatch(
  monkeypatch, tmp_path, members, most, size
):
  monkeypatch.undo()
  monkeypatch.setattr(full_batch, '_MOST_NODES_AND_EDGES', most)
  run = new_run(tiny_run.node_config(), tmp_path)
  assert len(run.data.nodes) + len(run.data.senders) == 84
  run.epochs = 200
  assert run.dispatch_size(members) == size
  run.close()


def test_pipe_gets_a_line_of_a_dispatch(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(writers, '_QUIET_SECONDS', 0)
  monkeypatch.setattr(writers, '_QUIET_SHARE', 0)
  report = loop.train_and_evaluate(tiny_run.node_config(), tmp_path)
  lines = capsys.readouterr().err.splitlines()
  epochs = [line.split('  ')[0] for line in lines]
  assert epochs == [
    'epoch 2/6 (33 % done)',
    'epoch 4/6 (66 % done)',
    'epoch 6/6',
  ]
  second = metrics(tmp_path)[1]
  assert f'loss {second["train_loss"]:.4f}' in lines[0]
  assert f'val {100 * second["valid_accuracy"]:.2f}%' in lines[0]
  assert f'bits {second["bits"]:.2f}' in lines[0] and 'step/s' in lines[0]
  assert report['epochs'] == 6


class TestDivergence:
  def test_names_step_tensor_and_checkpoint(self, tmp_path, monkeypatch):
    config = tiny_run.node_config()
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, 1)
      with pytest.raises(run_lib.Interrupted):
        loop.train_and_evaluate(config, tmp_path)
    restore = run_lib.Run.begin

    def damaged(run):
      restore(run)
      params = jax.tree.map(lambda leaf: leaf, run.state.params)
      params['conv_0']['bias'] *= jnp.nan
      run.state = run.state._replace(params=params)

    monkeypatch.setattr(run_lib.Run, 'begin', damaged)
    with pytest.raises(run_lib.NonFiniteError) as caught:
      loop.train_and_evaluate(config, tmp_path)
    text = str(caught.value)
    assert 'loss nan at step 2 (epoch 3)' in text
    assert 'first non-finite gradient: conv_0/bias' in text
    assert 'last good checkpoint: step 2' in text
    assert str(tmp_path) in text and '\n' not in text
    monkeypatch.undo()
    assert saved(tmp_path, 'latest', config)[1]['epoch'] == 2

  @pytest.mark.usefixtures('any_rate')
  def test_inside_a_dispatch(self, tmp_path):
    config = tiny_run.node_config(optim__learning_rate=1e38)
    with pytest.raises(run_lib.NonFiniteError) as caught:
      loop.train_and_evaluate(config, tmp_path)
    # The evaluation of the first epoch is the first that is no number.
    assert 'is nan after epoch 1 (step 1)' in str(caught.value)
    assert metrics(tmp_path) == []
    assert not (tmp_path / 'report.json').exists()


def test_plateau_needs_batches(tmp_path):
  config = tiny_run.node_config(train__schedule='plateau')
  with pytest.raises(ValueError, match="^config.train: `schedule` 'plateau'"):
    loop.train_and_evaluate(config, tmp_path)
  assert not list(tmp_path.iterdir())
