r"""Runs many cells, and goes on where it was stopped.

    python -m lorap_jax.sweep OUT CONFIG [FIELD=VALUE|VALUE...]...

    python -m lorap_jax.sweep runs/cora \
      'configs/cora.py:gcn,{qat4,dq4,a2q},{none,gpf_lorap}' seeds=10
    python -m lorap_jax.sweep runs/placement configs/cora.py:gin,dq4,lorap \
      seeds=20 'prompt.placement=pre|post|bypass' 'optim.prompt_factor=0.1|1.0'

Braces and bars are choices; all combinations run, each in a folder of OUT named
after its choices. A choice that means nothing to a run, such as a placement to
one without prompts, is left out of it, and what is then the same runs once. On
one graph, choices of seeds, learning rates, weight decays and schedules train
side by side in one program, as the seeds of a run do. What is finished is not
run again. The table of `lorap_jax.report` ends the sweep.
"""

import argparse
import ast
import contextlib
import importlib.util
import itertools
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from ml_collections import config_dict

from lorap_jax import _logging, _process
from lorap_jax._stopping import interrupt_on_termination
from lorap_jax.runs import fields
from lorap_jax.runs.hold import hold
from lorap_jax.runs.workdir import WorkdirError
from lorap_jax.training.train_config import TrainConfig

