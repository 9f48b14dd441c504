"""Runs that learn the outputs of another: the loss, the folder, refusals."""

import pathlib
import shutil
from typing import Any, NamedTuple

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, read, without_times

from lorap_jax.runs import (
  checkpointing,
  full_batch,
  loop,
  restore,
  settings,
  teacher,
  workdir,
)
from lorap_jax.runs import run as run_lib
from lorap_jax.training import augment, distillation, options, passes, steps

FP32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}
SHORT = {'train__epochs': 2, 'train__plots': False}


class TestLoss:
  """Of a step, against numpy."""

  @pytest.fixture(scope='class')
  @classmethod
  def parts(cls):
    with tiny_run.programs(**FP32) as (state, batch, plain, _):
      chosen = settings.from_config(tiny_run.config(**FP32))
      model = chosen.model(3)
      other = jax.tree.map(lambda a: a + 0.3, state.variables())
      how = options.Options(
        augment=augment.Augment(1.0, tiny_run.positioned_splits().positions),
        teacher=distillation.Teacher(model, 0.3, 3.0),
      )
      step = jax.jit(
        steps.train_step(model, chosen.scheme, tiny_run.tasks.Task(), how)
      )
      yield state, batch, plain, model, other, how, step

  @pytest.mark.slow
  def test_written_out_on_the_moved_batch(self, parts):
    state, batch, plain, model, other, how, step = parts
    key = passes.augmentation_key(steps.step_key(state))
    moved = augment.moved(batch, key, how.augment)
    _, found = step(state, batch, tiny_run.rates(), other)
    outputs, _ = passes.apply(
      model, state.variables(), moved.graph, layout=moved.layout, train=True
    )
    guide = model.apply(other, moved.graph, layout=moved.layout, train=False)
    x, z = (
      np.float64(v)[np.asarray(moved.target_mask())] / 3
      for v in (
        outputs,
        guide,
      )
    )
    log_p, log_q = (v - np.log(np.exp(v).sum(1))[:, None] for v in (x, z))
    kl = (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
    _, of_labels = plain(jax.tree.map(jnp.copy, state), moved, tiny_run.rates())
    expected = 0.7 * float(of_labels.loss) + 0.3 * 9 * kl
    assert kl > 1e-4
    assert float(found.loss) == pytest.approx(expected, rel=1e-4)
    assert float(found.task_loss) == pytest.approx(
      float(of_labels.task_loss), rel=1e-4
    )


def graph_config(**changes):
  return tiny_run.config(**SHORT | changes)


def node_config(cell='gcn,a2q,lorap', **changes):
  return tiny_run.node_config(cell, **{**SHORT, 'train__epochs': 6} | changes)


CASES = {
  'graphs': (
    graph_config,
    FP32,
    tiny_run.splits,
    {'train__teacher_weight': 0.5, 'train__ema': 0.8},
  ),
  'nodes': (node_config, {'cell': 'gat,fp32,none'}, tiny_run.node_data, {}),
}


class Finished(NamedTuple):
  teacher: pathlib.Path
  folder: pathlib.Path
  report: dict
  config: Any
  data: Any


@pytest.fixture(
  scope='module',
  params=[pytest.param('graphs', marks=pytest.mark.slow), 'nodes'],
)
def finished(request, tmp_path_factory):
  """A teacher in full precision, and a quantized run with it."""
  make, other, data, more = CASES[request.param]
  folder = tmp_path_factory.mktemp(request.param)
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(full_batch, '_MOST_EPOCHS', 2)
    loop.train_and_evaluate(
      make(**other, seed=3), folder / 'teacher', data=data()
    )
    config = make(**more, train__teacher=str(folder / 'teacher'))
    report = loop.train_and_evaluate(config, folder / 'run', data=data())
  return Finished(folder / 'teacher', folder / 'run', report, config, data)


def test_is_recorded(finished):
  record = read(finished.folder, 'config.json')['train']
  assert record['teacher'] == str(finished.teacher)
  weight = finished.config.train.teacher_weight or 1.0
  assert record['teacher_weight'] == weight
  assert record['teacher_temperature'] == 2.0


@pytest.mark.parametrize('finished', ['nodes'], indirect=True)
def test_first_objective_is_the_distance_from_the_teacher(finished, tmp_path):
  """Of one graph, whose teacher is alone: T^2 KL over the training nodes."""
  data = finished.data()
  chosen = settings.from_config(finished.config)
  run = loop.create_run(chosen, data, tmp_path)
  run.close()
  x, _ = passes.apply(
    run.model,
    run.state.variables(),
    run.batch.graph,
    layout=run.batch.layout,
    train=True,
    key=steps.step_key(run.state),
  )
  z = restore.load_run(finished.teacher).predict(data)
  np.testing.assert_allclose(run.inputs()[0][1], z, rtol=1e-4, atol=1e-5)
  x, z = (np.float64(v)[data.train_mask] / 2 for v in (x, z))
  log_p, log_q = (v - np.log(np.exp(v).sum(1))[:, None] for v in (x, z))
  kl = (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
  first = metrics(finished.folder)[0]
  penalty = chosen.scheme.penalty(jnp.float32(first['memory_kib']))
  assert first['objective'] - float(penalty) == pytest.approx(4 * kl, rel=1e-3)


def saved(folder, kind):
  checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
  found = checkpoints.load_arrays(kind)
  return {**found, 'key': jax.random.key_data(found['key'])}


def test_stopped_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  _, folder, report, config, data = finished
  monkeypatch.setattr(full_batch, '_MOST_EPOCHS', 2)
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after(patch, 4)
    tiny_run.interrupt_after_dispatch(patch, 1)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(config, tmp_path, data=data())
  again = loop.train_and_evaluate(config, tmp_path, data=data())
  helpers.assert_trees_close(saved(tmp_path, 'latest'), saved(folder, 'latest'))
  assert without_times(metrics(tmp_path)) == without_times(metrics(folder))
  assert again['result'] == report['result']


class TestRefused:
  def test_no_finished_run(self, tmp_path):
    for name in (tmp_path / 'nowhere', tmp_path):
      config = tiny_run.config(train__teacher=str(name))
      with pytest.raises(ValueError, match='`teacher`: no finished run in'):
        settings.from_config(config)

  @pytest.mark.parametrize('name', ['teacher_weight', 'teacher_temperature'])
  def test_without_a_teacher(self, name):
    config = tiny_run.config(**{f'train__{name}': 0.5})
    with pytest.raises(ValueError, match=f'`{name}` = 0.5 .* train.teacher'):
      settings.from_config(config)

  def test_a_teacher_of_other_data(self, finished, tmp_path):
    chosen = settings.from_config(finished.config)
    data = finished.data()
    for other, what in (
      (data._replace(num_classes=4), 'num_classes 3, this has 4'),
      (
        data._replace(source={**data.source, 'name': 'b'}),
        "name 'tiny', this has 'b'",
      ),
    ):
      with pytest.raises(ValueError, match=f'`teacher` .* with {what}; give a'):
        loop.create_run(chosen, other, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

  @pytest.mark.slow
  @pytest.mark.parametrize('finished', ['graphs'], indirect=True)
  def test_features_in_other_units(self, finished):
    config = finished.config.copy_and_resolve_references()
    config.data.normalize = 'standard'
    with pytest.raises(ValueError, match="normalize 'none', .* 'standard'"):
      teacher.load(settings.from_config(config), finished.data())

  def test_a_teacher_that_has_changed(self, finished, tmp_path, monkeypatch):
    _, folder, _, config, data = finished
    shutil.copytree(folder, tmp_path / 'run')
    (tmp_path / 'run' / 'report.json').unlink()
    record = read(tmp_path / 'run', 'data.json')
    workdir.write_json(
      tmp_path / 'run' / 'data.json', {**record, 'teacher': 'another'}
    )
    with pytest.raises(workdir.WorkdirError, match='with another teacher'):
      loop.train_and_evaluate(config, tmp_path / 'run', data=data())
