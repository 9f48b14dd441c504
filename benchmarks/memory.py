"""Peak memory and time of a training step on a graph like ogbn-arxiv.

GCN of configs/ogbn_arxiv.py: three layers, width 256, batch norm. Every line is
a process of its own; its peak includes loading the graph and compiling.
"""

import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import child, inputs, output, programs, timing
from configs import ogbn_arxiv
from lorap_jax.data.sets import custom

_CELLS = ('fp32,none', 'a2q,none', 'a2q,gpf_lorap')
_PEER = 'PyG fp32'


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: a tenth of the graph, fewer cells.
    data_dir: folder with real data, or None.
  """
  config = ogbn_arxiv.get_config('gcn,fp32,none')
  made = inputs.node_data('arxiv', 0.1 if quick else 1.0)
  data: Any = made if quick else inputs.real_or(made, config, data_dir)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'graph.npz'
    np.savez(path, **{k: getattr(data, k) for k in custom.NODE_ARRAYS})
    for cell in (*(_CELLS[1:2] if quick else _CELLS), _PEER):
      row: output.Row = {'cell': cell, 'data': inputs.origin(data)}
      row.update({'nodes': data.num_nodes, 'edges': len(data.senders)})
      if cell == _PEER and not child.installed():
        rows.append({**row, 'peak GB': output.MISSING})
        continue
      found = child.run('memory', cell, path, 2 if quick else 3)
      for name, key in (('wall s', 'wall'), ('cpu s', 'cpu')):
        row[name] = timing.stats(found[key])
      rows.append({**row, 'peak GB': found['peak'] / 1e9})
  return rows


def _main(cell: str, path: str, rounds: str) -> None:
  """Prints the times of some steps and the peak of all."""
  data: Any = custom.load_custom(path)
  if cell == _PEER:
    from benchmarks import peer

    config = ogbn_arxiv.get_config('gcn,fp32,none')
    graph, model = peer.node_graph(data), peer.gcn_of(config, data)
    step = peer.stepper(model, config)
    call = lambda: step(graph)
  else:
    call = programs.stepper(ogbn_arxiv.get_config(f'gcn,{cell}'), data)
  times = timing.measure({cell: call}, rounds=int(rounds))[cell]
  print(json.dumps({**times._asdict(), 'peak': child.peak_bytes()}))


if __name__ == '__main__':
  _main(*sys.argv[1:])
