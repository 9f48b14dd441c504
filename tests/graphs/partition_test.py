"""A graph that devices share is the graph: sums, gradients, networks.

On one device; on four: `tests/devices_test.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_graph import E, N, dataset

from lorap_jax import graphs
from lorap_jax.data import pipeline
from lorap_jax.graphs import batching, partition, shards
from lorap_jax.models import backbones, network
from lorap_jax.nn import methods, prompts
from lorap_jax.nn.quantized import Rows
from lorap_jax.training import passes

SHARDS = 4


data = functools.cache(dataset)


@functools.cache
def whole(layout=True):
  made = pipeline.WholeGraph(data(), 'train', layout=layout, weighted=True)
  return jax.device_put(made.batch())


@functools.cache
def shared(layout=True):
  batch = batching.partition_graph(
    data().nodes,
    data().senders,
    data().receivers,
    SHARDS,
    layout=layout,
    weighted=True,
  )
  return jax.device_put(batch)


def padded(values):
  rows = len(shared().graph.nodes)
  return jnp.zeros((rows, *values.shape[1:])).at[: len(values)].set(values)


def numbers(*shape):
  return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_every_edge_is_where_its_receiver_is():
  graph = shared().graph
  size = len(graph.nodes) // SHARDS
  assert len(graph.nodes) == 64 and graph.n_node.sum() == 64
  real = np.asarray(graphs.edge_mask(graph))
  ends = [(graph.senders[real], graph.receivers[real])]
  pairs = sorted(zip(*(np.asarray(e).tolist() for e in ends[0]), strict=True))
  given = zip(data().senders.tolist(), data().receivers.tolist(), strict=True)
  assert pairs == sorted(given)
  parts = np.asarray(graph.receivers).reshape(SHARDS, -1) // size
  inside = parts == np.arange(SHARDS)[:, None]
  assert inside[real.reshape(SHARDS, -1)].all()
  np.testing.assert_array_equal(graphs.node_mask(graph), np.arange(64) < N)
  owner = graphs.node_graph_idx(graph, 64)
  np.testing.assert_array_equal(owner, np.arange(64) >= N)


def value_and_gradients(function, *args):
  y, pull = jax.vjp(function, *args)
  return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


@pytest.mark.parametrize('layout', [True, False])
def test_sums_and_their_gradients(layout):
  one, other = whole(layout), shared(layout)
  x = numbers(N, 5)
  y, (dx,) = value_and_gradients(
    lambda t: graphs.aggregate(t, one.graph, one.layout), x
  )
  found, (gradient,) = value_and_gradients(
    lambda t: graphs.aggregate(padded(t), other.graph, other.layout)[:N], x
  )
  np.testing.assert_array_equal(found, y)
  np.testing.assert_allclose(gradient, dx, atol=1e-6)


@pytest.mark.parametrize('layout', [True, False])
def test_weighted_sums_and_their_gradients(layout):
  one, other = whole(layout), shared(layout)
  x, weights = numbers(N, 2, 3), numbers(E, 2)
  y, (dx, dw) = value_and_gradients(
    lambda t, w: graphs.aggregate_weighted(t, w, one.graph, one.layout),
    x,
    weights,
  )
  # The edges of the whole graph are in the order of receivers as well.
  place = np.flatnonzero(graphs.edge_mask(other.graph))
  room = jnp.zeros((len(other.graph.senders), 2))

  def run(t, w):
    w = room.at[place].set(w)
    return graphs.aggregate_weighted(padded(t), w, other.graph, other.layout)[
      :N
    ]

  found, (gradient, of_weights) = value_and_gradients(run, x, weights)
  np.testing.assert_array_equal(found, y)
  np.testing.assert_allclose(gradient, dx, atol=1e-5)
  np.testing.assert_allclose(of_weights, dw, atol=1e-5)


def test_sums_of_edge_messages():
  one, other = whole(), shared()
  messages = numbers(E, 3)
  place = np.flatnonzero(graphs.edge_mask(other.graph))
  room = jnp.zeros((len(other.graph.senders), 3)).at[place].set(messages)
  found = graphs.edge_aggregate(room, other.graph)[:N]
  expected = graphs.edge_aggregate(messages, one.graph)
  np.testing.assert_array_equal(found, expected)


QUANTIZERS = {
  'qat': (methods.QAT(bits=8), 'message'),
  'signed': (methods.QAT(bits=4, symmetric=True), 'input'),
  'a2q columns': (methods.A2QNode(bits=4), 'message'),
  'a2q rows': (methods.A2QNode(bits=8, node_messages=True), 'message'),
  'mixq': (methods.MixQ(points=('message',)), 'message'),
}


@pytest.mark.parametrize('name', QUANTIZERS)
def test_values_are_those_of_their_codes(name):
  scheme, point = QUANTIZERS[name]
  quantizer = scheme.quantizer(point, non_negative=False)
  x = numbers(40, 6) * jnp.arange(1, 7)[None]
  rows = Rows(jnp.ones((40, 1), bool), train=True)
  variables = quantizer.init(jax.random.key(0), x, rows=rows)
  y = quantizer.apply(variables, x, rows=rows._replace(train=False))
  packed = partition.pack(y.values, grid=y.grid)
  kinds = packed.kinds[0] + packed.kinds[1]
  codes = dict(zip(kinds, packed.each + packed.same, strict=True))['codes']
  assert codes.dtype == jnp.uint8 and len(np.unique(codes)) > 3
  again = partition._unpack(packed.kinds, packed.each, packed.same)
  np.testing.assert_array_equal(again, y.values)


def test_relations_are_refused():
  related = data()._replace(
    relations=np.zeros(E, np.int32), num_relations=2, indptr=None
  )
  mesh = shards.mesh_of(jax.devices()[:1])
  with pytest.raises(ValueError, match='this one has 2 relations; set'):
    pipeline.WholeGraph(related, 'train', layout=True, mesh=mesh)


def test_protected_rows_do_not_travel_as_codes():
  quantizer = methods.DegreeQuant(bits=8).quantizer(
    'message', non_negative=False
  )
  x = numbers(10, 3)
  rows = Rows(jnp.ones((10, 1), bool), True, jnp.arange(10)[:, None] < 3)
  variables = quantizer.init(jax.random.key(0), x, rows=rows)
  apply = lambda r: quantizer.apply(
    variables, x, rows=r, mutable=['quant_stats']
  )[0]
  assert apply(rows).grid is None
  assert apply(rows._replace(train=False)).grid is not None


CELLS = {
  'gcn': (backbones.GCN(), methods.A2QNode()),
  'gin': (backbones.GIN(mlp_norm='last'), methods.DegreeQuant(bits=8)),
  'gat': (backbones.GAT(heads=2), methods.QAT(bits=8)),
}


@pytest.mark.parametrize(
  'cell', ['gcn', 'gat', pytest.param('gin', marks=pytest.mark.slow)]
)
def test_a_network_is_that_on_the_whole_graph(cell):
  backbone, scheme = CELLS[cell]
  model = network.Network(
    4,
    backbone,
    scheme,
    prompts.PromptSpec('lorap'),
    features=8,
    num_layers=2,
    encoder='none',
    pool='none',
    dropout=0.3,
  )
  one, other = whole(), shared()
  init = functools.partial(passes.init, model, train=True)
  variables = jax.jit(init)(jax.random.key(0), one.graph, layout=one.layout)

  @functools.partial(jax.jit, static_argnums=2)
  def run(params, batch, train):
    def loss(params):
      outputs, _ = passes.apply(
        model,
        {**variables, 'params': params},
        batch.graph,
        layout=batch.layout,
        train=train,
        key=jax.random.key(1),
      )
      return jnp.sum(outputs[:N] ** 2), outputs[:N]

    return jax.value_and_grad(loss, has_aux=True)(params)

  for train in (False, True):
    (_, expected), gradients = run(variables['params'], one, train)
    (_, outputs), found = run(variables['params'], other, train)
    if not train:
      np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(gradients), strict=True
    ):
      scale = float(jnp.abs(b).max()) + 1e-3
      np.testing.assert_allclose(a, b, atol=1e-4 * scale)
