"""Networks on sampled neighbourhoods are those on the whole graph."""

import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_graph import E, N, dataset

from lorap_jax import graphs
from lorap_jax.data import pipeline, sampling
from lorap_jax.graphs import neighborhood
from lorap_jax.models import backbones, network
from lorap_jax.nn import conv, methods, prompts, protection
from lorap_jax.nn.quantized import Rows
from lorap_jax.training import layerwise, passes, steps

SCHEMES = {
  'fp32': methods.FP32(),
  'qat': methods.QAT(bits=4),
  'edges': methods.DegreeQuant(bits=8, edge_messages=True),
  'a2q': methods.A2QNode(),
  'a2q_messages': methods.A2QNode(node_messages=True),
  'mixq': methods.MixQ(points=('message', 'norm', 'update')),
}
CELLS = [
  ('gcn', 'edges', True),
  ('gin', 'qat', True),
  ('gat', 'a2q_messages', True),
  ('rgcn', 'a2q', True),
]
MORE = [
  ('gcn', 'mixq', True),
  ('gin', 'edges', False),
  ('gat', 'fp32', False),
  ('rgcn', 'edges', False),
]
CELLS += [pytest.param(cell, marks=pytest.mark.slow) for cell in MORE]
RELATIONS = 3


@functools.cache
def data(kinds=False):
  return dataset(relations=np.arange(E) * 7 % RELATIONS if kinds else None)


@functools.cache
def edges(kinds=False):
  return sampling.in_edges(data(kinds))


def model_of(backbone, scheme, **changes):
  kinds = {
    'gcn': backbones.GCN(),
    'gin': backbones.GIN(mlp_norm='last'),
    'gat': backbones.GAT(heads=2),
    'rgcn': backbones.RGCN(),
  }
  fields = {'features': 8, 'num_layers': 2, 'norm': True, **changes}
  return network.Network(
    4,
    kinds[backbone],
    SCHEMES[scheme],
    prompts.PromptSpec('lorap'),
    encoder='none',
    pool='none',
    **fields,
  )


def loader(fanout, *, layout=True, batch_size=7, kinds=False, unlabelled=0):
  return sampling.NeighborLoader(
    data(kinds),
    'train',
    edges(kinds),
    fanout,
    batch_size=batch_size,
    layout=layout,
    weighted=True,
    unlabelled=unlabelled,
  )


@functools.cache
def whole(layout, kinds=False):
  graph = pipeline.WholeGraph(
    data(kinds), 'train', layout=layout, weighted=True
  )
  return jax.device_put(graph.batch())


@functools.cache
def trained(backbone, scheme, layout):
  """A network after a pass of training, and its outputs on the whole graph."""
  kinds = backbone == 'rgcn'
  model, batch = model_of(backbone, scheme), whole(layout, kinds)
  init = functools.partial(passes.init, model, train=True)
  variables = jax.jit(init)(jax.random.key(0), batch.graph, layout=batch.layout)
  outputs = jax.jit(
    lambda v: model.apply(v, batch.graph, layout=batch.layout, train=False)
  )(variables)
  return model, variables, np.asarray(outputs)


@pytest.mark.parametrize('cell', CELLS, ids=str)
def test_all_neighbours_give_the_outputs_of_the_whole_graph(cell):
  backbone, scheme, layout = cell
  model, variables, expected = trained(backbone, scheme, layout)
  sampled = loader((N, N), layout=layout, kinds=backbone == 'rgcn')
  step = jax.jit(
    lambda g, lay: model.apply(variables, g, layout=lay, train=False)
  )
  for targets in sampled.ordered():
    batch = sampled.put(sampled.batch(targets))
    outputs = step(batch.graph, batch.layout)
    assert len(outputs) == 8  # Seven targets and padding.
    np.testing.assert_allclose(
      outputs[: len(targets.ids)], expected[targets.ids], atol=2e-6
    )


