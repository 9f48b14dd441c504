"""A work folder is one process's."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from lorap_jax import sweep
from lorap_jax.runs import loop, protocol
from lorap_jax.runs.hold import hold
from lorap_jax.runs.workdir import WorkdirError

HOLDER = """
import sys, time
from lorap_jax.runs.hold import hold
with hold(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
  """A folder that another process holds, and the process."""
  folder = tmp_path / 'run'
  path = os.pathsep.join(filter(None, sys.path))
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(folder)],
    env={**os.environ, 'PYTHONPATH': path},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'held\n'
  yield folder, process
  process.kill()
  process.wait()
  process.stdout.close()


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_second_process_is_told_who_holds_it(held):
  folder, process = held
  before = names(folder)
  for _ in range(2):  # To be refused changes nothing.
    with pytest.raises(WorkdirError) as caught, hold(folder):
      pass
    text = str(caught.value)
    assert text.startswith(f'{folder} is in use by process {process.pid} on ')
    assert '--workdir' in text and '\n' not in text
    assert names(folder) == before


def test_killed_process_holds_nothing(held):
  folder, process = held
  process.send_signal(signal.SIGKILL)
  process.wait()
  with hold(folder):
    holder = json.loads((folder / '.holder.json').read_text())
    assert holder['pid'] == os.getpid()


def test_runs_groups_and_sweeps_are_refused(held, monkeypatch, capsys):
  import tiny_run

  folder, process = held
  tiny_run.feed(monkeypatch, tiny_run.node_data)
  config = tiny_run.node_config()
  others = tiny_run.node_config(seeds=2)
  words = f'in use by process {process.pid}'
  for call in (
    lambda: loop.train_and_evaluate(config, folder),
    lambda: protocol.run(config, folder),
    lambda: protocol.run(others, folder),
  ):
    with pytest.raises(WorkdirError, match=words):
      call()
  assert names(folder) == ['.holder.json', '.lock']
  # The second run of the sweep: the first does not begin either.
  runs = [('free', config), (folder.name, config)]
  monkeypatch.setattr(sweep, 'expand', lambda *args: runs)
  assert sweep.main([str(folder.parent), 'any.py']) == 1
  assert words in capsys.readouterr().err
  assert not (folder.parent / 'free').exists()


def test_same_thread_may_hold_it_again_another_not(tmp_path):
  refused = []

  def other():
    with pytest.raises(WorkdirError), hold(tmp_path):
      pass
    refused.append(True)

  with hold(tmp_path):
    with hold(tmp_path):
      pass
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
  assert refused == [True]
  assert names(tmp_path) == ['.lock']


def test_nothing_is_left_of_a_folder_that_got_nothing(tmp_path):
  with hold(tmp_path / 'a' / 'run'):
    pass
  assert names(tmp_path / 'a') == []
