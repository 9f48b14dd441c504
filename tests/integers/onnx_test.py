"""ONNX models of integer programs: equal in every bit in three engines."""

import dataclasses
import importlib.util
import itertools
import json
import pathlib
import sys
import tempfile

import c_programs
import numpy as np
import pytest

from lorap_jax.integers import (
  onnx_ops,
  onnx_stores,
  onnx_writer,
  repeats,
  sizes,
)
from lorap_jax.integers import program as program_lib
from lorap_jax.integers.builder import Builder, Codes, Wide
from lorap_jax.integers.program import EXACT, INT32, Graph
from lorap_jax.quantization import grids

onnx = pytest.importorskip('onnx', reason='onnx is not installed')
# OpenVINO asks the system for its release when it is imported.
pytestmark = pytest.mark.filterwarnings('ignore:os.fork')

FEATURES = 5
ENGINES = ('reference', 'onnxruntime', 'openvino')


def reference(model):
  from onnx import reference as onnx_reference

  run = onnx_reference.ReferenceEvaluator(model)
  return lambda feed: run.run(['codes', 'values'], feed)


def onnxruntime(model):
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 4  # Races need more than one.
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=['CPUExecutionProvider']
  )
  return lambda feed: session.run(['codes', 'values'], feed)


def openvino(model):
  import openvino

  core = openvino.Core()
  # From a file: content in memory goes through another reader.
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / 'model.onnx'
    file.write_bytes(model.SerializeToString())
    compiled = core.compile_model(
      core.read_model(file), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}
    )

  def run(feed):
    result = compiled(feed)
    return result['codes'], result['values']

  return run


@pytest.fixture(params=ENGINES)
def engine(request):
  name = request.param
  if name != 'reference' and importlib.util.find_spec(name) is None:
    pytest.skip(f'{name} is not installed')
  return globals()[name]


def feed_of(graph, model):
  feed = {
    'nodes': graph.nodes,
    'senders': graph.senders,
    'receivers': graph.receivers,
    'graph_of': graph.graph_of,
    'num_graphs': np.array([graph.num_graphs], np.int32),
  }
  return {entry.name: feed[entry.name] for entry in model.graph.input}


def check(engine, program, graphs):
  """The engine's results on graphs are those of `execute`."""
  model = onnx_writer.write(program)
  onnx.checker.check_model(model, full_check=True)
  run = engine(model)
  for graph in graphs:
    codes, values = run(feed_of(graph, model))
    expected = program_lib.execute(program, graph)
    assert codes.dtype == np.int32 and values.dtype == np.float32
    np.testing.assert_array_equal(codes, expected, strict=True)
    scaled = expected.astype(np.float32) * program.output_scale
    np.testing.assert_array_equal(values, scaled, strict=True)


# Graphs.


def make_graph(rng, sizes, edges, *, hub=False, features=FEATURES, spread=2.0):
  """Graphs side by side; edges [2, e], or how many random ones."""
  n = sum(sizes)
  if isinstance(edges, int):
    edges = rng.integers(0, n, (2, edges))
  edges = np.asarray(edges, np.int32).reshape(2, -1)
  if hub:
    edges[1, ::2] = 0
  nodes = rng.normal(0, spread, (n, features)).astype(np.float32)
  graph_of = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
  return Graph(nodes, edges[0], edges[1], graph_of, len(sizes))


def small_graphs(features=FEATURES):
  rng = np.random.default_rng(0)
  make = lambda *args, **kwargs: make_graph(
    rng, *args, features=features, **kwargs
  )
  return [
    make([1], 0),
    make([1], [[0, 0], [0, 0]]),  # Two self loops.
    make([4, 0, 3], [[0, 1, 1, 3, 5, 6], [1, 0, 0, 3, 5, 4]]),
    make([0, 7, 0, 0], 30, spread=1e3),
    make([20, 1, 15], 150),
    make([60], 300, hub=True, spread=30.0),
  ]


def hub_graph(edges=5000, features=FEATURES):
  return make_graph(
    np.random.default_rng(1), [25, 15], edges, hub=True, features=features
  )


def random_graphs(count, seed=2, features=FEATURES):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    sizes = rng.integers(0, 12, rng.integers(1, 6))
    sizes[0] += 1
    yield make_graph(
      rng,
      sizes.tolist(),
      int(rng.integers(0, 60)),
      hub=bool(rng.random() < 0.3),
      features=features,
      spread=float(np.exp(rng.uniform(-3, 6))),
    )


# Programs of a few operations, up to the ends of 32 bits.


def start():
  return Builder(max_degree=5001, max_nodes=64)


def finish(build, name, bound, *, per_graph=False, width=FEATURES, scale=0.37):
  program = build.program(
    Wide(name, 1.0, bound, width), per_graph=per_graph, num_features=FEATURES
  )
  scale = np.atleast_1d(np.asarray(scale, np.float32))
  return dataclasses.replace(program, output_scale=scale)


