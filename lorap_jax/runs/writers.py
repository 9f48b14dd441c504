"""Where metrics go: a JSON-lines file, TensorBoard, the terminal."""

import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from rich import console, progress

from lorap_jax.data.files import store

# Without a terminal a run says where it is when it has said nothing for so
# long, and for this share of its time: long runs do not fill their logs.
_QUIET_SECONDS = 10.0
_QUIET_SHARE = 0.05


class JsonLines:
  """One JSON object per line, flushed line by line.

  Attributes:
    path: the file.
  """

  def __init__(self, path: pathlib.Path, records: list[dict[str, Any]]):
    """Opens the file, which then holds the records, one line each.

    Args:
      path: the file; what a killed run left in it beyond the records is
        dropped, and what is missing comes back.
      records: of the epochs that the run has finished where it goes on.
    """
    self.path = path
    with store.atomic_file(path) as part:
      part.write_text(''.join(f'{json.dumps(r)}\n' for r in records))
    self._file = path.open('a')

  def write(self, record: dict[str, Any]) -> None:
    """Appends a record."""
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


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
    """Moves the bar to `done` steps, and shows the fields beside it."""
    fields: dict[str, Any] = dict(text)
    self._progress.update(self._task, completed=done, **fields)

  def epoch(self, line: str) -> None:
    """Prints the line above the bar."""
    self._progress.console.print(line, highlight=False)

  def close(self) -> None:
    """Stops redrawing the bar."""
    self._progress.stop()


class LineDisplay:
  """Plain lines, for files and pipes: of epochs, and between them of steps.

  A step has a line when nothing was printed for 10 seconds and for a twentieth
  of the time that the run has taken.
  """

  def __init__(
    self, total_steps: int, *, clock: Callable[[], float] = time.monotonic
  ):
    """Starts the clock.

    Args:
      total_steps: optimizer steps of the whole run.
      clock: seconds from any moment on.
    """
    self._total = total_steps
    self._clock = clock
    self._started = self._printed = clock()

  def step(self, text: dict[str, str], done: int) -> None:
    """Prints the fields if nothing was printed for long, as above."""
    now = self._clock()
    quiet = max(_QUIET_SECONDS, _QUIET_SHARE * (now - self._started))
    # The last step has the line of its epoch.
    if now - self._printed >= quiet and done < self._total:
      self.epoch(
        f'epoch {text["epoch"]} ({100 * done // self._total} % done)  '
        f'loss {text["loss"]}  val {text["valid"]}  bits {text["bits"]}  '
        f'{text["speed"]} step/s'
      )

  def epoch(self, line: str) -> None:
    """Prints the line on standard error."""
    print(line, file=sys.stderr, flush=True)
    self._printed = self._clock()

  def close(self) -> None:
    """Nothing to do."""


class NoDisplay:
  """Shows nothing, where another process does."""

  def step(self, text: dict[str, str], done: int) -> None:
    """Nothing."""

  def epoch(self, line: str) -> None:
    """Nothing."""

  def close(self) -> None:
    """Nothing to do."""


def create_display(total_steps: int, *, shown: bool = True) -> Display:
  """The display that suits standard error.

  Args:
    total_steps: optimizer steps of the whole run.
    shown: whether this process shows anything.

  Returns:
    A display.
  """
  if not shown:
    return NoDisplay()
  display = LiveDisplay if sys.stderr.isatty() else LineDisplay
  return display(total_steps)
