"""Runs that differ in numbers only, trained in one program.

A program of another number of runs rounds differently. So each folder records
the runs that it trains with, and a run that is taken up has the same place in a
program of the same size, whether the others still train or not: the values of
one run do not touch those of another.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import PyTree
from lorap_jax.runs import processes, result, workdir, writers
from lorap_jax.runs.run import Interrupted, NonFiniteError

_SAVE_SECONDS = 20.0  # For each run: saving takes as long for each.
_BRISK_SECONDS = 10.0  # A dispatch that takes no longer is never a stuck one.


class Group(NamedTuple):
  """Runs of one program.

  Attributes:
    runs: the runs that still train, by folder.
    places: folders of all runs of the program, in order; `None` stands for a
      run that trains alone.
  """

  runs: dict[pathlib.Path, Any]
  places: tuple[pathlib.Path, ...]

  def members(self) -> list[Any]:
    """The run at each place; any of them at that of one that trains no more."""
    lead = next(iter(self.runs.values()))
    return [self.runs.get(place, lead) for place in self.places]


def recorded(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Folders of the runs that a run trains with, none if it trains alone.

  Args:
    folder: absolute path of its work folder.
  """
  places = _record(folder).get('members', [])
  with workdir.reading(folder / workdir.GROUP):
    # Relative, because all of them may have moved.
    return tuple(pathlib.Path(os.path.normpath(folder / p)) for p in places)


def divergence(folder: pathlib.Path) -> NonFiniteError | None:
  """How a run of several has diverged; None if it has not."""
  text = _record(folder).get('diverged')
  return NonFiniteError(text) if text else None


def _record(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / workdir.GROUP
  return workdir.read_json(path) if path.exists() else {}


def groups(
  runs: Sequence[Any], places: tuple[pathlib.Path, ...] = ()
) -> list[Group]:
  """Sorts runs into those that `train` can train together, and records them.

  Args:
    runs: `full_batch.FullBatchRun`s on the same data.
    places: `recorded` folders, if the runs have begun before.

  Returns:
    Runs of one program and length.
  """
  if places:
    return [Group({run.folder: run for run in runs}, places)]
  found: dict[Any, list[Any]] = {}
  for run in runs:
    found.setdefault((run.recipe, run.epochs), []).append(run)
  made = [
    Group({run.folder: run for run in own}, tuple(run.folder for run in own))
    for own in found.values()
  ]
  for group in made:
    for folder in group.places if len(group.places) > 1 else ():
      names = [os.path.relpath(place, folder) for place in group.places]
      workdir.write_json(folder / workdir.GROUP, {'members': names})
  return made


def train(
  group: Group, stopped: Callable[[], bool]
) -> dict[Any, NonFiniteError]:
  """Trains the epochs that are left, of all runs in each dispatch.

  Each run files its records and saves its checkpoints as if it were alone, all
  at the same epochs. The seconds of its epochs are its share of the common
  time, which is divided by the number of runs.

  Args:
    group: at one epoch: other seeds, learning rates, weight decays or
      schedules. A single run trains in its own program; of several the states
      and rates are stacked, and the data is shared.
    stopped: callable, True once a signal asked to stop.

  Returns:
    The runs that diverged, with their errors; the others are trained to the
    end.

  Raises:
    Interrupted: after saving all that did not diverge.
  """
  errors: dict[Any, NonFiniteError] = {}
  runs = list(group.runs.values())
  members, lead, count = group.members(), runs[0], len(group.places)
  first = lead.progress.epoch
  if first >= lead.epochs:
    return errors
  program, inputs = lead.program(count), lead.inputs()
  carries = {run: run.carry() for run in runs}
  carry = _join([carries[run] for run in members])
  size = lead.dispatch_size(count)
  display = writers.create_display(lead.epochs, shown=processes.is_main())
  saved, brisk = time.monotonic(), False  # The first one compiles.
  with contextlib.closing(display):
    while first < lead.epochs:
      processes.tick(batch=brisk)
      started = time.monotonic()
      # Always to the end of a dispatch, should a run begin inside one.
      end = first + size - first % size
      rates = _join([run.rates(range(first, end)) for run in members])
      carry, records = program(carry, *inputs, rates)
      records = jax.device_get(records)
      taken = time.monotonic() - started
      processes.tick(end)
      # Programs of integers may be compiled anew in any epoch.
      brisk = taken < _BRISK_SECONDS and lead.selection.integers is None
      seconds = taken / (end - first) / len(runs)
      first = end
      _file(group, records, seconds, errors)
      # Those that have diverged stay in the program, which has their shape.
      going = [run for run in runs if run not in errors]
      if not going:
        return errors
      mean = _mean_record(going)
      display.step(going[0].shown(mean), end)
      stop = stopped()  # Asked once: what is interrupted has been saved.
      done = end == lead.epochs
      # One clock for all processes, which save together.
      since = processes.on_main(lambda last=saved: time.monotonic() - last)
      if done or stop or since > _SAVE_SECONDS * count:
        for run in going:
          run.save(_part(carry, group.places.index(run.folder), count))
        saved = time.monotonic()
      if stop:
        raise Interrupted
      if done:
        display.epoch(result.epoch_line(lead.task, mean, lead.epochs))
  return errors


def _file(
  group: Group,
  records: PyTree,
  seconds: float,
  errors: dict[Any, NonFiniteError],
) -> None:
  """Files a dispatch; adds those that diverge in it to the errors."""
  for i, folder in enumerate(group.places):
    run = group.runs.get(folder)
    if run is None or run in errors:
      continue
    try:
      run.file(_part(records, i, len(group.places)), seconds)
    except NonFiniteError as error:
      # Without the frames, which hold all arrays.
      errors[run] = error.with_traceback(None)
      if len(group.places) > 1:
        record = {**_record(folder), 'diverged': str(error)}
        workdir.write_json(folder / workdir.GROUP, record)


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
