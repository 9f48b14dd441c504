"""Random maps of positions: the equation, what stays, who draws what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from lorap_jax import graphs
from lorap_jax.data.containers import normalization
from lorap_jax.data.containers.positions import Positions
from lorap_jax.data.images import slic_graphs
from lorap_jax.graphs import batching
from lorap_jax.runs import loop, settings
from lorap_jax.training import augment, passes, steps

PLACES = Positions((2, 1), middle=(0.4, 0.6), side=(2.0, 0.5))
ZINC = {'data__name': 'zinc', 'data__limit': None, 'data__source': None}
KEY = jax.random.key(5)


BUDGET = graphs.Budget(96, 160, 14, 16)


def batch_of(num_shards=1, budget=BUDGET):
  """Twelve graphs, padded, in so many shards."""
  data = tiny_run.dataset(4, 12)
  starts = np.cumsum(data.n_node) - data.n_node
  offset = np.repeat(starts, data.n_edge)
  ends = [np.int32(e) + offset for e in (data.senders, data.receivers)]

  def padded(which):
    nodes = np.repeat(np.isin(np.arange(12), which), data.n_node)
    edges = np.repeat(np.isin(np.arange(12), which), data.n_edge)
    return batching.pad_batch(
      data.nodes[nodes],
      *(e[edges] - starts[which[0]] for e in ends),
      data.n_node[which],
      data.n_edge[which],
      data.labels[which],
      budget,
    )

  parts = [padded(which) for which in np.array_split(np.arange(12), num_shards)]
  return parts[0] if num_shards == 1 else batching.join_shards(parts)


def real_nodes(batch, nodes):
  return np.asarray(nodes)[np.asarray(graphs.node_mask(batch.graph))]


@functools.partial(jax.jit, static_argnums=2)
def moved(batch, key, how):
  return augment.moved(batch, key, how).graph


@pytest.mark.parametrize('strength', [1.0, 0.3])
def test_equation(strength):
  """Against rotation, scale, shear and shift written out."""
  batch = batch_of()
  graph = batch.graph
  found = moved(batch, KEY, augment.Augment(strength, PLACES)).nodes
  expected = np.array(graph.nodes, np.float64)
  first = 0
  for place in range(12):
    own = jax.random.fold_in(KEY, place)
    draws = np.float64(jax.random.uniform(own, (5,), minval=-1, maxval=1))
    a, c, h, *t = strength * draws * [np.pi / 12, 0.15, 0.15, 0.1, 0.1]
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    rows = slice(first, first + graph.n_node[place])
    for node in expected[rows]:
      u = (node[[2, 1]] - [0.4, 0.6]) / [2.0, 0.5]
      u = (1 + c) * turn @ [u[0] + h * u[1], u[1]] + t
      node[[2, 1]] = [0.4, 0.6] + np.array([2.0, 0.5]) * u
    first = rows.stop
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert not np.allclose(found[:first], graph.nodes[:first], atol=1e-2)


def test_ranges():
  matrix, shift = augment.draw(KEY, jnp.ones(3000, bool), 1.0)
  first = matrix[:, :, 0]  # c R e_1: the shear leaves it.
  angle = np.degrees(np.arctan2(first[:, 1], first[:, 0]))
  scale = np.linalg.norm(first, axis=1)
  # c^2 h, from the two columns.
  shear = np.sum(first * matrix[:, :, 1], axis=1) / scale**2
  for values, middle, half in (
    (angle, 0, 15),
    (scale, 1, 0.15),
    (shear, 0, 0.15),
    (shift, 0, 0.1),
  ):
    off = np.asarray(values) - middle
    assert 0.98 * half < off.max() <= half * (1 + 1e-3)
    assert -0.98 * half > off.min() >= -half * (1 + 1e-3)
    assert abs(off.mean()) < 0.05 * half
    assert off.std() == pytest.approx(half / np.sqrt(3), rel=0.05)
  assert np.linalg.det(matrix) == pytest.approx(scale**2, rel=1e-4)


def test_other_features_padding_and_edges_stay():
  batch = batch_of()
  found = moved(batch, KEY, augment.Augment(1.0, PLACES))
  mask = np.asarray(graphs.node_mask(batch.graph))
  assert not mask.all()
  np.testing.assert_array_equal(found.nodes[:, 0], batch.graph.nodes[:, 0])
  np.testing.assert_array_equal(found.nodes[~mask], batch.graph.nodes[~mask])
  for name in ('senders', 'receivers', 'n_node', 'n_edge'):
    same = getattr(found, name), getattr(batch.graph, name)
    np.testing.assert_array_equal(*same)


def test_draws_do_not_depend_on_padding_and_shards():
  one, how = batch_of(), augment.Augment(1.0, PLACES)
  expected = real_nodes(one, moved(one, KEY, how).nodes)
  for other in (
    batch_of(budget=graphs.Budget(128, 256, 40, 16)),
    batch_of(num_shards=3),
  ):
    found = real_nodes(other, moved(other, KEY, how).nodes)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('normalize', ['none', 'center', 'standard'])
def test_normalized_features_move_alike(normalize):
  """Moved and then normalized is normalized and then moved."""
  data = tiny_run.splits()._replace(positions=PLACES)
  after = normalization.normalized(data, normalize)
  assert (after.positions == PLACES) == (normalize == 'none')
  # As `normalized` computes it, from two rows of the data.
  x, y = data.train.nodes[:2], after.train.nodes[:2]
  scale = (x[1] - x[0]) / (y[1] - y[0])
  batch = batch_of()
  graph = batch.graph
  to = lambda nodes: (np.asarray(nodes) - x[0]) / scale + y[0]
  plain = moved(batch, KEY, augment.Augment(1.0, PLACES)).nodes
  other = batch._replace(graph=graph._replace(nodes=to(graph.nodes)))
  found = moved(other, KEY, augment.Augment(1.0, after.positions)).nodes
  np.testing.assert_allclose(
    real_nodes(batch, found), real_nodes(batch, to(plain)), atol=2e-4
  )


@pytest.mark.parametrize('shape', [(4, 6), (4, 6, 3)])
def test_positions_of_superpixels(shape):
  """A pixel in the middle of an image is no side away from it."""
  rng = np.random.default_rng(0)
  labels = np.arange(24).reshape(4, 6)
  image = rng.integers(0, 255, shape).astype(np.uint8)
  nodes = slic_graphs.node_features(image, labels)
  places = slic_graphs.positions(image.shape, nodes.shape[1])
  u = (nodes[:, places.columns] - places.middle) / places.side
  np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-12)
  # A pixel lower, and a pixel to the right.
  np.testing.assert_allclose(u[6] - u[0], [1 / 4, 0], atol=1e-12)
  np.testing.assert_allclose(u[1] - u[0], [0, 1 / 6], atol=1e-12)


def test_a_step_is_that_on_the_moved_batch():
  fp32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}
  data = tiny_run.positioned_splits()
  with tiny_run.programs(**fp32) as (_, _, plain, _):
    pass
  with tiny_run.programs(data, **fp32, train__augment=0.5) as made:
    state, batch, train, _ = made
    copy = lambda: jax.tree.map(jnp.copy, state)
    losses = []
    for number in (0, 1):
      at = lambda number=number: copy()._replace(step=jnp.int32(number))
      drawn = passes.augmentation_key(steps.step_key(at()))
      how = augment.Augment(0.5, data.positions)
      graph = moved(batch, drawn, how)
      _, found = train(at(), batch, tiny_run.rates())
      _, expected = plain(at(), batch._replace(graph=graph), tiny_run.rates())
      assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-5)
      losses.append(float(found.loss))
    _, still = plain(copy(), batch, tiny_run.rates())
  assert len({*losses, float(still.loss)}) == 3


class TestRefused:
  def test_data_that_has_no_positions(self):
    with pytest.raises(ValueError, match='`augment` = 1.0 .* places in an im'):
      settings.from_config(tiny_run.config(**ZINC, train__augment=1.0))

  def test_one_graph(self):
    config = tiny_run.node_config(train__augment=1.0)
    with pytest.raises(ValueError, match='`augment` = 1.0 .* graphs with a la'):
      settings.from_config(config)

  def test_own_data_that_declares_none(self, tmp_path):
    config = tiny_run.config(train__augment=1.0)
    with pytest.raises(ValueError, match='`augment` moves .* declares none'):
      loop.train_and_evaluate(config, tmp_path / 'a', data=tiny_run.splits())
    assert not (tmp_path / 'a').exists()

  def test_positions_that_are_no_columns(self):
    data = tiny_run.splits()._replace(positions=Positions((1, 3)))
    with pytest.raises(ValueError, match=r'columns \(1, 3\); nodes has 3'):
      data.check('data')
