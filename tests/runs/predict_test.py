"""Outputs of a trained network for graphs that have no padding."""

import functools
import itertools

import jax
import jraph
import numpy as np
import pytest
import tiny_run
from matrix_test import config_of

from configs import cells
from lorap_jax import graphs
from lorap_jax.data import pipeline
from lorap_jax.runs import restore, settings
from lorap_jax.training import state

CELLS = list(
  itertools.product(
    cells.BACKBONES, ('fp32', 'qat4', 'dq4', 'a2q', 'mixq'), ('node', 'graph')
  )
)
# Each backbone with each task, each quantizer, and A2Q in both of its forms.
FEW = [
  ('gcn', 'fp32', 'graph'),
  ('gcn', 'a2q', 'node'),
  ('gin', 'a2q', 'graph'),
  ('gin', 'mixq', 'node'),
  ('gat', 'fp32', 'graph'),
  ('gat', 'dq4', 'node'),
  ('rgcn', 'fp32', 'graph'),
  ('rgcn', 'qat4', 'node'),
]


@functools.cache
def loaded(backbone, quantizer, task):
  """A network that has seen its data, and the padded batch it saw."""
  config = config_of(backbone, quantizer, 'gpf_lorap', task)
  chosen = settings.from_config(config)
  if task == 'node':
    related = backbone == 'rgcn'
    data = tiny_run.related_data() if related else tiny_run.node_data()
    batch = pipeline.WholeGraph(data, 'test', layout=True, weighted=True)
    batch = batch.batch()
  else:
    data = tiny_run.dataset(3, 9)
    budget = pipeline.joint_budget((data,), batch_size=16)
    loader = pipeline.Loader(data, budget, layout=True, weighted=True)
    batch = loader.batch(np.arange(9))
  batch = jax.device_put(batch)
  model = chosen.model(3)
  variables = state.init_state(model, batch, jax.random.key(0)).variables()

  @jax.jit
  def see(variables, batch):
    rngs = {name: jax.random.key(1) for name in ('dropout', 'quantization')}
    _, seen = model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['quant_stats', 'batch_stats'],
      rngs=rngs,
    )
    return seen

  seen = see(variables, batch)
  record = {
    'num_features': data.nodes.shape[1],
    'num_nodes': batch.graph.nodes.shape[0],
    'num_classes': 3,
  }
  if getattr(data, 'num_relations', None):
    record['num_relations'] = data.num_relations
  run = restore.LoadedRun(model, {**variables, **seen}, chosen.config, record)
  return run, data, batch


def one_graph(data):
  """All of a data set as one jraph graph, without padding."""
  if hasattr(data, 'num_graphs'):
    shift = np.repeat(np.cumsum(data.n_node) - data.n_node, data.n_edge)
    n_node, n_edge = data.n_node, data.n_edge
    edges = None
  else:
    shift, edges = 0, pipeline.relations_of(data)
    n_node, n_edge = np.array([data.num_nodes]), np.array([len(data.senders)])
  return jraph.GraphsTuple(
    nodes=data.nodes,
    edges=edges,
    senders=data.senders.astype(np.int32) + shift,
    receivers=data.receivers.astype(np.int32) + shift,
    n_node=n_node,
    n_edge=n_edge,
    globals=None,
  )


def check(cell, *, forms=True):
  """As one graph without padding; also in all `forms` that graphs come in."""
  run, data, batch = loaded(*cell)
  count = 24 if cell[-1] == 'node' else 9
  apply = jax.jit(
    lambda graph, layout: run.model.apply(
      run.variables, graph, layout=layout, train=False
    )
  )
  expected = np.asarray(apply(batch.graph, batch.layout))[:count]
  assert np.ptp(expected, axis=0).max() > 1e-3  # Rows differ.
  graph = one_graph(data)
  close = lambda found: np.testing.assert_allclose(
    found, expected, rtol=1e-4, atol=1e-5
  )
  close(run.predict(graph))
  close(run.predict(data, batch_size=4))
  close(np.asarray(apply(jax.device_put(graph), None)))
  if forms and cell[-1] == 'graph':
    parts = jraph.unbatch_np(one_graph(data))  # It writes into its argument.
    close(run.predict(parts, batch_size=2))
    close(run.predict([*parts[:1], jraph.batch_np(parts[1:])]))
    padded = jraph.pad_with_graphs(graph, 200, 300, 12)
    mask = jraph.get_graph_padding_mask(padded)
    padded = padded._replace(globals=graphs.RealGraphs(mask))
    close(run.predict(padded))
    close(np.asarray(apply(jax.device_put(padded), None))[:9])


