import functools

import helpers
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from lorap_jax import graphs

BUDGET = graphs.Budget(32, 64, 7, 16)
LABELS = np.array([3, 1, 4, 1, 5])


def reference(graph_list, budget):
  return jraph.pad_with_graphs(
    jraph.batch_np(graph_list),
    n_node=budget.num_nodes,
    n_edge=budget.num_edges,
    n_graph=budget.num_graphs,
  )


def sorted_edges(graph):
  """Edges in one order, whatever they came in."""
  return sorted(
    zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
  )


class TestBatchGraphs:
  @pytest.mark.parametrize('sizes', [(5, 1, 0, 9, 3), (0, 0, 7, 0, 0), (4,)])
  def test_equals_jraph_up_to_edge_order(self, sizes):
    graph_list = helpers.random_graphs(1, sizes=sizes)
    batch = graphs.batch_graphs(graph_list, LABELS[: len(sizes)], BUDGET)
    expected = reference(graph_list, BUDGET)
    for name in ('nodes', 'n_node', 'n_edge'):
      np.testing.assert_array_equal(
        getattr(batch.graph, name), getattr(expected, name), err_msg=name
      )
    assert sorted_edges(batch.graph) == sorted_edges(expected)
    assert batch.graph.edges is None
    np.testing.assert_array_equal(
      batch.graph.globals.mask, jraph.get_graph_padding_mask(batch.graph)
    )

  def test_dtypes_and_shapes(self):
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    assert batch.graph.nodes.dtype == np.float32
    assert batch.graph.nodes.shape == (32, 3)
    for name, size in (
      ('senders', 64),
      ('receivers', 64),
      ('n_node', 7),
      ('n_edge', 7),
    ):
      value = getattr(batch.graph, name)
      assert value.dtype == np.int32 and value.shape == (size,), name
    assert batch.labels.dtype == np.int32
    np.testing.assert_array_equal(batch.labels, [3, 1, 4, 1, 5, 0, 0])

  def test_edges_are_sorted_by_receiver(self):
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    assert np.all(np.diff(batch.graph.receivers) >= 0)

  @pytest.mark.parametrize('max_out_degree', [16, 100])
  def test_layout_is_that_of_the_graph(self, max_out_degree):
    budget = BUDGET._replace(max_out_degree=max_out_degree)
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, budget)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 4)), jnp.float32)
    real = graphs.node_mask(batch.graph)
    with_layout = graphs.aggregate(x, batch.graph, batch.layout)
    without = graphs.aggregate(x, batch.graph)
    np.testing.assert_allclose(
      with_layout[real], without[real], rtol=1e-5, atol=1e-6
    )

  @pytest.mark.parametrize('max_out_degree', [16, 100])
  def test_layout_shapes_do_not_depend_on_the_graphs(self, max_out_degree):
    budget = BUDGET._replace(max_out_degree=max_out_degree)
    one = graphs.batch_graphs(helpers.random_graphs(1), LABELS, budget)
    two = graphs.batch_graphs(
      helpers.random_graphs(2, sizes=(2,)), LABELS[:1], budget
    )
    assert jax.tree.map(np.shape, one) == jax.tree.map(np.shape, two)

  @pytest.mark.parametrize('max_out_degree', [16, 100])
  @pytest.mark.parametrize('heads', [None, 2])
  def test_weighted_layout_is_that_of_the_graph(self, heads, max_out_degree):
    budget = BUDGET._replace(max_out_degree=max_out_degree)
    graph, _, layout, _ = graphs.batch_graphs(
      helpers.random_graphs(1), LABELS, budget, weighted=True
    )
    real, rng = graphs.edge_mask(graph), np.random.default_rng(0)
    h = () if heads is None else (heads,)
    x = jnp.asarray(rng.normal(size=(32, *h, 4)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(64, *h)), jnp.float32)
    dy = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    # What padding edges hold must not matter, nor may they get a gradient.
    weights = weights.at[~real].set(jnp.nan)
    dy = dy.at[18:].set(0)
    (y, pull_back), (y_plain, pull_back_plain) = (
      jax.vjp(
        lambda x, w, lay=lay: graphs.aggregate_weighted(x, w, graph, lay),
        x,
        weights,
      )
      for lay in (layout, None)
    )
    np.testing.assert_allclose(y[:18], y_plain[:18], rtol=1e-5, atol=1e-6)
    (dx, dw), (dx_plain, dw_plain) = pull_back(dy), pull_back_plain(dy)
    np.testing.assert_allclose(dx[:18], dx_plain[:18], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dw, dw_plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(dw[~real], 0)
    assert np.all(np.isfinite(y[:18])) and np.all(np.isfinite(dx[:18]))

  def test_weighted_layout_serves_plain_sums(self):
    graph, _, layout, _ = graphs.batch_graphs(
      helpers.random_graphs(1), LABELS, BUDGET, weighted=True
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 2)), jnp.float32)
    np.testing.assert_allclose(
      graphs.aggregate(x, graph, layout)[:18],
      graphs.aggregate(x, graph)[:18],
      rtol=1e-5,
      atol=1e-6,
    )

  def test_padding_messages_stay_with_padding(self):
    graph = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET).graph
    real = graphs.edge_mask(graph)[:, None]
    total = graphs.edge_aggregate(jnp.where(real, 1.0, jnp.nan), graph)
    degree = np.bincount(graph.receivers, minlength=32)
    np.testing.assert_array_equal(total[:18, 0], degree[:18])

  @pytest.mark.parametrize('max_out_degree', [16, 100])
  def test_weighted_batches_have_one_shape(self, max_out_degree):
    budget = BUDGET._replace(max_out_degree=max_out_degree)
    one = graphs.batch_graphs(
      helpers.random_graphs(1), LABELS, budget, weighted=True
    )
    two = graphs.batch_graphs(
      helpers.random_graphs(2, sizes=(2,)), LABELS[:1], budget, weighted=True
    )
    assert jax.tree.map(np.shape, one) == jax.tree.map(np.shape, two)

  def test_weighted_only_adds_the_order(self):
    """The same graph, and layouts without weights pay nothing."""
    plain, weighted = (
      graphs.batch_graphs(
        helpers.random_graphs(1), LABELS, BUDGET, weighted=weighted
      )
      for weighted in (False, True)
    )
    helpers.assert_trees_close(weighted.graph, plain.graph)
    helpers.assert_trees_close(weighted.layout.incoming, plain.layout.incoming)
    assert weighted.layout.outgoing.order is not None
    outgoing = weighted.layout.outgoing._replace(order=None)
    # Equal neighbours, in another order.
    spec = lambda side: jax.tree.map(np.shape, side)
    assert spec(outgoing) == spec(plain.layout.outgoing)

  def test_layout_can_be_left_out(self):
    batch = graphs.batch_graphs(
      helpers.random_graphs(1), LABELS, BUDGET, layout=False
    )
    assert batch.layout is None
    with_one = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    jax.tree.map(np.testing.assert_array_equal, batch.graph, with_one.graph)

  def test_unbatching_gives_the_graphs_back(self):
    graph_list = helpers.random_graphs(1)
    batch = graphs.batch_graphs(graph_list, LABELS, BUDGET)
    back = jraph.unbatch_np(jraph.unpad_with_graphs(batch.graph))
    assert len(back) == len(graph_list)
    for ours, original in zip(back, graph_list, strict=True):
      np.testing.assert_array_equal(ours.nodes, original.nodes)
      assert sorted_edges(ours) == sorted_edges(original)

  @pytest.mark.parametrize(
    'budget',
    [
      BUDGET._replace(num_nodes=18),  # The graphs have 18 nodes.
      BUDGET._replace(num_edges=53),
      BUDGET._replace(num_graphs=5),
    ],
    ids=['nodes', 'edges', 'graphs'],
  )
  def test_too_small_a_budget(self, budget):
    message = '5 graphs with 18 nodes and 54 edges do not fit the budget'
    with pytest.raises(ValueError, match=message):
      graphs.batch_graphs(helpers.random_graphs(1), LABELS, budget)

  def test_smallest_budget_fits(self):
    budget = graphs.Budget(19, 54, 6, 16)
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, budget)
    assert graphs.node_mask(batch.graph).sum() == 18

  def test_degree_error(self):
    budget = BUDGET._replace(max_out_degree=1)
    with pytest.raises(ValueError, match='`max_out_degree` = 1'):
      graphs.batch_graphs(helpers.random_graphs(1), LABELS, budget)


