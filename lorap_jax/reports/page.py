"""The page of a run: report.html, one file that needs nothing else.

It is made of what the work folder holds, and can be made again from it.
"""

import html
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from lorap_jax.data.files import store
from lorap_jax.reports import collect, plots, tables
from lorap_jax.runs import workdir

_PROMPT_COLUMNS = ('before', 'prompt', 'after')
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 0 auto;
  max-width: 62rem; padding: 1.5rem 1.25rem 3rem; background: #fff; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid #d8dee4; }
p { margin: .4rem 0; color: #57606a; max-width: 46rem; }
.cards { display: grid; gap: .75rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); }
.card { border: 1px solid #d8dee4; border-radius: 6px; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.3rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.card span { color: #57606a; font-size: .85rem; display: block; }
.note { background: #fff8c5; border: 1px solid #d4a72c; color: #1b1f24;
  border-radius: 6px; padding: .5rem .8rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid #eaeef2; }
th { color: #57606a; font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.t { overflow-wrap: anywhere; min-width: 5rem; }
td.sub { padding-left: 1.2rem; color: #57606a; }
.bar { display: inline-block; height: .6rem; background: #0072b2;
  vertical-align: middle; margin-left: .5rem; }
.track { display: inline-block; width: 6rem; text-align: left; }
svg { width: 100%; max-width: 58rem; min-width: 38rem; height: auto;
  display: block; }
svg text { font-family: system-ui, sans-serif !important; }
code, pre { font: .85em ui-monospace, monospace; overflow-wrap: anywhere;
  white-space: pre-wrap; }
summary { cursor: pointer; color: #57606a; }
@media print { h2 { break-after: avoid; } svg, tr { break-inside: avoid; }
  details:not([open]) { display: none; } }
"""


def write(folder: pathlib.Path, *, command: str = '') -> pathlib.Path:
  """Writes the page of a finished run, or of a group of seeds and folds.

  Args:
    folder: work folder of the run or group.
    command: how it was run, for the page.

  Returns:
    The file. One that is newer than the report is left as it is.

  Raises:
    WorkdirError: the folder has no report, or a damaged one.
    OSError: the file cannot be written.
  """
  path = folder / workdir.PAGE
  source = folder / workdir.REPORT
  if path.exists() and path.stat().st_mtime >= source.stat().st_mtime:
    return path
  report = workdir.read_json(source)
  with workdir.reading(source):
    if 'members' in report:
      members = [
        workdir.read_records(folder / workdir.member(m['seed'], m['fold']))
        for m in report['members']
      ]
      text = of_group(report, members, command=command)
    else:
      text = of_run(report, workdir.read_records(folder), command=command)
  with store.atomic_file(path) as part:
    part.write_text(text, encoding='utf-8')
  return path


def of_run(
  report: dict[str, Any], records: list[dict[str, Any]], *, command: str = ''
) -> str:
  """The page of a run.

  Args:
    report: report of the run, from `report.finish`.
    records: one record per epoch, at least one.
    command: how it was run, for the page.

  Returns:
    HTML.
  """
  result = report['result']
  title = tables.title(report)
  curves = plots.learning_curves(
    records, result['metric'], title='', selected=result['epoch']
  )
  best = result['best_test_epoch']
  return _page(
    report,
    [
      _section(
        'Learning curves',
        'The epoch whose test metric counts is marked. The best test epoch, '
        f'{best["epoch"]}, would have {_metric(result, best["test"])}; it is '
        'chosen on the test set and no result.',
        _figure(curves),
      ),
      *_xray(report.get('points', [])),
      *_prompts(report.get('prompts', [])),
      _costs(report['cost'], ''),
      _provenance(report, command),
    ],
    title,
  )


def of_group(
  report: dict[str, Any],
  members: Sequence[list[dict[str, Any]]],
  *,
  command: str = '',
) -> str:
  """The page of several seeds or folds.

  Args:
    report: report of the group, from `protocol.summarize`.
    members: the records of each member, one per epoch.
    command: how it was run, for the page.

  Returns:
    HTML.
  """
  result = report['result']
  text = lambda value: _metric(result, value)
  rows = [
    [
      f'{m["seed"]}',
      f'{m["fold"]}',
      text(m['test']),
      text(m['valid']),
      text(m['train']),
      text(m['best_test']),
      f'{m["epoch"]}',
      f'{m["bits"]:.2f}',
    ]
    for m in report['members']
  ]
  spread = [
    'mean',
    '',
    *(text(result[name]) for name in ('test', 'valid')),
    '',
    text(result['best_test']),
    '',
    f'{result["bits"]:.2f}',
  ]
  deviation = [
    'deviation',
    '',
    *(text(result[f'{name}_std']) for name in ('test', 'valid')),
    '',
    text(result['best_test_std']),
    '',
    f'{result["bits_std"]:.2f}',
  ]
  head = 'seed fold test validation train best-test epoch bits'.split()
  curves = plots.group_curves(members, result['metric'])
  return _page(
    report,
    [
      _section(
        'Members',
        'Each at its own epoch by the rule. Best test epochs are chosen on the '
        'test set: optimistic, not results.',
        _table(head, [*rows, spread, deviation], numbers=range(8)),
      ),
      _section(
        'Learning curves',
        'A thin line for each member, their mean in bold.',
        _figure(curves),
      ),
      _costs(report['cost_of_first'], 'Of the first member. '),
      _provenance(report, command),
    ],
    tables.title(report),
  )


def _page(report: dict[str, Any], sections: Iterable[str], title: str) -> str:
  data = report['data']
  seconds = report['seconds']['total']
  heading = tables.heading(report)
  note = ''
  if not data['comparable']:
    note = (
      '<p class="note">Compares with nothing published: '
      f'{html.escape(data["note"])}</p>'
    )
  return '\n'.join(
    [
      '<!DOCTYPE html>',
      '<html lang="en"><head><meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head>',
      f'<body><h1>{html.escape(heading)}</h1>',
      f'<p>{seconds / 60:.1f} minutes on {html.escape(report["device"])}.</p>',
      note,
      _cards(report),
      *sections,
      '</body></html>\n',
    ]
  )


def _cards(report: dict[str, Any]) -> str:
  found = tables.figures(report)
  cards = (
    (found.test, f'test {found.metric}', found.test_note),
    (found.valid, f'validation {found.metric}', found.valid_note),
    (found.bits, 'average bits of 32, features', ''),
    (found.features, f'KiB of features per {found.counted}, of FP32', ''),
    (found.weights, 'KiB of weights, of FP32', ''),
  )
  inner = ''.join(
    f'<div class="card"><b>{html.escape(main)}</b>'
    f'<span>{html.escape(name)}</span><span>{html.escape(remark)}</span></div>'
    for main, name, remark in cards
  )
  return f'<div class="cards">{inner}</div>'


def _xray(points: Sequence[dict[str, Any]]) -> list[str]:
  """Bits and errors, by layer and by in-degree; nothing of older reports."""
  if not points:
    return []
  largest = max(point['error'] for point in points) or 1.0
  rows = [
    [
      _text(point['layer']),
      _text(point['path'].removeprefix(point['layer'] + '/')),
      f'{point["bits"]:.2f}',
      f'{100 * point["error"]:.1f} %'
      '<span class="track"><span class="bar" style="width:'
      f'{100 * point["error"] / largest:.0f}%"></span></span>',
      f'{point["rms"]:.3g}',
      f'{point["rms_after"]:.3g}' if 'rms_after' in point else '',
      f'{100 * point["clipped"]:.2f} %' if 'clipped' in point else '',
      f'{point["elements"]:,.0f}',
    ]
    for point in points
  ]
  head = [
    'layer',
    'point',
    'bits',
    'relative error',
    'rms before',
    'rms after',
    'clipped',
    'elements',
  ]
  by_layer = _section(
    'Quantization by layer',
    'Of each tensor that is quantized or stored, in the test split: average '
    'bits, the relative error that its quantizer makes, '
    'sqrt(sum (x - y)² / sum x²), the root mean square before and after it, '
    'and the share of elements beyond the ends of their grid.',
    _table(head, rows, numbers=(2, 3, 4, 5, 6, 7), escaped=True),
  )
  by_degree = _section(
    'Quantization by in-degree',
    'Of nodes in the test split, in bins of at least 20; several points of a '
    'kind in a layer are solid, broken and dotted lines.',
    _figure(plots.by_degree(points, title='')),
  )
  return [by_layer, by_degree]


def _prompts(prompts: Sequence[dict[str, Any]]) -> list[str]:
  """What the prompts add to their aggregates; nothing without any."""
  if not prompts:
    return []
  rows = [
    [entry['layer'], *(f'{entry[name]:.3g}' for name in _PROMPT_COLUMNS)]
    for entry in prompts
  ]
  return [
    _section(
      'Prompts on aggregates',
      'Root mean squares in the test split: of the aggregate before its '
      'prompt, of the prompt, and of the aggregate with it.',
      _table(['layer', *_PROMPT_COLUMNS], rows, numbers=(1, 2, 3)),
    )
  ]


def _costs(cost: dict[str, Any], remark: str) -> str:
  rows = [
    *tables.bits_rows(cost),
    *tables.memory_rows(cost),
    *tables.operation_rows(cost),
  ]
  body = ''.join(
    f'<tr><td class="{"sub" if name.startswith(" ") else ""}">'
    f'{_text(name.strip())}</td><td class="n">{_text(value)}</td></tr>'
    for name, value in rows
  )
  return _section(
    'Cost',
    f'{remark}On the test split. Average bits are weighted by the elements '
    'that use them unless it says otherwise; a bit operation is a '
    'multiply-accumulate times the bits of both operands.',
    f'<div class="scroll"><table>{body}</table></div>',
  )


def _provenance(report: dict[str, Any], command: str) -> str:
  data, result = report['data'], report['result']
  facts = {
    'command': command,
    'rule': result['rule_in_words'],
    'epochs': report.get('epochs', ''),
    'seed': report.get('seed', ''),
    'sums over neighbours': report.get('aggregation', ''),
    'device': report['device'],
    'versions': ', '.join(f'{k} {v}' for k, v in report['versions'].items()),
    'data': f'{data["name"]}, from {data["origin"]}',
    'note on the data': data['note'],
    'training / validation / test': ' / '.join(
      f'{data["counts"][split]:,}' for split in ('train', 'valid', 'test')
    ),
    'files': ', '.join(str(name) for name in data.get('files', [])),
  }
  facts |= {f'sha256 of {k}': v for k, v in data.get('sha256', {}).items()}
  known = [[_text(k), _text(v)] for k, v in facts.items() if v != '']
  settings = [
    [_text(k), _text(v)] for k, v in collect.flat(report['config']).items()
  ]
  return _section(
    'Provenance',
    '',
    _table(['what', ''], known, escaped=True)
    + '<details><summary>Configuration</summary>'
    + _table(['field', 'value'], settings, escaped=True)
    + '</details>',
  )


def _figure(fig: Any) -> str:
  return f'<div class="scroll">{plots.svg(fig)}</div>'


def _section(heading: str, text: str, body: str) -> str:
  name = heading.lower().replace(' ', '-')
  paragraph = f'<p>{html.escape(text)}</p>' if text else ''
  return f'<section id="{name}"><h2>{heading}</h2>{paragraph}{body}</section>'


def _table(
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  numbers: Iterable[int] = (),
  escaped: bool = False,
) -> str:
  numbers = set(numbers)
  kind = lambda i: ' class="n"' if i in numbers else ' class="t"'
  line = lambda tag, cells: (
    '<tr>'
    + ''.join(f'<{tag}{kind(i)}>{c}</{tag}>' for i, c in enumerate(cells))
    + '</tr>'
  )
  cells = rows if escaped else (map(_text, row) for row in rows)
  body = ''.join(line('td', row) for row in cells)
  return (
    f'<div class="scroll"><table>{line("th", map(_text, head))}{body}'
    '</table></div>'
  )


def _text(value: Any) -> str:
  return html.escape(str(value))


def _metric(result: dict[str, Any], value: float) -> str:
  if result['metric'] == 'accuracy':
    return f'{100 * value:.2f} %'
  return f'{value:.4f}'
