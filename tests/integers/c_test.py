"""The C of integer programs gives the codes of the reference, in every bit."""

import ctypes
import dataclasses
import shutil
import struct
import subprocess

import c_programs
import numpy as np
import pytest

from lorap_jax.integers import c_ops, c_run, c_strips, c_tables, c_writer
from lorap_jax.integers.builder import Builder, Wide
from lorap_jax.integers.program import EXACT, INT32, OPERATIONS, Graph, execute

needs_compiler = pytest.mark.skipif(
  c_run.compiler() is None, reason='there is no C compiler named cc'
)
MOST = {
  'max_nodes': c_programs.MAX_NODES,
  'max_edges': c_programs.MAX_EDGES,
  'max_graphs': c_programs.MAX_GRAPHS,
}
ARENA_TOO_SMALL, NEGATIVE, NODES, EDGES, GRAPHS = range(1, 6)
FEATURE, EDGE, GRAPH_OF, DEGREE, TOGETHER, TYPE = range(6, 12)
GUARD = 64


class Library:
  """Some programs, compiled together."""

  def __init__(self, programs, folder, flags=('-O1',), *, cc='cc', change=None):
    self.programs = programs
    headers = written(programs, change)
    target = folder / 'programs.so'
    c_run.build(headers, target, flags, cc=cc)
    self._library = ctypes.CDLL(str(target))

  def run(self, name, graph, *, arena=None, changes=None):
    """The error, and the result between guards that nothing may touch.

    Args:
      name: of the program.
      graph: on what to run it.
      arena: bytes of it to use; else all that it asks for.
      changes: arguments to replace, by their places.
    """
    program = self.programs[name]
    outputs, needed, _ = (ctypes.c_int64 * 3).in_dll(
      self._library, f'{name}_sizes'
    )
    rows = graph.num_graphs if program.per_graph else len(graph.nodes)
    # Neither aligned nor clean.
    rng = np.random.default_rng(len(graph.nodes))
    around = rng.integers(0, 256, GUARD + 1 + needed + GUARD, dtype=np.uint8)
    before = around.copy()
    inner = slice(GUARD + 1, GUARD + 1 + needed)
    out = np.full(GUARD + rows * outputs + GUARD, -77, np.int32)
    arguments = list(c_run.arguments(graph))
    for place, value in (changes or {}).items():
      arguments[place] = value
    code = c_run.function(self._library, name)(
      *arguments,
      around[inner],
      needed if arena is None else needed + arena,
      out[GUARD:],
    )
    around[inner] = before[inner] = 0
    np.testing.assert_array_equal(around, before)
    result = out[GUARD : GUARD + rows * outputs]
    assert np.all(out[:GUARD] == -77)
    assert np.all(out[GUARD + rows * outputs :] == -77)
    if code:
      assert np.all(result == -77)
    return code, result.reshape(rows, outputs)


def written(programs, change=None):
  change = change or (lambda text: text)
  return {
    name: change(c_writer.write(program, name=name, **MOST))
    for name, program in programs.items()
  }


_EXPECTED = {}


def reference(program, graph):
  """`execute`, once for the same arguments."""
  key = id(program), id(graph)
  if key not in _EXPECTED:
    with np.errstate(over='ignore'):
      # With what it belongs to: else another may get the same id.
      _EXPECTED[key] = execute(program, graph), program, graph
  return _EXPECTED[key][0]


def assert_same(library, graphs):
  for name, program in library.programs.items():
    for label, graph in graphs.items():
      code, result = library.run(name, graph)
      assert code == 0, (name, label)
      expected = reference(program, graph)
      np.testing.assert_array_equal(result, expected, f'{name} on {label}')


@pytest.fixture(scope='module')
def library(tmp_path_factory):
  folder = tmp_path_factory.mktemp('c')
  more = {
    'small': c_programs.small(),
    'typed': c_programs.typed(np.random.default_rng(0)),
  }
  return Library(c_programs.all_programs() | more, folder)