@pytest.mark.parametrize('cell', CELLS, ids=str)
def test_layer_by_layer_gives_the_outputs_of_the_whole_graph(cell, monkeypatch):
  backbone, scheme, layout = cell
  model, variables, expected = trained(backbone, scheme, layout)
  monkeypatch.setattr(layerwise, '_RECEIVERS', 8)
  monkeypatch.setattr(layerwise, '_EDGES', 40)  # One node has more.
  monkeypatch.setattr(layerwise, '_IN_MEMORY', 600)
  wanted = data().valid_mask | data().test_mask
  kinds = backbone == 'rgcn'
  found = layerwise.Layerwise(
    model, data(kinds), edges(kinds), wanted, layout=layout, weighted=True
  )
  np.testing.assert_array_equal(found.targets, np.flatnonzero(wanted))
  np.testing.assert_allclose(
    found.outputs(variables), expected[wanted], atol=2e-6
  )


@functools.cache
def all_at_once(fanout, kinds=False):
  return loader(fanout, batch_size=20, kinds=kinds)


def layer_inputs(fanout, key, kinds=False):
  """The one layer of a drawn batch of all training nodes, and its rows."""
  sampled = all_at_once(fanout, kinds)
  ids = np.flatnonzero(data().train_mask).astype(np.int32)
  batch = sampled.put(sampled.batch(sampling.Targets(ids, key)))
  return ids, batch.graph.layers[0], batch.layout[0], batch.graph.nodes


@pytest.mark.parametrize('layout', [True, False])
def test_drawn_sums_are_unbiased(layout):
  x = data().nodes
  expected = np.zeros_like(x)
  np.add.at(expected, data().receivers, x[data().senders])
  total, count = 0, 300
  step = jax.jit(graphs.aggregate)
  for key in range(count):
    ids, graph, lay, rows = layer_inputs((3,), key)
    total += step(rows, graph, lay if layout else None)
  mean = np.asarray(total)[: len(ids)] / count
  # Node 3 has 30 edges and more: the deviation of its mean is the largest.
  np.testing.assert_allclose(mean, expected[ids], atol=2.5)
  few = np.bincount(data().receivers, minlength=N)[ids] <= 3
  assert few.any()
  np.testing.assert_allclose(mean[few], expected[ids][few], atol=1e-4)


@pytest.mark.parametrize('layout', [True, False])
def test_drawn_means_of_each_relation_are_unbiased(layout):
  x = data().nodes
  sums, counts = np.zeros((N, RELATIONS, 6)), np.zeros((N, RELATIONS, 1))
  at = data(True).receivers, data(True).relations
  np.add.at(sums, at, x[data().senders])
  np.add.at(counts, at, 1)
  expected = sums / np.maximum(counts, 1)
  total, count = 0, 300
  step = jax.jit(graphs.mean_by_relation)
  for key in range(count):
    ids, graph, lay, rows = layer_inputs((3,), key, True)
    total += step(rows, graph, lay if layout else None)
  mean = np.asarray(total)[: len(ids)] / count
  np.testing.assert_allclose(mean, expected[ids], atol=0.4)
  assert np.abs(expected).max() > 2
  few = np.bincount(data().receivers, minlength=N)[ids] <= 3
  assert few.any()
  np.testing.assert_allclose(mean[few], expected[ids][few], atol=1e-4)
  # c is that of the whole graph, also where no edge of a relation was drawn.
  there = neighborhood.of(graph)
  np.testing.assert_array_equal(
    there.relation_degree[: len(ids)], counts[ids, :, 0]
  )


def test_norms_are_those_of_the_whole_graph():
  ids, graph, _, _ = layer_inputs((2,), 0)
  of_whole = whole(True).graph
  everywhere = jnp.ones((N, 1), bool)
  numbers = neighborhood.of(graph).numbers
  mask = graphs.node_mask(graph)[:, None]
  real = np.asarray(mask)[:, 0]
  rows = numbers.ids[real]
  np.testing.assert_array_equal(rows[: len(ids)], ids)
  for function in (graphs.gcn_degree, graphs.self_loop_weights):
    np.testing.assert_array_equal(
      function(graph, mask, self_loops=True)[real],
      function(of_whole, everywhere, self_loops=True)[rows],
    )
  with pytest.raises(ValueError, match="'senders' is not known of a sampled"):
    graphs.gcn_degree(graph, mask, self_loops=True, degree_of='senders')


