"""`python -m benchmarks.gain_plot` draws docs/gain.svg.

The points are the rows of the table of full runs in docs/experiments.md, so
that there is one place for each figure.
"""

import hashlib
import pathlib
import re
from typing import NamedTuple

import matplotlib

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
_ROW = re.compile(
  r'\| (FP32 )?`([a-z0-9_]+)` \| (\d) \| ([\d.]+) % \| ([\d.]+) % \|'
)
_LABELS = {
  'none': 'no prompt',
  'gpf': 'GPF',
  'lorap': 'LoRAP',
  'gpf_lorap': 'GPF-LoRAP',
  'standard': 'standardised features',
  'int8': '8 bits for raw features',
  'int8_gpf_lorap': '8 bits and GPF-LoRAP',
}
_BINOMIAL = {'test': 0.25, 'valid': 0.35}  # Standard errors of one run, points.


class Row(NamedTuple):
  """A run of the table: accuracies in percent."""

  full_precision: bool
  arm: str
  seed: int
  test: float
  valid: float


def rows(page: str) -> list[Row]:
  """The runs of the full set in the text of docs/experiments.md."""
  table = page.split('Full set, 30 epochs', 1)[1].split('\n\n', 2)[1]
  found = [
    Row(bool(full), arm, int(seed), float(test), float(valid))
    for full, arm, seed, test, valid in _ROW.findall(table)
  ]
  if len(found) != len(table.strip().splitlines()) - 2:
    raise ValueError('docs/experiments.md: a row of the table is not read')
  return found


def digest(runs: list[Row]) -> str:
  """Tells whether a plot is that of a table."""
  return hashlib.sha256(repr(runs).encode()).hexdigest()[:16]


def draw(runs: list[Row], path: pathlib.Path) -> None:
  """Test and validation accuracy of each run, one line for each arm."""
  matplotlib.use('svg')
  from matplotlib import pyplot

  pyplot.rcParams.update(
    {'svg.fonttype': 'none', 'svg.hashsalt': '', 'font.size': 9}
  )
  arms = list(dict.fromkeys((run.full_precision, run.arm) for run in runs))
  mean = lambda arm: (
    sum(r.test for r in runs if (r.full_precision, r.arm) == arm)
    / sum((r.full_precision, r.arm) == arm for r in runs)
  )
  arms.sort(key=mean)
  figure, axes = pyplot.subplots(figsize=(7.2, 3.2), layout='constrained')
  for row, arm in enumerate(arms):
    for run in runs:
      if (run.full_precision, run.arm) != arm:
        continue
      color = '#999999' if run.full_precision else '#0072B2'
      axes.errorbar(
        run.test,
        row + 0.1 * (run.seed - 1) + 0.12,
        xerr=_BINOMIAL['test'],
        fmt='o',
        color=color,
        markersize=4,
      )
      axes.errorbar(
        run.valid,
        row + 0.1 * (run.seed - 1) - 0.12,
        xerr=_BINOMIAL['valid'],
        fmt='x',
        color=color,
        markersize=4,
        alpha=0.5,
      )
  names = [('FP32, ' if full else '') + _LABELS[arm] for full, arm in arms]
  axes.set_yticks(range(len(arms)), names)
  axes.set_xlabel(
    'accuracy in % (dot: test, cross: validation; bar: one binomial standard '
    'error)'
  )
  axes.set_title(
    'A2Q at 3.5 to 3.7 bits (blue) and FP32 (grey), MNIST superpixels, 30 '
    'epochs',
    fontsize=9,
  )
  axes.grid(axis='x', alpha=0.3)
  figure.savefig(path, metadata={'Date': None, 'Description': digest(runs)})
  pyplot.close(figure)


if __name__ == '__main__':
  draw(rows((DOCS / 'experiments.md').read_text()), DOCS / 'gain.svg')
