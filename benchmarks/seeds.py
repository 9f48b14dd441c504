"""Seeds of one configuration: GCN on Cora's shape, all epochs, evaluations.

Ours is A2Q through `protocol.run`, from the configuration to the reports of
all seeds, compilation and saved states included; PyG is FP32, one seed after
the other. Each runs in a fresh process that has imported its libraries.
"""

import json
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import child, inputs, output, timing
from configs import cora
from lorap_jax.data.sets import custom
from lorap_jax.runs import protocol


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: 2 seeds of 20 epochs, once; else 10 of 200, three times.
    data_dir: folder with real data, or None.
  """
  seeds, epochs, rounds = (2, 20, 1) if quick else (10, 200, 3)
  config = cora.get_config('gcn,a2q,none')
  data: Any = inputs.real_or(inputs.node_data('cora'), config, data_dir)
  kinds = ('ours', 'pyg') if child.installed() else ('ours',)
  times = {kind: timing.Times([], []) for kind in kinds}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'graph.npz'
    np.savez(path, **{k: getattr(data, k) for k in custom.NODE_ARRAYS})
    for _ in range(rounds):
      for kind in kinds:
        found = child.run('seeds', kind, path, seeds, epochs)
        times[kind].wall.append(found['wall'])
        times[kind].cpu.append(found['cpu'])
  rows = []
  for kind, name in (('ours', 'A2Q, ours'), ('pyg', 'FP32, PyG')):
    row: output.Row = {'what': name, 'data': inputs.origin(data)}
    row.update({'seeds': seeds, 'epochs': epochs})
    if kind in times:
      row['wall s'] = timing.stats(times[kind].wall)
      row['cpu s'] = timing.stats(times[kind].cpu)
    else:
      row['wall s'] = output.MISSING
    rows.append(row)
  if 'pyg' in times:
    ours, pyg = times['ours'], times['pyg']
    rows[0]['faster, wall'] = timing.ratio(pyg.wall, ours.wall)
    rows[0]['faster, cpu'] = timing.ratio(pyg.cpu, ours.cpu)
  return rows


def _ours(path: str, seeds: int, epochs: int) -> None:
  config = cora.get_config('gcn,a2q,none')
  config.data.name, config.data.path = 'custom', path
  config.seeds = seeds
  config.train.epochs = epochs
  with tempfile.TemporaryDirectory() as folder:
    protocol.run(config, pathlib.Path(folder) / 'run')


def _pyg(path: str, seeds: int, epochs: int) -> None:
  from benchmarks import peer

  data: Any = custom.load_custom(path)
  for _ in range(seeds):
    for _ in peer.node_epochs(cora.get_config('gcn,fp32,none'), data, epochs):
      pass


def _main(kind: str, path: str, seeds: str, epochs: str) -> None:
  if kind == 'pyg':
    from benchmarks import peer  # noqa: F401
  wall, cpu = time.perf_counter(), time.process_time()
  (_ours if kind == 'ours' else _pyg)(path, int(seeds), int(epochs))
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  print(json.dumps({'wall': wall, 'cpu': cpu}))


if __name__ == '__main__':
  _main(*sys.argv[1:])
