"""A batch that several devices share gives the run of one device."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, read

from lorap_jax.runs import settings

ROOT = pathlib.Path(__file__).parents[1]
TIMES = ('train_seconds', 'eval_seconds')


def run(what, folder):
  """Calls `devices_run` with four devices."""
  done = subprocess.run(
    [sys.executable, str(ROOT / 'tests' / 'devices_run.py'), what, str(folder)],
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')]),
      'JAX_NUM_CPU_DEVICES': '4',
    },
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_step_is_that_of_one_device(tmp_path):
  found = read(run('step', tmp_path), 'step.json')
  one, four = found['1'], found['4']
  for name, value in four['metrics'].items():
    assert value == pytest.approx(one['metrics'][name], rel=1e-4), name
  for what in ('gradient', 'statistics'):
    for mine, expected in zip(four[what], one[what], strict=True):
      np.testing.assert_allclose(mine, expected, rtol=1e-3, atol=1e-5)
  # Masks and indices of the nodes go between them, and gradients; no features.
  assert not one['moved'] and len(four['moved']) > 10
  assert max(four['moved']) <= four['nodes']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  return run('runs', tmp_path_factory.mktemp('devices'))


def assert_close(folder, expected):
  lines, wanted = metrics(folder), metrics(expected)
  assert len(lines) == len(wanted) == 2
  for line, other in zip(lines, wanted, strict=True):
    assert line.keys() == other.keys()
    for name in line.keys() - set(TIMES):
      # A bias in front of a norm has a gradient of rounding errors alone, and
      # Adam makes whole steps of it.
      assert line[name] == pytest.approx(other[name], rel=2e-3, abs=1e-5), name


@pytest.mark.slow
def test_run_is_that_of_one_device(runs):
  assert_close(runs / '4', runs / '1')
  report, expected = read(runs / '4'), read(runs / '1')
  assert report['device'] == '4 x cpu (cpu)'
  assert expected['device'] == '1 x cpu (cpu), of 4 there'
  assert set(report['integers']['parity']['differing'].values()) == {0}
  bits = lambda r: [point['bits'] for point in r['points']]
  assert bits(report) == pytest.approx(bits(expected), rel=1e-4)
  assert report['cost']['feature_bytes_per_graph'] == pytest.approx(
    expected['cost']['feature_bytes_per_graph'], rel=1e-4
  )


@pytest.mark.slow
def test_weights_of_one_device_are_taken_up(runs):
  first = metrics(runs / '1')[-1]['train_loss']
  assert metrics(runs / 'warm')[0]['train_loss'] < first
  assert read(runs / 'phases')['result']['test'] >= 0


@pytest.mark.slow
def test_goes_on_with_another_number_of_devices(runs):
  assert_close(runs / 'changed', runs / '1')


@pytest.mark.parametrize(
  'devices, message',
  [
    (2, '`devices` is 2, there are 1 (cpu); set it to 1 or less'),
    (-1, '`devices` must be 0 or more, got -1'),
  ],
)
def test_devices_that_are_not_there(devices, message):
  with pytest.raises(ValueError, match=re.escape(f'config.train: {message}')):
    settings.from_config(tiny_run.config(train__devices=devices))


def test_batch_that_they_cannot_share(monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: jax.local_devices() * 3)
  config = tiny_run.config(train__devices=3)
  with pytest.raises(
    ValueError, match='`batch_size` 16 is no multiple of the 3'
  ):
    settings.from_config(config)


def test_none_is_all_there_are():
  chosen = settings.from_config(tiny_run.config(train__devices=0))
  assert chosen.mesh is None  # There is one.


@pytest.fixture(scope='module')
def on_one_graph(tmp_path_factory):
  return run('graph', tmp_path_factory.mktemp('graph'))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['2', '4', 'changed'])
def test_run_on_a_shared_graph_is_that_of_one_device(on_one_graph, name):
  lines, wanted = metrics(on_one_graph / name), metrics(on_one_graph / '1')
  assert len(lines) == len(wanted) == 6
  for line, other in zip(lines, wanted, strict=True):
    for key in line.keys() - set(TIMES):
      assert line[key] == pytest.approx(other[key], rel=2e-3, abs=1e-5), key


@pytest.mark.slow
def test_codes_travel(on_one_graph):
  found = read(on_one_graph, 'step.json')
  kinds = [kind for kind, _ in found['moved']]
  assert 'u8' in kinds
  widths = {
    count // found['rows'] for kind, count in found['moved'] if kind == 'u8'
  }
  assert widths == {3}  # The classes of the one layer.
