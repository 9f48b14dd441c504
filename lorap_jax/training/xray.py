"""What quantization does at each point of a network: bits and errors.

Of each point, over the elements of its real rows in the test split:

* bits: mean of the stored bits.
* error: relative, sqrt(sum (x - y)^2 / sum x^2) of x before and y after the
  quantizer.
* rms, rms_after: sqrt(mean x^2), sqrt(mean y^2), how large both are.
* clipped: share of the elements beyond the ends of their grid.

The same by in-degree where rows are nodes, in bins that grow by factors of two.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

FIRST_DEGREES = (0, 1, 2, 3, 5, 9, 17, 33, 64)  # Of the bins.
_LEAST_ROWS = 20  # Of a bin that is shown.


def bin_labels() -> list[str]:
  """The in-degrees of each bin: `3-4`."""
  ends = [*(first - 1 for first in FIRST_DEGREES[1:]), None]
  return [
    f'{first}+'
    if last is None
    else f'{first}-{last}'
    if last > first
    else f'{first}'
    for first, last in zip(FIRST_DEGREES, ends, strict=True)
  ]


def points(
  features: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """The quantization points of a network.

  Args:
    features: of `accounting.totals`, by point and then by path, added up over
      the batches of a split.

  Returns:
    JSON-able dicts in the order of the layers: `path`, its `layer` and `point`,
    `elements`, `bits`, `error`, `rms`, `rms_after`, `clipped`, and `by_degree`
    where rows are nodes: `rows` and the same of each bin, None where there are
    too few rows to tell.
  """
  found = [
    _point(path, point, sums)
    for point, group in features.items()
    for path, sums in group.items()
  ]
  return sorted(found, key=lambda entry: _natural(entry['path']))


def prompts(sums: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
  """What the prompts do to their aggregates.

  Args:
    sums: `prompts` of `accounting.totals`, added up over the batches.

  Returns:
    JSON-able dicts in the order of the layers: `path`, `layer`, and the root
    mean squares of the aggregate `before`, of the `prompt` and of the aggregate
    `after` it was added.
  """
  found = []
  for path in sorted(sums, key=_natural):
    entry: dict[str, Any] = {'path': path, 'layer': path.partition('/')[0]}
    elements = max(float(sums[path]['elements']), 1)
    for name in ('before', 'prompt', 'after'):
      entry[name] = float(np.sqrt(float(sums[path][name]) / elements))
    found.append(entry)
  return found


def _natural(path: str) -> list[Any]:
  """A key that puts conv_2 before conv_10."""
  return [
    (not part.isdigit(), int(part) if part.isdigit() else part)
    for part in re.findall(r'\d+|\D+', path)
  ]


def _point(path: str, point: str, sums: dict[str, Any]) -> dict[str, Any]:
  layer, below, _ = path.partition('/')
  if not below:  # Of the network itself: what enters it.
    layer = 'network'
  width = float(sums['elements']) / max(float(sums['rows']), 1)
  found: dict[str, Any] = {'path': path, 'layer': layer, 'point': point}
  found['elements'] = float(sums['elements'])
  names = ('error', 'energy', 'energy_after', 'clipped')
  totals = {name: np.float64(sums[name]) for name in names}
  # Sums of `bits` are over elements here, over rows by degree.
  totals |= {
    'rows': np.float64(sums['rows']),
    'bits': np.float64(sums['bits']) / width,
  }
  found |= {name: float(v) for name, v in _means(totals, width).items()}
  if 'degree' in sums:
    binned = {
      name: np.add.reduceat(np.asarray(v, np.float64), FIRST_DEGREES)
      for name, v in sums['degree'].items()
    }
    few = binned['rows'] < _LEAST_ROWS
    found['by_degree'] = {
      'rows': binned['rows'].tolist(),
      **{
        name: [
          None if f else float(v) for v, f in zip(values, few, strict=True)
        ]
        for name, values in _means(binned, width).items()
      },
    }
  return found


def _means(sums: dict[str, Any], width: float) -> dict[str, Any]:
  rows = np.maximum(sums['rows'], 1)
  return {
    'bits': sums['bits'] / rows,
    'error': np.sqrt(sums['error'] / np.maximum(sums['energy'], 1e-30)),
    'rms': np.sqrt(sums['energy'] / (rows * width)),
    'rms_after': np.sqrt(sums['energy_after'] / (rows * width)),
    'clipped': sums['clipped'] / (rows * width),
  }
