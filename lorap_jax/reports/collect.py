"""Reads what runs have left in their folders."""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from lorap_jax.reports import published
from lorap_jax.runs import cells, workdir

# Folders of a run that are runs too, and count as its part.
_PARTS = re.compile(r'seed_\d+_fold_\d+|search|pretrain')
# Parts of a `FinishedRun`.
_TEXTS = (
  'dataset',
  'data_name',
  'note',
  'backbone',
  'quantizer',
  'prompt',
  'placement',
  'metric',
  'rule',
)
_RULES = {
  'val_metric': 'best validation {}',
  'val_loss': published.VALID_LOSS,
  'last': 'last epoch',
}


class Value(NamedTuple):
  """A figure, of one run or as a mean.

  Attributes:
    mean: over seeds or folds, or of the one run.
    deviation: sample standard deviation, None of one run.
  """

  mean: float
  deviation: float | None = None


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """What a run folder holds, of one run or of several seeds and folds.

  Attributes:
    folder: the work folder.
    dataset: name in the configuration; a TUDataset in small letters.
    data_name: name of the data that it was trained on.
    comparable: whether results on this data compare with published ones.
    note: remark on this data.
    backbone: `gcn`, `gin` or `gat`.
    quantizer: scheme, with its bits if they are fixed: `qat4`.
    prompt: name of the prompt.
    placement: where prompts on aggregated features act; '' without them.
    metric: `accuracy`, in 0..1, or `mae`.
    rule: which epoch counts.
    test: test metric at that epoch.
    valid: validation metric at that epoch.
    best_test: test metric at the best test epoch; optimistic, not a result.
    bits: average bits of features, usage-weighted.
    members: test metric by (seed, fold).
    settings: configuration by dotted path.
  """

  folder: pathlib.Path
  dataset: str
  data_name: str
  comparable: bool
  note: str
  backbone: str
  quantizer: str
  prompt: str
  placement: str
  metric: str
  rule: str
  test: Value
  valid: Value
  best_test: Value
  bits: Value
  members: dict[tuple[int, int], float]
  settings: dict[str, Any]

  @property
  def prompt_text(self) -> str:
    """Name of the prompt, with its placement if it is not the default."""
    if self.placement in ('', 'pre'):
      return self.prompt
    return f'{self.prompt} ({self.placement})'

  @property
  def host(self) -> tuple[str, ...]:
    """Data, backbone, quantizer and metric: common to all prompts."""
    return (
      self.dataset,
      self.data_name,
      self.backbone,
      self.quantizer,
      self.metric,
    )

  @property
  def cell(self) -> tuple[str, ...]:
    """The `host` with its prompt and where that acts."""
    return *self.host, self.prompt, self.placement


def collect(
  folders: Iterable[pathlib.Path],
) -> tuple[list[FinishedRun], list[str]]:
  """Reads all runs in some folders.

  Args:
    folders: run folders, or folders that hold them at any depth. The members
      of a group and the phases of a run are not listed on their own.

  Returns:
    The runs, in the order of their folders; one line for each folder that
    could not be read.
  """
  runs: list[FinishedRun] = []
  warnings: list[str] = []
  seen: set[pathlib.Path] = set()
  for root in folders:
    found = list(_run_folders(root))
    if not found:
      warnings.append(f'{root}: no such folder, or no run in it')
    for folder in found:
      place = folder.resolve()
      if place in seen:
        continue
      seen.add(place)
      try:
        runs.append(read(folder))
      except workdir.WorkdirError as error:
        warnings.append(str(error))
  return runs, warnings


def _run_folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
  for path, folders, files in os.walk(root):
    is_run = workdir.REPORT in files or workdir.CONFIG in files
    if is_run:
      yield pathlib.Path(path)
      folders[:] = [
        name
        for name in folders
        if name != workdir.CHECKPOINTS and not _PARTS.fullmatch(name)
      ]
    folders.sort()


def read(folder: pathlib.Path) -> FinishedRun:
  """Reads a run.

  Args:
    folder: work folder of the run.

  Returns:
    The run.

  Raises:
    WorkdirError: it has not finished, or its report is damaged or of another
      version.
  """
  path = folder / workdir.REPORT
  if not path.exists():
    raise workdir.WorkdirError(
      f'{folder}: not finished, it has no {workdir.REPORT}'
    )
  report = workdir.read_json(path)
  with workdir.reading(path):
    run = _run(folder, report)
    _check(run)
  return run


def _check(run: FinishedRun) -> None:
  """Refuses texts that are none, and figures that are not finite."""
  for name in _TEXTS:
    if not isinstance(getattr(run, name), str):
      raise TypeError(f'{name} is {getattr(run, name)!r:.40}')
  for name in ('test', 'valid', 'best_test', 'bits'):
    if not all(math.isfinite(v) for v in getattr(run, name) if v is not None):
      raise ValueError(f'{name} is not finite')


def _run(folder: pathlib.Path, report: dict[str, Any]) -> FinishedRun:
  config, result = _configuration(folder, report), report['result']
  data, prompt = report['data'], config['prompt']
  metric = result['metric']
  return FinishedRun(
    folder=folder,
    dataset=_dataset(config['data'], data['name']),
    data_name=data['name'],
    comparable=data['comparable'],
    note=data['note'],
    backbone=config['model']['name'],
    quantizer=cells.quantizer_text(config['scheme']),
    prompt=prompt['name'],
    placement=prompt['placement'] if 'lorap' in prompt['name'] else '',
    metric=metric,
    rule=rule_text(result['rule'], metric),
    settings=flat(config),
    **_results(report, result, config),
  )


def _results(
  report: dict[str, Any], result: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
  if 'members' in report:
    values = {
      name: Value(float(result[name]), float(result[f'{name}_std']))
      for name in ('test', 'valid', 'best_test', 'bits')
    }
    members = {
      (m['seed'], m['fold']): float(m['test']) for m in report['members']
    }
    return {**values, 'members': members}
  values = {
    'test': result['test'],
    'valid': result['valid'],
    'best_test': result['best_test_epoch']['test'],
    'bits': report['cost']['average_bits']['usage_weighted'],
  }
  values = {name: Value(float(value)) for name, value in values.items()}
  member = (report['seed'], config['data'].get('fold', 0))
  return {**values, 'members': {member: values['test'].mean}}


def _configuration(
  folder: pathlib.Path, report: dict[str, Any]
) -> dict[str, Any]:
  """The configuration as it was given.

  MixQ's last phase has the bits it found, and the optimiser of a fine-tuning,
  in its own. Earlier versions have what was given in the search alone.
  """
  config = report.get('given', report['config'])
  path = folder / 'search' / workdir.CONFIG
  if {'members', 'given'} & report.keys() or not path.exists():
    return config
  given = workdir.read_json(path)
  return {
    **config,
    'optim': given['optim'],
    'scheme': {**config['scheme'], 'assignment': None},
    'train': {**config['train'], 'init_from': given['train']['init_from']},
  }


def _dataset(data: dict[str, Any], trained_on: str) -> str:
  if data['name'] == 'tu':
    return data['tu_name'].lower().replace('-', '_')
  return trained_on if data['name'] == 'custom' else data['name']


def rule_text(rule: Any, metric: str) -> str:
  """Which epoch counts, in few words."""
  return _RULES.get(rule, rule).format(metric)


def flat(values: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """A nested dict by dotted path."""
  found = {}
  for name, value in values.items():
    if isinstance(value, dict):
      found |= flat(value, f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = value
  return found
