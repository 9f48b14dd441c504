"""Seeds, folds and phases: what several runs make of one configuration."""

import pathlib
from typing import Any

import numpy as np
from absl import logging
from ml_collections import config_dict

from lorap_jax.training import loop, settings, workdir

_AVERAGED = ('test', 'valid', 'best_test')


def run(config: config_dict.ConfigDict, folder: pathlib.Path) -> dict[str, Any]:
  """Runs a configuration with all its seeds and folds.

  With `config.seeds` or `config.folds` above 1, each member runs in a folder
  of its own, `seed_S_fold_F`, and their mean and deviation become the report.
  A finished member is not run again.

  Args:
    config: as `configs.default`.
    folder: work folder.

  Returns:
    The report: of the one run, or `summarize` of the members.

  Raises:
    ValueError: see `loop.train_and_evaluate`; seeds or folds below 1.
    Interrupted: a signal came; the same call goes on.
  """
  for name in ('seeds', 'folds'):
    if config[name] < 1:
      raise ValueError(f'config: `{name}` must be at least 1: {config[name]}')
  members = [
    (config.seed + s, config.data.fold + f)
    for s in range(config.seeds)
    for f in range(config.folds)
  ]
  if len(members) == 1:
    return run_phases(config, folder)
  plain = settings.from_config(config).config
  workdir.claim_group(folder, plain)
  reports = []
  for number, (seed, fold) in enumerate(members, start=1):
    logging.info('Seed %d, fold %d (%d/%d)', seed, fold, number, len(members))
    member = _changed(
      config, {'seed': seed, 'seeds': 1, 'folds': 1, 'data.fold': fold}
    )
    reports.append(run_phases(member, folder / f'seed_{seed}_fold_{fold}'))
  report = summarize(reports, plain)
  workdir.write_json(folder / workdir.REPORT, report)
  return report


def run_phases(
  config: config_dict.ConfigDict, folder: pathlib.Path
) -> dict[str, Any]:
  """Runs the phases of one member.

  MixQ searches bit-widths first (in `search`), trains the same network in full
  precision if `train.pretrain_epochs` is not 0 (in `pretrain`), and then
  trains the quantized one, from these weights if there are any. All others
  have one phase.

  Args:
    config: of the member.
    folder: its folder.

  Returns:
    The report of the last phase.
  """
  if config.scheme.name != 'mixq' or config.scheme.assignment is not None:
    return loop.train_and_evaluate(config, folder)
  if not (folder / 'search').is_dir():
    # Before the search, not after it: the folder may be another run's.
    workdir.claim(folder, settings.from_config(config).config)
  search = _changed(
    config,
    {
      'scheme.name': 'mixq_search',
      **_length(config.train.search_epochs),
    },
  )
  logging.info('MixQ, first phase: search')
  found = loop.train_and_evaluate(search, folder / 'search')
  last: dict[str, Any] = {'scheme.assignment': found['assignment']}
  if config.train.pretrain_epochs:
    logging.info('MixQ: full precision')
    pretrain = _changed(
      config,
      {
        'scheme.name': 'fp32',
        **_length(config.train.pretrain_epochs),
      },
    )
    loop.train_and_evaluate(pretrain, folder / 'pretrain')
    last['train.init_from'] = str(folder / 'pretrain')
    last['optim.learning_rate'] = config.train.finetune_lr
    last['optim.weight_decay'] = 0.0
  logging.info('MixQ, second phase: the bit-widths found')
  return loop.train_and_evaluate(_changed(config, last), folder)


def summarize(
  reports: list[dict[str, Any]], config: dict[str, Any]
) -> dict[str, Any]:
  """Mean and deviation over seeds and folds.

  Args:
    reports: of the members.
    config: of the group.

  Returns:
    `result` with means and sample standard deviations (`*_std`), `members`
    with the values of each, and what the members share.
  """
  first = reports[0]
  members = [
    {
      'seed': r['seed'],
      'fold': r['config']['data']['fold'],
      'test': r['result']['test'],
      'valid': r['result']['valid'],
      'train': r['result']['train'],
      'best_test': r['result']['best_test_epoch']['test'],
      'epoch': r['result']['epoch'],
      'bits': r['cost']['average_bits']['usage_weighted'],
    }
    for r in reports
  ]
  result = {
    name: first['result'][name] for name in ('metric', 'rule', 'rule_in_words')
  }
  result['count'] = len(members)
  for name in (*_AVERAGED, 'bits'):
    values = [m[name] for m in members]
    result[name] = float(np.mean(values))
    result[f'{name}_std'] = float(np.std(values, ddof=1))
  return {
    'result': result,
    'members': members,
    'cost_of_first': first['cost'],
    'parameters': first['parameters'],
    'seconds': {'total': sum(r['seconds']['total'] for r in reports)},
    'data': first['data'],
    'versions': first['versions'],
    'device': first['device'],
    'config': config,
  }


def _length(epochs: int | None) -> dict[str, int]:
  """Changes that make a phase this long, on a subset as well."""
  if not epochs:
    return {}
  return dict.fromkeys(('train.epochs', 'train.subset_epochs'), epochs)


def _changed(
  config: config_dict.ConfigDict, changes: dict[str, Any]
) -> config_dict.ConfigDict:
  """A copy with other values, given by dotted path."""
  values = config.to_dict()
  for path, value in changes.items():
    *parents, name = path.split('.')
    place = values
    for parent in parents:
      place = place[parent]
    place[name] = value
  return config_dict.ConfigDict(values)
