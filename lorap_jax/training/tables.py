"""The table that a run ends with."""

from collections.abc import Iterator
from typing import Any

from rich import box, console, table

Rows = Iterator[tuple[str, str]]


def print_table(report: dict[str, Any]) -> None:
  """Prints a report on standard output.

  Args:
    report: of a run, or of several seeds or folds (`protocol.summarize`).
  """
  grid = table.Table(box=box.SIMPLE_HEAD, title=_title(report))
  grid.add_column('quantity')
  grid.add_column('value')
  for name, value in rows(report):
    grid.add_row(name, value)
  console.Console().print(grid)


def rows(report: dict[str, Any]) -> Rows:
  """Quantities of a report and their values, as text.

  Args:
    report: see `print_table`.

  Yields:
    (quantity, value).
  """
  yield from _result(report)
  if 'members' in report:
    yield from _members(report)
    return
  yield from _bits(report['cost'])
  yield from _memory(report['cost'])
  yield from _operations(report['cost']['bit_ops_per_graph'])
  yield from _circumstances(report)


def _title(report: dict[str, Any]) -> str:
  config = report['config']
  return (
    f'{report["data"]["name"]}: {config["model"]["name"]}, '
    f'{config["scheme"]["name"]}, prompt {config["prompt"]["name"]}'
  )


def _percent(value: float) -> str:
  return f'{100 * value:.2f} %'


def _kib(value: float) -> str:
  return f'{value / 1024:.2f} KiB'


def _result(report: dict[str, Any]) -> Rows:
  result = report['result']
  name = result['metric']
  text = _percent if name == 'accuracy' else '{:.4f}'.format
  if 'members' in report:
    spread = lambda key: f'{text(result[key])} +- {text(result[f"{key}_std"])}'
    yield (
      f'test {name}, mean and deviation of {result["count"]}',
      spread('test'),
    )
    yield f'  {result["rule_in_words"]}; validation', spread('valid')
    yield 'best test epoch (optimistic, not a result)', spread('best_test')
    return
  optimistic = result['best_test_epoch']
  yield f'test {name} at epoch {result["epoch"]}', text(result['test'])
  yield f'  {result["rule_in_words"]}; validation', text(result['valid'])
  yield (
    f'best test epoch ({optimistic["epoch"]}; optimistic, as A2Q reports)',
    text(optimistic['test']),
  )


def _members(report: dict[str, Any]) -> Rows:
  name = report['result']['metric']
  text = _percent if name == 'accuracy' else '{:.4f}'.format
  yield 'average bits, usage-weighted', f'{report["result"]["bits"]:.3f}'
  for member in report['members']:
    yield (
      f'  seed {member["seed"]}, fold {member["fold"]}',
      f'{text(member["test"])} (validation {text(member["valid"])})',
    )
  yield 'time', f'{report["seconds"]["total"] / 60:.1f} min'
  yield 'device', report['device']
  if not report['data']['comparable']:
    yield 'note', report['data']['note']


def _bits(cost: dict[str, Any]) -> Rows:
  bits = cost['average_bits']
  published = bits['published_print_out']
  yield 'average bits, usage-weighted', f'{bits["usage_weighted"]:.3f}'
  yield (
    '  with the raw features that enter a convolution',
    f'{bits["usage_weighted_with_raw_features"]:.3f}',
  )
  yield (
    '  with the full-precision side path of the prompts',
    f'{bits["usage_weighted_with_side_path"]:.3f}',
  )
  yield (
    '  with all other quantized tensors',
    f'{bits["usage_weighted_with_messages"]:.3f}',
  )
  yield (
    'average bits, unweighted over quantizers',
    f'{bits["unweighted"]:.3f}',
  )
  yield (
    'average bits, as A2Q prints them',
    '-' if published is None else f'{published:.3f}',
  )
  if 'mixq' in cost:
    yield (
      'average bits, as MixQ counts; BitOPs likewise',
      f'{cost["mixq"]["average_bits"]:.3f}; '
      f'{cost["mixq"]["bit_ops_per_graph"] / 1e6:.1f} M',
    )


def _memory(cost: dict[str, Any]) -> Rows:
  yield (
    'feature memory per graph, of FP32',
    f'{_kib(cost["feature_bytes_per_graph"])} of '
    f'{_kib(cost["feature_bytes_fp32_per_graph"])}',
  )
  yield (
    '  metadata; side path',
    f'{_kib(cost["feature_metadata_bytes_per_graph"])}; '
    f'{_kib(cost["side_path_bytes_per_graph"])}',
  )
  yield (
    'weight memory, of FP32',
    f'{_kib(cost["weight_bytes"])} of {_kib(cost["weight_bytes_fp32"])}',
  )
  yield (
    '  scales and biases; tables',
    f'{_kib(cost["weight_metadata_bytes"])}; {_kib(cost["table_bytes"])}',
  )


def _operations(ops: dict[str, Any]) -> Rows:
  millions = lambda name: f'{ops[name] / 1e6:.1f} M'
  yield (
    'BitOPs per graph, dense products, of FP32',
    f'{millions("products")} of {millions("products_fp32")}',
  )
  yield (
    '  prompts; neighbour sums',
    f'{millions("prompts")}; {millions("neighbor_sums")}',
  )


def _circumstances(report: dict[str, Any]) -> Rows:
  parameters, seconds = report['parameters'], report['seconds']
  yield (
    'prompt parameters',
    f'{parameters["prompt"]} ({_percent(parameters["prompt_share"])})',
  )
  yield (
    'time',
    f'{seconds["total"] / 60:.1f} min, {seconds["train_per_epoch"]:.2g} s '
    'training per epoch',
  )
  yield 'device', report['device']
  yield 'data', report['data']['origin']
  if not report['data']['comparable']:
    yield 'note', report['data']['note']
