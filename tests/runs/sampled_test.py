"""Runs on sampled neighbourhoods: they end, go on, and are refused."""

import jax
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, without_times

from lorap_jax.nn import methods
from lorap_jax.runs import loop, restore, settings
from lorap_jax.runs.run import Interrupted
from lorap_jax.runs.sampled import SampledRun


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  tiny_run.feed(monkeypatch, tiny_run.node_data)


def config_of(cell='gcn,a2q,gpf_lorap', **changes):
  fields = {
    'train__fanout': (3,),
    'train__batch_size': 3,
    'train__epochs': 3,
    'train__plots': False,
    'train__ema': 0.5,
    **changes,
  }
  return tiny_run.node_config(cell, **fields)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    return folder, loop.train_and_evaluate(config_of(), folder)


def test_every_node_is_trained_and_all_held_out_ones_are_evaluated(finished):
  folder, report = finished
  records = metrics(folder)
  assert [r['batches'] for r in records] == [3, 3, 3]
  assert report['steps'] == 9
  assert report['cost']['counted_for_each'] == SampledRun.costed
  # As the reloaded network has it, on the whole graph.
  run = restore.load_run(folder)
  data = tiny_run.node_data()
  outputs = run.predict(data)
  right = outputs.argmax(-1) == data.labels
  for split in ('valid', 'test'):
    mask = getattr(data, f'{split}_mask')
    assert report['result'][split] == pytest.approx(right[mask].mean())
  assert report['config']['train']['fanout'] == (3,)


def test_a_stopped_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after(patch, 5)  # Inside of the second epoch.
    with pytest.raises(Interrupted):
      loop.train_and_evaluate(config_of(), tmp_path)
  loop.train_and_evaluate(config_of(), tmp_path)
  folder, _ = finished
  assert without_times(metrics(tmp_path)) == without_times(metrics(folder))
  one, other = (restore.load_run(f).variables for f in (folder, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
  'changes, reason',
  [
    ({'train__fanout': (3, 3)}, '`fanout` .* has 2 numbers; give one for each'),
    ({'train__fanout': (0,)}, '`fanout` must be a list of integers'),
    ({'train__fanout': None}, '`batch_size` = 3 has no effect on this run'),
    ({'scheme__published': True}, 'needs scheme.published False'),
    ({'train__export': True}, 'needs train.fanout None'),
    ({'train__devices': 2}, '`devices` = 2 has no effect'),
    (
      {'scheme__num_groups': 8, 'scheme__quantize_messages': True},
      'needs scheme.num_groups None',
    ),
  ],
  ids=str,
)
def test_what_makes_no_sampled_run_is_refused(changes, reason):
  with pytest.raises(ValueError, match=reason):
    settings.from_config(config_of(**changes))


def test_a_table_of_groups_serves_nodes_that_are_never_drawn():
  chosen = settings.from_config(config_of(scheme__num_groups=8))
  assert isinstance(chosen.scheme, methods.A2QGraph)
  assert chosen.config['scheme']['num_groups'] == 8
  with pytest.raises(ValueError, match='needs graphs with a label each, or'):
    settings.from_config(
      tiny_run.node_config('gcn,a2q,lorap', scheme__num_groups=8)
    )


def test_graphs_with_labels_are_not_sampled():
  with pytest.raises(ValueError, match='needs nodes with a label each'):
    settings.from_config(tiny_run.config(train__fanout=(3,)))
