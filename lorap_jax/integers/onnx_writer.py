"""Writes an integer program as an ONNX model of plain operators.

The model gives the bits of `program.execute` in ONNX Runtime, OpenVINO (both on
a CPU) and the reference evaluator of onnx. What the engines do differently, and
how the model goes around it:

- ONNX Runtime adds in ScatterND from several threads at once and loses terms:
  there is none; sums are running sums, or ScatterElements in one dimension.
- It writes x * (1 / y) as x / y, and OpenVINO the other way round: an Abs
  stands between. It moves a factor behind a product of matrices into it: a
  Cast stands between.
- OpenVINO divides int32 wrongly, and takes int32 sums and maxima over columns,
  comparisons and Clip in float32. Where numbers may exceed 2**24, the model
  splits them or keeps to operators that are exact.
- Products of matrices are in float32, split until no sum exceeds 2**24.

OpenVINO computes float32 numbers in 16 bits on processors that are faster at
it. Compile the model with `{'INFERENCE_PRECISION_HINT': 'f32'}`.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from lorap_jax.integers.program import EXACT, INT32, Graph, Program, execute

_OPSET, _IR = 21, 10  # The first with int4.
_FLOAT32_WHOLE = 2**24  # float32 holds all whole numbers up to here.
_SPLIT_BITS = 12
_FEW = 64  # Thresholds that one comparison takes.
_TYPES = {
  'float32': 1,
  'uint8': 2,
  'int8': 3,
  'uint16': 4,
  'int16': 5,
  'int32': 6,
  'int64': 7,
  'int4': 22,
}  # Of TensorProto.
_NARROW = ('int4', 'int8', 'uint8', 'int16', 'uint16')


def write(program: Program, *, names: bool = False) -> Any:
  """The ONNX model of a program.

  Its inputs are those of `Graph` that the program reads: `nodes` float32
  [n, num_features], `senders`, `receivers` int32 [e], `graph_of` int32 [n] and
  `num_graphs` int32 [1]; n, e and the number of graphs are free. Its outputs
  are `codes` int32 [rows, outputs], the result of `execute`, and `values`
  float32, the codes times the output scale. A value may have 2**31 numbers at
  most.

  Args:
    program: what to write.
    names: store the program's names of values as the metadata `names`, a JSON
      object with the model's short ones as keys.

  Returns:
    An `onnx.ModelProto`.

  Raises:
    ImportError: onnx is not installed.
    ValueError: a number that some engine would round.
  """
  onnx = _import_onnx()
  writer = Writer(onnx, program)
  for node in program.nodes:
    given = {name: writer.of[value] for name, value in node.inputs.items()}
    function = OPERATIONS[node.op]
    result = function(writer, **given, **node.constants, **node.options)
    writer.of[node.output] = result
    writer.width[result] = writer.widths[node.output]
    writer.bound[result] = program.bounds.get(node.output, INT32)
  result = writer.of[program.output]
  writer.emit('Identity', result, output='codes')
  scale = np.asarray(program.output_scale, np.float32)
  writer.emit(
    'Mul', writer.as_float(result), writer.constant(scale), output='values'
  )
  model = writer.model()
  if names:
    short = {value: name for name, value in writer.of.items()}
    onnx.helper.set_model_props(model, {'names': json.dumps(short)})
  return model


def _import_onnx() -> Any:
  try:
    import onnx
  except ImportError as error:
    raise ImportError(
      "ONNX models need the package onnx: pip install 'lorap_jax[export]'"
    ) from error
  return onnx


class Writer:
  """Collects the nodes and constants of a model; equal ones once.

  Attributes:
    of: tensors by the program's names of values.
    widths: columns by the program's names of values.
    width: columns of a tensor.
    bound: largest magnitude in a tensor.
  """

  def __init__(self, onnx: Any, program: Program):
    self._onnx, self._program = onnx, program
    self._nodes: list[Any] = []
    self._constants: dict[Any, tuple[str, Any]] = {}
    self._emitted: dict[Any, str] = {}
    self._real: dict[str, str] = {}  # The same numbers in float32.
    self._count = 0
    self.of = {'nodes': 'nodes'}
    self.widths = _widths(program)
    self.width = {'nodes': program.num_features}
    self.bound: dict[str, int] = {}

  def _name(self) -> str:
    self._count += 1
    return np.base_repr(self._count, 36).lower()

  def emit(
    self, op: str, *inputs: str, output: str = '', **options: Any
  ) -> str:
    """Adds an operator, unless there is the same already; its result."""
    key = (op, inputs, repr(sorted(options.items())))
    if not output and key in self._emitted:
      return self._emitted[key]
    output = output or self._name()
    self._emitted[key] = output
    if 'value' in options:  # One int32, of ConstantOfShape.
      value = np.array([options['value']], np.int32)
      options['value'] = self._tensor('', value, 'int32')
    # Of TopK the indices.
    outputs = [self._name(), output] if op == 'TopK' else [output]
    self._nodes.append(
      self._onnx.helper.make_node(op, list(inputs), outputs, **options)
    )
    return output

  def _tensor(self, name: str, array: np.ndarray, kind: str) -> Any:
    raw = _packed(array) if kind == 'int4' else array.astype(kind).tobytes()
    return self._onnx.helper.make_tensor(
      name, _TYPES[kind], array.shape, raw, raw=True
    )

  def constant(self, value: Any) -> str:
    """A constant; int32 ones in the smallest type that holds them."""
    array = np.asarray(value)
    if array.dtype != np.int32 or array.size <= 8:  # Less than a Cast takes.
      return self._stored(array, str(array.dtype))
    kind = next((k for k in _NARROW if _holds(k, array)), 'int32')
    if kind == 'int8' and array.ndim == 2:
      # 16 numbers in a row, but not -8..7.
      for axis in (None, 0):
        shift = array.min(axis, keepdims=True) + 8
        if array.size >= 16 * shift.size and _holds('int4', array - shift):
          stored = self.as_int(self._stored(array - shift, 'int4'))
          return self.emit('Add', stored, self.constant(shift))
    name = self._stored(array, kind)
    return name if kind == 'int32' else self.as_int(name)

  def _stored(self, array: np.ndarray, kind: str) -> str:
    key = (kind, array.shape, array.tobytes())
    if key not in self._constants:
      name = self._name()
      self._constants[key] = name, self._tensor(name, array, kind)
    return self._constants[key][0]

  def columns(self, value: Any, width: int) -> str:
    """A constant number, or one for each column; equal ones once."""
    array = np.asarray(value)
    if array.shape == (1, width) and np.all(array == array[0, 0]):
      array = array[0, 0]
    return self.constant(array)

  def whole(self, *values: int) -> str:
    """Whole numbers int64 [k], of shapes and axes."""
    return self.constant(np.array(values, np.int64))

  def number(self, value: int) -> str:
    """A whole number int32 []."""
    return self.constant(np.int32(value))

  def as_int(self, value: str) -> str:
    """A cast to int32."""
    return self.emit('Cast', value, to=_TYPES['int32'])

  def from_whole(self, value: str) -> str:
    """Whole float32 numbers as int32."""
    result = self.as_int(value)
    self._real[result] = value
    return result

  def as_float(self, value: str) -> str:
    """A cast to float32; that of `from_whole` needs none."""
    if value in self._real:
      return self._real[value]
    return self.emit('Cast', value, to=_TYPES['float32'])

  def num_nodes(self) -> str:
    """The number of nodes, int64 [1]."""
    return self.emit('Shape', 'nodes', start=0, end=1)

  def num_graphs(self) -> str:
    """The number of graphs, int64 [1]."""
    return self.emit('Cast', 'num_graphs', to=_TYPES['int64'])

  def full(self, rows: str, width: int, value: int) -> str:
    """The same number everywhere, int32 [rows, width]."""
    shape = self.emit('Concat', rows, self.whole(width), axis=0)
    return self.emit('ConstantOfShape', shape, value=value)

  def rounded(self, value: str, low: int, high: int, reach: int) -> str:
    """clip(rint(value)) of float32 numbers up to `reach`, as int32."""
    value = self.emit('Round', value)
    if reach > min(high, -low):
      ends = (self.constant(np.float32(end)) for end in (low, high))
      value = self.emit('Clip', value, *ends)
    return self.from_whole(value)

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
      axis=0,
      reduction=reduction,
    )
    return self.emit('Reshape', total, self.whole(-1, width))

  def order(self, keys: str) -> str:
    """Indices, int64, that put keys [k] in order."""
    count = self.emit('Shape', keys)
    return self.emit('TopK', keys, count, axis=0, largest=0, sorted=1)

  def edge_sums(self, a: str, weight: str | None) -> str:
    """Sums over the edges into each node, of weight times a of the sender.

    Differences of the running sum over all edges, in the order of their
    receivers; it may wrap, which the differences undo. For several columns
    this takes a third of the time of `segments`.
    """
    # A first edge, of weight 0 into the node -1.
    join = lambda first, then: self.emit('Concat', first, then, axis=0)
    ends = join(self.constant(np.array([-1], np.int32)), 'receivers')
    none = self.constant(np.array([0], np.int32))
    after = self.emit('Add', 'senders', self.number(1))
    order = self.order(ends)
    senders = self.emit('Gather', join(none, after), order, axis=0)
    nothing = self.constant(np.zeros((1, self.width[a]), np.int32))
    sent = self.emit('Gather', join(nothing, a), senders, axis=0)
    if weight is not None:
      # onnx before 1.23 takes no rows as no columns either.
      heads = self.width[weight]
      weight = self.emit('Reshape', weight, self.whole(-1, heads))
      padded = join(self.constant(np.zeros((1, heads), np.int32)), weight)
      weight = self.emit('Gather', padded, order, axis=0)
      sent = self.emit('Mul', sent, self.heads(weight, heads, self.width[a]))
    running = self.emit('CumSum', sent, self.number(0))
    degrees = self.emit('Reshape', self.degrees(), self.whole(-1))
    last = self.emit('CumSum', degrees, self.number(0))
    first = self.emit('Sub', last, degrees)
    return self.emit(
      'Sub',
      self.emit('Gather', running, last, axis=0),
      self.emit('Gather', running, first, axis=0),
    )

  def heads(self, weight: str, heads: int, width: int) -> str:
    """Weights of heads [k, heads], repeated for the columns of each."""
    if heads == 1:
      return weight
    columns = [k for k in range(heads) for _ in range(width // heads)]
    return self.emit('Gather', weight, self.whole(*columns), axis=1)

  def at_receiver(self, b: str, loops: int) -> str:
    """Rows of nodes at the receiver of each edge, or of each self loop."""
    return b if loops else self.edges_at(b, 'receivers')

  def power(self, below: str, table: np.ndarray) -> str:
    """The table's number for a logit that lies below the largest."""
    entry = self.emit('Min', below, self.number(len(table) - 1))
    return self.emit('Gather', self.constant(table), entry, axis=0)

  def degrees(self) -> str:
    """The number of edges into each node, int32 [n, 1]."""
    ones = self.full(self.emit('Shape', 'receivers'), 1, 1)
    return self.segments(ones, 'receivers', self.num_nodes(), 1)

  def matmul(self, a: str, weight: np.ndarray) -> str:
    """A product all of whose sums are less than 2**24."""
    # In float32: ONNX Runtime takes ten times as long in int32. It also puts
    # the factor of a next product into this one, unless there is a Cast.
    matrix = self.as_float(self.constant(weight.astype(np.int32)))
    return self.as_int(self.emit('MatMul', self.as_float(a), matrix))

  def halves(self, a: str, bits: int) -> tuple[str, str]:
    """High and low with a = high 2**bits + low, |low| <= 2**(bits-1) + 128."""
    # float32 rounds a by 128 at most. high never falls where a rises.
    part = self.emit(
      'Mul', self.as_float(a), self.constant(np.float32(2.0**-bits))
    )
    high = self.as_int(self.emit('Round', part))
    big = self.emit('Mul', high, self.number(2**bits))
    return high, self.emit('Sub', a, big)

  def row_max(self, a: str, bound: int) -> str:
    """The largest of the columns, int32 [n, 1]."""
    largest = lambda x: self.emit('ReduceMax', x, self.whole(1), keepdims=1)
    if bound <= _FLOAT32_WHOLE:
      return largest(a)
    high, low = self.halves(a, _SPLIT_BITS)
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

  def loops(self) -> str:
    """Which edges are self loops, bool [e, 1]."""
    gap = self.emit('Sub', 'senders', 'receivers')
    return self.is_zero(self.emit('Unsqueeze', gap, self.whole(1)))

  def edges_at(self, a: str, end: str) -> str:
    """Rows of nodes at an end of each edge."""
    return self.emit('Gather', a, end, axis=0)

  def count(self, a: str, thresholds: str, *, direct: bool) -> str:
    """How many thresholds of the row are <= a, int32 [n, 1]."""
    if not direct:
      a, thresholds = self.emit('Sub', a, thresholds), self.number(0)
    below = self.as_int(self.emit('GreaterOrEqual', a, thresholds))
    return self.emit('ReduceSum', below, self.whole(1), keepdims=1)

  def model(self) -> Any:
    """The finished model."""
    helper = self._onnx.helper
    rows = 'g' if self._program.per_graph else 'n'
    outputs = self.widths[self._program.output]
    tensor = lambda name, kind, *shape: helper.make_tensor_value_info(
      name, _TYPES[kind], shape
    )
    nodes, read = [], {'codes', 'values'}
    for node in reversed(self._nodes):
      if read.intersection(node.output):
        nodes.append(node)
        read.update(node.input)
    inputs = {
      'nodes': ('float32', 'n', self._program.num_features),
      'senders': ('int32', 'e'),
      'receivers': ('int32', 'e'),
      'graph_of': ('int32', 'n'),
      'num_graphs': ('int32', 1),
    }
    graph = helper.make_graph(
      nodes[::-1],
      'g',
      [tensor(name, *kind) for name, kind in inputs.items() if name in read],
      [
        tensor('codes', 'int32', rows, outputs),
        tensor('values', 'float32', rows, outputs),
      ],
      [t for name, t in self._constants.values() if name in read],
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid('', _OPSET)],
      ir_version=_IR,
      producer_name='lorap_jax',
    )


