"""The table that a run ends with, row by row."""

import pytest

from lorap_jax.training import tables

DATA = {
  'name': 'tiny',
  'origin': 'random graphs of the tests',
  'comparable': True,
  'note': 'fewer graphs than published',
}
CONFIG = {
  'model': {'name': 'gin'},
  'scheme': {'name': 'a2q'},
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
    'seconds': {'total': 120.0},
    'device': '1 x cpu',
    'data': DATA,
    'config': CONFIG,
  }
  return report | changes


def test_rows_of_one_run():
  assert list(tables.rows(single())) == [
    ('test accuracy at epoch 17', '87.65 %'),
    ('  epoch of the best validation; validation', '43.83 %'),
    ('best test epoch (21; optimistic, as A2Q reports)', '58.44 %'),
    ('average bits, usage-weighted', '3.250'),
    ('  with the raw features that enter a convolution', '3.350'),
    ('  with the full-precision side path of the prompts', '3.500'),
    ('  with all other quantized tensors', '3.750'),
    ('average bits, unweighted over quantizers', '4.000'),
    ('average bits, as A2Q prints them', '3.100'),
    ('feature memory per graph, of FP32', '2.00 KiB of 16.00 KiB'),
    ('  metadata; side path', '0.50 KiB; 0.25 KiB'),
    ('weight memory, of FP32', '1.00 KiB of 8.00 KiB'),
    ('  scales and biases; tables', '0.12 KiB; 5.00 KiB'),
    ('BitOPs per graph, dense products, of FP32', '2.5 M of 160.0 M'),
    ('  prompts; neighbour sums', '0.3 M; 1.2 M'),
    ('prompt parameters', '33 (1.25 %)'),
    ('time', '1.5 min, 0.12 s training per epoch'),
    ('device', '1 x cpu'),
    ('data', 'random graphs of the tests'),
  ]


def test_rows_of_several_runs():
  assert list(tables.rows(group())) == [
    ('test accuracy, mean and deviation of 2', '81.23 % +- 1.23 %'),
    (
      '  epoch of the lowest validation loss; validation',
      '79.00 % +- 0.10 %',
    ),
    ('best test epoch (optimistic, not a result)', '83.00 % +- 2.00 %'),
    ('average bits, usage-weighted', '3.250'),
    ('  seed 3, fold 0', '80.00 % (validation 78.00 %)'),
    ('  seed 3, fold 1', '82.47 % (validation 80.00 %)'),
    ('time', '2.0 min'),
    ('device', '1 x cpu'),
  ]


def test_regression_has_numbers_and_no_percentages():
  rows = dict(tables.rows(single('mae', 0.45678)))
  assert rows['test mae at epoch 17'] == '0.4568'
  assert rows['  epoch of the best validation; validation'] == '0.2284'
  name = 'best test epoch (21; optimistic, as A2Q reports)'
  assert rows[name] == '0.3045'
  rows = dict(tables.rows(group('mae')))
  assert rows['test mae, mean and deviation of 2'] == '0.8123 +- 0.0123'
  assert rows['  seed 3, fold 1'] == '0.8247 (validation 0.8000)'


@pytest.mark.parametrize('make', [single, group])
def test_note_on_data_that_is_not_comparable(make):
  assert 'note' not in dict(tables.rows(make()))
  rows = dict(tables.rows(make(data=DATA | {'comparable': False})))
  assert rows['note'] == 'fewer graphs than published'


def test_bits_that_a2q_does_not_print():
  bits = COST['average_bits'] | {'published_print_out': None}
  rows = dict(tables.rows(single(cost=COST | {'average_bits': bits})))
  assert rows['average bits, as A2Q prints them'] == '-'


@pytest.mark.parametrize('make', [single, group])
def test_table_is_printed_with_its_title(make, capsys, monkeypatch):
  monkeypatch.setenv('COLUMNS', '120')
  tables.print_table(make())
  text = capsys.readouterr().out
  assert 'tiny: gin, a2q, prompt gpf_lorap' in text
  for name, value in tables.rows(make()):
    assert name in text and value in text
