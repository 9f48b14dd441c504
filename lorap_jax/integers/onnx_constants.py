"""Operators of an ONNX model that take its packed constants apart."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from lorap_jax.integers import onnx_stores, packing
from lorap_jax.integers.onnx_graph import (
  FLOAT32,
  INT4,
  INT8,
  UINT4,
  UINT8,
  Operator,
  Operators,
)
from lorap_jax.integers.onnx_stores import Entry, Kind


class Constants(Operators):
  """The part of a model for constants, once it is known which are read."""

  def _taken_apart(
    self, read: set[str]
  ) -> tuple[list[Operator], list[Operator]]:
    """Operators that make the constants that are read of their bytes.

    Returns:
      Those of the model, and those of the body, which take the layer's own.
    """
    rest, self._nodes, inside = self._nodes, [], []
    stores = {
      kind: [entry for entry in store.values() if entry.name in read]
      for kind, store in self._stores.items()
    }
    for kind, used in onnx_stores.merged(stores):
      inside += self._take_apart(used, kind)
    small = [entry for entry in self._small.values() if entry[0] in read]
    for _, alike in itertools.groupby(
      sorted(small, key=lambda entry: entry[1].shape),
      key=lambda entry: entry[1].shape,
    ):
      names, arrays = zip(*alike, strict=True)
      stack = self._plain(np.concatenate(arrays, 1))
      inside += self._own(stack, names, [array.shape[1] for array in arrays])
    opening, self._nodes = self._nodes, rest
    return opening, inside

  def _own(
    self, stack: str, names: Sequence[str], sizes: list[int]
  ) -> list[Operator]:
    """Operators that take the layer's own constants from a stack."""
    assert self._loop is not None
    whole = names[0] if len(names) == 1 else self.name()
    gather = Operator('Gather', (stack, self._loop.step), (whole,), {})
    return [gather] + self._split(whole, names, sizes)

  def _split(
    self, value: str, names: Sequence[str], sizes: list[int]
  ) -> list[Operator]:
    """The operator that cuts a tensor into others, if there are others."""
    names = tuple(names)
    if names == (value,):
      return []
    if len(set(sizes)) == 1:
      return [Operator('Split', (value,), names, {'num_outputs': len(names)})]
    count = self._plain(np.array(sizes, np.int64))
    return [Operator('Split', (value, count), names, {})]

  def _take_apart(self, used: list[Entry], kind: Kind) -> list[Operator]:
    """Constants of one kind, one below the other, those of layers last."""
    flat = [entry for entry in used if not entry.stacked]
    deep = [entry for entry in used if entry.stacked]
    columns = max(kind.width, 1)
    names = [entry.name for entry in flat]
    sizes = [entry.codes[0].size // columns for entry in flat]
    own = [entry.codes[0].size // columns for entry in deep]
    layers = len(deep[0].codes) if deep else 1

    def rows(of: Callable[[Entry], np.ndarray]) -> np.ndarray:
      """What each row has."""
      parts = [of(entry).reshape(-1) for entry in flat]
      if deep:
        whole = [of(entry).reshape(layers, -1) for entry in deep]
        parts.append(np.concatenate(whole, 1).reshape(-1))
      return np.concatenate(parts)

    stack = self.name()
    if deep:
      names, sizes = [*names, stack], [*sizes, layers * sum(own)]
    # Fields are full, and so equally long; those of 4 bits have any length.
    least = packing.widths(kind.bits)[-1]
    parts = 8 // least if least < 4 else 1
    fill = next(
      k for k in range(parts) if (sum(sizes) + k) * columns % parts == 0
    )
    if fill:
      names, sizes = [*names, self.name()], [*sizes, fill]
    shape = (-1, kind.width) if kind.width else (-1,)
    if len(names) == 1 and deep:
      shape = (layers, *shape)
    codes = np.pad(rows(lambda entry: entry.codes), (0, fill * columns))
    signed = kind.shared and kind.bits in (4, 8)  # In types that have signs.
    value = self._joined(codes, kind.bits, shape, signed=signed)
    if kind.shared and not signed:
      value = self.emit('Sub', value, self._number(2.0 ** (kind.bits - 1)))
    if kind.fraction is not None:
      grid = self._grid(kind.fraction)
      value = self.emit('Gather', grid, self.as_int(value))
    if kind.rows:
      each = np.pad(rows(lambda entry: entry.offsets), (0, fill))
      units = np.pad(rows(lambda entry: 2.0**entry.exponents), (0, fill))
      lead = (*shape[:-2], -1, 1)
      if np.any(each):
        value = self.emit('Add', value, self._column(each.reshape(lead)))
      if np.any(units != 1):
        value = self.emit('Mul', value, self._column(units.reshape(lead)))
    if len(names) == 1:
      # No Split: the last operator makes it.
      last = self._nodes.pop()
      self._nodes.append(last._replace(outputs=tuple(names)))
    else:
      self._nodes += self._split(value, names, sizes)
    if not deep:
      return []
    if len(names) > 1:
      whole = self._plain(np.array((layers, *shape), np.int64))
      stack = self.emit('Reshape', stack, whole)
    return self._own(stack, [entry.name for entry in deep], own)

  def _number(self, value: float) -> str:
    return self._plain(np.asarray(value, np.float32))

  def _column(self, values: np.ndarray) -> str:
    """Numbers of rows; one, if they are equal."""
    if np.all(values == values.flat[0]):
      values = values.reshape(-1)[0]
    return self._plain(np.asarray(values, np.float32))

  def _joined(
    self, codes: np.ndarray, bits: int, shape: tuple[int, ...], *, signed: bool
  ) -> str:
    """Codes float32 of a shape, from their fields."""
    size = codes.size // -int(np.prod(shape))  # Where the shape has -1.
    exact = tuple(size if n < 0 else n for n in shape)
    total, shift = '', 0
    for width, content in packing.fields(codes, bits):
      if width >= 4:
        value = self._bytes(codes >> shift, width, exact, signed=signed)
        value = self.emit('Cast', value, to=FLOAT32)
        if shift:
          value = self.emit('Mul', value, self._number(2.0**shift))
      else:
        value = self._parts(content, width, 2.0**shift)
        whole = self._plain(np.array(shape, np.int64))
        value = self.emit('Reshape', value, whole)
      total = self.emit('Add', total, value) if total else value
      shift += width
    return total

  def _bytes(
    self, codes: np.ndarray, width: int, shape: tuple[int, ...], *, signed: bool
  ) -> str:
    """A constant of the lowest 4 or 8 bits of codes, in a type of so many."""
    codes = codes - 2 ** (width - 1) if signed else codes
    content = (codes & (2**width - 1)).astype(np.uint8)
    if width == 8:
      kind = INT8 if signed else UINT8
    else:
      kind = INT4 if signed else UINT4
      content = np.pad(content, (0, content.size % 2))
      content = content[::2] | content[1::2] << 4
    name, helper = self.name(), self._onnx.helper
    tensor = helper.make_tensor(name, kind, shape, content.tobytes(), raw=True)
    self._stored[name] = name, tensor
    return name

  def _parts(self, content: np.ndarray, width: int, unit: float) -> str:
    """The parts of bytes, float32 [8 / width, bytes]."""
    shifts = width * np.arange(8 // width)[:, None]
    masks = ((2**width - 1) << shifts).astype(np.uint8)
    value = self.emit(
      'BitwiseAnd', self._plain(content[None]), self._plain(masks)
    )
    value = self.emit('Cast', value, to=FLOAT32)
    units = (unit * 2.0**-shifts).astype(np.float32)
    return self.emit('Mul', value, self._plain(units))

  def _grid(self, fraction: int) -> str:
    """What the codes of floating-point numbers stand for, float32 [k]."""
    powers = self._plain(2.0 ** np.arange(16, dtype=np.float32)[:, None])
    flat = self._plain(np.array([-1], np.int64))
    if not fraction:
      return self.emit('Reshape', powers, flat)
    whole = np.arange(2**fraction, 2 ** (fraction + 1), dtype=np.float32)
    grid = self.emit('Mul', powers, self._plain(whole))
    return self.emit('Reshape', grid, flat)
