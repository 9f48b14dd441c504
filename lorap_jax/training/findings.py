"""What a run should have said: looked for at its end, told once.

Nothing is measured for this: it reads what the cost report measures anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from lorap_jax.nn import methods

_NEAR = 1e-3  # Bits.
_NO_SCALE = 1e-12
_MOST_BITS = 8
_PIECE = 1 << 16  # Rows of features that are looked at together.


def of_run(
  report: Mapping[str, Any], scheme: Any, params: Any, labels: Any
) -> list[str]:
  """Warnings about a finished run.

  Args:
    report: `cost` and `points` of it, see `report.finish`.
    scheme: quantization framework of the run.
    params: parameters of the selected epoch.
    labels: group of each parameter, see `nn.groups`.

  Returns:
    A line each; what is wrong, where, and what to set.
  """
  points = report['points']
  lines = []
  if isinstance(scheme, methods.A2QGraph | methods.A2QNode):
    bits = report['cost']['average_bits']['usage_weighted']
    if scheme.target_bits is None and bits >= scheme.bits - _NEAR:
      lines.append(
        f'the average bits ended at {bits:.2f} and had started at '
        f'{scheme.bits}: nothing was saved; set a target, such as '
        '--config.scheme.target_bits=3'
      )
    learned = {
      '/'.join(key.key for key in path[:-1])
      for path, group in jax.tree_util.tree_leaves_with_path(labels)
      if group == 'feature_bits'
    }
    stuck = [
      p['path']
      for p in points
      if p['path'] in learned and p['bits'] >= _MOST_BITS - _NEAR
    ]
    if stuck and scheme.bits < _MOST_BITS:
      lines.append(
        f'bits at their upper bound of {_MOST_BITS} in {_listed(stuck)}; '
        'lower --config.optim.feature_bits_lr, or set '
        '--config.scheme.target_bits=3'
      )
  dead = [p['path'] for p in points if p['rms'] and not p['rms_after']]
  if dead:
    lines.append(
      f'all values become 0 in {_listed(dead)}; what follows does not see the '
      'data: set more bits or another range'
    )
  zero = _zero_scales(params, labels)
  if zero:
    lines.append(
      f'scales at 0 in {_listed(zero)}; lower the learning rates of scales '
      '(--config.optim.feature_scale_lr, weight_scale_lr, message_scale_lr)'
    )
  return lines


def _zero_scales(params: Any, labels: Any) -> list[str]:
  paths = jax.tree_util.tree_leaves_with_path(params)
  groups = jax.tree.leaves(labels)
  return [
    '/'.join(key.key for key in path)
    for (path, leaf), group in zip(paths, groups, strict=True)
    if group.endswith('_scale')
    and (np.abs(np.asarray(leaf)) < _NO_SCALE).mean() > 0.5
  ]


def _listed(paths: Sequence[str]) -> str:
  more = f' and {len(paths) - 3} more' if len(paths) > 3 else ''
  return ', '.join(paths[:3]) + more


def warn_of_features(data: Any) -> None:
  """Warns of strange features of a data set, once: see `of_features`."""
  nodes = data.nodes if data.level == 'node' else data.train.nodes
  if line := of_features(nodes, data.source['name']):
    logging.warning('%s', line)


def _deviation(nodes: np.ndarray) -> np.ndarray:
  """Deviation of each column in float64; a piece of the rows at a time."""
  pieces = range(0, len(nodes), _PIECE)
  part = lambda start: nodes[start : start + _PIECE].astype(np.float64)
  mean = sum(part(start).sum(0) for start in pieces) / len(nodes)
  squares = sum(((part(start) - mean) ** 2).sum(0) for start in pieces)
  return np.sqrt(squares / len(nodes))


def of_features(nodes: np.ndarray, name: str) -> str | None:
  """A warning about features far outside of the usual ranges.

  Args:
    nodes: f32 [n, f].
    name: name of the data set.

  Returns:
    A line that names the first such column; None for |x| <= 1e4 and a
    deviation of at most 1e3 everywhere.
  """
  high = np.maximum(nodes.max(0, initial=0), -nodes.min(0, initial=0))
  # A deviation is at most the largest |x|: most data need no second look.
  deviation = _deviation(nodes) if high.max() > 1e3 else 0 * high
  strange = np.flatnonzero((high > 1e4) | (deviation > 1e3))
  if not strange.size:
    return None
  first = strange[0]
  return (
    f'{name}: column {first} of the features has values up to '
    f'{high[first]:.3g} and a deviation of {deviation[first]:.3g} '
    f'({strange.size} such columns); scale the features, for example to mean '
    '0 and deviation 1'
  )
