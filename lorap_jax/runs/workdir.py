"""The folder of a run: what it holds and whose it is."""

import contextlib
import json
import os
import pathlib
from collections.abc import Generator
from typing import Any

from lorap_jax.data.files import store
from lorap_jax.runs.fields import FREE

CONFIG = 'config.json'
REPORT = 'report.json'
METRICS = 'metrics.jsonl'
DATA = 'data.json'
LOG = 'run.log'
PAGE = 'report.html'
CHECKPOINTS = 'checkpoints'
INTEGERS = 'integers'  # What an export makes, see `runs.export`.
GROUP = 'group.json'  # What a run trains together with.

_MEMBERS = 'seed_*'  # Folders of a group's runs.
# What records hold, and of which types.
_GROUPS = ('data', 'model', 'scheme', 'prompt', 'optim', 'train')
_HOLDS: dict[str, dict[str, Any]] = {
  CONFIG: dict.fromkeys(_GROUPS, dict),
  DATA: {
    'name': str,
    **dict.fromkeys(('num_classes', 'num_features', 'num_nodes'), int),
  },
  GROUP: {'members': list, 'diverged': str | None},
  REPORT: dict.fromkeys(('result', 'data', 'config'), dict),
}


class WorkdirError(ValueError):
  """A work folder that this run cannot use."""


