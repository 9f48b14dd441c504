"""Full-batch training without scanning."""

import jax
import jax.numpy as jnp

from lorap_jax.training import steps


def plain_loop(run, factors):
  """What a full-batch run should compute, by the steps of batched runs.

  Args:
    run: one that has not begun; it is closed.
    factors: learning-rate factor of each epoch.

  Returns:
    States after each epoch, and their records.
  """
  chosen = run.settings
  step = steps.make_train_step(run.model, chosen.scheme, run.task, run.options)
  evaluate = steps.make_eval_step(run.model, run.task)
  settle = steps.make_settle_step(run.model)
  state, states, records = run.state, [], []
  for factor in factors:
    before = jax.tree.map(jnp.copy, state.batch_stats)
    state, found = step(state, run.batch, chosen.optimizer.rates(float(factor)))
    if run.options.ema and before:
      state = settle(state._replace(batch_stats=before), run.batch)
    count = float(found.count)
    record = {
      'epoch': len(states) + 1,
      'objective': float(found.loss),
      'train_loss': float(found.task_loss) / count,
      'train_accuracy': float(found.metric) / count,
      'bits': float(found.bits / found.elements),
      'memory_kib': float(found.memory),
    }
    for split in ('valid', 'test'):
      targets = run.loaders[split].targets
      batch = run.batch._replace(targets=jnp.asarray(targets))
      sums = [float(v) for v in evaluate(state.evaluated().variables(), batch)]
      assert sums[2] == 8
      record[f'{split}_loss'] = sums[0] / sums[2]
      record[f'{split}_accuracy'] = sums[1] / sums[2]
    states.append(jax.device_get(state._replace(key=0)))
    records.append(record)
  run.close()
  return states, records