def of_names(library, *names):
  programs = {name: library.programs[name] for name in names}
  part = object.__new__(Library)
  part.__dict__.update(library.__dict__, programs=programs)
  return part


def test_every_operation_is_written():
  assert set(c_ops.OPERATIONS) == set(OPERATIONS)


def test_the_programs_of_the_tests_have_every_operation_and_option():
  programs = [*c_programs.all_programs().values(), c_programs.small()]
  nodes = [node for program in programs for node in program.nodes]
  assert {node.op for node in nodes} == set(OPERATIONS)
  found = {
    (node.op, key) for node in nodes for key in (*node.inputs, *node.constants)
  }
  assert {
    ('scale', 'row'),
    ('scale', 'limit'),
    ('scale', 'bias'),
    ('product', 'bias'),
    ('sum_edges', 'weight'),
    ('max_into', 'b'),
  } <= found
  assert any(node.options.get('drop_loops') for node in nodes)
  assert {n.options['keep'] for n in nodes if n.op == 'add_loops'} == {0, 1}


@needs_compiler
def test_codes_are_those_of_the_reference(library):
  names = set(library.programs) - {'small', 'typed'}
  assert_same(of_names(library, *names), c_programs.graphs(8))
  rng = np.random.default_rng(3)
  graphs = {
    name: c_programs.with_types(rng, graph)
    for name, graph in c_programs.graphs(8).items()
  }
  assert_same(of_names(library, 'typed'), graphs)


def small_graphs(count):
  """Features that are ties, huge, tiny, and next to the ends of ranges."""
  rng = np.random.default_rng(2)
  special = np.float32(
    [0.5, 1.5, 2.5, -0.5, -1.5, 2**23 + 1, 2**24 - 1, 2**24, 3e38, 1e-45, 0.25]
  )
  special = np.concatenate(
    [special, -special, np.nextafter(special, np.float32(0))]
  )
  for i in range(count):
    sizes = rng.integers(0, 5, 4)
    n = int(sizes.sum())
    graph = c_programs.graph(rng, list(sizes), 0)
    # Three edges into each node, which is as many as this program allows.
    receivers = np.repeat(np.arange(n), 3)
    yield (
      f'small_{i}',
      graph._replace(
        nodes=rng.choice(special, graph.nodes.shape),
        senders=rng.integers(0, max(n, 1), 3 * n).astype(np.int32),
        receivers=receivers.astype(np.int32),
      ),
    )


@needs_compiler
def test_ends_of_ranges(library):
  assert_same(of_names(library, 'small'), dict(small_graphs(60)))


@needs_compiler
def test_rint_is_that_of_numpy(tmp_path):
  more = """
  void rint_all(const float *x, int count, int32_t *y);
  void rint_all(const float *x, int count, int32_t *y) {
    int i;
    for (i = 0; i < count; i++) y[i] = lorap_rint(x[i], LORAP_LARGEST);
  }"""
  target = tmp_path / 'rint.so'
  programs = {'small': c_programs.small()}
  c_run.build(written(programs), target, ('-O2',), more=more)
  rng = np.random.default_rng(0)
  halves = np.arange(-(2**15), 2**15, dtype=np.float32) / 2
  bits = rng.integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
  near = (2.0 ** rng.uniform(20, 25, 2**16)).astype(np.float32)
  x = np.concatenate(
    [
      halves,
      np.nextafter(halves, np.float32(np.inf)),
      np.nextafter(halves, np.float32(-np.inf)),
      near,
      np.rint(near) + np.float32(0.5),
      bits[np.isfinite(bits)],
      np.float32([np.inf, -np.inf, -0.0]),
    ]
  )
  y = np.zeros(len(x), np.int32)
  pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
  ctypes.CDLL(str(target)).rint_all(pointer(x), len(x), pointer(y))
  expected = np.clip(np.rint(x), np.float32(-(2**24)), np.float32(2**24))
  np.testing.assert_array_equal(y, expected.astype(np.int32))


