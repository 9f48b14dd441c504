"""The result of a run, measured: report.json."""

import importlib.metadata
import platform
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

from lorap_jax._version import __version__
from lorap_jax.nn import methods
from lorap_jax.quantization import a2q_groups
from lorap_jax.runs import processes, workdir
from lorap_jax.training import accounting, findings, history, steps, xray
from lorap_jax.training import state as state_lib
from lorap_jax.training.tasks import Task

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
  """Versions of Python, of this library and of what it computes with."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    'python': platform.python_version(),
    'lorap_jax': __version__,
    **found,
  }


def device(mesh: Any = None) -> str:
  """Number and kind of the devices that a run uses, and how many there are.

  Args:
    mesh: those that share a batch; None for one.
  """
  devices, used = jax.devices(), 1 if mesh is None else mesh.size
  more = '' if used == len(devices) else f', of {len(devices)} there'
  if jax.process_count() > 1:
    more = f', of {jax.process_count()} processes'
  return f'{used} x {devices[0].device_kind} ({jax.default_backend()}){more}'


def data_text(data: Any) -> str:
  """A data set and the sizes of its splits; what is to be noted below it.

  Args:
    data: `data.DataSplits` or `data.NodeDataset`.

  Returns:
    Lines.
  """
  source = data.source
  sizes = ' / '.join(
    f'{source["counts"][split]:,}' for split in ('train', 'valid', 'test')
  )
  text = f'{source["name"]}, {sizes} '
  if data.level == 'node':
    text += f'of {data.num_nodes:,} nodes'
  else:
    text += 'graphs'
  text += ' for training / validation / test'
  if not source['comparable']:
    text += '; compares with nothing published'
  return f'{text}\n{source["note"]}'


def metric_text(task: Task, record: dict[str, Any], split: str) -> str:
  """The metric of a split, as text: `97.10%` or `0.4312`."""
  value = record[f'{split}_{task.metric}']
  return f'{100 * value:.2f}%' if task.metric == 'accuracy' else f'{value:.4f}'


def epoch_line(task: Task, record: dict[str, Any], epochs: int) -> str:
  """One line for a finished epoch.

  Args:
    task: task of the run.
    record: record of the epoch.
    epochs: length of the run.

  Returns:
    The line.
  """
  seconds = record['train_seconds']
  return (
    f'epoch {record["epoch"]}/{epochs}  loss {record["train_loss"]:.4f}  '
    f'train {metric_text(task, record, "train")}  '
    f'val {metric_text(task, record, "valid")}  '
    f'bits {record["bits"]:.3f}  '
    f'{record["batches"] / max(seconds, 1e-9):.1f} step/s  '
    f'{seconds:.0f}+{record["eval_seconds"]:.0f} s'
  )


def finish(run: Any) -> dict[str, Any]:
  """Measures the selected checkpoint and writes the result of a run.

  Args:
    run: a `run.Run` that has trained its epochs.

  Returns:
    The report.
  """
  latest_step = int(run.state.step)
  records = run.progress.history
  run.state = state = run.selected_state(records).evaluated()
  sums, fixed = measure_cost(run)
  report = {
    'result': _result(run.selection, records),
    'cost': _cost(run, sums, fixed),
    'points': xray.points(sums['features']),
    'prompts': xray.prompts(sums['prompts']),
    'parameters': _parameters(state.params, run.labels),
    'epochs': run.epochs,
    'steps': latest_step,
    'seconds': {
      'total': run.progress.seconds,
      'train_per_epoch': float(
        np.median([r['train_seconds'] for r in records])
      ),
      'eval_per_epoch': float(np.median([r['eval_seconds'] for r in records])),
    },
    'data': run.data.source,
    'seed': run.settings.config['seed'],
    'versions': versions(),
    'device': device(run.settings.mesh),
    'aggregation': run.aggregation,
    'config': run.settings.config,
  }
  scheme = run.settings.scheme
  if isinstance(scheme, methods.MixQSearch):
    report['assignment'] = state_lib.chosen_bits(
      state.params, run.labels, scheme.candidates
    )
  found = findings.of_run(report, scheme, state.params, run.labels)
  for line in found:
    logging.warning('%s: %s', run.folder.name, line)
  report['warnings'] = found
  if run.settings.train.export:
    report['integers'] = processes.on_main(run.export, report)
  # Last: a run that has a report is finished.
  workdir.write_json(run.folder / workdir.REPORT, report)
  return report


def _cost(run: Any, sums: Any, fixed: Any) -> dict[str, Any]:
  scheme, count = run.settings.scheme, run.num_costed
  cost = accounting.summarize(
    sums, fixed, num_graphs=count, stored=scheme.stored
  )
  cost['average_bits']['published_print_out'] = _published_bits(
    run.state.params, run.labels
  )
  cost['counted_for_each'] = run.costed
  if isinstance(scheme, methods.MixQ) and scheme.assignment:
    cost['mixq'] = accounting.mixq_cost(
      sums, dict(scheme.assignment), num_graphs=count
    )
  return cost


def measure_cost(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
  """Cost sums of the test split under the run's current state.

  Args:
    run: a `run.Run`.

  Returns:
    `accounting.totals`, added up over the batches, and `accounting.constants`;
    their numbers are numpy arrays.
  """
  step = steps.make_cost_step(run.model)
  variables = run.state.variables()
  loader = run.loaders['test']
  measured = [
    jax.device_get(step(variables, batch))
    for batch in loader.stream(loader.ordered())
  ]
  add = lambda *values: np.sum(values, axis=0, dtype=np.float64)
  return jax.tree.map(add, *[sums for sums, _ in measured]), measured[0][1]


def _result(
  selection: history.Selection, records: list[dict[str, Any]]
) -> dict[str, Any]:
  metric = selection.task.metric
  selected, optimistic = selection.best(records), selection.best_test(records)
  beside = {}
  if selection.integers is not None:
    network = lambda split: selected[f'network_{split}_{metric}']
    beside['network'] = {'test': network('test'), 'valid': network('valid')}
  return {
    'metric': metric,
    'evaluated': 'network' if selection.integers is None else 'integers',
    **beside,
    'rule': selection.rule,
    'rule_in_words': selection.text,
    'test': selected[f'test_{metric}'],
    'valid': selected[f'valid_{metric}'],
    'train': selected[f'train_{metric}'],
    'epoch': selected['epoch'],
    'best_test_epoch': {
      'test': optimistic[f'test_{metric}'],
      'epoch': optimistic['epoch'],
      'note': 'selected on the test set, as the published A2Q code does; '
      'optimistic, not a result',
    },
  }


def _parameters(params, labels) -> dict[str, Any]:
  counts: dict[str, int] = {}
  for group, leaf in _with_groups(params, labels):
    counts[group] = counts.get(group, 0) + leaf.size
  base, prompt = counts['base'], counts.get('prompt', 0)
  return {
    'by_group': counts,
    'prompt': prompt,
    'prompt_share': prompt / (base + prompt),
    'prompt_bytes_fp32': 4 * prompt,
  }


def _with_groups(params, labels) -> Iterator[tuple[str, Any]]:
  return zip(jax.tree.leaves(labels), jax.tree.leaves(params), strict=True)


def _published_bits(params, labels) -> float | None:
  """A2Q's print-out over all feature tables; None without any."""
  tables = [
    leaf
    for group, leaf in _with_groups(params, labels)
    if group == 'feature_bits'
  ]
  return a2q_groups.published_average_bits(tables) if tables else None
