import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs

FIELDS = ('self_loops', 'self_loop_weight', 'existing', 'degree_of')
OPTIONS = [
  dict(zip(FIELDS, values, strict=True))
  for values in (
    (False, 1.0, 'remaining', 'receivers'),
    (False, 1.0, 'remaining', 'senders'),
    (True, 1.0, 'remaining', 'receivers'),
    (True, 1.0, 'remaining', 'senders'),
    (True, 2.0, 'remaining', 'receivers'),
    (True, 0.5, 'keep', 'receivers'),
    (True, 1.0, 'keep', 'senders'),
  )
]
IDS = ['-'.join(str(value) for value in option.values()) for option in OPTIONS]
NAMES = ['random', 'dense', 'no_edges', 'one_node', 'loops_only']


def case(name):
  """Graphs of which node 1 has two self loops, node 2 one, others few."""
  rng = np.random.default_rng(7)
  if name == 'no_edges':
    return helpers.random_graph(rng, 4, 0)
  if name == 'one_node':
    return helpers.random_graph(rng, 1, 0)
  sizes = {'random': (12, 30), 'dense': (9, 150), 'loops_only': (5, 0)}
  graph = helpers.random_graph(rng, *sizes[name])
  loops = np.array([1, 1, 2], np.int32)
  graph = graph._replace(
    senders=np.concatenate([graph.senders, loops]),
    receivers=np.concatenate([graph.receivers, loops]),
  )
  return graph._replace(n_edge=np.array([len(graph.senders)], np.int32))


def edges_with_loops(
  graph, num_nodes, *, self_loops, self_loop_weight, existing
):
  """Edges and their weights after loops were added, one node at a time."""
  pairs = list(
    zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
  )
  edges = [(s, r, 1.0) for s, r in pairs]
  if not self_loops:
    return edges
  if existing == 'remaining':
    edges = [edge for edge in edges if edge[0] != edge[1]]
  for i in range(num_nodes):
    there = existing == 'remaining' and (i, i) in pairs
    edges.append((i, i, 1.0 if there else self_loop_weight))
  return edges


def dense(graph, num_nodes, *, degree_of, **loops):
  """Degrees and the normalised matrix in float64."""
  matrix, degree = np.zeros((num_nodes, num_nodes)), np.zeros(num_nodes)
  for sender, receiver, weight in edges_with_loops(graph, num_nodes, **loops):
    matrix[receiver, sender] += weight
    degree[receiver if degree_of == 'receivers' else sender] += weight
  d = np.array([x**-0.5 if x > 0 else 0.0 for x in degree])
  return degree, d[:, None] * matrix * d[None, :]


def every_node(num_nodes):
  return jnp.ones((num_nodes, 1), bool)


def normalised_sum(x, graph, mask, *, layout=None, **options):
  loops = {k: v for k, v in options.items() if k != 'degree_of'}
  return graphs.gcn_aggregate(
    x,
    graph,
    graphs.gcn_scale(graph, mask, **options),
    graphs.self_loop_weights(graph, mask, **loops),
    layout,
  )


def test_cases_are_hard():
  graph = case('random')
  pairs = list(zip(graph.senders, graph.receivers, strict=True))
  assert pairs.count((1, 1)) >= 2 and pairs.count((2, 2)) >= 1
  assert len(set(pairs)) < len(pairs) - 1, 'duplicate edges'
  assert 11 not in graph.senders and 11 not in graph.receivers
  assert np.any(
    np.bincount(graph.senders, minlength=12)
    != np.bincount(graph.receivers, minlength=12)
  ), 'a directed graph'


