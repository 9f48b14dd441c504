import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import layers
import networks
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.models import backbones, network
from lorap_jax.nn import methods, protection

DQ = methods.DegreeQuant(percentile=0.0)


class Host(nn.Module):
  """A module that draws."""

  scheme: methods.DegreeQuant | methods.QAT

  @nn.compact
  def __call__(self, graph, mask, train):
    return protection.node_rows(self, self.scheme, graph, mask, train=train)


@pytest.fixture(scope='module')
def batch():
  return jax.tree.map(jnp.asarray, layers.batch_of(layers.graph_list()))


def draw(scheme, batch, *, train=True, seed=0, stream='quantization'):
  rngs = None if seed is None else {stream: jax.random.key(seed)}
  mask = layers.rows_of(batch).mask
  return Host(scheme).apply({}, batch.graph, mask, train, rngs=rngs)


class TestRows:
  def test_no_draw_at_evaluation(self, batch):
    rows = draw(DQ, batch, train=False, seed=None)
    assert rows.protected is None and rows.train is False
    np.testing.assert_array_equal(rows.mask[:, 0], np.arange(28) < layers.REAL)

  def test_no_draw_without_protection(self, batch):
    rows = draw(methods.QAT(), batch, seed=None)
    assert rows.protected is None and rows.train is True

  def test_only_the_quantization_stream(self, batch):
    rows = draw(DQ, batch, seed=3)
    assert rows.protected.shape == (28, 1) and rows.protected.dtype == bool
    with pytest.raises(flax.errors.InvalidRngError, match='quantization'):
      draw(DQ, batch, stream='dropout')

  def test_seed(self, batch):
    scheme = methods.DegreeQuant(low=0.5, change=0.0)
    one, same, other = (
      draw(scheme, batch, seed=seed).protected for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)

  @pytest.mark.parametrize('low', [0.0, 1.0])
  def test_all_or_nobody(self, batch, low):
    scheme = methods.DegreeQuant(low=low, change=0.0)
    np.testing.assert_array_equal(draw(scheme, batch).protected, low == 1)

  def test_frequency(self, batch):
    """High in-degree within its graph, not out-degree and not the batch's."""
    scheme = methods.DegreeQuant(low=0.2, change=0.6)
    seeds = jax.random.split(jax.random.key(0), 2000)
    mask = layers.rows_of(batch).mask

    def protected(key):
      rngs = {'quantization': key}
      return Host(scheme).apply({}, batch.graph, mask, True, rngs=rngs)[2]

    drawn = jax.jit(jax.vmap(protected))(seeds)
    mean = np.asarray(drawn, np.float64).mean(0)[:, 0]
    expected = np.empty(layers.REAL)
    start = 0
    for graph in layers.graph_list():
      size = len(graph.nodes)
      degree = np.bincount(graph.receivers, minlength=size)
      share = (degree[None] <= degree[:, None]).mean(1) if size else []
      expected[start : start + size] = 0.2 + 0.6 * np.asarray(share)
      start += size
    # Six deviations of 2000 draws of p = 1/2.
    np.testing.assert_allclose(mean[: layers.REAL], expected, atol=0.067)
    assert expected.max() == pytest.approx(0.8) and expected.min() < 0.4

  def test_largest_degree_reaches_high(self, batch):
    scheme = methods.DegreeQuant(low=0.0, change=1.0)
    degree = np.asarray(graphs.in_degree(batch.graph, 28))
    owner = np.asarray(graphs.node_graph_idx(batch.graph, 28))
    top = [degree[i] == degree[owner == owner[i]].max() for i in range(28)]
    top = np.asarray(top)
    drawn = [draw(scheme, batch, seed=s).protected[:, 0] for s in range(5)]
    assert np.all(np.asarray(drawn)[:, top])
    assert not np.all(np.asarray(drawn)[:, ~top])


@pytest.mark.parametrize(
  'scheme, expected',
  [
    (methods.FP32(), False),
    (methods.QAT(), False),
    (DQ, False),
    (methods.DegreeQuant(redraw=True), True),
  ],
)
def test_redraws(scheme, expected):
  assert protection.redraws(scheme) is expected


class TestNetwork:
  def calls(self, batch, *, redraw, train=True, rngs=None):
    scheme = methods.DegreeQuant(
      low=0.5, change=0.0, redraw=redraw, percentile=0.0
    )
    model = network.Network(
      outputs=3,
      backbone=backbones.GCN(),
      scheme=scheme,
      features=6,
      num_layers=2,
      encoder='none',
    )
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), batch.graph, layout=batch.layout)
    _, _, calls = networks.apply(
      model, variables, batch, train=train, rngs=rngs
    )
    return calls

  @pytest.mark.parametrize('redraw', [False, True])
  def test_masks_of_the_layers(self, batch, redraw):
    rngs = {'quantization': jax.random.key(1)}
    calls = self.calls(batch, redraw=redraw, rngs=rngs)
    masks = [calls['features'].protected]
    for i in range(2):
      points = ('dense/output', 'message', 'neighbor_sum', 'update')
      drawn = [calls[f'conv_{i}/{point}'].protected for point in points]
      for other in drawn[1:]:
        np.testing.assert_array_equal(other, drawn[0])
      masks.append(drawn[0])
    first, *rest = masks
    assert first.shape == (28, 1) and np.any(first) and not np.all(first)
    np.testing.assert_array_equal(rest[0], first)
    for i, one in enumerate(rest):
      for other in rest[i + 1 :]:
        assert np.array_equal(one, other) == (not redraw)
    for path, call in calls.items():
      if 'weight' in path or 'norm' in path or 'readout' in path:
        assert call.protected is None, path

  def test_evaluation_draws_nothing(self, batch):
    calls = self.calls(batch, redraw=True, train=False)
    assert all(call.protected is None for call in calls.values())
