"""Every cell of quantizers x prompts x backbones builds and trains."""

import itertools

import jax
import numpy as np
import pytest
import tiny_run

from configs import cells, planetoid, superpixels
from lorap_jax.runs import batched, fields, loop, settings

QUANTIZERS = cells.QUANTIZERS  # `mixq` is its second phase here.
SEARCHES = [
  (backbone, 'mixq_search', prompt, task)
  for backbone, prompt, task in zip(
    cells.BACKBONES,
    ('none', 'gpf', 'lorap'),
    ('node', 'graph', 'node'),
    strict=True,
  )
]
# All pairs of quantizer and prompt; backbone and task take turns, so that each
# meets every quantizer and every prompt. Eight-bit twins of a scheme and the
# prompt that joins two others are met once or twice.
_QUANTIZERS = ('fp32', 'qat4', 'dq4', 'a2q', 'mixq')
_PROMPTS = cells.PROMPTS[:5]
PAIRS = [
  (
    cells.BACKBONES[(i + j) % 3],
    quantizer,
    prompt,
    ('node', 'graph')[(i + j) % 2],
  )
  for i, quantizer in enumerate(_QUANTIZERS)
  for j, prompt in enumerate(_PROMPTS)
]
PAIRS += [
  ('gcn', 'qat8', 'gpf_plus_lorap', 'node'),
  ('gat', 'dq8', 'gpf_plus_lorap', 'graph'),
]
ALL = list(
  itertools.product(
    cells.BACKBONES, QUANTIZERS, cells.PROMPTS, ('node', 'graph')
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
  data = tiny_run.node_data() if cell[-1] == 'node' else tiny_run.splits()
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


@pytest.mark.parametrize('cell', PAIRS + SEARCHES, ids=ids)
def test_pairs(tmp_path, cell):
  check(tmp_path, cell)


@pytest.mark.slow
@pytest.mark.parametrize(
  'cell', [cell for cell in ALL if cell not in PAIRS], ids=ids
)
def test_all_others(tmp_path, cell):
  check(tmp_path, cell)


def test_pairs_cover_the_matrix():
  axes = (cells.BACKBONES, _QUANTIZERS, _PROMPTS, ('node', 'graph'))
  for first, second in itertools.combinations(range(4), 2):
    seen = {(cell[first], cell[second]) for cell in PAIRS}
    wanted = set(itertools.product(axes[first], axes[second]))
    assert seen >= wanted, (first, second)
  for axis, values in ((1, QUANTIZERS), (2, cells.PROMPTS)):
    assert {cell[axis] for cell in PAIRS} == set(values)