ROUND_ALL = """
  void round_all(const float *f, float row, const float *factor,
                 const int32_t *bias, int32_t low, int32_t high, int blocks,
                 int32_t *q);
  void round_all(const float *f, float row, const float *factor,
                 const int32_t *bias, int32_t low, int32_t high, int blocks,
                 int32_t *q) {
    volatile int32_t none = 0;
    lorap_rounding r;
    int i, j;
    r.most = LORAP_EXACT;
    r.least = -r.most;
    r.sums = 1;
    r.low = low;
    r.high = high;
    r.none = none;
    memcpy(r.factor, factor, sizeof r.factor);
    memcpy(r.bias, bias, sizeof r.bias);
    for (i = 0; i < blocks; i++)
      for (j = 0; j < LORAP_BLOCK; j += LORAP_LANES)
        lorap_round(f + i * LORAP_BLOCK + j, row, &r, j,
                    q + i * LORAP_BLOCK + j);
  }"""


@pytest.fixture(
  scope='module',
  params=[
    ('-O2',),
    # Contracts products and sums, where the processor has such an operation.
    ('-O3', '-march=native', '-std=gnu99', '-ffp-contract=fast'),
  ],
  ids=['strict', 'contracting'],
)
def round_all(request, tmp_path_factory):
  target = tmp_path_factory.mktemp('round') / 'round.so'
  programs = {'small': c_programs.small()}
  c_run.build(written(programs), target, request.param, more=ROUND_ALL)
  return ctypes.CDLL(str(target)).round_all


# The bounds of codes and of wide values, where a bias leaves one result, and
# where the ends of a rint are nearer.
@needs_compiler
@pytest.mark.parametrize(
  'most, bias',
  [
    (7, 3),
    (2**21, 2**21 - 1),
    (2**22, 1),
    (2**23, 9_664),
    (2**24, 5),
    (7, 2**25),
    (2**30, 2**29),
  ],
)
@pytest.mark.parametrize('row', [1.0, 0.37])
def test_rounding_is_that_of_numpy(round_all, row, most, bias):
  rng = np.random.default_rng(most % 97)
  row = np.float32(row)
  factor = np.float32(2.0) ** rng.integers(-3, 4, 128).astype(np.float32)
  factor[::2] *= rng.uniform(0.5, 1, 64).astype(np.float32)
  signs = rng.choice([-1, 1], 128)
  biases = (bias * signs).astype(np.int32)
  # Ties, the ends with and without their bias, what overflows, and -0.
  ends = rng.choice([-most, most], (40, 128)) - biases
  halves = rng.integers(-40, 41, (40, 128)) / 2
  wanted = np.concatenate(
    [halves, ends + halves, rng.normal(0, most, (9, 128))]
  )
  with np.errstate(over='ignore'):
    f = (wanted / factor / row).astype(np.float32)
    f = np.concatenate([f, np.full((1, 128), 3e38), np.full((1, 128), -0.0)])
    f = np.ascontiguousarray(f, np.float32)
    x = (f * row) * factor
  assert x.dtype == np.float32
  end = np.float32(2**24 - 1)
  whole = np.clip(np.rint(x), -end, end).astype(np.int64)
  expected = np.clip(whole + biases, -most, most)
  q = np.zeros(f.shape, np.int32)
  pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
  round_all(
    pointer(f),
    ctypes.c_float(row),
    pointer(factor),
    pointer(biases),
    -most,
    most,
    len(f),
    pointer(q),
  )
  np.testing.assert_array_equal(q, expected)


def a_graph(sizes=(2, 3)) -> Graph:
  return c_programs.graph(np.random.default_rng(0), list(sizes), 6)


def with_feature(value):
  graph = a_graph()
  graph.nodes[-1, -1] = value
  return graph


def index(*values):
  return np.int32(values)