class TestMasks:
  def test_masks(self):
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    np.testing.assert_array_equal(
      graphs.node_mask(batch.graph), np.arange(32) < 18
    )
    np.testing.assert_array_equal(
      graphs.graph_mask(batch.graph), np.arange(7) < 5
    )

  @helpers.JIT
  def test_edge_mask(self, jit):
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    mask = (jax.jit(graphs.edge_mask) if jit else graphs.edge_mask)(batch.graph)
    np.testing.assert_array_equal(mask, np.arange(64) < 54)
    np.testing.assert_array_equal(mask, batch.graph.receivers < 18)

  @helpers.JIT
  def test_node_graph_idx(self, jit):
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    function = functools.partial(graphs.node_graph_idx, num_nodes=32)
    owner = (jax.jit(function) if jit else function)(batch.graph)
    expected = np.repeat(np.arange(6), [5, 1, 0, 9, 3, 14])
    np.testing.assert_array_equal(owner, expected)
    assert owner.dtype == jnp.int32

  def test_in_degree(self):
    batch = graphs.batch_graphs(helpers.random_graphs(1), LABELS, BUDGET)
    degree = graphs.in_degree(batch.graph, 32)
    expected = np.bincount(batch.graph.receivers, minlength=32)
    np.testing.assert_array_equal(degree, expected)
    assert degree[18] == 10  # Padding edges are at the first padding node.