def _widths(program: Program) -> dict[str, int]:
  """Columns of all values, from a run on one node."""
  none = np.zeros(0, np.int32)
  one = np.zeros((1, program.num_features), np.float32)
  graph = Graph(one, none, none, np.zeros(1, np.int32), 1)
  values = execute(program, graph, keep=True)
  return {name: value.shape[1] for name, value in values.items()}


def _holds(kind: str, array: np.ndarray) -> bool:
  low, high = -8, 7
  if kind != 'int4':
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
  return bool(low <= array.min() and array.max() <= high)


def _packed(array: np.ndarray) -> bytes:
  """Two int4 a byte, the first in the low bits."""
  codes = array.astype(np.int8).reshape(-1).view(np.uint8) & 15
  codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
  return (codes[::2] | codes[1::2] << 4).tobytes()


def _largest(array: Any) -> int:
  return int(np.max(np.abs(np.asarray(array, np.int64)), initial=0))


def _fix(w, x, factor, *, low, high):
  product = w.emit('Mul', x, w.constant(factor))
  return w.rounded(product, low, high, INT32)


def _scale(w, a, factor, row=None, limit=None, bias=None, *, low, high):
  value, reach = w.as_float(a), INT32
  if row is not None:
    value = w.emit('Mul', value, row)
  else:
    reach = np.float32(w.bound[a]) * np.float32(np.max(np.abs(factor)))
    reach = int(min(np.rint(reach), np.float32(INT32)))
  if np.any(np.asarray(factor) != 1):
    value = w.emit('Mul', value, w.columns(factor, w.width[a]))
  if bias is None:
    value = w.rounded(value, max(low, -EXACT), min(high, EXACT), reach)
  else:
    value = w.rounded(value, -EXACT, EXACT, reach)
    value = w.emit('Add', value, w.columns(bias, w.width[a]))
    value = _clip(w, value, low, high, min(reach, EXACT) + _largest(bias))
  if limit is not None:
    value = w.emit('Min', value, limit)
    value = w.emit('Max', value, w.emit('Neg', limit))
  return value


