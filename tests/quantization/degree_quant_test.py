import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import affine, degree_quant, observers

probability = jax.jit(
  degree_quant.protection_probability, static_argnames=('low', 'change')
)


def random_batch(seed, sizes=(5, 1, 40, 2, 9)):
  """In-degrees with many ties, and the graph of each node."""
  rng = np.random.default_rng(seed)
  graph = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
  return rng.geometric(0.3, graph.size).astype(np.int32) - 1, graph


def brute_force(degree, graph, low, high):
  same = graph[:, None] == graph
  at_most = same & (degree[:, None] >= degree)
  return low + (high - low) * at_most.sum(1) / same.sum(1)


class TestProbability:
  def test_written_out(self):
    degree = jnp.asarray([0, 3, 3, 1, 7, 2])
    graph = jnp.asarray([0, 0, 0, 0, 1, 1])
    p = probability(degree, graph, low=0.0, change=0.5)
    np.testing.assert_array_equal(p, [0.125, 0.5, 0.5, 0.25, 0.5, 0.25])

  @helpers.JIT
  @pytest.mark.parametrize('seed', range(3))
  @pytest.mark.parametrize('low, change', [(0.0, 0.1), (0.2, 0.5), (0.8, 0.7)])
  def test_equals_counting(self, seed, low, change, jit):
    degree, graph = random_batch(seed)
    function = probability if jit else degree_quant.protection_probability
    p = function(
      jnp.asarray(degree), jnp.asarray(graph), low=low, change=change
    )
    assert p.dtype == jnp.float32
    expected = brute_force(degree, graph, low, min(low + change, 1))
    np.testing.assert_allclose(p, expected, rtol=2e-7)

  @pytest.mark.parametrize('low, change', [(0.1, 0.2), (0.3, 0.4), (0.7, 0.9)])
  def test_highest_degree_has_exactly_high(self, low, change):
    degree, graph = random_batch(0)
    p = probability(
      jnp.asarray(degree), jnp.asarray(graph), low=low, change=change
    )
    high = np.float32(min(low + change, 1))
    assert np.max(p) == high
    for g in range(5):
      largest = degree[graph == g] == degree[graph == g].max()
      np.testing.assert_array_equal(np.asarray(p)[graph == g] == high, largest)

  def test_regular_graph(self):
    p = probability(
      jnp.full(6, 3), jnp.zeros(6, jnp.int32), low=0.1, change=0.2
    )
    np.testing.assert_array_equal(p, np.full(6, np.float32(0.1 + 0.2)))

  def test_no_change_is_uniform(self):
    degree, graph = random_batch(1)
    p = probability(
      jnp.asarray(degree), jnp.asarray(graph), low=0.25, change=0.0
    )
    np.testing.assert_allclose(p, 0.25, rtol=1e-6)

  def test_order_of_nodes_does_not_matter(self):
    degree, graph = random_batch(2)
    order = np.random.default_rng(0).permutation(graph.size)
    run = functools.partial(probability, low=0.1, change=0.5)
    p = run(jnp.asarray(degree), jnp.asarray(graph))
    shuffled = run(jnp.asarray(degree[order]), jnp.asarray(graph[order]))
    np.testing.assert_array_equal(shuffled, p[order])

  @pytest.mark.parametrize('padding_degree', [0, 1000])
  def test_padding_invariance(self, padding_degree):
    degree, graph = random_batch(3)
    run = functools.partial(probability, low=0.1, change=0.5)
    p = run(jnp.asarray(degree), jnp.asarray(graph))
    padded = run(
      jnp.asarray(np.append(degree, np.full(20, padding_degree))),
      jnp.asarray(np.append(graph, np.full(20, 5))),
    )
    np.testing.assert_array_equal(padded[: graph.size], p)

  def test_graph_times_degree_may_exceed_int32(self):
    degree = jnp.asarray([2**30, 5, 2**30, 5], jnp.int32)
    graph = jnp.asarray([7, 7, 900, 900], jnp.int32)
    p = probability(degree, graph, low=0.0, change=1.0)
    np.testing.assert_array_equal(p, [1, 0.5, 1, 0.5])

  @pytest.mark.parametrize('low', [-0.1, 1.1, np.nan])
  def test_low_out_of_bounds(self, low):
    with pytest.raises(ValueError, match=rf'`low` must be .* got {low}'):
      degree_quant.protection_probability(
        jnp.ones(2, int), jnp.zeros(2, int), low=low, change=0.1
      )

  @pytest.mark.parametrize('change', [-0.1, np.nan])
  def test_change_out_of_bounds(self, change):
    with pytest.raises(ValueError, match=f'at least 0, got {change}'):
      degree_quant.protection_probability(
        jnp.ones(2, int), jnp.zeros(2, int), low=0.1, change=change
      )


class TestMask:
  def test_share_of_protected_nodes(self, key):
    p = jnp.repeat(jnp.asarray([0.0, 0.1, 0.7, 1.0]), 10_000)
    mask = degree_quant.protective_mask(key, p)
    assert mask.dtype == bool and mask.shape == p.shape
    share = np.asarray(mask).reshape(4, -1).mean(1)
    assert share[0] == 0 and share[3] == 1
    # Five standard deviations of 10 000 draws.
    assert abs(share[1] - 0.1) < 0.015 and abs(share[2] - 0.7) < 0.023

  def test_keys_matter(self, key):
    p = jnp.full(1000, 0.5)
    first, again, other = (
      np.asarray(degree_quant.protective_mask(k, p))
      for k in (key, key, jax.random.key(1))
    )
    assert np.all(first == again) and not np.all(first == other)


@helpers.JIT
@pytest.mark.parametrize('axis, shape', [(None, ()), (0, (1, 4))])
def test_one_step(key, axis, shape, jit):
  """Range and output of the other rows are those of a batch without them."""
  x = jax.random.normal(key, (60, 4))
  protected = degree_quant.protective_mask(key, jnp.full(60, 0.3))[:, None]
  x = jnp.where(protected, 100 * x, x)
  real = jnp.arange(60)[:, None] < 50

  def step(x, real, protected):
    current = observers.batch_range(x, mask=real & ~protected, axis=axis)
    running = observers.update_range(
      observers.init_range(shape), current, rule='extreme'
    )
    qparams = affine.affine_qparams(*running[:2], bits=4)
    return affine.fake_quant(
      x, qparams, bits=4, signed=True, gradient='clipped', keep=protected
    )

  step = jax.jit(step) if jit else step
  out = step(x, real, protected)
  rows = np.asarray(protected)[:, 0]
  assert 10 < rows[:50].sum() < 40
  np.testing.assert_array_equal(out[rows], x[rows])
  others = np.flatnonzero(~rows[:50])
  all_real, none = jnp.ones((len(others), 1), bool), jnp.zeros((1, 1), bool)
  np.testing.assert_array_equal(out[others], step(x[others], all_real, none))
  assert len(np.unique(out[others, 0])) <= 16


@pytest.mark.parametrize('change', [0.0, 1e-8, 0.1, 0.7])
@pytest.mark.parametrize('low', [0.1, 0.3, 0.7])
def test_probability_never_leaves_its_bounds(low, change):
  degree = jnp.arange(97, dtype=jnp.int32)
  p = np.asarray(probability(degree, 0 * degree, low=low, change=change))
  assert p.min() >= np.float32(low)
  assert p.max() == np.float32(min(low + change, 1))
  if not change:
    assert np.ptp(p) == 0
