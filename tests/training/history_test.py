import json
import math

import pytest

from lorap_jax.training import history, tasks
from lorap_jax.training.history import Progress
from lorap_jax.training.schedules import Plateau

BY_ACCURACY = history.Selection('val_metric', tasks.Task())


def record(epoch, accuracy, loss, test=0.0):
  return {
    'epoch': epoch,
    'valid_accuracy': accuracy,
    'valid_loss': loss,
    'test_accuracy': test,
  }


@pytest.mark.parametrize('best', [math.inf, 0.1 + 0.2])
def test_json_round_trip_is_exact(best):
  progress = Progress(
    epoch=2,
    batch=5,
    sums={'loss': 1 / 3, 'count': 7.0},
    history=[record(1, 2 / 3, 1e-17)],
    plateau=Plateau(0.5, best, 3),
    seconds=math.pi,
  )
  text = json.dumps(progress.to_json(), allow_nan=False)
  again = Progress.from_json(json.loads(text))
  assert again == progress
  assert isinstance(again.plateau, Plateau)
  assert isinstance(again.plateau.bad_epochs, int)


def test_saved_copy_does_not_follow_the_run():
  progress = Progress()
  progress.add({'loss': 1.0})
  saved = progress.to_json()
  progress.add({'loss': 1.0})
  assert saved['sums'] == {'loss': 1.0} and saved['batch'] == 1


def test_sums_of_an_epoch():
  progress = Progress()
  progress.add({'loss': 1.5, 'count': 2.0})
  progress.add({'loss': 0.5, 'count': 1.0})
  assert progress.sums == {'loss': 2.0, 'count': 3.0}
  assert progress.batch == 2
  progress.finish_epoch(record(1, 0.5, 1.0))
  assert (progress.epoch, progress.batch, progress.sums) == (1, 0, {})
  assert progress.history == [record(1, 0.5, 1.0)]


def test_runs_do_not_share_their_history():
  Progress().add({'loss': 1.0})
  assert Progress().sums == {} and Progress().history == []


SELECTIONS = {
  'highest accuracy': ([(0.5, 1.0), (0.7, 9.0), (0.6, 0.1)], 2),
  'equal: lowest loss': ([(0.7, 0.3), (0.7, 0.2), (0.7, 0.4)], 2),
  'all equal: the first': ([(0.6, 0.2), (0.7, 0.2), (0.7, 0.2)], 2),
  'one epoch': ([(0.0, 5.0)], 1),
}


@pytest.mark.parametrize('pairs, expected', SELECTIONS.values(), ids=SELECTIONS)
def test_selection_rule(pairs, expected):
  records = [record(i, *pair) for i, pair in enumerate(pairs, start=1)]
  assert BY_ACCURACY.best(records)['epoch'] == expected


def test_selection_never_looks_at_the_test_set():
  records = [record(1, 0.7, 0.5, test=0.1), record(2, 0.6, 0.5, test=0.9)]
  assert BY_ACCURACY.best(records)['epoch'] == 1
  assert BY_ACCURACY.best_test(records)['epoch'] == 2


NAN = math.nan
DIVERGED = {
  'the first epoch does not block': ([(0.5, NAN), (0.5, 0.3)], 2),
  'nor does a metric': ([(NAN, NAN), (0.5, 0.3), (NAN, NAN)], 2),
  'a later one does not win': ([(0.5, 0.3), (0.5, NAN)], 1),
  'nor does its metric': ([(0.5, 0.3), (NAN, 0.1)], 1),
  'all: the first': ([(NAN, NAN), (NAN, NAN)], 1),
  'less than infinite loss': ([(0.5, NAN), (0.5, math.inf)], 2),
}


@pytest.mark.parametrize('pairs, expected', DIVERGED.values(), ids=DIVERGED)
def test_nan_is_the_worst(pairs, expected):
  records = [record(i, *pair) for i, pair in enumerate(pairs, start=1)]
  assert BY_ACCURACY.best(records)['epoch'] == expected


@pytest.mark.parametrize('losses, expected', [((NAN, 2.0), 2), ((2.0, NAN), 1)])
def test_nan_loss_is_the_highest(losses, expected):
  records = [record(i, 0.5, loss) for i, loss in enumerate(losses, start=1)]
  by_loss = history.Selection('val_loss', tasks.Task())
  assert by_loss.best(records)['epoch'] == expected


def test_nan_is_no_best_test_metric():
  records = [record(i, 0.5, 1.0, test) for i, test in ((1, NAN), (2, 0.1))]
  assert BY_ACCURACY.best_test(records)['epoch'] == 2


@pytest.mark.parametrize('rule', ['val_metric', 'val_loss'])
def test_early_epochs_do_not_count(rule):
  selection = history.Selection(rule, tasks.Task(), first=3)
  records = [
    {'epoch': i, 'valid_accuracy': a, 'valid_loss': 1 - a}
    for i, a in enumerate([0.9, 0.8, 0.5, 0.6, 0.55], start=1)
  ]
  assert selection.best(records)['epoch'] == 4
  assert selection.best(records[:2])['epoch'] == 1  # There is no other.
  assert selection.text.endswith(', from epoch 3 on')
