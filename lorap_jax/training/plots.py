"""Plots of a run, or of several side by side, as PNG files."""

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes as axes_lib
from matplotlib import figure, lines

from lorap_jax.training.comparison import Row

_MARKERS = {
  'fp32': '*',
  'qat8': 's',
  'qat4': 'D',
  'dq8': '^',
  'dq4': 'v',
  'a2q': 'o',
  'mixq': 'P',
}
_COLORS = {
  'none': 'black',
  'gpf': 'C0',
  'gpf_plus': 'C9',
  'lorap': 'C1',
  'gpf_lorap': 'C3',
  'gpf_plus_lorap': 'C4',
}


def learning_curves(
  records: list[dict[str, Any]], metric: str, path: pathlib.Path
) -> None:
  """Loss, metric and average bits against the epoch.

  Args:
    records: of `history`.
    metric: `accuracy` or `mae`.
    path: PNG file.
  """
  epochs = [r['epoch'] for r in records]
  of = lambda name, factor=1.0: [factor * r[name] for r in records]
  fig = figure.Figure(figsize=(12, 3.6), layout='constrained')
  percent = 100.0 if metric == 'accuracy' else 1.0
  loss, quality, bits = fig.subplots(1, 3)
  loss.plot(epochs, of('train_loss'), label='train')
  loss.plot(epochs, of('valid_loss'), label='validation')
  loss.set(xlabel='epoch', ylabel='loss', yscale='log')
  quality.plot(epochs, of(f'train_{metric}', percent), label='train')
  quality.plot(epochs, of(f'valid_{metric}', percent), label='validation')
  quality.plot(epochs, of(f'test_{metric}', percent), label='test', ls=':')
  unit = ' in %' if metric == 'accuracy' else ''
  quality.set(xlabel='epoch', ylabel=f'{metric}{unit}')
  bits.plot(epochs, of('bits'), label='usage-weighted, training batches')
  bits.set(xlabel='epoch', ylabel='average bits')
  for axes in (loss, quality, bits):
    axes.legend()
    axes.grid(alpha=0.3)
  _save(fig, path)


def by_degree(features: dict[str, Any], path: pathlib.Path) -> None:
  """Average bits and relative quantization error against in-degree.

  Both are means over the test nodes of an in-degree, one line for each
  quantization point on nodes; the error is the square root of (squared error
  / squared signal). In-degrees with fewer than 20 nodes are left out.

  Args:
    features: those of `accounting.totals` to show.
    path: PNG file.
  """
  fig = figure.Figure(figsize=(11, 4), layout='constrained')
  bits, error = fig.subplots(1, 2)
  for name, sums in features.items():
    if 'degree' not in sums:
      continue
    degree = sums['degree']
    seen = np.flatnonzero(degree['rows'] >= 20)
    rows = degree['rows'][seen]
    energy = np.maximum(degree['energy'][seen], 1e-30)
    bits.plot(seen, degree['bits'][seen] / rows, label=name)
    error.plot(seen, np.sqrt(degree['error'][seen] / energy))
  bits.set(xlabel='in-degree', ylabel='average bits')
  error.set(xlabel='in-degree', ylabel='relative quantization error')
  for axes in (bits, error):
    axes.grid(alpha=0.3)
  if bits.lines:
    bits.legend(fontsize='x-small')
  _save(fig, path)