Member = tuple[config_dict.ConfigDict, pathlib.Path]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the sweep.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0, 1 if a run failed, 2 for a mistake in the arguments, 130 if
    stopped.
  """
  parser = argparse.ArgumentParser(
    prog='python -m lorap_jax.sweep',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('out', type=pathlib.Path, help='folder of the runs')
  parser.add_argument('config', help='FILE or FILE:CELL, with {a,b} choices')
  parser.add_argument('fields', nargs='*', help='FIELD=VALUE|VALUE...')
  arguments = parser.parse_args(argv)
  try:
    runs = list(expand(arguments.config, arguments.fields))
    _check_names([name for name, _ in runs])
    batches = _batches(runs, arguments.out.absolute())
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  try:
    with contextlib.ExitStack() as held:
      # Of all runs, so that none is refused after hours.
      for _, folder in itertools.chain(*batches):
        held.enter_context(hold(folder))
      return _run_all(batches, arguments.out, keep_programs=argv is None)
  except KeyboardInterrupt:
    print('Stopped; the same command goes on.', file=sys.stderr)
    return 130
  except WorkdirError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1


def _run_all(
  batches: Sequence[Sequence[Member]], out: pathlib.Path, *, keep_programs: bool
) -> int:
  """Runs one batch after the other; returns the exit code."""
  # Late, so that mistakes do not wait for JAX.
  from lorap_jax import report
  from lorap_jax.runs import compile_cache
  from lorap_jax.runs.run import Interrupted

  if keep_programs:
    compile_cache.keep_programs()
  failed, done, count = 0, 0, sum(map(len, batches))
  for batch in batches:
    names = ', '.join(folder.name for _, folder in batch)
    logging.info('[%d-%d/%d] %s', done + 1, done + len(batch), count, names)
    done += len(batch)
    try:
      failed += _run_batch(batch)
    except Interrupted as error:
      raise KeyboardInterrupt from error
  if failed < count:
    report.main([str(out)])
  return 1 if failed else 0


def _batches(
  runs: Sequence[tuple[str, config_dict.ConfigDict]], out: pathlib.Path
) -> list[list[Member]]:
  """Sorts runs into those that train together, on one graph."""
  batches: dict[Any, list[Member]] = {}
  for name, config in runs:
    # Batches of graphs run one after the other.
    on_one_graph = fields.level_of(config.to_dict()) == 'node'
    key = fields.kind(config.to_dict()) if on_one_graph else name
    batches.setdefault(key, []).append((config, out / name))
  # No more than train in one program, so that reports do not wait for others.
  split = []
  for batch in batches.values():
    first, _ = batch[0]
    together = first.train.together or TrainConfig.together
    size = max(together // max(first.seeds, 1), 1)
    split += [batch[i : i + size] for i in range(0, len(batch), size)]
  return split


def _run_batch(batch: Sequence[Member]) -> int:
  """Runs what trains together; says which failed, and returns how many."""
  from lorap_jax.reports import present
  from lorap_jax.runs import protocol

  try:
    outcomes: list[Any] = protocol.run_together(batch)
  except (ValueError, OSError) as error:
    if len(batch) > 1:  # The others are not held up by one.
      return sum(_run_batch([member]) for member in batch)
    outcomes = [error]
  failed = 0
  for (_, folder), outcome in zip(batch, outcomes, strict=True):
    if isinstance(outcome, Exception):
      print(f'error: {folder.name}: {outcome}', file=sys.stderr)
      failed += 1
    else:
      present.draw(folder)
  return failed


def expand(
  template: str, choices: Sequence[str]
) -> Iterator[tuple[str, config_dict.ConfigDict]]:
  """The runs of a sweep.

  Args:
    template: FILE or FILE:CELL, with braces around choices.
    choices: `path=value|value`, values as Python literals or plain text.

  Yields:
    Name of the run's folder, and its configuration.

  A choice that means nothing to a run, such as a placement to one without
  prompts, is left out of it, and runs that are then the same run once.

  Raises:
    ValueError: no such file, no `=`, a field that does not exist, or one that
      means nothing to any run.
  """
  axes = [_axis(field) for field in choices]
  unused: dict[str, str] = {}
  used: set[str] = set()
  runs: dict[Any, tuple[str, config_dict.ConfigDict]] = {}
  for number, cell in enumerate(_alternatives(template)):
    for choice in itertools.product(*(enumerate(v) for _, v in axes)):
      own, without = _configure(
        cell,
        [
          (path, value)
          for (path, _), (_, value) in zip(axes, choice, strict=True)
        ],
      )
      names, key = [_slug(cell)], [(cell, number)]
      for (path, values), (i, value) in zip(axes, choice, strict=True):
        if path in without:
          unused.setdefault(path, without[path])
          continue
        used.add(path)
        key.append((path, i))
        if len(values) > 1:
          names.append(f'{path.rsplit(".", 1)[-1]}={value}')
      runs.setdefault(tuple(key), ('_'.join(names), own))
  for path in unused.keys() - used:
    raise ValueError(unused[path])
  yield from runs.values()


def _configure(
  cell: str, given: Sequence[tuple[str, Any]]
) -> tuple[config_dict.ConfigDict, dict[str, str]]:
  """The configuration of a run, and the choices that mean nothing to it."""
  config = _load(cell)
  for path, value in given:
    _set(config, path, value)
  values = config.to_dict()
  unused = {
    path: reason
    for path, reason in fields.unused(values, fields.level_of(values)).items()
    if path in dict(given)
  }
  for path in unused:
    _set(config, path, 1 if path == 'folds' else None)
  fields.drop_unused(config)
  return config, unused


def _check_names(names: Sequence[str]) -> None:
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f'two runs would have the folder {name!r}; give every choice once, and '
        'configuration files of one name in sweeps of their own'
      )


def _axis(field: str) -> tuple[str, list[Any]]:
  path, equal, text = field.partition('=')
  if not (path and equal):
    raise ValueError(f'give FIELD=VALUE, got {field!r}')
  return path, [_literal(part) for part in text.split('|')]


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _alternatives(template: str) -> list[str]:
  found = re.search(r'\{([^{}]*)\}', template)
  if found is None:
    return [template]
  head, tail = template[: found.start()], template[found.end() :]
  return [
    text
    for part in found[1].split(',')
    for text in _alternatives(f'{head}{part}{tail}')
  ]


def _slug(cell: str) -> str:
  name, _, recipe = cell.partition(':')
  return '_'.join(p for p in (pathlib.Path(name).stem, *recipe.split(',')) if p)


def _load(cell: str) -> config_dict.ConfigDict:
  name, _, recipe = cell.partition(':')
  path = pathlib.Path(name)
  if path.suffix != '.py' or not path.is_file():
    raise ValueError(f'no configuration file {name!r}')
  # Configurations import each other from the folder above theirs.
  root = str(path.absolute().parent.parent)
  if root not in sys.path:
    sys.path.insert(0, root)
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None  # It is a .py file.
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*([recipe] if recipe else [])).lock()


def _set(config: config_dict.ConfigDict, path: str, value: Any) -> None:
  try:
    config.update_from_flattened_dict({path: value})
  except (KeyError, AttributeError) as error:
    raise ValueError(fields.unknown(path)) from error
  except TypeError as error:
    raise ValueError(f'config.{path}: {error}') from error


def run() -> None:
  """The whole program: `main` with signals and logging set up."""
  _process.set_up()
  interrupt_on_termination()
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(_logging.FirstLine('%(message)s'))
  sys.exit(main())


if __name__ == '__main__':
  run()
