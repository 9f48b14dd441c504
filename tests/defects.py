"""Plants deliberate defects, one at a time, and runs the tests meant for each.

    python -m tests.defects             all of `defect_list`
    python -m tests.defects NAME ...    some of them
    python -m tests.defects --list      their names, areas and files

The checkout is never edited: a defect is planted in a copy of the project. A
defect is caught if one of its tests fails. One that no test sees has survived:
write the test. A collection that breaks, a fixture that stops, a name that does
not exist or a test without an end is neither, and called an error.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.defect_list import DEFECTS, Defect

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'lorap_jax'

_SECONDS = 900  # For the tests of one defect.
_PYTEST = '-q -rfE --tb=no -p no:cacheprovider'.split()
_COPIED = (PACKAGE, 'tests', 'configs', 'train.py', 'pyproject.toml')
# Of such a failure Python complains about the change, not a test about what it
# does.
_BROKEN = re.compile(r'(Name|Import|ModuleNotFound|Syntax|Indentation)Error')


class Outcome(NamedTuple):
  """What became of a defect.

  Attributes:
    verdict: `caught`, `SURVIVED` or `error`.
    seconds: that its tests took.
    reason: the first test that failed, or what went wrong.
  """

  verdict: str
  seconds: float
  reason: str


def planted(text: str, defect: Defect) -> str:
  """The text of a file with the defect in it.

  Raises:
    ValueError: what it replaces is not there exactly once.
  """
  count = text.count(defect.old)
  if count != 1:
    raise ValueError(
      f'{defect.name}: {defect.old!r} is {count} times in {defect.file}; '
      'give a text that is there once'
    )
  return text.replace(defect.old, defect.new)


def copy_project(root: pathlib.Path, place: pathlib.Path) -> None:
  """Copies what the tests need; files keep their times, and so their .pyc."""
  place.mkdir()
  for name in _COPIED:
    source = root / name
    if source.is_dir():
      shutil.copytree(source, place / name)
    elif source.exists():
      shutil.copy2(source, place / name)


def run_tests(
  project: pathlib.Path, tests: Iterable[str], *more: str
) -> tuple[int, str]:
  """Exit code and output of pytest on tests given below `tests/`.

  Raises:
    subprocess.TimeoutExpired: they do not end.
  """
  environment = {**os.environ, 'COLUMNS': '300'}  # Reasons are cut off there.
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', *_PYTEST, *more),
      *(f'tests/{test}' for test in tests),
    ],
    cwd=project,
    env=environment,
    capture_output=True,
    text=True,
    timeout=_SECONDS,
  )
  return done.returncode, done.stdout + done.stderr


def verdict(code: int, output: str) -> tuple[str, str]:
  """What an exit code and an output of pytest say about a defect."""
  if code == 0:
    return 'SURVIVED', ''
  lines = output.strip().splitlines()
  failed = [line for line in lines if line.startswith('FAILED ')]
  if code != 1 or not failed:
    error = [line for line in lines if line.startswith('ERROR ')] or lines[-1:]
    return 'error', ' '.join(error)[:200]
  test, _, reason = failed[0].removeprefix('FAILED ').partition(' - ')
  if _BROKEN.match(reason):
    return 'error', f'{test}: {reason}'
  return 'caught', test


def try_defect(defect: Defect, base: pathlib.Path) -> Outcome:
  """Plants a defect in a copy of a project, and runs its tests there."""
  started = time.monotonic()
  with tempfile.TemporaryDirectory(prefix='defect_') as folder:
    project = pathlib.Path(folder) / 'project'
    copy_project(base, project)
    path = project / PACKAGE / defect.file
    path.write_text(planted(path.read_text(), defect))
    try:
      found = verdict(*run_tests(project, defect.tests, '-x', '-n', '0'))
    except subprocess.TimeoutExpired:
      found = 'error', f'no end after {_SECONDS} seconds'
  return Outcome(found[0], time.monotonic() - started, found[1])


def red_base(
  base: pathlib.Path, defects: Sequence[Defect], jobs: int
) -> str | None:
  """What fails without any defect; None if nothing does."""
  tests = dict.fromkeys(test for defect in defects for test in defect.tests)
  processes = str(jobs if jobs > 1 else 0)
  code, output = run_tests(base, tests, '-n', processes)
  return output if code else None


def table(defects: Sequence[Defect], outcomes: Sequence[Outcome]) -> str:
  """Defects and those caught, by area, as Markdown."""
  lines = ['| area | defects | caught |', '|---|---|---|']
  for area in dict.fromkeys(defect.area for defect in defects):
    verdicts = [
      outcome.verdict
      for defect, outcome in zip(defects, outcomes, strict=True)
      if defect.area == area
    ]
    caught = verdicts.count('caught')
    lines.append(f'| {area} | {len(verdicts)} | {caught} |')
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Tries the defects.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0 if all were caught, 1 if not, 2 for a mistake in the arguments
    or tests that fail without any defect.
  """
  parser = argparse.ArgumentParser(
    prog='python -m tests.defects',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('names', nargs='*', metavar='NAME', help='all if none')
  parser.add_argument('--list', action='store_true', help='say what there is')
  parser.add_argument(
    '--jobs', type=int, default=1, help='defects tried at the same time'
  )
  arguments = parser.parse_args(argv)
  known = {defect.name: defect for defect in DEFECTS}
  unknown = [name for name in arguments.names if name not in known]
  if unknown:
    parser.error(f'no defect {", ".join(unknown)}; --list names them all')
  if arguments.jobs < 1:
    parser.error(f'--jobs must be at least 1, got {arguments.jobs}')
  defects = [known[name] for name in arguments.names or known]
  if arguments.list:
    for defect in defects:
      print(f'{defect.name:32} {defect.area:24} {defect.file}')
    return 0
  return _run(defects, arguments.jobs)


def _run(defects: Sequence[Defect], jobs: int) -> int:
  started = time.monotonic()
  with tempfile.TemporaryDirectory(prefix='defects_') as folder:
    base = pathlib.Path(folder) / 'base'
    copy_project(ROOT, base)
    if failure := red_base(base, defects, jobs):
      print(f'{failure}\nThese tests fail without any defect.')
      return 2
    print(f'Without a defect all tests pass: {_since(started)}.', flush=True)
    outcomes = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      tries = pool.map(lambda defect: try_defect(defect, base), defects)
      for defect, outcome in zip(defects, tries, strict=True):
        outcomes.append(outcome)
        print(
          f'{outcome.verdict:8} {outcome.seconds:6.1f} s  {defect.name:32} '
          f'{outcome.reason}',
          flush=True,
        )
  caught = sum(outcome.verdict == 'caught' for outcome in outcomes)
  print(f'\n{table(defects, outcomes)}\n')
  print(f'{caught} of {len(defects)} caught: {_since(started)}.')
  return int(caught < len(defects))


def _since(started: float) -> str:
  return f'{time.monotonic() - started:.0f} s'


if __name__ == '__main__':
  sys.exit(main())
