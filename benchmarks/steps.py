"""One training step of every quantizer, without and with prompts.

GIN on a batch of 128 MNIST superpixel graphs (configs/mnist.py) and GCN on Cora
(configs/cora.py). The network is that of the FP32 cell throughout; MixQ's step
is that of its second phase. PyG is the same network in full precision.
"""

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import config_dict

from benchmarks import child, inputs, output, programs, timing
from configs import cora, mnist
from lorap_jax.runs import fields, settings

_CELLS = tuple(
  f'{quantizer},{prompt}'
  for quantizer in ('fp32', 'qat4', 'dq4', 'a2q', 'mixq')
  for prompt in ('none', 'gpf_lorap')
)
_QUICK = ('fp32,none', 'a2q,none')
_BASE = 'fp32,none'
_PEER = 'PyG fp32'


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: GIN of one layer, a smaller batch, fewer cells and repeats.
    data_dir: folder with real data, or None.
  """
  graphs = 32 if quick else 128
  base = mnist.get_config('gin,fp32,none')
  base.data.limit = (graphs, 8, 8)
  base.train.batch_size = graphs
  if quick:
    base.model.num_layers = 1
  superpixels = inputs.real_or(inputs.superpixels(graphs), base, data_dir)
  hosts = {'gin': (mnist.get_config, base, superpixels)}
  if not quick:
    base = cora.get_config('gcn,fp32,none')
    whole = inputs.real_or(inputs.node_data('cora'), base, data_dir)
    hosts['gcn'] = (cora.get_config, base, whole)
  rows = []
  for backbone, (make, base, data) in hosts.items():
    calls = {
      cell: programs.stepper(
        cell_config(make, base, f'{backbone},{cell}'), data
      )
      for cell in (_QUICK if quick else _CELLS)
    }
    calls.update(_peer(backbone, base, data))
    times = timing.measure(calls, rounds=3 if quick else 15)
    for cell in (*calls, *({_PEER} - calls.keys())):
      row: output.Row = {
        'net': backbone,
        'data': inputs.origin(data),
        'cell': cell,
      }
      if cell not in calls:
        rows.append({**row, 'cpu ms': output.MISSING})
        continue
      row.update(timing.columns(times, cell, _BASE))
      bare = f'{cell.partition(",")[0]},none'
      if bare in calls and bare != cell:
        row['cpu / no prompt'] = timing.ratio(times[cell].cpu, times[bare].cpu)
      if _PEER in times:
        ratio = timing.ratio(times[cell].cpu, times[_PEER].cpu)
        row[f'cpu / {_PEER}'] = ratio
      rows.append(row)
  return rows


def cell_config(
  make: Callable[[str], config_dict.ConfigDict],
  base: config_dict.ConfigDict,
  cell: str,
) -> config_dict.ConfigDict:
  """A cell on the network and batch size of the base configuration.

  Args:
    make: a data set's `get_config`.
    base: its full-precision cell.
    cell: see `configs.cells`.
  """
  config = make(cell)
  config.model = base.model.copy_and_resolve_references()
  config.train.batch_size = base.train.batch_size
  if config.scheme.name == 'mixq':
    # What the search would have found: every quantizer at `scheme.bits`.
    config.scheme.assignment = {}
  fields.drop_unused(config)
  return config


def _peer(
  backbone: str, config: config_dict.ConfigDict, data: settings.Data
) -> dict[str, Callable[[], Any]]:
  if not child.installed():
    return {}
  from benchmarks import peer

  if backbone == 'gin':
    train: Any = data
    size = config.train.batch_size
    batch = next(iter(peer.batches(train.train, size, shuffle=False)))
    model = peer.GIN(
      batch.x.shape[1],
      train.num_classes,
      num_layers=config.model.num_layers,
    )
  else:
    node_data: Any = data
    batch, model = peer.node_graph(node_data), peer.gcn_of(config, node_data)
  step = peer.stepper(model, config)
  return {_PEER: lambda: step(batch)}


def num_parameters(config: config_dict.ConfigDict, data: settings.Data) -> int:
  """Parameters of a configuration's network."""
  run, _ = programs.begin(config, data)
  return sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