def quality_against_bits(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Test metric against average bits, a panel for each data set and backbone.

  A marker for each quantizer and a colour for each prompt; bars are standard
  deviations over seeds and folds.

  Args:
    rows: of `comparison.compare`, at least one.
    path: PNG file.
  """
  fig, panels = _panels(rows)
  for axes, part in panels:
    for run in (row.run for row in part):
      factor = _factor(run.metric)
      spread = run.test.deviation
      axes.errorbar(
        run.bits.mean,
        factor * run.test.mean,
        xerr=run.bits.deviation,
        yerr=None if spread is None else factor * spread,
        color=_COLORS.get(run.prompt, 'C7'),
        marker=_MARKERS.get(run.quantizer, 'x'),
        linestyle='none',
        capsize=2,
      )
    axes.set_xscale('log', base=2)
    axes.set_xticks((2, 4, 8, 16, 32), labels=('2', '4', '8', '16', '32'))
    metric = part[0].run.metric
    unit = ' in %' if metric == 'accuracy' else ' (less is better)'
    axes.set(xlabel='average bits', ylabel=f'test {metric}{unit}')
    axes.grid(alpha=0.3)
  prompts = dict.fromkeys(row.run.prompt for row in rows)
  quantizers = dict.fromkeys(row.run.quantizer for row in rows)
  key = lambda label, **style: lines.Line2D(
    [], [], linestyle='none', label=label, **style
  )
  fig.legend(
    handles=[
      *(key(p, color=_COLORS.get(p, 'C7'), marker='.') for p in prompts),
      *(key(q, color='grey', marker=_MARKERS.get(q, 'x')) for q in quantizers),
    ],
    loc='outside right upper',
  )
  _save(fig, path)


def gains(rows: Sequence[Row], path: pathlib.Path) -> None:
  """What each prompt gains over none, with standard errors.

  A panel for each data set and backbone; a hollow marker is an unpaired gain.

  Args:
    rows: of `comparison.compare`. Those without a gain are left out; if that
      is all of them, the plot says so.
    path: PNG file.
  """
  found = [row for row in rows if row.gain is not None]
  if not found:
    fig = figure.Figure(figsize=(5, 2))
    fig.text(0.5, 0.5, 'no run beside one without prompts', ha='center')
    _save(fig, path)
    return
  fig, panels = _panels(found)
  for axes, part in panels:
    for place, row in enumerate(part):
      gain, factor = row.gain, _factor(row.run.metric)
      assert gain is not None
      color = _COLORS.get(row.run.prompt, 'C7')
      axes.errorbar(
        factor * gain.mean,
        place,
        xerr=None if gain.error is None else factor * gain.error,
        color=color,
        marker=_MARKERS.get(row.run.quantizer, 'x'),
        markerfacecolor=color if gain.paired else 'none',
        capsize=2,
      )
    labels = [f'{row.run.quantizer} {row.run.prompt_text}' for row in part]
    axes.set_yticks(range(len(part)), labels=labels)
    axes.invert_yaxis()
    axes.axvline(0, color='grey', linewidth=0.8)
    unit = ' in points' if part[0].run.metric == 'accuracy' else ''
    axes.set_xlabel(f'gain in {part[0].run.metric}{unit}; hollow: unpaired')
    axes.grid(alpha=0.3)
  _save(fig, path)


def _panels(
  rows: Sequence[Row],
) -> tuple[figure.Figure, list[tuple[axes_lib.Axes, list[Row]]]]:
  """A figure with axes for the rows of each data set and backbone."""
  groups: dict[tuple[str, str, str], list[Row]] = {}
  for row in rows:
    run = row.run
    key = (run.dataset, run.data_name, run.backbone)
    groups.setdefault(key, []).append(row)
  columns = min(3, len(groups))
  height = -(-len(groups) // columns)
  tallest = max(map(len, groups.values()))
  fig = figure.Figure(
    figsize=(4.5 * columns + 1.5, height * max(3.5, 0.3 * tallest)),
    layout='constrained',
  )
  panels = []
  for number, ((dataset, _, backbone), part) in enumerate(groups.items(), 1):
    axes = fig.add_subplot(height, columns, number)
    mark = '' if part[0].run.comparable else ' (not comparable)'
    axes.set_title(f'{dataset}{mark}, {backbone}')
    panels.append((axes, part))
  return fig, panels


def _factor(metric: str) -> float:
  return 100.0 if metric == 'accuracy' else 1.0


def _save(fig: figure.Figure, path: pathlib.Path) -> None:
  with matplotlib.rc_context({'savefig.dpi': 120}):
    fig.savefig(path)
