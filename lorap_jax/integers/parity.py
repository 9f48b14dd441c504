"""Whether the engines that are here return the same numbers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lorap_jax.integers import c_run
from lorap_jax.integers.program import Graph, Program, execute

_CHUNK = 20  # Graphs at a time: NumPy keeps all values.
_CODE = 2**9 - 1  # Largest code of a quantizer.

Engine = Callable[[Graph], np.ndarray]


def compare(
  program: Program,
  graph: Graph,
  codes: np.ndarray,
  onnx: bytes | None,
) -> dict[str, Any]:
  """Runs the engines on graphs, and counts what differs from NumPy's result.

  Args:
    program: what was exported.
    graph: some graphs, one behind the other.
    codes: what JAX returned for them.
    onnx: the content of model.onnx; None where there is none.

  Returns:
    `graphs` and `values` that were compared, `differing` by the name of the
    engine, and `left_out`: engine to reason.
  """
  engines, left_out = _engines(program, graph, onnx)
  differing = dict.fromkeys(('JAX', *engines), 0)
  done = 0
  for part in parts(graph, _CHUNK):
    expected = execute(program, part)
    found = {'JAX': codes[done : done + len(expected)]}
    found |= {name: engine(part) for name, engine in engines.items()}
    for name, given in found.items():
      differing[name] += int(np.sum(given != expected))
    done += len(expected)
  return {
    'graphs': graph.num_graphs,
    'values': codes.size,
    'differing': differing,
    'left_out': left_out,
  }


def inner_codes(program: Program) -> list[str]:
  """Names of the codes of quantizers that products and sums read."""
  operands = {
    node.inputs['a']
    for node in program.nodes
    if node.op in ('product', 'sum_edges')
  }
  return sorted(v for v in operands if 0 < program.bounds[v] <= _CODE)


def parts(graph: Graph, size: int) -> Iterator[Graph]:
  """The graphs of one, so many at a time.

  Args:
    graph: graphs one behind the other, edges too.
    size: graphs of each part.

  Yields:
    Graphs whose nodes count from 0.
  """
  of_edge = graph.graph_of[graph.receivers]
  for first in range(0, graph.num_graphs, size):
    ends = first, min(first + size, graph.num_graphs)
    nodes = slice(*np.searchsorted(graph.graph_of, ends))
    edges = (of_edge >= ends[0]) & (of_edge < ends[1])
    yield Graph(
      graph.nodes[nodes],
      graph.senders[edges] - np.int32(nodes.start),
      graph.receivers[edges] - np.int32(nodes.start),
      graph.graph_of[nodes] - np.int32(first),
      ends[1] - ends[0],
    )


def _engines(
  program: Program, graph: Graph, onnx: bytes | None
) -> tuple[dict[str, Engine], dict[str, str]]:
  engines: dict[str, Engine] = {}
  left_out = {}
  if onnx is None:
    left_out['ONNX Runtime'] = 'no model.onnx: pip install onnx'
  elif (session := onnx_runtime(onnx)) is None:
    left_out['ONNX Runtime'] = 'pip install onnxruntime'
  else:
    engines['ONNX Runtime'] = session
  if c_run.compiler() is None:
    left_out['C'] = 'no C compiler (cc)'
  else:
    most = lambda ids: int(np.bincount(ids, minlength=1).max())
    compiled = c_run.Compiled(
      program,
      max_nodes=most(graph.graph_of),
      max_edges=most(graph.graph_of[graph.receivers]),
      max_graphs=1,
      flags=('-O1',),
    )
    engines['C'] = lambda given: np.concatenate(
      [compiled(one) for one in parts(given, 1)]
    )
  return engines, left_out


def onnx_runtime(content: bytes) -> Engine | None:
  """ONNX Runtime with a model; None where it is not installed."""
  with contextlib.suppress(ImportError):
    import onnxruntime

    session = onnxruntime.InferenceSession(
      content, providers=['CPUExecutionProvider']
    )
    names = [given.name for given in session.get_inputs()]
    run: Any = session.run
    return lambda graph: run(['codes'], inputs_of(graph, names))[0]
  return None


def inputs_of(graph: Graph, names: list[str]) -> dict[str, np.ndarray]:
  """What a model of these inputs is given for a graph."""
  count = np.array([graph.num_graphs], np.int32)
  given = {**graph._asdict(), 'num_graphs': count}
  return {name: given[name] for name in names}
