"""Whole runs with smoothed labels, moved positions and averaged parameters."""

from typing import Any, NamedTuple

import helpers
import jax
import numpy as np
import pytest
import tiny_run
from plain_loop import plain_loop
from run_folder import metrics, read, without_times

import lorap_jax
from lorap_jax.runs import (
  checkpointing,
  full_batch,
  loop,
  protocol,
  restore,
  settings,
)
from lorap_jax.runs import run as run_lib
from lorap_jax.training import steps

OPTIONS = {
  'train__label_smoothing': 0.1,
  'train__augment': 0.5,
  'train__ema': 0.8,
  'train__plots': False,
}


def graph_config(**changes):
  plain = {'scheme__name': 'fp32', 'prompt__name': 'none'}
  return tiny_run.config(**OPTIONS, **plain | changes)


def node_config(**changes):
  """With batch norm, whose statistics are to be those of the average."""
  return tiny_run.node_config(
    'gin,fp32,none',
    model__mlp_norm='each',
    train__ema=0.8,
    train__label_smoothing=0.1,
    train__plots=False,
    train__schedule='constant',
    **changes,
  )


CASES = {
  'graphs': (graph_config, tiny_run.positioned_splits),
  'nodes': (node_config, tiny_run.node_data),
}


class Finished(NamedTuple):
  folder: Any
  report: dict
  run: Any
  make: Any
  data: Any


@pytest.fixture(scope='module', params=CASES)
def finished(request, tmp_path_factory):
  """An uninterrupted run, and the object that ran it."""
  make, data = CASES[request.param]
  folder = tmp_path_factory.mktemp(request.param) / 'run'
  runs, create = [], loop.create_run
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(full_batch, '_MOST_EPOCHS', 2)
    monkeypatch.setattr(
      loop, 'create_run', lambda *a: runs.append(create(*a)) or runs[-1]
    )
    report = loop.train_and_evaluate(make(), folder, data=data())
  return Finished(folder, report, runs[0], make, data)


def saved(folder, kind):
  checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
  found = checkpoints.load_arrays(kind)
  return {**found, 'key': jax.random.key_data(found['key'])}


def test_what_is_loaded_and_reported_is_the_average(finished):
  loaded = lorap_jax.load_run(finished.folder)
  best = saved(finished.folder, 'best')
  helpers.assert_trees_close(loaded.variables['params'], best['ema'])
  moved = jax.tree.map(lambda a, b: np.any(a != b), best['ema'], best['params'])
  assert any(jax.tree.leaves(moved))
  helpers.assert_trees_close(finished.run.state.params, best['ema'])
  given = restore.weights_of(finished.folder)
  helpers.assert_trees_close(given['params'], best['ema'])
  data = finished.data()
  nodes = hasattr(data, 'test_mask')
  outputs = loaded.predict(data if nodes else data.test)
  right = np.argmax(outputs, -1) == (data if nodes else data.test).labels
  right = right[data.test_mask] if nodes else right
  assert right.mean() == pytest.approx(finished.report['result']['test'])


def test_is_recorded(finished):
  record = read(finished.folder, 'config.json')['train']
  wanted = {'ema': 0.8, 'label_smoothing': 0.1}
  if finished.make is graph_config:
    wanted['augment'] = 0.5
  assert record.items() >= wanted.items()
  assert finished.report['config']['train'] == record


# Inside an epoch, and between two.
@pytest.mark.parametrize('stop', [1, 2])
def test_stopped_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch, stop):
  folder, report, _, make, data = finished
  monkeypatch.setattr(full_batch, '_MOST_EPOCHS', 2)
  with monkeypatch.context() as patch:
    if make is graph_config:
      tiny_run.interrupt_after(patch, 2 + 2 * stop)
    else:
      tiny_run.interrupt_after_dispatch(patch, stop)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(make(), tmp_path, data=data())
  again = loop.train_and_evaluate(make(), tmp_path, data=data())
  for kind in ('latest', 'best'):
    helpers.assert_trees_close(saved(tmp_path, kind), saved(folder, kind))
  assert without_times(metrics(tmp_path)) == without_times(metrics(folder))
  assert again['result'] == report['result']
  assert again['cost'] == report['cost']


@pytest.mark.slow
def test_frozen_bits_are_not_averaged_away(tmp_path):
  config = graph_config(scheme__name='a2q', train__epochs=1)
  loop.train_and_evaluate(config, tmp_path, data=tiny_run.positioned_splits())
  best = saved(tmp_path, 'best')
  for part in ('params', 'ema'):
    bits = best[part]['embedding']['weight']['bits']
    np.testing.assert_array_equal(bits, np.full_like(bits, 4))


