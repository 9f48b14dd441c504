"""The README's way from training to integers in ONNX Runtime and in C."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A shorter run of a smaller network, on fewer digits; the next command exports.
SHORT = (
  "'--config.data.limit=(48,16,24)' --config.data.workers=1 "
  '--config.model.features=8 --config.model.num_layers=1 '
  '--config.model.readout=1 --config.scheme.num_groups=16 '
  '--config.train.epochs=2 --config.train.batch_size=16 '
  '--config.train.plots=False --config.train.integer_epochs=0 '
  '--config.train.export=False'
)


def commands():
  """The block of the README that trains, exports and runs, line by line."""
  blocks = re.findall(
    r'^```bash\n(.*?)^```$', (ROOT / 'README.md').read_text(), re.M | re.S
  )
  (block,) = (block for block in blocks if 'lorap_jax.export' in block)
  return block.splitlines()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Where the commands run, with the first two done: train and export."""
  folder = tmp_path_factory.mktemp('quick_start')
  for name in ('train.py', 'configs'):
    (folder / name).symlink_to(ROOT / name)
  train, export, change, *_ = commands()
  assert train.startswith('python train.py ') and change == 'cd my_integers'
  run(f'{train} {SHORT}', folder)
  done = run(export, folder)
  assert 'Exported to my_integers' in done
  return folder / 'my_integers'


def run(command, folder):
  """A line of the README, by this Python; what it prints."""
  path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  done = subprocess.run(
    re.sub(r'^python ', f'{sys.executable} ', command),
    shell=True,
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': path},
    capture_output=True,
    text=True,
    timeout=1800,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_onnx(folder):
  pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
  (command,) = (line for line in commands() if 'onnx' in line)
  assert run(command, folder) == 'ONNX Runtime: 0 of 200 values differ\n'


def test_c(folder):
  from lorap_jax.integers import c_run

  if c_run.compiler() is None:
    pytest.skip('no C compiler (cc) here')
  (command,) = (line for line in commands() if line.startswith('cc '))
  assert run(command, folder) == 'C: 0 of 10 values differ\n'
  # It can fail: with another answer in the program.
  path = folder / 'example.c'
  text = path.read_text()
  changed = re.sub(
    r'(expected\[\] = \{\n  )(-?\d+)',
    lambda m: f'{m[1]}{int(m[2]) + 1}',
    text,
  )
  other = folder.parent / 'other'
  other.mkdir()
  (other / 'example.c').write_text(changed)
  (other / 'model.h').write_bytes((folder / 'model.h').read_bytes())
  with pytest.raises(AssertionError):
    run(command, other)
