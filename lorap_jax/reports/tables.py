"""The table that a run ends with."""

import pathlib
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from lorap_jax.reports import collect
from lorap_jax.runs import cells, workdir

Lines = Iterator[tuple[str, str]]


def print_table(
  report: dict[str, Any], folder: pathlib.Path, *, full: bool = False
) -> None:
  """Prints a report on standard output, no line wider than the terminal.

  Args:
    report: report of a run, or of several seeds or folds
      (`protocol.summarize`).
    folder: work folder of the run or group.
    full: all quantities of `rows`, not five.
  """
  found = list(rows(report) if full else short_rows(report))
  found.append(('report', str(report_path(folder))))
  print(f'\n{title(report)}\n')
  indent = max(len(name) for name, _ in found) + 2
  width = shutil.get_terminal_size().columns  # 80 in a pipe.
  for name, value in found:
    lines = textwrap.wrap(
      value,
      max(width - indent - 2, 20),
      break_long_words=False,  # A path stays one.
      break_on_hyphens=False,
    )
    for first, line in zip((name, *[''] * len(lines)), lines, strict=False):
      print(f'  {first:{indent}}{line}')
  print()


def title(report: dict[str, Any]) -> str:
  """What was run on what, and whether that compares, in a line."""
  if report['data']['comparable']:
    return heading(report)
  return f'{heading(report)} (compares with nothing published)'


def heading(report: dict[str, Any]) -> str:
  """The data set and the cell that was run on it, in a line."""
  return f'{report["data"]["name"]}: {cells.cell_text(report["config"])}'


def report_path(folder: pathlib.Path) -> pathlib.Path:
  """The file to look at first: the page, or the report where there is none."""
  page = folder / workdir.PAGE
  return page if page.exists() else folder / workdir.REPORT


class Figures(NamedTuple):
  """The quantities of a report that most want to know, as text.

  Attributes:
    metric: name of the metric.
    test: test metric of the selected epoch, or mean and deviation.
    test_note: which epoch, or how many runs.
    valid: validation metric of the selected epoch, or mean and deviation.
    valid_note: how epochs were selected; '' where `test_note` says it.
    bits: average bits of the features, or mean and deviation.
    features: KiB, and those of FP32, for each `counted`.
    weights: KiB, and those of FP32.
    counted: what features are counted for: a graph, or a sampled run's target.
  """

  metric: str
  test: str
  test_note: str
  valid: str
  valid_note: str
  bits: str
  features: str
  weights: str
  counted: str


def counted(cost: dict[str, Any]) -> str:
  """What bytes and operations of features are counted for."""
  return cost.get('counted_for_each', 'graph')


def figures(report: dict[str, Any]) -> Figures:
  """The quantities of a report that most want to know.

  Args:
    report: report of a run, or of several seeds or folds.
  """
  result = report['result']
  text, rule = _metric(result), _rule(result)
  if 'members' in report:
    cost = report['cost_of_first']
    spread = lambda key: f'{text(result[key])} +- {text(result[f"{key}_std"])}'
    test, valid = spread('test'), spread('valid')
    notes = f'mean and deviation of {result["count"]}', rule
    bits = f'{result["bits"]:.2f} +- {result["bits_std"]:.2f}'
  else:
    cost = report['cost']
    test, valid = text(result['test']), text(result['valid'])
    notes = f'epoch {result["epoch"]}, {rule}', ''
    bits = f'{cost["average_bits"]["usage_weighted"]:.2f}'
  size = lambda name, fp32: (
    f'{cost[name] / 1024:.1f} of {cost[fp32] / 1024:.1f}'
  )
  return Figures(
    metric=result['metric'],
    test=test,
    test_note=notes[0],
    valid=valid,
    valid_note=notes[1],
    bits=bits,
    features=size('feature_bytes_per_graph', 'feature_bytes_fp32_per_graph'),
    weights=size('weight_bytes', 'weight_bytes_fp32'),
    counted=counted(cost),
  )


def short_rows(report: dict[str, Any]) -> Lines:
  """`figures` in four rows.

  Args:
    report: report of a run, or of several seeds or folds.

  Yields:
    (quantity, value).
  """
  found = figures(report)
  noted = lambda value, note: f'{value} ({note})' if note else value
  yield f'test {found.metric}', noted(found.test, found.test_note)
  yield f'validation {found.metric}', noted(found.valid, found.valid_note)
  yield 'average bits', f'{found.bits} of 32, features'
  features = f'features {found.features} per {found.counted}'
  sizes = f'{features}, weights {found.weights}'
  yield 'KiB, of FP32', sizes
  yield from integer_rows(report)


