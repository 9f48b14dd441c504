import importlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.graphs.aggregate import gather_sum

KINDS = ('none', 'csr', 'table')


def adjacency(graph, num_nodes):
  """A[i, j]: how many edges node i receives from node j."""
  matrix = np.zeros((num_nodes, num_nodes))
  np.add.at(matrix, (graph.receivers, graph.senders), 1)
  return matrix


def layout_of(graph, num_nodes, kind, *, weighted=False):
  if kind == 'none':
    return None
  layout = graphs.make_layout(
    graph.senders,
    graph.receivers,
    num_nodes,
    max_out_degree=16 if kind == 'table' else None,
    weighted=weighted,
  )
  expected = graphs.Table if kind == 'table' else graphs.Csr
  assert isinstance(layout.outgoing, expected)
  assert isinstance(layout.incoming, graphs.Csr)
  return layout


def hub(num_nodes):
  """Node 0 receives from all nodes, itself included; the others nothing."""
  graph = helpers.random_graph(np.random.default_rng(0), num_nodes, 0)
  everyone = np.arange(num_nodes, dtype=np.int32)
  return graph._replace(senders=everyone, receivers=np.zeros_like(everyone))


def cases():
  rng = np.random.default_rng(3)
  return {
    'random': helpers.random_graph(rng, 12, 30),
    'dense': helpers.random_graph(rng, 30, 150),
    'hub': hub(40),
    'no_edges': helpers.random_graph(rng, 4, 0),
    'self_loop': helpers.random_graph(rng, 1, 3),
  }


def test_cases_are_hard():
  graph = cases()['random']
  matrix = adjacency(graph, 12)
  assert matrix.max() > 1, 'duplicate edges'
  assert np.trace(matrix) > 0, 'self loops'
  assert not matrix[-1].any() and not matrix[:, -1].any(), 'isolated node'


@helpers.JIT
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', list(cases()))
class TestAggregate:
  def test_equals_dense_product(self, name, kind, jit):
    graph = cases()[name]
    n = len(graph.nodes)
    layout = layout_of(graph, n, kind)
    function = jax.jit(graphs.aggregate) if jit else graphs.aggregate
    out = function(jnp.asarray(graph.nodes), graph, layout)
    expected = adjacency(graph, n) @ graph.nodes
    # float32 sums of up to 75 terms in another order.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)

  def test_gradient_is_the_transposed_product(self, name, kind, jit):
    graph = cases()[name]
    n = len(graph.nodes)
    layout = layout_of(graph, n, kind)
    ds = np.random.default_rng(1).normal(size=graph.nodes.shape)
    grad = jax.grad(
      lambda x: jnp.sum(graphs.aggregate(x, graph, layout) * jnp.float32(ds))
    )
    dx = (jax.jit(grad) if jit else grad)(jnp.asarray(graph.nodes))
    expected = adjacency(graph, n).T @ ds
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_integers_are_summed_exactly(kind):
  """Codes times one scale: what an integer machine would sum."""
  graph = cases()['dense']
  codes = np.random.default_rng(2).integers(-127, 128, graph.nodes.shape)
  layout = layout_of(graph, 30, kind)
  out = graphs.aggregate(jnp.float32(codes), graph, layout)
  np.testing.assert_array_equal(out, adjacency(graph, 30) @ codes)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('kind', ['none', 'csr'])
