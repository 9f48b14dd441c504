"""Where metrics go: a JSON-lines file, TensorBoard, the terminal."""

import json
import pathlib
import sys
from typing import Any, Protocol, runtime_checkable

from rich import console, progress

from lorap_jax.data import store


class JsonLines:
  """One JSON object per line, flushed line by line.

  Attributes:
    path: the file.
  """

  def __init__(self, path: pathlib.Path, *, resume_step: int):
    """Opens the file, dropping lines of steps after `resume_step`.

    Args:
      path: the file.
      resume_step: optimizer step that the run goes on from.
    """
    self.path = path
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= resume_step]
    with store.atomic_file(path) as part:
      part.write_text(''.join(f'{line}\n' for line in kept))
    self._file = path.open('a')

  def write(self, record: dict[str, Any]) -> None:
    """Appends a record that has a `step`."""
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def _step_of(line: str) -> int | float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError):
    return float('inf')  # A line cut off by a crash.


class TensorBoard:
  """Scalars for TensorBoard, when tensorboardX is installed."""

  def __init__(self, folder: pathlib.Path):
    try:
      import tensorboardX
    except ImportError:
      self._writer = None
    else:
      self._writer = tensorboardX.SummaryWriter(str(folder))

  def write(self, record: dict[str, Any]) -> None:
    """Adds the numbers of a record at its `step`."""
    if self._writer is None:
      return
    for name, value in record.items():
      if name != 'step' and isinstance(value, int | float):
        self._writer.add_scalar(name, value, record['step'])

  def close(self) -> None:
    """Flushes and closes."""
    if self._writer is not None:
      self._writer.close()


@runtime_checkable
class Display(Protocol):
  """Shows a run while it goes on."""

  def step(self, text: dict[str, str], done: int) -> None:
    """After a step: fields to show and steps done in all."""

  def epoch(self, line: str) -> None:
    """After an epoch: one line to keep."""

  def close(self) -> None:
    """Leaves the terminal as it was."""


class LiveDisplay:
  """A progress line that is redrawn, for terminals."""

  def __init__(self, total_steps: int):
    self._progress = progress.Progress(
      progress.TextColumn('epoch {task.fields[epoch]}'),
      progress.BarColumn(bar_width=20),
      progress.TextColumn('{task.fields[speed]} step/s'),
      progress.TimeRemainingColumn(elapsed_when_finished=True),
      progress.TextColumn(
        'loss {task.fields[loss]}  val {task.fields[valid]}  '
        'bits {task.fields[bits]}'
      ),
      console=console.Console(file=sys.stderr),
      refresh_per_second=4,
      speed_estimate_period=120,
    )
    self._task = self._progress.add_task(
      'train',
      total=total_steps,
      epoch='- (compiling)',
      speed='-',
      loss='-',
      valid='-',
      bits='-',
    )
    self._progress.start()

  def step(self, text: dict[str, str], done: int) -> None:
    """See Display."""
    fields: dict[str, Any] = dict(text)
    self._progress.update(self._task, completed=done, **fields)

  def epoch(self, line: str) -> None:
    """See Display."""
    self._progress.console.print(line, highlight=False)

  def close(self) -> None:
    """See Display."""
    self._progress.stop()


class LineDisplay:
  """One line per epoch, for files and pipes."""

  def step(self, text: dict[str, str], done: int) -> None:
    """Shows nothing."""

  def epoch(self, line: str) -> None:
    """See Display."""
    print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Nothing to do."""


def create_display(total_steps: int) -> Display:
  """The display that suits standard error.

  Args:
    total_steps: of the whole run.

  Returns:
    A display.
  """
  return LiveDisplay(total_steps) if sys.stderr.isatty() else LineDisplay()
