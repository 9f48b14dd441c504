"""docs/growth.svg and docs/scale.md show benchmarks/results/growth.json."""

import json

import pytest

from benchmarks import growth, growth_plot

POINTS = growth_plot.rows(growth_plot.RESULTS.read_text())
PAGE = (growth_plot.DOCS / 'scale.md').read_text()
PLOT = (growth_plot.DOCS / 'growth.svg').read_text()


def _rows():
  """Time grows with its size to the power of 1.5, memory to that of -1."""
  return [
    {
      'series': name,
      'grows': series.grows,
      **{'nodes': 100, 'edges': 250, 'devices': 1, series.grows: size},
      'time over first': {'median': size**1.5, 'low': 1, 'high': 9},
      'cpu over first': {'median': 2.0, 'low': 1, 'high': 9},
      'MB per device': 80 / size,
      'state MB': size**2.0,
    }
    for name, series in growth.SERIES.items()
    for size in (2, 4, 8)
  ]


def test_the_plot_is_that_of_the_results():
  assert growth_plot.digest(POINTS) in PLOT, (
    'run python -m benchmarks.growth_plot'
  )


def test_the_table_is_that_of_the_results():
  assert growth_plot.table(POINTS) in PAGE, (
    'put what python -m benchmarks.growth_plot prints into docs/scale.md'
  )


def test_the_results_are_those_of_the_theme():
  for name, series in growth.SERIES.items():
    own = [point for point in POINTS if point['series'] == name]
    assert [p['devices'] for p in own] == [d for *_, d in series.points()]
    assert {p['grows'] for p in own} == {series.grows}


def test_a_table_has_the_exponents_of_its_rows():
  points = growth_plot.rows(json.dumps({'rows': _rows()}))
  lines = growth_plot.table(points).splitlines()
  assert (
    lines[2]
    == '| nodes, 125.0 edges each | 2 | 8 | 1.50 | .00 | -1.00 | 2.00 |'
  )
  assert lines[4].startswith('| devices that share 100 nodes | 2 | 8 | 1.50 |')
  assert len(lines) == 2 + len(growth.SERIES)


@pytest.mark.parametrize(
  'key, value', [('MB per device', 0), ('nodes', None), ('state MB', 'none')]
)
def test_rows_that_cannot_be_read(key, value):
  rows = _rows()
  rows[3][key] = value
  with pytest.raises(ValueError, match=f'{key!r} of this row is not read'):
    growth_plot.rows(json.dumps({'rows': rows}))


def test_a_line_that_is_missing():
  rows = [row for row in _rows() if row['series'] != 'edges']
  with pytest.raises(ValueError, match="no row of 'edges'"):
    growth_plot.rows(json.dumps({'rows': rows}))


def test_a_drawn_plot_has_the_slopes(tmp_path):
  points = growth_plot.rows(json.dumps({'rows': _rows()}))
  growth_plot.draw(points, tmp_path / 'plot.svg')
  text = (tmp_path / 'plot.svg').read_text()
  assert growth_plot.digest(points) in text
  assert 'wall: slope 1.50' in text and 'step, groups: slope -1.00' in text
  assert text.count('>slope 1<') == 6 and text.count('>slope -1<') == 2
