"""A GCN on one graph of the size of ogbn-arxiv: integers against float32.

`configs/ogbn_arxiv.py:gcn,qat4,none` at its start, with 4-bit messages: the C
engine with every value in the smallest type that holds its bound, the same
program with every value in four bytes, and the float32 network in JAX. Bytes
are those that operations read and write: of a sum over neighbours a row, two
ends and the weight for each edge, and the result once. They say nothing of
caches. `sums` are the part of these sums.
"""

import ctypes
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import inputs, integers, output, timing
from configs import ogbn_arxiv
from lorap_jax.data import pipeline
from lorap_jax.integers import c_run, c_tables, c_writer, evaluate, limits
from lorap_jax.integers.program import Graph, Program, execute
from lorap_jax.nn import methods
from lorap_jax.runs import settings
from lorap_jax.training import state

_BASE = 'JAX float32'


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: a graph of a fiftieth.
    data_dir: not read: the official files are no arrays.
  """
  del data_dir
  data = inputs.node_data('arxiv', 0.02 if quick else 1.0)
  config = ogbn_arxiv.get_config('gcn,qat4,none')
  graph = evaluate.graph_of_nodes(data)
  model, variables, batch = _network(config, data)
  program = limits.of_data(data).lower(model, variables)
  plain = model.clone(scheme=methods.FP32(), encoder_operand='signed')
  kept = {name: variables[name] for name in ('params', 'batch_stats')}
  apply = jax.jit(
    lambda variables, graph, layout: plain.apply(
      variables, graph, layout=layout, train=False
    )
  )
  calls: dict[str, Callable[[], Any]] = {
    _BASE: lambda: apply(kept, batch.graph, batch.layout)
  }
  moved = {_BASE: bytes_moved(program, graph, narrow=False)}
  arenas: dict[str, int] = {}
  if c_run.compiler():
    expected = execute(program, graph)
    with tempfile.TemporaryDirectory() as folder:
      for name, narrow in (('C integers', True), ('C int32', False)):
        calls[name], arenas[name] = _in_c(
          program, graph, expected, pathlib.Path(folder), narrow=narrow
        )
        moved[name] = bytes_moved(program, graph, narrow=narrow)
  times = timing.measure(calls, rounds=2 if quick else 5)
  rows = []
  for name in calls:
    row: output.Row = {'engine': name, 'data': data.source['name']}
    row.update(timing.columns(times, name, _BASE))
    row['MB moved'], row['MB of sums'] = (b / 1e6 for b in moved[name])
    if name in arenas:
      row['arena MB'] = arenas[name] / 1e6
    rows.append(row)
  return rows


def _network(config: Any, data: Any) -> tuple[Any, Any, Any]:
  """A network whose ranges have seen the graph, and the graph for JAX."""
  chosen = settings.from_config(config)
  loader = pipeline.WholeGraph(
    data, 'test', layout=chosen.uses_layout, weighted=chosen.weighted
  )
  batch = jax.device_put(loader.batch())
  model = chosen.model(data.num_classes)
  variables = state.init_state(model, batch, jax.random.key(0)).variables()
  return model, integers.observed(model, variables, batch), batch


def _in_c(
  program: Program,
  graph: Graph,
  expected: np.ndarray,
  folder: pathlib.Path,
  *,
  narrow: bool,
) -> tuple[Callable[[], Any], int]:
  """A call of C code that gave the right outputs, and its arena."""
  name = 'narrow' if narrow else 'wide'
  text = c_writer.write(
    program,
    name=name,
    max_nodes=len(graph.nodes),
    max_edges=len(graph.senders),
    max_graphs=1,
    narrow=narrow,
  )
  target = folder / f'{name}.so'
  c_run.build({name: text}, target)
  library = ctypes.CDLL(str(target))
  run, found = c_run.function(library, name), np.zeros_like(expected)
  _, size, _ = (ctypes.c_int64 * 3).in_dll(library, f'{name}_sizes')
  given = *c_run.arguments(graph), np.zeros(size, np.uint8), size, found
  assert run(*given) == 0
  np.testing.assert_array_equal(found, expected)
  return lambda: run(*given), size


def bytes_moved(
  program: Program, graph: Graph, *, narrow: bool
) -> tuple[int, int]:
  """Bytes that operations read and write, and those of sums over neighbours.

  Args:
    program: to run.
    graph: on which graph.
    narrow: each number in the smallest type that holds its bound, else four
      bytes.
  """
  probe = Graph(
    np.zeros((5, program.num_features), np.float32),
    np.zeros(3, np.int32),
    np.zeros(3, np.int32),
    np.array([0, 0, 0, 1, 1], np.int32),
    2,
  )
  counts = {5: len(graph.nodes), 3: len(graph.senders), 2: graph.num_graphs}
  values = execute(program, probe, keep=True)

  def size(name: str, rows: int | None = None) -> int:
    value = values[name]
    width = value.size // len(value)
    small = narrow and value.dtype.kind == 'i' and name != program.output
    each = c_tables.size(program.bounds[name]) if small else 4
    return (rows or counts[len(value)]) * width * each

  total = sums = 0
  for node in program.nodes:
    moved = size(node.output)
    for argument, name in node.inputs.items():
      by_edge = node.op == 'sum_edges' and argument == 'a'
      moved += size(name, len(graph.senders) if by_edge else None)
    if node.op == 'sum_edges':
      moved += 8 * len(graph.senders)
      sums += moved
    total += moved
  return total, sums
