"""Training steps whose batch several devices share, of one process or of two.

GIN of configs/mnist_a2q_lorap.py (A2Q, GPF-LoRAP) on graphs like superpixels,
on virtual devices of one CPU, each line in a process of its own, which may use
as many cores as it has devices; of two processes each has one device and, as
far as there are two, a core of its own. `strong`: 128 graphs for all devices
together; `weak`: 128 for each. `efficiency` is the time of one device over that
of n, divided by n for `strong`. `KB moved` is what a device receives in a step.
"""

import concurrent.futures
import json
import math
import os
import re
import socket
import sys
from typing import Any

import jax
import numpy as np

from benchmarks import child, inputs, output, timing
from configs import mnist_a2q_lorap
from lorap_jax.data import pipeline
from lorap_jax.graphs import shards
from lorap_jax.runs import processes as joined
from lorap_jax.runs import settings, star
from lorap_jax.training import state, steps

_GRAPHS = 128
_COLLECTIVES = (
  'all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter'
)
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 's64': 8, 'f64': 8}


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: fewer rounds, one and two devices.
    data_dir: not read.
  """
  del data_dir
  cores = timing.usable_cores()
  rows: list[output.Row] = []
  layouts = [(1, 1), (1, 2), (2, 2)] + ([] if quick else [(1, 4)])
  for mode in ('strong', 'weak'):
    alone = math.nan
    for processes, count in layouts:
      graphs = _GRAPHS * (count if mode == 'weak' else 1)
      found = _measured(processes, count, graphs, 3 if quick else 15)
      times = timing.stats(found['wall'])
      alone = times.median if count == 1 else alone
      shared = count if mode == 'strong' else 1
      rows.append(
        {
          'mode': mode,
          'processes': processes,
          'devices': count,
          'cores': min(cores, count),
          'graphs': graphs,
          'efficiency': alone / times.median / shared,
          'graphs/s over one': graphs / times.median / (_GRAPHS / alone),
          'KB moved': found['moved'] / 1000,
          'KB of features': found['features'] / 1000,
        }
      )
  return rows


def _measured(
  processes: int, devices: int, graphs: int, rounds: int
) -> dict[str, Any]:
  """What process 0 prints of some that share the devices."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  call = lambda rank: child.run(
    'scale',
    devices,
    graphs,
    rounds,
    *((f'127.0.0.1:{port}', processes, rank) if processes > 1 else ()),
    environment={'JAX_NUM_CPU_DEVICES': str(devices // processes)},
  )
  with concurrent.futures.ThreadPoolExecutor(processes) as pool:
    return list(pool.map(call, range(processes)))[0]


def exchanged(program: str) -> list[tuple[str, int]]:
  """Type and numbers of each array that goes between devices.

  Args:
    program: the text of a compiled one.
  """
  found = []
  for shape in re.findall(
    rf'= ([^\n]*?) (?:{_COLLECTIVES})(?:-start)?\(', program
  ):
    for kind, sizes in re.findall(r'(\w+)\[([\d,]*)\]', shape):
      numbers = math.prod(int(size) for size in sizes.split(',') if size)
      found.append((kind, numbers))
  return found


def bytes_moved(program: str) -> int:
  """Bytes that a device gets from others in a compiled program, once each."""
  return sum(
    numbers * _BYTES.get(kind, 4) for kind, numbers in exchanged(program)
  )


def _main(devices: str, graphs: str, rounds: str, *place: str) -> None:
  """Prints the times of steps, and what goes between devices."""
  count, size = int(devices), int(graphs)
  cores = list(os.sched_getaffinity(0))
  where = None
  if place:
    address, processes, rank = place
    where = star.Place(address, int(processes), int(rank))
    os.sched_setaffinity(0, [cores[where.rank % len(cores)]])
  else:
    os.sched_setaffinity(0, cores[:count])
  with joined.joined(where, {}):
    found = _step(count, size, int(rounds))
    print(json.dumps(found))


def _step(count: int, size: int, rounds: int) -> dict[str, Any]:
  config = mnist_a2q_lorap.get_config()
  config.train.batch_size, config.train.devices = size, count
  config.train.integer_epochs = config.train.export = None
  chosen = settings.from_config(config)
  splits = inputs.superpixels(size)
  data = splits.train
  budget = lambda number: pipeline.joint_budget((data,), batch_size=number)
  loader = pipeline.Loader(
    data,
    budget(size),
    layout=True,
    num_shards=count,
    shard=budget(size // count),
    mesh=chosen.mesh,
  )
  with chosen.on_devices():
    batch = loader.put(loader.batch(np.arange(size)))
    model = chosen.model(10)
    first = state.init_state(model, batch, jax.random.key(0))
    step = jax.jit(steps.train_step(model, chosen.scheme, chosen.task(splits)))
    rates = chosen.optimizer.rates(1.0)
    program = step.lower(first, batch, rates).compile()
    call = lambda: program(first, batch, rates)[1].loss
    times = timing.measure({'step': call}, rounds=rounds)['step']
  assert count == 1 or shards.count(batch.graph) == count
  return {
    **times._asdict(),
    'moved': bytes_moved(program.as_text() or ''),
    'features': 4 * chosen.config['model']['features'] * len(data.nodes),
  }


if __name__ == '__main__':
  _main(*sys.argv[1:])