def test_a_step_averages_what_it_would_train_alone():
  """The average is beside the step: parameters are those without it."""
  fp32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}
  found = {}
  for ema in (0.0, 0.8):
    with tiny_run.programs(**fp32, train__ema=ema) as (state, batch, train, _):
      states = [jax.device_get(state._replace(key=()))]
      for _ in range(2):
        state, _ = train(state, batch, tiny_run.rates())
        states.append(jax.device_get(state._replace(key=())))
    found[ema] = states
  averages = [s.ema for s in found[0.8]]
  expected = found[0.0][0].params
  helpers.assert_trees_close(averages[0], expected)
  for t in range(2):
    new = found[0.0][t + 1].params
    assert found[0.0][t + 1].ema == {}
    helpers.assert_trees_close(found[0.8][t + 1].params, new, atol=1e-6)
    d = min(0.8, (1 + t) / (10 + t))
    mix = lambda a, b, d=d: d * a + (1 - d) * b
    expected = jax.tree.map(mix, expected, new)
    helpers.assert_trees_close(averages[t + 1], expected, atol=1e-6)


def test_statistics_settle_on_the_averaged_network():
  """On batches as they are, not as they were moved."""
  fp32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}
  data = tiny_run.positioned_splits()
  with tiny_run.programs(data, **fp32, **OPTIONS) as (state, batch, train, _):
    state, _ = train(state, batch, tiny_run.rates())
    kept = jax.device_get(state._replace(key=()))
    model = settings.from_config(graph_config(**fp32)).model(3)
    settle = steps.settle_step(model)
    found = jax.jit(settle)(state, batch).batch_stats
    plain = state._replace(params=state.ema, ema={})
    expected = jax.jit(settle)(plain, batch).batch_stats
    other = jax.jit(settle)(state._replace(ema={}), batch).batch_stats
  helpers.assert_trees_close(found, expected, atol=1e-6)
  mean = lambda tree: tree['conv_0']['norm_0']['bn']['mean']
  assert np.abs(mean(found) - mean(other)).max() > 1e-5
  assert np.abs(mean(found) - mean(kept.batch_stats)).max() > 1e-5


def test_epochs_of_one_graph_are_those_of_a_loop(tmp_path):
  # At rest the statistics alone move: a bias before a norm has a gradient of
  # noise.
  config = node_config(optim__learning_rate=0.0)
  chosen = settings.from_config(config)
  data = tiny_run.node_data()
  run = loop.create_run(chosen, data, tmp_path / 'plain')
  states, records = plain_loop(run, [1] * 6)
  loop.train_and_evaluate(config, tmp_path / 'run', data=data)
  found = saved(tmp_path / 'run', 'latest')
  for name in ('ema', 'batch_stats'):
    expected = getattr(states[-1], name)
    assert jax.tree.leaves(expected)
    helpers.assert_trees_close(found[name], expected, atol=1e-6)
  for record, other in zip(metrics(tmp_path / 'run'), records, strict=True):
    assert {n: record[n] for n in other} == pytest.approx(other, abs=1e-5)


@pytest.mark.slow
def test_seeds_together_are_seeds_alone(tmp_path):
  config = tiny_run.node_config(
    'gcn,a2q,lorap',
    train__epochs=2,
    train__ema=0.8,
    train__label_smoothing=0.1,
    train__plots=False,
  )
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    config.seeds = 2
    protocol.run(config, tmp_path / 'both')
    config.seeds = 1
    protocol.run(config, tmp_path / 'one')
  both = saved(tmp_path / 'both' / 'seed_0_fold_0', 'latest')
  one = saved(tmp_path / 'one', 'latest')
  helpers.assert_trees_close(both['ema'], one['ema'], atol=1e-4)


def test_average_without_settled_statistics_is_refused():
  config = tiny_run.config(train__ema=0.9, train__settle_batches=0)
  with pytest.raises(ValueError, match='`ema` = 0.9 .*settle_batches 1 or'):
    settings.from_config(config)


@pytest.mark.parametrize('value', [-0.1, 1.0])
def test_decay_is_a_share(value):
  with pytest.raises(ValueError, match='`ema` must be'):
    settings.from_config(tiny_run.config(train__ema=value))


def test_checkpoints_of_versions_without_an_average(tmp_path):
  chosen = settings.from_config(tiny_run.node_config())
  run = loop.create_run(chosen, tiny_run.node_data(), tmp_path)
  run.close()
  old = {k: v for k, v in run.state._asdict().items() if k != 'ema'}
  run.checkpoints.save('latest', 1, old, {})
  found, _ = run.checkpoints.load('latest', run.state)
  assert found.ema == {} and found.evaluated() is found
  helpers.assert_trees_close(found.params, run.state.params)
