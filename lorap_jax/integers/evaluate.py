"""An integer program on a data set, as JAX runs it.

A program is compiled for its structure alone: operations, names and shapes.
Constants and limits are arguments, so that a network that goes on training is
evaluated by what was compiled before.

On a CPU XLA's int32 products take many times as long as those of float32. Where
the bounds say that no partial sum leaves +-2**24, which float32 holds exactly,
a product is computed in float32, with equal bits in any order; where operands
of 16 bits are all that stands in the way, as two such products. So are sums
over edges, by the kernel that networks in training use.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.data import GraphDataset, NodeDataset, pipeline
from lorap_jax.graphs import shards
from lorap_jax.graphs.aggregate import gather_sum
from lorap_jax.integers import program as program_lib
from lorap_jax.integers.program import Graph, Node, Program, execute

_KEPT = 8  # Compiled programs.
_TABLE = 256  # Tables of groups are padded to a multiple of this.
_HALF = 8  # Bits of the lower half of an operand.


class Skeleton(NamedTuple):
  """What a compiled program depends on, beside the shapes of its constants.

  Attributes:
    nodes: operation, inputs, output and options of each, but for limits.
    output: name of the result.
    per_graph: its rows are graphs.
  """

  nodes: tuple[Any, ...]
  output: str
  per_graph: bool


def outputs(
  program: Program,
  data: GraphDataset | NodeDataset,
  *,
  batch_size: int = 128,
) -> np.ndarray:
  """The whole numbers that a program returns, in the order of the data.

  Many graphs go through in padded batches of one shape.

  Args:
    program: of a network of this data.
    data: many graphs, or one whose nodes have labels.
    batch_size: graphs per batch.

  Returns:
    int32 [g, outputs] of the graphs, or [n, outputs] of the nodes.
  """
  step = compiled(program)
  if isinstance(data, NodeDataset):
    return np.asarray(step(arrays_of_nodes(data)))
  loader = pipeline.Loader(
    data,
    pipeline.joint_budget((data,), batch_size=batch_size),
    layout=jax.default_backend() == 'cpu',
  )
  found = []
  for indices in loader.ordered():
    batch = loader.batch(indices)
    codes = step(batch.graph, batch.layout)
    found.append(np.asarray(codes)[: len(indices)])
  return np.concatenate(found)


def compiled(program: Program) -> Callable[..., jax.Array]:
  """A program, compiled unless one of its structure was.

  Args:
    program: what to run.

  Returns:
    run(graph, layout=None) -> int32 [rows, outputs], those of padding included.
    `graph` is a jraph.GraphsTuple, one of several shards too, or has its
    `nodes`, `senders`, `receivers`, `n_node`; `layout` is that of its batch.
  """
  skeleton, numbers = split(program)
  run = _runner(skeleton)

  def call(graph: Any, layout: Any = None) -> jax.Array:
    count = 1 if isinstance(graph, Arrays) else shards.count(graph)
    arrays = graph.nodes, graph.senders, graph.receivers, graph.n_node
    return run(numbers, arrays, layout, count)

  return call


def split(program: Program) -> tuple[Skeleton, list[dict[str, Any]]]:
  """A program as what it is compiled for, and the numbers it is given.

  Args:
    program: any.

  Returns:
    The skeleton, and of each node the constants and limits by their names.
  """
  nodes, numbers = [], []
  grouped = {n.output for n in program.nodes if n.op == 'nearest'}
  for node in program.nodes:
    constants = {k: np.asarray(v) for k, v in node.constants.items()}
    if node.op == 'nearest' or node.inputs.get('a') in grouped:
      # More of the last group: a row takes the last range, wherever it stands.
      constants = {k: _padded(v) for k, v in constants.items()}
    limits = {
      k: np.int32(v) for k, v in node.options.items() if k in ('low', 'high')
    }
    fixed = [(k, v) for k, v in node.options.items() if k not in limits]
    nodes.append(
      (
        _operation(program, node),
        tuple(node.inputs.items()),
        node.output,
        tuple(fixed),
      )
    )
    numbers.append({**constants, **limits})
  return Skeleton(tuple(nodes), program.output, program.per_graph), numbers


def _padded(table: np.ndarray) -> np.ndarray:
  """A table whose last entry is repeated."""
  more = -len(table) % _TABLE
  return np.concatenate([table, np.repeat(table[-1:], more)])


def _operation(program: Program, node: Node) -> str:
  """How an operation is computed: in float32 where that is exact."""
  # Bounds are sums of magnitudes: those of any partial sum.
  exact = program.bounds[node.output] <= program_lib.EXACT
  if node.op == 'sum_edges':
    plain = 'weight' not in node.inputs and not node.options.get('drop_loops')
    return 'float_sum' if exact and plain else node.op
  if node.op != 'product':
    return node.op
  if exact:
    return 'float_product'
  weight = np.abs(np.asarray(node.constants['weight'], np.int64))
  half = max(2**_HALF, (program.bounds[node.inputs['a']] >> _HALF) + 1)
  if half * weight.sum(0).max(initial=0) <= program_lib.EXACT:
    return 'half_products'
  return node.op


def _float_matmul(a, weight):
  return jnp.matmul(
    a.astype(jnp.float32),
    weight.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  ).astype(jnp.int32)


def _float_product(xp, graph, a, weight, bias=None):
  """The product a W + b, exact in float32."""
  del xp, graph
  total = _float_matmul(a, weight)
  return total if bias is None else total + bias


def _half_products(xp, graph, a, weight, bias=None):
  """The same with a = 256 (upper half) + lower half."""
  del graph
  upper = _float_matmul(a >> _HALF, weight) << _HALF
  lower = _float_product(xp, None, a & (2**_HALF - 1), weight, bias)
  return upper + lower


def _float_sum(layout, xp, graph, a, **options):
  """The sum over the edges into each node, exact in float32."""
  if layout is None:
    return _sum_edges(xp, graph, a, **options)
  x = a.astype(jnp.float32)
  return gather_sum(x, layout.incoming, layout.outgoing).astype(jnp.int32)


_sum_edges: Any = program_lib.OPERATIONS['sum_edges']


@functools.lru_cache(_KEPT)
def _runner(skeleton: Skeleton) -> Callable[..., jax.Array]:
  """The jitted program of a structure; its numbers are its first argument."""

  def run(numbers, arrays, layout, count):
    nodes, senders, receivers, n_node = arrays
    ends = shards.inside((senders, receivers), count, len(nodes))
    inside = functools.partial(run_shard, numbers)
    return shards.in_each(inside, count, (nodes, *ends, n_node), layout)

  def run_shard(numbers, arrays, layout):
    nodes, senders, receivers, n_node = arrays
    graph_of = jnp.repeat(
      jnp.arange(len(n_node), dtype=jnp.int32),
      n_node,
      total_repeat_length=len(nodes),
    )
    graph = Graph(nodes, senders, receivers, graph_of, len(n_node))
    rows = zip(skeleton.nodes, numbers, strict=True)
    operations = tuple(
      Node(op, dict(inputs), output, given, dict(fixed))
      for (op, inputs, output, fixed), given in rows
    )
    program = Program(
      operations,
      skeleton.output,
      np.ones(1, np.float32),  # Neither it nor what follows is read here.
      skeleton.per_graph,
      num_features=0,
      bounds={},
    )
    functions = {
      **program_lib.OPERATIONS,
      'float_product': _float_product,
      'half_products': _half_products,
      'float_sum': functools.partial(_float_sum, layout),
    }
    return execute(program, graph, xp=jnp, operations=functions)

  return jax.jit(run, static_argnums=3)


class Arrays(NamedTuple):
  """One graph, as `compiled` takes it."""

  nodes: np.ndarray
  senders: np.ndarray
  receivers: np.ndarray
  n_node: np.ndarray


def arrays_of_nodes(data: NodeDataset) -> Arrays:
  """The one graph of a data set, for a compiled program."""
  graph = graph_of_nodes(data)
  count = np.array([data.num_nodes], np.int32)
  return Arrays(graph.nodes, graph.senders, graph.receivers, count)


def graph_of_nodes(data: NodeDataset) -> Graph:
  """The one graph of a data set."""
  return Graph(
    np.asarray(data.nodes, np.float32),
    np.asarray(data.senders, np.int32),
    np.asarray(data.receivers, np.int32),
    np.zeros(data.num_nodes, np.int32),
    1,
  )


def first_graphs(data: GraphDataset, count: int) -> Graph:
  """The first graphs of a data set, one behind the other."""
  n_node, n_edge = data.n_node[:count], data.n_edge[:count]
  starts = np.cumsum(n_node) - n_node
  shift = np.repeat(starts, n_edge).astype(np.int32)
  nodes, edges = int(n_node.sum()), int(n_edge.sum())
  return Graph(
    np.asarray(data.nodes[:nodes], np.float32),
    (data.senders[:edges] + shift).astype(np.int32),
    (data.receivers[:edges] + shift).astype(np.int32),
    np.repeat(np.arange(len(n_node), dtype=np.int32), n_node),
    len(n_node),
  )
