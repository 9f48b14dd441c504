"""Trains on several devices, in a process of its own that has four.

  JAX_NUM_CPU_DEVICES=4 python tests/devices_run.py step FOLDER
  JAX_NUM_CPU_DEVICES=4 python tests/devices_run.py runs FOLDER
  JAX_NUM_CPU_DEVICES=4 python tests/devices_run.py graph FOLDER

`step` writes what a step gives on one and on four devices, and what goes
between them; `runs` a run on each, and one that changes their number; `graph`
runs on one graph, which the devices share.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import matrix_test
import numpy as np
import pytest
import tiny_run

from benchmarks import scale
from lorap_jax.runs import loop, protocol, settings
from lorap_jax.training import steps


def config(devices: int, **changes):
  """Two epochs of the smoke recipe."""
  fixed = {'train__plots': False, 'train__epochs': 2}
  return tiny_run.config(train__devices=devices, **fixed, **changes)


def one_step(devices: int, folder: pathlib.Path) -> dict[str, Any]:
  """Metrics of a first step on 400 graphs, and what its program exchanges.

  With all that a step can do beside.
  """
  chosen = settings.from_config(
    config(
      devices,
      scheme__name='fp32',
      model__features=32,
      train__batch_size=400,
      train__label_smoothing=0.1,
      train__augment=1.0,
      train__ema=0.9,
    )
  )
  data = tiny_run.positioned_splits()._replace(train=tiny_run.dataset(1, 400))
  with chosen.on_devices():
    run = loop.create_run(chosen, data, folder / str(devices))
    loader = run.loaders['train']
    batch = loader.put(loader.batch(np.arange(400)))
    step = jax.jit(
      steps.train_step(run.model, chosen.scheme, run.task, run.options)
    )
    program = step.lower(run.state, batch, run.rates(0.0)).compile()
    state, metrics = program(run.state, batch, run.rates(0.0))
    run.close()
  return {
    'moved': [count for _, count in scale.exchanged(program.as_text())],
    'nodes': batch.graph.nodes.shape[0],
    'metrics': {
      name: np.asarray(value).tolist()
      for name, value in metrics._asdict().items()
    },
    # Adam's first moments are the gradient.
    'gradient': [
      np.asarray(leaf).ravel().tolist()
      for leaf in jax.tree.leaves(state.opt_state)
    ],
    'statistics': [
      np.asarray(leaf).ravel().tolist()
      for leaf in jax.tree.leaves(state.batch_stats)
    ],
  }


def whole_runs(folder: pathlib.Path) -> None:
  """Runs on one and on four, and one that goes from four to two."""
  changes = {
    'model__readout_dropout': 0.2,
    'train__integer_epochs': 1,
    'train__export': True,
  }
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch)
    for count in (1, 4):
      loop.train_and_evaluate(config(count, **changes), folder / str(count))
    tiny_run.interrupt_after(monkeypatch, tiny_run.BATCHES)
    with pytest.raises(loop.Interrupted):
      loop.train_and_evaluate(config(4, **changes), folder / 'changed')
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch)
    loop.train_and_evaluate(config(2, **changes), folder / 'changed')
    # Weights that were on one device: from another run, and from a phase.
    start = {'train__init_from': str(folder / '1')}
    loop.train_and_evaluate(config(4, **start), folder / 'warm')
    phases = matrix_test.config_of('gin', 'mixq', 'none', 'graph')
    phases.train.devices, phases.train.plots = 4, False
    phases.train.epochs = phases.train.search_epochs = 1
    phases.train.pretrain_epochs = 1
    protocol.run(phases, folder / 'phases')


def on_one_graph(folder: pathlib.Path) -> dict[str, Any]:
  """Runs on one, two and four, and one that goes from four to one.

  Returns:
    Kind and number of what a step on four exchanges, and its rows.
  """

  def of(devices, cell='gcn,a2q,gpf_lorap'):
    changes = {'model__input_dropout': 0.3, 'train__plots': False}
    return tiny_run.node_config(cell, train__devices=devices, **changes)

  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    for count in (1, 2, 4):
      loop.train_and_evaluate(of(count), folder / str(count))
    tiny_run.two_epochs_per_dispatch(monkeypatch)
    tiny_run.interrupt_after_dispatch(monkeypatch, 1)
    with pytest.raises(loop.Interrupted):
      loop.train_and_evaluate(of(4), folder / 'changed')
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    loop.train_and_evaluate(of(1), folder / 'changed')
  chosen = settings.from_config(of(4, 'gcn,qat4,lorap'))
  with chosen.on_devices():
    run = loop.create_run(chosen, tiny_run.node_data(), folder / 'step')
    step = jax.jit(
      steps.train_step(run.model, chosen.scheme, run.task, run.options)
    )
    program = step.lower(run.state, run.batch, run.rates(0.0)).compile()
    run.close()
  rows = run.batch.graph.nodes.shape[0]  # pyrefly: ignore
  return {'moved': scale.exchanged(program.as_text() or ''), 'rows': rows}


def main(what: str, name: str) -> None:
  """Writes it into the folder."""
  folder = pathlib.Path(name)
  if what == 'runs':
    whole_runs(folder)
    return
  if what == 'graph':
    (folder / 'step.json').write_text(json.dumps(on_one_graph(folder)))
    return
  found = {count: one_step(count, folder) for count in (1, 4)}
  (folder / 'step.json').write_text(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
