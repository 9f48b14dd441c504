"""Seeds, folds and phases: what several runs make of one configuration."""

import contextlib
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import config_dict

from lorap_jax.runs import fields, loop, settings, workdir
from lorap_jax.runs.hold import hold
from lorap_jax.runs.run import NonFiniteError
from lorap_jax.training.train_config import TrainConfig

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
    ValueError: a configuration, data file or folder that makes no run; seeds or
      folds below 1, or fewer than those of the report that the folder has.
    NonFiniteError: a member diverged; the others are finished.
    Interrupted: a signal came; the same call goes on.
  """
  return loop.report_of(run_together([(config, folder)])[0])


def run_together(members: Sequence[loop.Member]) -> list[loop.Outcome]:
  """Runs configurations of one kind (`fields.kind`), each as `run` does.

  Args:
    members: configuration and work folder of each.

  Returns:
    The report of each, or the error of the first of its runs that diverged.

  Raises:
    ValueError: as from `run`; or configurations of different kinds.
    Interrupted: a signal came; the same call goes on.
  """
  if len({fields.kind(config.to_dict()) for config, _ in members}) > 1:
    raise ValueError('`members` must be of one kind, see `fields.kind`')
  for config, _ in members:
    settings.from_config(config)  # Refuses mistakes before any work.
  with contextlib.ExitStack() as held:
    for _, folder in members:
      held.enter_context(hold(folder))
    return _run_together(members)


def _run_together(members: Sequence[loop.Member]) -> list[loop.Outcome]:
  """`run_together`, in folders that no other process uses."""
  (first, _), *_ = members
  if first.seeds == first.folds == 1:
    return run_phases(members)
  for config, folder in members:
    workdir.claim_group(folder, settings.from_config(config).config)
  outcomes: list[list[loop.Outcome]] = [[] for _ in members]
  start = first.data.fold or 0
  for fold in range(start, start + first.folds):
    if first.folds > 1:
      logging.info('Fold %d', fold)
    # Of all configurations, so that they share programs.
    seeds = [seed for member in members for seed in _seeds(member, fold)]
    of_fold = iter(run_phases(seeds))
    for own in outcomes:
      own += itertools.islice(of_fold, first.seeds)
  return [
    _group_outcome(member, own)
    for member, own in zip(members, outcomes, strict=True)
  ]


def _seeds(member: loop.Member, fold: int) -> list[loop.Member]:
  """The members that are the seeds of one, on a fold."""
  config, folder = member
  seeds = []
  for seed in range(config.seed, config.seed + config.seeds):
    own = {'seed': seed, 'seeds': 1, 'folds': 1}
    if config.folds > 1:
      own['data.fold'] = fold
    place = folder / workdir.member(seed, fold)
    seeds.append((_changed(config, own), place))
  return seeds


def _group_outcome(
  member: loop.Member, outcomes: Sequence[loop.Outcome]
) -> loop.Outcome:
  """Writes the report of a group, if none of its runs diverged.

  Args:
    member: configuration and folder of the group.
    outcomes: of all seeds of the first fold, then of the next.
  """
  config, folder = member
  errors = [o for o in outcomes if isinstance(o, NonFiniteError)]
  if errors:
    at = outcomes.index(errors[0])
    seed, fold = at % config.seeds, at // config.seeds
    return NonFiniteError(
      f'{len(errors)} of {len(outcomes)} runs diverged, the others are '
      f'finished; seed {config.seed + seed}, fold '
      f'{(config.data.fold or 0) + fold}: '
      f'{errors[0]}'
    )
  by_seed = [
    loop.report_of(outcome)
    for seed in range(config.seeds)
    for outcome in outcomes[seed :: config.seeds]
  ]
  given = settings.from_config(config).config
  # The default of the data, if none was set.
  length = by_seed[0]['config']['train']['epochs']
  given = {**given, 'train': {**given['train'], 'epochs': length}}
  workdir.resolve(folder, given)
  report = summarize(by_seed, given)
  workdir.write_json(folder / workdir.REPORT, report)
  return report


def run_phases(members: Sequence[loop.Member]) -> list[loop.Outcome]:
  """Runs the phases of members that differ in seed, rates and schedule.

  MixQ searches bit-widths first (in `search`), trains the same network in full
  precision if `train.pretrain_epochs` is not 0 (in `pretrain`), and then
  trains the quantized one, from these weights if there are any. All others
  have one phase.

  Args:
    members: configuration and folder of each.

  Returns:
    The report of the last phase of each, or the error of one that diverged.
  """
  config, _ = members[0]
  if config.scheme.name != 'mixq' or config.scheme.assignment is not None:
    return loop.train_members(members)
  for own, folder in members:
    if not (folder / 'search').is_dir():
      # Before the search, not after it: the folder may be another run's.
      workdir.claim(folder, settings.from_config(own).config)
  logging.info('MixQ, first phase: search')
  epochs = config.train.search_epochs
  outcomes = _run_phase(members, 'search', 'mixq_search', epochs)
  found = {
    folder: o['assignment']
    for (_, folder), o in zip(members, outcomes, strict=True)
    if isinstance(o, dict)
  }
  pretrain = config.train.pretrain_epochs
  if pretrain:
    logging.info('MixQ: full precision')
    outcomes = _carry_on(
      members, outcomes, lambda m: _run_phase(m, 'pretrain', 'fp32', pretrain)
    )
  logging.info('MixQ, second phase: the bit-widths found')
  outcomes = _carry_on(
    members,
    outcomes,
    lambda left: loop.train_members(
      [(_second_phase(own, found[folder]), folder) for own, folder in left]
    ),
  )
  return [_with_given(m, o) for m, o in zip(members, outcomes, strict=True)]


def _carry_on(
  members: Sequence[loop.Member],
  outcomes: Sequence[loop.Outcome],
  phase: Callable[[list[loop.Member]], list[loop.Outcome]],
) -> list[loop.Outcome]:
  """Outcomes of the next phase; those that diverged before keep theirs."""
  pairs = list(zip(members, outcomes, strict=True))
  left = [m for m, o in pairs if not isinstance(o, NonFiniteError)]
  after = iter(phase(left) if left else [])
  return [o if isinstance(o, NonFiniteError) else next(after) for _, o in pairs]


def _with_given(member: loop.Member, outcome: loop.Outcome) -> loop.Outcome:
  """Adds the configuration as it was given to the report of a last phase."""
  config, folder = member
  if isinstance(outcome, NonFiniteError) or 'given' in outcome:
    return outcome
  given = settings.from_config(config).config
  length = outcome['config']['train']['epochs']
  given = {**given, 'train': {**given['train'], 'epochs': length}}
  report = {**outcome, 'given': given}
  workdir.write_json(folder / workdir.REPORT, report)
  return report


def _second_phase(
  config: config_dict.ConfigDict, assignment: dict[str, int]
) -> config_dict.ConfigDict:
  changes: dict[str, Any] = {'scheme.assignment': assignment}
  if config.train.pretrain_epochs:
    # By its place in the folder, which may move.
    changes['train.init_from'] = 'pretrain'
    rate = config.train.finetune_lr
    changes['optim.learning_rate'] = (
      TrainConfig.finetune_lr if rate is None else rate
    )
    changes['optim.weight_decay'] = 0.0
  return _changed(config, changes)


def _run_phase(
  members: Sequence[loop.Member], name: str, scheme: str, epochs: int | None
) -> list[loop.Outcome]:
  """Runs a phase before the last, in a folder `name` of each member."""
  changes: dict[str, Any] = {'scheme.name': scheme}
  if epochs:
    changes['train.epochs'] = epochs
  return loop.train_members(
    [(_changed(own, changes), folder / name) for own, folder in members]
  )


def summarize(
  reports: list[dict[str, Any]], config: dict[str, Any]
) -> dict[str, Any]:
  """Mean and deviation over seeds and folds.

  Args:
    reports: reports of the members.
    config: configuration of the group.

  Returns:
    `result` with means and sample standard deviations (`*_std`), `members`
    with the values of each, and what the members share.
  """
  first = reports[0]
  members = [
    {
      'seed': r['seed'],
      'fold': r['config']['data'].get('fold', 0),
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
  beside = [r['result'].get('network') for r in reports]
  if all(beside):
    result['network'] = {
      split: float(np.mean([own[split] for own in beside]))
      for split in ('test', 'valid')
    }
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
  """A copy with other values, given by dotted path.

  What means nothing to it any more, such as the search to what follows it, is
  left out.
  """
  values = config.to_dict()
  for path, value in changes.items():
    *parents, name = path.split('.')
    place = values
    for parent in parents:
      place = place[parent]
    place[name] = value
  level = fields.level_of(values)
  for path in fields.unused(values, level):
    group, _, name = path.rpartition('.')
    values[group][name] = None
  return config_dict.ConfigDict(values)
