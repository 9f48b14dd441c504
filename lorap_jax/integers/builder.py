"""Writes integer programs, and bounds every value on the way."""

import dataclasses
import math
from typing import Any

import numpy as np

from lorap_jax.integers import packing
from lorap_jax.integers.program import EXACT, INT32, Node, Program
from lorap_jax.quantization import grids

WIDE_BITS = 22  # Of values between quantizers, unless a sum needs room.
_OPERAND_BITS = 16  # Of operands that no quantizer acts on.
_LOG2_UNIT = 32  # Logits of a softmax are counted in 1 / 32 of an octave.
_LOG2_ENTRIES = 12 * _LOG2_UNIT + 1  # The last one is for all below: 0.
_POWER = 2**13
_NORM = 2**10
_REACH_BITS = 5  # Of the range of a group of A2Q, times a power of two.
_OCTAVES = 15  # From the smallest range to the largest.
# Of multipliers, and of biases beside their sign, in a unit of all columns.
_FACTOR_BITS, _BIAS_BITS = 10, 9
_SHARE = 2**11


class ExportError(ValueError):
  """A network that has no integer program, and why."""


@dataclasses.dataclass(frozen=True)
class Wide:
  """Whole numbers v that stand for v unit, between two quantizers.

  Attributes:
    name: of the value.
    unit: a power of two.
    bound: largest |v|.
    width: number of columns.
    non_negative: v >= 0.
  """

  name: str
  unit: float
  bound: int
  width: int
  non_negative: bool = False


@dataclasses.dataclass(frozen=True)
class Codes:
  """Codes q that stand for s (q - z).

  Attributes:
    name: of the value.
    scale: s, float64 [] or [f]; times the row's, if there is one.
    zero: z, whole numbers [] or [f].
    bound: largest |q|.
    width: number of columns.
    row: name of the float32 scale [n, 1] of each row, a power of two times a
      whole number; None for none.
    reach: largest value of a row's scale.
  """

  name: str
  scale: np.ndarray | np.floating
  zero: np.ndarray | np.floating
  bound: int
  width: int
  row: str | None = None
  reach: float = 1.0


