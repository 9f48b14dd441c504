"""A trained GIN in float32, as C and as ONNX: what integers compare with.

Batch norms are folded into the products, prompts into their inference form:
nothing is left that a float engine would not run as well.
"""

from typing import Any, NamedTuple

import numpy as np

_EPSILON = 1e-5  # Of batch norm.


class Step(NamedTuple):
  """One operation on x [n, f].

  Attributes:
    op: `dense` x W + b, then ReLU if `relu`; `sum` own x + the senders' x;
      `prompt` x + softmax(x W + b) P; `pool` the mean of all nodes.
    weight: W, float32.
    bias: b, float32.
    basis: P, float32.
    own: factor.
    relu: whether negative numbers become 0.
  """

  op: str
  weight: Any = None
  bias: Any = None
  basis: Any = None
  own: float = 1.0
  relu: bool = False


def of_gin(variables: Any, num_layers: int) -> list[Step]:
  """The steps of the GIN of configs/mnist_a2q_lorap.py, without quantizers.

  Args:
    variables: `params` and `batch_stats` of the network.
    num_layers: of it.
  """
  params, stats = variables['params'], variables['batch_stats']
  dense = lambda place, norm=None, relu=False: _dense(place, norm, relu=relu)
  first = dense(params['embedding'])
  if 'node_prompt' in params:
    shift = np.asarray(params['node_prompt']['prompt']).reshape(-1)
    first = first._replace(bias=first.bias + shift @ first.weight)
  steps = [first]
  for i in range(num_layers):
    place, seen = params[f'conv_{i}'], stats[f'conv_{i}']
    steps.append(Step('sum', own=1 + float(place['eps'])))
    if 'prompt' in place:
      prompt = {k: _f32(v) for k, v in place['prompt'].items()}
      basis = prompt['up']
      if 'down' in prompt:
        basis = prompt['down'] @ basis
      steps.append(Step('prompt', prompt['kernel'], prompt['bias'], basis))
    for j in range(2):
      norm = place[f'norm_{j}']['bn'], seen[f'norm_{j}']['bn']
      steps.append(dense(place[f'dense_{j}'], norm, True))
  gain, shift = _norm(params['norm_pooled']['bn'], stats['norm_pooled']['bn'])
  hidden = _dense(params['readout_0'], None, relu=True)
  hidden = hidden._replace(
    weight=gain[:, None] * hidden.weight,
    bias=hidden.bias + shift @ hidden.weight,
  )
  return [*steps, Step('pool'), hidden, dense(params['readout_1'])]


def _f32(array: Any) -> np.ndarray:
  return np.asarray(array, np.float32)


def _norm(params: Any, stats: Any) -> tuple[np.ndarray, np.ndarray]:
  gain = _f32(params['scale']) / np.sqrt(_f32(stats['var']) + _EPSILON)
  return gain, _f32(params['bias']) - _f32(stats['mean']) * gain


def _dense(place: Any, norm: Any, *, relu: bool) -> Step:
  weight, bias = _f32(place['kernel']), _f32(place['bias'])
  if norm is not None:
    gain, shift = _norm(*norm)
    weight, bias = weight * gain, bias * gain + shift
  return Step('dense', weight, bias, relu=relu)


def onnx_model(steps: list[Step]) -> bytes:
  """The steps as an ONNX model of one graph: nodes, senders, receivers."""
  from onnx import TensorProto, helper, numpy_helper

  nodes, constants, x = [], [], 'nodes'

  def constant(array):
    constants.append(numpy_helper.from_array(array, f'c{len(constants)}'))
    return constants[-1].name

  def emit(op, *inputs, **options):
    nodes.append(
      helper.make_node(op, list(inputs), [f'v{len(nodes)}'], **options)
    )
    return nodes[-1].output[0]

  to = emit('Unsqueeze', 'receivers', constant(np.array([1])))
  for step in steps:
    if step.op == 'dense':
      x = emit('Gemm', x, constant(step.weight), constant(step.bias))
      x = emit('Relu', x) if step.relu else x
    elif step.op == 'sum':
      sent = emit('Gather', x, 'senders', axis=0)
      own = emit('Mul', x, constant(np.float32(step.own)))
      x = emit('ScatterND', own, to, sent, reduction='add')
    elif step.op == 'prompt':
      shares = emit('Gemm', x, constant(step.weight), constant(step.bias))
      shares = emit('Softmax', shares, axis=1)
      x = emit('Gemm', shares, constant(step.basis), x)
    else:
      x = emit('ReduceMean', x, constant(np.array([0])), keepdims=1)
  emit('Identity', x)
  nodes[-1].output[0] = 'outputs'
  index = lambda name: helper.make_tensor_value_info(
    name, TensorProto.INT64, ['e']
  )
  real = lambda name, *shape: helper.make_tensor_value_info(
    name, TensorProto.FLOAT, list(shape)
  )
  graph = helper.make_graph(
    nodes,
    'floats',
    [
      real('nodes', 'n', steps[0].weight.shape[0]),
      index('senders'),
      index('receivers'),
    ],
    [real('outputs', 'g', steps[-1].weight.shape[1])],
    constants,
  )
  model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid('', 21)], ir_version=10
  )
  return model.SerializeToString()


