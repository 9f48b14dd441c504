import importlib.util
import json
import sys

import pytest

from lorap_jax.runs import writers


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'metrics.jsonl'


def steps_in(path):
  return [json.loads(line)['step'] for line in path.read_text().splitlines()]


class TestJsonLines:
  def test_new_file(self, path):
    writer = writers.JsonLines(path, [])
    writer.write({'step': 3, 'loss': 0.1 + 0.2})
    assert json.loads(path.read_text()) == {'step': 3, 'loss': 0.1 + 0.2}
    writer.close()

  @pytest.mark.parametrize(
    'left',
    [
      None,
      '',
      '{"step": 3}\n',
      '{"step": 3}\n{"step": 6, "lo',
      '{"step": 3}\n{"step": 6}\n{"step": 9}\n',
      '{"step": 6}\n',
    ],
  )
  def test_holds_the_records_whatever_was_left(self, path, left):
    if left is not None:
      path.write_text(left)
    writer = writers.JsonLines(path, [{'step': 3}, {'step': 6, 'loss': 0.1}])
    writer.write({'step': 9})
    writer.close()
    assert path.read_text() == (
      '{"step": 3}\n{"step": 6, "loss": 0.1}\n{"step": 9}\n'
    )

  def test_each_line_is_on_disk_at_once(self, path):
    writer = writers.JsonLines(path, [])
    for step in (1, 2):
      writer.write({'step': step})
      assert steps_in(path)[-1] == step
    writer.close()


class TestTensorBoard:
  def test_is_silent_without_its_package(self, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    writer = writers.TensorBoard(tmp_path / 'tensorboard')
    writer.write({'step': 1, 'loss': 0.5})
    writer.close()
    assert list(tmp_path.iterdir()) == []

  @pytest.mark.skipif(
    importlib.util.find_spec('tensorboardX') is None,
    reason='tensorboardX is not installed',
  )
  def test_writes_numbers_at_their_step(self, tmp_path, monkeypatch):
    import tensorboardX

    calls = []
    monkeypatch.setattr(
      tensorboardX.SummaryWriter,
      'add_scalar',
      lambda self, *args: calls.append(args),
    )
    writer = writers.TensorBoard(tmp_path / 'tensorboard')
    writer.write({'step': 4, 'loss': 0.5, 'epoch': 2, 'name': 'text'})
    writer.close()
    assert calls == [('loss', 0.5, 4), ('epoch', 2, 4)]


class TestDisplays:
  FIELDS = {
    'epoch': '1/2',
    'speed': '3.0',
    'loss': '0.5',
    'valid': '-',
    'bits': '4.0',
  }

  def test_pipes_get_a_line_per_epoch(self, capsys):
    display = writers.create_display(10)
    assert isinstance(display, writers.LineDisplay)
    display.step(self.FIELDS, 1)
    display.epoch('epoch 1/2')
    display.close()
    assert capsys.readouterr().err == 'epoch 1/2\n'

  def test_pipes_get_a_line_of_a_step_after_silence(self, capsys):
    now = [5.0]
    display = writers.LineDisplay(200, clock=lambda: now[0])
    display.step(self.FIELDS, 50)
    assert capsys.readouterr().err == ''
    now[0] += 10
    display.step(self.FIELDS, 51)
    assert capsys.readouterr().err == (
      'epoch 1/2 (25 % done)  loss 0.5  val -  bits 4.0  3.0 step/s\n'
    )
    now[0] += 9
    display.step(self.FIELDS, 52)
    assert capsys.readouterr().err == ''
    now[0] += 1
    display.epoch('epoch 1/2')
    display.step(self.FIELDS, 53)
    assert capsys.readouterr().err == 'epoch 1/2\n'

  def test_long_runs_do_not_fill_their_logs(self, capsys):
    now = [0.0]
    display = writers.LineDisplay(20_000, clock=lambda: now[0])
    for step in range(20_000):
      now[0] += 10
      display.step(self.FIELDS, step)
    assert 100 < len(capsys.readouterr().err.splitlines()) < 200

  def test_terminals_get_a_progress_line(self, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    monkeypatch.setenv('COLUMNS', '120')
    display = writers.create_display(10)
    assert isinstance(display, writers.LiveDisplay)
    display.step(self.FIELDS, 10)
    display.epoch('epoch 1/2 done')
    display.close()
    out, err = capsys.readouterr()
    assert 'epoch 1/2 done' in err and '3.0 step/s' in err and out == ''
