"""Runs that differ in their seed, trained side by side in one program."""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import PyTree
from lorap_jax.training import report, writers
from lorap_jax.training.run import Interrupted, NonFiniteError

_SAVE_SECONDS = 20.0  # For each run: saving takes as long for each.


def groups(runs: Sequence[Any]) -> list[list[Any]]:
  """Sorts runs into those that `train` can train together.

  Args:
    runs: `full_batch.FullBatchRun`s on the same data, restored.

  Returns:
    Runs of one program at the same epoch, the furthest first: what is nearly
    done does not wait for a run that starts again.
  """
  found: dict[Any, list[Any]] = {}
  for run in runs:
    found.setdefault((run.recipe, run.progress.epoch), []).append(run)
  return sorted(found.values(), key=lambda group: -group[0].progress.epoch)


def train(runs: Sequence[Any], stopped: Callable[[], bool]) -> None:
  """Trains the epochs that are left, of all runs in each dispatch.

  Each run files its records and saves its checkpoints as if it were alone. The
  seconds of its epochs are its share of the common time, which is divided by
  the number of runs.

  Args:
    runs: one of `groups`. A single one trains in its own program; of several
      the states are stacked, and data and learning rate are shared.
    stopped: callable, True once a signal asked to stop.

  Raises:
    Interrupted: after saving all.
    NonFiniteError: one diverged, after saving the others.
  """
  first = runs[0]
  if first.progress.epoch >= first.epochs:
    return
  program, inputs = first.program(len(runs)), first.inputs()
  carry = _join([run.carry() for run in runs])
  size = first.dispatch_size(len(runs))
  display = writers.create_display(first.epochs)
  saved = time.monotonic()
  with contextlib.closing(display):
    while first.progress.epoch < first.epochs:
      started, factors = time.monotonic(), first.factors(size)
      carry, records = program(carry, *inputs, factors)
      records = jax.device_get(records)
      seconds = (time.monotonic() - started) / len(factors) / len(runs)
      _file(runs, records, seconds, carry)
      display.step(first.shown(_mean_record(runs)), first.progress.epoch)
      done = first.progress.epoch >= first.epochs
      stop = stopped()  # Asked once: what is interrupted has been saved.
      since = time.monotonic() - saved
      if done or stop or since > _SAVE_SECONDS * len(runs):
        for i, run in enumerate(runs):
          run.save(_part(carry, i, len(runs)))
        saved = time.monotonic()
      if stop:
        raise Interrupted
    display.epoch(
      report.epoch_line(first.task, _mean_record(runs), first.epochs)
    )


def _file(
  runs: Sequence[Any], records: PyTree, seconds: float, carry: PyTree
) -> None:
  """Files a dispatch; saves those that did not diverge if one did."""
  errors = {}
  for i, run in enumerate(runs):
    try:
      run.file(_part(records, i, len(runs)), seconds)
    except NonFiniteError as error:
      errors[i] = error
  if not errors:
    return
  for i, run in enumerate(runs):
    if i not in errors:
      run.save(_part(carry, i, len(runs)))
  at, error = next(iter(errors.items()))
  if len(runs) == 1:
    raise error
  seed = runs[at].settings.config['seed']
  raise NonFiniteError(
    f'seed {seed}: {error}; {len(runs) - len(errors)} of the {len(runs)} '
    'seeds are saved, and the same command goes on with these first'
  ) from error


def _mean_record(runs: Sequence[Any]) -> dict[str, Any]:
  """The last epoch, on the average of the runs, for the display."""
  records = [run.progress.history[-1] for run in runs]
  if len(records) == 1:
    return records[0]
  mean = {
    name: float(np.mean([r[name] for r in records])) for name in records[0]
  }
  return {**mean, 'epoch': records[0]['epoch'], 'batches': 1}


def _join(trees: list[PyTree]) -> PyTree:
  """The trees stacked; a single one as it is."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *leaves: _on_host(np.stack, leaves), *trees)


def _part(tree: PyTree, i: int, size: int) -> PyTree:
  """One of the joined trees, or of the records [k, s] of all."""
  if size == 1:
    return tree
  if isinstance(tree, dict):  # Records, on the host.
    return {name: values[:, i] for name, values in tree.items()}
  return jax.tree.map(lambda leaf: _on_host(lambda a: a[0][i], [leaf]), tree)


def _on_host(
  function: Callable[[Any], np.ndarray], leaves: Sequence[Any]
) -> jax.Array:
  """An array made of others by numpy, which has nothing to compile."""
  if not jax.dtypes.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
    return jnp.asarray(function(jax.device_get(leaves)))
  data = jax.device_get([jax.random.key_data(leaf) for leaf in leaves])
  impl = jax.random.key_impl(leaves[0])
  return jax.random.wrap_key_data(jnp.asarray(function(data)), impl=impl)
