"""Compared runs as a table: on the terminal, in Markdown, in CSV."""

import csv
import pathlib
import sys
from collections.abc import Iterator, Sequence

from rich import box, console, table

from lorap_jax.data.files import store
from lorap_jax.reports.collect import Value
from lorap_jax.reports.comparison import Gain, Row
from lorap_jax.reports.published import Figure

_OPTIMISTIC = 'best test epoch (optimistic)'
# Columns of the terminal: quantities that share one, a line for each.
_STACKED = {
  'run': ('data set', 'backbone', 'quantizer', 'prompt'),
  'test': ('test', 'runs', 'rule'),
  'validation': ('validation',),
  'best test epoch, optimistic': (_OPTIMISTIC,),
  'bits': ('average bits',),
  'gain over none': ('gain over none',),
  'published, its rule, its source': (
    'published',
    'rule of published',
    'source of published',
  ),
}


def quantities(row: Row, marks: dict[tuple[str, str], str]) -> dict[str, str]:
  """The columns of a row as text.

  Several published figures are as many lines in each of their columns.

  Args:
    row: a run beside others.
    marks: stars by data set, from `data_marks`.

  Returns:
    Text by the heading of its column.
  """
  run, metric = row.run, row.run.metric
  lines = lambda texts: '\n'.join(texts)
  return {
    'data set': run.dataset + marks.get((run.data_name, run.note), ''),
    'backbone': run.backbone,
    'quantizer': run.quantizer,
    'prompt': run.prompt_text,
    'test': _value(run.test, metric),
    'runs': str(len(run.members)),
    'rule': run.rule,
    'validation': _value(run.valid, metric),
    _OPTIMISTIC: _value(run.best_test, metric),
    'average bits': f'{run.bits.mean:.2f}',
    'gain over none': _gain(row.gain, metric) if row.gain else row.no_gain,
    'published': lines(_figure(f) for f in row.figures),
    'rule of published': lines(f.rule for f in row.figures),
    'source of published': lines(map(_source, row.figures)),
    'differs': ', '.join(row.differs),
    'folder': str(run.folder),
  }


