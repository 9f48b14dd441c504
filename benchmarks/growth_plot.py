"""`python -m benchmarks.growth_plot` draws docs/growth.svg.

The points are the rows of benchmarks/results/growth.json. It prints the table
of exponents that stands in docs/scale.md.
"""

import hashlib
import json
import pathlib
import re
from typing import Any

import matplotlib

from benchmarks import growth

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
RESULTS = pathlib.Path(__file__).parent / 'results' / 'growth.json'
_TIMES = ('time over first', 'cpu over first')
_SIZES = ('MB per device', 'state MB')
_NAMES = {
  'nodes': 'nodes, {degree:.1f} edges each',
  'edges': 'edges of {nodes:,} nodes',
  'devices': 'devices that share {nodes:,} nodes',
  'sampled': 'nodes of a graph that is sampled',
  'sampled, groups': 'the same, with a table of groups',
}
# What a column grows along, and its lines with what tells them apart.
_PANELS = (
  ('nodes', {'nodes': ''}),
  ('edges', {'edges': ''}),
  ('devices', {'devices': ''}),
  ('nodes', {'sampled': '', 'sampled, groups': ', groups'}),
)
_COLORS = ('#0072B2', '#E69F00')

Row = dict[str, Any]


def rows(text: str) -> list[Row]:
  """The points of growth.json: of times the medians.

  Raises:
    ValueError: a value is missing or not positive, or a line is.
  """
  found = []
  for row in json.loads(text)['rows']:
    point = {'series': row.get('series'), 'grows': row.get('grows')}
    for key in (*_TIMES, *_SIZES, 'nodes', 'edges', 'devices'):
      value = row.get(key)
      value = value.get('median') if isinstance(value, dict) else value
      if not isinstance(value, int | float) or not 0 < value < float('inf'):
        raise ValueError(f'growth.json: {key!r} of this row is not read: {row}')
      point[key] = value
    found.append(point)
  if lost := set(growth.SERIES) - {point['series'] for point in found}:
    raise ValueError(f'growth.json: no row of {sorted(lost)[0]!r}')
  return found


def digest(points: list[Row]) -> str:
  """Tells whether a plot is that of some points."""
  return hashlib.sha256(repr(points).encode()).hexdigest()[:16]


def line(points: list[Row], series: str) -> dict[str, list[float]]:
  """The columns of one line, and its `size`: what grows along it."""
  own = [point for point in points if point['series'] == series]
  columns = {key: [p[key] for p in own] for key in (*_TIMES, *_SIZES)}
  return {'size': [p[p['grows']] for p in own], **columns}


def table(points: list[Row]) -> str:
  """The exponents of each line, in Markdown."""
  lines = [
    '| what grows | from | to | step | its CPU time | memory of a device | '
    'state in it |',
    '|---|---|---|---|---|---|---|',
  ]
  for series in _NAMES:
    own = line(points, series)
    ends = [f'{size:,}' for size in (own['size'][0], own['size'][-1])]
    powers = [_power(own, key) for key in (*_TIMES, *_SIZES)]
    cells = [_named(points, series), *ends, *powers]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _power(own: dict[str, list[float]], key: str) -> str:
  """The exponent of a column of a line, as it is written."""
  # Adding 0 turns -0.0 to 0.0.
  power = round(growth.exponent(own['size'], own[key]), 2) + 0.0
  return re.sub(r'^(-?)0\.', r'\1.', f'{power:.2f}')


def _named(points: list[Row], series: str) -> str:
  """What grows along a line, with the numbers of its first point."""
  first = next(point for point in points if point['series'] == series)
  degree = first['edges'] / first['nodes']
  return _NAMES[series].format(nodes=first['nodes'], degree=degree)


def draw(points: list[Row], path: pathlib.Path) -> None:
  """Times above, memory below; a column for each thing that grows."""
  matplotlib.use('svg')
  from matplotlib import pyplot, ticker

  pyplot.rcParams.update(
    {'svg.fonttype': 'none', 'svg.hashsalt': '', 'font.size': 8}
  )
  figure, grid = pyplot.subplots(
    2, len(_PANELS), figsize=(10, 5.6), layout='constrained', sharex='col'
  )
  for axes_row, keys in zip(grid, (_TIMES, _SIZES), strict=True):
    ends = [
      _panel(axes, points, shown, keys)
      for axes, (_, shown) in zip(axes_row, _PANELS, strict=True)
    ]
    # As many decades in each panel of a row, or slopes would not compare.
    reach = 1.3 * max(high / low for low, high in ends) ** 0.5
    for axes, (low, high) in zip(axes_row, ends, strict=True):
      middle = (low * high) ** 0.5
      # A quarter above the lines is for what they mean.
      axes.set_ylim(middle / reach, middle * reach**1.7)
  for (above, below), (label, shown) in zip(grid.T, _PANELS, strict=True):
    above.set_title(_named(points, next(iter(shown))), fontsize=8)
    below.set_xlabel(label)
    below.set_xticks(line(points, next(iter(shown)))['size'])
    below.xaxis.set_major_formatter(ticker.EngFormatter(places=0, sep=''))
    below.tick_params(axis='x', labelsize=7)
  grid[0, 0].set_ylabel('time of a step, over that of the first point')
  grid[1, 0].set_ylabel('memory of a device, MB')
  figure.savefig(path, metadata={'Date': None, 'Description': digest(points)})
  pyplot.close(figure)


def _panel(
  axes: Any, points: list[Row], shown: dict[str, str], keys: tuple[str, str]
) -> tuple[float, float]:
  """Draws the lines of a panel and a guide; the least and largest value."""
  found = []
  axes.set_xscale('log')
  axes.set_yscale('log')
  for color, (series, suffix) in zip(_COLORS, shown.items(), strict=False):
    own = line(points, series)
    names = ('wall', 'CPU') if keys is _TIMES else ('step', 'state of it')
    for key, name, form in zip(keys, names, ('o-', 'x:'), strict=True):
      axes.plot(
        own['size'],
        own[key],
        form,
        color=color,
        markersize=4,
        label=f'{name}{suffix}: slope {_power(own, key)}',
      )
      found += own[key]
    if color == _COLORS[0]:
      slope = -1 if series == 'devices' else 1
      start = own['size'][0]
      guide = [own[keys[0]][0] * (x / start) ** slope for x in own['size']]
      axes.plot(
        own['size'], guide, '--', color='#999999', label=f'slope {slope}'
      )
      found += guide
  axes.minorticks_off()
  axes.grid(alpha=0.3)
  axes.legend(fontsize=6, loc='upper left')
  return min(found), max(found)


if __name__ == '__main__':
  found = rows(RESULTS.read_text())
  draw(found, DOCS / 'growth.svg')
  print(table(found))
