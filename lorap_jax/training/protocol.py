"""Seeds, folds and phases: what several runs make of one configuration."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import config_dict

from lorap_jax.training import loop, settings, workdir

_AVERAGED = ('test', 'valid', 'best_test')
_SCHEDULE = ('schedule', 'warmup', 'step_epochs', 'finetune_lr')


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
    NonFiniteError: a member diverged; the others of its fold are finished.
    Interrupted: a signal came; the same call goes on.
  """
  return run_together([(config, folder)])[0]


def run_together(members: Sequence[loop.Member]) -> list[dict[str, Any]]:
  """As `run`, for configurations of one kind, see `kind`.

  Args:
    members: configuration and work folder of each.

  Returns:
    The reports.

  Raises:
    See `run`.
  """
  for config, folder in members:
    for name in ('seeds', 'folds'):
      if config[name] < 1:
        raise ValueError(f'config: `{name}` must be at least 1: {config[name]}')
    if not _alone(config):
      workdir.claim_group(folder, settings.from_config(config).config)
  first, _ = members[0]
  found = []
  for number in range(first.folds):
    if not _alone(first):
      logging.info('Fold %d', first.data.fold + number)
    # Of all configurations, so that their programs are shared.
    of_fold = [own for member in members for own in _seeds(*member, number)]
    found.append(run_phases(of_fold))
  reports = []
  for i, (config, folder) in enumerate(members):
    place = slice(i * config.seeds, (i + 1) * config.seeds)
    of_seeds = zip(*(of_fold[place] for of_fold in found), strict=True)
    own = [report for folds in of_seeds for report in folds]
    if _alone(config):
      reports += own
      continue
    plain = settings.from_config(config).config
    reports.append(summarize(own, plain))
    workdir.write_json(folder / workdir.REPORT, reports[-1])
  return reports


def kind(config: config_dict.ConfigDict) -> str:
  """What configurations of `run_together` have in common.

  All but the seed, the optimizer's rates and the schedule, which are numbers
  that a compiled program reads.

  Args:
    config: as `configs.default`.

  Returns:
    A key.
  """
  values = config.to_dict()
  del values['seed'], values['optim']
  train = {k: v for k, v in values['train'].items() if k not in _SCHEDULE}
  return repr({**values, 'train': train})


def _alone(config: config_dict.ConfigDict) -> bool:
  """The work folder is that of the one run."""
  return config.seeds == config.folds == 1


def _seeds(
  config: config_dict.ConfigDict, folder: pathlib.Path, number: int
) -> list[loop.Member]:
  """Configuration and folder of the seeds of a fold, given by its number."""
  if _alone(config):
    return [(config, folder)]
  fold = config.data.fold + number
  return [
    (
      _changed(
        config, {'seed': seed, 'seeds': 1, 'folds': 1, 'data.fold': fold}
      ),
      folder / f'seed_{seed}_fold_{fold}',
    )
    for seed in range(config.seed, config.seed + config.seeds)
  ]


def run_phases(members: Sequence[loop.Member]) -> list[dict[str, Any]]:
  """Runs the phases of members that differ in seed, rates and schedule.

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
  for own, folder in members:
    if not (folder / 'search').is_dir():
      # Before the search, not after it: the folder may be another run's.
      workdir.claim(folder, settings.from_config(own).config)
  logging.info('MixQ, first phase: search')
  found = _run_phase(
    members, 'search', 'mixq_search', config.train.search_epochs
  )
  if config.train.pretrain_epochs:
    logging.info('MixQ: full precision')
    _run_phase(members, 'pretrain', 'fp32', config.train.pretrain_epochs)
  logging.info('MixQ, second phase: the bit-widths found')
  return loop.train_members(
    [
      (_second_phase(own, report['assignment']), folder)
      for (own, folder), report in zip(members, found, strict=True)
    ]
  )


def _second_phase(
  config: config_dict.ConfigDict, assignment: dict[str, int]
) -> config_dict.ConfigDict:
  changes: dict[str, Any] = {'scheme.assignment': assignment}
  if config.train.pretrain_epochs:
    # By its place in the folder, which may move.
    changes['train.init_from'] = 'pretrain'
    changes['optim.learning_rate'] = config.train.finetune_lr
    changes['optim.weight_decay'] = 0.0
  return _changed(config, changes)


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
