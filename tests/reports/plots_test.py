"""Plots of a run: what is in which panel, and where its legend is."""

import io

import pytest

from lorap_jax.reports import plots
from lorap_jax.training import xray


def records(bits=(4.0, 3.95, 3.85), metric='accuracy'):
  return [
    {
      'epoch': epoch,
      'bits': value,
      **{f'{split}_loss': 2 / epoch for split in ('train', 'valid', 'test')},
      **{
        f'{split}_{metric}': 0.3 * epoch for split in ('train', 'valid', 'test')
      },
    }
    for epoch, value in enumerate(bits, 1)
  ]


def point(path, bits=4.0, degrees=True):
  layer, *_, kind = path.split('/')
  value = {'path': path, 'layer': layer, 'point': kind, 'bits': bits}
  value |= {'error': 0.1, 'rms': 1.0, 'elements': 100.0}
  if degrees:
    of_bins = [None, bits, bits, None, bits, None, None, None, None]
    errors = [v and 0.01 * v for v in of_bins]
    value['by_degree'] = {'bits': of_bins, 'error': errors}
  return value


POINTS = [
  point('conv_0/aggregate'),
  point('conv_0/dense_1/input', 3.5),
  point('conv_0/dense_2/input', 3.25),
  point('conv_1/aggregate', 2.0),
  point('conv_1/features', 32.0),
  point('readout_0/input', degrees=False),
]


def drawn(fig):
  """Has matplotlib lay it out."""
  fig.savefig(io.BytesIO())
  return fig


def curves(**changes):
  fig = plots.learning_curves(
    records(**changes), 'accuracy', title='cora: gcn', selected=2
  )
  return drawn(fig)


@pytest.mark.parametrize(
  'bits, top',
  [
    ((4.0, 3.95, 3.85), 8),
    ((1.9, 1.5), 2),
    ((2.0, 1.5), 4),
    ((32.0, 32.0), 32),
    ((8.0, 7.9), 16),
  ],
)
def test_bits_are_not_magnified(bits, top):
  _, _, axes = curves(bits=bits).axes
  assert axes.get_ylim() == (0, pytest.approx(1.05 * top))


def test_curves_have_titles_and_the_selected_epoch():
  fig = curves()
  assert fig.get_suptitle() == 'cora: gcn'
  titles = [axes.get_title() for axes in fig.axes]
  assert titles[:2] == ['loss', 'accuracy in %'] and 'bits' in titles[2]
  texts = [text.get_text() for text in fig.legends[0].get_texts()]
  assert texts == ['train', 'validation', 'test', 'epoch 2, selected']


def test_panel_for_each_kind_and_colour_for_each_layer():
  fig = drawn(plots.by_degree(POINTS, title='t'))
  titles = [axes.get_title() for axes in fig.axes]
  assert titles == [
    'aggregate: average bits',
    'aggregate: relative error',
    'input: average bits',
    'input: relative error',
  ]
  colors = plots.layer_colors(POINTS)
  assert len(set(colors.values())) == 3
  lines = [[line.get_color() for line in axes.lines] for axes in fig.axes]
  first, second = colors['conv_0'], colors['conv_1']
  assert lines == [[first, second]] * 2 + [[first, first]] * 2
  assert [line.get_linestyle() for line in fig.axes[2].lines] == ['-', '--']
  # From the first in-degree that is known to the last.
  assert [t.get_text() for t in fig.axes[2].get_xticklabels()] == [
    '1',
    '2',
    '3-4',
    '5-8',
  ]


@pytest.mark.parametrize(
  'make', [curves, lambda: drawn(plots.by_degree(POINTS, title='t'))]
)
def test_legends_are_off_the_panels(make):
  fig = make()
  legend = fig.legends[0].get_window_extent()
  for axes in fig.axes:
    assert axes.get_legend() is None
    assert not legend.overlaps(axes.get_tightbbox())
    for other in fig.axes:
      if other is not axes:
        assert not axes.get_tightbbox().overlaps(other.get_tightbbox())


def test_nothing_quantized_is_said():
  fig = drawn(plots.by_degree([point('conv_0/features', 32.0)], title='t'))
  assert 'no quantized node features by in-degree' in [
    t.get_text() for t in fig.texts
  ]


def test_svg_is_the_same_again_and_asks_for_nothing():
  first, second = (plots.svg(curves()) for _ in range(2))
  assert first == second and first.startswith('<svg')
  assert 'metadata' not in first and '<image' not in first


def test_bins_of_in_degrees():
  assert xray.bin_labels() == [
    '0',
    '1',
    '2',
    '3-4',
    '5-8',
    '9-16',
    '17-32',
    '33-63',
    '64+',
  ]
