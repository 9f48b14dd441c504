"""What hostile input has found once, by value."""

import json
import shutil

import jraph
import numpy as np
import pytest
import tiny_run
from hostile import as_users_run  # noqa: F401
from hostile_config_test import changed
from hostile_graphs_test import BUDGET, GRAPH, MANY, NODE, graph_of, run  # noqa: F401

import lorap_jax
from lorap_jax import graphs, report
from lorap_jax.data.containers import dataset
from lorap_jax.data.files import store
from lorap_jax.data.sets import custom, tu_text
from lorap_jax.reports import page
from lorap_jax.runs import settings, side_by_side, workdir

pytestmark = pytest.mark.usefixtures('as_users_run')


@pytest.mark.parametrize(
  'path, value, message',
  [
    ('data.name', [], '`name` must be a text'),
    ('model.name', {}, '`name` must be a text'),
    ('scheme.points', [[]], '`points` must be a list of texts'),
    ('scheme.assignment', {'a': None}, 'a table of integers in'),
    ('model.dropout', 10**400, r'`dropout` must be in \[0, 1\)'),
  ],
)
def test_configurations(path, value, message):
  config = changed('search', {path: value})
  with pytest.raises(ValueError, match=message):
    settings.from_config(config)


@pytest.mark.parametrize('cell', [None, 5, ['gcn'], ''])
def test_cells(cell):
  with pytest.raises(ValueError, match='give the cell as BACKBONE,QUANTIZER,P'):
    lorap_jax.own_data_config(cell)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_nodes': 2.0}, '`num_nodes` must be an integer from 0'),
    ({'num_nodes': 2**31}, '`num_nodes` must be an integer from 0'),
    ({'max_out_degree': '9'}, '`max_out_degree` must be an integer from 0'),
    ({'senders': [0, 1]}, '`senders` is a list; give a numpy array'),
    ({'senders': GRAPH['senders'][:-1]}, '19 `senders` and 20 `receivers`'),
  ],
)
def test_layouts(change, message):
  ends = {k: GRAPH[k] for k in ('senders', 'receivers')}
  with pytest.raises(ValueError, match=message):
    graphs.make_layout(**{**ends, 'num_nodes': 10, **change})


@pytest.mark.parametrize(
  'labels, message',
  [
    ([[1], [1, 2]], '`labels` is no array of numbers'),
    ([1e300, 0], '`labels` holds a number that is not finite, or none of'),
    ([np.nan, 0], '`labels` holds a number that is not finite, or none of'),
    ([2**31, 0], '`labels` holds a number that is not finite, or none of'),
  ],
)
def test_labels_of_a_batch(labels, message):
  with pytest.raises(ValueError, match=message):
    graphs.batch_graphs([graph_of({})], labels, BUDGET)


@pytest.mark.parametrize('size', ['4', 1.5, True, 2**31, None])
def test_batch_size(run, size):  # noqa: F811
  with pytest.raises(ValueError, match='`batch_size` must be an integer of'):
    run.predict(graph_of({}), batch_size=size)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'labels': np.array([], 'U1')}, 'labels are not numbers; number'),
    ({'task': np.array(['a', 'b'])}, 'task is .*; expected one of'),
    ({'num_classes': 'x'}, "num_classes is 'x'; expected an integer"),
    ({'num_classes': np.arange(3)}, 'num_classes is .*; expected an integer'),
    ({'num_classes': 2**31}, '.*expected an integer of at most 10,000,000'),
    ({'undirected': 'no'}, "undirected is 'no'; expected true or false"),
  ],
)
def test_own_arrays(change, message):
  with pytest.raises(store.DataError, match=f'^custom: {message}'):
    custom.node_dataset(**{**NODE, **change})
  with pytest.raises(store.DataError, match=f'^custom: {message}'):
    custom.graph_splits(**{**MANY, **change})


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((5, [0]), 'data is a int; with split give graphs'),
    ((None, None), 'this is no graph with edge_index'),
  ],
)
def test_from_pyg(arguments, message):
  with pytest.raises(store.DataError, match=message):
    lorap_jax.from_pyg(*arguments)
  for ignore in (5, 'edge_attr', [[]]):
    with pytest.raises(store.DataError, match='^pyg: ignore '):
      lorap_jax.from_pyg(*arguments, ignore=ignore)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'nodes': NODE['nodes'].tolist()}, 'nodes is a list, no numpy array; exp'),
    ({'num_classes': 'x'}, "num_classes is 'x'; expected an integer"),
    ({'task': []}, r'task is \[\]; expected one of'),
    ({'source': None}, 'source is a NoneType, no record'),
  ],
)
def test_containers(change, message):
  data = tiny_run.node_data()._replace(**change)
  with pytest.raises(ValueError, match=f'^data: {message}'):
    settings.check_data(data)


