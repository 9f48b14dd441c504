"""What goes to the screen, and what to the log of a run."""

import logging

import pytest
import tiny_run
from absl import logging as absl_logging
from run_folder import read

from lorap_jax import _logging
from lorap_jax.runs import loop


def record(text, *, level=logging.INFO, path=_logging.__file__):
  return logging.LogRecord('absl', level, path, 1, text, (), None)


def test_screen_has_the_first_line():
  form = _logging.FirstLine('%(message)s')
  assert form.format(record('Happened.\nhttps://a\nhttps://b')) == 'Happened.'
  assert form.format(record('Happened.')) == 'Happened.'


@pytest.mark.parametrize(
  'level, path, told',
  [
    (logging.INFO, _logging.__file__, True),
    (logging.INFO, loop.__file__, True),
    (logging.INFO, '/lib/orbax/checkpoint.py', False),
    (logging.WARNING, '/lib/orbax/checkpoint.py', True),
  ],
)
def test_others_are_heard_from_warnings_up(level, path, told):
  assert _logging.is_told(record('text', level=level, path=path)) == told


def test_file_has_all_lines_while_it_is_open(tmp_path):
  paths = [tmp_path / 'a', tmp_path / 'b']
  with _logging.to_files(paths):
    absl_logging.warning('Happened.\n%s', 'https://a')
  absl_logging.warning('Later.')
  for path in paths:
    first, second = path.read_text().splitlines()
    assert first.endswith('WARNING Happened.') and second == 'https://a'


def test_no_file_without_a_message(tmp_path):
  with _logging.to_files([tmp_path / 'a']):
    pass
  assert not list(tmp_path.iterdir())


def test_log_of_a_run(tmp_path, monkeypatch, caplog):
  tiny_run.feed(monkeypatch)
  config = tiny_run.config(scheme__name='fp32', prompt__name='gpf')
  with caplog.at_level('INFO', logger='absl'):
    loop.train_and_evaluate(config, tmp_path / 'run')
  text = (tmp_path / 'run' / 'run.log').read_text()
  told = [r for r in caplog.records if _logging.is_told(r)]
  for entry in told:
    assert entry.getMessage() in text
  form = _logging.FirstLine('%(message)s')
  screen = [form.format(entry) for entry in told]
  # What runs, on what: a line each, short enough to read.
  assert screen[:3] == [
    'Network: gin, fp32, prompt gpf',
    f'Device: {read(tmp_path / "run")["device"]}',
    'Data: tiny, 40 / 20 / 21 graphs for training / validation / test; '
    'compares with nothing published',
  ]
  assert max(map(len, screen)) < 140
  assert 'random graphs' in text and "'jax': " in text


def test_log_of_runs_that_train_together(tmp_path, monkeypatch, caplog):
  tiny_run.feed(monkeypatch, tiny_run.node_data)
  members = [
    (tiny_run.node_config(seed=seed), tmp_path / f'{seed}') for seed in (0, 1)
  ]
  with caplog.at_level('INFO', logger='absl'):
    loop.train_members(members)
  for _, folder in members:
    text = (folder / 'run.log').read_text()
    assert 'Data: tiny, 40 / 20 / 21 of 24 nodes for training' in text
    assert 'Training 0, 1 (seed 0, 1)' in text
