"""train.py as its user meets it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = '--config=configs/mnist_a2q_lorap.py'


# A shell's background jobs, and what they start, are deaf to Ctrl-C; this
# starts a command that hears it.
HEARING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def command(*arguments):
  return [sys.executable, 'train.py', *arguments]


def hearing(*arguments):
  return [sys.executable, '-c', HEARING, 'train.py', *arguments]


def run(*arguments, **options):
  return subprocess.run(
    command(*arguments),
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    **options,
  )


MISTAKES = {
  'no configuration': ([], '--config is missing'),
  'no such file': (
    ['--config=configs/mnist_a3q.py'],
    "no configuration file 'configs/mnist_a3q.py'",
  ),
  'unknown recipe': ([f'{CONFIG}:slow'], "got 'slow'"),
  'unknown field': (
    [CONFIG, '--config.optim.learnin_rate=0.1'],
    'learning_rate',
  ),
  'wrong type': ([CONFIG, '--config.train.epochs=many'], 'epochs'),
  'unknown flag': ([CONFIG, '--workdr=x'], 'workdr'),
  'unknown argument': ([CONFIG, 'smoke'], "unknown argument 'smoke'"),
  'configuration as an argument': (
    ['configs/cora.py'],
    'give the configuration as --config=configs/cora.py',
  ),
  'file of another kind': (['--config=README.md'], 'such as --config=configs/'),
  'misspelled file': (
    ['--config=configs/coar.py'],
    'did you mean configs/cora.py?',
  ),
  'misspelled quantizer': (
    ['--config=configs/cora.py:gcn,a2qq,none'],
    'error: quantizer must be one of',
  ),
  'field that was': (
    [CONFIG, '--config.train.subset_epochs=3'],
    'a run has one length: set `train.epochs`',
  ),
  'own data without a file': (
    ['--config=configs/custom.py'],
    'give --config.data.path=FILE.npz',
  ),
  'None for a list': (
    [CONFIG, '--config.data.limit=None', '--config.data.dir=/nowhere'],
    '/nowhere',
  ),
  'field of another method': (
    [CONFIG, '--config.scheme.low=0.1'],
    '`low` = 0.1 has no effect on this run, it needs scheme.name dq',
  ),
}


def check_mistake(done, text):
  assert done.returncode not in (0, 130)
  lines = done.stderr.splitlines()
  errors = [line for line in lines if line.startswith('error:')]
  assert len(errors) == 1 and lines[-1] == errors[0], done.stderr
  assert text in errors[0]
  assert 'Traceback' not in done.stderr + done.stdout
  assert done.stdout == ''


@pytest.mark.parametrize('arguments, text', MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_line(tmp_path, arguments, text):
  folder = tmp_path / 'run'
  check_mistake(run(*arguments, f'--workdir={folder}'), text)
  assert not folder.exists()


@pytest.mark.parametrize(
  'change, text',
  [
    ('scheme.bits=9', 'config.scheme: `bits` must be in 1..8, got 9'),
    ('prompt.placement=before', 'config.prompt: `placement` must be one of'),
    ('prompt.low_rank=all', 'config.prompt: `low_rank` must be'),
  ],
)
def test_value_that_makes_no_run(tmp_path, change, text):
  folder = tmp_path / 'run'
  check_mistake(run(CONFIG, f'--config.{change}', f'--workdir={folder}'), text)
  assert not folder.exists()


def test_mistakes_do_not_wait_for_jax():
  code = (
    'import sys; from lorap_jax.runs import fields; '
    'sys.exit("jax" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_help_is_readable():
  done = run('--help')
  assert 'Trains a quantized graph network with prompts.' in done.stdout
  assert '--config' in done.stdout and '--workdir' in done.stdout
  for name in ('configs/cora.py', 'a2q', 'gpf_lorap', 'gat'):
    assert name in done.stdout
  assert done.returncode == 0
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_during_set_up(tmp_path, number):
  process = subprocess.Popen(
    hearing(
      f'{CONFIG}:smoke',
      f'--workdir={tmp_path / "run"}',
      '--config.data.source=embedded',
      '--config.data.workers=1',
    ),
    cwd=ROOT,
    env=os.environ | {'LORAP_JAX_CACHE': str(tmp_path / 'cache')},
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stderr.readline().startswith('Configuration: ')
  process.send_signal(number)  # Superpixels are still to be made.
  text = process.communicate(timeout=120)[1]
  assert process.returncode == 130, text
  assert text.splitlines()[-1].startswith('Stopped at once; the same command')
  assert 'Traceback' not in text
  assert not list(tmp_path.rglob('*.part'))
  left = {path.name for path in tmp_path.glob('run/*')}
  assert left <= {'.lock', 'config.json'}


@pytest.mark.slow
def test_interrupted_command_goes_on(tmp_path):
  folder = tmp_path / 'run'
  arguments = [f'{CONFIG}:smoke', f'--workdir={folder}']
  arguments += ['--config.train.epochs=60', '--config.data.workers=1']
  process = subprocess.Popen(
    hearing(*arguments),
    cwd=ROOT,
    env=os.environ | {'LORAP_JAX_CACHE': str(tmp_path / 'cache')},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  metrics = folder / 'metrics.jsonl'
  deadline = time.monotonic() + 300
  while not (metrics.exists() and metrics.read_text()):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGINT)
  text = process.communicate(timeout=120)[0]
  assert process.returncode == 130, text
  assert 'The same command goes on from it.' in text
  assert 'Traceback' not in text
  assert list((folder / 'checkpoints' / 'latest').iterdir())
  assert not (folder / 'report.json').exists()
  first = len(metrics.read_text().splitlines())

  done = run(
    *arguments, env=os.environ | {'LORAP_JAX_CACHE': str(tmp_path / 'cache')}
  )
  assert done.returncode == 0, done.stderr
  assert 'Resuming at epoch' in done.stderr
  assert 'best validation accuracy' in done.stdout
  report = json.loads((folder / 'report.json').read_text())
  assert report['epochs'] == 60 > first
  assert len(metrics.read_text().splitlines()) == 60


class TestConsole:
  """`lorap-jax`, the same programs from any folder."""

  def call(self, *arguments, folder):
    command = [sys.executable, '-m', 'lorap_jax', *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
      command,
      cwd=folder,
      env={**os.environ, 'PYTHONPATH': path},
      capture_output=True,
      text=True,
      timeout=300,
    )

  def test_help(self, tmp_path):
    done = self.call('--help', folder=tmp_path)
    assert done.returncode == 0
    for name in ('train', 'sweep', 'report', 'doctor'):
      assert f'  {name}' in done.stdout
      of_it = self.call(name, '--help', folder=tmp_path)
      assert of_it.returncode == 0, of_it.stderr
      assert name in of_it.stdout

  def test_no_command(self, tmp_path):
    done = self.call('trian', folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("error: no command 'trian'\n")

  def test_mistake(self, tmp_path):
    done = self.call('train', '--config=none.py', folder=tmp_path)
    assert "error: no configuration file 'none.py'" in done.stderr
    done = self.call('report', 'nowhere', folder=tmp_path)
    assert done.returncode == 2 and 'error:' in done.stderr