_ENGINE = """#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* y = x w + b, four rows of w at a time. */
static void dense(int rows, int in, int out, const float *x, const float *w,
                  const float *b, int relu, float *y) {
  int i, k, c;
  for (i = 0; i < rows; i++, x += in, y += out) {
    float sum[256];
    memcpy(sum, b, (size_t)out * sizeof *b);
    for (k = 0; k + 4 <= in; k += 4) {
      const float *v = w + k * out;
      const float p = x[k], q = x[k + 1], r = x[k + 2], s = x[k + 3];
      for (c = 0; c < out; c++)
        sum[c] += p * v[c] + q * v[c + out] + r * v[c + 2 * out] +
                  s * v[c + 3 * out];
    }
    for (; k < in; k++)
      for (c = 0; c < out; c++) sum[c] += x[k] * w[k * out + c];
    for (c = 0; c < out; c++) y[c] = relu && sum[c] < 0 ? 0 : sum[c];
  }
}
static void sum_edges(int n, int e, int width, const int32_t *senders,
                      const int32_t *receivers, const float *x, float own,
                      float *y) {
  int i, c;
  for (i = 0; i < n * width; i++) y[i] = own * x[i];
  for (i = 0; i < e; i++) {
    const float *from = x + senders[i] * width;
    float *to = y + receivers[i] * width;
    for (c = 0; c < width; c++) to[c] += from[c];
  }
}
static void prompt(int rows, int width, int count, const float *x,
                   const float *w, const float *b, const float *basis,
                   float *y) {
  float share[256], total, most;
  int i, k;
  for (i = 0; i < rows; i++, x += width, y += width) {
    dense(1, width, count, x, w, b, 0, share);
    for (most = share[0], k = 1; k < count; k++)
      most = share[k] > most ? share[k] : most;
    for (total = 0, k = 0; k < count; k++)
      total += share[k] = expf(share[k] - most);
    for (k = 0; k < count; k++) share[k] /= total;
    dense(1, count, width, share, basis, x, 0, y);
  }
}
static void pool(int n, int width, const float *x, float *y) {
  int i, c;
  memset(y, 0, (size_t)width * sizeof *y);
  for (i = 0; i < n; i++)
    for (c = 0; c < width; c++) y[c] += x[i * width + c];
  for (c = 0; c < width; c++) y[c] /= (float)(n > 0 ? n : 1);
}
"""


def header(steps: list[Step], *, max_nodes: int) -> str:
  """The steps as a C header of the form that `c_run.build` takes.

  Its call is that of an integer program with one graph; the result is float32,
  and nothing is checked.

  Args:
    steps: see `of_gin`; widths up to 256.
    max_nodes: most nodes of the graph.
  """
  tables: list[str] = []

  def table(array):
    numbers = ', '.join(f'{float(v).hex()}f' for v in array.reshape(-1))
    tables.append(f'static const float floats_{len(tables)}[] = {{{numbers}}};')
    return f'floats_{len(tables) - 1}'

  width, rows, calls, count = steps[0].weight.shape[0], 'n', [], 0
  widest = max(s.weight.shape[1] for s in steps if s.op == 'dense')
  x, places = 'nodes', ('a', 'b')
  for step in steps:
    y = places[1] if x == places[0] else places[0]
    if step.op == 'dense':
      out = step.weight.shape[1]
      y = 'out' if step is steps[-1] else y
      calls.append(
        f'dense({rows}, {width}, {out}, {x}, {table(step.weight)}, '
        f'{table(step.bias)}, {int(step.relu)}, {y});'
      )
      width = out
    elif step.op == 'sum':
      calls.append(
        f'sum_edges(n, e, {width}, senders, receivers, {x}, '
        f'{np.float32(step.own)!s}f, {y});'
      )
    elif step.op == 'prompt':
      calls.append(
        f'prompt(n, {width}, {step.weight.shape[1]}, {x}, '
        f'{table(step.weight)}, {table(step.bias)}, {table(step.basis)}, {y});'
      )
    else:
      calls.append(f'pool(n, {width}, {x}, {y});')
      rows = '1'
    x = y
  count = sum(a.size for s in steps for a in s[1:4] if a is not None)
  return '\n'.join(
    [
      _ENGINE,
      *tables,
      f'#define FLOATS_OUTPUTS {width}',
      f'#define FLOATS_ARENA_BYTES {2 * 4 * max_nodes * widest}',
      f'#define FLOATS_TABLE_BYTES {4 * count}',
      'int floats_run(const float *, const int32_t *, const int32_t *,',
      '  const int32_t *, int, int, int, void *, size_t, float *);',
      'int floats_run(const float *nodes, const int32_t *senders,',
      '  const int32_t *receivers, const int32_t *graph_of, int n, int e,',
      '  int g, void *arena, size_t arena_bytes, float *out) {',
      f'  float *a = arena, *b = a + n * {widest};',
      '  (void)graph_of; (void)g; (void)arena_bytes;',
      *(f'  {call}' for call in calls),
      '  return 0;',
      '}',
    ]
  )
