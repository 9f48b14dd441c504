"""One process at a time in a work folder."""

import contextlib
import json
import os
import pathlib
import socket
from collections.abc import Generator

import filelock

from lorap_jax.runs import workdir

LOCK = '.lock'  # Stays: to remove it would part those that wait for it.
_HOLDER = '.holder.json'


@contextlib.contextmanager
def hold(folder: str | os.PathLike[str]) -> Generator[None]:
  """Keeps other processes out of a folder; a dead one holds nothing.

  The same thread may hold a folder again. A folder that had to be made and gets
  nothing else is removed again.

  Args:
    folder: work folder.

  Raises:
    WorkdirError: it cannot be made or written, or another process holds it.
  """
  path = pathlib.Path(os.path.abspath(folder))
  made = not path.exists()
  workdir.make(path)
  # One object for each folder and thread, which counts how often it is held.
  lock = filelock.FileLock(path / LOCK, is_singleton=True)
  first = not lock.is_locked
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout as error:
    raise workdir.WorkdirError(
      f'{path} is in use by {_holder(path)}; wait until it ends, or choose '
      'another folder with --workdir'
    ) from error
  except (OSError, NotImplementedError) as error:
    raise workdir.WorkdirError(
      f'cannot lock {path} ({error}); choose another folder with --workdir'
    ) from error
  try:
    if first:
      holder = {'pid': os.getpid(), 'host': socket.gethostname()}
      workdir.write_json(path / _HOLDER, holder)
    yield
  finally:
    if first:
      (path / _HOLDER).unlink(missing_ok=True)
      if made and [p.name for p in path.iterdir()] == [LOCK]:
        (path / LOCK).unlink()
        path.rmdir()
    lock.release()


def _holder(path: pathlib.Path) -> str:
  """The process that holds a folder, in words."""
  try:
    holder = json.loads((path / _HOLDER).read_text())
    return f'process {holder["pid"]} on {holder["host"]}'
  except (OSError, ValueError, KeyError, TypeError):
    return 'another process'  # Which has just begun, or just ends.
