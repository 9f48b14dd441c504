"""Every cell of quantizers x prompts x backbones builds and trains."""

import itertools

import jax
import numpy as np
import pytest
import tiny_run

from configs import cells, planetoid, superpixels
from lorap_jax.runs import batched, fields, loop, settings

# Each quantizer, prompt, and backbone with task. A2Q on many graphs is in
# nearly all other tests of runs; what else a pair could break lies in one part,
# or in the slow run of all.
SOME = [
  ('gcn', 'a2q', 'gpf_plus', 'node'),
  ('gin', 'qat4', 'lorap', 'node'),
  ('gat', 'fp32', 'gpf', 'node'),
  ('gcn', 'mixq_search', 'none', 'graph'),
  ('gin', 'mixq', 'gpf_plus_lorap', 'graph'),
  ('gat', 'dq4', 'gpf_lorap', 'graph'),
  ('rgcn', 'dq4', 'gpf_lorap', 'node'),
  ('rgcn', 'a2q', 'lorap', 'graph'),
]
ALL = list(
  itertools.product(
    cells.BACKBONES,
    (*cells.QUANTIZERS, 'mixq_search'),
    cells.PROMPTS,
    ('node', 'graph'),
  )
)


def config_of(backbone, quantizer, prompt, task):
  """A small configuration of a cell, two epochs long."""
  name = quantizer.removesuffix('_search')
  cell = f'{backbone},{name},{prompt}'
  if task == 'node':
    config = planetoid.create('cora', cell)
  else:
    config = superpixels.create('mnist', cell)
    config.train.batch_size = 16
  if quantizer == 'mixq_search':
    config.scheme.name = 'mixq_search'
    config.scheme.candidates = (2, 8)
  config.model.features = 8
  if backbone == 'gat':
    config.model.heads = 2
  config.model.num_layers = 2 if task == 'node' else 1
  config.scheme.num_groups = 8
  config.prompt.num_prompts = 3
  config.prompt.rank = 2
  config.model.readout = 1
  config.train.epochs = 2
  fields.drop_unused(config)
  return config


def train(tmp_path, cell):
  tiny_run.forget_programs()
  chosen = settings.from_config(config_of(*cell))
  of_nodes = tiny_run.node_data
  if cell[0] == 'rgcn':
    of_nodes = tiny_run.related_data
  data = of_nodes() if cell[-1] == 'node' else tiny_run.splits()
  run = loop.create_run(chosen, data, tmp_path)
  try:
    before = jax.device_get(run.state.params)
    run.begin()
    run.train(lambda: False)
    after = jax.device_get(run.state.params)
  finally:
    run.close()
  return run, before, after


def check(tmp_path, cell):
  run, before, after = train(tmp_path, cell)
  records = run.progress.history
  assert len(records) == 2
  assert all(np.isfinite(r['objective']) for r in records)
  assert all(np.isfinite(v).all() for v in jax.tree.leaves(after))
  moved = jax.tree.map(lambda a, b: np.any(a != b), before, after)
  paths = jax.tree_util.tree_leaves_with_path(moved)
  trained = {'/'.join(k.key for k in path) for path, yes in paths if yes}
  prompt = cell[2]
  if 'gpf' in prompt:
    assert any('node_prompt' in path for path in trained)
  if 'lorap' in prompt:
    assert any('/prompt/up' in path for path in trained)
  if isinstance(run, batched.BatchedRun):
    assert run.train_step._cache_size() == 1
    assert run.eval_step._cache_size() == 1
  else:
    assert run.program(1)._cache_size() == 1


ids = lambda cell: '-'.join(cell)


@pytest.mark.parametrize('cell', SOME, ids=ids)
def test_some_cells(tmp_path, cell):
  check(tmp_path, cell)


@pytest.mark.slow
@pytest.mark.parametrize(
  'cell', [cell for cell in ALL if cell not in SOME], ids=ids
)
def test_all_others(tmp_path, cell):
  check(tmp_path, cell)


def test_some_cells_have_every_part():
  eight_bits = {'qat8', 'dq8'}  # Twins of others.
  backbones, quantizers, prompts, tasks = map(set, zip(*SOME, strict=True))
  hint = 'give the new name a row in SOME'
  assert backbones == set(cells.BACKBONES), hint
  assert prompts == set(cells.PROMPTS), hint
  assert quantizers == {*cells.QUANTIZERS, 'mixq_search'} - eight_bits, hint
  seen = {(cell[0], cell[-1]) for cell in SOME}
  assert seen == set(itertools.product(backbones, tasks))
