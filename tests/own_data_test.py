"""The first run on own data: `configs/custom.py` as it is, and a file."""

import json

import numpy as np
import pytest
import tiny_run

from configs import custom
from lorap_jax.runs import protocol, settings

NODE = ('nodes', 'senders', 'receivers', 'labels')


def node_file(path):
  data = tiny_run.node_data()
  masks = ('train_mask', 'valid_mask', 'test_mask')
  np.savez(path, **{name: getattr(data, name) for name in (*NODE, *masks)})


def graph_file(path):
  parts = tiny_run.splits()[:3]
  fields = (*NODE, 'n_node', 'n_edge')
  arrays = {
    name: np.concatenate([getattr(part, name) for part in parts])
    for name in fields
  }
  split = np.repeat([0, 1, 2], [part.num_graphs for part in parts])
  np.savez(path, split=split, **arrays)


NODES = (node_file, 'node', 'none', 'none')
GRAPHS = (graph_file, 'graph', 'mean', 'dense')
CELLS = ('gcn,dq8,lorap', 'gat,a2q,none')


@pytest.mark.parametrize(
  'write, level, pool, encoder, cell',
  [
    (*NODES, CELLS[1]),
    pytest.param(*GRAPHS, CELLS[0], marks=pytest.mark.slow),
    pytest.param(*NODES, CELLS[0], marks=pytest.mark.slow),
    pytest.param(*GRAPHS, CELLS[1], marks=pytest.mark.slow),
  ],
)
def test_runs_as_it_is(tmp_path, cell, write, level, pool, encoder):
  path = tmp_path / 'own.npz'
  write(path)
  config = custom.get_config(cell)
  config.data.path = str(path)
  config.model.features, config.model.num_layers = 8, 1
  config.train.epochs = 2
  report = protocol.run(config, tmp_path / 'run')
  record = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert record == json.loads(json.dumps(report['config']))
  assert record['data'] == {'name': 'custom', 'path': str(path), 'level': level}
  assert (record['model']['pool'], record['model']['encoder']) == (
    pool,
    encoder,
  )


@pytest.mark.parametrize('write', [node_file, graph_file])
@pytest.mark.parametrize('name, value', [('limit', (5, 5, 5)), ('fold', 1)])
def test_fields_of_other_data_are_refused(tmp_path, write, name, value):
  path = tmp_path / 'own.npz'
  write(path)
  config = custom.get_config()
  config.data.path = str(path)
  config.data[name] = value
  with pytest.raises(ValueError, match=f'config.data: `{name}` = .*no effect'):
    settings.from_config(config)