def test_protection_is_by_degree_in_the_whole_graph():
  _, graph, _, _ = layer_inputs((1,), 0)
  scheme = methods.DegreeQuant(bits=4, low=0.0, change=1.0)
  drawn = jax.vmap(
    lambda key: jax.random.bernoulli(
      key, jnp.asarray(neighborhood.of(graph).degree_share)
    )
  )(jax.random.split(jax.random.key(0), 400))
  numbers = neighborhood.of(graph).numbers
  real = np.asarray(graphs.node_mask(graph))
  degree = np.diff(edges().indptr)
  share = np.array([(degree <= d).mean() for d in degree])[numbers.ids[real]]
  np.testing.assert_allclose(drawn.mean(0)[real], share, atol=0.12)

  class Module(conv.GINConv):
    def make_rng(self, name):
      return jax.random.key(3)

  mask = graphs.node_mask(graph)[:, None]
  rows = protection.node_rows(
    Module(4, scheme), scheme, graph, mask, train=True
  )
  assert rows.protected.shape == mask.shape
  assert rows.numbers.count == N


def test_attention_counts_a_drawn_edge_for_those_it_stands_for():
  # With all logits 0 all edges have the same part: of two drawn ones each has d
  # / 2 parts. A node's own loops are there as they are, drawn or not.
  _, graph, lay, nodes = layer_inputs((2,), 0)
  layer = conv.GATConv(4, methods.FP32(), heads=1)
  rows = Rows(graphs.node_mask(graph)[:, None])
  variables = layer.init(jax.random.key(0), nodes, graph, rows=rows, layout=lay)
  kernel = variables['params']['dense']['kernel']
  params = {**variables['params'], 'attention_kernel': jnp.zeros((4, 2))}
  outputs = layer.apply({'params': params}, nodes, graph, rows=rows, layout=lay)
  there, m = neighborhood.of(graph), np.asarray(nodes @ kernel)
  senders, receivers = np.asarray(graph.senders), np.asarray(graph.receivers)
  for i in np.flatnonzero(there.receivers):
    drawn = senders[receivers == i]
    degree, loops = int(there.in_degree[i]), int(there.loops[i])
    proper = m[drawn[drawn != i]].sum(0) * (degree / max(len(drawn), 1))
    others = (drawn != i).sum() * (degree / max(len(drawn), 1))
    own = max(loops, 1)
    expected = (proper + own * m[i]) / (others + own)
    np.testing.assert_allclose(outputs[i], expected, atol=1e-5)


def test_nodes_take_and_train_their_own_parameters():
  quantizer = SCHEMES['a2q'].quantizer('input', non_negative=False)
  x = jnp.asarray(data().nodes)
  whole_rows = Rows(jnp.ones((N, 1), bool))
  variables = quantizer.init(jax.random.key(0), x, rows=whole_rows)
  ids = np.array([7, 3, 50, 0], np.int32)
  rows = Rows(
    jnp.array([[True], [True], [True], [False]]),  # Node 0 is padding.
    numbers=neighborhood.NodeNumbers(ids, N),
  )
  apply = lambda v, t, r: quantizer.apply(v, t, rows=r).values
  some = apply(variables, x[ids], rows)
  np.testing.assert_array_equal(
    some[:3], apply(variables, x, whole_rows)[ids[:3]]
  )
  gradient = jax.grad(lambda v: apply(v, x[ids], rows)[:3].sum())(variables)
  for leaf in jax.tree.leaves(gradient):
    assert set(np.flatnonzero(leaf)) <= {7, 3, 50}
  started = quantizer.init(jax.random.key(0), x[ids], rows=rows)
  scale = started['params']['scale']
  own = variables['params']['scale'][ids[:3]]
  np.testing.assert_array_equal(scale[ids[:3]], own)
  others = np.setdiff1d(np.arange(N), ids[:3])
  np.testing.assert_array_equal(scale[others], np.float32(np.median(own)))


