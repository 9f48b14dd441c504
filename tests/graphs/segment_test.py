import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs

BUDGET = graphs.Budget(32, 64, 8, 16)
SIZES = (5, 1, 0, 9, 3)


def batch_of(sizes=SIZES):
  labels = np.zeros(len(sizes), int)
  graph_list = helpers.random_graphs(5, sizes=sizes)
  return graphs.batch_graphs(graph_list, labels, BUDGET).graph


@helpers.JIT
@pytest.mark.parametrize('sizes', [SIZES, (0, 4, 0), (1,)])
class TestMeanPool:
  def test_equals_means(self, sizes, jit):
    graph = batch_of(sizes)
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    pool = jax.jit(graphs.mean_pool) if jit else graphs.mean_pool
    out = pool(jnp.asarray(x), graph)
    start = 0
    for g, size in enumerate(sizes):
      rows = x[start : start + size]
      expected = rows.mean(0) if size else np.zeros(3)
      np.testing.assert_allclose(out[g], expected, rtol=1e-5, atol=1e-6)
      start += size
    assert out.shape == (8, 3) and np.all(np.isfinite(out))

  def test_gradient(self, sizes, jit):
    graph = batch_of(sizes)
    dz = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    grad = jax.grad(lambda x: jnp.sum(graphs.mean_pool(x, graph) * dz))
    dx = (jax.jit(grad) if jit else grad)(jnp.ones((32, 3)))
    owner = np.repeat(np.arange(8), graph.n_node)
    expected = (dz / np.maximum(graph.n_node, 1)[:, None])[owner]
    np.testing.assert_allclose(dx, expected, rtol=1e-6)


@helpers.JIT
@pytest.mark.parametrize('sizes', [SIZES, (0, 4, 0), (1,)])
class TestSumPool:
  def test_equals_sums(self, sizes, jit):
    graph = batch_of(sizes)
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    pool = jax.jit(graphs.sum_pool) if jit else graphs.sum_pool
    out = pool(jnp.asarray(x), graph)
    owner = np.repeat(np.arange(8), graph.n_node)
    expected = np.zeros((8, 3))
    np.add.at(expected, owner, x)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)

  def test_gradient(self, sizes, jit):
    graph = batch_of(sizes)
    dz = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    grad = jax.grad(lambda x: jnp.sum(graphs.sum_pool(x, graph) * dz))
    dx = (jax.jit(grad) if jit else grad)(jnp.ones((32, 3)))
    owner = np.repeat(np.arange(8), graph.n_node)
    np.testing.assert_array_equal(dx, dz[owner])


@helpers.JIT
@pytest.mark.parametrize('sizes', [SIZES, (0, 4, 0), (1,)])
class TestMaxPool:
  def test_equals_maxima(self, sizes, jit):
    graph = batch_of(sizes)
    # All negative: the 0 of graphs without nodes must not win.
    x = -np.abs(np.random.default_rng(0).normal(size=(32, 3)))
    x = x.astype(np.float32) - 1
    pool = jax.jit(graphs.max_pool) if jit else graphs.max_pool
    out = pool(jnp.asarray(x), graph)
    start = 0
    for g, size in enumerate(graph.n_node):
      rows = x[start : start + size]
      expected = rows.max(0) if size else np.zeros(3)
      np.testing.assert_array_equal(out[g], expected)
      start += size

  def test_gradient_goes_to_the_maximum_and_is_shared(self, sizes, jit):
    graph = batch_of(sizes)
    # Three values only, so that most maxima are shared.
    x = np.random.default_rng(0).integers(-2, 1, (32, 3)).astype(np.float32)
    dz = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    grad = jax.grad(lambda x: jnp.sum(graphs.max_pool(x, graph) * dz))
    dx = (jax.jit(grad) if jit else grad)(jnp.asarray(x))
    expected, start = np.zeros_like(x), 0
    for g, size in enumerate(graph.n_node):
      rows = slice(start, start + size)
      if size:
        top = x[rows] == x[rows].max(0)
        expected[rows] = top * dz[g] / top.sum(0)
      start += size
    np.testing.assert_allclose(dx, expected, rtol=1e-6)


POOLS = [graphs.sum_pool, graphs.mean_pool, graphs.max_pool]


@pytest.mark.parametrize('pool', POOLS)
def test_padding_nodes_do_not_enter_real_graphs(pool):
  graph = batch_of()
  mask = graphs.node_mask(graph)[:, None]
  clean = jnp.broadcast_to(jnp.where(mask, 1.0, 0.0), (32, 2))
  spoilt = jnp.where(mask, clean, jnp.nan)
  np.testing.assert_array_equal(pool(spoilt, graph)[:5], pool(clean, graph)[:5])
  grad = jax.grad(lambda x: jnp.sum(pool(x, graph)[:5]))
  np.testing.assert_array_equal(grad(spoilt)[:18], grad(clean)[:18])
  np.testing.assert_array_equal(grad(clean)[18:], 0)


@pytest.mark.parametrize('pool', POOLS)
def test_node_order_does_not_matter(pool):
  graph = batch_of()
  x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
  order = np.concatenate(
    [np.arange(5)[::-1], [5], np.arange(6, 15)[::-1], [16, 17, 15]]
  )
  order = np.concatenate([order, np.arange(18, 32)])
  np.testing.assert_allclose(
    pool(jnp.asarray(x[order]), graph),
    pool(jnp.asarray(x), graph),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize('pool', [graphs.sum_pool, graphs.mean_pool])
def test_scatter_path_agrees(pool, monkeypatch):
  """What other devices than the CPU run."""
  graph = batch_of()
  x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 3)), jnp.float32)
  on_cpu = pool(x, graph)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  elsewhere = pool(x, graph)
  np.testing.assert_allclose(elsewhere, on_cpu, rtol=1e-5, atol=1e-6)
