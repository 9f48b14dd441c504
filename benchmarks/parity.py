"""Counts codes that differ between engines, on the data of finished runs.

    python -m benchmarks.parity runs/mnist runs/cora --random 1000 --inside 20

The reference is NumPy. Against it: JAX, C, ONNX Runtime, OpenVINO, and the
reference evaluator of onnx, which is slow and gets the first graphs only. Then
the accuracy of the integers and of the network, on the test data.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import output
from lorap_jax.data import NodeDataset
from lorap_jax.integers import c_run, evaluate, limits, onnx_writer, parity
from lorap_jax.integers.program import Graph, Program, execute
from lorap_jax.runs import datasets, restore

_HUB = 50_000
_SLOW = 1  # Calls of the reference evaluator of onnx.
Engine = Callable[[Graph], np.ndarray]


def engines(
  program: Program, most: dict[str, Any], flags: tuple[str, ...] = c_run.FAST
) -> dict[str, Engine]:
  """The engines that are installed here, by name.

  Args:
    program: to run.
    most: `max_nodes`, `max_edges`, `max_graphs` of a call, for C.
    flags: of the C compiler.
  """
  step = jax.jit(
    lambda a, b, c, d, count: execute(
      program, Graph(a, b, c, d, count), xp=jnp
    ),
    static_argnames='count',
  )
  found: dict[str, Engine] = {
    'JAX': lambda graph: np.asarray(step(*graph[:4], count=graph.num_graphs))
  }
  if c_run.compiler():
    compiled = c_run.Compiled(program, **most, flags=flags)
    found[f'C {" ".join(flags)}'] = compiled
  try:
    model = onnx_writer.write(program)
  except ImportError:
    return found
  content = model.SerializeToString()
  if session := parity.onnx_runtime(content):
    found['ONNX Runtime'] = session
  names = [entry.name for entry in model.graph.input]
  feed = lambda graph: parity.inputs_of(graph, names)
  try:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
      core.read_model(content), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}
    )
    found['OpenVINO'] = lambda graph: compiled(feed(graph))['codes']
  except ImportError:
    pass
  from onnx import reference

  evaluator: Any = reference.ReferenceEvaluator(model)
  slow = lambda graph: evaluator.run(['codes'], feed(graph))[0]
  found['onnx reference'] = slow
  return found


def compare(
  program: Program,
  graphs: list[Graph],
  *,
  label: str = '',
  slow: int = _SLOW,
  jax_too: bool = True,
  flags: tuple[str, ...] = c_run.FAST,
) -> list[output.Row]:
  """How many numbers of each engine are not those of the reference.

  Args:
    program: to run.
    graphs: a call each.
    label: of the data.
    slow: calls of the reference evaluator of onnx.
    jax_too: run JAX, which compiles for each shape.
    flags: of the C compiler.
  """
  most: dict[str, Any] = {
    'max_nodes': max(len(graph.nodes) for graph in graphs),
    'max_edges': max(len(graph.senders) for graph in graphs),
    'max_graphs': max(graph.num_graphs for graph in graphs),
  }
  with np.errstate(over='ignore'):
    expected = [execute(program, graph) for graph in graphs]
  rows = []
  for name, engine in engines(program, most, flags).items():
    if name == 'JAX' and not jax_too:
      continue
    calls = slow if name == 'onnx reference' else len(graphs)
    pairs = list(zip(graphs, expected, strict=True))[:calls]
    differing = sum(
      int(np.sum(engine(graph) != codes)) for graph, codes in pairs
    )
    rows.append(
      {
        'data': label,
        'engine': name,
        'graphs': sum(graph.num_graphs for graph, _ in pairs),
        'codes': sum(codes.size for _, codes in pairs),
        'differing': differing,
      }
    )
    print(rows[-1], flush=True)  # Some engines take minutes.
  return rows


def compare_inside(
  program: Program, graphs: list[Graph], *, label: str, flags: tuple[str, ...]
) -> output.Row:
  """The same for all codes inside of the network, as one row.

  Args:
    program: to run; it is cut off behind each quantizer in turn.
    graphs: a call each.
    label: of the data.
    flags: of the C compiler.

  Returns:
    `quantizers` and `codes` compared, and how many differ in any engine.
    Rows of edges are no result of a program, and are left out.
  """
  probe = Graph(
    np.zeros((5, program.num_features), np.float32),
    np.zeros(3, np.int32),
    np.zeros(3, np.int32),
    np.array([0, 0, 0, 1, 1], np.int32),
    2,
  )
  values = execute(program, probe, keep=True)
  rows: list[output.Row] = []
  names = [v for v in parity.inner_codes(program) if len(values[v]) != 3]
  for name in names:
    cut = dataclasses.replace(
      program,
      output=name,
      output_scale=np.ones(1, np.float32),
      per_graph=len(values[name]) == 2,
    )
    rows += compare(cut, graphs, label=f'{label}, {name}', flags=flags)
  return {
    'data': f'{label}, inside',
    'quantizers': len(names),
    'graphs': sum(graph.num_graphs for graph in graphs),
    'codes': sum(row['codes'] for row in rows if row['engine'] == 'JAX'),
    'differing': sum(row['differing'] for row in rows),
  }


def random_graphs(
  count: int, features: int, *, hub: int = _HUB, largest: float = 1.0
) -> Iterator[Graph]:
  """Random graphs: empty, one node, self loops, duplicates, hubs.

  Args:
    count: how many calls.
    features: columns.
    hub: largest in-degree; five calls in a thousand have hubs.
    largest: of the features; some exceed it.
  """
  rng = np.random.default_rng(0)
  for i in range(count):
    kind = i % 8
    n = (0, 1, 1)[kind] if kind < 3 else int(rng.integers(2, 40))
    e = 0 if n == 0 or kind == 1 else int(rng.integers(1, 160))
    if i % 200 == 7:
      n, e = 50, int(rng.integers(hub // 2, hub + 1))
    ends = rng.integers(0, max(n, 1), (2, e)).astype(np.int32)
    if kind == 4:
      ends[1] = ends[0]  # Self loops.
    if kind == 5:
      ends = np.repeat(ends[:, : (e + 1) // 2], 2, axis=1)
    if kind in (6, 7):
      ends[1] = 0
    nodes = rng.uniform(-1.2, 1.2, (n, features)) * largest
    yield Graph(
      nodes.astype(np.float32), ends[0], ends[1], np.zeros(n, np.int32), 1
    )


def _of_run(
  folder: pathlib.Path, given: argparse.Namespace
) -> list[output.Row]:
  run = restore.load_run(folder)
  data: Any = datasets.load(run.config['data'])
  by_node = isinstance(data, NodeDataset)
  test: Any = data if by_node else data.test
  name = folder.name
  if by_node:
    graphs = [evaluate.graph_of_nodes(data)]
  else:
    count = min(given.graphs or test.num_graphs, test.num_graphs)
    some = evaluate.first_graphs(test, count)
    graphs = list(parity.parts(some, given.size))
  allowed = limits.of_data(data)
  program = allowed.lower(run.model, run.variables)  # pyrefly: ignore
  # JAX compiles for each shape: it gets the whole set in padded batches.
  rows = compare(
    program, graphs, label=f'{name}, test', slow=given.slow, jax_too=False
  )
  expected = np.concatenate([execute(program, graph) for graph in graphs])
  codes = evaluate.outputs(program, test)[: len(expected)]
  rows.append(
    {
      'data': f'{name}, test',
      'engine': 'JAX',
      'graphs': sum(graph.num_graphs for graph in graphs),
      'codes': codes.size,
      'differing': int(np.sum(codes != expected)),
    }
  )
  mask = test.test_mask if by_node else slice(len(codes))
  labels, values = test.labels[mask], codes * program.output_scale
  right = lambda out: float(np.mean(out[mask].argmax(1) == labels))
  rows.append(
    {
      'data': f'{name}, accuracy',
      'graphs': len(labels),
      'integers': right(values),
      'network': right(run.predict(test)),
    }
  )
  print(rows[-2:], flush=True)
  if given.inside:
    rows.append(
      compare_inside(
        program, graphs[: given.inside], label=name, flags=('-O1',)
      )
    )
  # Scales of nodes are for those of the data alone.
  if given.random and not any(n.op == 'row_index' for n in program.nodes):
    drawn = random_graphs(
      given.random, allowed.num_features, largest=allowed.largest_input
    )
    hubs = dataclasses.replace(allowed, max_degree=_HUB)
    rows += compare(
      hubs.lower(run.model, run.variables),  # pyrefly: ignore
      list(drawn),
      label=f'{name}, random',
      slow=100,
      jax_too=False,
    )
  return rows


def main() -> None:
  """Parses the command line, prints the table and writes it."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.parity',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('runs', nargs='+', type=pathlib.Path)
  parser.add_argument('--random', type=int, default=0, metavar='GRAPHS')
  parser.add_argument('--size', type=int, default=500, help='graphs per call')
  parser.add_argument(
    '--graphs', type=int, default=0, help='first test graphs; all of them'
  )
  parser.add_argument(
    '--slow', type=int, default=1, help='calls of the reference of onnx'
  )
  parser.add_argument(
    '--inside', type=int, default=0, help='calls whose inner codes are compared'
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path(__file__).parent / 'results' / 'parity.json',
  )
  given = parser.parse_args()
  rows: list[output.Row] = []
  for folder in given.runs:
    rows += _of_run(folder, given)
    output.write_json(given.out, 'parity', rows, 0.0)
  output.print_table('parity', __doc__, rows)


if __name__ == '__main__':
  main()
