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

import dataclasses
import json
from typing import Any

import numpy as np

from lorap_jax.integers import onnx_graph, onnx_model, onnx_ops, repeats
from lorap_jax.integers.onnx_graph import INT32_TYPE
from lorap_jax.integers.program import INT32, Graph, Program, execute


def write(program: Program, *, names: bool = False) -> Any:
  """The ONNX model of a program.

  Its inputs are those of `Graph` that the program reads: `nodes` float32
  [n, num_features], `senders`, `receivers` int32 [e], `graph_of` int32 [n] and
  `num_graphs` int32 [1]; n, e and the number of graphs are free. Its outputs
  are `codes` int32 [rows, outputs], the result of `execute`, and `values`
  float32, the codes times the output scale. A value may have 2**31 numbers at
  most.

  Layers that are alike are the body of a Loop where that makes a smaller file.

  Args:
    program: what to write.
    names: store the program's names of values as the metadata `names`, a JSON
      object with the model's short ones as keys; of layers that are a Loop, the
      names of the first.

  Returns:
    An `onnx.ModelProto`.

  Raises:
    ImportError: onnx is not installed.
    ValueError: a number that some engine would round.
  """
  onnx, repeat = _import_onnx(), repeats.find(program)
  written = [_written(onnx, program, None, names=names)]
  if repeat is not None:
    written.append(_written(onnx, program, repeat, names=names))
  return min(written, key=lambda model: model.ByteSize())


def _written(onnx, program, repeat, *, names) -> Any:
  """The model; a repetition is a Loop, if its layers are alike."""
  model, widths = onnx_model.Model(onnx), _widths(program)
  of = {'nodes': 'nodes'}
  model.width['nodes'] = program.num_features
  start, stop = (repeat.start, repeat.stop) if repeat else (0, 0)
  _add(model, program.nodes[:start], of, program.bounds, widths)
  if repeat and not _add_layers(model, repeat, of, program.bounds, widths):
    stop = start
  _add(model, program.nodes[stop:], of, program.bounds, widths)
  result = of[program.output]
  if model.in_float(result):
    model.emit('Cast', model.as_float(result), to=INT32_TYPE, output='codes')
  else:
    model.emit('Identity', result, output='codes')
  scale = model.real(program.output_scale)
  model.emit('Mul', model.as_float(result), scale, output='values')
  written = model.finish(program, widths[program.output])
  if names:
    short = {model.kept(value): name for name, value in of.items()}
    onnx.helper.set_model_props(written, {'names': json.dumps(short)})
  return written


def _add(model, nodes, of, bounds, widths) -> None:
  """Adds operations to a model; `of` has the names of values there."""
  for node in nodes:
    given = {name: of[value] for name, value in node.inputs.items()}
    model.limit = bounds.get(node.output, INT32)
    function = onnx_ops.OPERATIONS[node.op]
    result = function(model, **given, **node.constants, **node.options)
    of[node.output] = result
    model.width[result] = widths[node.output]
    model.bound[result] = model.limit


def _add_layers(model, repeat, of, bounds, widths) -> bool:
  """Adds layers that are alike as one Loop; False if they are not enough so.

  The bounds of a value are the widest of all layers. Each layer is tried by
  itself: all have to make the same operators.
  """
  first, last = repeat.blocks[0], repeat.blocks[-1]
  names = [[node.output for node in block] for block in repeat.blocks]
  widest = dict(bounds)
  for alike in zip(*names, strict=True):
    widest[alike[0]] = max(bounds.get(name, INT32) for name in alike)
  result = first[repeat.result].output
  top = max(bounds.get(repeat.given, INT32), widest[result])
  real = top <= onnx_graph.FLOAT32_WHOLE
  if widths[result] != widths[repeat.given]:
    return False
  alike = [
    [node.constants[key] for node in place]
    for place in zip(*repeat.blocks, strict=True)
    for key in place[0].constants
  ]

  def body(other, block):
    other.compare(alike)
    inside = dict(of)
    name = other.begin(of[repeat.given], len(repeat.blocks), real=real)
    inside[repeat.given] = name
    other.bound[name] = top
    nodes = [
      dataclasses.replace(node, inputs=like.inputs, output=like.output)
      for node, like in zip(block, first, strict=True)
    ]
    _add(other, nodes, inside, widest, widths)
    return other.end(inside[result], real=real), inside

  trials = []
  for block in repeat.blocks:
    trial = model.trial()
    body(trial, block)
    trials.append(trial.trace())
  if any(trace != trials[0][0] for trace, _ in trials):
    return False
  # OpenVINO adds into the data of the pass before.
  nodes, *_ = trials[0][0]
  if 'ScatterElements' in {inner.op for node in nodes for inner in node.body}:
    return False
  if not model.replay([constants for _, constants in trials]):
    model.replay(())
    return False
  name, inside = body(model, first)
  model.replay(())
  of.update(inside | of)
  of[last[repeat.result].output] = name
  model.width[name], model.bound[name] = widths[result], top
  return True


def _import_onnx() -> Any:
  try:
    import onnx
  except ImportError as error:
    raise ImportError(
      "ONNX models need the package onnx: pip install 'lorap_jax[export]'"
    ) from error
  return onnx


def _widths(program: Program) -> dict[str, int]:
  """Columns of all values, from a run on one node."""
  none = np.zeros(0, np.int32)
  one = np.zeros((1, program.num_features), np.float32)
  graph = Graph(one, none, none, np.zeros(1, np.int32), 1)
  values = execute(program, graph, keep=True)
  return {name: value.shape[1] for name, value in values.items()}
