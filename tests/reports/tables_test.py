"""The table that a run ends with, row by row."""

import pytest

from lorap_jax.reports import tables

DATA = {
  'name': 'tiny',
  'origin': 'random graphs of the tests',
  'comparable': True,
  'note': 'fewer graphs than published',
}
CONFIG = {
  'model': {'name': 'gin'},
  'scheme': {'name': 'a2q', 'bits': 4},
  'prompt': {'name': 'gpf_lorap'},
}
COST = {
  'average_bits': {
    'usage_weighted': 3.2504,
    'usage_weighted_with_raw_features': 3.35,
    'usage_weighted_with_side_path': 3.5,
    'usage_weighted_with_messages': 3.75,
    'unweighted': 4.0,
    'published_print_out': 3.1,
  },
  'feature_bytes_per_graph': 2048.0,
  'feature_bytes_fp32_per_graph': 16384.0,
  'feature_metadata_bytes_per_graph': 512.0,
  'side_path_bytes_per_graph': 256.0,
  'weight_bytes': 1024.0,
  'weight_bytes_fp32': 8192.0,
  'weight_metadata_bytes': 128.0,
  'table_bytes': 5120.0,
  'bit_ops_per_graph': {
    'products': 2.5e6,
    'products_fp32': 160e6,
    'prompts': 0.3e6,
    'neighbor_sums': 1.25e6,
  },
}


def single(metric='accuracy', test=0.876543, **changes):
  """A report of one run."""
  report = {
    'result': {
      'metric': metric,
      'rule': 'val_metric',
      'rule_in_words': 'epoch of the best validation',
      'test': test,
      'valid': test / 2,
      'epoch': 17,
      'best_test_epoch': {'test': 2 * test / 3, 'epoch': 21},
    },
    'cost': COST,
    'parameters': {'prompt': 33, 'prompt_share': 0.0125},
    'seconds': {'total': 90.0, 'train_per_epoch': 0.123},
    'device': '1 x cpu',
    'data': DATA,
    'config': CONFIG,
  }
  return report | changes


def group(metric='accuracy', **changes):
  """A report of two folds."""
  report = {
    'result': {
      'metric': metric,
      'rule': 'val_loss',
      'rule_in_words': 'epoch of the lowest validation loss',
      'count': 2,
      'test': 0.81234,
      'test_std': 0.0123,
      'valid': 0.79,
      'valid_std': 0.001,
      'best_test': 0.83,
      'best_test_std': 0.02,
      'bits': 3.25,
      'bits_std': 0.1,
    },
    'members': [
      {'seed': 3, 'fold': 0, 'test': 0.8, 'valid': 0.78},
      {'seed': 3, 'fold': 1, 'test': 0.82468, 'valid': 0.8},
    ],
    'cost_of_first': COST,
    'seconds': {'total': 120.0},
    'device': '1 x cpu',
    'data': DATA,
    'config': CONFIG,
  }
  return report | changes


def test_short_rows_of_one_run():
  assert list(tables.short_rows(single())) == [
    ('test accuracy', '87.65 % (epoch 17, best validation accuracy)'),
    ('validation accuracy', '43.83 %'),
    ('average bits', '3.25 of 32, features'),
    ('KiB, of FP32', 'features 2.0 of 16.0 per graph, weights 1.0 of 8.0'),
  ]


def test_short_rows_of_several_runs():
  assert list(tables.short_rows(group())) == [
    ('test accuracy', '81.23 % +- 1.23 % (mean and deviation of 2)'),
    ('validation accuracy', '79.00 % +- 0.10 % (lowest validation loss)'),
    ('average bits', '3.25 +- 0.10 of 32, features'),
    ('KiB, of FP32', 'features 2.0 of 16.0 per graph, weights 1.0 of 8.0'),
  ]


