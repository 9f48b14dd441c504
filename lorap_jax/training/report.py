"""The result of a run: report.json, a table, plots."""

import importlib.metadata
import platform
from typing import Any

import jax
import numpy as np
from rich import box, console, table

from lorap_jax._version import __version__
from lorap_jax.quantization import a2q_groups
from lorap_jax.training import accounting, history, plots, steps, workdir
from lorap_jax.training.optimizer import group_of

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
  """Versions of Python, of this library and of what it computes with."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    'python': platform.python_version(),
    'lorap_jax': __version__,
    **found,
  }


def device() -> str:
  """Kind and number of devices."""
  devices = jax.devices()
  return f'{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})'


def epoch_line(record: dict[str, Any], epochs: int) -> str:
  """One line for a finished epoch.

  Args:
    record: of `history`.
    epochs: length of the run.

  Returns:
    The line.
  """
  seconds = record['train_seconds']
  return (
    f'epoch {record["epoch"]}/{epochs}  loss {record["train_loss"]:.4f}  '
    f'train {100 * record["train_accuracy"]:.2f}%  '
    f'val {100 * record["valid_accuracy"]:.2f}%  '
    f'bits {record["bits"]:.3f}  '
    f'{record["batches"] / seconds:.1f} step/s  '
    f'{seconds:.0f}+{record["eval_seconds"]:.0f} s'
  )


def finish(run: Any) -> dict[str, Any]:
  """Measures the selected checkpoint and writes the result of a run.

  Args:
    run: a `loop.Run` that has trained its epochs.

  Returns:
    The report.
  """
  latest_step = int(run.state.step)
  state, _ = run.checkpoints.load('best', run.state)
  run.state = state
  sums, fixed = measure_cost(run)
  records = run.progress.history
  selected = history.best_epoch(records)
  report = {
    'accuracy': _accuracies(selected, history.best_test_epoch(records)),
    'cost': accounting.summarize(
      sums, fixed, num_graphs=run.data.test.num_graphs
    ),
    'parameters': _parameters(state.params),
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
    'device': device(),
    'config': run.settings.config,
  }
  bits = _published_bits(state.params)
  report['cost']['average_bits']['published_print_out'] = bits
  workdir.write_json(run.folder / workdir.REPORT, report)
  plots.learning_curves(records, run.folder / 'learning_curves.png')
  plots.by_degree(sums['features'], run.folder / 'bits_by_degree.png')
  return report


def measure_cost(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
  """Cost sums of the test split under the run's current state.

  Args:
    run: a `loop.Run`.

  Returns:
    See `accounting.totals` and `accounting.constants`; numpy arrays.
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


def _accuracies(
  selected: dict[str, Any], optimistic: dict[str, Any]
) -> dict[str, Any]:
  return {
    'rule': history.SELECTION_RULE,
    'test': selected['test_accuracy'],
    'valid': selected['valid_accuracy'],
    'epoch': selected['epoch'],
    'best_test_epoch': {
      'test': optimistic['test_accuracy'],
      'epoch': optimistic['epoch'],
      'note': 'selected on the test set, as the published A2Q code does; '
      'optimistic, not a result',
    },
  }


def _parameters(params) -> dict[str, Any]:
  counts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    group = group_of(tuple(key.key for key in path))
    counts[group] = counts.get(group, 0) + leaf.size
  base, prompt = counts['base'], counts.get('prompt', 0)
  return {
    'by_group': counts,
    'prompt': prompt,
    'prompt_share': prompt / (base + prompt),
    'prompt_bytes_fp32': 4 * prompt,
  }


def _published_bits(params) -> float | None:
  """A2Q's print-out over all feature tables; None without any."""
  tables = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if group_of(tuple(key.key for key in path)) == 'feature_bits'
  ]
  return a2q_groups.published_average_bits(tables) if tables else None


def print_table(report: dict[str, Any]) -> None:
  """Prints the report as a table on standard output.

  Args:
    report: from `finish`.
  """
  grid = table.Table(box=box.SIMPLE_HEAD, title=_title(report))
  grid.add_column('quantity')
  grid.add_column('value')
  for name, value in _rows(report):
    grid.add_row(name, value)
  console.Console().print(grid)


def _title(report: dict[str, Any]) -> str:
  config = report['config']
  return (
    f'{report["data"]["name"]}: {config["model"]["name"]}, '
    f'{config["scheme"]["name"]}, prompt {config["prompt"]["name"]}'
  )


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
  percent = lambda value: f'{100 * value:.2f} %'
  kib = lambda value: f'{value / 1024:.2f} KiB'
  accuracy, cost = report['accuracy'], report['cost']
  bits, ops = cost['average_bits'], cost['bit_ops_per_graph']
  optimistic = accuracy['best_test_epoch']
  published = bits['published_print_out']
  parameters, seconds = report['parameters'], report['seconds']
  rows = [
    (
      f'test accuracy at the best validation epoch ({accuracy["epoch"]})',
      percent(accuracy['test']),
    ),
    ('validation accuracy there', percent(accuracy['valid'])),
    (
      f'best test epoch ({optimistic["epoch"]}; optimistic, as A2Q reports)',
      percent(optimistic['test']),
    ),
    ('average bits, usage-weighted', f'{bits["usage_weighted"]:.3f}'),
    (
      '  with the full-precision side path of the prompts',
      f'{bits["usage_weighted_with_side_path"]:.3f}',
    ),
    (
      '  with messages',
      f'{bits["usage_weighted_with_messages"]:.3f}',
    ),
    ('average bits, unweighted over quantizers', f'{bits["unweighted"]:.3f}'),
    (
      'average bits, as A2Q prints them',
      '-' if published is None else f'{published:.3f}',
    ),
    (
      'feature memory per graph, of FP32',
      f'{kib(cost["feature_bytes_per_graph"])} of '
      f'{kib(cost["feature_bytes_fp32_per_graph"])}',
    ),
    (
      '  metadata; side path',
      f'{kib(cost["feature_metadata_bytes_per_graph"])}; '
      f'{kib(cost["side_path_bytes_per_graph"])}',
    ),
    (
      'weight memory, of FP32',
      f'{kib(cost["weight_bytes"])} of {kib(cost["weight_bytes_fp32"])}',
    ),
    (
      '  scales and biases; group tables',
      f'{kib(cost["weight_metadata_bytes"])}; {kib(cost["table_bytes"])}',
    ),
    (
      'BitOPs per graph, dense products, of FP32',
      f'{ops["products"] / 1e6:.1f} M of {ops["products_fp32"] / 1e6:.1f} M',
    ),
    (
      '  prompts; neighbour sums',
      f'{ops["prompts"] / 1e6:.1f} M; {ops["neighbor_sums"] / 1e6:.1f} M',
    ),
    (
      'prompt parameters',
      f'{parameters["prompt"]} ({percent(parameters["prompt_share"])})',
    ),
    (
      'time',
      f'{seconds["total"] / 60:.1f} min, {seconds["train_per_epoch"]:.0f} s '
      'training per epoch',
    ),
    ('device', report['device']),
    ('data', report['data']['origin']),
  ]
  if not report['data']['comparable']:
    rows.append(('note', report['data']['note']))
  return rows
