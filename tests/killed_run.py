"""A tiny run in a process of its own, which kills itself at a named stage.

  python tests/killed_run.py KIND FOLDER STAGE COUNT

A stage is `before FUNCTION` or `after FUNCTION`, see `FUNCTIONS`; the process
gets SIGKILL there at the COUNT-th time. Nothing of this is in the library.
"""

import functools
import itertools
import os
import pathlib
import shutil
import signal
import sys
from typing import Any

import jax
import pytest
import tiny_run
from orbax.checkpoint import v1 as ocp

from lorap_jax.runs import (
  batched,
  checkpointing,
  full_batch,
  protocol,
  result,
  run,
  side_by_side,
  workdir,
  writers,
)

EPOCHS = 6
FUNCTIONS: dict[str, tuple[Any, str]] = {
  'dispatch': (full_batch.FullBatchRun, 'file'),
  'count': (batched.BatchedRun, '_count'),
  'evaluation': (batched.BatchedRun, 'evaluate'),
  'metrics line': (writers.JsonLines, 'write'),
  'save': (checkpointing.Checkpoints, 'save'),
  'save of Orbax': (ocp, 'save'),
  'digest': (checkpointing, '_digest'),
  'prune': (checkpointing.Checkpoints, 'prune'),
  'rename': (pathlib.Path, 'rename'),
  'rmtree': (shutil, 'rmtree'),
  'save of a run': (full_batch.FullBatchRun, 'save'),
  'begin': (run.Run, 'begin'),
  'phase': (protocol, '_run_phase'),
  'report': (result, 'finish'),
  'JSON file': (workdir, 'write_json'),
}


def run_all(kind: str, folder: pathlib.Path) -> None:
  """Runs a kind to its end: one run, or a sweep's choices side by side."""
  if kind != 'sweep':
    protocol.run(config(kind), folder)
    return
  batch = []
  for rate in (0.01, 0.02):
    for decay in (0.0, 5e-4):
      member = config(kind)
      member.optim.learning_rate, member.optim.weight_decay = rate, decay
      batch.append((member, folder / f'rate_{rate}_decay_{decay}'))
  for outcome in protocol.run_together(batch):
    if isinstance(outcome, Exception):
      raise outcome


def config(kind: str) -> Any:
  """The configuration of a kind of run."""
  if kind == 'graphs':
    return tiny_run.config(
      scheme__name='fp32', prompt__name='gpf', train__epochs=3
    )
  if kind == 'mixq':
    return tiny_run.node_config(
      'gcn,mixq,none', train__epochs=4, train__search_epochs=2
    )
  cell = 'gcn,a2q,gpf_lorap' if kind == 'node' else 'gcn,fp32,none'
  seeds = 3 if kind == 'group' else 1
  return tiny_run.node_config(
    cell, seeds=seeds, model__dropout=0.5, train__epochs=EPOCHS
  )


def set_up(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
  """Feeds tiny data, in dispatches of two epochs, saved after each."""
  data = tiny_run.splits if kind == 'graphs' else tiny_run.node_data
  tiny_run.feed(monkeypatch, data)
  monkeypatch.setattr(
    full_batch.FullBatchRun, 'dispatch_size', lambda run, members: 2
  )
  monkeypatch.setattr(side_by_side, '_SAVE_SECONDS', -1.0)


def kill_at(monkeypatch: pytest.MonkeyPatch, stage: str, count: int) -> None:
  """Has this process killed at a stage, the count-th time."""
  when, name = stage.split(' ', 1)
  owner, attribute = FUNCTIONS[name]
  function, calls = getattr(owner, attribute), itertools.count(1)

  @functools.wraps(function)
  def killing(*args, **options):
    last = next(calls) == count
    if last and when == 'before':
      os.kill(os.getpid(), signal.SIGKILL)
    out = function(*args, **options)
    if last:
      os.kill(os.getpid(), signal.SIGKILL)
    return out

  monkeypatch.setattr(owner, attribute, killing)


def main(kind: str, folder: str, stage: str, count: str) -> None:
  """Runs until the stage is hit."""
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  monkeypatch = pytest.MonkeyPatch()
  set_up(monkeypatch, kind)
  kill_at(monkeypatch, stage, int(count))
  run_all(kind, pathlib.Path(folder))
  print(f'never came to {stage} {count}')


if __name__ == '__main__':
  main(*sys.argv[1:])