@pytest.mark.parametrize('options', OPTIONS, ids=IDS)
@pytest.mark.parametrize('name', NAMES)
class TestAgainstDense:
  def test_degree_and_scale(self, name, options):
    graph = case(name)
    n = len(graph.nodes)
    expected, _ = dense(graph, n, **options)
    degree = graphs.gcn_degree(graph, every_node(n), **options)
    np.testing.assert_array_equal(degree[:, 0], expected)
    scale = graphs.gcn_scale(graph, every_node(n), **options)
    assert scale.dtype == jnp.float32 and scale.shape == (n, 1)
    positive = np.where(expected > 0, expected, 1.0)
    np.testing.assert_allclose(
      scale[:, 0], np.where(expected > 0, positive**-0.5, 0), rtol=2e-7
    )

  def test_sum_and_its_gradient(self, name, options):
    graph = case(name)
    n = len(graph.nodes)
    _, matrix = dense(graph, n, **options)
    function = jax.jit(
      lambda x: normalised_sum(x, graph, every_node(n), **options)
    )
    x = jnp.asarray(graph.nodes)
    out, pull_back = jax.vjp(function, x)
    # float32 sums of up to 100 terms in another order.
    np.testing.assert_allclose(out, matrix @ graph.nodes, rtol=1e-5, atol=1e-5)
    ds = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    np.testing.assert_allclose(
      pull_back(jnp.asarray(ds))[0], matrix.T @ ds, rtol=1e-5, atol=1e-5
    )

  def test_edge_weights_and_loops_give_the_matrix(self, name, options):
    graph = case(name)
    n = len(graph.nodes)
    loops = {k: v for k, v in options.items() if k != 'degree_of'}
    scale = graphs.gcn_scale(graph, every_node(n), **options)
    weights = graphs.gcn_edge_weights(graph, scale)
    own = graphs.self_loop_weights(graph, every_node(n), **loops) * scale**2
    matrix = np.diag(np.asarray(own[:, 0], np.float64))
    np.add.at(matrix, (graph.receivers, graph.senders), weights)
    _, expected = dense(graph, n, **options)
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('options', OPTIONS, ids=IDS)
class TestPadding:
  def batch(self):
    graph_list = [
      case('random'),
      *helpers.random_graphs(1),
      case('loops_only'),
    ]
    budget = graphs.Budget(48, 110, 10, 30)
    labels = np.zeros(len(graph_list), int)
    return graph_list, graphs.batch_graphs(graph_list, labels, budget)

  def test_equals_the_graphs_one_by_one(self, options):
    graph_list, batch = self.batch()
    mask = graphs.node_mask(batch.graph)[:, None]
    # What padding nodes hold must not matter.
    x = jnp.where(mask, batch.graph.nodes, jnp.nan)
    out = normalised_sum(x, batch.graph, mask, layout=batch.layout, **options)
    start = 0
    for graph in graph_list:
      n = len(graph.nodes)
      _, matrix = dense(graph, n, **options)
      np.testing.assert_allclose(
        out[start : start + n], matrix @ graph.nodes, rtol=1e-5, atol=1e-5
      )
      start += n
    assert start == mask.sum()

  def test_nothing_at_padding(self, options):
    _, batch = self.batch()
    mask = graphs.node_mask(batch.graph)[:, None]
    edges = graphs.edge_mask(batch.graph)
    loops = {k: v for k, v in options.items() if k != 'degree_of'}
    degree = graphs.gcn_degree(batch.graph, mask, **options)
    scale = graphs.gcn_scale(batch.graph, mask, **options)
    own = graphs.self_loop_weights(batch.graph, mask, **loops)
    weights = graphs.gcn_edge_weights(batch.graph, scale)
    for values, real in (
      (degree, mask),
      (scale, mask),
      (own, mask),
      (weights, edges),
    ):
      np.testing.assert_array_equal(values[~real], 0)

  def test_permutation_equivariance(self, options):
    graph = case('random')
    permuted = helpers.permute_nodes(graph, np.random.default_rng(2))
    before, after = (
      normalised_sum(jnp.asarray(g.nodes), g, every_node(12), **options)
      for g in (graph, permuted)
    )
    # Rows are found again by their features, which are all different.
    position = [
      int(np.flatnonzero((permuted.nodes == row).all(1))[0])
      for row in graph.nodes
    ]
    np.testing.assert_allclose(
      after[np.array(position)], before, rtol=1e-5, atol=1e-6
    )


