"""A configuration, run to its end."""

import contextlib
import os
import pathlib
import signal
from collections.abc import Callable, Generator, Sequence
from typing import Any

from absl import logging
from ml_collections import config_dict

from lorap_jax import _logging
from lorap_jax.data.files import store
from lorap_jax.runs import (
  cells,
  processes,
  result,
  settings,
  side_by_side,
  workdir,
)
from lorap_jax.runs import run as run_lib
from lorap_jax.runs.batched import BatchedRun
from lorap_jax.runs.full_batch import FullBatchRun
from lorap_jax.runs.hold import hold
from lorap_jax.runs.run import Interrupted, NonFiniteError, Run
from lorap_jax.runs.sampled import SampledRun
from lorap_jax.training import findings

Member = tuple[config_dict.ConfigDict, pathlib.Path]
Outcome = dict[str, Any] | NonFiniteError  # A report, or how it diverged.
Left = list[tuple[settings.Settings, pathlib.Path]]


def train_and_evaluate(
  config: config_dict.ConfigDict,
  folder: str | os.PathLike[str],
  *,
  data: settings.Data | None = None,
) -> dict[str, Any]:
  """Runs one configuration to its end, from wherever `folder` says it is.

  One seed, one fold, one phase: `protocol.run` does the rest.

  Args:
    config: as `configs.default`.
    folder: work folder of the run.
    data: the data set, such as `data.custom` makes of arrays; None for the one
      that the configuration names.

  Returns:
    The report, as in `report.json`.

  Raises:
    ValueError: a configuration, data file or folder that makes no run.
    NonFiniteError: training diverged.
    Interrupted: a signal came; the same call goes on from the checkpoint.
  """
  (outcome,) = train_members([(config, pathlib.Path(folder))], data=data)
  return report_of(outcome)


def report_of(outcome: Outcome) -> dict[str, Any]:
  """The report; raises the error of a run that diverged."""
  if isinstance(outcome, NonFiniteError):
    raise outcome
  return outcome


def train_members(
  members: Sequence[Member], *, data: settings.Data | None = None
) -> list[Outcome]:
  """Runs configurations on the same data.

  On one graph, up to `train.together` of those that differ in numbers only
  (seed, learning rates, weight decays, schedule) train in one program, see
  `side_by_side`. All others run one after the other.

  Args:
    members: configuration and work folder of each.
    data: the data set of all of them; None for the one that the first
      configuration names.

  Returns:
    The report of each, or the error of one that diverged: it does not stop the
    others.

  Raises:
    ValueError: a configuration, data file or folder that makes no run, two
      members of one folder, or a folder that another process uses; all folders
      are looked at first.
    Interrupted: a signal came; the same call goes on from the checkpoints.
  """
  if data is not None:
    settings.check_data(data)
  level = None if data is None else data.level
  # Without '..', because members look for each other by their paths.
  wanted = [
    (
      settings.from_config(config, level=level),
      pathlib.Path(os.path.abspath(folder)),
    )
    for config, folder in members
  ]
  for chosen, _ in wanted if data is not None else ():
    chosen.check(data)  # pyrefly: ignore
  folders = [folder for _, folder in wanted]
  for folder in folders:
    if folders.count(folder) > 1:
      raise ValueError(f'{folder} is the work folder of two runs')
  with contextlib.ExitStack() as held:
    for folder in folders:
      held.enter_context(hold(folder))
    return _train_members(wanted, data)


def _train_members(wanted: Left, data: settings.Data | None) -> list[Outcome]:
  """`train_members`, in folders that no other process uses."""
  outcomes: dict[pathlib.Path, Outcome] = {}
  left = []
  for chosen, folder in wanted:
    workdir.claim(folder, chosen.config)
    if (folder / workdir.REPORT).exists():
      outcomes[folder] = _finished(folder)
    elif error := side_by_side.divergence(folder):
      outcomes[folder] = error
    else:
      left.append((chosen, folder))
  if left:
    with _logging.to_files(folder / workdir.LOG for _, folder in left):
      first, _ = left[0]
      _log_start(first)
      data = data or first.load_data()
      processes.agree('data', {'sha256': data.source['sha256']})
      logging.info('Data: %s', result.data_text(data))
      findings.warn_of_features(data)
      if first.train.epochs is None:
        logging.info('Epochs: %d, the default on this data', first.epochs(data))
      size = first.train.together if first.trains_together else 1
      for part, places in _parts(left, size):
        on_data = [(chosen.on(data), folder) for chosen, folder in part]
        with on_data[0][0].on_devices():  # Several are all on one graph.
          outcomes |= _train(on_data, places, data)
  return [outcomes[folder] for _, folder in wanted]