E6 = index(0, 1, 2, 3, 4, 0)
REFUSED = {
  'arena': (ARENA_TOO_SMALL, a_graph(), {}, -1),
  'negative_nodes': (NEGATIVE, a_graph(), {4: -1}, None),
  'negative_edges': (NEGATIVE, a_graph(), {5: -1}, None),
  'negative_graphs': (NEGATIVE, a_graph(), {6: -1}, None),
  'least_number': (NEGATIVE, a_graph(), {4: -(2**31)}, None),
  'nodes': (NODES, a_graph(), {4: MOST['max_nodes'] + 1}, None),
  'most_nodes': (NODES, a_graph(), {4: INT32}, None),
  'edges': (EDGES, a_graph(), {5: MOST['max_edges'] + 1}, None),
  'graphs': (GRAPHS, a_graph(), {6: MOST['max_graphs'] + 1}, None),
  'nan': (FEATURE, with_feature(np.nan), {}, None),
  'infinity': (FEATURE, with_feature(-np.inf), {}, None),
  'sender': (EDGE, a_graph(), {1: E6 + 1}, None),
  'negative_sender': (EDGE, a_graph(), {1: E6 - 1}, None),
  'receiver': (EDGE, a_graph(), {2: E6 + 1}, None),
  'negative_receiver': (EDGE, a_graph(), {2: E6 - 1}, None),
  'order': (GRAPH_OF, a_graph(), {3: index(0, 1, 0, 1, 1)}, None),
  'graph': (GRAPH_OF, a_graph(), {3: index(0, 0, 1, 1, 2)}, None),
  'negative_graph': (GRAPH_OF, a_graph(), {3: index(-1, 0, 1, 1, 1)}, None),
  'no_graph': (GRAPH_OF, a_graph(), {6: 0}, None),
}


@needs_compiler
@pytest.mark.parametrize('program', ['gin_mean', 'gcn_edges', 'small'])
@pytest.mark.parametrize('case', REFUSED)
def test_a_bad_call_is_refused(library, case, program):
  error, graph, changes, arena = REFUSED[case]
  code, _ = library.run(program, graph, arena=arena, changes=changes)
  assert code == error


@needs_compiler
def test_what_bounds_do_not_cover_is_refused(library):
  rng = np.random.default_rng(0)
  four = c_programs.graph(
    rng, [2], 0, senders=[0, 1, 0, 0], receivers=[1, 1, 1, 1]
  )
  assert library.run('small', four)[0] == DEGREE
  fewer = four._replace(senders=four.senders[:3], receivers=four.receivers[:3])
  assert library.run('small', fewer)[0] == 0
  none = np.zeros(0, np.int32)
  assert library.run('small', c_programs.graph(rng, [1, 4], 0))[0] == 0
  large = c_programs.graph(rng, [1, 5], 0, senders=none, receivers=none)
  assert library.run('small', large)[0] == TOGETHER


@needs_compiler
@pytest.mark.parametrize('value', [-1, 0.5, 7, 6.5, 2.0**31, 3e38])
def test_what_is_no_type_is_refused(library, value):
  rng = np.random.default_rng(0)
  graph = c_programs.with_types(rng, a_graph())
  graph.nodes[-1, 0] = 6
  assert library.run('typed', graph)[0] == 0
  graph.nodes[-1, 0] = value
  assert library.run('typed', graph)[0] == TYPE


@needs_compiler
def test_errors_have_the_numbers_of_the_header(tmp_path):
  names = [
    'OK',
    'ARENA_TOO_SMALL',
    'NEGATIVE_COUNT',
    'TOO_MANY_NODES',
    'TOO_MANY_EDGES',
    'TOO_MANY_GRAPHS',
    'BAD_FEATURE',
    'BAD_EDGE',
    'BAD_GRAPH_OF',
    'DEGREE_TOO_LARGE',
    'GRAPH_TOO_LARGE',
    'BAD_TYPE',
  ]
  for number, name in enumerate(names):
    assert f'LORAP_{name} = {number}' in c_tables.ENGINE


