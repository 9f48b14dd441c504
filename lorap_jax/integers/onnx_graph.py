"""Collects the operators and the constants of an ONNX model.

Constants are packed (`packing`). All of one kind of packing lie in one array of
bytes, which the model takes apart by itself; engines do that once, when they
load it.
"""

import collections
import itertools
import string
from typing import Any

import numpy as np

from lorap_jax.integers import packing
from lorap_jax.integers.program import INT32, Program

OPSET, IR = 21, 10
FLOAT32_WHOLE = 2**24  # float32 holds all whole numbers up to here.
FLOAT32, UINT8, INT32_TYPE, INT64 = 1, 2, 6, 7  # Of TensorProto.
INPUTS = ('nodes', 'senders', 'receivers', 'graph_of', 'num_graphs')
_TYPES = {'float32': 1, 'uint8': 2, 'int32': 6, 'int64': 7}
_SPLIT_BITS = 12
_SMALL = 16  # Numbers that are not worth packing.
_FEW = 2000  # Numbers that are not worth a store of their own,
_BITS = (4, 8, 10, 16, 24)  # but share one of these.


def largest(array: Any) -> int:
  """The largest magnitude of whole numbers; 0 for none."""
  return int(np.max(np.abs(np.asarray(array, np.int64)), initial=0))


