"""Plots of a run, or of several side by side, as PNG files."""

import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib import axes as axes_lib
from matplotlib import figure, lines, ticker

from lorap_jax.reports.comparison import Row
from lorap_jax.runs import cells
from lorap_jax.training import xray

FULL_BITS = 32
# Okabe and Ito's colours, which the colour-blind can tell apart: of layers, in
# their order, and of prompts.
_LAYERS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#56B4E9',
  '#E69F00',
  '#000000',
  '#999999',
)
# A name and a line for each split; lines differ in print as well.
_SPLITS: dict[str, tuple[str, dict[str, Any]]] = {
  'train': ('train', {'color': '#0072B2'}),
  'valid': ('validation', {'color': '#D55E00', 'linestyle': '--'}),
  'test': ('test', {'color': '#009E73', 'linestyle': ':'}),
}

# In the order of their tables; those behind the last are drawn as others are.
_MARKERS = dict(zip(cells.QUANTIZERS, '*sD^voP<>pX', strict=False))
_COLORS = dict(
  zip(
    cells.PROMPTS,
    ('#000000', '#0072B2', '#56B4E9', '#E69F00', '#D55E00', '#CC79A7'),
    strict=False,
  )
)
_OTHER = '#999999'


def learning_curves(
  records: list[dict[str, Any]], metric: str, *, title: str, selected: int
) -> figure.Figure:
  """Loss, metric and average bits against the epoch.

  Args:
    records: one record per epoch.
    metric: `accuracy` or `mae`.
    title: what was run.
    selected: the epoch whose test metric counts.

  Returns:
    The figure, for `save` or `svg`.
  """
  epochs = [r['epoch'] for r in records]
  factor = _factor(metric)
  fig = figure.Figure(figsize=(10.5, 3.6), layout='constrained')
  if title:
    fig.suptitle(title, fontsize='medium')
  loss, quality, bits = fig.subplots(1, 3)
  for split, (name, style) in _SPLITS.items():
    values = [factor * r[f'{split}_{metric}'] for r in records]
    quality.plot(epochs, values, label=name, **style)
    if split != 'test':
      loss.plot(epochs, [r[f'{split}_loss'] for r in records], **style)
  unit = ' in %' if metric == 'accuracy' else ''
  loss.set_yscale('log')
  loss.set_title('loss', fontsize='medium')
  plain = ticker.FuncFormatter(lambda value, _: f'{value:g}')
  loss.yaxis.set_major_formatter(plain)
  low, high = loss.get_ylim()
  within = high / low < 10  # A power of ten or none: label what is between.
  loss.yaxis.set_minor_formatter(plain if within else ticker.NullFormatter())
  quality.set_title(f'{metric}{unit}', fontsize='medium')
  average = [r['bits'] for r in records]
  bits.plot(epochs, average, color='black')
  bits.set_title('average bits of the training batches', fontsize='medium')
  bits.set_ylim(0, _top_of_bits(average))
  bits.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  for axes in (loss, quality, bits):
    mark = axes.axvline(
      selected, color='grey', linewidth=0.8, linestyle=(0, (2, 2)), zorder=0
    )
    axes.set_xlabel('epoch')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  mark.set_label(f'epoch {selected}, selected')
  _below(fig, [*quality.lines[:-1], mark])
  _tidy(fig)
  return fig


def group_curves(
  members: Sequence[list[dict[str, Any]]], metric: str
) -> figure.Figure:
  """Loss, validation and test metric of several runs against the epoch.

  Args:
    members: the records of each run, one per epoch.
    metric: `accuracy` or `mae`.

  Returns:
    The figure: a thin line for each run, their mean over the epochs of all.
  """
  factor = _factor(metric)
  fig = figure.Figure(figsize=(10.5, 3.4), layout='constrained')
  unit = ' in %' if metric == 'accuracy' else ''
  length = min(map(len, members))
  for axes, (split, name, scale) in zip(
    fig.subplots(1, 3),
    (
      ('train', 'loss', 1),
      ('valid', metric, factor),
      ('test', metric, factor),
    ),
    strict=True,
  ):
    label, style = _SPLITS[split]
    curves = [[scale * r[f'{split}_{name}'] for r in run] for run in members]
    for curve in curves:
      axes.plot(
        range(1, len(curve) + 1),
        curve,
        color=style['color'],
        alpha=0.5,
        linewidth=0.9,
      )
    mean = [sum(c[i] for c in curves) / len(curves) for i in range(length)]
    axes.plot(range(1, length + 1), mean, color=style['color'], linewidth=2)
    axes.set_title(
      f'{label} {name}{unit if name == metric else ""}', fontsize='medium'
    )
    axes.set_xlabel('epoch')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  _tidy(fig)
  return fig