def whole(build, bits, label='x'):
  """Whole numbers of up to `bits` bits, odd ones too."""
  half = 2 ** (bits - 1)
  parts = [
    build.add(
      'fix',
      f'{label}_{i}',
      {'x': 'nodes'},
      {'factor': np.float32(factor)},
      bound=half,
      low=-half,
      high=half,
    )
    for i, factor in enumerate((half / 3, 1234.5678))
  ]
  a, b = parts
  return build.add('add', label, {'a': a, 'b': b}, bound=2 * half - 1)


def column(build, name, bound):
  """One column of it."""
  weight = np.eye(FEATURES, 1, dtype=np.int8)
  return build.add(
    'product', 'column', {'a': name}, {'weight': weight}, bound=bound
  )


CASES = {}


def case(function):
  CASES[function.__name__] = function
  return function


@case
def fixed():
  b = start()
  name = b.add(
    'fix',
    'y',
    {'x': 'nodes'},
    {'factor': np.float32(0.75)},
    bound=9,
    low=-7,
    high=9,
  )
  return finish(b, name, 9)


@case
def added_and_relu():
  b = start()
  name = b.add('relu', 'y', {'a': whole(b, 31)}, bound=INT32)
  return finish(b, name, INT32)


def scale_case(*, bits, low, high, factor, bias=None, output=0.37):
  b = start()
  constants = {'factor': np.asarray(factor, np.float32)}
  if bias is not None:
    constants['bias'] = np.asarray(bias, np.int32).reshape(1, -1)
  name = b.add(
    'scale',
    'y',
    {'a': whole(b, bits)},
    constants,
    bound=max(abs(low), abs(high)),
    low=low,
    high=high,
  )
  return finish(b, name, high, scale=output)


@case
def scale_to_codes():
  return scale_case(bits=22, low=-8, high=7, factor=3e-6)


@case
def scale_of_columns():
  factor = np.array([[1e-6, 3.3e-6, 0.0, 2.1e-5, 1e-3]])
  return scale_case(
    bits=23, low=-200, high=255, factor=factor, bias=[3, -3, 0, 40, -100]
  )


@case
def scale_up_of_odd_numbers():
  return scale_case(bits=31, low=-EXACT, high=EXACT, factor=0.0123)


@case
def scale_to_ties():
  return scale_case(bits=20, low=-(2**20), high=2**20, factor=0.5)


@case
def scale_of_equal_columns():
  ones = np.ones((1, FEATURES))
  scale = [0.5, 1.5, 1 / 3, 1e-9, 7e5]
  return scale_case(
    bits=16,
    low=-30000,
    high=300,
    factor=ones * 0.25,
    bias=ones * 5,
    output=scale,
  )


@case
def scale_beyond_float32():
  bias = np.array([2**30 + 1, -(2**30) - 3, 2**29 + 7, 5, 0])
  return scale_case(
    bits=30, low=-(2**30) + 5, high=2**30 - 33, factor=1.0, bias=bias
  )


@case
def scale_that_only_shifts():
  return scale_case(
    bits=20,
    low=-(2**30) - 2**20,
    high=2**30 + 2**20,
    factor=1.0,
    bias=[2**30 - 1, 0, 1, 2, 3],
  )


def product_case(bits, weight, bias=None):
  b = start()
  constants = {'weight': np.asarray(weight, np.int8)}
  if bias is not None:
    constants['bias'] = np.asarray(bias, np.int32)[None]
  bound = 2**bits * int(np.abs(weight).sum(0).max())
  name = b.add(
    'product', 'y', {'a': whole(b, bits)}, constants, bound=min(bound, INT32)
  )
  return finish(b, name, bound, width=weight.shape[1])


def weights(low, high, columns):
  rng = np.random.default_rng(3)
  return rng.integers(low, high + 1, (FEATURES, columns))


@case
def product_of_int4():
  return product_case(8, weights(-8, 7, 7), bias=np.arange(7) - 3)


@case
def product_of_shifted_int4():
  return product_case(8, weights(-7, 8, 30))


@case
def product_of_shifted_columns():
  return product_case(8, weights(0, 15, 30) - np.arange(30))


@case
def product_of_int8():
  return product_case(8, weights(-128, 127, 3), bias=[70000, -1, 0])


@case
def product_of_wide_numbers():
  return product_case(21, weights(-127, 127, 4))


@case
def product_of_very_wide_numbers():
  return product_case(28, weights(-1, 1, 4))


def narrow(build, bits, label='q'):
  limit = 2**bits - 1
  return build.add(
    'fix',
    label,
    {'x': 'nodes'},
    {'factor': np.float32(limit / 4)},
    bound=limit,
    low=-limit,
    high=limit,
  )


def edge_weights(build, label='weight'):
  norm, _ = build.norms(self_loops=False, keep=False)
  edges = build.add('edge_norm', f'{label}_norm', {'row': norm})
  return build.add(
    'fix',
    label,
    {'x': edges},
    {'factor': np.float32(15)},
    bound=15,
    low=0,
    high=15,
  )


