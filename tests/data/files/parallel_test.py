"""Tests of the map over processes, also when it is cut short."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from lorap_jax.data.files import parallel

PATH = os.pathsep.join(filter(None, sys.path))

GUARDED = """
import functools, os, signal, time
from lorap_jax.data.files import parallel

def task(i):
  {body}
  return i

if __name__ == '__main__':
  # A shell's background jobs, and what they start, ignore Ctrl-C.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  print(list(parallel.ordered_map(task, range({count}), workers=2)))
"""


def start(tmp_path, code):
  script = tmp_path / 'script.py'
  script.write_text(code)
  return subprocess.Popen(
    [sys.executable, str(script)],
    env={**os.environ, 'PYTHONPATH': PATH},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


@pytest.mark.parametrize('workers', [1, 2])
def test_results_come_in_order(workers):
  items = list(range(20))
  found = list(parallel.ordered_map(math.sqrt, items, workers=workers))
  assert found == [math.sqrt(i) for i in items]


@pytest.mark.parametrize('workers', [1, 2])
def test_errors_of_a_task_reach_the_caller(workers):
  with pytest.raises(ValueError, match='math domain|nonnegative'):
    list(parallel.ordered_map(math.sqrt, [1, -1, 1], workers=workers))


def test_the_environment_of_this_process_is_kept(monkeypatch):
  monkeypatch.setenv('OMP_NUM_THREADS', '3')
  monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
  names = ['OMP_NUM_THREADS', 'MKL_NUM_THREADS']
  assert list(parallel.ordered_map(os.getenv, names, workers=2)) == ['1', '1']
  assert [os.getenv(name) for name in names] == ['3', None]


def test_work_goes_on_when_the_workers_die(tmp_path):
  body = f'if os.environ.get({parallel._WORKER!r}): os._exit(1)'
  job = start(tmp_path, GUARDED.format(body=body, count=3))
  out, err = job.communicate(timeout=60)
  assert '[0, 1, 2]' in out
  assert 'goes on alone' in err


def test_unguarded_script_still_gets_its_graphs(tmp_path):
  code = f"""
from lorap_jax.data.images import slic_graphs
from lorap_jax.data.sets import mnist, superpixels
superpixels._PER_SHARD = 2
images = mnist.load_mnist(source='embedded').valid.images[:4]
graphs = superpixels.cached_graphs(
  images, slic_graphs.MNIST_RECIPE, {str(tmp_path / 'graphs')!r}, workers=2
)
print('graphs:', len(graphs.n_node))
"""
  out, err = start(tmp_path, code).communicate(timeout=60)
  assert 'graphs: 4' in out
  assert "__name__ == '__main__'" in err


def processes_of(group):
  """Returns the ids of the live processes in a process group (Linux)."""
  found = []
  for entry in os.listdir('/proc'):
    if entry.isdigit():
      try:
        with open(f'/proc/{entry}/stat') as file:
          state, _, its_group = file.read().rpartition(')')[2].split()[:3]
      except OSError:
        continue
      if int(its_group) == group and state != 'Z':
        found.append(int(entry))
  return found


@pytest.mark.skipif(
  not os.path.isdir('/proc'), reason='reads the process table in /proc'
)
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGKILL'])
def test_no_worker_outlives_its_parent(tmp_path, name):
  body = f'open(f"{tmp_path}/task{{i}}", "w").close(); time.sleep(0.5)'
  job = start(tmp_path, GUARDED.format(body=body, count=500))
  deadline = time.monotonic() + 60
  try:
    while not list(tmp_path.glob('task*')) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert len(processes_of(job.pid)) >= 2
    if name == 'SIGINT':  # Ctrl-C goes to the whole group.
      os.killpg(job.pid, signal.SIGINT)
    else:
      job.send_signal(getattr(signal, name))
    job.communicate(timeout=60)
    assert job.returncode != 0
    while processes_of(job.pid) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not processes_of(job.pid)
  finally:  # What hangs would warn in another test.
    if job.poll() is None:
      os.killpg(job.pid, signal.SIGKILL)
      job.communicate()
