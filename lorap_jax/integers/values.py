"""Values between quantizers: what whole numbers stand for, and their bounds."""

import dataclasses
import math
from typing import Any

import numpy as np

from lorap_jax.integers import packing
from lorap_jax.integers.program import INT32, Node

WIDE_BITS = 22  # Of values between quantizers, unless a sum needs room.
_LEAST_OPERAND_BITS = 12
_OPERAND_BITS = 16  # Of operands that no quantizer acts on.
# Of multipliers, and of biases beside their sign, in a unit of all columns.
_FACTOR_BITS, BIAS_BITS = 10, 9


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


class Values:
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

  def inside(self, name: str) -> 'Values._Place':
    """A context in which names of values begin with `name`."""
    return Values._Place(self, name)

  def path(self, name: str) -> str:
    """The name of something at the present place."""
    return '/'.join((*self._place, name))

  class _Place:
    def __init__(self, builder: 'Values', name: str):
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

  def fix(self, source: str, largest: float, width: int) -> Wide:
    """Real numbers of the input, up to `largest`, as a wide value."""
    unit = unit_of(largest, WIDE_BITS)
    limit = 2**WIDE_BITS
    name = self.add(
      'fix',
      'fixed',
      {'x': source},
      {'factor': f32(1 / unit)},
      bound=limit,
      low=-limit,
      high=limit,
    )
    return Wide(name, unit, limit, width)

  def embed(self, source: str, table: np.ndarray, scale: np.ndarray) -> Wide:
    """Rows of a table of codes, by the whole numbers of the first column."""
    last = len(table) - 1
    types = self.add(
      'fix',
      'types',
      {'x': source},
      {'factor': f32(1.0)},
      bound=max(last, 1),
      low=0,
      high=last,
    )
    bound = max(int(np.max(np.abs(table))), 1)
    name = self.add(
      'lookup',
      'rows',
      {'a': types},
      {'table': table.astype(np.int8)},
      bound=bound,
    )
    codes = Codes(name, scale, np.zeros(()), bound, table.shape[1])
    return self.widen('embedding', codes)

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
    unit = max(unit_of(float(largest), WIDE_BITS), least_unit)
    inputs = {'a': codes.name}
    if codes.row is not None:
      inputs['row'] = codes.row
    constants = {'factor': f32(scale / unit, columns=True)}
    if np.any(offset):
      shift = packing.short(np.rint(offset / unit), BIAS_BITS)
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
      {'factor': f32(2.0**-shift)},
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
      {'factor': f32(value.unit / unit)},
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
    shift = packing.short(shift, BIAS_BITS)
    bound = value.bound + int(np.max(np.abs(shift), initial=0))
    name = self.add(
      'scale',
      label,
      {'a': value.name},
      {'factor': f32(1.0), 'bias': shift.astype(np.int32).reshape(1, -1)},
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

  def as_codes(self, value: Wide) -> Codes:
    """The same numbers, as codes whose scale is the unit."""
    return Codes(
      value.name,
      np.asarray(value.unit),
      np.zeros(()),
      value.bound,
      value.width,
    )

  def times(
    self, label: str, value: Wide, gain: Any, shift: Any = None
  ) -> Wide:
    """The value times a gain plus a shift, column by column."""
    return self.widen(label, self.as_codes(value), factor=gain, bias=shift)

  def operand(
    self, label: str, value: Wide, weight: np.ndarray | None = None
  ) -> Codes:
    """Codes of 16 bits, for where no quantizer acts.

    Of fewer, but 12, where sums of their products with a weight would exceed
    2**24.
    """
    bits = _OPERAND_BITS - 1
    if weight is not None:
      size = max(int(np.abs(weight).sum(0).max(initial=0)), 1)
      exact = 24 - math.ceil(math.log2(size))
      bits = min(bits, max(exact, _LEAST_OPERAND_BITS - 1))
    return self.as_codes(self.narrow(label, value, bits))


def unit_of(largest: float, bits: int) -> float:
  """The power of two in which `largest` takes `bits` bits."""
  if not math.isfinite(largest):
    raise ExportError('a value has no bound: a parameter is not finite')
  if largest <= 0:
    return 1.0
  return 2.0 ** (math.ceil(math.log2(largest)) - bits)


def f32(value: Any, *, columns: bool = False) -> np.ndarray:
  """As float32; with `columns` a short row [1, f], or a number."""
  array = np.asarray(value, np.float64)
  if columns and array.ndim == 1:
    array = packing.short(array, _FACTOR_BITS)
  array = array.astype(np.float32)
  if not np.all(np.isfinite(array)):
    raise ExportError('a multiplier is not finite in float32')
  return array[None] if columns and array.ndim == 1 else array
