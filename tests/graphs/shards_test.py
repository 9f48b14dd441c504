"""A batch in shards is the batch: sums, pools, steps; on devices too."""

import functools

import helpers
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
import tiny_run
from matrix_test import ALL, config_of

from lorap_jax import graphs
from lorap_jax.data import pipeline
from lorap_jax.data.containers.positions import Positions
from lorap_jax.graphs import batching, shards
from lorap_jax.runs import settings
from lorap_jax.training import state, steps
from lorap_jax.training.augment import Augment
from lorap_jax.training.options import NONE, Options

SHARD = graphs.Budget(128, 256, 13, 8)  # Of twelve graphs or fewer.
KINDS = ('table', 'csr', 'none')
# Each backbone; all that looks at the places of rows: draws, samples, edges.
SOME = [
  ('gin', 'a2q', 'gpf_lorap', 'graph'),
  ('gat', 'qat4', 'gpf_plus', 'graph'),
]
MORE = [cell for cell in ALL if cell[-1] == 'graph' and cell not in SOME]


@functools.cache
def batches(kind):
  """Two graphs after the other, as two batches and as one in two shards."""
  listed = layers.graph_list()
  single = [
    layers.batch_of(part, kind=kind) for part in (listed[:3], listed[3:])
  ]
  return single, batching.join_shards(single)


def test_joined_batch_is_a_batch():
  (one, other), both = batches('table')
  size = len(one.graph.nodes)
  assert shards.count(both.graph) == 2 and shards.count(one.graph) == 1
  for name in ('node_mask', 'edge_mask', 'graph_mask'):
    mask = getattr(graphs, name)
    expected = [mask(one.graph), mask(other.graph)]
    np.testing.assert_array_equal(mask(both.graph), np.concatenate(expected))
  owner = graphs.node_graph_idx(both.graph, 2 * size)
  expected = graphs.node_graph_idx(other.graph, size)
  np.testing.assert_array_equal(owner[size:], expected + len(one.labels))
  degrees = graphs.in_degree(both.graph, 2 * size)
  np.testing.assert_array_equal(
    degrees[size:], graphs.in_degree(other.graph, size)
  )


def functions(batch, x, weights):
  """What runs in each shard alone."""
  graph, layout = batch.graph, batch.layout
  return {
    'sum': graphs.aggregate(x, graph, layout),
    'weighted': graphs.aggregate_weighted(x, weights, graph, layout),
    'edges': graphs.edge_aggregate(weights[:, None] * x[graph.senders], graph),
    'mean': graphs.mean_pool(x, graph),
    'max': graphs.max_pool(x, graph),
  }


