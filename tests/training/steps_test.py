import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from lorap_jax.training import passes, steps
from lorap_jax.training import state as state_lib

FP32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}
A2Q = {'scheme__memory_target': 0.0, 'scheme__memory_weight': 100.0}


@pytest.fixture(scope='module', params=['fp32', 'a2q'])
def stepped(request):
  """States before, after one and two steps, and their programs."""
  changes = FP32 if request.param == 'fp32' else A2Q
  with tiny_run.programs(**changes) as (state, batch, train, evaluate):
    states, metrics = [jax.device_get(state.variables())], []
    for _ in range(2):
      state, found = train(state, batch, tiny_run.rates())
      states.append(jax.device_get(state.variables()))
      metrics.append(found)
    sums = [evaluate(jax.device_put(s), batch) for s in states]
  return states, metrics, sums, (train, evaluate), state


def test_second_step_finds_the_program_of_the_first(stepped):
  # It does not if any leaf of the first state is weakly typed.
  assert [program._cache_size() for program in stepped[3]] == [1, 1]


def test_step_is_counted(stepped):
  assert int(stepped[4].step) == 2


def test_metrics_are_sums_over_real_graphs(stepped):
  first = stepped[1][0]
  assert float(first.count) == 16
  assert 0 <= float(first.metric) <= 16
  assert first.finite.all()


def test_loss_is_the_mean_cross_entropy_and_the_penalty(stepped):
  first = stepped[1][0]
  mean, penalty = float(first.task_loss) / 16, 100 * float(first.memory) ** 2
  assert (penalty > 0.1) == ('message' in stepped[0][0]['params']['conv_0'])
  assert float(first.loss) == pytest.approx(mean + penalty, rel=1e-5)


def test_statistics_move_and_frozen_bits_do_not(stepped):
  before, after = stepped[0][0], stepped[0][2]
  moved = jax.tree.map(lambda a, b: (a != b).any(), before, after)
  assert all(jax.tree.leaves(moved['batch_stats']))
  params = moved['params']
  assert params['embedding']['kernel']
  if 'message' in params['conv_0']:
    assert params['conv_0']['message'] == {'bits': False, 'scale': True}
    assert not params['embedding']['weight']['bits']


def test_factor_zero_moves_no_parameter():
  with tiny_run.programs(**FP32) as (state, batch, train, _):
    before = jax.device_get(state.params)
    state, _ = train(state, batch, tiny_run.rates(0.0))
  for a, b in zip(
    jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_local_objective_enters_the_loss_and_trains_its_prompt():
  changes = {
    'scheme__name': 'qat',
    'prompt__placement': 'post',
    'prompt__objective': 'local',
  }
  with tiny_run.programs(**changes) as (state, batch, train, _):
    before = jax.device_get(state.params['conv_0']['prompt'])
    state, found = train(state, batch, tiny_run.rates())
  share = float(found.loss) - float(found.task_loss) / 16
  assert 0 < share < 1
  after = state.params['conv_0']['prompt']['up']
  assert np.any(after != before['up'])


def test_every_step_and_stream_has_its_own_key():
  first = state_lib.TrainState(jnp.int32(0), {}, {}, {}, (), jax.random.key(0))
  keys = [
    jax.random.key_data(key).tobytes()
    for step in range(3)
    for key in passes.random_streams(
      steps.step_key(first._replace(step=jnp.int32(step)))
    ).values()
  ]
  assert len(set(keys)) == 6
