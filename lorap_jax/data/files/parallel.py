"""A map over worker processes that neither hangs nor leaves orphans."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from absl import logging

_T = TypeVar('_T')
_R = TypeVar('_R')
_WORKER = 'LORAP_JAX_WORKER'
# What a worker process finds in its environment: its mark, and one thread for
# each library that would start one per processor.
_WORKER_ENVIRONMENT = {
  _WORKER: '1',
  'OMP_NUM_THREADS': '1',
  'OPENBLAS_NUM_THREADS': '1',
  'MKL_NUM_THREADS': '1',
}

# Of a worker: a task may hold a whole data set, and comes only once.
_task: Callable[[Any], Any]


def check_workers(workers: int | None) -> int:
  """Returns the number of worker processes; None means one per processor.

  Of a machine that is shared, the processors that this process may use count.

  Raises:
    ValueError: `workers` is not positive.
  """
  if workers is None and hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  if workers is None:
    return os.cpu_count() or 1
  if workers < 1:
    raise ValueError(f'workers is {workers}; give a positive number or None.')
  return workers


def refuse_in_worker() -> None:
  """Ends a worker that runs the main script again instead of its tasks.

  New processes import the main script. If that starts work when imported, a
  worker would do the work of its parent, and wait for locks that it holds.

  Raises:
    RuntimeError: this is a worker process of `ordered_map`.
  """
  if os.environ.get(_WORKER):
    raise RuntimeError(
      'The script starts work when it is imported; put it under if __name__ '
      "== '__main__': or set workers to 1."
    )


def ordered_map(
  task: Callable[[_T], _R], items: Sequence[_T], *, workers: int
) -> Iterator[_R]:
  """Yields `task(item)` for each item, in the order of the items.

  With one worker or one item the work is done in this process. On an error or
  Ctrl-C the tasks not yet begun are dropped and the workers end before the
  exception leaves. If the workers themselves die (no memory, or a script that
  starts work outside `if __name__ == '__main__':`), this process does the rest.

  Args:
    task: picklable pure function.
    items: picklable arguments.
    workers: number of processes.
  """
  done = 0
  workers = min(workers, len(items))
  if workers > 1:
    try:
      for result in _pool_map(task, items, workers):
        yield result
        done += 1
    except BrokenProcessPool as error:
      logging.warning(
        'Worker processes ended (%s) and this process goes on alone. A script '
        "that wants them has its work under if __name__ == '__main__':.",
        error,
      )
  for item in items[done:]:
    yield task(item)


def _pool_map(
  task: Callable[[_T], _R], items: Sequence[_T], workers: int
) -> Iterator[_R]:
  pool = futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_start_worker,
    initargs=(task,),
  )
  try:
    with _environment(_WORKER_ENVIRONMENT):
      pending = [pool.submit(_run, item) for item in items]
    for future in pending:
      yield future.result()
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(task: Callable[[Any], Any]) -> None:
  global _task
  _task = task
  # Ctrl-C reaches the whole process group; the parent alone decides.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # A parent that is killed tells nobody, so each worker watches it.
  threading.Thread(target=_follow_parent, daemon=True).start()


def _run(item: Any) -> Any:
  return _task(item)


def _follow_parent() -> None:
  if parent := multiprocessing.parent_process():
    parent.join()
  os._exit(1)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
  """Sets environment variables, which new processes inherit, for a while."""
  before = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
