"""One superpixel graph on one thread: integers against float engines.

GIN of configs/mnist_a2q_lorap.py with A2Q and GPF-LoRAP at its start, and the
same network in float32: in ONNX Runtime, in C, in PyG (there without prompts).
`int32` is the integer program with every value stored in 32 bits. `arena KB` is
what activations take for 150 nodes and 1,200 edges.
"""

import ctypes
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import child, floats, inputs, output, timing
from configs import mnist_a2q_lorap
from lorap_jax.data import pipeline
from lorap_jax.integers import c_run, c_writer, evaluate, lowering, onnx_writer
from lorap_jax.integers.program import Graph, Program, execute
from lorap_jax.nn import methods
from lorap_jax.runs import settings
from lorap_jax.training import state

_MOST = {'max_nodes': 150, 'max_edges': 1200, 'max_graphs': 1}
_DEGREE = 66
_FLAGS = {'-O3 -march=native': c_run.FAST, '-O2': ('-O2',)}
_BASE = 'C integers, -O3 -march=native'
_PEER = 'PyG FP32'


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: fewer rounds.
    data_dir: folder with real data, or None.
  """
  config = mnist_a2q_lorap.get_config()
  config.data.limit = (128, 8, 8)
  data: Any = inputs.real_or(inputs.superpixels(128), config, data_dir)
  graph = evaluate.first_graphs(data.test, 1)
  model, variables = network(config, data)
  program = lowering.lower(
    model,
    variables,
    num_features=3,
    largest_input=float(np.abs(data.train.nodes).max()),
    max_degree=_DEGREE,
    max_nodes=_MOST['max_nodes'],
  )
  steps = floats.of_gin(variables, model.num_layers)
  expected = full_precision(model, variables, graph)
  with tempfile.TemporaryDirectory() as folder:
    calls, arenas = _in_c(program, steps, graph, expected, pathlib.Path(folder))
  calls.update(_in_onnx(program, steps, graph, expected))
  calls.update(_peer(graph))
  times = timing.measure(calls, rounds=5 if quick else 31)
  rows = []
  for name in calls:
    row: output.Row = {'engine': name, 'data': inputs.origin(data)}
    row.update(timing.columns(times, name, _BASE))
    row['cpu / C floats'] = timing.ratio(
      times[name].cpu, times['C floats, -O3 -march=native'].cpu
    )
    if name in arenas:
      row['arena KB'], row['tables KB'] = (b / 1000 for b in arenas[name])
    rows.append(row)
  if _PEER not in calls:
    rows.append({'engine': _PEER, 'cpu ms': output.MISSING})
  return rows


def network(config: Any, data: Any) -> tuple[Any, Any]:
  """A network and variables that hide no part of it: prompts are not 0."""
  chosen = settings.from_config(config)
  budget = pipeline.joint_budget((data.train,), batch_size=16)
  loader = pipeline.Loader(data.train, budget, layout=True, weighted=True)
  batch = jax.device_put(loader.batch(np.arange(16)))
  model = chosen.model(data.num_classes)
  variables = state.init_state(model, batch, jax.random.key(0)).variables()
  rng = np.random.default_rng(0)
  shaken = lambda path, leaf: (
    leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
    if path[-1].key in ('up', 'prompt', 'eps')
    else leaf
  )
  variables['params'] = jax.tree_util.tree_map_with_path(
    shaken, jax.device_get(variables['params'])
  )
  return model, observed(model, variables, batch)


def observed(model: Any, variables: Any, batch: Any) -> Any:
  """Variables whose ranges and statistics have seen a batch."""
  _, seen = jax.jit(
    lambda variables, batch: model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['quant_stats', 'batch_stats'],
      rngs={name: jax.random.key(1) for name in ('dropout', 'quantization')},
    )
  )(variables, batch)
  return jax.device_get({**variables, **seen})


def full_precision(model: Any, variables: Any, graph: Graph) -> np.ndarray:
  """The outputs of the network without quantizers, by JAX."""
  from jraph import GraphsTuple

  plain = model.clone(
    scheme=methods.FP32(),
    encoder_operand='signed',
    prompt=model.prompt.__class__(name=model.prompt.name),
  )
  one = GraphsTuple(
    nodes=jnp.asarray(graph.nodes),
    edges=None,
    senders=jnp.asarray(graph.senders),
    receivers=jnp.asarray(graph.receivers),
    n_node=jnp.array([len(graph.nodes)]),
    n_edge=jnp.array([len(graph.senders)]),
    globals=None,
  )
  variables = jax.tree.map(jnp.asarray, variables)
  return np.asarray(plain.apply(variables, one, train=False))


def _in_c(
  program: Program,
  steps: list[floats.Step],
  graph: Graph,
  expected: np.ndarray,
  folder: pathlib.Path,
) -> tuple[dict[str, Callable[[], Any]], dict[str, tuple[int, int]]]:
  """Calls of C code that gave the right outputs, and the bytes it takes."""
  if c_run.compiler() is None:
    return {}, {}
  headers = {
    'integers': c_writer.write(program, name='integers', **_MOST),
    'int32': c_writer.write(program, name='int32', narrow=False, **_MOST),
    'floats': floats.header(steps, max_nodes=_MOST['max_nodes']),
  }
  codes, calls, sizes = execute(program, graph), {}, {}
  for label, flags in _FLAGS.items():
    for name, text in headers.items():
      target = folder / f'{name}{label.split()[0]}.so'
      c_run.build({name: text}, target, flags)
      library = ctypes.CDLL(str(target))
      run, found = c_run.function(library, name), np.zeros((1, 10), np.int32)
      _, *bytes_ = (ctypes.c_int64 * 3).in_dll(library, f'{name}_sizes')
      arena = np.zeros(bytes_[0], np.uint8)
      given = (*c_run.arguments(graph), arena, arena.size, found)
      assert run(*given) == 0
      if name == 'floats':
        values = found.view(np.float32)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
      else:
        np.testing.assert_array_equal(found, codes)
      calls[f'C {name}, {label}'] = _bare(library, name, given)
      sizes[f'C {name}, {label}'] = bytes_[0], bytes_[1]
  return calls, sizes


def _bare(library: Any, name: str, given: tuple) -> Callable[[], Any]:
  """The call without the checks of its arguments."""
  function = getattr(
    ctypes.CDLL(library._name, handle=library._handle), name + '_run'
  )
  bare = [
    ctypes.c_void_p(x.ctypes.data) if isinstance(x, np.ndarray) else x
    for x in given
  ]
  bare[-2] = ctypes.c_size_t(given[-2])

  def call():
    function(*bare)
    return given  # Keeps the arrays.

  return call


def _in_onnx(
  program: Program,
  steps: list[floats.Step],
  graph: Graph,
  expected: np.ndarray,
) -> dict[str, Callable[[], Any]]:
  try:
    import onnxruntime
  except ImportError:
    return {}
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1

  def call(model: bytes, feed: dict[str, Any]) -> Callable[[], Any]:
    session = onnxruntime.InferenceSession(
      model, options, providers=['CPUExecutionProvider']
    )
    feed = {i.name: feed[i.name] for i in session.get_inputs()}
    return lambda: session.run(None, feed)

  feed = graph._asdict()
  feed['num_graphs'] = np.array([graph.num_graphs], np.int32)
  integers = call(onnx_writer.write(program).SerializeToString(), feed)
  np.testing.assert_array_equal(integers()[0], execute(program, graph))
  ends = {k: feed[k].astype(np.int64) for k in ('senders', 'receivers')}
  reals = call(floats.onnx_model(steps), {**feed, **ends})
  np.testing.assert_allclose(reals()[0], expected, rtol=1e-4, atol=1e-4)
  return {'ONNX Runtime FP32': reals, 'ONNX Runtime integers': integers}


def _peer(graph: Graph) -> dict[str, Callable[[], Any]]:
  if not child.installed():
    return {}
  import torch

  from benchmarks import peer

  torch.set_num_threads(1)
  model = peer.GIN(graph.nodes.shape[1], 10).eval()
  data = peer.one_graph(graph.nodes, graph.senders, graph.receivers)

  def call():
    with torch.inference_mode():
      return model(data).numpy()

  return {_PEER: call}