@needs_compiler
def test_a_compiled_program_runs_and_refuses():
  program = c_programs.small()
  compiled = c_run.Compiled(program, **MOST, flags=('-O0',))
  graph = a_graph()
  graph = graph._replace(receivers=E6)
  np.testing.assert_array_equal(compiled(graph), execute(program, graph))
  with pytest.raises(c_run.RunError) as error:
    compiled(graph._replace(senders=E6 + 1))
  assert error.value.code == EDGE


@pytest.mark.parametrize('bits', range(1, 9))
def test_weights_are_packed_in_as_few_bits_as_they_need(bits):
  rng = np.random.default_rng(0)
  weight, _ = c_programs.weights(rng, 136, 9, bits)
  blocks, found = c_tables.weight_blocks(weight)
  assert found == bits
  tables = c_tables.Tables('t')
  tables.add_bytes(blocks, bits)
  assert tables.bytes == 9 * (128 + 8) * bits / 8


def test_weights_of_nine_bits_are_refused():
  with pytest.raises(ValueError, match='more than 8 bits'):
    c_tables.weight_blocks(np.array([[128]]))


@pytest.mark.parametrize('name', ['Model', '1a', 'a b', 'a;', '', 'lorap_x'])
def test_a_name_that_c_does_not_allow_is_refused(name):
  with pytest.raises(ValueError, match='lower-case name'):
    c_writer.write(c_programs.small(), name=name, **MOST)


def test_a_maximum_that_no_count_has_is_refused():
  with pytest.raises(ValueError, match='maximum'):
    c_writer.write(c_programs.small(), **MOST | {'max_edges': -1})


def refused_program(add):
  b = Builder(max_degree=3, max_nodes=4)
  x = b.fix('nodes', 1.0, 2).name
  last = add(b, x)
  return b.program(Wide(last, 1.0, 1, 1), per_graph=False, num_features=2)


@pytest.mark.parametrize(
  'add, message',
  [
    (
      lambda b, x: b.add('lookup', 'y', {'a': x}, {'table': np.int32([1])}),
      'outside of its table',
    ),
    (
      lambda b, x: b.add('search', 'y', {'a': x}, {'thresholds': index(2, 1)}),
      'not in order',
    ),
    (
      lambda b, x: b.add(
        'product', 'y', {'a': x}, {'weight': np.full((2, 1), 10**6)}, bound=9
      ),
      'could reach',
    ),
    (
      lambda b, x: b.add(
        'scale',
        'y',
        {'a': x},
        {'factor': np.float32(np.inf)},
        bound=1,
        low=0,
        high=1,
      ),
      'not finite',
    ),
    (
      lambda b, x: b.add(
        'scale',
        'y',
        {'a': x},
        {'factor': np.float32(1), 'bias': index(INT32 - EXACT + 1)},
        bound=1,
        low=0,
        high=1,
      ),
      'overflows',
    ),
    (
      lambda b, x: b.add(
        'add', 'y', {'a': x, 'b': b.add('row_max', 'm', {'a': x})}
      ),
      'do not fit',
    ),
    (
      lambda b, x: b.add(
        'quotient', 'y', dict.fromkeys('ab', b.add('row_max', 'm', {'a': x}))
      ),
      'divide by 0',
    ),
    (lambda b, x: b.add('fix', 'y', {'x': x}), 'another type'),
    (lambda b, x: b.add('pool_share', 'y', {}), 'no whole numbers'),
    (lambda b, x: b.add('pool_max', 'y', {'a': x}), 'another kind'),
    (
      lambda b, x: b.add(
        'powers',
        'y',
        {'a': b.add('relu', 'a', {'a': x}), 'b': x},
        {'table': index(1)},
        loops=1,
      ),
      'may exceed',
    ),
    (lambda b, x: b.add('sum_into', 'y', {'a': x}), 'no sum of edges'),
    (lambda b, x: 'nodes', 'no whole numbers'),
  ],
)
def test_a_program_that_c_cannot_hold_is_refused(add, message):
  with pytest.raises(ValueError, match=message):
    c_writer.write(refused_program(add), **MOST)


