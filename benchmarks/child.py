"""Measurements that need a process of their own."""

import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import Any


def installed() -> bool:
  """Torch and torch_geometric can be imported."""
  names = ('torch', 'torch_geometric')
  return all(importlib.util.find_spec(name) for name in names)


def run(
  module: str, *arguments: Any, environment: dict[str, str] | None = None
) -> dict[str, Any]:
  """Runs `python -m benchmarks.MODULE` without a compilation cache.

  Args:
    module: its name; it prints one JSON object as its last line.
    *arguments: of the command.
    environment: variables to set.

  Returns:
    The object; empty of a process that is one of several, and prints nothing.

  Raises:
    RuntimeError: the process failed.
  """
  variables = {**os.environ, **(environment or {})}
  if 'JAX_COMPILATION_CACHE_DIR' not in (environment or {}):
    variables.pop('JAX_COMPILATION_CACHE_DIR', None)
  done = subprocess.run(
    [sys.executable, '-m', f'benchmarks.{module}', *map(str, arguments)],
    cwd=pathlib.Path(__file__).parents[1],
    env=variables,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'benchmarks.{module} {arguments}: {done.stderr}')
  lines = done.stdout.splitlines()
  return json.loads(lines[-1]) if lines else {}


def peak_bytes() -> int:
  """Peak resident memory of this process.

  The kernel's own count where there is one: `ru_maxrss` also remembers the
  process that started this one.
  """
  try:
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  except OSError:
    scale = 1 if sys.platform == 'darwin' else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return 1024 * next(int(x.split()[1]) for x in lines if x[:6] == 'VmHWM:')
