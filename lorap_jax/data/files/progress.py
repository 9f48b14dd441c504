"""Progress of long host-side work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator

from absl import logging
from rich import progress as rich_progress
from rich.console import Console

_LOG_LINES = 5  # Without a terminal a job logs about this often.


@contextlib.contextmanager
def track(description: str, total: int) -> Generator[Callable[[int], None]]:
  """Reports progress; yields `advance(steps)`.

  Args:
    description: what is being done.
    total: number of steps of the whole job; 0 if unknown.
  """
  if not sys.stderr.isatty():
    yield _log_lines(description, total)
    return
  bar = rich_progress.Progress(
    *rich_progress.Progress.get_default_columns(),
    rich_progress.TimeElapsedColumn(),
    console=Console(stderr=True),
    transient=True,
  )
  with bar:
    task = bar.add_task(description, total=total or None)
    yield lambda steps: bar.advance(task, steps)


def _log_lines(description: str, total: int) -> Callable[[int], None]:
  done = 0

  def advance(steps: int) -> None:
    nonlocal done
    before, done = done, done + steps
    if total and done * _LOG_LINES // total > before * _LOG_LINES // total:
      logging.info('%s: %d of %d', description, done, total)

  return advance
