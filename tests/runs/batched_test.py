"""Batches of graphs: where an epoch goes on, and regression as a whole run."""

import contextlib

import numpy as np
import pytest
import tiny_run
from run_folder import metrics

from lorap_jax.reports import present, tables
from lorap_jax.runs import batched, checkpointing, loop, settings
from lorap_jax.training import history, steps

EPOCHS = 6


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Folder and report of a run on graphs with float labels."""
  folder = tmp_path_factory.mktemp('regression')
  config = tiny_run.config(
    scheme__name='fp32',
    prompt__name='gpf',
    model__readout=1,
    train__epochs=EPOCHS,
    train__schedule='constant',
    optim__learning_rate=0.1,  # So that the best epoch is not the last.
    seed=2,
  )
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.regression_splits)
    return folder, loop.train_and_evaluate(config, folder)


def test_task_follows_from_the_labels():
  chosen = settings.from_config(tiny_run.config())
  assert chosen.task(tiny_run.regression_splits()).kind == 'regression'
  assert chosen.task(tiny_run.splits()).kind == 'classification'
  assert chosen.task(tiny_run.node_data()).kind == 'classification'


def test_learns(finished):
  records = metrics(finished[0])
  assert len(records) == EPOCHS
  assert records[-1]['train_mae'] < 0.5 * records[0]['train_mae']


def test_loss_and_metric_are_the_mean_absolute_error(finished):
  for record in metrics(finished[0]):
    for split in ('train', 'valid', 'test'):
      assert record[f'{split}_mae'] == record[f'{split}_loss'] > 0
    assert not any('accuracy' in name for name in record)


def test_lowest_validation_error_is_selected(finished):
  folder, report = finished
  result, records = report['result'], metrics(folder)
  best = min(records, key=lambda r: r['valid_mae'])
  assert result['metric'] == 'mae'
  assert result['epoch'] == best['epoch']
  assert 1 < best['epoch'] < EPOCHS
  for split in ('train', 'valid', 'test'):
    assert result[split] == best[f'{split}_mae']
  optimistic = min(r['test_mae'] for r in records)
  assert result['best_test_epoch']['test'] == optimistic


def test_state_of_the_selected_epoch_is_kept(finished):
  folder, report = finished
  checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
  steps = [checkpoints.step(kind) for kind in ('best', 'latest')]
  epochs = (report['result']['epoch'], EPOCHS)
  assert steps == [tiny_run.BATCHES * epoch for epoch in epochs]


def test_beats_a_guess(finished):
  labels = tiny_run.regression_splits().test.labels
  guess = np.abs(labels - np.median(labels)).mean()
  assert finished[1]['result']['test'] < 0.7 * guess


def test_table_and_plots(finished):
  folder, report = finished
  present.draw(folder)
  rows = dict(tables.rows(report))
  result = report['result']
  text = f'{result["test"]:.4f} at epoch {result["epoch"]}'
  assert rows['test mae'] == text
  for name in ('learning_curves.png', 'bits_by_degree.png'):
    assert (folder / name).read_bytes().startswith(b'\x89PNG')


class TestStoppedInsideAnEpoch:
  """Without a step of training: which batches are taken, and at what rates."""

  METRICS = steps.StepMetrics(*[np.float32(1)] * len(steps.StepMetrics._fields))

  class Display:
    def step(self, text, done):
      pass

  @pytest.fixture
  def run(self, tmp_path):
    chosen = settings.from_config(tiny_run.config(train__settle_batches=2))
    run = batched.BatchedRun(chosen, tiny_run.splits(), tmp_path)
    with contextlib.closing(run):
      yield run

  @pytest.mark.parametrize('first', [1, 2])
  def test_goes_on_with_the_batch_after_the_last(self, run, first):
    taken, positions = [], []

    def step(state, batch, rates):
      taken.append(batch)
      positions.append(rates)
      return state, self.METRICS

    run.train_step, run.rates = step, lambda epoch: epoch
    run.loaders['train'].stream = lambda plan: (tuple(p) for p in plan)
    assert not run._train_epoch(self.Display(), lambda: len(taken) == first)
    assert run.progress.batch == first == len(taken)
    saved = run.progress.to_json()
    run.progress = history.Progress.from_json(saved)
    assert run._train_epoch(self.Display(), lambda: False)
    plan = run.loaders['train'].shuffled(run.settings.config['seed'], 0)
    assert taken == [tuple(indices) for indices in plan]
    assert positions == [i / tiny_run.BATCHES for i in range(tiny_run.BATCHES)]
    assert run.progress.sums['count'] == tiny_run.BATCHES

  def test_statistics_settle_on_the_first_batches(self, run):
    taken = []

    def step(state, batch):
      taken.append(batch)
      return state

    run.settle_step = step
    run.loaders['train'].stream = lambda plan: (tuple(p) for p in plan)
    run._settle()
    count = run.settings.train.settle_batches
    plan = run.loaders['train'].shuffled(run.settings.config['seed'], 0)
    assert 0 < count < len(plan)
    assert taken == [tuple(indices) for indices in plan[:count]]
