"""Quantization points: sums over a split become means."""

import numpy as np
import pytest

from lorap_jax.training import xray


def sums(rows=30.0, bits=4.0, degree=None):
  """A point of two columns, each row with energy 8 and error 2."""
  found = {
    'rows': rows,
    'elements': 2 * rows,
    'bits': 2 * rows * bits,
    'error': 2.0 * rows,
    'energy': 8.0 * rows,
    'energy_after': 18.0 * rows,
    'clipped': 0.5 * rows,
  }
  if degree is not None:
    counts = np.zeros(65)
    for value, count in degree.items():
      counts[value] = count
    found['degree'] = {
      'rows': counts,
      'bits': bits * counts,
      'error': 2 * counts,
      'energy': 8 * counts,
      'energy_after': 18 * counts,
      'clipped': 0.5 * counts,
    }
  return found


def test_means():
  (point,) = xray.points({'input': {'conv_0/dense/input': sums()}})
  assert point == {
    'path': 'conv_0/dense/input',
    'layer': 'conv_0',
    'point': 'input',
    'elements': 60.0,
    'bits': 4.0,
    'error': 0.5,
    'rms': 2.0,
    'rms_after': 3.0,
    'clipped': 0.25,
  }


def test_bins():
  degree = {0: 19, 1: 20, 3: 10, 4: 10, 63: 20, 64: 21}
  (point,) = xray.points(
    {'aggregate': {'conv_0/aggregate': sums(100.0, degree=degree)}}
  )
  found = point['by_degree']
  assert found['rows'] == [19, 20, 0, 20, 0, 0, 0, 20, 21]
  assert found['bits'] == [None, 4, None, 4, None, None, None, 4, 4]
  assert found['error'][1] == pytest.approx(0.5)
  assert found['rms'][8] == pytest.approx(2)


def test_layers_are_in_their_order():
  found = xray.points(
    {
      'message': {'conv_10/message': sums(), 'conv_2/message': sums()},
      'input': {'conv_2/dense/input': sums()},
    }
  )
  assert [p['path'] for p in found] == [
    'conv_2/dense/input',
    'conv_2/message',
    'conv_10/message',
  ]


def test_point_is_declared_and_not_the_name_of_a_module():
  (point,) = xray.points({'readout': {'readout_0/input': sums()}})
  assert (point['layer'], point['point']) == ('readout_0', 'readout')


def test_raw_features_are_of_the_network():
  (point,) = xray.points({'features': {'features': sums()}})
  assert (point['layer'], point['point']) == ('network', 'features')


def test_prompts():
  one = {'elements': 50.0, 'before': 200.0, 'prompt': 50.0, 'after': 450.0}
  found = xray.prompts({'conv_10/prompt': one, 'conv_2/prompt': one})
  assert [entry['layer'] for entry in found] == ['conv_2', 'conv_10']
  assert found[0] == {
    'path': 'conv_2/prompt',
    'layer': 'conv_2',
    'before': 2.0,
    'prompt': 1.0,
    'after': 3.0,
  }
