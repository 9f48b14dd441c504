"""docs/bundle.svg shows the table that stands in docs/integers.md."""

import pytest

from benchmarks import bundle_plot

PAGE = (bundle_plot.DOCS / 'integers.md').read_text()


def test_the_plot_is_that_of_the_table():
  files = bundle_plot.rows(PAGE)
  plot = (bundle_plot.DOCS / 'bundle.svg').read_text()
  assert bundle_plot.digest(files) in plot, (
    'run python -m benchmarks.bundle_plot'
  )


@pytest.mark.parametrize(
  'line, message',
  [('| `a` | 1 | 2 | 3 | 4 | 5 | 16 |', 'add up'), ('| `a` | 1 |', 'not read')],
)
def test_rows_that_cannot_be_read(line, message):
  with pytest.raises(ValueError, match=message):
    bundle_plot.rows(f'| file | weights | ... |\n|---|\n{line}\n\nEnd')