def sum_case(*, weight=False, drop_loops=0, one=False, bits=15):
  b = start()
  a = narrow(b, bits)
  a = column(b, a, 2**bits) if one else a
  inputs = {'a': a}
  if weight:
    inputs['weight'] = edge_weights(b)
  bound = 2**bits * b.max_degree * (15 if weight else 1)
  name = b.add('sum_edges', 'y', inputs, bound=bound, drop_loops=drop_loops)
  return finish(b, name, bound, width=1 if one else FEATURES)


@case
def sum_of_edges():
  return sum_case()


@case
def sum_without_loops():
  return sum_case(drop_loops=1)


@case
def sum_with_weights():
  return sum_case(weight=True, bits=12)


@case
def sum_with_weights_without_loops():
  return sum_case(weight=True, drop_loops=1, bits=12)


@case
def sum_of_one_column():
  return sum_case(one=True, weight=True, drop_loops=1, bits=12)


@case
def sum_that_wraps_on_the_way():
  b = start()
  first = narrow(b, 18)
  top = b.add(
    'scale',
    'top',
    {'a': first},
    {'factor': np.float32(1e-3), 'bias': np.full((1, 5), 400_000, np.int32)},
    bound=420_000,
    low=-420_000,
    high=420_000,
  )  # 5,000 of them stay just below 2**31, the running sum over all does not.
  name = b.add('sum_edges', 'y', {'a': top}, bound=INT32, drop_loops=0)
  return finish(b, name, INT32)


@case
def weighed():
  b = start()
  row = b.add('degrees', 'degrees', {}, bound=b.max_degree)
  name = b.add(
    'weigh', 'y', {'a': whole(b, 18), 'row': row}, bound=2**18 * b.max_degree
  )
  return finish(b, name, INT32)


@case
def largest_of_rows():
  b = start()
  name = b.add('row_max', 'y', {'a': whole(b, 31)}, bound=INT32)
  return finish(b, name, INT32, width=1)


@case
def largest_of_small_rows():
  b = start()
  name = b.add('row_max', 'y', {'a': whole(b, 20)}, bound=2**20)
  return finish(b, name, 2**20, width=1)


def search_case(thresholds, bits):
  b = start()
  a = column(b, whole(b, bits), 2**bits)
  thresholds = np.asarray(thresholds, np.int32)
  name = b.add(
    'search', 'y', {'a': a}, {'thresholds': thresholds}, bound=len(thresholds)
  )
  return finish(b, name, max(len(thresholds), 1), width=1)


@case
def search_of_nothing():
  return search_case([], 20)


@case
def search_of_few():
  return search_case([-300, -20, 0, 0, 1, 7, 4000], 10)


@case
def search_of_many():
  rng = np.random.default_rng(4)
  return search_case(np.sort(rng.integers(-700, 700, 1001)), 11)


@case
def search_of_a_square():
  return search_case(np.arange(100) * 12 - 600, 11)


@case
def nearest_of_many():
  b = start()
  a = b.add('row_max', 'size', {'a': whole(b, 20)}, bound=2**20)
  reach = np.unique(np.geomspace(1, 2**20, 300).round())
  name = b.add(
    'nearest', 'y', {'a': a}, {'reach': reach.astype(np.float32)}, bound=300
  )
  return finish(b, name, 300, width=1)


@case
def quotients():
  b = start()
  group = b.add('row_max', 'size', {'a': whole(b, 6)}, bound=2**6)
  rng = np.random.default_rng(6)
  table = rng.integers(1, 2**20, 2**6 + 1).astype(np.int32)
  divisor = b.add(
    'lookup', 'divisor', {'a': group}, {'table': table}, bound=2**20
  )
  power = b.add(
    'lookup',
    'power',
    {'a': group},
    {'table': np.full(2**6 + 1, 8, np.int16)},
    bound=8,
  )
  inverse = b.add('quotient', 'inverse', {'a': power, 'b': divisor})
  rows = {'a': whole(b, 20), 'row': inverse}
  name = b.add(
    'scale',
    'y',
    rows,
    {'factor': np.float32(1e4)},
    bound=2**20,
    low=-(2**20),
    high=2**20,
  )
  return finish(b, name, 2**20)


@case
def search_beyond_float32():
  rng = np.random.default_rng(5)
  return search_case(np.sort(rng.integers(-(2**29), 2**29, 500)), 30)


@case
def search_of_degrees():
  b = start()
  degree = b.add('degrees', 'degrees', {}, bound=b.max_degree)
  name = b.add(
    'search',
    'y',
    {'a': degree},
    {'thresholds': np.arange(1, 300, dtype=np.int32)},
    bound=299,
  )
  return finish(b, name, 299, width=1)


def lookup_case(table):
  b = start()
  thresholds = np.arange(-600, 600, 40, dtype=np.int32)
  a = column(b, whole(b, 10), 2**10)
  found = b.add(
    'search', 'found', {'a': a}, {'thresholds': thresholds}, bound=30
  )
  name = b.add('lookup', 'y', {'a': found}, {'table': table}, bound=INT32)
  if table.dtype == np.float32:
    name = b.add(
      'fix',
      'z',
      {'x': name},
      {'factor': np.float32(77)},
      bound=2**20,
      low=-(2**20),
      high=2**20,
    )
  return finish(b, name, INT32, width=1)


