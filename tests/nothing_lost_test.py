"""Nothing is lost: killed caches, data that vanishes, clocks that go back."""

import builtins
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tiny_run
from run_folder import contents, made_in, metrics, read, without_times

from lorap_jax.data.sets import custom, superpixels
from lorap_jax.runs import default_config, loop
from lorap_jax.runs import run as run_lib

ROOT = pathlib.Path(__file__).parents[1]
BUILD = """
  import os, signal, sys
  import numpy as np
  from lorap_jax.data.files import store
  from lorap_jax.data.sets import superpixels

  def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

  owner = {'os': os, 'np': np}[sys.argv[2]]
  setattr(owner, sys.argv[3], die)
  images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
  superpixels.cached_graphs(
    images, superpixels.MNIST_RECIPE, sys.argv[1], workers=1
  )
"""


def images():
  return np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)


def build(folder):
  return superpixels.cached_graphs(
    images(), superpixels.MNIST_RECIPE, folder, workers=1
  )


def assert_same_graphs(found, expected):
  for name, value in expected._asdict().items():
    np.testing.assert_array_equal(getattr(found, name), value, name)


class TestCache:
  @pytest.mark.parametrize('stage', [('os', 'replace'), ('np', 'savez')])
  def test_killed_while_it_is_made(self, tmp_path, stage):
    done = subprocess.run(
      [sys.executable, '-c', textwrap.dedent(BUILD), str(tmp_path), *stage],
      cwd=ROOT,
      capture_output=True,
      timeout=300,
    )
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob('*.npz'))
    found = build(tmp_path)
    assert_same_graphs(found, build(tmp_path / 'other'))
    # No part is left, and what was made is read.
    (place,) = (tmp_path / 'superpixels').iterdir()
    assert [path.name for path in made_in(place)] == [
      '000000.npz',
      'manifest.json',
    ]
    before = contents(tmp_path)
    assert_same_graphs(build(tmp_path), found)
    assert contents(tmp_path) == before

  def test_that_cannot_be_read_is_made_again(self, tmp_path, monkeypatch):
    expected = build(tmp_path)
    path, whole = next(tmp_path.rglob('*.npz')), builtins.open
    number = path.stat().st_ino  # Of this file; the one made anew is another.

    def refuse(file, *args, **options):
      if str(file) == str(path) and path.stat().st_ino == number:
        raise PermissionError(13, 'Permission denied', str(file))
      return whole(file, *args, **options)

    monkeypatch.setattr(builtins, 'open', refuse)
    assert_same_graphs(build(tmp_path), expected)


def stop(monkeypatch, config, folder):
  """Runs two epochs of six."""
  with monkeypatch.context() as patch:
    tiny_run.two_epochs_per_dispatch(patch)
    tiny_run.interrupt_after_dispatch(patch, 1)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(config, folder)


def test_own_data_that_is_gone(tmp_path, monkeypatch):
  """An error that names the file; the run goes on once it is back."""
  data = tiny_run.node_data()
  path = tmp_path / 'own.npz'
  custom.save(path, data)
  config = default_config.own_data_config('gcn,fp32,none')
  config.data.path = str(path)
  config.update_from_flattened_dict(
    {'model.features': 8, 'model.num_layers': 1, 'train.epochs': 6}
  )
  whole = loop.train_and_evaluate(config, tmp_path / 'whole')
  folder = tmp_path / 'run'
  stop(monkeypatch, config, folder)
  away = path.rename(tmp_path / 'away.npz')
  before = contents(folder)
  with pytest.raises(ValueError, match=f"no file '{path}'"):
    loop.train_and_evaluate(config, folder)
  assert contents(folder) == before
  away.rename(path)
  assert loop.train_and_evaluate(config, folder)['result'] == whole['result']


def test_clock_that_is_set_back(tmp_path, monkeypatch):
  """What is newest is told by its epoch, not by its time."""
  tiny_run.feed(monkeypatch, tiny_run.node_data)
  config = tiny_run.node_config()
  whole = loop.train_and_evaluate(config, tmp_path / 'whole')
  folder = tmp_path / 'run'
  stop(monkeypatch, config, folder)
  for i, path in enumerate(sorted(folder.rglob('*'))):
    os.utime(path, (4e9 - i, 4e9 - i))  # The later the name, the older.
  years, now = 20 * 3.15e7, time.time
  monkeypatch.setattr(time, 'time', lambda: now() - years)
  again = loop.train_and_evaluate(config, folder)
  assert again['result'] == whole['result']
  lines = [without_times(metrics(p)) for p in (folder, tmp_path / 'whole')]
  assert lines[0] == lines[1]
  assert all(value >= 0 for value in read(folder)['seconds'].values())
