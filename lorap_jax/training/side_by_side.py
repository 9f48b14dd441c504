"""Runs that differ in numbers only, trained in one program."""

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
    Runs of one program and length at the same epoch, the furthest first: what
    is nearly done does not wait for a run that starts again.
  """
  found: dict[Any, list[Any]] = {}
  for run in runs:
    key = run.recipe, run.epochs, run.progress.epoch
    found.setdefault(key, []).append(run)
  return sorted(found.values(), key=lambda group: -group[0].progress.epoch)


def train(
  runs: Sequence[Any], stopped: Callable[[], bool]
) -> dict[Any, NonFiniteError]:
  """Trains the epochs that are left, of all runs in each dispatch.

  Each run files its records and saves its checkpoints as if it were alone. The
  seconds of its epochs are its share of the common time, which is divided by
  the number of runs.

  Args:
    runs: one of `groups`: other seeds, learning rates, weight decays or
      schedules. A single one trains in its own program; of several the states
      and rates are stacked, and the data is shared.
    stopped: callable, True once a signal asked to stop.

  Returns:
    The runs that diverged, with their errors; the others are trained to the
    end.

  Raises:
    Interrupted: after saving all that did not diverge.
  """
  errors: dict[Any, NonFiniteError] = {}
  lead, count = runs[0], len(runs)
  if lead.progress.epoch >= lead.epochs:
    return errors
  program, inputs = lead.program(count), lead.inputs()
  carry = _join([run.carry() for run in runs])
  size = lead.dispatch_size(count)
  display = writers.create_display(lead.epochs)
  saved = time.monotonic()
  with contextlib.closing(display):
    for first in range(lead.progress.epoch, lead.epochs, size):
      started = time.monotonic()
      rates = _join([run.rates(range(first, first + size)) for run in runs])
      carry, records = program(carry, *inputs, rates)
      records = jax.device_get(records)
      seconds = (time.monotonic() - started) / size / count
      _file(runs, records, seconds, errors)
      # Those that have diverged stay in the program, which has their shape.
      going = [run for run in runs if run not in errors]
      if not going:
        return errors
      mean = _mean_record(going)
      display.step(going[0].shown(mean), first + size)
      stop = stopped()  # Asked once: what is interrupted has been saved.
      done = first + size == lead.epochs
      since = time.monotonic() - saved
      if done or stop or since > _SAVE_SECONDS * count:
        for run in going:
          run.save(_part(carry, runs.index(run), count))
        saved = time.monotonic()
      if stop:
        raise Interrupted
      if done:
        display.epoch(report.epoch_line(lead.task, mean, lead.epochs))
  return errors


def _file(
  runs: Sequence[Any],
  records: PyTree,
  seconds: float,
  errors: dict[Any, NonFiniteError],
) -> None:
  """Files a dispatch; adds those that diverge in it to the errors."""
  for i, run in enumerate(runs):
    if run in errors:
      continue
    try:
      run.file(_part(records, i, len(runs)), seconds)
    except NonFiniteError as error:
      # Without the frames, which hold all arrays.
      errors[run] = error.with_traceback(None)


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