class Builder:
  """Collects the nodes of a program.

  Attributes:
    max_degree: largest number of edges into a node.
    max_nodes: largest number of nodes of a graph.
  """

  def __init__(self, *, max_degree: int, max_nodes: int):
    self.max_degree = max(int(max_degree), 1)
    self.max_nodes = max(int(max_nodes), 1)
    self.nodes: list[Node] = []
    self.bounds: dict[str, int] = {}
    self._place: list[str] = []

  def inside(self, name: str) -> 'Builder._Place':
    """A context in which names of values begin with `name`."""
    return Builder._Place(self, name)

  def path(self, name: str) -> str:
    """The name of something at the present place."""
    return '/'.join((*self._place, name))

  class _Place:
    def __init__(self, builder: 'Builder', name: str):
      self._builder, self._name = builder, name

    def __enter__(self) -> None:
      self._builder._place.append(self._name)

    def __exit__(self, *_: Any) -> None:
      self._builder._place.pop()

  def add(
    self,
    op: str,
    label: str,
    inputs: dict[str, str],
    constants: dict[str, Any] | None = None,
    *,
    bound: int = 0,
    **options: int,
  ) -> str:
    """Adds a node; `bound` is the largest |value|, 0 for float32 results."""
    stem = self.path(label)
    name, tries = stem, 1
    while name in self.bounds:
      tries += 1
      name = f'{stem}_{tries}'
    if bound > INT32:
      raise ExportError(
        f'{name} could reach {bound:,}, more than 32 bits hold; the largest '
        f'in-degree is {self.max_degree}, the largest graph has '
        f'{self.max_nodes} nodes: give smaller ones if the data has them'
      )
    self.bounds[name] = bound
    self.nodes.append(Node(op, inputs, name, constants or {}, options))
    return name

  # Values between quantizers.

  def fix(self, source: str, largest: float, width: int) -> Wide:
    """Real numbers of the input, up to `largest`, as a wide value."""
    unit = _unit(largest, WIDE_BITS)
    limit = 2**WIDE_BITS
    name = self.add(
      'fix',
      'fixed',
      {'x': source},
      {'factor': _f32(1 / unit)},
      bound=limit,
      low=-limit,
      high=limit,
    )
    return Wide(name, unit, limit, width)

  def widen(
    self,
    label: str,
    codes: Codes,
    *,
    factor: Any = 1.0,
    bias: Any = None,
    least_unit: float = 0.0,
  ) -> Wide:
    """The wide value of s (q - z) factor + bias, in `least_unit` or larger."""
    scale = np.asarray(codes.scale, np.float64) * factor
    offset = np.zeros(()) if bias is None else np.asarray(bias, np.float64)
    zero = np.asarray(codes.zero, np.float64)
    offset = offset - zero * scale
    # Of |codes| <= bound. Zero points are part of the offset.
    largest = np.max(codes.bound * codes.reach * np.abs(scale) + np.abs(offset))
    unit = max(_unit(float(largest), WIDE_BITS), least_unit)
    inputs = {'a': codes.name}
    if codes.row is not None:
      inputs['row'] = codes.row
    constants = {'factor': _f32(scale / unit, columns=True)}
    if np.any(offset):
      shift = packing.short(np.rint(offset / unit), _BIAS_BITS)
      shift = np.broadcast_to(shift, (codes.width,))
      constants['bias'] = shift.astype(np.int32)[None]
    # The bound is inside of the limits: these are never met.
    bound = math.ceil(largest / unit * (1 + 2.0**-10)) + 2
    limit = 2 ** (WIDE_BITS + 1)
    name = self.add(
      'scale', label, inputs, constants, bound=bound, low=-limit, high=limit
    )
    return Wide(name, unit, bound, codes.width)

  def narrow(self, label: str, value: Wide, bits: int) -> Wide:
    """The same in at most `bits` bits and a sign."""
    limit = 2**bits - 1  # Fits a whole number of bits + 1 bits.
    if value.bound <= limit:
      return value
    shift = math.ceil(math.log2(value.bound)) - bits
    name = self.add(
      'scale',
      label,
      {'a': value.name},
      {'factor': _f32(2.0**-shift)},
      bound=limit,
      low=-limit,
      high=limit,
    )
    return dataclasses.replace(
      value, name=name, unit=value.unit * 2.0**shift, bound=limit
    )

  def at_unit(self, label: str, value: Wide, unit: float) -> Wide:
    """The same, counted in another, larger unit."""
    if value.unit == unit:
      return value
    bound = math.ceil(value.bound * value.unit / unit)
    name = self.add(
      'scale',
      label,
      {'a': value.name},
      {'factor': _f32(value.unit / unit)},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return dataclasses.replace(value, name=name, unit=unit, bound=bound)

  def plus(self, label: str, a: Wide, b: Wide) -> Wide:
    """A + b in the larger unit."""
    unit = max(a.unit, b.unit)
    a, b = (
      self.at_unit(f'{label}_a', a, unit),
      self.at_unit(f'{label}_b', b, unit),
    )
    bound = a.bound + b.bound
    name = self.add('add', label, {'a': a.name, 'b': b.name}, bound=bound)
    both = a.non_negative and b.non_negative
    return Wide(name, unit, bound, max(a.width, b.width), both)

  def shifted(self, label: str, value: Wide, vector: np.ndarray) -> Wide:
    """Value + vector, a constant row."""
    shift = np.rint(np.asarray(vector, np.float64) / value.unit)
    shift = packing.short(shift, _BIAS_BITS)
    bound = value.bound + int(np.max(np.abs(shift), initial=0))
    name = self.add(
      'scale',
      label,
      {'a': value.name},
      {'factor': _f32(1.0), 'bias': shift.astype(np.int32).reshape(1, -1)},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return dataclasses.replace(
      value, name=name, bound=bound, non_negative=False
    )

  def relu(self, label: str, value: Wide) -> Wide:
    """max(value, 0)."""
    name = self.add('relu', label, {'a': value.name}, bound=value.bound)
    return dataclasses.replace(value, name=name, non_negative=True)

  # Quantizers.

  def quantize(self, label: str, value: Wide, grid: grids.Grid | None) -> Codes:
    """The codes of a wide value; 16 bits where no quantizer acts."""
    with self.inside(label):
      if grid is None:
        return self._as_operand(value)
      if isinstance(grid, grids.UniformGrid):
        return self._uniform(value, grid)
      if isinstance(grid, grids.GroupGrid):
        return self._grouped(value, grid)
      return self._by_row(value, grid)

  def operand(self, label: str, value: Wide, weight: np.ndarray) -> Codes:
    """Codes whose sums of products with weights are below 2**24."""
    size = max(int(np.abs(weight).sum(0).max(initial=0)), 1)
    with self.inside(label):
      return self._as_operand(value, 24 - math.ceil(math.log2(size)))

  def _as_operand(self, value: Wide, bits: int = _OPERAND_BITS - 1) -> Codes:
    bits = min(bits, _OPERAND_BITS - 1)
    narrow = self.narrow('codes', value, bits)
    return Codes(
      narrow.name,
      np.asarray(narrow.unit),
      np.zeros(()),
      narrow.bound,
      narrow.width,
    )

  def _uniform(self, value: Wide, grid: grids.UniformGrid) -> Codes:
    if np.any(grid.zero_point != np.rint(grid.zero_point)):
      # A real zero point acts in front of the rounding.
      offset = np.broadcast_to(grid.zero_point * grid.scale, (value.width,))
      value = self.shifted('centered', value, offset)
      shift = np.zeros(())
    else:
      shift = np.asarray(grid.zero_point)
    constants = {'factor': _f32(value.unit / grid.scale, columns=True)}
    if np.any(shift):
      bias = np.broadcast_to(shift, (value.width,))
      constants['bias'] = bias.astype(np.int32)[None]
    bound = max(abs(grid.low), abs(grid.high))
    name = self.add(
      'scale',
      'codes',
      {'a': value.name},
      constants,
      bound=bound,
      low=grid.low,
      high=grid.high,
    )
    zero = np.asarray(grid.zero_point, np.float64)
    return Codes(name, np.asarray(grid.scale), zero, bound, value.width)

  def _grouped(self, value: Wide, grid: grids.GroupGrid) -> Codes:
    reach, limit = _groups(grid, value.unit)
    largest = self.add(
      'row_max', 'largest', {'a': value.name}, bound=value.bound
    )
    group = self.add(
      'nearest',
      'group',
      {'a': largest},
      {'reach': reach.astype(np.float32)},
      bound=len(reach) - 1,
    )
    lookup = lambda label, table: self.add(
      'lookup', label, {'a': group}, {'table': table}, bound=int(table.max())
    )
    # reach = s 2**(b-1) in units, and the largest code is 2**(b-1) - 1.
    ranges = lookup('range', reach.astype(np.int32))
    power = lookup('power', (limit + 1).astype(np.int32))
    bound = int(limit.max())
    most = self.add(
      'scale',
      'limit',
      {'a': power},
      {'factor': _f32(1.0), 'bias': np.full((1, 1), -1, np.int32)},
      bound=bound,
      low=-2 * bound,
      high=2 * bound,
    )
    inverse = self.add('quotient', 'inverse', {'a': power, 'b': ranges})
    step = self.add('quotient', 'step', {'a': ranges, 'b': power})
    name = self.add(
      'scale',
      'codes',
      {'a': value.name, 'row': inverse, 'limit': most},
      {'factor': _f32(1.0)},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return Codes(
      name,
      np.asarray(value.unit),
      np.zeros(()),
      bound,
      value.width,
      row=step,
      reach=float(np.max(reach / (limit + 1) * limit)) / bound,
    )

  def _by_row(self, value: Wide, grid: grids.RowGrid) -> Codes:
    index = self.add('row_index', 'node', {'a': value.name}, bound=INT32)
    lookup = lambda label, table, bound=0: self.add(
      'lookup', label, {'a': index}, {'table': table}, bound=bound
    )
    scale = np.maximum(grid.scale, 1e-20)
    inverse = lookup('inverse', _f32(value.unit / scale))
    step = lookup('step', _f32(scale))
    bound = int(grid.limit.max())
    most = lookup('limit', grid.limit.astype(np.int32), bound)
    name = self.add(
      'scale',
      'codes',
      {'a': value.name, 'row': inverse, 'limit': most},
      {'factor': _f32(1.0)},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return Codes(
      name,
      np.ones(()),
      np.zeros(()),
      bound,
      value.width,
      row=step,
      reach=float(np.max(scale * grid.limit)) / bound,
    )

  # Sums and products.

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

  def centered(self, label: str, a: Codes) -> Codes:
    """Q - z, whose zero point is 0."""
    if not np.any(a.zero):
      return a
    zero = np.rint(np.broadcast_to(a.zero, (a.width,)))
    bound = a.bound + int(np.max(np.abs(zero)))
    name = self.add(
      'scale',
      label,
      {'a': a.name},
      {'factor': _f32(1.0), 'bias': -zero.astype(np.int32)[None]},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return dataclasses.replace(a, name=name, zero=np.zeros(()), bound=bound)

  def neighbor_sum(
    self, label: str, a: Codes, *, drop_loops: bool = False
  ) -> Codes:
    """The sum of the codes over the edges into each row; zero point 0."""
    if a.row is not None:
      raise ExportError(f'{a.name} has a scale for each row, which no sum has')
    a = self.centered(f'{label}_centered', a)
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
    norm = self.add('lookup', 'norm', {'a': bins}, {'table': _f32(table)})
    return norm, loops

  def normed_sum(
    self, label: str, a: Codes, norm: str, loops: str | None
  ) -> Codes:
    """D (A + C) d of codes; the inner norms are whole numbers in 1 / 1024."""
    if a.row is not None:
      raise ExportError(f'{a.name} has a scale for each row, which no sum has')
    a = self.centered(f'{label}_centered', a)
    weight = self.add(
      'fix',
      f'{label}_norm',
      {'x': norm},
      {'factor': _f32(_NORM)},
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
    if a.row is not None:
      raise ExportError(f'{a.name} has a scale for each row, which no sum has')
    if np.size(grid.scale) > 1:
      raise ExportError('edge weights have a scale for each column')
    scale, zero = float(np.sum(grid.scale)), float(np.sum(grid.zero_point))
    a = self.centered(f'{label}_centered', a)
    # Weights are s (q - z) with q - rint(z) >= low - rint(z): z may be real.
    shift = round(zero)
    ends = {'low': grid.low - shift, 'high': grid.high - shift}
    largest = max(abs(end) for end in ends.values())
    fix = lambda name, source: self.add(
      'fix',
      name,
      {'x': source},
      {'factor': _f32(1 / scale)},
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
      {'factor': _f32(1.0)},
      bound=value.bound,
      low=-value.bound,
      high=value.bound,
    )
    return dataclasses.replace(value, name=name)

  def soften(self, label: str, logits: Codes, bias: np.ndarray) -> Codes:
    """Softmax over the columns, as whole numbers that add up to about 2048."""
    unit = math.log(2) / _LOG2_UNIT
    limit = 2**20
    inputs = {'a': logits.name}
    if logits.row is not None:
      inputs['row'] = logits.row
    shift = packing.short(
      np.clip(np.rint(bias / unit), -limit, limit), _BIAS_BITS
    )
    scaled = self.add(
      'scale',
      f'{label}_logits',
      inputs,
      {
        'factor': _f32(logits.scale / unit, columns=True),
        'bias': shift.astype(np.int32).reshape(1, -1),
      },
      bound=limit,
      low=-limit,
      high=limit,
    )
    table = np.rint(_POWER * 2.0 ** -(np.arange(_LOG2_ENTRIES) / _LOG2_UNIT))
    table[-1] = 0
    name = self.add(
      'soften',
      label,
      {'a': scaled},
      {'table': table.astype(np.int32)},
      bound=_SHARE,
      share=_SHARE,
    )
    return Codes(
      name, np.asarray(1 / _SHARE), np.zeros(()), _SHARE, logits.width
    )

  def program(
    self, output: Wide, *, per_graph: bool, num_features: int
  ) -> Program:
    """The finished program."""
    return Program(
      tuple(self.nodes),
      output.name,
      np.float32(output.unit).reshape(1),
      per_graph,
      num_features,
      dict(self.bounds),
    )


def _groups(
  grid: grids.GroupGrid, unit: float
) -> tuple[np.ndarray, np.ndarray]:
  """Ranges in whole units, in order and each once, and their largest codes.

  Ranges are whole numbers of `_REACH_BITS` bits times a power of two, so that a
  table has some two hundred groups in place of a thousand; of those that become
  equal the one of most bits stays.
  """
  reach = np.clip(np.rint(grid.reach / unit), 1, EXACT)
  reach = np.maximum(reach, 2.0 ** (np.floor(np.log2(reach.max())) - _OCTAVES))
  power = np.maximum(np.floor(np.log2(reach)) - (_REACH_BITS - 1), 0)
  reach = (np.rint(reach / 2**power) * 2**power).astype(np.int64)
  ranges, place = np.unique(reach, return_inverse=True)
  limit = np.zeros(len(ranges), np.int64)
  np.maximum.at(limit, place, np.asarray(grid.limit))
  return ranges, limit


def _unit(largest: float, bits: int) -> float:
  """The power of two in which `largest` takes `bits` bits."""
  if not math.isfinite(largest):
    raise ExportError('a value has no bound: a parameter is not finite')
  if largest <= 0:
    return 1.0
  return 2.0 ** (math.ceil(math.log2(largest)) - bits)


def _f32(value: Any, *, columns: bool = False) -> np.ndarray:
  """As float32; with `columns` a short row [1, f], or a number."""
  array = np.asarray(value, np.float64)
  if columns and array.ndim == 1:
    array = packing.short(array, _FACTOR_BITS)
  array = array.astype(np.float32)
  if not np.all(np.isfinite(array)):
    raise ExportError('a multiplier is not finite in float32')
  return array[None] if columns and array.ndim == 1 else array