class TestChooseBudget:
  def test_written_out(self):
    """10 graphs a batch of 4 nodes each: no spread, 40 nodes and one more."""
    n_node, n_edge = np.full(100, 4), np.full(100, 10)
    budget = graphs.choose_budget(
      n_node, n_edge, batch_size=10, max_out_degree=8
    )
    assert budget == graphs.Budget(64, 128, 11, 8)

  def test_spread(self):
    """Mean 50, deviation 10: 16 * 50 + 4 * 4 * 10 = 960, one more, to 64s."""
    n_node = np.tile([40, 60], 50)
    budget = graphs.choose_budget(
      n_node, n_node, batch_size=16, max_out_degree=8
    )
    # The 16 largest have 960 nodes as well.
    assert budget.num_nodes == 1024

  def test_one_large_graph_fits(self):
    n_node = np.append(np.ones(999, int), 500)
    budget = graphs.choose_budget(
      n_node, n_node, batch_size=1, max_out_degree=8
    )
    assert budget.num_nodes - 1 >= 500

  def test_never_more_than_the_largest_graphs_need(self):
    n_node = np.array([1, 1, 100])
    budget = graphs.choose_budget(
      n_node, n_node, batch_size=2, max_out_degree=8
    )
    assert budget.num_nodes == 128  # 100 + 1, one more, to 64s.

  def test_nearly_every_batch_is_full(self):
    rng = np.random.default_rng(0)
    n_node = rng.integers(40, 76, 5000)
    n_edge = 8 * n_node
    budget = graphs.choose_budget(
      n_node, n_edge, batch_size=128, max_out_degree=8
    )
    sizes = [
      len(piece)
      for piece in graphs.plan_batches(
        rng.permutation(5000), n_node, n_edge, budget
      )
    ]
    assert sum(size == 128 for size in sizes) >= len(sizes) - 2
    assert budget.num_nodes < 1.1 * 128 * n_node.mean()

  @pytest.mark.parametrize('batch_size', [0, -3])
  def test_batch_size(self, batch_size):
    message = f'`batch_size` must be at least 1, got {batch_size}'
    with pytest.raises(ValueError, match=message):
      graphs.choose_budget(
        np.ones(3), np.ones(3), batch_size=batch_size, max_out_degree=8
      )

  def test_no_graphs(self):
    with pytest.raises(ValueError, match='the split is empty'):
      graphs.choose_budget(
        np.ones(0), np.ones(0), batch_size=2, max_out_degree=8
      )


class TestPlanBatches:
  @pytest.mark.parametrize('seed', range(5))
  def test_every_graph_once_in_order_and_within_the_budget(self, seed):
    rng = np.random.default_rng(seed)
    n_node, n_edge = rng.integers(0, 20, (2, 200))
    budget = graphs.Budget(40, 45, 6, 8)
    order = rng.permutation(200)[:150]
    pieces = list(graphs.plan_batches(order, n_node, n_edge, budget))
    np.testing.assert_array_equal(np.concatenate(pieces), order)
    for piece in pieces:
      assert 1 <= len(piece) <= 5
      assert n_node[piece].sum() <= 39 and n_edge[piece].sum() <= 45
    for piece, following in zip(pieces[:-1], pieces[1:], strict=True):
      longer = np.append(piece, following[0])
      assert (
        len(longer) > 5
        or n_node[longer].sum() > 39
        or n_edge[longer].sum() > 45
      ), 'a batch was closed too early'

  def test_empty_order(self):
    order = np.zeros(0, int)
    sizes = np.ones(3, int)
    assert not list(graphs.plan_batches(order, sizes, sizes, BUDGET))

  @pytest.mark.parametrize(
    'what, limit', [('nodes', 31), ('edges', 64)], ids=['nodes', 'edges']
  )
  def test_graph_beyond_the_budget(self, what, limit):
    small, large = np.full(9, 4), np.full(9, 4)
    large[7] = limit + 1
    sizes = (large, small) if what == 'nodes' else (small, large)
    message = f'graph 7 has {limit + 1} {what}, more than the {limit} of'
    with pytest.raises(ValueError, match=message):
      list(graphs.plan_batches(np.arange(9), *sizes, BUDGET))
    # It is named only where it is asked for.
    assert list(graphs.plan_batches(np.arange(7), *sizes, BUDGET))

  def test_graph_as_large_as_the_budget(self):
    pieces = list(
      graphs.plan_batches(
        np.arange(2), np.array([31, 31]), np.array([64, 64]), BUDGET
      )
    )
    assert [piece.tolist() for piece in pieces] == [[0], [1]]
