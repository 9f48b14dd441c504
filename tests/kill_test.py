"""A run that is killed ends, bit for bit, as one that was not.

`LORAP_JAX_KILLS=200 pytest -m slow tests/kill_test.py` kills 200 runs more, at
stages drawn at random.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys

import jax
import killed_run
import numpy as np
import pytest
from run_folder import metrics, read, without_times

from lorap_jax.runs import checkpointing

ROOT = pathlib.Path(__file__).parent.parent
STAGES = {
  'node': [
    ('before dispatch', 1),
    ('after dispatch', 2),
    ('after metrics line', 3),
    ('before save', 1),  # Best, and then latest, of each dispatch.
    ('before save of Orbax', 2),
    ('after save of Orbax', 3),
    ('after digest', 3),
    ('before rename', 4),
    ('after rename', 3),
    ('after save', 3),
    ('after save', 4),
    ('before prune', 2),
    ('before rmtree', 1),
    ('after prune', 3),
    ('before report', 1),
    ('after report', 1),
  ],
  'graphs': [
    ('before count', 4),
    ('after count', 5),
    ('before evaluation', 3),
    ('after evaluation', 4),
    ('after metrics line', 2),
    ('after save of Orbax', 3),
    ('after save', 3),
    ('before prune', 3),
    ('before report', 1),
  ],
  'group': [
    ('after dispatch', 2),
    ('before save', 1),
    ('after save of a run', 1),
    ('after save of a run', 2),
    ('after save of a run', 4),
    ('before save of Orbax', 6),  # It has a best one, and no latest.
    ('before save of Orbax', 9),
    ('before begin', 2),
    ('after report', 1),
    ('after report', 2),
  ],
  'sweep': [
    ('after dispatch', 2),
    ('after save of a run', 3),
    ('before save of Orbax', 7),
    ('after report', 2),
  ],
  'mixq': [
    ('after save', 2),
    ('after report', 1),
    ('after phase', 1),
    ('after dispatch', 3),
    ('before report', 2),
  ],
}
ALWAYS = [
  ('node', 'before rename', 4),
  ('graphs', 'before evaluation', 3),
  ('group', 'after save of a run', 4),
]
CASES = [
  pytest.param(
    kind,
    [(stage, count)],
    marks=() if (kind, stage, count) in ALWAYS else pytest.mark.slow,
    id=f'{kind}, {stage} {count}',
  )
  for kind, stages in STAGES.items()
  for stage, count in stages
]


def drawn(number):
  """A kind, and up to three stages at which it is killed in turn."""
  rng = random.Random(number)
  kind = rng.choice(list(STAGES))
  stages = [stage for stage, _ in STAGES[kind]]
  kills = [(rng.choice(stages), rng.randint(1, 9)) for _ in range(3)]
  return kind, kills


RANDOM = [
  pytest.param(*drawn(number), marks=pytest.mark.slow, id=str(number))
  for number in range(int(os.environ.get('LORAP_JAX_KILLS', '3')))
]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Gets the folder of an uninterrupted run of a kind."""
  folders = {}

  def get(kind):
    if kind not in folders:
      folders[kind] = tmp_path_factory.mktemp('whole') / 'run'
      go_on(kind, folders[kind])
    return folders[kind]

  return get


def go_on(kind, folder):
  """Runs to the end, in this process."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    killed_run.set_up(monkeypatch, kind)
    killed_run.run_all(kind, folder)


def kill(kind, folder, stage, count):
  """Runs in a process that is killed at a stage; whether it came there."""
  path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
  cache = str(jax.config.jax_compilation_cache_dir)
  arguments = [kind, str(folder), stage, str(count)]
  done = subprocess.run(
    [sys.executable, str(ROOT / 'tests' / 'killed_run.py'), *arguments],
    env={**os.environ, 'PYTHONPATH': path, 'JAX_COMPILATION_CACHE_DIR': cache},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode in (0, -signal.SIGKILL), done.stderr
  return done.returncode != 0


def results(folder):
  """Reports in and below a folder, without what depends on the clock."""
  found = {}
  for path in sorted(folder.rglob('report.json')):
    report = read(path.parent)
    place = str(path.parent.relative_to(folder))
    found[place] = {k: v for k, v in report.items() if k != 'seconds'}
  return found


def states(folder):
  """The arrays of the checkpoints in and below a folder."""
  found = {}
  for path in sorted(folder.rglob('checkpoints')):
    checkpoints = checkpointing.Checkpoints(path)
    for kind in checkpointing.KINDS:
      place = f'{path.relative_to(folder)}/{kind}/{checkpoints.step(kind)}'
      found[place] = checkpoints.load_arrays(kind)
  return found


def lines(folder):
  """The records in and below a folder, without times."""
  return {
    str(path.relative_to(folder)): without_times(metrics(path.parent))
    for path in sorted(folder.rglob('metrics.jsonl'))
  }


def plain(leaf):
  is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same(folder, expected):
  assert lines(folder) == lines(expected)
  assert results(folder) == results(expected)
  found, wanted = states(folder), states(expected)
  assert found.keys() == wanted.keys()
  for place in wanted:
    leaves = jax.tree_util.tree_leaves_with_path(wanted[place])
    others = dict(jax.tree_util.tree_leaves_with_path(found[place]))
    assert len(others) == len(leaves)
    for path, leaf in leaves:
      np.testing.assert_array_equal(plain(others[path]), plain(leaf), place)
  files = lambda f: {str(p.relative_to(f)) for p in f.rglob('*') if is_own(p)}
  assert files(folder) == files(expected)


def is_own(path):
  """Whether it is a file whose name does not depend on when a run was saved."""
  # A log is there once something was to be warned of.
  own = {'checkpoints', 'tensorboard', 'run.log'}
  return path.is_file() and not own & {*path.parts}


@pytest.mark.parametrize('kind, kills', CASES)
def test_killed_run_ends_as_if_never_stopped(whole, tmp_path, kind, kills):
  folder = tmp_path / 'run'
  for stage, count in kills:
    assert kill(kind, folder, stage, count), 'it never came there'
  go_on(kind, folder)
  assert_same(folder, whole(kind))


@pytest.mark.parametrize('kind, kills', RANDOM)
def test_killed_again_and_again(whole, tmp_path, kind, kills):
  folder = tmp_path / 'run'
  for stage, count in kills:
    if not kill(kind, folder, stage, count):
      break  # It ended before it came there.
  go_on(kind, folder)
  assert_same(folder, whole(kind))