def test_hub_of_50000(kind, weighted):
  """Node 0 receives from all nodes, twice from node 1, and sends to all."""
  n = 50_001
  everyone, first = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
  receivers = np.concatenate([first, [0], everyone]).astype(np.int32)
  senders = np.concatenate([everyone, [1], first]).astype(np.int32)
  rng = np.random.default_rng(6)
  codes = rng.integers(-8, 8, (n, 3))  # All sums are exact in float32.
  graph = helpers.random_graph(rng, n, 0)
  graph = graph._replace(senders=senders, receivers=receivers)
  layout = layout_of(graph, n, kind, weighted=weighted)
  if weighted:
    sums = lambda x: graphs.aggregate_weighted(
      x, jnp.ones(len(senders)), graph, layout
    )
  else:
    sums = lambda x: graphs.aggregate(x, graph, layout)
  out, pull_back = jax.vjp(sums, jnp.float32(codes))
  expected = np.tile(codes[0], (n, 1))
  expected[0] += codes.sum(0) + codes[1]
  np.testing.assert_array_equal(out, expected)
  expected = np.tile(codes[0], (n, 1))
  expected[0] += codes.sum(0)
  expected[1] += codes[0]
  np.testing.assert_array_equal(pull_back(jnp.float32(codes))[0], expected)