for _kind, _low, _high in (
  ('int4', -8, 7),
  ('int8', -128, 127),
  ('uint8', 0, 255),
  ('int16', -32768, 32767),
  ('uint16', 0, 65535),
  ('int32', -INT32, INT32),
):

  def _lookup(low=_low, high=_high):
    return lookup_case(np.linspace(low, high, 31).astype(np.int32))

  CASES[f'lookup_of_{_kind}'] = _lookup


@case
def lookup_of_float32():
  return lookup_case(np.geomspace(1e-3, 1e4, 31).astype(np.float32))


@case
def index_of_rows():
  b = start()
  name = b.add('row_index', 'y', {'a': narrow(b, 3)}, bound=INT32)
  return finish(b, name, INT32, width=1)


def loops_case(keep):
  b = start()
  name = b.add('add_loops', 'y', {}, bound=b.max_degree, keep=keep)
  return finish(b, name, b.max_degree, width=1)


@case
def loops_that_are_missing():
  return loops_case(0)


@case
def loops_for_all():
  return loops_case(1)


@case
def norms_of_loops():
  b = start()
  norm, loops = b.norms(self_loops=True, keep=False)
  own = b.add('loop_norm', 'own', {'row': norm, 'a': loops})
  name = b.add(
    'fix',
    'y',
    {'x': own},
    {'factor': np.float32(1e6)},
    bound=2**24,
    low=-EXACT,
    high=EXACT,
  )
  return finish(b, name, 2**24, width=1)


def attention(values):
  """A value of `c_programs.gat`, by its operation, with whole rows of nodes."""
  program = c_programs.gat(np.random.default_rng(5))
  op, loops = values
  name = next(
    node.output
    for node in program.nodes
    if node.op == op and node.options.get('loops', 0) == loops
  )
  return dataclasses.replace(
    program, output=name, output_scale=np.full(1, 0.37, np.float32)
  )


for _values in (
  ('meet', 1),
  ('max_into', 0),
  ('sum_into', 0),
  ('powers', 1),
  ('shares', 1),
):
  CASES[f'attention_{_values[0]}'] = lambda values=_values: attention(values)


@case
def rows_of_a_table():
  return c_programs.typed(np.random.default_rng(4))


def pool_case(op, bits):
  b = start()
  name = b.add(op, 'y', {'a': whole(b, bits)}, bound=INT32)
  return finish(b, name, INT32, per_graph=True)


@case
def sums_of_graphs():
  return pool_case('pool_sum', 24)


@case
def maxima_of_graphs():
  return pool_case('pool_max', 31)


@case
def means_of_graphs():
  b = start()
  value = b.pool('mean', Wide(whole(b, 22), 1.0, 2**22, FEATURES))
  return finish(b, value.name, value.bound, per_graph=True)


def soften_case(*, table, share, bits, factor=1.0):
  b = start()
  name = b.add(
    'soften',
    'y',
    {'a': whole(b, bits)},
    {'table': np.asarray(table, np.int32)},
    bound=share,
    share=share,
  )
  return finish(b, name, share)


def powers():
  return np.rint(2**13 * 2.0 ** -(np.arange(1024) / 64))


@case
def softmax():
  return soften_case(table=powers(), share=2**11, bits=10)


@case
def softmax_of_wide_numbers():
  return soften_case(table=powers(), share=2**11, bits=27)


@case
def softmax_with_ties():
  # 5 / 10, 3 / 6 ...: quotients that end in a half.
  return soften_case(table=[1, 1, 2, 3, 1, 1], share=5, bits=4)


@case
def softmax_of_a_quotient_near_a_half():
  # p m (1 / t) and (p m) / t round to different numbers.
  return soften_case(table=[2771, 1843], share=2048, bits=20)


@pytest.mark.parametrize('name', CASES)
def test_operation(name, engine):
  check(engine, CASES[name](), small_graphs())


HUB = [
  'sum_of_edges',
  'sum_with_weights_without_loops',
  'sum_of_one_column',
  'sum_that_wraps_on_the_way',
  'attention_max_into',
  'attention_sum_into',
  'weighed',
  'search_of_degrees',
  'loops_that_are_missing',
  'norms_of_loops',
]


@pytest.mark.parametrize('name', HUB)
def test_operation_at_a_hub(name, engine):
  check(engine, CASES[name](), [hub_graph()])


# Networks.


def uniform(bits, *, zero=0.0, scale=0.1, width=None, signed=True):
  rng = np.random.default_rng(bits)
  shape = () if width is None else (width,)
  low = -(2 ** (bits - 1)) if signed else 0
  return grids.UniformGrid(
    scale * rng.uniform(0.5, 2, shape),
    np.rint(rng.uniform(-zero, zero, shape)),
    low,
    low + 2**bits - 1,
  )