def test_rows_of_one_run():
  assert list(tables.rows(single())) == [
    ('test accuracy', '87.65 % at epoch 17'),
    ('  rule', 'epoch of the best validation'),
    ('validation accuracy', '43.83 %'),
    ('best test epoch', '58.44 % at epoch 21 (optimistic, as A2Q reports)'),
    ('average bits, usage-weighted', '3.250'),
    ('  with raw features', '3.350'),
    ('  with the side path of prompts', '3.500'),
    ('  with all quantized tensors', '3.750'),
    ('average bits, unweighted', '4.000'),
    ('average bits, as A2Q prints them', '3.100'),
    ('features per graph, of FP32', '2.00 of 16.00 KiB'),
    ('  metadata', '0.50 KiB'),
    ('  side path of prompts', '0.25 KiB'),
    ('weights, of FP32', '1.00 of 8.00 KiB'),
    ('  scales and biases', '0.12 KiB'),
    ('  tables of the quantizers', '5.00 KiB'),
    ('BitOPs per graph, dense, of FP32', '2.5 of 160.0 M'),
    ('  prompts', '0.3 M'),
    ('  neighbour sums', '1.2 M'),
    ('prompt parameters', '33 (1.25 %)'),
    ('time', '1.5 min, 0.12 s training per epoch'),
    ('device', '1 x cpu'),
    ('data', 'random graphs of the tests'),
  ]


def test_rows_of_several_runs():
  assert list(tables.rows(group())) == [
    ('test accuracy', '81.23 % +- 1.23 %'),
    ('  mean and deviation of', '2 runs'),
    ('  rule', 'epoch of the lowest validation loss'),
    ('validation accuracy', '79.00 % +- 0.10 %'),
    ('best test epoch', '83.00 % +- 2.00 % (optimistic, not a result)'),
    ('average bits, usage-weighted', '3.250'),
    ('  seed 3, fold 0', '80.00 % (validation 78.00 %)'),
    ('  seed 3, fold 1', '82.47 % (validation 80.00 %)'),
    ('time', '2.0 min'),
    ('device', '1 x cpu'),
  ]


def test_regression_has_numbers_and_no_percentages():
  rows = dict(tables.rows(single('mae', 0.45678)))
  assert rows['test mae'] == '0.4568 at epoch 17'
  assert rows['validation mae'] == '0.2284'
  assert rows['best test epoch'].startswith('0.3045 at epoch 21')
  rows = dict(tables.rows(group('mae')))
  assert rows['test mae'] == '0.8123 +- 0.0123'
  assert rows['  seed 3, fold 1'] == '0.8247 (validation 0.8000)'


@pytest.mark.parametrize('make', [single, group])
def test_note_on_data_that_is_not_comparable(make):
  assert 'note' not in dict(tables.rows(make()))
  assert 'nothing published' not in tables.title(make())
  part = make(data=DATA | {'comparable': False})
  assert dict(tables.rows(part))['note'] == 'fewer graphs than published'
  assert tables.title(part).endswith('(compares with nothing published)')


def test_bits_that_a2q_does_not_print():
  bits = COST['average_bits'] | {'published_print_out': None}
  rows = dict(tables.rows(single(cost=COST | {'average_bits': bits})))
  assert rows['average bits, as A2Q prints them'] == '-'


def printed(capsys, report, folder, **options):
  tables.print_table(report, folder, **options)
  return [line for line in capsys.readouterr().out.splitlines() if line]


@pytest.mark.parametrize('make', [single, group])
def test_table_has_five_rows_at_80_columns(make, capsys, monkeypatch, tmp_path):
  monkeypatch.setenv('COLUMNS', '80')
  first, *lines = printed(capsys, make(), tmp_path)
  assert first == 'tiny: gin, a2q, prompt gpf_lorap'
  assert len(lines) == 5
  *rows, last = lines
  for line, (name, value) in zip(rows, tables.short_rows(make()), strict=True):
    assert line.split(name)[1].strip() == value and len(line) <= 80
  assert last.split() == ['report', str(tmp_path / 'report.json')]


@pytest.mark.parametrize('make', [single, group])
def test_full_table_wraps_no_label(make, capsys, monkeypatch, tmp_path):
  monkeypatch.setenv('COLUMNS', '80')
  long = ' '.join(['longer than a line'] * 9)
  report = make(data=DATA | {'comparable': False, 'note': long})
  _, *lines = printed(capsys, report, tmp_path, full=True)
  names = [name for name, _ in tables.rows(report)]
  at = max(map(len, names)) + 4
  assert [line[2:at].rstrip() for line in lines if line[:at].strip()] == [
    *names,
    'report',
  ]
  note = [line[at:] for line in lines if 'longer' in line or 'line' in line]
  assert ' '.join(note) == long
  assert max(map(len, lines[:-1])) <= 80


def test_table_names_the_page_where_there_is_one(capsys, tmp_path):
  page = tmp_path / 'report.html'
  page.touch()
  assert str(page) in printed(capsys, single(), tmp_path)[-1]
