"""Products, sums over neighbors and graphs, and their bounds."""

import dataclasses
import math
from typing import Any

import numpy as np

from lorap_jax.integers.values import (
  WIDE_BITS,
  Codes,
  ExportError,
  Values,
  Wide,
  f32,
)
from lorap_jax.quantization import grids

_NORM = 2**10  # Of norms in front of a sum.


class Sums(Values):
  """The part of the builder for products and sums."""

  def product(
    self, label: str, a: Codes, weight: np.ndarray, scale: np.ndarray
  ) -> Codes:
    """The product a W of weights in -128..127, with a scale for each column."""
    weight = np.asarray(weight)
    if weight.size and not (-128 <= weight.min() and weight.max() <= 127):
      raise ExportError(f'{self.path(label)}: weights of more than 8 bits')
    size = np.abs(weight.astype(np.int64)).sum(0)
    if np.ndim(a.scale):
      raise ExportError(
        f'{a.name} has a scale for each column, which no integer product can '
        'factor out'
      )
    zero = np.broadcast_to(np.asarray(a.zero, np.int64), (a.width,))
    constants: dict[str, Any] = {'weight': weight.astype(np.int8)}
    if np.any(zero):
      constants['bias'] = -(zero @ weight.astype(np.int64))[None].astype(
        np.int32
      )
    bound = int(np.max((a.bound + np.max(np.abs(zero))) * size, initial=0))
    name = self.add(
      'product', label, {'a': a.name}, constants, bound=max(bound, 1)
    )
    return Codes(
      name,
      np.asarray(scale, np.float64) * a.scale,
      np.zeros(()),
      max(bound, 1),
      weight.shape[1],
      row=a.row,
      reach=a.reach,
    )

  def summable(self, label: str, a: Codes) -> Codes:
    """Codes q - z whose rows have one scale; of 16 bits if theirs have none.

    A zero point between whole numbers has no place in a sum either.
    """
    zero = np.rint(np.broadcast_to(a.zero, (a.width,)))
    if a.row is not None or np.any(zero != a.zero):
      return self.operand(f'{label}_operand', self.widen(f'{label}_values', a))
    if not np.any(zero):
      return a
    bound = a.bound + int(np.max(np.abs(zero)))
    name = self.add(
      'scale',
      f'{label}_centered',
      {'a': a.name},
      {'factor': f32(1.0), 'bias': -zero.astype(np.int32)[None]},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return dataclasses.replace(a, name=name, zero=np.zeros(()), bound=bound)

  def neighbor_sum(
    self, label: str, a: Codes, *, drop_loops: bool = False
  ) -> Codes:
    """The sum of the codes over the edges into each row; zero point 0."""
    a = self.summable(label, a)
    bound = a.bound * self.max_degree
    name = self.add(
      'sum_edges',
      label,
      {'a': a.name},
      bound=bound,
      drop_loops=int(drop_loops),
    )
    return dataclasses.replace(a, name=name, bound=bound)

  def norms(self, *, self_loops: bool, keep: bool) -> tuple[str, str | None]:
    """D^-1/2 of each node, float32, and the self loops that it is to get."""
    degree = self.add('degrees', 'degrees', {}, bound=self.max_degree)
    loops = None
    if self_loops:
      loops = self.add(
        'add_loops', 'loops', {}, bound=self.max_degree + 1, keep=int(keep)
      )
      degree = self.add(
        'add',
        'degrees_with_loops',
        {'a': degree, 'b': loops},
        bound=self.max_degree + 1,
      )
    # Each degree up to 256, then steps of less than half a percent.
    steps, largest = [0, *range(1, 257)], self.max_degree + 1
    while steps[-1] < largest:
      steps.append(steps[-1] + max(1, steps[-1] // 256))
    steps = np.array([s for s in steps if s <= largest])
    bins = self.add(
      'search',
      'degree_step',
      {'a': degree},
      {'thresholds': steps[1:].astype(np.int32)},
      bound=len(steps),
    )
    table = np.where(steps > 0, 1 / np.sqrt(np.maximum(steps, 1)), 0)
    norm = self.add('lookup', 'norm', {'a': bins}, {'table': f32(table)})
    return norm, loops

  def normed_sum(
    self, label: str, a: Codes, norm: str, loops: str | None
  ) -> Codes:
    """D (A + C) d of codes; the inner norms are whole numbers in 1 / 1024."""
    a = self.summable(label, a)
    weight = self.add(
      'fix',
      f'{label}_norm',
      {'x': norm},
      {'factor': f32(_NORM)},
      bound=_NORM,
      low=0,
      high=_NORM,
    )
    scaled = self.add(
      'weigh',
      f'{label}_weighed',
      {'a': a.name, 'row': weight},
      bound=a.bound * _NORM,
    )
    # A node of degree d has a norm of 1 / sqrt(d), but its senders may have 1.
    bound = a.bound * _NORM * (self.max_degree + 1)
    total = self.add('sum_edges', label, {'a': scaled}, bound=bound)
    if loops is not None:
      own = self.add(
        'weigh', f'{label}_own', {'a': scaled, 'row': loops}, bound=bound
      )
      total = self.add(
        'add', f'{label}_all', {'a': total, 'b': own}, bound=bound
      )
    return dataclasses.replace(
      a,
      name=total,
      scale=np.asarray(a.scale) / _NORM,
      bound=bound,
      row=norm,
      reach=1.0,
    )

  def edge_sum(
    self,
    label: str,
    a: Codes,
    norm: str,
    loops: str | None,
    grid: grids.UniformGrid,
  ) -> Wide:
    """The sum over the edges with quantized weights of a normed adjacency."""
    if np.size(grid.scale) > 1:
      raise ExportError('edge weights have a scale for each column')
    scale, zero = float(np.sum(grid.scale)), float(np.sum(grid.zero_point))
    a = self.summable(label, a)
    # Weights are s (q - z) with q - rint(z) >= low - rint(z): z may be real.
    shift = round(zero)
    ends = {'low': grid.low - shift, 'high': grid.high - shift}
    largest = max(abs(end) for end in ends.values())
    fix = lambda name, source: self.add(
      'fix',
      name,
      {'x': source},
      {'factor': f32(1 / scale)},
      bound=largest,
      **ends,
    )
    edges = self.add('edge_norm', f'{label}_norms', {'row': norm})
    inputs = {'a': a.name, 'weight': fix(f'{label}_weights', edges)}
    bound = a.bound * largest * (self.max_degree + 1)
    total = self.add('sum_edges', label, inputs, bound=bound)
    if loops is not None:
      row = self.add(
        'loop_norm', f'{label}_loop_norms', {'row': norm, 'a': loops}
      )
      inputs = {'a': a.name, 'row': fix(f'{label}_loop_weights', row)}
      own = self.add('weigh', f'{label}_own', inputs, bound=bound)
      total = self.add(
        'add', f'{label}_all', {'a': total, 'b': own}, bound=bound
      )
    weighed = dataclasses.replace(
      a, name=total, scale=np.asarray(a.scale) * scale, bound=bound
    )
    s = self.widen(f'{label}_sum', weighed)
    if zero == shift:
      return s
    rest = self.neighbor_sum(f'{label}_plain', a)
    if loops is not None:
      bound = rest.bound + a.bound
      name = self.add(
        'add', f'{label}_with_own', {'a': rest.name, 'b': a.name}, bound=bound
      )
      rest = dataclasses.replace(rest, name=name, bound=bound)
    rest = self.widen(f'{label}_rest', rest, factor=(shift - zero) * scale)
    return self.plus(f'{label}_whole', s, rest)

  def pool(self, kind: str, value: Wide) -> Wide:
    """Mean, sum or maximum over the nodes of each graph."""
    if kind == 'max':
      name = self.add(
        'pool_max', 'pooled', {'a': value.name}, bound=value.bound
      )
      return dataclasses.replace(value, name=name)
    room = 31 - math.ceil(math.log2(self.max_nodes + 1)) - 1
    value = self.narrow('narrow', value, min(WIDE_BITS, room))
    bound = value.bound * self.max_nodes
    name = self.add('pool_sum', 'sum', {'a': value.name}, bound=bound)
    if kind == 'sum':
      return dataclasses.replace(value, name=name, bound=bound)
    share = self.add('pool_share', 'share', {})
    name = self.add(
      'scale',
      'pooled',
      {'a': name, 'row': share},
      {'factor': f32(1.0)},
      bound=value.bound,
      low=-value.bound,
      high=value.bound,
    )
    return dataclasses.replace(value, name=name)