def groups(count, bits=6, largest=40.0):
  rng = np.random.default_rng(count)
  limit = 2 ** rng.integers(1, bits, count) - 1
  reach = np.exp(rng.uniform(-3, np.log(largest), count))
  return grids.GroupGrid(reach / (limit + 1), limit, reach)


def dense(build, rng, x, grid, columns, *, bits=4, per_column=True):
  codes = build.quantize('input', x, grid)
  high = 2 ** (bits - 1) - 1
  weight = rng.integers(-high, high + 1, (codes.width, columns))
  scale = rng.uniform(0.005, 0.02, columns if per_column else 1)
  total = build.product('product', codes, weight, scale)
  gain, shift = rng.uniform(0.5, 2, columns), rng.normal(size=columns)
  return build.widen('result', total, factor=gain, bias=shift)


def gin(*, message, aggregate, pool='mean', drop_loops=False, soft=False):
  """A layer of GIN with a prompt, and what follows it."""
  rng = np.random.default_rng(6)
  b = Builder(max_degree=5001, max_nodes=60)
  x = b.fix('nodes', 50.0, FEATURES)
  with b.inside('conv'):
    codes = b.quantize('message', x, message)
    total = b.neighbor_sum('neighbors', codes, drop_loops=drop_loops)
    own = b.widen('own', codes, factor=1.173)
    s = b.plus('with_own', b.widen('sum', total), own)
    if soft:
      q = b.quantize('logits', s, None)
      scores = b.product(
        'scores', q, rng.integers(-127, 128, (FEATURES, 9)), np.full(9, 1e-4)
      )
      shares = b.soften('shares', scores, rng.normal(size=9))
      basis = rng.integers(-127, 128, (9, FEATURES))
      mixed = b.product('mixed', shares, basis, np.ones(FEATURES))
      s = b.plus('prompted', s, b.widen('prompt', mixed, factor=0.01))
    with b.inside('dense_0'):
      h = b.relu('relu', dense(b, rng, s, aggregate, 14))
    with b.inside('dense_1'):
      h = dense(b, rng, h, uniform(5, signed=False), 8, bits=8)
    h = b.shifted('shifted', h, rng.normal(size=8))
  if pool is not None:
    with b.inside('pool'):
      h = b.pool(pool, h)
    with b.inside('readout'):
      h = dense(b, rng, h, uniform(8, scale=0.05), 3, per_column=False)
  return b.program(h, per_graph=pool is not None, num_features=FEATURES)


def gcn(*, self_loops, keep, message, weights=None, pool=None):
  rng = np.random.default_rng(7)
  b = Builder(max_degree=5001, max_nodes=60)
  x = b.fix('nodes', 50.0, FEATURES)
  norm, loops = b.norms(self_loops=self_loops, keep=keep)
  for i in range(2):
    with b.inside(f'conv_{i}'):
      h = dense(b, rng, x, message, 6)
      codes = b.quantize('message', h, uniform(4, scale=0.4, zero=2.0))
      if weights is None:
        total = b.normed_sum('neighbors', codes, norm, loops)
        total = b.widen('sum', total)
      else:
        total = b.edge_sum('neighbors', codes, norm, loops, weights)
      x = b.relu('relu', total)
  if pool is not None:
    with b.inside('pool'):
      x = b.pool(pool, x)
  return b.program(x, per_graph=pool is not None, num_features=FEATURES)


def layers(count, *, norms=False, width=20, unlike=False, start=3.0):
  """Layers of GIN with a prompt, or of GCN, that are alike."""
  rng = np.random.default_rng(15)
  b = Builder(max_degree=5001, max_nodes=60)
  x = b.fix('nodes', 50.0, FEATURES)
  norm, loops = b.norms(self_loops=True, keep=False) if norms else (None, None)
  with b.inside('embedding'):
    x = dense(b, rng, x, uniform(8), width)
  for k in range(count):
    # Scales of unlike sizes, so that layers differ in units and bounds.
    grid = uniform(4, scale=start / (1 + k), width=width)
    with b.inside(f'conv_{k}'):
      codes = b.quantize('message', x, grid)
      if norms:
        total = b.normed_sum('neighbors', codes, norm, loops)
        s = b.widen('sum', total)
      else:
        total = b.widen('sum', b.neighbor_sum('neighbors', codes))
        s = b.plus('with_own', total, b.widen('own', codes, factor=1 + k / 7))
      if unlike and k == 1:
        s = b.shifted('shifted', s, rng.normal(size=width))
      q = b.quantize('logits', s, None)
      scores = b.product(
        'scores', q, rng.integers(-127, 128, (width, 9)), np.full(9, 1e-4)
      )
      shares = b.soften('shares', scores, rng.normal(size=9))
      basis = rng.integers(-127, 128, (9, width))
      mixed = b.product('mixed', shares, basis, np.ones(width))
      s = b.plus('prompted', s, b.widen('prompt', mixed, factor=0.01))
      with b.inside('dense_0'):
        s = b.relu('relu', dense(b, rng, s, groups(40 + k), width))
      with b.inside('dense_1'):
        x = b.relu('relu', dense(b, rng, s, groups(30 - k), width, bits=5))
  with b.inside('pool'):
    x = b.pool('mean', x)
  return b.program(x, per_graph=True, num_features=FEATURES)