class Model:
  """The operators of a model, equal ones once, and its constants.

  A tensor of whole numbers is known by its name in int32. Where its numbers
  are at hand in float32 as well, operators read those: most engines are faster
  at them, and a cast less is to be stored. What nothing reads is left out.

  Attributes:
    width: columns of a tensor.
    bound: largest magnitude in a tensor.
    limit: largest magnitude of the result that is being written.
    powers: tensors of powers of two.
    products: tensors that a product of matrices made.
    non_negative: tensors of numbers >= 0.
    from_end: the place from the end of a table, of tensors that have one.
  """

  def __init__(self, onnx: Any):
    self._onnx = onnx
    self._nodes: list[Any] = []
    self._emitted: dict[Any, str] = {}
    self._real: dict[str, str] = {}  # The same numbers in float32.
    self._stored: dict[Any, tuple[str, Any]] = {}
    self._stores: dict[Any, dict[Any, tuple[str, np.ndarray, int]]] = {}
    self._read: set[str] = set()  # What the finished model has,
    self._final: dict[str, str] = {}  # and its names there.
    self._count = 0
    self.width: dict[str, int] = {}
    self.bound: dict[str, int] = {}
    self.limit = INT32
    self.powers: set[str] = set()
    self.products: set[str] = set()
    self.non_negative: set[str] = set()
    self.from_end: dict[str, str] = {}

  def name(self) -> str:
    """A new name, as short as possible."""
    self._count += 1
    return np.base_repr(self._count, 36).lower()

  def emit(
    self, op: str, *inputs: str, output: str = '', **options: Any
  ) -> str:
    """Adds an operator, unless there is the same already; its result."""
    key = (op, inputs, repr(sorted(options.items())))
    if not output and key in self._emitted:
      return self._emitted[key]
    output = output or self.name()
    self._emitted[key] = output
    if 'value' in options:  # One int32, of ConstantOfShape.
      value = np.array([options['value']], np.int32)
      options['value'] = self._tensor('', value)
    # Of TopK the indices.
    outputs = [self.name(), output] if op == 'TopK' else [output]
    self._nodes.append(self._node(op, inputs, outputs, **options))
    return output

  def _node(self, op, inputs, outputs, **options) -> Any:
    return self._onnx.helper.make_node(op, list(inputs), outputs, **options)

  def _tensor(self, name: str, array: np.ndarray) -> Any:
    return self._onnx.helper.make_tensor(
      name, _TYPES[str(array.dtype)], array.shape, array.tobytes(), raw=True
    )

  # Constants.

  def constant(self, value: Any) -> str:
    """A constant, float32, or int32 (also known in float32), or int64."""
    array = np.asarray(value)
    if array.dtype.kind != 'f' and array.dtype != np.int64:
      array = array.astype(np.int32)
    worth = array.size > _SMALL and array.dtype != np.int64
    packed = packing.pack(array) if worth else None
    if packed is None:
      name = self._plain(array)
      if array.dtype == np.int32 and largest(array) <= FLOAT32_WHOLE:
        self._real[name] = self._plain(array.astype(np.float32))
      return name
    real = self._unpacked(packed)
    return real if array.dtype.kind == 'f' else self.from_whole(real)

  def _plain(self, array: np.ndarray) -> str:
    key = (str(array.dtype), array.shape, array.tobytes())
    if key not in self._stored:
      name = self.name()
      self._stored[key] = name, self._tensor(name, array)
    return self._stored[key][0]

  def _unpacked(self, packed: packing.Packed) -> str:
    """The float32 numbers of a packed array."""
    codes, offset, bits = packed.codes, packed.offset, packed.bits
    # The store takes this from all its codes; it is that of both signs.
    shared = bool(offset.ndim == 0 and offset == -(2 ** (bits - 1)))
    if codes.size < _FEW:  # A store less takes less than these bits.
      bits = next(b for b in _BITS if b >= bits)
      codes = codes + shared * (2 ** (bits - 1) - 2 ** (packed.bits - 1))
    width = codes.shape[-1] if codes.ndim > 1 else 1
    inside = shared or not np.any(offset)
    exponent = packed.exponent if inside and width > 1 else 0
    store = self._stores.setdefault((bits, shared, packed.fraction, width), {})
    key = (codes.tobytes(), exponent)
    name, *_ = store.setdefault(key, (self.name(), codes, exponent))
    if not inside:
      name = self.emit('Add', name, self.real(offset))
    if packed.exponent != exponent:
      name = self.emit('Mul', name, self.real(2.0**packed.exponent))
    return name

  def real(self, value: Any) -> str:
    """Numbers float32."""
    return self.constant(np.asarray(value, np.float32))

  def columns(self, value: Any, width: int) -> str:
    """A constant number, or one for each column; equal ones once."""
    array = np.asarray(value)
    if array.size == width and np.all(array == array.flat[0]):
      array = array.reshape(-1)[0]
    return self.constant(array)

  def whole(self, *values: int) -> str:
    """Whole numbers int64 [k], of shapes and axes."""
    return self.constant(np.array(values, np.int64))

  def number(self, value: int) -> str:
    """A whole number int32 []."""
    return self.constant(np.int32(value))

  # Both kinds of whole numbers.

  def as_int(self, value: str) -> str:
    """A cast to int32."""
    return self.emit('Cast', value, to=INT32_TYPE)

  def from_whole(self, value: str) -> str:
    """Whole float32 numbers as int32."""
    result = self.as_int(value)
    self._real[result] = value
    return result

  def as_float(self, value: str) -> str:
    """A cast to float32; that of `from_whole` needs none."""
    if value in self._real:
      return self._real[value]
    return self.emit('Cast', value, to=FLOAT32)

  def kept(self, value: str) -> str:
    """The name of int32 numbers in the file: maybe that in float32."""
    name = value if value in self._read else self._real.get(value, value)
    return self._final.get(name, name)

  def in_float(self, *values: str) -> bool:
    """Whether whole numbers are at hand in float32, all of them exact."""
    return all(value in self._real for value in values)

  def exact(self, op: str, *inputs: str, limit: int | None = None) -> str:
    """An operator on whole numbers, in float32 where that is exact.

    Args:
      op: the same in both.
      *inputs: names in int32.
      limit: largest magnitude of the result; that of the present operation if
        it is None.

    Returns:
      The name in int32.
    """
    limit = self.limit if limit is None else limit
    if limit <= FLOAT32_WHOLE and self.in_float(*inputs):
      return self.from_whole(self.emit(op, *(self._real[x] for x in inputs)))
    return self.emit(op, *inputs)

  def rounded(self, value: str, low: int, high: int, reach: int) -> str:
    """clip(rint(value)) of float32 numbers up to `reach`, in float32."""
    return self.clipped(self.emit('Round', value), low, high, reach)

  def clipped(self, value: str, low: int, high: int, reach: int) -> str:
    """clip(value) of float32 numbers up to `reach`, in float32."""
    if reach <= min(high, -low):
      return value
    return self.emit('Clip', value, self.real(low), self.real(high))

  # Graphs.

  def num_nodes(self) -> str:
    """The number of nodes, int64 [1]."""
    return self.emit('Shape', 'nodes', end=1)

  def num_graphs(self) -> str:
    """The number of graphs, int64 [1]."""
    return self.emit('Cast', 'num_graphs', to=INT64)

  def full(self, rows: str, width: int, value: int) -> str:
    """The same number everywhere, int32 [rows, width]."""
    shape = self.emit('Concat', rows, self.whole(width), axis=0)
    return self.emit('ConstantOfShape', shape, value=value)

  def segments(
    self, values: str, of: str, rows: str, width: int, *, reduction: str = 'add'
  ) -> str:
    """Sums or maxima of the rows with the same number in `of`.

    Sums start at 0, maxima at -INT32.
    """
    index, flat = of, self.whole(-1)
    if width > 1:
      index = self.emit('Unsqueeze', of, self.whole(1))
      index = self.emit('Mul', index, self.number(width))
      columns = self.constant(np.arange(width, dtype=np.int32)[None])
      index = self.emit('Reshape', self.emit('Add', index, columns), flat)
    start = self.full(rows, width, -INT32 if reduction == 'max' else 0)
    total = self.emit(
      'ScatterElements',
      self.emit('Reshape', start, flat),
      index,
      self.emit('Reshape', values, flat),
      reduction=reduction,
    )
    return self.emit('Reshape', total, self.whole(-1, width))

  def edge_sums(self, a: str, weight: str | None) -> str:
    """Sums over the edges into each node, of weight times a of the sender.

    Differences of the running sum over all edges, in the order of their
    receivers; it may wrap, which the differences undo. For several columns
    this takes a third of the time of `segments`.
    """
    # A first edge, of weight 0 into the node -1.
    join = lambda first, then: self.emit('Concat', first, then, axis=0)
    zeros = lambda width: self.full(self.whole(1), width, 0)
    ends = join(self.constant(np.array([-1], np.int32)), 'receivers')
    none = self.constant(np.array([0], np.int32))
    after = self.emit('Add', 'senders', self.number(1))
    count = self.emit('Shape', ends)
    order = self.emit('TopK', ends, count, axis=0, largest=0)
    senders = self.emit('Gather', join(none, after), order)
    sent = self.emit('Gather', join(zeros(self.width[a]), a), senders)
    if weight is not None:
      # onnx before 1.23 takes no rows as no columns either.
      heads = self.width[weight]
      weight = self.emit('Reshape', weight, self.whole(-1, heads))
      weight = self.emit('Gather', join(zeros(heads), weight), order)
      sent = self.emit('Mul', sent, self.heads(weight, heads, self.width[a]))
    running = self.emit('CumSum', sent, self.number(0))
    degrees = self.emit('Reshape', self.degrees(), self.whole(-1))
    last = self.emit('CumSum', degrees, self.number(0))
    first = self.emit('Sub', last, degrees)
    return self.emit(
      'Sub',
      self.emit('Gather', running, last),
      self.emit('Gather', running, first),
    )

  def heads(self, weight: str, heads: int, width: int) -> str:
    """Weights of heads [k, heads], repeated for the columns of each."""
    if heads == 1:
      return weight
    columns = [k for k in range(heads) for _ in range(width // heads)]
    return self.emit('Gather', weight, self.whole(*columns), axis=1)

  def degrees(self) -> str:
    """The number of edges into each node, int32 [n, 1]."""
    ones = self.full(self.emit('Shape', 'receivers'), 1, 1)
    return self.segments(ones, 'receivers', self.num_nodes(), 1)

  def loops(self) -> str:
    """Which edges are self loops, bool [e, 1]."""
    gap = self.emit('Sub', 'senders', 'receivers')
    return self.is_zero(self.emit('Unsqueeze', gap, self.whole(1)))

  def edges_at(self, a: str, end: str, *, loops: int = 0) -> str:
    """Rows of nodes at an end of each edge, or of each self loop."""
    return a if loops else self.emit('Gather', a, end)

  # Numbers that float32 does not hold.

  def halves(self, a: str, bits: int, bound: int) -> tuple[str, str]:
    """High and low with a = high 2**bits + low, |low| <= 2**(bits-1) + 128."""
    # float32 rounds a by 128 at most. high never falls where a rises.
    part = self.emit('Mul', self.as_float(a), self.real(2.0**-bits))
    high = self.from_whole(self.emit('Round', part))
    big = self.times_power(high, bits, bound + 2**bits)
    return high, self.exact('Sub', a, big, limit=bound + 2**bits)

  def times_power(self, a: str, bits: int, limit: int) -> str:
    """The product of whole numbers and 2**bits, up to `limit`."""
    if limit <= FLOAT32_WHOLE:
      return self.from_whole(
        self.emit('Mul', self.as_float(a), self.real(2.0**bits))
      )
    return self.emit('Mul', a, self.number(2**bits))

  def row_max(self, a: str, bound: int) -> str:
    """The largest of the columns, int32 [n, 1]."""
    largest = lambda x: self.emit('ReduceMax', x, self.whole(1))
    if bound <= FLOAT32_WHOLE:
      return self.from_whole(largest(self.as_float(a)))
    high, low = self.halves(a, _SPLIT_BITS, bound)
    top = largest(high)
    # Where high is less than the largest, low loses more than it can have.
    behind = self.emit('Max', self.emit('Sub', high, top), self.number(-1))
    loss = self.emit('Mul', behind, self.number(2 ** (_SPLIT_BITS + 2)))
    low = largest(self.emit('Add', low, loss))
    big = self.emit('Mul', top, self.number(2**_SPLIT_BITS))
    return self.emit('Add', big, low)

  def is_zero(self, a: str) -> str:
    """Where int32 numbers are 0, also if float32 does not hold them."""
    return self.emit('Equal', a, self.number(0))

  # The file.

  def finish(self, program: Program, outputs: int) -> Any:
    """The `onnx.ModelProto`."""
    helper = self._onnx.helper
    nodes, read = [], self._read
    read.update(('codes', 'values'))
    for node in reversed(self._nodes):
      if read.intersection(node.output):
        nodes.append(node)
        read.update(node.input)
    opening = self._taken_apart(read)
    for node in opening:
      read.update(node.input)
    rows = 'g' if program.per_graph else 'n'
    tensor = lambda name, kind, *shape: helper.make_tensor_value_info(
      name, kind, shape
    )
    inputs = {
      'nodes': (FLOAT32, 'n', program.num_features),
      'senders': (INT32_TYPE, 'e'),
      'receivers': (INT32_TYPE, 'e'),
      'graph_of': (INT32_TYPE, 'n'),
      'num_graphs': (INT32_TYPE, 1),
    }
    stored = [t for name, t in self._stored.values() if name in read]
    nodes = opening + nodes[::-1]
    self._rename(nodes, stored)
    graph = helper.make_graph(
      nodes,
      'g',
      [tensor(name, *kind) for name, kind in inputs.items() if name in read],
      [
        tensor('codes', INT32_TYPE, rows, outputs),
        tensor('values', FLOAT32, rows, outputs),
      ],
      stored,
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid('', OPSET)],
      ir_version=IR,
    )

  def _rename(self, nodes: list[Any], stored: list[Any]) -> None:
    """Gives the shortest names to those that are used most."""
    uses = collections.Counter(
      name for node in nodes for name in (*node.input, *node.output)
    )
    fixed = {'codes', 'values', *INPUTS}
    names = [name for name, _ in uses.most_common() if name not in fixed]
    letters = string.ascii_letters + string.digits
    short = (
      ''.join(word)
      for n in (1, 2, 3)
      for word in itertools.product(letters, repeat=n)
    )
    self._final = dict(zip(names, short, strict=False))
    final = lambda name: self._final.get(name, name)
    for node in nodes:
      node.input[:] = [final(name) for name in node.input]
      node.output[:] = [final(name) for name in node.output]
    for tensor in stored:
      tensor.name = final(tensor.name)

  def _taken_apart(self, read: set[str]) -> list[Any]:
    """Operators that make the constants that are read of their bytes."""
    rest, self._nodes = self._nodes, []
    for kind, store in self._stores.items():
      used = [entry for entry in store.values() if entry[0] in read]
      if used:
        self._take_apart(used, *kind)
    opening, self._nodes = self._nodes, rest
    return opening

  def _take_apart(self, used, bits, shared, fraction, width) -> None:
    """Constants of `width` columns each, one below the other."""
    names = [name for name, *_ in used]
    sizes = [codes.size // width for _, codes, _ in used]
    exponents = [exponent for *_, exponent in used]
    # All fields are full, and so equally long.
    parts = 8 // packing.widths(bits)[-1]
    fill = next(
      k for k in range(parts) if (sum(sizes) + k) * width % parts == 0
    )
    codes = np.concatenate([codes.reshape(-1) for _, codes, _ in used])
    shape = (-1, width) if width > 1 else (-1,)
    value = self._joined(np.pad(codes, (0, fill * width)), bits, shape)
    if shared:
      value = self.emit('Sub', value, self.real(2.0 ** (bits - 1)))
    if fraction is not None:
      value = self.emit('Gather', self._grid(fraction), self.as_int(value))
    if fill:
      names, sizes = [*names, self.name()], [*sizes, fill]
      exponents = [*exponents, 0]
    if any(exponents):
      units = np.repeat(2.0 ** np.array(exponents), sizes)
      units = units[:, None] if width > 1 else units
      value = self.emit('Mul', value, self._plain(units.astype(np.float32)))
    if len(set(sizes)) == 1:
      split = self._node('Split', [value], names, num_outputs=len(names))
    else:
      split = self._node('Split', [value, self.whole(*sizes)], names)
    self._nodes.append(split)

  def _joined(self, codes: np.ndarray, bits: int, shape: Any) -> str:
    """Codes float32 of a shape, from their fields."""
    total, shift = '', 0
    for width, content in packing.fields(codes, bits):
      if width == 8:
        value = self._plain(content.reshape(shape))
        value = self.emit('Cast', value, to=FLOAT32)
        if shift:
          value = self.emit('Mul', value, self.real(2.0**shift))
      else:
        value = self._parts(content, width, 2.0**shift)
        value = self.emit('Reshape', value, self.whole(*shape))
      total = self.emit('Add', total, value) if total else value
      shift += width
    return total

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
    if not fraction:
      return self.emit('Reshape', powers, self.whole(-1))
    whole = np.arange(2**fraction, 2 ** (fraction + 1), dtype=np.float32)
    grid = self.emit('Mul', powers, self._plain(whole))
    return self.emit('Reshape', grid, self.whole(-1))