def test_splits_that_are_none():
  data = tiny_run.splits()._replace(valid=3)
  with pytest.raises(ValueError, match='valid is a int; expected a GraphDatas'):
    settings.check_data(data)


def test_numbers_of_tu_files():
  """The least int64 has no absolute value; 1e300 is no float32."""
  arrays = {
    'n_node': np.array([2]),
    'senders': np.array([0]),
    'receivers': np.array([1]),
    'labels': np.array([0]),
  }
  label = np.array([[0], [-(2**63)]])
  with pytest.raises(store.DataError, match='row 2: a label is beyond 32-bit'):
    tu_text.assemble('a', **arrays, node_labels=label)
  attributes = np.array([[0.0], [1e300]])
  found = tu_text.assemble('a', **arrays, node_attributes=attributes)
  nodes = dataset.GraphDataset(
    found.node_attributes,
    found.senders,
    found.receivers,
    found.n_node,
    found.n_edge,
    found.labels,
  )
  with pytest.raises(
    store.DataError, match='0 has a feature that is not finite'
  ):
    nodes.check('a')


@pytest.fixture
def folder(finished_pair, tmp_path):
  """A copy of the folder of two finished runs."""
  return shutil.copytree(finished_pair, tmp_path / 'copy')


def rewrite(path, change):
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


@pytest.mark.parametrize(
  'name, change',
  [
    ('config.json', lambda c: c['prompt'].update(num_prompts=0)),
    ('config.json', lambda c: c['prompt'].update(rank='4')),
    ('config.json', lambda c: c['model'].pop('name')),
    ('config.json', lambda c: c['prompt'].pop('name')),
    ('config.json', lambda c: c['data'].update(level='edge')),
    ('data.json', lambda d: d.pop('num_nodes')),
    ('data.json', lambda d: d.update(num_features=2**40)),
    ('data.json', lambda d: d.update(num_classes=-1)),
  ],
)
def test_load_run(folder, name, change):
  path = folder / 'seed_0_fold_0'
  rewrite(path / name, change)
  with pytest.raises(workdir.WorkdirError, match=f'{path}/{name}: .*; restore'):
    lorap_jax.load_run(path)


@pytest.mark.parametrize(
  'change',
  [lambda r: r.pop('result'), lambda r: r['result'].update(metric=1.5)],
)
def test_reports(folder, change, capsys):
  rewrite(folder / 'report.json', change)
  assert report.main([str(folder)]) == 2
  assert 'report.json: not a report of this ver' in capsys.readouterr().err


def test_pages(folder):
  (folder / 'report.html').unlink(missing_ok=True)
  rewrite(folder / 'report.json', lambda r: r.pop('result'))
  with pytest.raises(workdir.WorkdirError, match='report.json: not a report'):
    page.write(folder)


@pytest.mark.parametrize('members', [5, [5], [None]])
def test_groups(folder, members):
  path = folder / 'seed_0_fold_0'
  rewrite(path / 'group.json', lambda g: g.update(members=members))
  with pytest.raises(workdir.WorkdirError, match='group.json: '):
    side_by_side.recorded(path)


def test_a_finished_report_without_its_result(folder):
  path = folder / 'seed_0_fold_0'
  rewrite(path / 'report.json', lambda r: r['result'].pop('test'))
  config = tiny_run.pair_config()
  with pytest.raises(workdir.WorkdirError, match='report.json: not a report'):
    lorap_jax.train_and_evaluate(config, path, data=tiny_run.node_data())


def test_what_is_no_graph_at_all(run):  # noqa: F811
  for graph in (None, 5, jraph.GraphsTuple(*[None] * 7)):
    with pytest.raises(ValueError, match='`graph'):
      run.predict(graph)