def attentive_layers(count):
  """Layers of attention that are alike; 12 columns of three heads."""
  rng = np.random.default_rng(18)
  b = Builder(max_degree=5001, max_nodes=60)
  x = b.fix('nodes', 50.0, FEATURES)
  with b.inside('embedding'):
    x = dense(b, rng, x, uniform(8), 12)
  for k in range(count):
    with b.inside(f'conv_{k}'):
      h = dense(b, rng, x, uniform(8, scale=1.0 + k), 12, bits=8)
      message = b.quantize('message', h, uniform(8, scale=0.3, width=12))
      operand = b.operand('operand', b.widen('message_values', message))
      weight = rng.integers(-127, 128, (12, 6))
      scores = b.product('product', operand, weight, np.full(6, 1e-3))
      scores = b.widen('scores', scores, factor=0.3)
      grid = grids.UniformGrid(np.asarray(0.1), np.asarray(3.0), -128, 127)
      rows = []
      for kind in range(2):
        codes = b.quantize('logits', b.meet('met', scores, loops=kind), grid)
        rows.append(b.leaky_logits('leaky', codes, 0.2))
      x = b.widen('sum', b.attend('attended', message, *rows))
  return b.program(x, per_graph=False, num_features=FEATURES)


NETWORKS = {
  'attentive_layers': lambda: attentive_layers(3),
  'layers': lambda: layers(3),
  'layers_with_norms': lambda: layers(4, norms=True),
  'layers_unlike': lambda: layers(3, unlike=True),
  'gin': lambda: gin(message=uniform(4), aggregate=uniform(4)),
  'gin_zero_points': lambda: gin(
    message=uniform(4, zero=3.0, width=FEATURES),
    aggregate=uniform(4, zero=3.0),
    pool='sum',
    drop_loops=True,
  ),
  'gin_groups': lambda: gin(
    message=uniform(4, width=FEATURES, scale=0.4),
    aggregate=groups(700),
    pool='max',
  ),
  'gin_few_groups': lambda: gin(
    message=uniform(4), aggregate=groups(5), pool=None
  ),
  'gin_prompt': lambda: gin(
    message=uniform(8), aggregate=uniform(8, scale=0.4), soft=True
  ),
  'gin_without_quantizer': lambda: gin(message=uniform(4), aggregate=None),
  'gcn': lambda: gcn(self_loops=True, keep=False, message=uniform(4)),
  'gcn_keeps_loops': lambda: gcn(
    self_loops=True, keep=True, message=uniform(4, zero=3.0), pool='mean'
  ),
  'gcn_without_loops': lambda: gcn(
    self_loops=False, keep=False, message=groups(40)
  ),
  'gcn_edge_weights': lambda: gcn(
    self_loops=True,
    keep=False,
    message=uniform(4),
    weights=uniform(4, signed=False, scale=0.06),
  ),
  'gat': lambda: c_programs.gat(np.random.default_rng(1)),
  'gat_groups': lambda: c_programs.gat(
    np.random.default_rng(2), loops=False, heads=1, logits='groups'
  ),
  'gat_free': lambda: c_programs.gat(
    np.random.default_rng(3), heads=2, logits='none'
  ),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_network(name, engine):
  check(
    engine,
    NETWORKS[name](),
    [*small_graphs(), hub_graph(), *random_graphs(10)],
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', NETWORKS)
def test_network_on_many_graphs(name, engine):
  larger = make_graph(np.random.default_rng(9), [300, 0, 700], 9000)
  check(engine, NETWORKS[name](), [larger, *random_graphs(300, seed=8)])


def test_scales_of_rows(engine):
  rng = np.random.default_rng(10)
  graph = make_graph(rng, [37], 90)
  b = start()
  limit = 2 ** rng.integers(1, 7, 37) - 1
  grid = grids.RowGrid(rng.uniform(0.01, 1, 37), limit)
  h = dense(b, rng, b.fix('nodes', 20.0, FEATURES), grid, 6)
  program = b.program(h, per_graph=False, num_features=FEATURES)
  check(engine, program, [graph])


def test_pools_take_nodes_in_any_order(engine):
  """Those of a graph need not be side by side."""
  rng = np.random.default_rng(17)
  graph = make_graph(rng, [5, 0, 9, 3], 40)
  mixed = graph._replace(graph_of=rng.permutation(graph.graph_of))
  assert np.any(np.diff(mixed.graph_of) < 0)
  for pool in ('sum', 'mean', 'max'):
    b = start()
    value = b.pool(pool, Wide(narrow(b, 10), 1.0, 2**10, FEATURES))
    program = finish(b, value.name, value.bound, per_graph=True)
    check(engine, program, [mixed])


def test_means_near_a_half(engine):
  """With sum / 14 in place of sum (1 / 14) some would differ."""
  b = start()
  value = b.pool('mean', Wide(narrow(b, 10), 1.0, 2**10, FEATURES))
  program = finish(b, value.name, value.bound, per_graph=True)
  graph = make_graph(np.random.default_rng(14), [14] * 100, 0)
  total = program_lib.execute(program, graph, keep=True)['sum']
  by_product = np.rint(total.astype(np.float32) * (1 / np.float32(14)))
  assert np.any(by_product != np.rint(total / np.float32(14)))
  check(engine, program, [graph])


def test_factor_behind_a_long_product(engine):
  """A fused factor would round parts of the sum."""
  rng = np.random.default_rng(11)
  b = start()
  x = b.fix('nodes', 8.0, 1433)
  codes = b.quantize('input', x, uniform(6, scale=0.02))
  weight = rng.integers(-60, 61, (1433, 4))
  total = b.product('product', codes, weight, np.full(4, 1e-3))
  y = b.widen('result', total)
  program = b.program(y, per_graph=False, num_features=1433)
  check(engine, program, [make_graph(rng, [200], 0, features=1433)])


def test_many_edges(engine):
  """So many that engines add from several threads."""
  if engine is reference:
    edges = 3000
  else:
    edges = 100_000
  b = start()
  codes = Codes(narrow(b, 4), np.float64(1), np.zeros(()), 15, FEATURES)
  program = finish(b, b.neighbor_sum('y', codes).name, INT32)
  graph = make_graph(np.random.default_rng(12), [50], edges)
  check(engine, program, [graph] * 5)


# The file.


def operators(model):
  """Those of the model, and those of the body of its loop."""
  for node in model.graph.node:
    yield node
    for attribute in node.attribute:
      yield from attribute.g.node


def loops(model):
  return [node for node in model.graph.node if node.op_type == 'Loop']


def test_layers_that_are_alike_are_one_loop():
  """Another layer is but its constants."""
  models = [onnx_writer.write(layers(count)) for count in (3, 4)]
  assert [len(loops(model)) for model in models] == [1, 1]
  few, more = (len(list(operators(model))) for model in models)
  assert abs(more - few) < 10  # Stores may be merged otherwise.
  constants = [sum(sizes.parts(layers(count)).values()) for count in (3, 4)]
  more = models[1].ByteSize() - models[0].ByteSize()
  assert more - (constants[1] - constants[0]) < 200


def test_openvino_takes_a_loop_from_memory():
  core = pytest.importorskip('openvino').Core()
  model = onnx_writer.write(layers(3))
  assert loops(model)
  core.read_model(model.SerializeToString())


def test_layers_of_attention_are_no_loop():
  """OpenVINO keeps what a ScatterElements of the pass before has added."""
  assert repeats.find(attentive_layers(3)) is not None
  assert not loops(onnx_writer.write(attentive_layers(3)))


def test_layers_that_differ_are_not():
  assert not loops(onnx_writer.write(layers(2, unlike=True)))
  assert not loops(onnx_writer.write(layers(1)))


def test_a_loop_is_taken_where_it_is_smaller(monkeypatch):
  program = layers(3)
  looped = onnx_writer.write(program)
  monkeypatch.setattr(repeats, 'find', lambda program: None)
  flat = onnx_writer.write(program)
  assert not loops(flat) and looped.ByteSize() < flat.ByteSize()


def test_layers_of_other_bounds_share_the_widest():
  """A bound of one layer alone would drop a Clip that another needs."""
  program = layers(3, start=40.0)
  assert len({program.bounds[f'conv_{k}/prompt'] for k in range(3)}) > 1
  (loop,) = loops(onnx_writer.write(program))
  assert 'Clip' in {node.op_type for node in loop.attribute[0].g.node}
  check(onnxruntime, program, small_graphs())


def test_layers_of_which_the_last_exceed_float32():
  """A bound of the first alone would have it round their largest numbers."""
  b = start()
  x = whole(b, 10)
  for k in range(6):
    bias = np.arange(1, 11, 2)[None] + (k > 1) * (2**24 - 30)
    top = int(bias.max()) + 2**12
    y = b.add(
      'scale',
      f'y_{k}',
      {'a': x},
      {'factor': np.float32(1), 'bias': bias.astype(np.int32)},
      bound=top,
      low=-INT32,
      high=INT32,
    )
    size = b.add('row_max', f'size_{k}', {'a': y}, bound=top)
    ones = {'weight': np.ones((1, FEATURES), np.int8)}
    size = b.add('product', f'largest_{k}', {'a': size}, ones, bound=top)
    minus = {'weight': -np.eye(FEATURES, dtype=np.int8)}
    y = b.add('product', f'minus_{k}', {'a': y}, minus, bound=top)
    gap = b.add('add', f'gap_{k}', {'a': y, 'b': size}, bound=2 * top)
    x = b.add(
      'scale',
      f'x_{k}',
      {'a': gap},
      {'factor': np.float32(1)},
      bound=2**10,
      low=-(2**10),
      high=2**10,
    )
  program = finish(b, x, 2**10)
  assert loops(onnx_writer.write(program))
  check(onnxruntime, program, small_graphs())


def test_product_of_one_output(engine):
  """Its weights are a column, not a row of numbers."""
  rng = np.random.default_rng(16)
  b = start()
  x = b.fix('nodes', 8.0, 40)
  codes = b.quantize('input', x, uniform(6, scale=0.02))
  weight = rng.integers(-60, 61, (40, 1))
  total = b.product('product', codes, weight, np.full(1, 1e-3))
  y = b.widen('result', total)
  program = b.program(y, per_graph=False, num_features=40)
  check(engine, program, [make_graph(rng, [9], 0, features=40)])


def test_table_of_powers_is_a_period():
  table = np.rint(2.0 ** (13 - np.arange(385) / 32)).astype(np.int32)
  table[-1] = 0
  factors, period = onnx_stores.halved(table)
  assert factors.shape == (13, 1) and period.shape == (32,)
  again = np.rint(factors * period).reshape(-1)[:385]
  np.testing.assert_array_equal(again, table)
  for place in (5, 200, 384):
    other = table.copy()
    other[place] += 40
    assert onnx_stores.halved(other) is None


@pytest.mark.parametrize('seed', range(4))
def test_stores_are_merged_for_the_fewest_bytes(seed):
  """As all ways to cut them into neighbours say."""
  rng = np.random.default_rng(seed)
  stores = {}
  for bits in rng.choice(np.arange(1, 13), 5, replace=False).tolist():
    codes = rng.integers(0, 2**bits, (1, int(rng.integers(1, 3000)), 1))
    kind = onnx_stores.Kind(bits, None, 1, shared=False, rows=False)
    zeros = np.zeros(1)
    stores[kind] = [onnx_stores.Entry(f'{bits}', codes, zeros, zeros, False)]
  taken = lambda groups: sum(
    onnx_stores.store_bytes(group[-1][0].bits, group) for group in groups
  )
  parts = sorted(stores.items(), key=lambda item: item[0].bits)
  ways = []
  for cuts in itertools.product((False, True), repeat=len(parts) - 1):
    ends = [k + 1 for k, cut in enumerate(cuts) if cut]
    bounds = list(zip([0, *ends], [*ends, len(parts)], strict=True))
    ways.append(taken([parts[i:j] for i, j in bounds]))
  found = list(onnx_stores.merged(stores))
  assert sorted(e.name for _, used in found for e in used) == sorted(
    k for kind in stores for k in [f'{kind.bits}']
  )
  assert taken([[pair] for pair in found]) == pytest.approx(min(ways))


def test_operations_are_those_of_programs():
  assert list(onnx_ops.OPERATIONS) == list(program_lib.OPERATIONS)


def test_cases_have_all_operations():
  used = {node.op for name in CASES for node in CASES[name]().nodes}
  assert used == set(program_lib.OPERATIONS)


def bytes_of(low, high):
  rng = np.random.default_rng(13)
  b = start()
  q = Codes(narrow(b, 4), np.float64(1), np.zeros(()), 15, FEATURES)
  weight = rng.integers(low, high + 1, (FEATURES, 4000))
  total = b.product('y', q, weight, np.ones(4000))
  program = finish(b, total.name, total.bound, width=4000)
  return len(onnx_writer.write(program).SerializeToString())


@pytest.mark.parametrize(
  'low, high, bits',
  [(0, 1, 1), (-2, 1, 2), (-4, 3, 3), (-7, 8, 4), (-9, 7, 5), (-128, 127, 8)],
)
def test_size_of_weights(low, high, bits):
  assert 0 <= bytes_of(low, high) - bits / 8 * FEATURES * 4000 < 1000


def test_equal_constants_are_there_once():
  def size(labels):
    b = start()
    a = whole(b, 10)
    for label in labels:
      a = b.add(
        'soften',
        label,
        {'a': a},
        {'table': powers().astype(np.int32)},
        bound=2**11,
        share=2**11,
      )
    model = onnx_writer.write(finish(b, a, 2**11))
    names = [t.name for t in model.graph.initializer]
    read = {name for node in operators(model) for name in node.input}
    assert set(names) <= read and len(set(names)) == len(names)
    return model.ByteSize()

  assert size('yz') - size('y') < 500


def test_names():
  program = NETWORKS['gin']()
  assert not onnx_writer.write(program).metadata_props
  model = onnx_writer.write(program, names=True)
  (entry,) = model.metadata_props
  names = json.loads(entry.value)
  assert entry.key == 'names' and program.output in names.values()
  assert set(names.values()) <= {'nodes', *program.bounds}
  assert all(len(short) <= 3 for short in set(names) - {'nodes'})


def test_onnx_is_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnx', None)
  with pytest.raises(ImportError, match=r"pip install 'lorap_jax\[export\]'"):
    onnx_writer.write(NETWORKS['gin']())


def test_numbers_that_engines_round_are_refused():
  with pytest.raises(ValueError, match='31 bits'):
    onnx_writer.write(search_case([-(2**30), 2**30 + 1], 30))
  with pytest.raises(ValueError, match='24 bits'):
    onnx_writer.write(soften_case(table=[2**24], share=1, bits=4))