def integer_rows(report: dict[str, Any]) -> Lines:
  """What a run says of its integers; nothing where nobody asked for them.

  Args:
    report: report of a run, or of several seeds or folds.

  Yields:
    (quantity, value).
  """
  result = report['result']
  text = _metric(result)
  if 'network' in result:
    beside = result['network']
    yield (
      'fake-quantized',
      f'test {text(beside["test"])}, validation {text(beside["valid"])}; all '
      'above is of the integers',
    )
  if 'integers' not in report:
    return
  found = report['integers']
  if 'network' not in result:
    own = found['accuracy']
    yield (
      'as integers',
      f'test {text(own["test"]["integers"])}, validation '
      f'{text(own["valid"]["integers"])}; the epoch was selected without them',
    )
  sizes, parity = found['sizes'], found['parity']
  kib = lambda name: f'{sizes[name] / 1024:.1f}'
  onnx = '' if sizes['onnx'] is None else f'model.onnx {kib("onnx")}, '
  yield (
    'exported KiB',
    f'{onnx}tables in C {kib("c_tables")}; the bits of weights, prompts, '
    f'scales and tables are {kib("counted")}',
  )
  ran = ', '.join(['NumPy', *parity['differing']])
  yield (
    'differing values',
    f'{sum(parity["differing"].values())} of {parity["values"]:,} on '
    f'{parity["graphs"]} graphs in {ran}',
  )
  for name, why in parity['left_out'].items():
    yield f'not in {name}', why


def rows(report: dict[str, Any]) -> Lines:
  """Quantities of a report and their values, as text.

  Args:
    report: report of a run, or of several seeds or folds.

  Yields:
    (quantity, value).
  """
  yield from _result(report)
  if 'members' in report:
    yield from _members(report)
    return
  yield from integer_rows(report)
  yield from bits_rows(report['cost'])
  yield from memory_rows(report['cost'])
  yield from operation_rows(report['cost'])
  yield from _circumstances(report)


def _metric(result: dict[str, Any]) -> Any:
  return _percent if result['metric'] == 'accuracy' else '{:.4f}'.format


def _rule(result: dict[str, Any]) -> str:
  return collect.rule_text(result['rule'], result['metric'])


def _percent(value: float) -> str:
  return f'{100 * value:.2f} %'


def _kib(value: float) -> str:
  return f'{value / 1024:.2f} KiB'


def _of(part: float, whole: float) -> str:
  return f'{part / 1024:.2f} of {whole / 1024:.2f} KiB'


def _result(report: dict[str, Any]) -> Lines:
  result = report['result']
  name, text = result['metric'], _metric(result)
  if 'members' in report:
    spread = lambda key: f'{text(result[key])} +- {text(result[f"{key}_std"])}'
    yield f'test {name}', spread('test')
    yield '  mean and deviation of', f'{result["count"]} runs'
    yield '  rule', result['rule_in_words']
    yield f'validation {name}', spread('valid')
    yield 'best test epoch', f'{spread("best_test")} (optimistic, not a result)'
    return
  optimistic = result['best_test_epoch']
  yield f'test {name}', f'{text(result["test"])} at epoch {result["epoch"]}'
  yield '  rule', result['rule_in_words']
  yield f'validation {name}', text(result['valid'])
  yield (
    'best test epoch',
    f'{text(optimistic["test"])} at epoch {optimistic["epoch"]} (optimistic, '
    'as A2Q reports)',
  )


def _members(report: dict[str, Any]) -> Lines:
  text = _metric(report['result'])
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


def bits_rows(cost: dict[str, Any]) -> Lines:
  """Average bits by all definitions of `accounting`."""
  bits = cost['average_bits']
  published = bits['published_print_out']
  yield 'average bits, usage-weighted', f'{bits["usage_weighted"]:.3f}'
  yield (
    '  with raw features',
    f'{bits["usage_weighted_with_raw_features"]:.3f}',
  )
  yield (
    '  with the side path of prompts',
    f'{bits["usage_weighted_with_side_path"]:.3f}',
  )
  yield (
    '  with all quantized tensors',
    f'{bits["usage_weighted_with_messages"]:.3f}',
  )
  yield 'average bits, unweighted', f'{bits["unweighted"]:.3f}'
  yield (
    'average bits, as A2Q prints them',
    '-' if published is None else f'{published:.3f}',
  )
  if 'mixq' in cost:
    yield 'average bits, as MixQ counts', f'{cost["mixq"]["average_bits"]:.3f}'
    yield (
      'BitOPs, as MixQ counts',
      f'{cost["mixq"]["bit_ops_per_graph"] / 1e6:.1f} M per {counted(cost)}',
    )


def memory_rows(cost: dict[str, Any]) -> Lines:
  """Bytes of features and weights, and of what belongs to them."""
  yield (
    f'features per {counted(cost)}, of FP32',
    _of(cost['feature_bytes_per_graph'], cost['feature_bytes_fp32_per_graph']),
  )
  yield '  metadata', _kib(cost['feature_metadata_bytes_per_graph'])
  yield '  side path of prompts', _kib(cost['side_path_bytes_per_graph'])
  yield (
    'weights, of FP32',
    _of(cost['weight_bytes'], cost['weight_bytes_fp32']),
  )
  yield '  scales and biases', _kib(cost['weight_metadata_bytes'])
  yield '  tables of the quantizers', _kib(cost['table_bytes'])


def operation_rows(cost: dict[str, Any]) -> Lines:
  """Bit operations per graph, or per target node."""
  ops = cost['bit_ops_per_graph']
  millions = lambda name: f'{ops[name] / 1e6:.1f}'
  yield (
    f'BitOPs per {counted(cost)}, dense, of FP32',
    f'{millions("products")} of {millions("products_fp32")} M',
  )
  yield '  prompts', f'{millions("prompts")} M'
  yield '  neighbour sums', f'{millions("neighbor_sums")} M'


def _circumstances(report: dict[str, Any]) -> Lines:
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
