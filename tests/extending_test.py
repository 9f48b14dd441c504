"""The examples of docs/extending.md, from a quantizer to its report."""

import json
import pathlib

import jax
import jraph
import numpy as np
import pytest
from docs_test import python_blocks

import lorap_jax
from lorap_jax.models import factory
from lorap_jax.nn.prompts import spec
from lorap_jax.runs import cells, datasets

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'extending.md'


@pytest.fixture(scope='module')
def names(tmp_path_factory):
  """What the blocks of the page define, run in an empty folder."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.chdir(tmp_path_factory.mktemp('extending'))
    for module, table in (
      (factory, 'SCHEMES'),
      (factory, 'NODE_SCHEMES'),
      (cells, 'QUANTIZERS'),
      (datasets, 'DATASETS'),
      (spec, 'FORMS'),
    ):
      monkeypatch.setattr(module, table, dict(getattr(module, table)))
    found = {'__name__': 'extending'}
    for block in python_blocks(PAGE):
      exec(compile(block, PAGE.name, 'exec'), found)
    yield found


def test_a_quantizer_from_its_module_to_its_report(names):
  report = names['report']
  groups = report['parameters']['by_group']
  assert set(groups) == {'base', 'prompt', 'feature_scale'}
  points = {point['path']: point for point in report['points']}
  assert points['conv_0/aggregate']['bits'] == 4
  assert 0 < points['conv_0/aggregate']['error'] < 0.5
  saved = json.loads(pathlib.Path('runs/step/report.json').read_text())
  assert saved['config']['scheme']['name'] == 'step'
  run = lorap_jax.load_run('runs/step')
  steps = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      run.variables['params']
    )
    if path[-1].key == 'step'
  ]
  assert len(steps) == 4 and all(leaf > 0 for leaf in steps)
  nodes = np.ones((2, 8), np.float32)
  graph = jraph.GraphsTuple(
    nodes,
    None,
    np.array([0]),
    np.array([1]),
    None,
    np.array([2]),
    np.array([1]),
  )
  assert run.predict(graph).shape == (2, 4)


def test_a_prompt_and_a_data_set(names):
  report = names['rings']
  assert report['config']['prompt']['form'] == 'scalar'
  assert report['config']['data']['name'] == 'rings'
  assert report['cost']['bit_ops_per_graph']['prompts'] > 0
  run = lorap_jax.load_run('runs/rings')
  assert run.predict(names['load_rings']().test).shape == (10, 2)
