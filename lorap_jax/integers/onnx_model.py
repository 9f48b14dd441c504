"""Makes an `onnx.ModelProto` of the operators of an integer program."""

import collections
import itertools
import string
from collections.abc import Sequence
from typing import Any

from lorap_jax.integers.onnx_arithmetic import Arithmetic
from lorap_jax.integers.onnx_constants import Constants
from lorap_jax.integers.onnx_graph import (
  BOOL,
  FLOAT32,
  INPUTS,
  INT32_TYPE,
  INT64,
  IR,
  OPSET,
  Operator,
)
from lorap_jax.integers.program import Program


class Model(Arithmetic, Constants):
  """Operators and constants of a program, and their file.

  `onnx_graph` has operators, layers that are alike and what a constant is,
  `onnx_arithmetic` what operations need, `onnx_constants` how packed constants
  are taken apart.
  """

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
