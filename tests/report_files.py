"""Small reports of runs, written by hand, for the tests that collect them."""

import copy
import json
import pathlib
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
  'seed': 0,
  'seeds': 1,
  'folds': 1,
  'data': {'name': 'cora', 'dir': None, 'fold': 0, 'tu_name': None},
  'model': {'name': 'gcn', 'features': 16},
  'scheme': {'name': 'a2q_node', 'bits': 4, 'assignment': None},
  'prompt': {'name': 'none', 'placement': 'pre', 'rank': 4},
  'optim': {'learning_rate': 0.01, 'weight_decay': 0.1, 'prompt_factor': 1.0},
  'train': {'epochs': 200, 'plots': True, 'init_from': None},
}
DATA = {'name': 'cora', 'comparable': True, 'note': 'from the public files'}


def config(**changes: Any) -> dict[str, Any]:
  """The configuration with changes, by path with double underscores."""
  values = copy.deepcopy(CONFIG)
  for path, value in changes.items():
    *parents, name = path.split('__')
    place = values
    for parent in parents:
      place = place[parent]
    place[name] = value
  return values


def single(
  test: float = 0.8,
  *,
  bits: float = 1.7,
  metric: str = 'accuracy',
  rule: str = 'val_metric',
  data: dict[str, Any] | None = None,
  **changes: Any,
) -> dict[str, Any]:
  """A report of one run; validation 0.01 above test, best test 0.02."""
  values = config(**changes)
  return {
    'result': {
      'metric': metric,
      'rule': rule,
      'rule_in_words': 'some epoch',
      'test': test,
      'valid': test + 0.01,
      'train': 0.9,
      'epoch': 7,
      'best_test_epoch': {'test': test + 0.02, 'epoch': 9, 'note': ''},
    },
    'cost': {'average_bits': {'usage_weighted': bits}},
    'data': data or DATA,
    'seed': values['seed'],
    'config': values,
  }


def group(
  tests: dict[tuple[int, int], float],
  *,
  bits: float = 1.7,
  metric: str = 'accuracy',
  rule: str = 'val_metric',
  data: dict[str, Any] | None = None,
  **changes: Any,
) -> dict[str, Any]:
  """A report of several seeds and folds, from their test metrics."""
  values = np.array(list(tests.values()))
  mean, std = float(values.mean()), float(values.std(ddof=1))
  seeds, folds = ({key[i] for key in tests} for i in (0, 1))
  return {
    'result': {
      'metric': metric,
      'rule': rule,
      'rule_in_words': 'some epoch',
      'count': len(tests),
      'test': mean,
      'test_std': std,
      'valid': mean + 0.01,
      'valid_std': std,
      'best_test': mean + 0.02,
      'best_test_std': std,
      'bits': bits,
      'bits_std': 0.1,
    },
    'members': [
      {'seed': seed, 'fold': fold, 'test': value, 'valid': value}
      for (seed, fold), value in tests.items()
    ],
    'cost_of_first': {'average_bits': {'usage_weighted': bits}},
    'data': data or DATA,
    'config': config(seeds=len(seeds), folds=len(folds), **changes),
  }


def write(
  folder: pathlib.Path,
  report: dict[str, Any] | None,
  settings: dict[str, Any] | None = None,
) -> pathlib.Path:
  """Writes a run folder; without a report, that of an unfinished run."""
  folder.mkdir(parents=True)
  if settings is None:
    settings = CONFIG if report is None else report['config']
  (folder / 'config.json').write_text(json.dumps(settings))
  if report is not None:
    (folder / 'report.json').write_text(json.dumps(report))
  return folder
