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


def layout_of(graph, num_nodes, kind):
  if kind == 'none':
    return None
  layout = graphs.make_layout(
    graph.senders,
    graph.receivers,
    num_nodes,
    max_out_degree=16 if kind == 'table' else None,
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


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
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


class TestMakeLayout:
  def test_written_out(self):
    senders, receivers = np.array([2, 0, 2, 1]), np.array([0, 1, 1, 1])
    layout = graphs.make_layout(senders, receivers, 4, max_out_degree=2)
    np.testing.assert_array_equal(layout.incoming.indptr, [0, 1, 4, 4, 4])
    np.testing.assert_array_equal(layout.incoming.indices, [2, 0, 2, 1])
    np.testing.assert_array_equal(
      layout.outgoing.indices, [[1, 4], [1, 4], [0, 1], [4, 4]]
    )
    for leaf in jax.tree.leaves(layout):
      assert leaf.dtype == np.int32

  def test_wide_bound_gives_csr(self):
    edges = np.array([0]), np.array([1])
    layout = graphs.make_layout(*edges, 2, max_out_degree=17)
    assert isinstance(layout.outgoing, graphs.Csr)

  def test_many_nodes(self):
    """Beyond 16-bit node numbers."""
    n = (1 << 16) + 3
    senders, receivers = np.array([n - 1, 5, 0]), np.array([n - 2, n - 2, 3])
    layout = graphs.make_layout(senders, receivers, n)
    start, stop = layout.incoming.indptr[n - 2 : n]
    np.testing.assert_array_equal(
      layout.incoming.indices[start:stop], [n - 1, 5]
    )
    assert layout.incoming.indptr[-1] == 3

  def test_degree_error(self):
    senders, receivers = np.array([1, 3, 3, 3]), np.array([0, 0, 1, 2])
    message = 'node 3 sends 3 edges, more than `max_out_degree` = 2'
    with pytest.raises(ValueError, match=message):
      graphs.make_layout(senders, receivers, 4, max_out_degree=2)
