"""RGCNConv against dense matrices, one for each relation."""

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.nn import conv, methods, telemetry
from lorap_jax.nn.prompts import PromptSpec
from lorap_jax.nn.quantized import Rows

R = 3  # Some nodes receive of none, of one or of all.
REAL, EDGES = layers.REAL, layers.EDGES


def related():
  """The graphs of `layers`, each edge of a relation."""
  rng = np.random.default_rng(1)
  return [
    graph._replace(
      edges=graphs.Relations(
        rng.integers(0, R, len(graph.senders)).astype(np.int32), R
      )
    )
    for graph in layers.graph_list()
  ]


def batch_of(kind='table', **options):
  return layers.batch_of(related(), kind=kind, **options)


def dense_means(x, graph):
  """[n, (1 + R) f] in float64: the nodes, and the means of each relation."""
  senders, receivers = graph.senders[:EDGES], graph.receivers[:EDGES]
  blocks = [x]
  for r in range(R):
    matrix = np.zeros((len(x),) * 2)
    chosen = graph.edges.ids[:EDGES] == r
    np.add.at(matrix, (receivers[chosen], senders[chosen]), 1)
    blocks.append(matrix @ x / np.maximum(matrix.sum(1, keepdims=True), 1))
  return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize('kind', ['table', 'csr', 'none'])
@pytest.mark.parametrize('edge_messages', [False, True])
def test_is_a_dense_matrix_for_each_relation(kind, edge_messages):
  batch = batch_of(kind)
  scheme = layers.Unquantized(edge_messages=edge_messages)
  layer = conv.RGCNConv(5, scheme)
  variables = layers.init(layer, batch)
  params = variables['params']['dense']
  assert params['kernel'].shape == ((1 + R) * 4, 5)
  bias = jnp.arange(5, dtype=jnp.float32)
  variables = {'params': {'dense': {**params, 'bias': bias}}}
  out, _, _ = layers.apply(layer, variables, batch)
  x = np.asarray(batch.graph.nodes, np.float64)
  s, bias = dense_means(x, batch.graph), np.asarray(bias)
  expected = s @ np.asarray(params['kernel'], np.float64) + bias
  np.testing.assert_allclose(out[:REAL], expected[:REAL], atol=1e-5)
  # Equation 2, node by node, for the one with most relations.
  w = np.asarray(params['kernel'], np.float64).reshape(1 + R, 4, 5)
  graph = batch.graph
  for i in range(REAL):
    y = x[i] @ w[0] + bias
    received = np.flatnonzero(graph.receivers[:EDGES] == i)
    for r in range(R):
      of_r = received[graph.edges.ids[received] == r]
      for e in of_r:
        y = y + x[graph.senders[e]] @ w[1 + r] / len(of_r)
    np.testing.assert_allclose(out[i], y, atol=1e-5)


@pytest.mark.parametrize('kind', ['table', 'csr', 'none'])
def test_gradient_is_that_of_the_dense_form(kind):
  batch = batch_of(kind)
  rng = np.random.default_rng(2)
  cotangent = rng.normal(size=(len(batch.graph.nodes), R, 4))
  cotangent[REAL:] = 0
  x = jnp.asarray(batch.graph.nodes)
  graph, lay = jax.tree.map(jnp.asarray, (batch.graph, batch.layout))
  found = jax.jit(
    jax.grad(
      lambda t: jnp.sum(graphs.mean_by_relation(t, graph, lay) * cotangent)
    )
  )(x)
  expected = np.zeros(x.shape)
  for r in range(R):
    unit = dense_means(np.eye(len(x)), batch.graph)
    block = unit[:, (1 + r) * len(x) : (2 + r) * len(x)]
    expected += block.T @ cotangent[:, r]
  np.testing.assert_allclose(found[:REAL], expected[:REAL], atol=1e-5)


def test_edges_in_any_order_give_the_same():
  batch = batch_of('csr')
  x = jnp.asarray(batch.graph.nodes)
  expected = graphs.mean_by_relation(x, batch.graph, batch.layout)
  # Within a receiver the relations come as they will.
  receivers = np.asarray(batch.graph.receivers[:EDGES])
  order = np.lexsort((np.random.default_rng(3).random(EDGES), receivers))
  take = lambda a: np.concatenate([np.asarray(a)[order], a[EDGES:]])
  ids = take(batch.graph.edges.ids)
  senders = take(batch.graph.senders)
  made = graphs.make_layout(senders[:EDGES], receivers, len(x), weighted=True)
  padded = [
    side._replace(indices=np.append(side.indices, np.zeros(6, np.int32)))
    for side in made
  ]
  outgoing = np.append(padded[1].order, np.zeros(6, np.int32))
  lay = graphs.Layout(padded[0], padded[1]._replace(order=outgoing))
  graph = batch.graph._replace(senders=senders, edges=graphs.Relations(ids, R))
  assert np.any(np.diff(ids[:EDGES])[np.diff(receivers) == 0] < 0)
  found = graphs.mean_by_relation(x, graph, lay)
  np.testing.assert_allclose(found[:REAL], expected[:REAL], atol=1e-6)
  grad = lambda g, la: jax.grad(
    lambda t: jnp.sum(jnp.sin(graphs.mean_by_relation(t, g, la)[:REAL]))
  )(x)
  np.testing.assert_allclose(
    grad(graph, lay)[:REAL],
    grad(batch.graph, batch.layout)[:REAL],
    atol=1e-6,
  )


