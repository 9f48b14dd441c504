"""train.py on tiny data, as one of several processes.

  python tests/processes_run.py ACTION STEP --config=... --coordinator=...

Once the training step STEP is dispatched, ACTION happens to this process:
`kill`, `stop` (SIGSTOP), `term` (SIGTERM), `stand` (the main thread stands
still, the others of this process do not), or `nothing`. Of one graph it is the
dispatch STEP, of two epochs.
"""

import functools
import itertools
import os
import signal
import sys
import time
from typing import Any

import pytest
import tiny_run

from lorap_jax import train
from lorap_jax.runs import full_batch, processes, side_by_side, star
from lorap_jax.training import steps

CLOCKS = star.Clocks(join=20, beat=0.2, silent=3, batch=4, elsewhere=120)
ACTIONS = {
  'kill': lambda: os.kill(os.getpid(), signal.SIGKILL),
  'stop': lambda: os.kill(os.getpid(), signal.SIGSTOP),
  'term': lambda: signal.raise_signal(signal.SIGTERM),
  'stand': lambda: time.sleep(1000),
  'nothing': lambda: None,
}


def set_up(
  monkeypatch: pytest.MonkeyPatch, action: str, step: int, *, nodes: bool
) -> None:
  """Feeds tiny data, shortens the clocks, and has the action happen."""
  module, name = steps, 'make_train_step'
  if nodes:
    tiny_run.feed_short_node_runs(monkeypatch)
    monkeypatch.setattr(side_by_side, '_SAVE_SECONDS', 0)
    module, name = full_batch, 'make_epochs'
  else:
    tiny_run.feed(monkeypatch)
  joined: Any = functools.partial(processes.joined, clocks=CLOCKS)
  monkeypatch.setattr(processes, 'joined', joined)
  make, count = getattr(module, name), itertools.count(1)

  def make_acting(*args, **options):
    program = make(*args, **options)

    def call(*args):
      out = program(*args)
      if next(count) == step:
        ACTIONS[action]()
      return out

    return call

  monkeypatch.setattr(module, name, make_acting)


if __name__ == '__main__':
  _, chosen, number, *arguments = sys.argv
  of_nodes = any(a.endswith('.py:nodes') for a in arguments)
  set_up(pytest.MonkeyPatch(), chosen, int(number), nodes=of_nodes)
  sys.argv = ['train.py', *arguments]
  train.run()
