"""Tables for the terminal, JSON files, and what machine they come from."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from typing import Any

from benchmarks.timing import Stats, usable_cores

MISSING = 'not installed'
Row = dict[str, Any]
_PACKAGES = (
  'numpy',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'torch',
  'torch_geometric',
)
_VARIABLES = ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'GLIBC_TUNABLES')


def print_table(name: str, text: str | None, rows: list[Row]) -> None:
  """Prints a theme.

  Args:
    name: of the theme.
    text: what it measures; the first line is the title.
    rows: column to value; a column may be missing from some.
  """
  headings = list(dict.fromkeys(key for row in rows for key in row))
  lines = [headings]
  lines += [[_text(key, row.get(key, '')) for key in headings] for row in rows]
  widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
  print(f'{name}: {(text or "").strip()}\n')
  for line in lines:
    cells = (c.ljust(w) for c, w in zip(line, widths, strict=True))
    print('  '.join(cells).rstrip())
  print(flush=True)


def _text(heading: str, value: Any) -> str:
  if isinstance(value, Stats):
    median, low, high = (_text(heading, part) for part in value)
    # Of ratios the median alone, or no terminal would be wide enough.
    return median if ' / ' in heading else f'{median} ({low}-{high})'
  if isinstance(value, float):
    return f'{value:.1e}' if 0 < abs(value) < 1e-3 else f'{value:.3g}'
  return str(value)


def write_json(
  path: pathlib.Path, name: str, rows: list[Row], seconds: float
) -> None:
  """Writes a theme.

  Args:
    path: of the file; its folder is made.
    name: of the theme.
    rows: see `print_table`.
    seconds: that the theme took.
  """
  plain = [
    {k: v._asdict() if isinstance(v, Stats) else v for k, v in row.items()}
    for row in rows
  ]
  content = {
    'theme': name,
    'seconds': seconds,
    'machine': machine(),
    'rows': plain,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content, indent=2) + '\n')


def machine() -> dict[str, Any]:
  """What was measured on, with what, when and how."""
  return {
    'cpu': _cpu(),
    'cores': os.cpu_count(),
    'usable_cores': usable_cores(),
    'load_average': os.getloadavg()[0],
    'platform': platform.platform(),
    'python': platform.python_version(),
    'versions': {name: _version(name) for name in _PACKAGES},
    'environment': {name: os.environ.get(name) for name in _VARIABLES},
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'command': ' '.join(['python', *map(_anywhere, sys.orig_argv[1:])]),
  }


def _anywhere(argument: str) -> str:
  """An argument of a command; of an absolute path only the last name."""
  option, equals, value = argument.rpartition('=')
  if os.path.isabs(value):
    value = f'.../{pathlib.PurePath(value).name}'
  return option + equals + value


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return MISSING


def _cpu() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  names = [line.partition(':')[2] for line in lines if 'model name' in line]
  return names[0].strip() if names else platform.machine()
