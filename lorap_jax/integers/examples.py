"""What stands beside an exported network and shows how it is run."""

import numpy as np

from lorap_jax.integers.program import Graph

ONNX = '''"""Runs model.onnx on the graphs of parity.npz, in ONNX Runtime."""

import numpy as np
import onnxruntime

with np.load('parity.npz') as file:
  given = {name: file[name] for name in file.files}
expected = given['outputs']
given['num_graphs'] = given['graph_of'].max(keepdims=True) + np.int32(1)
session = onnxruntime.InferenceSession('model.onnx')
inputs = {i.name: given[i.name] for i in session.get_inputs()}
(codes,) = session.run(['codes'], inputs)
differing = np.sum(codes != expected)
print(f'ONNX Runtime: {differing} of {codes.size} values differ')
'''

_C = """/* Runs model.h on one graph of the data; needs no other file. */
#define MODEL_IMPLEMENTATION
#include "model.h"
#include <stdio.h>

enum {{ NODES = {nodes}, EDGES = {edges}, VALUES = {values} }};
{arrays}
static unsigned char arena[MODEL_ARENA_BYTES];
static int32_t out[VALUES];

int main(void) {{
  int i, differing = 0;
  int error = model_run(nodes, senders, receivers, graph_of, NODES, EDGES, 1,
                        arena, sizeof arena, out);
  if (error) {{
    printf("C: error %d\\n", error);
    return 1;
  }}
  for (i = 0; i < VALUES; i++) differing += out[i] != expected[i];
  printf("C: %d of %d values differ\\n", differing, VALUES);
  return differing != 0;
}}
"""


def c_program(graph: Graph, expected: np.ndarray) -> str:
  """A C99 program that runs model.h on a graph and looks at the result.

  Args:
    graph: one graph.
    expected: int32 [rows, outputs], what the network returns for it.

  Returns:
    Its text.
  """
  as_float = lambda x: f'{float(x).hex()}f'  # Exact, as C99 reads it.
  arrays = [
    _array('float', 'nodes', [as_float(x) for x in graph.nodes.ravel()]),
    *(
      _array('int32_t', name, [str(x) for x in values.ravel()])
      for name, values in (
        ('senders', graph.senders),
        ('receivers', graph.receivers),
        ('graph_of', graph.graph_of),
        ('expected', expected),
      )
    ),
  ]
  return _C.format(
    nodes=len(graph.nodes),
    edges=len(graph.senders),
    values=expected.size,
    arrays='\n'.join(arrays),
  )


def _array(kind: str, name: str, values: list[str]) -> str:
  lines = [
    f'  {", ".join(values[i : i + 8])},' for i in range(0, len(values), 8)
  ]
  body = '\n'.join(lines) or '  0'  # C99 has no empty arrays.
  return f'static const {kind} {name}[] = {{\n{body}\n}};'


def readme(*, per_graph: bool, with_onnx: bool, with_stablehlo: bool) -> str:
  """README.md of the folder.

  Args:
    per_graph: the rows of the outputs are graphs, else nodes.
    with_onnx: there is a model.onnx.
    with_stablehlo: there is a model.stablehlo.
  """
  rows = 'graph' if per_graph else 'node'
  onnx = """
In ONNX Runtime, with int32 arrays (`graph_of`: the graph of each node) and
`num_graphs` [1], but for the inputs that the model does not have: see
`example_onnx.py`. OpenVINO needs `{'INFERENCE_PRECISION_HINT': 'f32'}`.
"""
  stablehlo = """
`model.stablehlo` is the same for `jax.export`:

    run = jax.export.deserialize(bytearray(content)).call
    codes = run(nodes, senders, receivers, n_node)
"""
  return f"""# An integer graph network

`manifest.json` says what was exported, for which graphs, and how accurate it
is. There is one row of outputs for each {rows}. In Python, with NumPy alone:

    import lorap_jax
    network = lorap_jax.load_artifact('.')
    outputs = network(nodes, senders, receivers, n_node)
{onnx if with_onnx else ''}
In C99, one graph at a time, see `example.c`; `cc -std=c99 -O2 example.c` needs
no other file than `model.h`:

    int error = model_run(nodes, senders, receivers, graph_of, n, e, 1,
                          arena, sizeof arena, out);
{stablehlo if with_stablehlo else ''}
`parity.npz` has graphs, `outputs`, the whole numbers that every engine must
return for them bit for bit (times the output scale they are the outputs), and
`codes/NAME`, the codes of every quantizer on the way; `values` in the manifest
has the bits, the bound and the multipliers of each.
"""