def test_a_program_without_scales_for_all_nodes_takes_fewer():
  rng = np.random.default_rng(0)
  b = Builder(max_degree=3, max_nodes=4)
  x = b.fix('nodes', 1.0, 2)
  x = b.widen('y', b.quantize('codes', x, c_programs.by_row(rng, 7)))
  x = b.relu('relu', dataclasses.replace(x, unit=1.0))
  text = c_writer.write(b.program(x, per_graph=False, num_features=2), **MOST)
  assert '#define MODEL_MAX_NODES 7\n' in text


# A program that reads graphs and writes results: for code of 32 bits, and for
# sanitizers, which Python does not load.
MAIN = """
#include <stdio.h>
#include <stdlib.h>

typedef int run_type(const float *, const int32_t *, const int32_t *,
                     const int32_t *, int, int, int, void *, size_t, int32_t *);

static void *numbers(int count) { /* just as long as they are */
  void *read = malloc((size_t)count * 4);
  if (count && fread(read, 4, (size_t)count, stdin) != (size_t)count) exit(3);
  return read;
}

static void one(run_type *run, int features, size_t bytes, size_t values,
                const int32_t *head) {
  int n = head[1], e = head[2], g = head[3];
  float *nodes = numbers(n * features);
  int32_t *senders = numbers(e), *receivers = numbers(e), *of = numbers(n);
  void *arena = malloc(bytes);
  int32_t *out = malloc(values * 4);
  int32_t error;
  memset(arena, 0x5a, bytes);
  error = run(nodes, senders, receivers, of, n, e, g, arena, bytes, out);
  fwrite(&error, 4, 1, stdout);
  if (!error) fwrite(out, 4, values, stdout);
  free(nodes);
  free(senders);
  free(receivers);
  free(of);
  free(arena);
  free(out);
}

int main(void) {
  int32_t head[4];
  while (fread(head, 4, 4, stdin) == 4) {
    CASES
  }
  return 0;
}
"""
CASE = """if (head[0] == {i})
      one({name}_run, {upper}_FEATURES, {upper}_ARENA_BYTES,
          (size_t)head[{upper}_PER_GRAPH ? 3 : 1] * {upper}_OUTPUTS, head);"""


def run_program(programs, graphs, folder, flags, *, cc='cc'):
  """Asserts that a program of its own gives the codes of the reference."""
  cases = [
    CASE.format(i=i, name=name, upper=name.upper())
    for i, name in enumerate(programs)
  ]
  target = folder / 'main'
  c_run.build(
    written(programs),
    target,
    flags,
    cc=cc,
    more=MAIN.replace('CASES', '\n    '.join(cases)),
  )
  given, expected = [], []
  for i, program in enumerate(programs.values()):
    for graph in graphs.values():
      arrays = c_run.arguments(graph)
      given += [struct.pack('=4i', i, *arrays[4:])]
      given += [array.tobytes() for array in arrays[:4]]
      expected += [b'\0' * 4, reference(program, graph).tobytes()]
  done = subprocess.run([target], input=b''.join(given), capture_output=True)
  assert done.returncode == 0, done.stderr.decode()
  got, wanted = (
    np.frombuffer(x, np.int32) for x in (done.stdout, b''.join(expected))
  )
  np.testing.assert_array_equal(got, wanted)


def require(tmp_path, flags, cc='cc'):
  """Skips the test where the compiler does not make programs like this."""
  if shutil.which(cc) is None:
    pytest.skip(f'there is no C compiler named {cc}')
  source = tmp_path / 'empty.c'
  source.write_text('#include <stdio.h>\nint main(void) { return 0; }\n')
  target = str(tmp_path / 'empty')
  command = [cc, *flags, str(source), '-o', target]
  if subprocess.run(command, capture_output=True).returncode:
    pytest.skip(f'{cc} has no {" ".join(flags)}')
  if subprocess.run([target], capture_output=True).returncode:
    pytest.skip(f'what {cc} makes with {" ".join(flags)} does not run here')


