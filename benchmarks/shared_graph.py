"""A training step on one graph of the size of ogbn-arxiv that devices share.

GCN of configs/ogbn_arxiv.py with LoRAP, on virtual devices of one CPU, each
line in a process of its own, which may use as many cores as it has devices. `MB
per device` is what the compiled step needs beside the state: the batch and all
that is held at once. `MB of codes` and `MB of floats` is what a device receives
in a step, as bytes and as float32.
"""

import json
import os
import sys
from typing import Any

import jax

from benchmarks import child, inputs, output, scale, timing
from configs import ogbn_arxiv
from lorap_jax.data import pipeline
from lorap_jax.runs import settings
from lorap_jax.training import state, steps

_CELLS = ('gcn,a2q,lorap', 'gcn,dq8,lorap')


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: a graph of a fiftieth, one and two devices.
    data_dir: not read: the official files are no arrays.
  """
  del data_dir
  rows: list[output.Row] = []
  cores = timing.usable_cores()
  for cell in _CELLS:
    alone = None
    for count in (1, 2) if quick else (1, 2, 4):
      found = child.run(
        'shared_graph',
        cell,
        count,
        0.02 if quick else 1.0,
        2 if quick else 5,
        environment={'JAX_NUM_CPU_DEVICES': str(count)},
      )
      alone = alone or found
      rows.append(
        {
          'cell': cell,
          'devices': count,
          'cores': min(cores, count),
          'time over one': timing.stats(found['wall']).median
          / timing.stats(alone['wall']).median,
          'MB per device': found['held'] / 1e6,
          'of one': found['held'] / alone['held'],
          'MB of codes': found['codes'] / 1e6,
          'MB of floats': found['floats'] / 1e6,
        }
      )
  return rows


def _main(cell: str, devices: str, size: str, rounds: str) -> None:
  """Prints times, memory and what goes between devices."""
  count = int(devices)
  os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:count])
  config = ogbn_arxiv.get_config(cell)
  config.train.devices = count
  if cell.split(',')[1] == 'a2q':
    config.scheme.quantize_messages = True
  chosen = settings.from_config(config)
  data = inputs.node_data('arxiv', float(size))
  loader = pipeline.WholeGraph(
    data, 'train', layout=True, weighted=chosen.weighted, mesh=chosen.mesh
  )
  with chosen.on_devices():
    batch = loader.put(loader.batch())
    model = chosen.model(data.num_classes)
    first = state.init_state(model, batch, jax.random.key(0))
    step = jax.jit(steps.train_step(model, chosen.scheme, chosen.task(data)))
    rates = chosen.optimizer.rates(1.0)
    program = step.lower(first, batch, rates).compile()
    call = lambda: program(first, batch, rates)[1].loss
    times = timing.measure({'step': call}, rounds=int(rounds))['step']
  moved = scale.exchanged(program.as_text() or '')
  memory: Any = program.memory_analysis()
  parts = sum(leaf.nbytes for leaf in jax.tree.leaves(batch)) / count
  print(
    json.dumps(
      {
        **times._asdict(),
        'held': memory.temp_size_in_bytes + parts,
        'codes': sum(n for kind, n in moved if kind == 'u8'),
        'floats': 4 * sum(n for kind, n in moved if kind == 'f32'),
      }
    )
  )


if __name__ == '__main__':
  _main(*sys.argv[1:])