class TestAddSelfLoops:
  SENDERS = np.array([0, 1, 1, 2, 2, 1], np.int32)
  RECEIVERS = np.array([1, 0, 1, 2, 2, 2], np.int32)

  def test_remaining(self):
    senders, receivers = graphs.add_self_loops(
      self.SENDERS, self.RECEIVERS, 4, existing='remaining'
    )
    np.testing.assert_array_equal(senders, [0, 1, 1, 0, 1, 2, 3])
    np.testing.assert_array_equal(receivers, [1, 0, 2, 0, 1, 2, 3])
    assert senders.dtype == receivers.dtype == np.int32

  def test_keep(self):
    senders, receivers = graphs.add_self_loops(
      self.SENDERS, self.RECEIVERS, 4, existing='keep'
    )
    np.testing.assert_array_equal(senders, [0, 1, 1, 2, 2, 1, 0, 1, 2, 3])
    np.testing.assert_array_equal(receivers, [1, 0, 1, 2, 2, 2, 0, 1, 2, 3])

  @pytest.mark.parametrize('existing', ['keep', 'remaining'])
  def test_no_nodes(self, existing):
    none = np.zeros(0, np.int32)
    senders, receivers = graphs.add_self_loops(none, none, 0, existing=existing)
    assert senders.size == receivers.size == 0

  @pytest.mark.parametrize('existing', ['keep', 'remaining'])
  def test_edges_and_weights_agree(self, existing):
    """Self loops as edges, and without edges, are the same sum."""
    graph = case('random')
    senders, receivers = graphs.add_self_loops(
      graph.senders, graph.receivers, 12, existing=existing
    )
    longer = graph._replace(senders=senders, receivers=receivers)
    x = jnp.asarray(graph.nodes)
    as_edges = normalised_sum(x, longer, every_node(12), self_loops=False)
    as_weights = normalised_sum(
      x, graph, every_node(12), self_loops=True, existing=existing
    )
    np.testing.assert_allclose(as_edges, as_weights, rtol=1e-5, atol=1e-6)


class TestTorchGeometric:
  """gcn_norm of torch_geometric, whose self loops come after the edges."""

  def matrix(self, graph, num_nodes, **options):
    identity = jnp.eye(num_nodes)
    return normalised_sum(identity, graph, every_node(num_nodes), **options)

  @pytest.mark.parametrize(
    'weight, expected',
    [
      (1.0, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0]),
      (2.0, [0.40824831, 0.40824831, 0.5, 0.66666669, 0.5, 0.5, 1.0]),
    ],
  )
  def test_recorded_values(self, weight, expected):
    """Version 2.8.1, edge weights of one, improved=False and True."""
    senders, receivers = TestAddSelfLoops.SENDERS, TestAddSelfLoops.RECEIVERS
    graph = helpers.random_graph(np.random.default_rng(0), 4, 0)._replace(
      senders=senders, receivers=receivers
    )
    matrix = self.matrix(graph, 4, self_loops=True, self_loop_weight=weight)
    senders, receivers = graphs.add_self_loops(
      senders, receivers, 4, existing='remaining'
    )
    np.testing.assert_allclose(
      matrix[receivers, senders], expected, rtol=1e-6, atol=1e-7
    )

  @pytest.mark.parametrize('improved', [False, True])
  @pytest.mark.parametrize('self_loops', [False, True])
  @pytest.mark.parametrize('name', NAMES)
  def test_equals_gcn_norm(self, name, self_loops, improved):
    torch = pytest.importorskip('torch')
    pytest.importorskip('torch_geometric')
    from torch_geometric.nn.conv import gcn_conv

    graph = case(name)
    n = len(graph.nodes)
    edges, weights = gcn_conv.gcn_norm(
      torch.tensor(np.stack([graph.senders, graph.receivers]).astype(np.int64)),
      # Without weights `improved` has no effect since version 2.3.
      torch.ones(len(graph.senders)),
      n,
      improved=improved,
      add_self_loops=self_loops,
    )
    expected = np.zeros((n, n))
    np.add.at(expected, (edges[1].numpy(), edges[0].numpy()), weights.numpy())
    matrix = self.matrix(
      graph, n, self_loops=self_loops, self_loop_weight=1.0 + improved
    )
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


class TestErrors:
  def test_existing(self):
    message = "`existing` must be 'keep' or 'remaining', got 'all'"
    with pytest.raises(ValueError, match=message):
      unchecked(graphs.self_loop_weights)(
        case('random'), every_node(12), self_loops=False, existing='all'
      )

  def test_existing_of_edges(self):
    none = np.zeros(0, np.int32)
    message = "`existing` must be 'keep' or 'remaining', got 'add'"
    with pytest.raises(ValueError, match=message):
      unchecked(graphs.add_self_loops)(none, none, 0, existing='add')

  def test_degree_of(self):
    message = "`degree_of` must be 'receivers' or 'senders', got 'nodes'"
    with pytest.raises(ValueError, match=message):
      unchecked(graphs.gcn_degree)(
        case('random'), every_node(12), self_loops=False, degree_of='nodes'
      )


def unchecked(function):
  """The function without the type checks that only the tests have."""
  return getattr(function, '__wrapped__', function)
