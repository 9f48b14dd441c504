"""docs/gain.svg shows the table that stands in docs/experiments.md."""

import pytest

from benchmarks import gain_plot

PAGE = (gain_plot.DOCS / 'experiments.md').read_text()


def test_the_plot_is_that_of_the_table():
  runs = gain_plot.rows(PAGE)
  assert gain_plot.digest(runs) in (gain_plot.DOCS / 'gain.svg').read_text(), (
    'run python -m benchmarks.gain_plot'
  )


def test_rows_and_rows_that_cannot_be_read():
  table = '\n\nFull set, 30 epochs\n\n| head |\n|---|\n{}\n\nEnd'
  line = '| FP32 `none` | 0 | 94.15 % | 94.16 % | 96.5 % |'
  assert gain_plot.rows(table.format(line)) == [
    gain_plot.Row(True, 'none', 0, 94.15, 94.16)
  ]
  with pytest.raises(ValueError, match='a row of the table is not read'):
    gain_plot.rows(table.format(line.replace(' %', '')))
