"""Speed of whole runs, from their own metrics.jsonl.

Node tasks: epochs per second, an evaluation with each. Graph tasks: training
steps per second, with the loader that builds the batches. Runs go in turn,
after one of each that compiles.
"""

import contextlib
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ml_collections import config_dict

from benchmarks import child, inputs, output, timing
from configs import cora, mnist, pubmed
from lorap_jax.runs import loop, settings, workdir

_CELLS = ('fp32,none', 'a2q,none', 'a2q,gpf_lorap')


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: FP32, no PubMed, few epochs, small batches, one GIN layer.
    data_dir: folder with real data, or None.
  """
  rows = []
  cells = _CELLS[:1] if quick else _CELLS
  hosts = {'cora': cora.get_config, 'pubmed': pubmed.get_config}
  for name in ('cora',) if quick else hosts:
    configs = {cell: hosts[name](f'gcn,{cell}') for cell in cells}
    for config in configs.values():
      config.train.epochs = 20 if quick else 200
    base = configs[cells[0]]
    data = inputs.real_or(inputs.node_data(name), base, data_dir)
    speeds = _speeds(configs, data, 1 if quick else 3)
    speeds.update(_peer_epochs(base, data))
    label = {'graph': name, 'data': inputs.origin(data), 'unit': 'epochs/s'}
    rows += _rows(label, speeds)
  return rows + _batched(cells, quick, data_dir)


def _batched(
  cells: tuple[str, ...], quick: bool, data_dir: str | None
) -> list[output.Row]:
  batch_size, batches = (16, 4) if quick else (128, 12)
  configs = {cell: mnist.get_config(f'gin,{cell}') for cell in cells}
  for config in configs.values():
    config.train.batch_size = batch_size
    config.train.epochs = 2
    config.train.plots = False
    config.data.limit = (batch_size * batches, 8, 8)
    if quick:
      config.model.num_layers = 1
  base = configs[cells[0]]
  made = inputs.superpixels(batch_size * batches)
  data: Any = inputs.real_or(made, base, data_dir)
  speeds = _speeds(configs, data, 1 if quick else 3)
  speeds.update(_peer_steps(base, data))
  label = {'graph': 'mnist', 'data': inputs.origin(data), 'unit': 'steps/s'}
  return _rows(label, speeds)


def _rows(label: output.Row, speeds: dict[str, Any]) -> list[output.Row]:
  return [
    {
      **label,
      'cell': cell,
      'speed': timing.stats(found) if found else output.MISSING,
    }
    for cell, found in speeds.items()
  ]


def _speeds(
  configs: dict[str, config_dict.ConfigDict],
  data: settings.Data,
  rounds: int,
) -> dict[str, Any]:
  """Batches per second by cell, after a run of each that compiles."""
  speeds = {cell: [] for cell in configs}
  for number in range(1 + rounds):
    for cell, config in configs.items():
      with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stderr(io.StringIO()):  # The display.
          loop.train_and_evaluate(config, folder, data=data)
        lines = (pathlib.Path(folder) / workdir.METRICS).read_text()
      records = [json.loads(line) for line in lines.splitlines()]
      if number:
        speeds[cell] += [r['batches'] / r['train_seconds'] for r in records]
  return speeds


def _peer_epochs(config: config_dict.ConfigDict, data: Any) -> dict[str, Any]:
  if not child.installed():
    return {'PyG fp32': None}
  from benchmarks import peer

  seconds = list(peer.node_epochs(config, data, config.train.epochs))
  return {'PyG fp32': [1 / s for s in seconds[2:]]}


def _peer_steps(config: config_dict.ConfigDict, data: Any) -> dict[str, Any]:
  if not child.installed():
    return {'PyG fp32': None}
  from benchmarks import peer

  loader = peer.batches(data.train, config.train.batch_size, shuffle=True)
  model = peer.GIN(data.train.nodes.shape[1], data.num_classes)
  step = peer.stepper(model, config)

  def epochs() -> Iterator[float]:
    for _ in range(4):
      started = time.perf_counter()
      for batch in loader:
        step(batch)
      yield len(loader) / (time.perf_counter() - started)

  return {'PyG fp32': list(epochs())[1:]}