@pytest.mark.parametrize('kind', KINDS)
def test_a_value_without_number_stays_in_its_column(kind):
  graph = cases()['random']
  nodes = np.array(graph.nodes)
  nodes[0, 0] = np.nan
  out = graphs.aggregate(jnp.asarray(nodes), graph, layout_of(graph, 12, kind))
  matrix = adjacency(graph, 12)
  assert matrix[:, 0].any()
  np.testing.assert_array_equal(np.isnan(out[:, 0]), matrix[:, 0] > 0)
  expected = matrix @ graph.nodes
  np.testing.assert_allclose(out[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('heads', [None, 1, 3], ids=['plain', 'one', 'heads'])
@helpers.JIT
def test_a_graph_without_edges_in_a_table_without_slots(jit, heads, padding):
  """What a batch is where no node of the whole data set sends an edge."""
  budget = graphs.Budget(6, padding, 2, max_out_degree=0)
  lonely = helpers.random_graph(np.random.default_rng(0), 5, 0)
  batch = graphs.batch_graphs(
    [lonely._replace(nodes=np.ones((5, 2), np.float32))],
    np.zeros(1, np.int32),
    budget,
    weighted=heads is not None,
  )
  graph, layout = batch.graph, batch.layout
  assert layout.outgoing.indices.shape == (6, 0)
  shape = (6, 2) if heads is None else (6, heads, 2)

  def sums(x, weights):
    if heads is None:
      return graphs.aggregate(x, graph, layout)
    return graphs.aggregate_weighted(x, weights, graph, layout)

  run = jax.jit(sums) if jit else sums
  weights = jnp.ones((padding, heads or 1))
  out, pull_back = jax.vjp(run, jnp.ones(shape), weights)
  dx, _ = pull_back(jnp.ones(shape))
  # Padding edges join padding nodes, whose sums nobody reads.
  np.testing.assert_array_equal(out[:5], jnp.zeros(shape)[:5])
  np.testing.assert_array_equal(dx[:5], jnp.zeros(shape)[:5])
  x = jnp.ones((6, 2))
  swapped = gather_sum(x, layout.outgoing, layout.outgoing)
  np.testing.assert_array_equal(swapped, np.zeros((6, 2)))


@pytest.mark.parametrize('kind', ['csr', 'table'])
def test_no_edges_to_other_rows_than_the_senders(kind):
  """The number of sums is that of the receivers."""
  none = np.zeros(0, np.int32)
  few = graphs.make_layout(none, none, 3, weighted=True)
  many = graphs.make_layout(none, none, 7, max_out_degree=2, weighted=True)
  out = many.outgoing if kind == 'table' else many.incoming
  layout = graphs.Layout(out, few.incoming)
  module = importlib.import_module('lorap_jax.graphs.aggregate')
  x, weights = jnp.ones((3, 1, 2)), jnp.ones((0, 1))
  sums, pull_back = jax.vjp(
    lambda x: module.weighted_sum(x, weights, none, none, layout), x
  )
  assert sums.shape == (7, 1, 2) and not sums.any()
  assert not pull_back(sums)[0].any()


@pytest.mark.parametrize('kind', KINDS)
def test_permutation_equivariance(kind):
  graph = cases()['random']
  order = np.random.default_rng(4).permutation(12)
  new_of_old = np.argsort(order).astype(np.int32)
  permuted = graph._replace(
    nodes=graph.nodes[order],
    senders=new_of_old[graph.senders],
    receivers=new_of_old[graph.receivers],
  )
  before, after = (
    graphs.aggregate(jnp.asarray(g.nodes), g, layout_of(g, 12, kind))
    for g in (graph, permuted)
  )
  np.testing.assert_allclose(after, before[order], rtol=1e-5, atol=1e-6)


class TestGatherSum:
  def test_table_as_incoming(self):
    """The table side is used forward as well, by gradients and pooling."""
    graph = cases()['random']
    layout = layout_of(graph, 12, 'table')
    x = jnp.asarray(graph.nodes)
    out = gather_sum(x, layout.outgoing, layout.incoming)
    expected = adjacency(graph, 12).T @ graph.nodes
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)

  def test_second_gradient(self):
    graph = cases()['random']
    layout = layout_of(graph, 12, 'table')

    def loss(x):
      return jnp.sum(graphs.aggregate(x, graph, layout) ** 3)

    def loss_of_gradient(x):
      return jnp.sum(jax.grad(loss)(x) ** 2)

    grad = jax.grad(loss_of_gradient)(jnp.asarray(graph.nodes))
    matrix = jnp.float32(adjacency(graph, 12))
    dense = jax.grad(
      lambda x: jnp.sum(jax.grad(lambda y: jnp.sum((matrix @ y) ** 3))(x) ** 2)
    )(jnp.asarray(graph.nodes))
    scale = np.abs(dense).max()
    np.testing.assert_allclose(grad / scale, dense / scale, atol=1e-5)


def by_receiver(graph):
  """The graph with its edges in the order that a weighted layout needs."""
  order = np.argsort(graph.receivers, kind='stable')
  return graph._replace(
    senders=graph.senders[order], receivers=graph.receivers[order]
  )


def weighted_case(name, heads, features=3):
  """A sorted graph, x [n, h, f] and w [e, h], without h if heads is None."""
  graph = by_receiver(cases()[name])
  rng = np.random.default_rng(5)
  h = () if heads is None else (heads,)
  x = rng.normal(size=(len(graph.nodes), *h, features)).astype(np.float32)
  weights = rng.normal(size=(len(graph.senders), *h)).astype(np.float32)
  return graph, x, weights


def dense_weighted(graph, x, weights):
  """The matrix of each head, [h, n, n], and the sum, in float64."""
  n, w = len(x), weights.astype(np.float64)
  w = w[:, None] if w.ndim == 1 else w
  matrix = np.zeros((w.shape[1], n, n))
  for edge, (s, r) in enumerate(
    zip(graph.senders, graph.receivers, strict=True)
  ):
    matrix[:, r, s] += w[edge]
  rows = x.reshape(n, w.shape[1], x.shape[-1])
  return matrix, np.einsum('hij,jhf->ihf', matrix, rows).reshape(x.shape)


@helpers.JIT
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('heads', [None, 3])
@pytest.mark.parametrize('name', list(cases()))
class TestAggregateWeighted:
  def test_equals_dense_product(self, name, heads, kind, jit):
    graph, x, weights = weighted_case(name, heads)
    layout = layout_of(graph, len(x), kind, weighted=True)
    run = graphs.aggregate_weighted
    run = jax.jit(run) if jit else run
    out = run(jnp.asarray(x), jnp.asarray(weights), graph, layout)
    _, expected = dense_weighted(graph, x, weights)
    assert out.dtype == jnp.float32
    # float32 sums of up to 75 terms in another order.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)

  def test_gradients(self, name, heads, kind, jit, monkeypatch):
    # Chunks that do not divide the edges. The package has a function of the
    # module's name.
    module = importlib.import_module('lorap_jax.graphs.aggregate')
    monkeypatch.setattr(module, '_EDGE_CHUNK', 7)
    graph, x, weights = weighted_case(name, heads)
    layout = layout_of(graph, len(x), kind, weighted=True)
    ds = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def loss(x, weights):
      s = graphs.aggregate_weighted(x, weights, graph, layout)
      return jnp.sum(s * ds)

    grad = jax.grad(loss, (0, 1))
    grad = jax.jit(grad) if jit else grad
    dx, dw = grad(jnp.asarray(x), jnp.asarray(weights))
    matrix, _ = dense_weighted(graph, x, weights)
    n, h = len(x), len(matrix)
    rows, d_rows = x.reshape(n, h, -1), ds.reshape(n, h, -1)
    np.testing.assert_allclose(
      dx,
      np.einsum('hij,ihf->jhf', matrix, d_rows).reshape(x.shape),
      rtol=1e-5,
      atol=1e-5,
    )
    products = np.einsum(
      'ehf,ehf->eh', rows[graph.senders], d_rows[graph.receivers]
    )
    np.testing.assert_allclose(
      dw, products.reshape(weights.shape), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('kind', KINDS)
class TestWeights:
  def test_weights_of_one_are_the_plain_sum(self, kind):
    graph, x, weights = weighted_case('random', None)
    layout = layout_of(graph, 12, kind, weighted=True)
    out = graphs.aggregate_weighted(
      jnp.asarray(x), jnp.ones(weights.shape), graph, layout
    )
    plain = graphs.aggregate(jnp.asarray(x), graph, layout)
    np.testing.assert_allclose(out, plain, rtol=1e-6, atol=1e-6)

  @pytest.mark.parametrize('features', [1, 7, 8, 9, 16, 30])
  def test_integers_are_summed_exactly(self, kind, features):
    """Whatever the number of columns, which the kernel gets in eights."""
    graph, x, weights = weighted_case('dense', 2, features)
    layout = layout_of(graph, 30, kind, weighted=True)
    codes = np.round(100 * x).astype(np.float32)
    factors = np.round(10 * weights).astype(np.float32)
    out = jax.jit(graphs.aggregate_weighted)(codes, factors, graph, layout)
    _, expected = dense_weighted(graph, codes, factors)
    np.testing.assert_array_equal(out, expected)

  def test_permutation_equivariance(self, kind):
    graph, x, weights = weighted_case('random', 2)
    order = np.random.default_rng(4).permutation(12)
    new_of_old = np.argsort(order).astype(np.int32)
    senders = new_of_old[graph.senders]
    receivers = new_of_old[graph.receivers]
    edges = np.argsort(receivers, kind='stable')
    permuted = graph._replace(
      senders=senders[edges], receivers=receivers[edges]
    )
    before = graphs.aggregate_weighted(
      jnp.asarray(x),
      jnp.asarray(weights),
      graph,
      layout_of(graph, 12, kind, weighted=True),
    )
    after = graphs.aggregate_weighted(
      jnp.asarray(x[order]),
      jnp.asarray(weights[edges]),
      permuted,
      layout_of(permuted, 12, kind, weighted=True),
    )
    np.testing.assert_allclose(after, before[order], rtol=1e-5, atol=1e-6)


def test_edges_in_any_order_without_layout():
  graph, x, weights = weighted_case('random', None)
  order = np.random.default_rng(4).permutation(len(weights))
  shuffled = graph._replace(
    senders=graph.senders[order], receivers=graph.receivers[order]
  )
  out = graphs.aggregate_weighted(
    jnp.asarray(x), jnp.asarray(weights[order]), shuffled
  )
  _, expected = dense_weighted(graph, x, weights)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@helpers.JIT
@pytest.mark.parametrize('shape', [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize('name', list(cases()))
class TestEdgeAggregate:
  def test_equals_sums(self, name, shape, jit):
    graph = cases()[name]
    n, e = len(graph.nodes), len(graph.senders)
    messages = np.random.default_rng(6).normal(size=(e, *shape))
    run = graphs.edge_aggregate
    out = (jax.jit(run) if jit else run)(jnp.float32(messages), graph)
    expected = np.zeros((n, *shape))
    np.add.at(expected, graph.receivers, messages)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)

  def test_gradient_is_a_gather(self, name, shape, jit):
    graph = cases()[name]
    n, e = len(graph.nodes), len(graph.senders)
    ds = np.random.default_rng(6).normal(size=(n, *shape)).astype(np.float32)
    grad = jax.grad(lambda m: jnp.sum(graphs.edge_aggregate(m, graph) * ds))
    dm = (jax.jit(grad) if jit else grad)(jnp.zeros((e, *shape)))
    np.testing.assert_array_equal(dm, ds[graph.receivers])


@pytest.mark.parametrize('kind', ['csr', 'table'])
def test_layout_for_plain_sums_is_refused(kind):
  graph, x, weights = weighted_case('random', None)
  layout = layout_of(graph, 12, kind)
  with pytest.raises(ValueError, match=r'make_layout\(..., weighted=True\)'):
    graphs.aggregate_weighted(
      jnp.asarray(x), jnp.asarray(weights), graph, layout
    )


def stacked(shape):
  return jnp.float32(np.random.default_rng(8).normal(size=(3, *shape)))


def assert_maps_as_a_loop(function, axes, *arguments):
  """Mapped, it gives what calling it for each of the three members does."""
  take = lambda i: [
    a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True)
  ]
  one = jax.jit(function)
  alone = [one(*take(i)) for i in range(3)]
  expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
  found = jax.jit(jax.vmap(function, axes))(*arguments)
  helpers.assert_trees_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['dense', 'no_edges'])
class TestBatchOfFeatures:
  def test_aggregate(self, name, kind):
    graph = cases()[name]
    n = len(graph.nodes)
    layout = layout_of(graph, n, kind)
    run = lambda x: graphs.aggregate(x, graph, layout)
    x, ds = stacked((n, 5)), stacked((n, 5))[::-1]
    assert_maps_as_a_loop(run, (0,), x)
    gradient = lambda x, ds: jax.vjp(run, x)[1](ds)
    assert_maps_as_a_loop(gradient, (0, 0), x, ds)

  # Features, weights or both are those of one member.
  @pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0)], ids=str)
  @pytest.mark.parametrize('heads', [None, 2])
  def test_aggregate_weighted(self, name, kind, heads, axes):
    graph, x, weights = weighted_case(name, heads)
    layout = layout_of(graph, len(x), kind, weighted=True)
    run = lambda x, w: graphs.aggregate_weighted(x, w, graph, layout)
    ds = stacked(x.shape)[::-1]
    x = jnp.asarray(x) if axes[0] is None else stacked(x.shape)
    alone = axes[1] is None
    weights = jnp.asarray(weights) if alone else stacked(weights.shape)
    assert_maps_as_a_loop(run, axes, x, weights)
    gradient = lambda x, w, ds: jax.vjp(run, x, w)[1](ds)
    assert_maps_as_a_loop(gradient, (*axes, 0), x, weights, ds)

  def test_one_product_for_all_members(self, name, kind):
    """Not a loop over them, where one matrix serves them all."""
    graph = cases()[name]
    layout = layout_of(graph, len(graph.nodes), kind)
    run = jax.vmap(lambda x: graphs.aggregate(x, graph, layout))
    traced = str(jax.make_jaxpr(run)(stacked(graph.nodes.shape)))
    assert ('bcsr_dot_general' in traced) == (kind != 'none')
    assert 'scan' not in traced and 'batch_size' not in traced
