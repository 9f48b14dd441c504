"""Seeds, folds and phases: what several runs make of one configuration."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import config_dict

from lorap_jax.training import loop, settings, workdir

_AVERAGED = ('test', 'valid', 'best_test')


def run(config: config_dict.ConfigDict, folder: pathlib.Path) -> dict[str, Any]:
  """Runs a configuration with all its seeds and folds.

  With `config.seeds` or `config.folds` above 1, each member has a folder of its
  own, `seed_S_fold_F`, and their mean and deviation become the report. The
  seeds of a fold run together, see `loop.train_members`. A finished member is
  not run again.

  Args:
    config: as `configs.default`.
    folder: work folder.

  Returns:
    The report: of the one run, or `summarize` of the members.

  Raises:
    ValueError: see `loop.train_and_evaluate`; seeds or folds below 1, or fewer
      than those of the report that the folder has.
    Interrupted: a signal came; the same call goes on.
  """
  for name in ('seeds', 'folds'):
    if config[name] < 1:
      raise ValueError(f'config: `{name}` must be at least 1: {config[name]}')
  if config.seeds == config.folds == 1:
    return run_phases([(config, folder)])[0]
  plain = settings.from_config(config).config
  workdir.claim_group(folder, plain)
  seeds = [config.seed + s for s in range(config.seeds)]
  by_fold = []
  for fold in range(config.data.fold, config.data.fold + config.folds):
    logging.info('Fold %d, seeds %d to %d', fold, seeds[0], seeds[-1])
    members = []
    for seed in seeds:
      own = {'seed': seed, 'seeds': 1, 'folds': 1, 'data.fold': fold}
      place = folder / f'seed_{seed}_fold_{fold}'
      members.append((_changed(config, own), place))
    by_fold.append(run_phases(members))
  of_seeds = zip(*by_fold, strict=True)
  report = summarize([r for folds in of_seeds for r in folds], plain)
  workdir.write_json(folder / workdir.REPORT, report)
  return report


def run_phases(members: Sequence[loop.Member]) -> list[dict[str, Any]]:
  """Runs the phases of members that differ in their seed.

  MixQ searches bit-widths first (in `search`), trains the same network in full
  precision if `train.pretrain_epochs` is not 0 (in `pretrain`), and then
  trains the quantized one, from these weights if there are any. All others
  have one phase.

  Args:
    members: configuration and folder of each.

  Returns:
    The reports of the last phase.
  """
  config, _ = members[0]
  if config.scheme.name != 'mixq' or config.scheme.assignment is not None:
    return loop.train_members(members)
  for config, folder in members:
    if not (folder / 'search').is_dir():
      # Before the search, not after it: the folder may be another run's.
      workdir.claim(folder, settings.from_config(config).config)
  logging.info('MixQ, first phase: search')
  found = _run_phase(
    members, 'search', 'mixq_search', config.train.search_epochs
  )
  last: dict[str, Any] = {}
  if config.train.pretrain_epochs:
    logging.info('MixQ: full precision')
    _run_phase(members, 'pretrain', 'fp32', config.train.pretrain_epochs)
    # By its place in the folder, which may move.
    last['train.init_from'] = 'pretrain'
    last['optim.learning_rate'] = config.train.finetune_lr
    last['optim.weight_decay'] = 0.0
  logging.info('MixQ, second phase: the bit-widths found')
  assignments = [{'scheme.assignment': r['assignment']} for r in found]
  return loop.train_members(
    [
      (_changed(own, last | assignment), folder)
      for (own, folder), assignment in zip(members, assignments, strict=True)
    ]
  )


def _run_phase(
  members: Sequence[loop.Member], name: str, scheme: str, epochs: int | None
) -> list[dict[str, Any]]:
  """Runs a phase before the last, in a folder `name` of each member."""
  changes: dict[str, Any] = {'scheme.name': scheme}
  if epochs:  # On a subset as well.
    lengths = ('train.epochs', 'train.subset_epochs')
    changes |= dict.fromkeys(lengths, epochs)
  return loop.train_members(
    [(_changed(own, changes), folder / name) for own, folder in members]
  )


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
