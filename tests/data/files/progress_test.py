"""Tests of progress reports."""

import sys

from lorap_jax.data.files import progress


def test_log_lines_without_a_terminal(caplog):
  with (
    caplog.at_level('INFO', logger='absl'),
    progress.track('Work', 100) as advance,
  ):
    for _ in range(100):
      advance(1)
  lines = [record.getMessage() for record in caplog.records]
  assert lines == [f'Work: {done} of 100' for done in (20, 40, 60, 80, 100)]


def test_unknown_total_is_silent(caplog):
  with (
    caplog.at_level('INFO', logger='absl'),
    progress.track('Work', 0) as advance,
  ):
    advance(5)
  assert not caplog.records


def test_a_bar_on_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  monkeypatch.setenv('TERM', 'xterm')
  with progress.track('Working', 2) as advance:
    advance(2)
  assert 'Working' in capsys.readouterr().err
