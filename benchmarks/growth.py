"""How a training step's time and memory grow with nodes, edges and devices.

GCN of configs/ogbn_arxiv.py (A2Q, 4-bit messages, LoRAP) at width 64 on graphs
of the degrees of ogbn-arxiv, each point in a process of its own, which may use
as many cores as it has devices. `nodes` grow at one mean degree, `edges` at one
number of nodes, `devices` share one graph. In `sampled` a step draws
neighbourhoods of 128 nodes from a graph whose nodes grow, as in `nodes`: once
with A2Q's scale and bits of each node, once with a table of groups. `time over
first` is the median, of rounds, over that of the first point. `MB per device`
is what the compiled step needs: state, batch and all that is held at once;
`state MB` of it are parameters and moments. `peak MB` is what the process held
at most, the graph's making and compiling included.
"""

import itertools
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import child, inputs, output, programs, timing
from configs import ogbn_arxiv

_FEATURES = 64
_FANOUT = (5, 5, 5)
_TARGETS = 128
_GROUPS = 1000


class Series(NamedTuple):
  """Points of one line.

  Attributes:
    grows: `nodes`, `edges` or `devices`.
    scales: of ogbn-arxiv's nodes and edges, point by point.
    densities: a further factor of its edges, likewise.
    devices: that share the graph, likewise.
    sampled: whether steps are on sampled neighbourhoods.
    groups: of A2Q, in place of parameters of each node.
  """

  grows: str
  scales: tuple[float, ...]
  densities: tuple[float, ...] = (1.0,)
  devices: tuple[int, ...] = (1,)
  sampled: bool = False
  groups: bool = False

  def points(self) -> list[tuple[float, float, int]]:
    """Scale, density and devices of each; one of them changes."""
    return list(itertools.product(self.scales, self.densities, self.devices))


_SAMPLED = (1 / 4, 1.0, 4.0)
SERIES = {
  'nodes': Series('nodes', (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)),
  'edges': Series('edges', (1 / 4,), (1 / 4, 1 / 2, 1.0, 2.0, 4.0)),
  'devices': Series('devices', (1.0,), devices=(1, 2, 4)),
  'sampled': Series('nodes', _SAMPLED, sampled=True),
  'sampled, groups': Series('nodes', _SAMPLED, sampled=True, groups=True),
}
_QUICK = {
  'nodes': Series('nodes', (1 / 128, 1 / 64)),
  'edges': Series('edges', (1 / 64,), (1 / 2, 1.0)),
  'devices': Series('devices', (1 / 64,), devices=(1, 2)),
  'sampled': Series('nodes', (1 / 16, 1 / 8), sampled=True, groups=True),
}


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: two points of each line, on small graphs.
    data_dir: not read: graphs of all sizes are made.
  """
  del data_dir
  rows: list[output.Row] = []
  for name, series in (_QUICK if quick else SERIES).items():
    found = [
      child.run(
        'growth',
        *point,
        int(series.sampled),
        int(series.groups),
        2 if quick else 7,
        environment={'JAX_NUM_CPU_DEVICES': str(point[2])},
      )
      for point in series.points()
    ]
    rows += [
      {'series': name, 'grows': series.grows, **row}
      for row in columns(found, series)
    ]
  return rows


def columns(found: list[dict[str, Any]], series: Series) -> list[output.Row]:
  """The rows of a line from what its processes print.

  Args:
    found: point by point, see `measured`.
    series: the line.
  """
  cores = timing.usable_cores()
  first = {key: timing.stats(found[0][key]).median for key in ('wall', 'cpu')}
  over = lambda point, key: timing.stats([t / first[key] for t in point[key]])
  rows: list[output.Row] = []
  for (_, _, devices), point in zip(series.points(), found, strict=True):
    row: output.Row = {
      'nodes': point['nodes'],
      'edges': point['edges'],
      'devices': devices,
      'cores': min(cores, devices),
      'time over first': over(point, 'wall'),
      'cpu over first': over(point, 'cpu'),
      'MB per device': point['held'] / 1e6,
      'state MB': point['state'] / 1e6,
      'peak MB': point['peak'] / 1e6,
    }
    if series.sampled:
      row['rows of a batch'] = point['rows']
      row['batch over step'] = (
        timing.stats(point['batch']).median / timing.stats(point['wall']).median
      )
    rows.append(row)
  return rows


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
  """The b of costs = a sizes^b, by least squares of their logarithms."""
  return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def measured(
  data: Any, devices: int, sampled: bool, groups: bool, rounds: int
) -> dict[str, Any]:
  """Times and memory of a training step.

  Args:
    data: the graph.
    devices: that share it.
    sampled: a step is on a sampled neighbourhood.
    groups: A2Q has a table of groups.
    rounds: of timing.

  Returns:
    Seconds of each round (`wall`, `cpu`; `batch` of making a sampled one),
    bytes (`held`, `state`, `peak`), and sizes.
  """
  config = ogbn_arxiv.get_config('gcn,a2q,lorap')
  config.model.features, config.model.num_layers = _FEATURES, len(_FANOUT)
  if groups:
    config.scheme.num_groups = _GROUPS
    config.scheme.quantize_messages = None
  else:
    config.scheme.quantize_messages = True
  if sampled:
    config.train.fanout, config.train.batch_size = _FANOUT, _TARGETS
    config.train.together = None
  else:
    config.train.devices = devices
  run, batch = programs.begin(config, data)
  with run.settings.on_devices():
    state, rates = run.state, run.settings.optimizer.rates(1.0)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = programs.compiled_step(run)
    program: Any = step
    program = program.lower(state, batch, rates).compile()

    def call():
      nonlocal state  # The old one is donated.
      state, metrics = program(state, batch, rates)
      return metrics.loss

    calls: dict[str, Any] = {'step': call}
    if sampled:
      loader = run.loaders['train']
      targets = itertools.cycle(loader.shuffled(0, 0)[:-1])
      calls['batch'] = lambda: loader.batch(next(targets))
    times = timing.measure(calls, rounds=rounds)
  memory: Any = program.memory_analysis()
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return {
    **times['step']._asdict(),
    'batch': times['batch'].wall if sampled else None,
    'held': held + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    'state': size,
    'peak': child.peak_bytes(),
    'rows': jax.tree.leaves(batch.graph.nodes)[0].shape[0],
    'nodes': data.num_nodes,
    'edges': len(data.senders),
  }


def _main(
  scale: str, density: str, devices: str, sampled: str, groups: str, rounds: str
) -> None:
  """Prints what one point takes."""
  count = int(devices)
  os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:count])
  data = inputs.node_data('arxiv', float(scale), float(density))
  flags = bool(int(sampled)), bool(int(groups))
  print(json.dumps(measured(data, count, *flags, int(rounds))))


if __name__ == '__main__':
  _main(*sys.argv[1:])