@pytest.mark.parametrize(
  'scheme',
  [
    pytest.param(
      methods.DegreeQuant(bits=4, edge_messages=True), marks=pytest.mark.slow
    ),
    methods.A2QGraph(num_groups=8),
    methods.MixQ(points=methods.MIXQ_POINTS['rgcn']),
  ],
  ids=lambda s: type(s).__name__,
)
def test_padding_changes_nothing(scheme):
  layer = conv.RGCNConv(5, scheme, PromptSpec('lorap', rank=2))
  small, large = batch_of(), batch_of(budget=layers.LARGER)
  variables = layers.init(layer, small)
  outs = []
  for batch in (small, large):
    rows = layers.rows_of(batch, train=True)
    out, written, calls = layers.apply(layer, variables, batch, rows=rows)
    outs.append((out[:REAL], written.get('quant_stats', {})))
    assert 'aggregate' in calls or isinstance(scheme, methods.MixQ)
  np.testing.assert_allclose(outs[0][0], outs[1][0], atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    outs[0][1],
    outs[1][1],
  )


def test_names_its_points():
  found = layers.points_of(
    conv.RGCNConv(5, methods.QAT(bits=4), PromptSpec('lorap')), batch_of()
  )
  assert set(found) == {
    'message',
    'neighbor_sum',
    'aggregate',
    'dense/weight',
    'dense/output',
    'update',
  }


def test_one_kind_of_edge_needs_no_relations():
  batch = layers.batch_of(layers.graph_list())
  layer = conv.RGCNConv(5, methods.FP32())
  variables = layers.init(layer, batch)
  kernel = np.asarray(variables['params']['dense']['kernel'], np.float64)
  out, _, _ = layers.apply(layer, variables, batch)
  graph, x = batch.graph, np.asarray(batch.graph.nodes, np.float64)
  sums = layers.adjacency(graph)
  mean = sums @ x / np.maximum(sums.sum(1, keepdims=True), 1)
  expected = x @ kernel[:4] + mean @ kernel[4:]
  np.testing.assert_allclose(out[:REAL], expected[:REAL], atol=1e-5)
  same = graph._replace(
    edges=graphs.Relations(np.zeros(len(graph.senders), np.int32), 1)
  )
  again, _, _ = layers.apply(layer, variables, batch._replace(graph=same))
  np.testing.assert_allclose(again[:REAL], out[:REAL], atol=1e-6)


def test_additions_are_those_of_the_edges():
  batch = jax.tree.map(jnp.asarray, batch_of())
  layer = conv.RGCNConv(5, methods.FP32())
  variables = layers.init(layer, batch)
  _, sown = layer.apply(
    variables,
    batch.graph.nodes,
    batch.graph,
    rows=layers.rows_of(batch),
    layout=batch.layout,
    mutable=[telemetry.COLLECTION],
  )
  record = sown[telemetry.COLLECTION]
  assert record['sum'].additions == EDGES * 4
  product = record['dense']['product']
  assert product.macs == REAL * (1 + R) * 4 * 5


def test_what_is_no_relation_is_refused():
  batch = jax.tree.map(jnp.asarray, batch_of('none'))
  rows = Rows()
  layer = conv.RGCNConv(5, methods.FP32())
  init = lambda edges: layer.init(
    jax.random.key(0),
    batch.graph.nodes,
    batch.graph._replace(edges=edges),
    rows=rows,
  )
  for edges, what in (
    (np.zeros((64, 1)), 'ndarray for 64 edges'),
    (graphs.Relations(np.zeros(3, np.int32), 2), r'Relations of \(3,\)'),
  ):
    with pytest.raises(ValueError, match=f'`graph.edges` is .*{what}'):
      init(edges)
  plain = layers.batch_of(layers.graph_list())
  unweighted = graphs.batch_graphs(
    related(), np.zeros(len(related()), int), layers.BUDGET
  )
  with pytest.raises(ValueError, match='weighted=True'):
    graphs.mean_by_relation(
      jnp.asarray(unweighted.graph.nodes), unweighted.graph, unweighted.layout
    )
  assert plain.graph.edges is None
  one, *others = related()
  with pytest.raises(ValueError, match='different numbers of relations'):
    layers.batch_of([one._replace(edges=None), *others])
  far = one._replace(
    edges=graphs.Relations(np.full(len(one.senders), R, np.int32), R)
  )
  with pytest.raises(ValueError, match=r'edges.ids. of edge 0 is 3; .* 0 to 2'):
    layers.batch_of([far, *others])
  with pytest.raises(ValueError, match='more sums than int32 counts'):
    graphs.relations._keys(
      np.zeros(2, np.int32), graphs.Relations(np.zeros(2, int), 2), 2**30
    )
