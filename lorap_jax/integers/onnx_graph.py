"""Collects the operators and the constants of an ONNX model.

Constants are packed (`packing`). All of one kind of packing lie in one array of
bytes, which the model takes apart by itself; engines do that once, when they
load it.

Layers that are alike are the body of a Loop. What does not depend on the layer
is hoisted out of it; the constants of one kind are a stack, of which each pass
takes its own at once.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.integers import onnx_stores
from lorap_jax.integers.onnx_stores import Entry, Form, Kind, largest
from lorap_jax.integers.program import INT32

OPSET, IR = 21, 10
FLOAT32_WHOLE = 2**24  # float32 holds all whole numbers up to here.
# Of TensorProto.
FLOAT32, UINT8, INT8, INT32_TYPE, INT64, BOOL, UINT4, INT4 = (
  *(1, 2, 3, 6, 7, 9),
  *(21, 22),
)
INPUTS = ('nodes', 'senders', 'receivers', 'graph_of', 'num_graphs')
_TYPES = {'float32': 1, 'uint8': 2, 'int32': 6, 'int64': 7, 'bool': 9}
_SMALL = 16  # Numbers that are not worth packing.


class Operator(NamedTuple):
  """An operator of the model; a Loop has the operators of its body."""

  op: str
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  options: Mapping[str, Any]
  body: tuple['Operator', ...] = ()


class Loop(NamedTuple):
  """Names of the body of the layers that are alike."""

  layers: int
  step: str
  go_on: str
  given: str
  type: int  # Of what goes from layer to layer,
  width: int  # and its columns.
  result: str = ''
  again: str = ''  # As `go_on`: true.


def _equal(arrays: Sequence[np.ndarray]) -> bool:
  return all(np.array_equal(arrays[0], other) for other in arrays)


class Operators:
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
    self._nodes: list[Operator] = []
    self._emitted: dict[Any, str] = {}
    self._real: dict[str, str] = {}  # The same numbers in float32.
    self._stored: dict[Any, tuple[str, Any]] = {}
    self._stores: dict[Kind, dict[Any, Entry]] = {}
    self._small: dict[Any, tuple[str, np.ndarray]] = {}  # [layers, numbers].
    self._loop: Loop | None = None
    self._body: list[Operator] | None = None  # While it is written.
    self._inner: set[str] = set()  # Tensors of the body.
    self._alike: dict[int, np.ndarray] = {}  # Constants of all layers,
    self._kept: Any = None  # which live as long as their ids are used.
    self._given = ''  # To the Loop.
    self._recorded: list[np.ndarray] | None = None
    self._replayed: Iterator[tuple[np.ndarray, ...]] | None = None
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
    # Of TopK the indices.
    outputs = (self.name(), output) if op == 'TopK' else (output,)
    self._append(Operator(op, inputs, outputs, options))
    return output

  def _append(self, node: Operator) -> None:
    """Into the body what depends on the layer, else in front of it."""
    if self._body is not None and self._inner.intersection(node.inputs):
      self._inner.update(node.outputs)
      self._body.append(node)
    else:
      self._nodes.append(node)

  def _tensor(self, name: str, array: np.ndarray) -> Any:
    return self._onnx.helper.make_tensor(
      name, _TYPES[str(array.dtype)], array.shape, array.tobytes(), raw=True
    )

  # Layers that are alike.

  def begin(self, given: str, layers: int, *, real: bool) -> str:
    """Starts the body of a Loop; the name of `given` in it.

    Args:
      given: what the first layer reads, in int32.
      layers: how many.
      real: the value goes from layer to layer in float32.
    """
    self._given = self.as_float(given) if real else given
    names = self.name(), self.name(), self.name()
    kind = FLOAT32 if real else INT32_TYPE
    self._loop = Loop(layers, *names, kind, self.width[given])
    self._body, self._inner = [], set(names)
    inside = self.from_whole(self._loop.given) if real else self._loop.given
    self.width[inside] = self.width[given]
    return inside

  def end(self, result: str, *, real: bool) -> str:
    """Ends it; the result of the last layer."""
    assert self._loop is not None and self._body is not None
    inside = self.as_float(result) if real else result
    # OpenVINO reads no file whose body returns what it is given.
    again = self.emit('Identity', self._loop.go_on)
    self._loop = self._loop._replace(result=inside, again=again)
    body, self._body = tuple(self._body), None
    count = self._plain(np.asarray(self._loop.layers, np.int64))
    inputs = count, self._plain(np.asarray(True)), self._given
    name = self.name()
    self._nodes.append(Operator('Loop', inputs, (name,), {}, body))
    return self.from_whole(name) if real else name

  def trial(self) -> 'Operators':
    """A copy that keeps the constants of a layer, and stores none."""
    other = copy.copy(self)
    for key, value in vars(self).items():
      if isinstance(value, dict | set | list):
        setattr(other, key, copy.copy(value))
    other._recorded = []
    return other

  def trace(self) -> tuple[Any, list[np.ndarray]]:
    """What tells whether two layers are alike, and a trial's constants."""
    assert self._recorded is not None
    kinds = [(str(a.dtype), a.shape) for a in self._recorded]
    return (self._nodes, kinds, self._loop), self._recorded

  def replay(self, recorded: Sequence[Sequence[np.ndarray]]) -> bool:
    """Has `constant` take, in turn, what the trials of layers recorded.

    Args:
      recorded: constants of each layer; none to end it.

    Returns:
      False if they differ in numbers that a stack, in float32, does not hold,
      or in shapes.
    """
    self._replayed = zip(*recorded, strict=True) if recorded else None
    return all(
      _equal(arrays)
      or arrays[0].dtype.kind == 'f'
      or (arrays[0].dtype == np.int32 and largest(arrays) <= FLOAT32_WHOLE)
      for arrays in zip(*recorded, strict=True)
    )

  def compare(self, alike: list[list[np.ndarray]]) -> None:
    """Says which constants are at the same place of each layer."""
    self._kept = alike
    for arrays in alike:
      stack = np.stack(arrays)
      self._alike.update((id(array), stack) for array in arrays)

  def all_of(self, value: Any) -> np.ndarray:
    """A constant of each layer [layers, ...]; of one, if there are none."""
    return self._alike.get(id(value), np.asarray(value)[None])

  # Constants.

  def constant(self, value: Any) -> str:
    """A constant, float32, or int32 (also known in float32), or int64."""
    array = np.asarray(value)
    if array.dtype.kind != 'f' and array.dtype != np.int64:
      array = array.astype(np.int32)
    if self._recorded is not None:
      self._recorded.append(array)
      name = self.name()
      if array.dtype == np.int32 and largest(array) <= FLOAT32_WHOLE:
        self._real[name] = self.name()
      return name
    arrays = (array,) if self._replayed is None else next(self._replayed)
    if _equal(arrays):
      arrays = (array,)
    form = None
    halved = onnx_stores.halved(array) if len(arrays) == 1 else None
    if halved is not None:
      value = self.emit('Mul', *(self._plain(part) for part in halved))
      value = self.emit('Round', value)
      flat = self._plain(np.array([-1], np.int64))
      return self.from_whole(self.emit('Reshape', value, flat))
    if array.size > _SMALL and array.dtype != np.int64:
      form = onnx_stores.form(arrays)
    if form is not None:
      real = self._unpacked(form, len(arrays) > 1)
    elif len(arrays) > 1:
      real = self._of_layers(np.stack(arrays))
    else:
      name = self._plain(array)
      if array.dtype == np.int32 and largest(array) <= FLOAT32_WHOLE:
        self._real[name] = self._plain(array.astype(np.float32))
      return name
    return real if array.dtype.kind == 'f' else self.from_whole(real)

  def _of_layers(self, array: np.ndarray) -> str:
    """The layer's own of few numbers [layers, ...], in float32."""
    flat = array.astype(np.float32).reshape(len(array), -1)
    key = flat.shape, flat.tobytes()
    name, _ = self._small.setdefault(key, (self.name(), flat))
    self._inner.add(name)
    if array.ndim == 3 and array.shape[1] > 1:
      shape = np.array(array.shape[1:], np.int64)
      return self.emit('Reshape', name, self._plain(shape))
    return name

  def _plain(self, array: np.ndarray) -> str:
    key = (str(array.dtype), array.shape, array.tobytes())
    if key not in self._stored:
      name = self.name()
      self._stored[key] = name, self._tensor(name, array)
    return self._stored[key][0]

  def _unpacked(self, form: Form, stacked: bool) -> str:
    """The float32 numbers of packed arrays: of one, or of each layer."""
    kind, codes, offsets, exponents = form
    offset, exponent = offsets[0], exponents
    if kind.rows:  # These are applied to the whole store.
      offset, exponent = 0, 0
    else:
      offsets, exponents = np.zeros((2, len(codes)))
    store = self._stores.setdefault(kind, {})
    key = (codes.shape, *(x.tobytes() for x in (codes, offsets, exponents)))
    entry = Entry(self.name(), codes, offsets, exponents, stacked)
    name = store.setdefault(key, entry).name
    if stacked:
      self._inner.add(name)
    if np.any(offset) and not kind.shared:
      value = np.asarray(offset, np.float32)
      name = self.emit('Add', name, self._plain(value))
    if np.any(exponent):
      value = 2.0 ** np.asarray(exponent)
      if np.all(value == value[0]):
        value = self._plain(np.asarray(value[0], np.float32))
      else:
        value = self._of_layers(value)
      name = self.emit('Mul', name, value)
    return name

  def real(self, value: Any) -> str:
    """Numbers float32."""
    return self.constant(np.asarray(value, np.float32))

  def columns(self, value: Any, width: int) -> str:
    """A constant number, or one for each column; equal ones once."""
    array, every = np.asarray(value), self.all_of(value)
    every = every.reshape(len(every), -1)
    if array.size == width and np.all(every == every[:, :1]):
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
