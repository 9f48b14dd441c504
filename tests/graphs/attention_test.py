import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs

RECEIVERS = np.array([4, 0, 0, 2, 4, 0, 2, 6, 5, 0], np.int32)
NUM_NODES = 8  # Nodes 1, 3 and 7 receive nothing; 5 and 6 padding only.
REAL = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 1], bool)


def logits_of(seed=0, heads=3):
  rng = np.random.default_rng(seed)
  return rng.normal(scale=3, size=(len(RECEIVERS), heads)).astype(np.float32)


def softmax(logits, receivers, mask, *, num_segments=NUM_NODES):
  """Node by node, in float64."""
  out = np.zeros(logits.shape)
  for i in range(num_segments):
    edges = np.flatnonzero((receivers == i) & mask)
    powers = np.exp(logits[edges].astype(np.float64))
    out[edges] = powers / powers.sum(0)
  return out


def function(mask=REAL, *, jit=False):
  run = functools.partial(
    graphs.segment_softmax,
    receivers=jnp.asarray(RECEIVERS),
    num_segments=NUM_NODES,
    mask=None if mask is None else jnp.asarray(mask),
  )
  return jax.jit(run) if jit else run


@helpers.JIT
@pytest.mark.parametrize(
  'mask', [REAL, np.ones_like(REAL), np.zeros_like(REAL)], ids=str
)
class TestSegmentSoftmax:
  def test_equals_softmax_of_each_node(self, mask, jit):
    out = function(mask, jit=jit)(jnp.asarray(logits_of()))
    expected = softmax(logits_of(), RECEIVERS, mask)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(out[~mask], 0)

  def test_gradient(self, mask, jit):
    """dz_e = p_e (dp_e - sum over the node's edges of p dp)."""
    dp = np.random.default_rng(1).normal(size=logits_of().shape)
    loss = lambda z: jnp.sum(function(mask)(z) * jnp.float32(dp))
    grad = jax.jit(jax.grad(loss)) if jit else jax.grad(loss)
    p = softmax(logits_of(), RECEIVERS, mask)
    mean = np.zeros((NUM_NODES, p.shape[1]))
    np.add.at(mean, RECEIVERS, p * dp)
    np.testing.assert_allclose(
      grad(jnp.asarray(logits_of())),
      p * (dp - mean[RECEIVERS]),
      rtol=1e-5,
      atol=1e-6,
    )


def test_without_mask_all_edges_are_real():
  logits = jnp.asarray(logits_of())
  np.testing.assert_array_equal(
    function(None)(logits), function(np.ones_like(REAL))(logits)
  )


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e30])
def test_padding_may_hold_anything(bad):
  """Neither values nor gradients of real edges notice it."""
  logits = logits_of()
  logits[~REAL] = bad
  run = function()
  clean, spoilt = jnp.asarray(logits_of()), jnp.asarray(logits)
  np.testing.assert_array_equal(run(spoilt), run(clean))
  grad = jax.grad(lambda z: jnp.sum(run(z) ** 2))
  np.testing.assert_array_equal(grad(spoilt), grad(clean))
  np.testing.assert_array_equal(grad(spoilt)[~REAL], 0)


@pytest.mark.parametrize('shift', [-1e4, 1e4])
def test_large_logits(shift):
  """float32 has 1e-3 left there, which the exponent makes 1e-3 relative."""
  run = function()
  logits = np.round(logits_of(), 1)
  shifted = jnp.asarray(logits + np.float32(shift))
  np.testing.assert_allclose(
    run(shifted), run(jnp.asarray(logits)), rtol=5e-3, atol=1e-6
  )
  grad = jax.grad(lambda z: jnp.sum(run(z) ** 2))(shifted)
  assert np.all(np.isfinite(grad))


def test_far_apart_logits_leave_one():
  logits = np.full((len(RECEIVERS), 1), -500.0, np.float32)
  logits[2] = 500.0
  out = function()(jnp.asarray(logits))[:, 0]
  np.testing.assert_array_equal(out[RECEIVERS == 0], [0, 1, 0, 0])


def test_a_single_edge_has_weight_one():
  out = function()(jnp.asarray(logits_of()))
  np.testing.assert_array_equal(out[3], 1)  # The only real edge to node 2.


def test_heads_do_not_mix():
  logits = jnp.asarray(logits_of())
  together = function()(logits)
  for h in range(3):
    alone = function()(logits[:, h : h + 1])
    np.testing.assert_array_equal(together[:, h], alone[:, 0])


def test_permutation_equivariance():
  rng = np.random.default_rng(3)
  edges, nodes = rng.permutation(len(RECEIVERS)), rng.permutation(NUM_NODES)
  out = graphs.segment_softmax(
    jnp.asarray(logits_of()[edges]),
    jnp.asarray(nodes.astype(np.int32)[RECEIVERS[edges]]),
    NUM_NODES,
    mask=jnp.asarray(REAL[edges]),
  )
  expected = function()(jnp.asarray(logits_of()))[edges]
  np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)


def test_no_edges():
  out = graphs.segment_softmax(
    jnp.zeros((0, 2)), jnp.zeros(0, jnp.int32), 3, mask=jnp.zeros(0, bool)
  )
  assert out.shape == (0, 2)


def test_equals_torch_geometric():
  torch = pytest.importorskip('torch')
  pytest.importorskip('torch_geometric')
  from torch_geometric.utils import softmax as reference

  expected = reference(
    torch.tensor(logits_of()[REAL]),
    torch.tensor(RECEIVERS[REAL].astype(np.int64)),
    num_nodes=NUM_NODES,
  )
  out = function()(jnp.asarray(logits_of()))
  np.testing.assert_allclose(out[REAL], expected, rtol=1e-6, atol=1e-7)