@pytest.mark.parametrize('kind', KINDS)
def test_sums_and_pools_are_those_of_each_shard(kind):
  single, both = batches(kind)
  rng = np.random.default_rng(0)
  n, e = both.graph.nodes.shape[0], len(both.graph.senders)
  x = rng.normal(size=(n, 3)).astype(np.float32)
  weights = rng.normal(size=e).astype(np.float32)
  probe = rng.normal(size=(n, 3)).astype(np.float32)

  @jax.jit
  def run(batch, x, weights, probe):
    def loss(x, weights):
      found = functions(batch, x, weights)
      total = sum(jnp.sum(v**2 * probe[: len(v)]) for v in found.values())
      return total, found

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, weights)

  half = lambda a, i: np.split(a, 2)[i]
  # The probe of a pool is that of its graph.
  probe[n // 2 :] = probe[: n // 2]
  g = len(both.labels)
  probe[g // 2 : g] = probe[: g // 2]
  probe[n // 2 :] = probe[: n // 2]
  grads, found = run(both, x, weights, probe)
  for i, batch in enumerate(single):
    own_grads, own = run(batch, half(x, i), half(weights, i), half(probe, 0))
    for name, value in own.items():
      helpers.assert_trees_close(
        half(np.asarray(found[name]), i), value, rtol=1e-5, atol=1e-5
      )
    for name, mine, expected in zip(
      ('x', 'weights'), grads, own_grads, strict=True
    ):
      np.testing.assert_allclose(
        half(np.asarray(mine), i), expected, rtol=1e-4, atol=1e-4, err_msg=name
      )


class TestLoader:
  def loader(self, shard_size=8, **changes):
    data = tiny_run.dataset(1, 40)
    budget = lambda size: pipeline.joint_budget((data,), batch_size=size)
    return pipeline.Loader(
      data, budget(16), layout=True, shard=budget(shard_size), **changes
    )

  def test_graphs_do_not_depend_on_the_devices(self):
    one, two = self.loader(), self.loader(num_shards=2)
    plans = one.shuffled(3, 1), two.shuffled(3, 1)
    for indices, others in zip(*plans, strict=True):
      np.testing.assert_array_equal(indices, others)
      a, b = one.batch(indices), two.batch(indices)
      real = lambda t: np.asarray(graphs.node_mask(t.graph))
      np.testing.assert_array_equal(
        a.graph.nodes[real(a)], b.graph.nodes[real(b)]
      )
      np.testing.assert_array_equal(
        a.labels[np.asarray(a.target_mask())],
        b.labels[np.asarray(b.target_mask())],
      )

  def test_shards_may_be_empty(self):
    batch = self.loader(num_shards=4).batch(np.arange(3))
    assert batch.graph.globals.mask.sum(1).tolist() == [1, 1, 1, 0]

  def test_what_does_not_fit_gets_a_larger_shape(self):
    loader = self.loader(num_shards=2)
    small = loader.shard._replace(num_nodes=20, num_edges=64)
    loader.shard = small
    batch = loader.batch(np.arange(16))
    assert batch.graph.nodes.shape[0] > 2 * small.num_nodes
    assert np.asarray(graphs.node_mask(batch.graph)).sum() == (
      loader.data.n_node[:16].sum()
    )


def in_shards(seed, count):
  """Twelve graphs as a batch in so many shards."""
  data = tiny_run.dataset(seed, 12)
  loader = pipeline.Loader(data, SHARD, layout=True, weighted=True)
  pieces = [loader.batch(p) for p in np.array_split(np.arange(12), count)]
  batch = pieces[0] if count == 1 else batching.join_shards(pieces)
  return jax.tree.map(jnp.asarray, batch)


def check_step(cell, count=3, options=NONE):
  """A start, and the step behind another, are those of one shard.

  Of other graphs than the first, whose largest value is a bound of its range:
  rounding decides whether its gradient passes. Adam's moments are the gradient.
  """
  config = config_of(*cell)
  config.model.readout = 2
  config.model.dropout = config.model.readout_dropout = 0.3
  chosen = settings.from_config(config)
  model, task = chosen.model(3), chosen.task(tiny_run.splits())
  step = jax.jit(steps.train_step(model, chosen.scheme, task, options))
  rates = chosen.optimizer.rates(1.0)
  start = lambda s: state.init_state(
    model, in_shards(2, s), jax.random.key(0), averaged=bool(options.ema)
  )
  first = start(1)
  close = functools.partial(helpers.assert_trees_close, rtol=1e-4, atol=1e-5)
  # Ranges start from what earlier quantizers make of the batch; where rounding
  # moves a value over a tie, a range behind it moves by a part of its step.
  helpers.assert_trees_close(
    start(count).params, first.params, rtol=0.05, atol=1e-5
  )
  before, _ = step(first, in_shards(2, 1), rates)
  after, metrics = step(before, in_shards(1, 1), rates)
  found, found_metrics = step(before, in_shards(1, count), rates)
  close(found_metrics._asdict(), metrics._asdict())
  close(found.batch_stats, after.batch_stats)
  close(found.quant_stats, after.quant_stats)
  if options.ema:
    average = state.moving_average(
      before.ema, found.params, before.step, options.ema
    )
    close(found.ema, average)
  helpers.assert_trees_close(
    dict(enumerate(jax.tree.leaves(found.opt_state))),
    dict(enumerate(jax.tree.leaves(after.opt_state))),
    rtol=1e-3,
    atol=1e-5,
  )


@pytest.mark.parametrize('cell', SOME, ids='-'.join)
def test_step_is_that_of_one_shard(cell):
  check_step(cell)


def test_step_with_all_options_is_that_of_one_shard():
  positions = Positions((1, 2), side=(3.0, 3.0))
  how = Options(0.1, Augment(1.0, positions), 0.9)
  check_step(('gin', 'fp32', 'none', 'graph'), options=how)


@pytest.mark.slow
@pytest.mark.parametrize('cell', MORE, ids='-'.join)
def test_step_is_that_of_one_shard_in_all_cells(cell):
  check_step(cell)
