"""Collects the operators and the constants of an ONNX model.

Constants are packed (`packing`). All of one kind of packing lie in one array of
bytes, which the model takes apart by itself; engines do that once, when they
load it.

Layers that are alike are the body of a Loop. What does not depend on the layer
is hoisted out of it; the constants of one kind are a stack, of which each pass
takes its own at once.
"""

import collections
import copy
import itertools
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.integers import onnx_stores, packing
from lorap_jax.integers.onnx_stores import Entry, Form, Kind, largest
from lorap_jax.integers.program import INT32, Program

OPSET, IR = 21, 10
FLOAT32_WHOLE = 2**24  # float32 holds all whole numbers up to here.
# Of TensorProto.
FLOAT32, UINT8, INT8, INT32_TYPE, INT64, BOOL, UINT4, INT4 = (
  *(1, 2, 3, 6, 7, 9),
  *(21, 22),
)
INPUTS = ('nodes', 'senders', 'receivers', 'graph_of', 'num_graphs')
_TYPES = {'float32': 1, 'uint8': 2, 'int32': 6, 'int64': 7, 'bool': 9}
_SPLIT_BITS = 12
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

  def trial(self) -> 'Model':
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
    return self.emit('Expand', self.number(value), shape)

  def counts(self, of: str, rows: str) -> str:
    """How often each row is named in `of`, int32 [rows]."""
    ones = self.emit('Expand', self.number(1), self.emit('Shape', of))
    start = self.emit('Expand', self.number(0), rows)
    return self.emit('ScatterElements', start, of, ones, reduction='add')

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
      rows = self.emit('Mul', rows, self.whole(width))
    start = self.number(-INT32 if reduction == 'max' else 0)
    total = self.emit(
      'ScatterElements',
      self.emit('Expand', start, rows),
      index,
      self.emit('Reshape', values, flat),
      reduction=reduction,
    )
    return self.emit('Reshape', total, self.whole(-1, width))

  def run_sums(self, values: str, counts: str) -> str:
    """Sums of runs of rows, so many rows each.

    Differences of the running sum over all rows, which may wrap: differences
    undo it. For several columns this takes a third of the time of `segments`.
    The rows have to be in the order of their runs.

    Args:
      values: int32 [k + 1, columns]; the first row is 0.
      counts: int32 [rows].
    """
    running = self.emit('CumSum', values, self.number(0))
    last = self.emit('CumSum', counts, self.number(0))
    first = self.emit('Sub', last, counts)
    return self.emit(
      'Sub',
      self.emit('Gather', running, last),
      self.emit('Gather', running, first),
    )

  def behind_zeros(self, values: str, width: int) -> str:
    """Rows behind a first one of zeros."""
    zeros = self.emit('Expand', self.number(0), self.whole(1, width))
    return self.emit('Concat', zeros, values, axis=0)

  def edge_sums(self, a: str, weight: str | None) -> str:
    """Sums over the edges into each node, of weight times a of the sender.

    In the order of the receivers, behind a first edge of weight 0.
    """
    join = lambda first, then: self.emit('Concat', first, then, axis=0)
    # A first edge, of weight 0 into the node -1.
    ends = join(self.constant(np.array([-1], np.int32)), 'receivers')
    none = self.constant(np.array([0], np.int32))
    after = self.emit('Add', 'senders', self.number(1))
    order = self.emit('TopK', ends, self.emit('Shape', ends), largest=0)
    senders = self.emit('Gather', join(none, after), order)
    sent = self.behind_zeros(a, self.width[a])
    sent = self.emit('Gather', sent, senders)
    if weight is not None:
      # onnx before 1.23 takes no rows as no columns either.
      heads = self.width[weight]
      weight = self.emit('Reshape', weight, self.whole(-1, heads))
      weight = self.emit('Gather', self.behind_zeros(weight, heads), order)
      sent = self.emit('Mul', sent, self.heads(weight, heads, self.width[a]))
    counts = self.counts('receivers', self.num_nodes())
    return self.run_sums(sent, counts)

  def heads(self, weight: str, heads: int, width: int) -> str:
    """Weights of heads [k, heads], repeated for the columns of each."""
    if heads == 1:
      return weight
    columns = [k for k in range(heads) for _ in range(width // heads)]
    return self.emit('Gather', weight, self.whole(*columns), axis=1)

  def degrees(self) -> str:
    """The number of edges into each node, int32 [n, 1]."""
    counts = self.counts('receivers', self.num_nodes())
    return self.emit('Unsqueeze', counts, self.whole(1))

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
    read = self._read
    read.update(('codes', 'values'))
    nodes = self._live(self._nodes)
    opening, inside = self._taken_apart(read)
    for node in (*opening, *inside):
      read.update(node.inputs)
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
    nodes = opening + nodes
    nodes = [
      node._replace(body=(*inside, *node.body)) if node.body else node
      for node in nodes
    ]
    self._rename(nodes, stored)
    graph = helper.make_graph(
      [self._proto(node) for node in nodes],
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

  def _live(self, nodes: Sequence[Operator]) -> list[Operator]:
    """Operators whose results are read, and what they read."""
    found = []
    for node in reversed(nodes):
      if self._read.intersection(node.outputs):
        if node.op == 'Loop' and self._loop is not None:
          self._read.update((self._loop.result, self._loop.again))
          node = node._replace(body=tuple(self._live(node.body)))
        found.append(node)
        self._read.update(node.inputs)
    return found[::-1]

  def _proto(self, node: Operator) -> Any:
    helper, final = self._onnx.helper, self._new_name
    options = dict(node.options)
    if node.op == 'Loop' and (loop := self._loop) is not None:
      tensor = lambda name, *kind: helper.make_tensor_value_info(
        final(name), *kind
      )
      options['body'] = helper.make_graph(
        [self._proto(inner) for inner in node.body],
        'b',
        [
          tensor(loop.step, INT64, ()),
          tensor(loop.go_on, BOOL, ()),
          # ONNX Runtime and OpenVINO have to know that it is a matrix.
          tensor(loop.given, loop.type, (None, loop.width)),
        ],
        [tensor(loop.again, BOOL, ()), tensor(loop.result, loop.type, None)],
      )
    inputs, outputs = map(final, node.inputs), map(final, node.outputs)
    return helper.make_node(node.op, [*inputs], [*outputs], **options)

  def _new_name(self, name: str) -> str:
    return self._final.get(name, name)

  def _rename(self, nodes: list[Operator], stored: list[Any]) -> None:
    """Gives the shortest names to those that are used most."""
    uses = collections.Counter()
    for node in nodes:
      for inner in (node, *node.body):
        uses.update((*inner.inputs, *inner.outputs))
    if self._loop is not None:
      loop = self._loop
      uses.update((loop.step, loop.go_on, loop.given))
      uses.update((loop.again, loop.result))
    fixed = {'codes', 'values', *INPUTS}
    names = [name for name, _ in uses.most_common() if name not in fixed]
    letters = string.ascii_letters + string.digits
    short = (
      ''.join(word)
      for n in (1, 2, 3)
      for word in itertools.product(letters, repeat=n)
    )
    self._final = dict(zip(names, short, strict=False))
    for tensor in stored:
      tensor.name = self._new_name(tensor.name)

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
