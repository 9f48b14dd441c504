"""Integer programs: a few operations whose results are the same in any engine.

docs/integers.md defines them. A program is a list of nodes in the order of
their execution; every value is an array with rows (nodes of the graph, its
edges, or graphs) and columns. `execute` is the reference: NumPy, or JAX inside
of `jit`.

| operation    | inputs              | result                                 |
|--------------|---------------------|----------------------------------------|
| `fix`        | x f32               | clip(rint(x c))                        |
| `scale`      | a, row f32, limit   | clip(rint((f32(a) row) c) + b)         |
| `product`    | a                   | a W + b                                |
| `sum_edges`  | a, weight           | sum over the edges into a row, of      |
|              |                     | their weight times a of the sender     |
| `weigh`      | a, row              | a row, whole numbers                   |
| `meet`       | a                   | the left half of the sender's a plus   |
|              |                     | the right half of the receiver's       |
| `max_into`   | a, b                | the larger of b (or 0) and the largest |
|              |                     | a of the edges into a row              |
| `sum_into`   | a                   | sum of a over the edges into a row     |
| `powers`     | a, b                | table[min(receiver's b - a, last)]     |
| `shares`     | a, b                | rint((f32(a) (f32(1) / f32(b of the    |
|              |                     | receiver))) m)                         |
| `add`        | a, b                | a + b                                  |
| `relu`       | a                   | max(a, 0)                              |
| `row_max`    | a                   | max over the columns of abs(a)         |
| `search`     | a                   | number of thresholds <= a              |
| `nearest`    | a                   | number of k with                       |
|              |                     | reach[k] + reach[k + 1] <= 2 a         |
| `quotient`   | a, b                | f32(a) (f32(1) / f32(b))               |
| `lookup`     | a                   | table[a], a number or a row            |
| `pool_sum`   | a                   | sum over the nodes of each graph       |
| `pool_max`   | a                   | the largest of the nodes of each graph |
| `pool_share` |                     | f32(1) / f32(nodes) of each graph      |
| `soften`     | a                   | rint(f32(p m) (f32(1) / f32(sum of p)))|
|              |                     | p = table[min(row's max - a, last)]    |
| `row_index`  | a                   | 0, 1, 2, ...                           |
| `degrees`    |                     | edges into each node                   |
| `add_loops`  |                     | self loops that a node is to get       |
| `edge_norm`  | row f32             | row of the sender times the receiver's |
| `loop_norm`  | row f32, a          | (row row) f32(a)                       |

All are in int32 but for the float32 numbers row, c, `pool_share`, `edge_norm`
and tables of `lookup`. f32(a) rounds to nearest, ties to even, where it has to
(|a| > 2**24); so does each product or quotient of two float32 numbers, once;
rint rounds ties to even. Nothing else rounds, and no sum is in float32.

Weights of `sum_edges` and rows of `weigh` may have h columns: each is for its
own f / h columns of a [n, f], its head. `meet`, `powers` and `shares` have a
row for each edge, or with `loops` for the self loop of each node.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

EXACT = 2**24 - 1  # Whole numbers that float32 holds.
INT32 = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Node:
  """One operation.

  Attributes:
    op: its name.
    inputs: names of values by the names of its arguments.
    output: name of the result.
    constants: arrays by the names of its arguments.
    options: whole numbers and switches.
  """

  op: str
  inputs: Mapping[str, str]
  output: str
  constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  options: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Program:
  """An integer network.

  Attributes:
    nodes: in the order of their execution.
    output: name of the result.
    output_scale: what a unit of the result is worth, f32 [outputs] or [1].
    per_graph: the rows of the result are graphs, else nodes.
    num_features: columns of the input.
    bounds: largest magnitude that each value can have, by name.
  """

  nodes: tuple[Node, ...]
  output: str
  output_scale: np.ndarray
  per_graph: bool
  num_features: int
  bounds: Mapping[str, int]


def num_types(program: Program) -> int | None:
  """How many types the first feature counts; None if it is no such number."""
  fixed = {n.output for n in program.nodes if n.inputs.get('x') == 'nodes'}
  for node in program.nodes:
    if node.op == 'lookup' and node.inputs['a'] in fixed:
      return len(node.constants['table'])
  return None


class Graph(NamedTuple):
  """What a program runs on.

  Attributes:
    nodes: f32 [n, num_features].
    senders: int32 [e].
    receivers: int32 [e].
    graph_of: int32 [n], the graph of each node, in order.
    num_graphs: g.
  """

  nodes: Any
  senders: Any
  receivers: Any
  graph_of: Any
  num_graphs: int


def execute(
  program: Program,
  graph: Graph,
  *,
  xp: Any = np,
  keep: bool = False,
  operations: Mapping[str, Any] | None = None,
) -> Any:
  """Runs a program.

  Args:
    program: what to run.
    graph: on which graphs.
    xp: `numpy`, or `jax.numpy` inside of a jitted function.
    keep: return the values of all nodes, not of the last alone.
    operations: functions by the names of operations; None for `OPERATIONS`.

  Returns:
    int32 [rows, outputs], or a dict of all values by name.
  """
  values: dict[str, Any] = {'nodes': graph.nodes}
  for node in program.nodes:
    given = {name: values[value] for name, value in node.inputs.items()}
    constants = {
      name: xp.asarray(value) for name, value in node.constants.items()
    }
    function = (operations or OPERATIONS)[node.op]
    values[node.output] = function(
      xp, graph, **given, **constants, **node.options
    )
  return values if keep else values[program.output]


def _rounded(xp: Any, value: Any, low: Any, high: Any) -> Any:
  """clip(rint(value)) of float32, as int32."""
  # Clipped as float32, which holds both ends: no engine agrees on the rest.
  ends = (xp.asarray(end, np.float32) for end in (low, high))
  return xp.clip(xp.rint(value), *ends).astype(np.int32)


def _fix(xp, graph, x, factor, *, low, high):
  del graph
  return _rounded(xp, x.astype(np.float32) * factor, low, high)


def _scale(xp, graph, a, factor, row=None, limit=None, bias=None, *, low, high):
  del graph
  value = a.astype(np.float32)
  if row is not None:
    value = value * row
  value = _rounded(xp, value * factor, -EXACT, EXACT)
  if bias is not None:
    value = value + bias
  value = xp.clip(value, *(xp.asarray(end, np.int32) for end in (low, high)))
  if limit is not None:
    value = xp.clip(value, -limit, limit)
  return value


def _product(xp, graph, a, weight, bias=None):
  del graph
  if xp is np:
    # Whole numbers below 2**53 are exact in float64, and BLAS is faster.
    total = (a.astype(np.float64) @ weight.astype(np.float64)).astype(np.int32)
  else:
    total = xp.matmul(
      a.astype(np.int32),
      weight.astype(np.int32),
      preferred_element_type=np.int32,
    )
  return total if bias is None else total + bias


def _segment_sum(xp, values, segments, count):
  if xp is np:
    total = np.zeros((count, *values.shape[1:]), np.int32)
    np.add.at(total, segments, values)
    return total
  return xp.zeros((count, *values.shape[1:]), np.int32).at[segments].add(values)


def _segment_max(xp, start, segments, values):
  """The larger of `start` and the largest of the rows of each segment."""
  if xp is np:
    np.maximum.at(start, segments, values)
    return start
  return start.at[segments].max(values)


def _by_head(a, weight):
  """Each column of the weight times its columns of a."""
  rows, heads = weight.shape
  shape = rows, heads, a.shape[1] // heads
  return (a.reshape(shape) * weight[:, :, None]).reshape(a.shape)


def _sum_edges(xp, graph, a, weight=None, *, drop_loops=0):
  sent = a[graph.senders]
  if weight is not None:
    sent = _by_head(sent, weight)
  if drop_loops:
    proper = (graph.senders != graph.receivers)[:, None]
    sent = xp.where(proper, sent, 0)
  return _segment_sum(xp, sent, graph.receivers, a.shape[0])


def _weigh(xp, graph, a, row):
  del xp, graph
  return _by_head(a, row)


def _at(xp, graph, end, loops):
  """The node at an end of each edge, or of each self loop."""
  if loops:
    return xp.arange(graph.nodes.shape[0], dtype=np.int32)
  return getattr(graph, end)


def _meet(xp, graph, a, *, loops=0):
  half = a.shape[1] // 2
  sent = a[_at(xp, graph, 'senders', loops), :half]
  return sent + a[_at(xp, graph, 'receivers', loops), half:]


def _max_into(xp, graph, a, b=None):
  start = xp.zeros((graph.nodes.shape[0], a.shape[1]), np.int32)
  if b is not None:
    start = xp.maximum(start, b)
  return _segment_max(xp, start, graph.receivers, a)


def _sum_into(xp, graph, a):
  return _segment_sum(xp, a, graph.receivers, graph.nodes.shape[0])


def _powers(xp, graph, a, b, table, *, loops=0):
  below = b[_at(xp, graph, 'receivers', loops)] - a
  return _power(xp, below, table)


def _power(xp, below, table):
  entry = xp.minimum(below, np.int32(len(table) - 1))
  return xp.asarray(table)[entry].astype(np.int32)


def _shares(xp, graph, a, b, *, share, loops=0):
  total = b[_at(xp, graph, 'receivers', loops)].astype(np.float32)
  part = a.astype(np.float32) * (np.float32(1) / total)
  return xp.rint(part * np.float32(share)).astype(np.int32)


def _add(xp, graph, a, b):
  del xp, graph
  return a + b


def _relu(xp, graph, a):
  del graph
  return xp.maximum(a, np.int32(0))


def _row_max(xp, graph, a):
  del graph
  return xp.max(xp.abs(a), axis=1, keepdims=True)


def _search(xp, graph, a, thresholds):
  del graph
  return xp.searchsorted(thresholds, a[:, 0], side='right').astype(np.int32)[
    :, None
  ]


def _nearest(xp, graph, a, reach):
  reach = xp.asarray(reach).astype(np.int32)
  return _search(xp, graph, a + a, reach[:-1] + reach[1:])


def _quotient(xp, graph, a, b):
  del xp, graph
  return a.astype(np.float32) * (np.float32(1) / b.astype(np.float32))


def _lookup(xp, graph, a, table):
  del graph
  table = xp.asarray(table)
  found = table[a[:, 0]].reshape(a.shape[0], table[0].size)
  return found if found.dtype == np.float32 else found.astype(np.int32)


def _pool_sum(xp, graph, a):
  return _segment_sum(xp, a, graph.graph_of, graph.num_graphs)


def _pool_max(xp, graph, a):
  lowest = np.int32(-INT32)
  start = xp.full((graph.num_graphs, a.shape[1]), lowest, np.int32)
  found = _segment_max(xp, start, graph.graph_of, a)
  return xp.where(found == lowest, np.int32(0), found)


def _pool_share(xp, graph):
  ones = xp.ones((graph.graph_of.shape[0], 1), np.int32)
  count = _segment_sum(xp, ones, graph.graph_of, graph.num_graphs)
  count = xp.maximum(count, np.int32(1)).astype(np.float32)
  return np.float32(1) / count


def _degrees(xp, graph):
  ones = xp.ones((graph.receivers.shape[0], 1), np.int32)
  return _segment_sum(xp, ones, graph.receivers, graph.nodes.shape[0])


def _add_loops(xp, graph, *, keep=0):
  if keep:
    return xp.ones((graph.nodes.shape[0], 1), np.int32)
  loops = (graph.senders == graph.receivers).astype(np.int32)[:, None]
  count = _segment_sum(xp, loops, graph.receivers, graph.nodes.shape[0])
  # A node with several keeps the weight of one.
  return np.int32(1) - count


def _edge_norm(xp, graph, row):
  del xp
  return row[graph.senders] * row[graph.receivers]


def _loop_norm(xp, graph, row, a):
  del xp, graph
  return (row * row) * a.astype(np.float32)


def _row_index(xp, graph, a):
  del graph
  return xp.arange(a.shape[0], dtype=np.int32)[:, None]


def _soften(xp, graph, a, table, *, share):
  del graph
  power = _power(xp, xp.max(a, axis=1, keepdims=True) - a, table)
  total = xp.sum(power, axis=1, keepdims=True, dtype=np.int32)
  part = (power * np.int32(share)).astype(np.float32)
  # Not part / total: OpenVINO has no such division, only reciprocals.
  inverse = np.float32(1) / total.astype(np.float32)
  return xp.rint(part * inverse).astype(np.int32)


OPERATIONS = {
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