def test_memory_of_a_sample_is_an_estimate_of_all():
  quantizer = SCHEMES['a2q'].quantizer('input', non_negative=False)
  x = jnp.asarray(data().nodes)
  rows = lambda ids: Rows(
    jnp.ones((len(ids), 1), bool), numbers=neighborhood.NodeNumbers(ids, N)
  )
  all_ids = np.arange(N, dtype=np.int32)
  variables = quantizer.init(jax.random.key(0), x, rows=rows(all_ids))
  memory = lambda ids: quantizer.apply(
    variables, x[ids], rows=rows(ids), mutable=['memory']
  )[1]['memory']['kib']
  thirds = [memory(all_ids[i::3]) for i in range(3)]
  np.testing.assert_allclose(np.mean(thirds), memory(all_ids), rtol=1e-5)


def test_unlabelled_nodes_show_the_ranges_of_the_whole_graph():
  scheme = methods.DegreeQuant(bits=4, low=0.0, change=0.0)  # Protects nobody.
  model = model_of('gcn', 'fp32').clone(scheme=scheme)
  variables = trained('gcn', 'edges', True)[1]
  fresh = jax.tree.map(jnp.zeros_like, variables['quant_stats'])

  @jax.jit
  def seen(batch):
    return model.apply(
      {**variables, 'quant_stats': fresh},
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['quant_stats', 'batch_stats'],
      rngs={'quantization': jax.random.key(0)},
    )[1]

  def drawn(unlabelled):
    sampled = loader((N, N), unlabelled=unlabelled)
    return seen(sampled.put(sampled.batch(sampled.shuffled(0, 0)[0])))

  expected = seen(whole(True))
  helpers.assert_trees_close(drawn(N), expected, rtol=1e-4, atol=1e-5)
  # Of seven targets and their neighbours the last layer has other ranges.
  limit = lambda tree: float(
    tree['quant_stats']['conv_1']['update']['range']['max_val']
  )
  assert abs(limit(drawn(0)) / limit(expected) - 1) > 0.01


@pytest.mark.slow
def test_a_node_that_no_target_reaches_learns_where_it_is_drawn():
  model, variables, _ = trained('rgcn', 'a2q', True)

  def by_node(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.shape == (N,)]

  assert by_node(variables['params'])

  def learned(unlabelled):
    sampled = loader((1, 1), kinds=True, unlabelled=unlabelled)
    batch = sampled.put(sampled.batch(sampled.shuffled(0, 0)[0]))

    def loss(params):
      outputs, _ = model.apply(
        {**variables, 'params': params},
        batch.graph,
        layout=batch.layout,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.sum(outputs * batch.target_mask()[:, None])

    found = jax.grad(loss)(variables['params'])
    return max(np.count_nonzero(leaf) for leaf in by_node(found))

  assert learned(0) < N / 2
  assert learned(N) > 0.9 * N


def test_cost_is_counted_the_same_way_for_all_batches():
  model, variables, _ = trained('gcn', 'edges', True)
  seen = []
  for rows in ((8, 64, 64), (8, 64, 128)):
    sampled = loader((2, 3))
    sampled.budget = sampled.budget._replace(rows=rows)
    batch = sampled.put(sampled.batch(sampled.ordered()[0]))
    seen.append(steps.make_cost_step(model)(variables, batch)[0])
  one, other = seen
  helpers.assert_trees_close(one, other, rtol=1e-5)


def test_another_number_of_layers_is_refused():
  batch = loader((2,)).batch(loader((2,)).ordered()[0])
  with pytest.raises(ValueError, match='sampled for 1 layers, there are 2'):
    model_of('gcn', 'fp32').init(jax.random.key(0), batch.graph, train=True)