SANITIZED = ('-fsanitize=address,undefined', '-fno-sanitize-recover=all')


def a_few():
  programs = c_programs.all_programs()
  return {k: programs[k] for k in ('gin_mean', 'gcn', 'gcn_edges_keep', 'gat')}


def without_hubs(graphs):
  return {k: v for k, v in graphs.items() if 'hub' not in k}


def test_sanitizers_find_nothing(tmp_path):
  flags = ('-O1', *SANITIZED)
  require(tmp_path, flags)
  run_program(a_few(), without_hubs(c_programs.graphs(3)), tmp_path, flags)


def test_registers_of_80_bits_give_the_same_codes(tmp_path):
  flags = ('-O2', '-m32', '-mfpmath=387', '-fexcess-precision=fast')
  require(tmp_path, flags)
  run_program(a_few(), without_hubs(c_programs.graphs(3)), tmp_path, flags)


NATIVE = ('-O3', '-march=native')


@pytest.mark.slow
@pytest.mark.parametrize('cc', ['cc', 'clang'])
@pytest.mark.parametrize(
  'flags',
  [
    ('-O0',),
    ('-O1', *SANITIZED),
    ('-O3', '-march=native', *SANITIZED),
    ('-O2',),
    ('-Os',),
    NATIVE,
    (*NATIVE, '-ffp-contract=fast'),
    ('-std=gnu99', '-O3', '-march=native'),
    ('-std=gnu17', '-O3', '-march=native'),
    ('-O0', '-m32'),
    ('-O1', '-m32', *SANITIZED),
    ('-O3', '-m32', '-msse2', '-mfpmath=sse'),
    ('-O3', '-m32', '-mno-sse'),
    ('-std=gnu99', '-O3', '-m32', '-mno-sse'),
    ('-O0', '-m32', '-mfpmath=387'),
    ('-O3', '-mfpmath=387'),
    ('-O3', '-flto'),
  ],
  ids=' '.join,
)
def test_all_compilers_and_flags_give_the_same_codes(tmp_path, flags, cc):
  require(tmp_path, flags, cc)
  programs = c_programs.all_programs()
  run_program(programs, c_programs.graphs(20), tmp_path, flags, cc=cc)
  programs = {'small': c_programs.small()}
  run_program(programs, dict(small_graphs(60)), tmp_path, flags, cc=cc)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize('flags', [('-O1',), NATIVE])
def test_every_value_is_that_of_the_reference(tmp_path, flags):
  for name, program in c_programs.all_programs().items():
    folder = tmp_path / name
    folder.mkdir()
    programs = c_programs.with_every_value({name: program})
    library = Library(programs, folder, flags)
    for graph in without_hubs(c_programs.graphs(10)).values():
      values = execute(program, graph, keep=True)
      for key, part in programs.items():
        code, result = library.run(key, graph)
        assert code == 0
        np.testing.assert_array_equal(result, values[part.output], key)


@pytest.mark.slow
@needs_compiler
def test_hundreds_of_graphs(library):
  graphs = without_hubs(c_programs.graphs(400))
  assert_same(of_names(library, *c_programs.all_programs()), graphs)


