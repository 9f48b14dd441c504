"""Plots of a run, as PNG files."""

import pathlib
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure

_PRODUCT_POINTS = ('input', 'aggregate')


def learning_curves(records: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Loss, accuracy and average bits against the epoch.

  Args:
    records: of `history`.
    path: PNG file.
  """
  epochs = [r['epoch'] for r in records]
  of = lambda name, factor=1.0: [factor * r[name] for r in records]
  fig = figure.Figure(figsize=(12, 3.6), layout='constrained')
  loss, accuracy, bits = fig.subplots(1, 3)
  loss.plot(epochs, of('train_loss'), label='train')
  loss.plot(epochs, of('valid_loss'), label='validation')
  loss.set(xlabel='epoch', ylabel='cross entropy', yscale='log')
  accuracy.plot(epochs, of('train_accuracy', 100), label='train')
  accuracy.plot(epochs, of('valid_accuracy', 100), label='validation')
  accuracy.plot(epochs, of('test_accuracy', 100), label='test', ls=':')
  accuracy.set(xlabel='epoch', ylabel='accuracy in %')
  bits.plot(epochs, of('bits'), label='usage-weighted, training batches')
  bits.set(xlabel='epoch', ylabel='average bits')
  for axes in (loss, accuracy, bits):
    axes.legend()
    axes.grid(alpha=0.3)
  _save(fig, path)


def by_degree(features: dict[str, Any], path: pathlib.Path) -> None:
  """Average bits and relative quantization error against in-degree.

  Both are means over the test nodes of an in-degree, one line for each
  quantization point on nodes; the error is the square root of (squared error
  / squared signal). In-degrees with fewer than 20 nodes are left out.

  Args:
    features: `features` of `accounting.totals`.
    path: PNG file.
  """
  fig = figure.Figure(figsize=(11, 4), layout='constrained')
  bits, error = fig.subplots(1, 2)
  for name, sums in features.items():
    if 'degree' not in sums or name.rsplit('/', 1)[-1] not in _PRODUCT_POINTS:
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
  bits.legend(fontsize='x-small')
  _save(fig, path)


def _save(fig: figure.Figure, path: pathlib.Path) -> None:
  with matplotlib.rc_context({'savefig.dpi': 120}):
    fig.savefig(path)