def _parts(
  left: Left, size: int
) -> Generator[tuple[Left, tuple[pathlib.Path, ...]]]:
  """Sorts members into those that may train together.

  Args:
    left: settings and folder of each.
    size: most members of a part that has not begun.

  Yields:
    Members, and the folders of all that they began with, if they have begun
    with others, see `side_by_side`.
  """
  chosen_of = {folder: chosen for chosen, folder in left}
  for _, folder in left:
    places = side_by_side.recorded(folder)
    # With those that were stopped before they had their record.
    own = [place for place in places if place in chosen_of]
    if own and folder in own:
      yield [(chosen_of.pop(place), place) for place in own], places
  fresh = []
  for folder, chosen in chosen_of.items():
    if (folder / workdir.CHECKPOINTS).is_dir():  # It began alone.
      yield [(chosen, folder)], ()
    else:
      fresh.append((chosen, folder))
  for start in range(0, len(fresh), size):
    yield fresh[start : start + size], ()


def _train(
  members: Left, places: tuple[pathlib.Path, ...], data: settings.Data
) -> dict[pathlib.Path, Outcome]:
  """Trains members together; returns what became of each folder's."""
  seeds = [chosen.config['seed'] for chosen, _ in members]
  names = [folder.name for _, folder in members]
  logging.info('Training %s (seed %s)', _listed(names), _listed(seeds))
  outcomes: dict[pathlib.Path, Outcome] = {}
  runs: list[Any] = []
  processes.wait()  # For whoever had to do more for the run before.
  try:
    for chosen, folder in members:
      runs.append(create_run(chosen, data, folder))
      workdir.resolve(folder, chosen.config)
      if len(runs) > 1:
        runs[-1].share_batch(runs[0])
    logging.info('Sums over neighbours: %s', runs[0].aggregation)
    for group in _groups(runs, places):
      own = list(group.runs.values())
      run_lib.take_up(own)
      for run in own:
        run.begin()
      disk = store.naming_full_disk(own[0].folder)
      with _stop_signals() as stopped, disk:
        failed = _train_group(group, stopped)
        stop = failed and stopped()  # Those that diverge do not ask.
      for run in own:
        outcomes[run.folder] = failed.get(run) or result.finish(run)
      if stop:
        raise Interrupted
  finally:
    for run in runs:
      run.close()
  return outcomes


def _groups(
  runs: list[Any], places: tuple[pathlib.Path, ...]
) -> list[side_by_side.Group]:
  if len(runs) > 1 or places:
    return side_by_side.groups(runs, places)
  (run,) = runs
  return [side_by_side.Group({run.folder: run}, (run.folder,))]


def _listed(values: Sequence[Any]) -> str:
  return ', '.join(str(value) for value in dict.fromkeys(values))


def _train_group(
  group: side_by_side.Group, stopped: Callable[[], bool]
) -> dict[Any, NonFiniteError]:
  """Trains runs of one program; returns those that diverged."""
  if len(group.places) > 1:
    return side_by_side.train(group, stopped)
  (run,) = group.runs.values()
  try:
    run.train(stopped)
  except NonFiniteError as error:
    # Without the frames, which hold all arrays.
    return {run: error.with_traceback(None)}
  return {}


def _finished(folder: pathlib.Path) -> dict[str, Any]:
  """The report of a run that was finished before."""
  path = folder / workdir.REPORT
  done = workdir.read_json(path, whole=True)
  with workdir.reading(path):
    float(done['result']['test'])
    name = done['data']['name']
  logging.info(
    '%s is finished, on %s; this is its report. Another --workdir starts a new '
    'run.',
    folder,
    name,
  )
  return done


def create_run(
  chosen: settings.Settings, data: settings.Data, folder: pathlib.Path
) -> Run:
  """The run that suits the data: one graph in full or sampled, or batches."""
  if chosen.train.fanout is not None:
    return SampledRun(chosen, data, folder)  # pyrefly: ignore
  if data.level == 'node':
    return FullBatchRun(chosen, data, folder)  # pyrefly: ignore
  return BatchedRun(chosen, data, folder)  # pyrefly: ignore


@contextlib.contextmanager
def _stop_signals() -> Generator[Any]:
  """Turns SIGINT and SIGTERM into a flag; a second SIGINT interrupts."""
  received = []

  def handle(number, frame):
    if received and number == signal.SIGINT:
      raise KeyboardInterrupt
    received.append(number)

  old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield lambda: processes.vote(bool(received))
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def _log_start(chosen: settings.Settings) -> None:
  logging.info('Network: %s', cells.cell_text(chosen.config))
  logging.info(
    'Device: %s\nVersions: %s', result.device(chosen.mesh), result.versions()
  )