BROKEN = {
  'half_up': ('((rest == 0.5f) & t)', '(rest == 0.5f)'),
  'half_down': (' | ((rest == 0.5f) & t)', ''),
  'order_of_factors': (
    'float x = LORAP_F32(f[lane] * row); /* of no row: of 1, exact */\n'
    '    x = LORAP_F32(x * factor[lane]);',
    'float x = LORAP_F32(f[lane] * LORAP_F32(row * factor[lane]));',
  ),
  'cut': ('q[lane] = t < high ? t : high;', 'q[lane] = t;'),
  'sum': ('x + 12582912.0f', 'x + 12582911.0f'),
  'bias': ('q[lane] + bias[lane]', 'q[lane]'),
  'least': ('x = x > least ? x : least;', ''),
  'loops': ('if (drop_loops && from == to) continue;', ''),
  'ties_of_search': ('if (least <= x)', 'if (least < x)'),
  'block': ('k += LORAP_BLOCK', 'k += LORAP_BLOCK + 1'),
  'sign': ('(int16_t)(w[j] - (1 << (bits - 1)))', 'w[j]'),
  'field': ('& mask) << done', '& mask) << 1'),
  'fraction': ('<< (code >> t.fraction)', '<< (code >> 4)'),
  'known': ('known[index] : lorap_whole(t, index)', 'known[index] : 0'),
  'shift': ('x * ((int32_t)1 << shift)', 'x'),
  'padding': ('(depth + 15) / 16', 'depth / 16'),
  'first_of_graph': ('|| own[-1] != own[0]', ''),
  'strip': ('(size_t)first * row', '0 * row'),
  'index': ('lorap_put(y, (size_t)i, first + i)', 'lorap_put(y, (size_t)i, i)'),
  'end_of_row': ('lorap_keep(y, first + (size_t)end, last);', ';'),
  'in_place': (
    'lorap_keep(y, first + (size_t)end, last);',
    '{ lorap_floats(a, x, first + (size_t)end, f);'
    ' lorap_round(f, row, r, end, last);'
    ' lorap_keep(y, first + (size_t)end, last); }',
  ),
  'kept_loops': ('if (keep) return;', ''),
  'share': ('count = end - start > 1', 'count = end - start > 2'),
  'weight': ('weight ? lorap_get(*weight, (size_t)i * heads + k) : 1', '1'),
  'quotient': ('LORAP_F32(over * inverse)', 'LORAP_F32(over / under)'),
  'reciprocal': ('part = LORAP_F32(part * inverse);', 'part /= (float)total;'),
  'halves': ('lorap_at(graph->receivers, i, loops) + heads', '0'),
  'sender': (
    '2 * heads * lorap_at(graph->senders',
    '0 * lorap_at(graph->senders',
  ),
  'head': ('weight, (size_t)i * heads + k)', 'weight, (size_t)i * heads)'),
  'peak': ('if (x > 0) lorap_put(y, j, x);', 'lorap_put(y, j, x + 700);'),
  'total': ('lorap_get(y, to + j) +', 'lorap_get(y, to) +'),
  'edge_share': (
    'part = LORAP_F32(part * inverse);\n      part',
    'part /= total;\n      part',
  ),
  'last_power': ('below < last ? below : last', 'below < 9 ? below : 9'),
}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_executor_is_found(tmp_path, name):
  old, new = BROKEN[name]

  def change(text):
    assert old in text
    return text.replace(old, new)

  programs = c_programs.all_programs() | {'small': c_programs.small()}
  library = Library(programs, tmp_path, ('-O0', '-w'), change=change)
  graphs = without_hubs(c_programs.graphs(20))
  with pytest.raises(AssertionError):
    assert_same(of_names(library, *c_programs.all_programs()), graphs)
    assert_same(of_names(library, 'small'), dict(small_graphs(60)))


def test_what_depends_on_edges_alone_comes_first_and_once():
  b = Builder(max_degree=9, max_nodes=9)
  b.fix('nodes', 1.0, 2)
  degrees = [b.add('degrees', f'd{i}', {}, bound=9) for i in range(3)]
  sums = [
    b.add('add', 's', {'a': d, 'b': degrees[0]}, bound=18) for d in degrees
  ]
  nodes = c_strips.order(b.nodes, sums[2])
  assert [n.op for n in nodes] == ['degrees', 'add', 'add', 'fix']
  # The result keeps its name, and reads the first of its equals.
  assert nodes[2].output == sums[2]
  assert set(nodes[2].inputs.values()) == {degrees[0]}
