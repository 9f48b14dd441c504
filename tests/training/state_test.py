"""The first state of a run, from a key or from the weights of another."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from lorap_jax.data import pipeline
from lorap_jax.runs import checkpointing, restore, settings
from lorap_jax.training import state


def first_state(weights=None, *, seed=0, cell='gin,fp32,none'):
  """The state of a small GIN with batch norm, on the node task."""
  config = tiny_run.node_config(cell, model__mlp_norm='each')
  chosen = settings.from_config(config)
  whole = pipeline.WholeGraph(tiny_run.node_data(), 'train', layout=False)
  return state.init_state(
    chosen.model(3),
    jax.device_put(whole.batch()),
    jax.random.key(seed),
    weights=weights,
  )


@pytest.fixture(scope='module')
def fresh():
  """In full precision, without prompts."""
  return first_state()


@pytest.fixture(scope='module')
def weights(fresh):
  """What such a network may have learned."""
  learned = lambda tree, shift: jax.tree.map(lambda a: 2 * a + shift, tree)
  return {
    'params': learned(fresh.params, 0.25),
    'batch_stats': learned(fresh.batch_stats, 0.5),
  }


class TestFresh:
  def test_starts_at_step_zero(self, fresh):
    assert fresh.step == 0 and fresh.step.dtype == jnp.int32
    moments = jax.tree.leaves(fresh.opt_state)
    assert moments and not any(np.any(m) for m in moments)

  def test_no_leaf_is_weakly_typed(self, fresh):
    leaves = jax.tree.leaves(fresh._replace(key=()))
    assert not any(leaf.weak_type for leaf in leaves)

  def test_seed_decides(self, fresh):
    helpers.assert_trees_close(first_state().params, fresh.params)
    other = first_state(seed=1)
    kernel = lambda s: s.params['conv_0']['dense_0']['kernel']
    assert (kernel(fresh) != kernel(other)).all()
    assert fresh.key != other.key


class TestMovingAverage:
  @pytest.mark.parametrize('decay', [0.3, 0.999])
  def test_written_out(self, decay):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 3))
    average, expected = jnp.float32(values[0]), values[0]
    for t, new in enumerate(values[1:]):
      average = state.moving_average(
        average, jnp.float32(new), jnp.int32(t), decay
      )
      d = min(decay, (1 + t) / (10 + t))
      expected = d * expected + (1 - d) * new
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)

  def test_what_does_not_move_stays_to_the_last_bit(self):
    fixed = jnp.float32([4.0, 0.1, -1e-7 / 3])
    found = fixed
    for t in range(5):
      found = state.moving_average(found, fixed, jnp.int32(t), 0.999)
    np.testing.assert_array_equal(found, fixed)


class TestFromWeights:
  @pytest.fixture(scope='class')
  @classmethod
  def quantized(cls, weights):
    """A2Q with prompts, from these weights."""
    cell = 'gin,a2q,gpf_lorap'
    return first_state(weights, cell=cell), first_state(cell=cell)

  def test_takes_them(self, quantized, weights):
    started, _ = quantized
    for part in ('params', 'batch_stats'):
      assert jax.tree.leaves(weights[part])
      found = helpers.tree_spec(getattr(started, part))
      assert found.items() >= helpers.tree_spec(weights[part]).items()
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    for path, leaf in leaves:
      place = getattr(started, path[0].key)
      for key in path[1:]:
        place = place[key.key]
      np.testing.assert_array_equal(place, leaf, jax.tree_util.keystr(path))

  def test_the_rest_is_that_of_a_fresh_network(self, quantized):
    started, plain = quantized
    assert helpers.tree_spec(started.params) == helpers.tree_spec(plain.params)
    assert not np.any(started.params['conv_0']['prompt']['up'])
    assert not np.any(started.params['node_prompt']['prompt'])

  def test_quantizers_start_from_their_ranges(self, quantized, weights):
    started, plain = quantized
    scale = lambda s: s.params['conv_0']['dense_0']['weight']['scale']
    kernel = weights['params']['conv_0']['dense_0']['kernel']
    largest = jnp.abs(kernel).max(0)
    np.testing.assert_allclose(scale(started), largest / 7, rtol=1e-6)
    assert (scale(started) != scale(plain)).all()

  def test_starts_at_step_zero(self, quantized):
    started, plain = quantized
    assert started.step == 0
    helpers.assert_trees_close(started.opt_state, plain.opt_state)
    assert started.key == plain.key

  def test_what_the_network_lacks_is_left_out(self, quantized, fresh):
    started, _ = quantized
    rich = {'params': started.params, 'batch_stats': started.batch_stats}
    again = first_state(rich)
    spec = helpers.tree_spec(fresh.params)
    assert helpers.tree_spec(again.params) == spec
    np.testing.assert_array_equal(
      again.params['conv_0']['dense_0']['kernel'],
      started.params['conv_0']['dense_0']['kernel'],
    )

  def test_other_widths(self):
    wide = {'conv_0': {'dense_0': {'kernel': jnp.ones((5, 7))}}}
    with pytest.raises(ValueError) as caught:
      first_state({'params': wide})
    assert str(caught.value) == (
      'config.train: `init_from` has conv_0/dense_0/kernel (5, 7), this model '
      '(5, 3); start from a run of the same widths'
    )


class TestWeightsOf:
  def make(self, step, batch_stats):
    params = {'dense': {'kernel': jnp.full((2, 3), float(step))}}
    return state.TrainState(
      step=jnp.int32(step),
      params=params,
      batch_stats=batch_stats,
      quant_stats={'dense': {'range': jnp.zeros(2)}},
      opt_state={'mu': params},
      key=jax.random.key(step),
    )

  def save(self, folder, kinds, batch_stats):
    checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
    for kind, step in kinds.items():
      checkpoints.save(kind, step, self.make(step, batch_stats), {})

  def test_are_those_of_the_selected_epoch(self, tmp_path):
    stats = {'norm': {'mean': jnp.arange(3.0)}}
    self.save(tmp_path, {'best': 2, 'latest': 5}, stats)
    found = restore.weights_of(tmp_path)
    kernel = np.full((2, 3), 2.0, np.float32)
    expected = {'params': {'dense': {'kernel': kernel}}, 'batch_stats': stats}
    helpers.assert_trees_close(found, expected)

  def test_without_batch_norm(self, tmp_path):
    self.save(tmp_path, {'best': 2}, {})
    assert set(restore.weights_of(tmp_path)) == {'params'}

  @pytest.mark.parametrize('kinds', [{}, {'latest': 5}])
  def test_folder_without_a_selected_epoch(self, tmp_path, kinds):
    self.save(tmp_path, kinds, {})
    with pytest.raises(checkpointing.CheckpointError, match='no best .*/best'):
      restore.weights_of(tmp_path)


def test_chosen_bits():
  logits = lambda *values: {'logits': jnp.array(values)}
  params = {
    'features': logits(0.0, 0.5, -1.0),
    'conv_0': {
      'dense': {
        'kernel': jnp.ones((2, 2)),
        'weight': logits(-3.0, -2.0, -1.0) | {'range_scale': jnp.ones((3, 2))},
        'output': logits(1.0, 1.0, 0.0),  # Of equal ones the first.
      },
      'logits': jnp.ones(3),  # No quantizer's, whatever it is called.
    },
  }
  labels = jax.tree.map(lambda _: 'base', params)
  dense = labels['conv_0']['dense']
  for quantizer in (labels['features'], dense['weight'], dense['output']):
    quantizer['logits'] = 'bit_logits'
  assert state.chosen_bits(params, labels, (2, 4, 8)) == {
    'features': 4,
    'conv_0/dense/weight': 8,
    'conv_0/dense/output': 2,
  }
  eps = {'conv_0': {'eps': jnp.zeros(())}}
  assert state.chosen_bits(eps, {'conv_0': {'eps': 'base'}}, (2, 4)) == {}
