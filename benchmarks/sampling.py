"""Sampled neighbourhoods of one graph of the size of ogbn-arxiv.

`draw`: neighbours are drawn and numbered. `batch`: the batch with its features,
labels and layouts, on the host; beside it NeighborLoader of torch_geometric,
without workers, which gives as much without layouts. `step`: a training step of
GCN of width 256 at 8 bits with LoRAP, a layer for each hop. The loader
keeps up with the step where `batch over step` is below 1; it works ahead on a
thread of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import child, inputs, output, timing
from configs import ogbn_arxiv
from lorap_jax.data import sampling
from lorap_jax.runs import settings
from lorap_jax.training import state, steps

_FANOUTS = ((10, 10), (15, 10, 5))
_TARGETS = 1024


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: a graph of a tenth, one fan-out.
    data_dir: not read: the official files are no arrays.
  """
  del data_dir
  data = inputs.node_data('arxiv', 0.1 if quick else 1.0)
  edges = sampling.in_edges(data)
  rows: list[output.Row] = []
  for fanout in _FANOUTS[:1] if quick else _FANOUTS:
    chosen = _settings(len(fanout))
    loader = sampling.NeighborLoader(
      data,
      'train',
      edges,
      fanout,
      batch_size=_TARGETS,
      layout=True,
      weighted=chosen.weighted,
    )
    plan = loader.shuffled(0, 0)
    numbering = sampling.Numbering(edges.num_nodes)
    find = lambda t, k=fanout, n=numbering: sampling.find(edges, n, t, k)
    drawn = np.mean([sum(map(len, find(t).senders)) for t in plan[:8]])
    calls: dict[str, Callable[[], Any]] = {
      'draw': _in_turn(find, plan),
      'batch': _in_turn(loader.batch, plan),
      'step': _step(chosen, data, loader.put(loader.batch(plan[0]))),
    }
    if child.installed():
      from benchmarks import peer

      neighbors = peer.neighbor_batches(data, fanout, _TARGETS)
      if neighbors is not None:
        calls['torch_geometric'] = neighbors
    times = timing.measure(calls, rounds=3 if quick else 15)
    for name in calls:
      row: output.Row = {'fan-out': ' x '.join(map(str, fanout)), 'part': name}
      row.update(timing.columns(times, name, 'batch'))
      if name != 'step':
        seconds = timing.stats(times[name].cpu).median
        row['million edges per CPU second'] = drawn / seconds / 1e6
      rows.append(row)
    ratio = lambda a, b, t=times: (
      timing.stats(t[a].wall).median / timing.stats(t[b].wall).median
    )
    rows[-1]['batch over step'] = ratio('batch', 'step')
  return rows


def _in_turn(function: Callable[[Any], Any], plan: list[Any]):
  """Calls with the next element each time."""
  at = iter(range(1 << 62))
  return lambda: function(plan[next(at) % (len(plan) - 1)])


def _settings(layers: int) -> settings.Settings:
  config = ogbn_arxiv.get_config('gcn,qat8,lorap')
  config.model.num_layers = layers
  return settings.from_config(config)


def _step(chosen: settings.Settings, data: Any, batch: Any):
  model, task = chosen.model(data.num_classes), chosen.task(data)
  first = state.init_state(model, batch, jax.random.key(0))
  step = jax.jit(steps.train_step(model, chosen.scheme, task))
  rates = chosen.optimizer.rates(1.0)
  return lambda: step(first, batch, rates)[1].loss
