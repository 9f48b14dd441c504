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


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
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


def test_padding_nodes_do_not_enter_real_graphs():
  graph = batch_of()
  x = jnp.where(graphs.node_mask(graph)[:, None], 1.0, jnp.nan)
  x = jnp.broadcast_to(x, (32, 2))
  out = graphs.mean_pool(x, graph)
  np.testing.assert_array_equal(out[:5, 0], [1, 1, 0, 1, 1])


def test_scatter_path_agrees(monkeypatch):
  """What other devices than the CPU run."""
  graph = batch_of()
  x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 3)), jnp.float32)
  on_cpu = graphs.mean_pool(x, graph)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  elsewhere = graphs.mean_pool(x, graph)
  np.testing.assert_allclose(elsewhere, on_cpu, rtol=1e-5, atol=1e-6)