def claim(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Makes the folder this run's, or checks that it already is.

  Args:
    workdir: the folder, created if need be.
    config: plain values of the configuration.

  Raises:
    WorkdirError: not writable, in use by something else, or of a run with
      another configuration, whose first difference is named.
  """
  make(workdir)
  _check_kinds(workdir)
  path = workdir / CONFIG
  if not any(
    any(workdir.glob(name)) for name in (CHECKPOINTS, REPORT, _MEMBERS)
  ):
    # What has trained nothing keeps no folder.
    (workdir / DATA).unlink(missing_ok=True)
    if not _is_of(path, config):
      (workdir / GROUP).unlink(missing_ok=True)
    write_json(path, config)
    return
  if not path.exists():
    raise WorkdirError(
      f'{workdir} has results of a run but no {CONFIG}; choose another folder '
      'with --workdir'
    )
  difference = first_difference(_known(path, config), _plain(config))
  if difference is not None:
    raise _belongs_to_another(workdir, difference)


def make(workdir: pathlib.Path) -> None:
  """Makes a folder, if it is not there.

  Args:
    workdir: the folder.

  Raises:
    WorkdirError: it cannot be made, or not be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise WorkdirError(
      f'cannot create the work folder {workdir} ({error.strerror}); choose '
      'another with --workdir'
    ) from error
  if not os.access(workdir, os.W_OK | os.X_OK):
    raise WorkdirError(
      f'the work folder {workdir} is not writable; choose another with '
      '--workdir'
    )


def _known(path: pathlib.Path, config: dict[str, Any]) -> dict[str, Any]:
  """The configuration in a file, less what the data of `config` will say.

  The default number of epochs is that of the data, which `claim_data` compares.
  """
  old = read_json(path)
  if config.get('train', {}).get('epochs', 0) is None and 'train' in old:
    old['train']['epochs'] = None
  return old


def _is_of(path: pathlib.Path, config: dict[str, Any]) -> bool:
  try:
    return first_difference(_known(path, config), _plain(config)) is None
  except WorkdirError:
    return False


def _belongs_to_another(
  workdir: pathlib.Path, difference: tuple[str, Any, Any]
) -> WorkdirError:
  name, old, new = difference
  return WorkdirError(
    f'{workdir} belongs to a run with config.{name} = {old!r}, this one has '
    f'{new!r}; choose another folder with --workdir, or remove it'
  )


def claim_group(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Claims a folder whose runs are in folders of their own, as `claim` does.

  More seeds or folds may be asked for later; fewer only before the report.

  Args:
    workdir: the folder, created if need be.
    config: plain values of the configuration.

  Raises:
    WorkdirError: not writable, in use by something else, of another
      configuration, or with a report of more seeds or folds.
  """
  if not any(workdir.glob(_MEMBERS)):
    claim(workdir, config)
    return
  difference = first_difference(
    _known(workdir / CONFIG, config),
    _plain(config),
    free=(*FREE, 'seeds', 'folds'),
  )
  if difference is not None:
    raise _belongs_to_another(workdir, difference)
  if (workdir / REPORT).exists():
    with reading(workdir / REPORT):
      reported = read_json(workdir / REPORT)['config']
      fewer = [n for n in ('seeds', 'folds') if config[n] < reported[n]]
    for name in fewer:
      raise WorkdirError(
        f'{workdir} has the report of config.{name} = {reported[name]}, this '
        f'run has {config[name]}; ask for {reported[name]} or more, or '
        'choose another folder with --workdir'
      )
  write_json(workdir / CONFIG, config)


def resolve(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Records the configuration with what the data has said.

  Args:
    workdir: a folder that is this run's, on this data.
    config: plain values of the configuration.
  """
  path = workdir / CONFIG
  if read_json(path) != _plain(config):
    write_json(path, config)


def claim_data(workdir: pathlib.Path, data: dict[str, Any]) -> None:
  """Records which data the run is on, or checks that it still is.

  The source `auto` may find other data when a run goes on.

  Args:
    workdir: a folder that is this run's.
    data: `name`, `sha256` of the files and the shape of the data set; the
      digest of a teacher.

  Raises:
    WorkdirError: the run began on other data, or with another teacher.
  """
  path = workdir / DATA
  if not path.exists():
    write_json(path, data)
    return
  old = read_json(path)
  if old.get('teacher') != data.get('teacher'):
    raise WorkdirError(
      f'{workdir} belongs to a run with another teacher: the folder of '
      'config.train.teacher holds other weights now; choose another folder '
      'with --workdir'
    )
  if old != _plain(data):
    raise WorkdirError(
      f'{workdir} belongs to a run on {old.get("name")}, now the data is '
      f'{data["name"]} with other files or shapes; choose another folder '
      'with --workdir, or the data with --config.data.source'
    )


def first_difference(
  old: dict[str, Any],
  new: dict[str, Any],
  prefix: str = '',
  *,
  free: tuple[str, ...] = FREE,
) -> tuple[str, Any, Any] | None:
  """The first setting in which two configurations differ.

  Args:
    old: plain values.
    new: plain values.
    prefix: path of both, for the recursion.
    free: paths that may differ; those that change where data comes from.

  Returns:
    (path, old value, new value), or None.
  """
  missing = '(not set)'
  for key in sorted(old.keys() | new.keys()):
    a, b = old.get(key, missing), new.get(key, missing)
    path = f'{prefix}{key}'
    if isinstance(a, dict) and isinstance(b, dict):
      inner = first_difference(a, b, f'{path}.', free=free)
      if inner is not None:
        return inner
    elif a != b and path not in free:
      return path, a, b
  return None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file whole or not at all."""
  with store.atomic_file(path) as part:
    part.write_text(json.dumps(value, indent=2) + '\n')


def read_json(path: pathlib.Path, *, whole: bool = False) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Args:
    path: the file. Of a configuration, a report or a record of data the types
      of its parts are checked.
    whole: none of the parts may be missing.

  Returns:
    The object.

  Raises:
    WorkdirError: missing or damaged; names the file, what is wrong and what to
      do.
  """
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(path, error) from error
  if not isinstance(value, dict):
    raise _damaged(path, f'it holds a {type(value).__name__}, no object')
  for key, kind in _HOLDS.get(path.name, {}).items():
    if key not in value and whole:
      raise _damaged(path, f'{key!r} is missing')
    if key in value and not isinstance(value[key], kind):
      raise _damaged(path, f'{key!r} is {value[key]!r:.40}')
  return value


def read_records(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The records of the epochs that a run has finished.

  Args:
    workdir: work folder of the run.

  Returns:
    One record per epoch, as `history.Progress.history`.

  Raises:
    WorkdirError: missing or damaged.
  """
  path = workdir / METRICS
  try:
    records = [json.loads(line) for line in path.read_text().splitlines()]
  except (OSError, ValueError, RecursionError) as error:
    raise _damaged(path, error) from error
  for number, record in enumerate(records, start=1):
    if not isinstance(record, dict) or not {'epoch', 'step'} <= record.keys():
      raise _damaged(path, f'line {number} is no record of an epoch')
  return records


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Generator[None]:
  """Says of which file a part is missing or something else, if one is.

  Args:
    path: the file whose content the block works on.

  Raises:
    WorkdirError: in place of the error of a part that is not as it was written.
  """
  try:
    yield
  except WorkdirError:
    raise
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
  ) as error:
    what = f'not a {path.stem} of this version'
    reason = f'{what} ({type(error).__name__}: {error})'
    raise _damaged(path, reason) from error


def _damaged(path: pathlib.Path, reason: Any) -> WorkdirError:
  if isinstance(reason, OSError):
    reason = reason.strerror
  remedy = 'restore it from a copy, or remove the folder and run again'
  return WorkdirError(f'cannot read {path}: {reason}; {remedy}')


def _check_kinds(workdir: pathlib.Path) -> None:
  """Refuses a folder where a file should be, and the other way round."""
  for names, what, holds in (
    ((CONFIG, REPORT, METRICS, DATA, LOG, PAGE), 'file', pathlib.Path.is_file),
    ((CHECKPOINTS, 'tensorboard'), 'folder', pathlib.Path.is_dir),
  ):
    for name in names:
      path = workdir / name
      if path.exists() and not holds(path):
        raise WorkdirError(
          f'{path} is no {what}; move it away, or choose another folder with '
          '--workdir'
        )


def member(seed: int, fold: int) -> str:
  """Name of the folder of a group's run."""
  return f'seed_{seed}_fold_{fold}'


def _plain(value: Any) -> Any:
  """The value as JSON reads it back: tuples become lists."""
  return json.loads(json.dumps(value))