def data_marks(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
  """Stars for data that compare with nothing published.

  Args:
    rows: all rows.

  Returns:
    One more star for each, by the name of the data and the note on them.
  """
  data = dict.fromkeys(
    (row.run.data_name, row.run.note) for row in rows if not row.run.comparable
  )
  return {key: '*' * number for number, key in enumerate(data, start=1)}


def footnotes(rows: Sequence[Row]) -> Iterator[str]:
  """What has to be known to read the table.

  Args:
    rows: all rows.

  Yields:
    Lines.
  """
  for (name, note), mark in data_marks(rows).items():
    yield f'{mark} {name}: not comparable with published figures; {note}'
  yield (
    'Best test epoch: chosen on the test set, optimistic, not a result. After '
    '+-: standard deviation over seeds and folds; of a gain its standard error.'
  )
  if any(row.gain for row in rows):
    yield (
      'Gain over none: positive is better; paired over the same seed and fold '
      'unless it says unpaired.'
    )
  certainties = {f.certainty for row in rows for f in row.figures}
  if 'RECALLED' in certainties:
    yield 'RECALLED: from memory of the paper, not read again; take as +-0.1.'


def print_rows(rows: Sequence[Row]) -> None:
  """Prints the table on standard output.

  Args:
    rows: runs, from `comparison.compare`.
  """
  marks = data_marks(rows)
  grid = table.Table(box=box.SIMPLE_HEAD, show_lines=True)
  for heading in _STACKED:
    grid.add_column(heading, overflow='fold')
  for row in rows:
    texts = quantities(row, marks)
    cells = {
      heading: [texts[name] for name in names]
      for heading, names in _STACKED.items()
    }
    data_set, backbone, quantizer, prompt = cells['run']
    cells['run'] = [data_set, f'{backbone}, {quantizer}', prompt]
    if row.differs:
      cells['run'].append(f'differs: {texts["differs"]}')
    cells['test'][1] = f'n = {texts["runs"]}'
    # One block for each figure, not one for each quantity.
    published = (text.split('\n') for text in cells.popitem()[1])
    blocks = ['\n'.join(block) for block in zip(*published, strict=True)]
    grid.add_row(*map('\n'.join, cells.values()), '\n'.join(blocks))
  out = console.Console(highlight=False, markup=False)
  if not sys.stdout.isatty():  # A file has no width.
    out.width = 160
  out.print(grid)
  for line in footnotes(rows):
    out.print(line)


def write_markdown(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Writes the table as Markdown.

  Args:
    rows: runs, from `comparison.compare`; at least one.
    path: the file; written whole or not at all.
  """
  marks = data_marks(rows)
  texts = [quantities(row, marks) for row in rows]
  escape = lambda text: (
    text.replace('|', r'\|').replace('*', r'\*').replace('\n', '<br>')
  )
  line = lambda cells: f'| {" | ".join(cells)} |'
  lines = [line(texts[0]), line('---' for _ in texts[0])]
  lines += [line(map(escape, text.values())) for text in texts]
  for note in footnotes(rows):
    lines += ['', escape(note)]
  with store.atomic_file(path) as part:
    part.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def write_csv(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Writes the table as CSV: numbers as in the reports, accuracies in 0..1.

  Args:
    rows: runs, from `comparison.compare`; at least one.
    path: the file; written whole or not at all.
  """
  records = [record(row) for row in rows]
  with (
    store.atomic_file(path) as part,
    part.open('w', encoding='utf-8', newline='') as file,
  ):
    writer = csv.DictWriter(file, records[0])
    writer.writeheader()
    writer.writerows(records)


def record(row: Row) -> dict[str, object]:
  """The fields of a row for a machine.

  Args:
    row: a run beside others.

  Returns:
    Values by the name of the field, None where there is none. Several
    published figures are joined by `; `.
  """
  run, gain, figures = row.run, row.gain, row.figures
  join = lambda values: '; '.join('' if v is None else str(v) for v in values)
  return {
    'dataset': run.dataset,
    'data': run.data_name,
    'comparable': run.comparable,
    'backbone': run.backbone,
    'quantizer': run.quantizer,
    'prompt': run.prompt,
    'placement': run.placement,
    'metric': run.metric,
    'test': run.test.mean,
    'test_std': run.test.deviation,
    'count': len(run.members),
    'rule': run.rule,
    'valid': run.valid.mean,
    'valid_std': run.valid.deviation,
    'best_test': run.best_test.mean,
    'best_test_std': run.best_test.deviation,
    'bits': run.bits.mean,
    'bits_std': run.bits.deviation,
    'gain': gain and gain.mean,
    'gain_error': gain and gain.error,
    'gain_count': gain and gain.count,
    'gain_count_none': gain and gain.count_none,
    'gain_paired': gain and gain.paired,
    'no_gain': row.no_gain,
    'published': join(f.value for f in figures),
    'published_std': join(f.deviation for f in figures),
    'published_bits': join(f.bits for f in figures),
    'published_rule': join(f.rule for f in figures),
    'published_source': join(map(_source, figures)),
    'differs': join(row.differs),
    'folder': str(run.folder),
  }


def _value(value: Value, metric: str) -> str:
  """`80.12 +- 0.61 %` or `MAE 0.4312 +- 0.0120`."""
  percent = metric == 'accuracy'
  numbers = [v for v in value if v is not None]
  text = ' +- '.join(
    f'{100 * v:.2f}' if percent else f'{v:.4f}' for v in numbers
  )
  return f'{text} %' if percent else f'{metric.upper()} {text}'


def _gain(gain: Gain, metric: str) -> str:
  """`+1.20 +- 0.31, n = 10`, in points or in the unit of the error."""
  factor, digits = (100, 2) if metric == 'accuracy' else (1, 4)
  text = f'{factor * gain.mean:+.{digits}f}'
  if gain.error is not None:
    text += f' +- {factor * gain.error:.{digits}f}'
  if gain.paired:
    return f'{text}, n = {gain.count}'
  return f'{text}, unpaired, n = {gain.count} and {gain.count_none}'


def _figure(figure: Figure) -> str:
  """As printed, with bits: `80.9 +- 0.6 % @ 1.7 bits`."""
  percent = figure.metric == 'accuracy'
  numbers = [v for v in (figure.value, figure.deviation) if v is not None]
  # As many digits as the source has, at least one.
  text = ' +- '.join(
    f'{100 * v:.2f}'.removesuffix('0') if percent else f'{v:.3f}'
    for v in numbers
  )
  text = f'{text} %' if percent else f'{figure.metric.upper()} {text}'
  return text if figure.bits is None else f'{text} @ {figure.bits:g} bits'


def _source(figure: Figure) -> str:
  """`A2Q, 2023, arXiv 2302.00193 (RECALLED)`."""
  source = figure.source
  remarks = [figure.note] if figure.note else []
  if figure.certainty != 'KNOWN':
    remarks.insert(0, figure.certainty)
  text = f'{source.name}, {source.year}, {source.reference}'
  return f'{text} ({"; ".join(remarks)})' if remarks else text