def by_degree(points: Sequence[dict[str, Any]], *, title: str) -> figure.Figure:
  """Average bits and relative quantization error against in-degree.

  A row of panels for each kind of quantization point on nodes, and a colour for
  each layer; of several points of a kind in a layer the later ones are
  broken lines. Points that are nowhere quantized are left out.

  Args:
    points: quantization points, from `xray.points`.
    title: what was run.

  Returns:
    The figure, for `save` or `svg`.
  """
  colors = layer_colors(points)
  kinds: dict[str, list[dict[str, Any]]] = {}
  for point in points:
    if 'by_degree' in point and point['bits'] < FULL_BITS:
      kinds.setdefault(point['point'], []).append(point)
  height = max(len(kinds), 1)
  fig = figure.Figure(figsize=(8.5, 1.9 * height + 1.2), layout='constrained')
  if title:
    fig.suptitle(title, fontsize='medium')
  if not kinds:
    fig.text(0.5, 0.5, 'no quantized node features by in-degree', ha='center')
    return fig
  shown = [point for part in kinds.values() for point in part]
  known = [
    i
    for i in range(len(xray.FIRST_DEGREES))
    if any(point['by_degree']['bits'][i] is not None for point in shown)
  ]
  bins = range(known[0], known[-1] + 1) if known else range(0)
  layers = [layer for layer in colors if layer in {p['layer'] for p in shown}]
  panels = fig.subplots(height, 2, sharex=True, sharey='col', squeeze=False)
  for row, (kind, part) in zip(panels, kinds.items(), strict=True):
    for point in part:
      same = [p for p in part if p['layer'] == point['layer']]
      # Thinner and thinner, so that equal lines are all seen.
      width = 1.2 + 2.5 / len(layers) * (
        len(layers) - 1 - layers.index(point['layer'])
      )
      for axes, name in zip(row, ('bits', 'error'), strict=True):
        values = [point['by_degree'][name][i] for i in bins]
        axes.plot(
          bins,
          [float('nan') if value is None else value for value in values],
          color=colors[point['layer']],
          linestyle=('-', '--', ':', '-.')[same.index(point) % 4],
          linewidth=width,
          marker='o',
          markersize=width + 2,
        )
    for axes, name in zip(row, ('average bits', 'relative error'), strict=True):
      axes.set_title(f'{kind}: {name}', fontsize='medium')
  labels = xray.bin_labels()
  for axes in panels[-1]:
    axes.set_xlabel('in-degree')
    axes.set_xticks(bins, labels=[labels[i] for i in bins])
  panels[0, 0].set_ylim(0, _top_of_bits(point['bits'] for point in shown))
  panels[0, 1].set_ylim(bottom=0)
  key = lambda layer: lines.Line2D(
    [], [], color=colors[layer], marker='o', label=layer
  )
  _below(fig, map(key, layers))
  _tidy(fig)
  return fig


def layer_colors(points: Sequence[dict[str, Any]]) -> dict[str, str]:
  """A colour for each layer, the same in all plots of a run."""
  layers = dict.fromkeys(point['layer'] for point in points)
  return {layer: _LAYERS[i % len(_LAYERS)] for i, layer in enumerate(layers)}


def quality_against_bits(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Test metric against average bits, a panel for each data set and backbone.

  A marker for each quantizer and a colour for each prompt; bars are standard
  deviations over seeds and folds.

  Args:
    rows: runs, from `comparison.compare`; at least one.
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
        color=_COLORS.get(run.prompt, _OTHER),
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
      *(key(p, color=_COLORS.get(p, _OTHER), marker='.') for p in prompts),
      *(key(q, color='grey', marker=_MARKERS.get(q, 'x')) for q in quantizers),
    ],
    loc='outside right upper',
  )
  save(fig, path)


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
    save(fig, path)
    return
  fig, panels = _panels(found)
  for axes, part in panels:
    for place, row in enumerate(part):
      gain, factor = row.gain, _factor(row.run.metric)
      assert gain is not None
      color = _COLORS.get(row.run.prompt, _OTHER)
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
  save(fig, path)


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


def _below(fig: figure.Figure, handles: Iterable[Any]) -> None:
  """A legend under the panels, off their curves."""
  handles = list(handles)
  fig.legend(
    handles=handles,
    loc='outside lower center',
    ncols=min(len(handles), 6),
    frameon=False,
  )


def _tidy(fig: figure.Figure) -> None:
  """Faint grids, and no lines around panels that carry nothing."""
  for axes in fig.axes:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[['top', 'right']].set_visible(False)


def _top_of_bits(values: Iterable[float]) -> float:
  """Where an axis of bits ends that starts at 0: 4.00 to 3.85 looks flat."""
  largest = max(values)
  return next((top for top in (2, 4, 8, 16) if largest < top), 32) * 1.05


def save(fig: figure.Figure, path: pathlib.Path) -> None:
  """Writes a figure as a PNG file."""
  with matplotlib.rc_context({'savefig.dpi': 150}):
    fig.savefig(path)


def svg(fig: figure.Figure) -> str:
  """A figure as an SVG element; the same figure gives the same text."""
  out = io.StringIO()
  settings = {'svg.fonttype': 'none', 'svg.hashsalt': 'lorap_jax'}
  with matplotlib.rc_context(settings):
    fig.savefig(
      out,
      format='svg',
      transparent=True,
      metadata=dict.fromkeys(('Date', 'Creator', 'Format', 'Type')),
    )
  text = out.getvalue()
  return text[text.index('<svg') :]