def _clip(w, value, low, high, reach):
  """clip(value) of int32 numbers up to `reach`."""
  if reach <= min(high, -low):
    return value
  if max(abs(low), abs(high)) <= _FLOAT32_WHOLE:
    return w.emit('Clip', value, w.number(low), w.number(high))
  # By Max twice: OpenVINO makes a Clip of Max and Min.
  value = w.emit('Max', value, w.number(low))
  value = w.emit('Max', w.emit('Neg', value), w.number(-high))
  return w.emit('Neg', value)


def _product(w, a, weight, bias=None):
  size = int(np.abs(np.asarray(weight, np.int64)).sum(0).max(initial=0))
  total = _exact_product(w, a, w.bound[a], weight, max(size, 1))
  return total if bias is None else w.emit('Add', total, w.constant(bias))


def _exact_product(w, a, bound, weight, size):
  """A product whose parts are each below 2**24."""
  if bound * size <= _FLOAT32_WHOLE:
    return w.matmul(a, weight)
  bits = (_FLOAT32_WHOLE // size).bit_length()  # |low| <= 2**(bits-1).
  slack = 128 if bound > _FLOAT32_WHOLE else 0
  while bits > 1 and (2 ** (bits - 1) + slack) * size > _FLOAT32_WHOLE:
    bits -= 1
  if bits < 2:
    raise ValueError(
      f'a product of {len(weight)} columns exceeds 24 bits in every split'
    )
  high, low = w.halves(a, bits)
  high = _exact_product(w, high, -(-bound // 2**bits) + 1, weight, size)
  low = w.matmul(low, weight)
  return w.emit('Add', w.emit('Mul', high, w.number(2**bits)), low)


def _sum_edges(w, a, weight=None, *, drop_loops=0):
  if drop_loops:
    proper = w.as_int(w.emit('Not', w.loops()))
    heads = 1 if weight is None else w.width[weight]
    weight = proper if weight is None else w.emit('Mul', weight, proper)
    w.width[weight] = heads
  if w.width[a] > 1:
    return w.edge_sums(a, weight)
  sent = w.edges_at(a, 'senders')
  if weight is not None:
    sent = w.emit('Mul', sent, weight)
  return w.segments(sent, 'receivers', w.num_nodes(), 1)


def _weigh(w, a, row):
  return w.emit('Mul', a, w.heads(row, w.width[row], w.width[a]))


def _meet(w, a, *, loops=0):
  heads = w.width[a] // 2
  half = lambda first: w.emit(
    'Gather', a, w.whole(*range(first, first + heads)), axis=1
  )
  sent, received = half(0), half(heads)
  if not loops:
    sent = w.edges_at(sent, 'senders')
    received = w.edges_at(received, 'receivers')
  return w.emit('Add', sent, received)


def _max_into(w, a, b=None):
  found = w.segments(a, 'receivers', w.num_nodes(), w.width[a], reduction='max')
  found = w.emit('Max', found, w.number(0))
  return found if b is None else w.emit('Max', found, b)


def _sum_into(w, a):
  return w.segments(a, 'receivers', w.num_nodes(), w.width[a])


def _powers(w, a, b, table, *, loops=0):
  return w.power(w.emit('Sub', w.at_receiver(b, loops), a), table)


def _shares(w, a, b, *, share, loops=0):
  inverse = _inverse(w, w.at_receiver(b, loops))
  part = w.emit('Mul', w.as_float(a), inverse)
  part = w.emit('Mul', part, w.constant(np.float32(share)))
  return w.as_int(w.emit('Round', part))


def _add(w, a, b):
  return w.emit('Add', a, b)


def _relu(w, a):
  return w.emit('Max', a, w.number(0))


def _row_max(w, a):
  return w.row_max(w.emit('Abs', a), w.bound[a])


def _search(w, a, thresholds):
  thresholds = np.asarray(thresholds, np.int32)
  if not thresholds.size:
    return w.full(w.emit('Shape', a, start=0, end=1), 1, 0)
  # float32 keeps the order of a and a threshold that is less than 2**24.
  reach = _largest(thresholds)
  direct = reach < _FLOAT32_WHOLE
  if not direct and reach + w.bound[a] > INT32:
    raise ValueError('a search of numbers and thresholds of 31 bits and more')
  if thresholds.size <= _FEW:
    return w.count(a, w.constant(thresholds[None]), direct=direct)
  # First the blocks that are full, then the next block alone.
  block = int(np.ceil(np.sqrt(thresholds.size)))
  last = w.constant(thresholds[None, block - 1 :: block])
  full = w.count(a, last, direct=direct)
  rows = thresholds.size // block + 1
  table = np.full(rows * block, thresholds[-1])
  table[: thresholds.size] = thresholds
  row = w.emit('Squeeze', full, w.whole(1))
  row = w.emit('Gather', w.constant(table.reshape(rows, block)), row, axis=0)
  found = w.emit('Mul', full, w.number(block))
  found = w.emit('Add', found, w.count(a, row, direct=direct))
  # What fills the last row counts only with all others.
  return w.emit('Min', found, w.number(thresholds.size))


def _nearest(w, a, reach):
  reach = np.asarray(reach).astype(np.int32)
  twice = w.emit('Add', a, a)
  w.bound[twice] = 2 * w.bound[a]
  return _search(w, twice, reach[:-1] + reach[1:])


def _quotient(w, a, b):
  return w.emit('Mul', w.as_float(a), _inverse(w, b))


def _lookup(w, a, table):
  table = np.asarray(table)
  if table.dtype != np.float32:
    table = table.astype(np.int32)
  if table.ndim > 1:  # A row for each number of the first column.
    a = w.emit('Gather', a, w.constant(np.int64(0)), axis=1)
  return w.emit('Gather', w.constant(table), a, axis=0)


def _pool_sum(w, a):
  return w.segments(a, 'graph_of', w.num_graphs(), w.width[a])


def _pool_max(w, a):
  found = w.segments(
    a,
    'graph_of',
    w.num_graphs(),
    w.width[a],
    reduction='max',
  )
  above = w.emit('Add', w.emit('Min', found, w.number(0)), w.number(INT32))
  filled = w.as_int(w.emit('Not', w.is_zero(above)))
  return w.emit('Mul', found, filled)  # Where is in float32 in OpenVINO.


def _inverse(w, a):
  """f32(1) / f32(a) for a > 0."""
  one = w.constant(np.float32(1))
  # Without Abs a product with it becomes a quotient, which rounds once.
  return w.emit('Abs', w.emit('Div', one, w.as_float(a)))


def _pool_share(w):
  ones = w.full(w.num_nodes(), 1, 1)
  count = w.segments(ones, 'graph_of', w.num_graphs(), 1)
  return _inverse(w, w.emit('Max', count, w.number(1)))


def _degrees(w):
  return w.degrees()


def _add_loops(w, *, keep=0):
  if keep:
    return w.full(w.num_nodes(), 1, 1)
  loops = w.as_int(w.loops())
  count = w.segments(loops, 'receivers', w.num_nodes(), 1)
  return w.emit('Sub', w.number(1), count)


def _edge_norm(w, row):
  ends = (w.edges_at(row, end) for end in ('senders', 'receivers'))
  return w.emit('Mul', *ends)


def _loop_norm(w, row, a):
  return w.emit('Mul', w.emit('Mul', row, row), w.as_float(a))


def _row_index(w, a):
  count = w.emit('Squeeze', w.emit('Shape', a, start=0, end=1), w.whole(0))
  index = w.emit('Range', w.number(0), w.as_int(count), w.number(1))
  return w.emit('Unsqueeze', index, w.whole(1))


def _soften(w, a, table, *, share):
  if _largest(table) * w.width[a] > _FLOAT32_WHOLE:
    raise ValueError(f'a softmax of {w.width[a]} columns exceeds 24 bits')
  below = w.emit('Sub', w.row_max(a, w.bound[a]), a)
  power = w.power(below, table)
  total = w.emit('ReduceSum', power, w.whole(1), keepdims=1)
  part = w.as_float(w.emit('Mul', power, w.number(share)))
  part = w.emit('Mul', part, _inverse(w, total))
  return w.as_int(w.emit('Round', part))


OPERATIONS: dict[str, Callable[..., str]] = {
  'row_index': _row_index,
  'degrees': _degrees,
  'add_loops': _add_loops,
  'edge_norm': _edge_norm,
  'loop_norm': _loop_norm,
  'soften': _soften,
  'fix': _fix,
  'scale': _scale,
  'product': _product,
  'sum_edges': _sum_edges,
  'weigh': _weigh,
  'meet': _meet,
  'max_into': _max_into,
  'sum_into': _sum_into,
  'powers': _powers,
  'shares': _shares,
  'add': _add,
  'relu': _relu,
  'row_max': _row_max,
  'search': _search,
  'nearest': _nearest,
  'quotient': _quotient,
  'lookup': _lookup,
  'pool_sum': _pool_sum,
  'pool_max': _pool_max,
  'pool_share': _pool_share,
}