@pytest.mark.parametrize('cell', FEW, ids='-'.join)
def test_unpadded_equals_padded(cell):
  # What makes a batch of them knows neither backbone nor quantizer.
  check(cell, forms=cell == ('gin', 'a2q', 'graph'))


@pytest.mark.slow
@pytest.mark.parametrize('cell', CELLS, ids='-'.join)
def test_unpadded_equals_padded_in_all_forms(cell):
  check(cell)


def test_few_meet_all():
  for axes in ((1,), (0, 2)):
    seen, every = (
      {tuple(cell[axis] for axis in axes) for cell in some}
      for some in (FEW, CELLS)
    )
    assert seen == every
  # Groups of rows, or a row of its own for each node.
  assert {cell[2] for cell in FEW if cell[1] == 'a2q'} == {'node', 'graph'}


@pytest.fixture(scope='module')
def run():
  return loaded('gin', 'fp32', 'graph')[0]


class TestRefusals:
  def graph(self, **changes):
    return one_graph(tiny_run.dataset(3, 2))._replace(**changes)

  @pytest.mark.parametrize(
    'changes, message',
    [
      ({'nodes': np.zeros((10, 0))}, r'`graphs.nodes` is float64 \(10, 0\)'),
      ({'nodes': np.zeros(10)}, r'`graphs.nodes` is float64 \(10,\); give'),
      ({'nodes': np.full((10, 3), 'a')}, '`graphs.nodes` is <U1'),
      (
        {'n_node': np.array([4, 999])},
        '`graphs.n_node` adds up to 1003 .* 10 ',
      ),
      ({'n_node': np.array([-1, 11])}, 'its least is -1'),
      ({'n_edge': np.array([1, 1])}, '`graphs.n_edge` adds up to 2 and'),
      ({'n_edge': np.array([20])}, '2 n_node and 1 n_edge'),
      ({'senders': np.full(20, 0.5)}, '`graphs.senders` is float64 .*integers'),
      ({'senders': np.full(20, 8)}, 'senders` of edge 0 is 8, outside of its'),
      ({'receivers': np.full(20, -1)}, 'receivers` of edge 0 is -1, outside'),
    ],
  )
  def test_a_graph_that_is_none(self, run, changes, message):
    graph = self.graph()
    assert len(graph.nodes) == 10 and len(graph.senders) == 20
    with pytest.raises(ValueError, match=message):
      run.predict(self.graph(**changes))

  def test_features_that_are_not_finite(self, run):
    graph = self.graph()
    graph.nodes[4, 1] = np.nan
    with pytest.raises(ValueError, match='nodes` of node 4 are not finite'):
      run.predict(graph)

  def test_other_features(self, run):
    with pytest.raises(ValueError, match='has 5 features per node; .* on 3'):
      run.predict(self.graph(nodes=np.zeros((10, 5))))

  @pytest.mark.parametrize('nothing', [[], None])
  def test_no_graphs(self, run, nothing):
    if nothing is None:
      none, empty = np.zeros(0, int), np.zeros((0, 3))
      nothing = jraph.GraphsTuple(empty, None, none, none, None, none, none)
    with pytest.raises(ValueError, match='at least one graph'):
      run.predict(nothing)

  def test_batch_size(self, run):
    with pytest.raises(ValueError, match='`batch_size` must be at least 1'):
      run.predict(self.graph(), batch_size=0)

  def test_parameters_for_other_nodes(self):
    run, data, _ = loaded('gcn', 'a2q', 'node')
    other = one_graph(data._replace(nodes=np.ones((30, 5), np.float32)))
    with pytest.raises(ValueError, match='30 nodes; .* each of the 24 nodes'):
      run.predict(other)

  def test_a_run_that_padded_its_graph(self):
    """Versions up to 0.1 had parameters for a node of padding as well."""
    run, data, _ = loaded('gcn', 'a2q', 'node')
    expected = run.predict(data)
    longer = jax.tree_util.tree_map_with_path(
      lambda path, leaf: (
        np.append(leaf, 1).astype(np.float32) if leaf.shape == (24,) else leaf
      ),
      run.variables['params'],
    )
    old = run._replace(
      variables={**run.variables, 'params': longer},
      data={**run.data, 'num_nodes': 25},
    )
    np.testing.assert_allclose(old.predict(data), expected, rtol=1e-5)
