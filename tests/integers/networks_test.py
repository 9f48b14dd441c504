"""Integer programs of whole networks against the networks themselves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from matrix_test import config_of

from lorap_jax.data import pipeline
from lorap_jax.integers import (
  builder,
  evaluate,
  layers,
  lowering,
  parts,
  program,
)
from lorap_jax.nn import conv, methods
from lorap_jax.quantization import grids
from lorap_jax.runs import settings
from lorap_jax.training import state

# Cells, and what they change. Those without observed ranges are not trained.
CELLS = [
  (('gin', 'a2q', 'gpf_lorap', 'graph'), {}),
  (('gcn', 'a2q', 'gpf_plus_lorap', 'node'), {}),
  (
    ('gcn', 'mixq', 'lorap', 'node'),
    {'prompt__placement': 'bypass', 'prompt__form': 'adapter'},
  ),
  (('gat', 'qat8', 'gpf_lorap', 'node'), {}),
  (
    ('gat', 'a2q', 'lorap', 'graph'),
    {
      'prompt__placement': 'post',
      'model__encoder': 'embedding',
      'model__encoder_operand': None,
    },
  ),
]
MORE = [
  (('gin', 'qat4', 'gpf_plus', 'graph'), {}),
  (('gin', 'dq4', 'lorap', 'node'), {}),
  (('gin', 'qat8', 'none', 'graph'), {}),
  (('gin', 'mixq', 'gpf', 'graph'), {}),
  (('gin', 'a2q', 'lorap', 'graph'), {'prompt__placement': 'bypass'}),
  (
    ('gin', 'a2q', 'lorap', 'graph'),
    {
      'prompt__placement': 'post',
      'prompt__form': 'bias',
      'prompt__rank': None,
      'prompt__num_prompts': None,
    },
  ),
  (('gcn', 'qat4', 'lorap', 'node'), {}),
  (('gcn', 'dq4', 'none', 'graph'), {}),
  (('gcn', 'mixq', 'lorap', 'node'), {}),
  (
    ('gcn', 'a2q', 'gpf', 'graph'),
    {
      'model__encoder': 'embedding',
      'model__encoder_operand': None,
      'model__residual': True,
    },
  ),
]
GAT = [
  (('gat', quantizer, prompt, task), {})
  for quantizer in ('qat4', 'qat8', 'dq4', 'a2q', 'mixq')
  for prompt in ('none', 'gpf', 'gpf_plus', 'lorap', 'gpf_lorap')
  for task in ('node', 'graph')
]
ids = lambda part: '-'.join(part) if isinstance(part, tuple) else ''


def seen(cell, **changes):
  """A network that has seen its data: model, variables and data."""
  config = config_of(*cell)
  for path, value in changes.items():
    group, name = path.split('__')
    config[group][name] = value
  chosen = settings.from_config(config)
  if cell[-1] == 'node':
    data = tiny_run.node_data()
    batch = pipeline.WholeGraph(data, 'test', layout=True, weighted=True)
    batch = batch.batch()
  else:
    data = tiny_run.dataset(3, 9)
    if config.model.encoder == 'embedding':
      types = np.arange(len(data.nodes)) % 28
      data = data._replace(nodes=types[:, None].astype(np.float32))
    budget = pipeline.joint_budget((data,), batch_size=16)
    loader = pipeline.Loader(data, budget, layout=True, weighted=True)
    batch = loader.batch(np.arange(9))
  batch = jax.device_put(batch)
  model = chosen.model(3)
  variables = state.init_state(model, batch, jax.random.key(0)).variables()
  rng = np.random.default_rng(1)
  # Prompts start at zero, which would hide them.
  variables['params'] = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf + 0.3 * np.float32(rng.normal(size=leaf.shape))
      if path[-1].key in ('up', 'prompt', 'eps')
      else leaf
    ),
    variables['params'],
  )

  @jax.jit
  def apply(variables, batch):
    return model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['quant_stats', 'batch_stats'],
      rngs={name: jax.random.key(1) for name in ('dropout', 'quantization')},
    )

  for _ in range(3 * ('quant_stats' in variables)):  # Ranges settle.
    _, new = apply(variables, batch)
    variables = {**variables, **new}
  return model, variables, data


def graph_of(data):
  if hasattr(data, 'num_graphs'):
    return evaluate.first_graphs(data, data.num_graphs)
  return evaluate.graph_of_nodes(data)


def lowered(model, variables, data):
  graph = graph_of(data)
  return lowering.lower(
    model,
    variables,
    num_features=graph.nodes.shape[1],
    largest_input=float(np.abs(graph.nodes).max()),
    max_degree=int(np.bincount(graph.receivers).max()),
    max_nodes=int(np.bincount(graph.graph_of).max()),
  )


def outputs_of(model, variables, graph):
  from jraph import GraphsTuple

  counts = np.bincount(graph.graph_of, minlength=graph.num_graphs)
  whole = GraphsTuple(
    nodes=jnp.asarray(graph.nodes),
    edges=None,
    senders=jnp.asarray(graph.senders),
    receivers=jnp.asarray(graph.receivers),
    n_node=jnp.asarray(counts.astype(np.int32)),
    n_edge=jnp.asarray(
      np.bincount(
        graph.graph_of[graph.receivers], minlength=graph.num_graphs
      ).astype(np.int32)
    ),
    globals=None,
  )
  return jax.jit(lambda v, g: model.apply(v, g, train=False))(variables, whole)


@pytest.mark.slow
@pytest.mark.parametrize('cell, changes', MORE + GAT, ids=ids)
def test_more_networks_and_integers(cell, changes):
  test_network_and_integers(cell, changes)


@pytest.mark.parametrize('cell, changes', CELLS, ids=ids)
def test_network_and_integers(cell, changes):
  model, variables, data = seen(cell, **changes)
  made, graph = lowered(model, variables, data), graph_of(data)
  values = program.execute(made, graph, keep=True)
  # Bounds hold, and all but multipliers are whole.
  for node in made.nodes:
    value, bound = values[node.output], made.bounds[node.output]
    assert value.dtype == (np.int32 if bound else np.float32), node.output
    assert not bound or np.abs(value.astype(np.int64)).max() <= bound
  found = values[made.output] * made.output_scale
  expected = np.asarray(outputs_of(model, variables, graph))
  assert found.shape == expected.shape and expected.std() > 1e-3
  # Codes flip where float32 sums round the other way, here in few rows.
  error = np.abs(found - expected).max(1) / expected.std()
  # A2Q's ranges are shortened too.
  assert np.median(error) < (0.2 if cell[1] == 'a2q' else 0.05), error
  # NumPy and JAX, compiled, agree in every bit.
  traced = jax.jit(
    lambda *arrays: program.execute(
      made, program.Graph(*arrays, graph.num_graphs), xp=jnp
    )
  ).trace(*graph[:4])
  run = traced.lower().compile()
  np.testing.assert_array_equal(run(*graph[:4]), values[made.output])
  text = str(traced.jaxpr)
  # The float32 numbers are multipliers: they are neither summed nor multiplied
  # as matrices.
  for line in text.splitlines():
    if any(op in line for op in ('dot_general', 'scatter-add', 'reduce_sum')):
      assert 'f32' not in line.split('=')[0], line


def test_padding_and_batches_change_nothing():
  model, variables, data = seen(CELLS[0][0])
  made = lowered(model, variables, data)
  expected = program.execute(made, graph_of(data))
  found = evaluate.outputs(made, data, batch_size=4)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  'cell, changes, message',
  [
    (('gin', 'fp32', 'none', 'graph'), {}, 'full precision .* no integers'),
    (('gin', 'mixq_search', 'none', 'graph'), {}, 'mixture of networks'),
    (
      ('gin', 'qat4', 'none', 'graph'),
      {'scheme__published': True},
      'published=True',
    ),
  ],
)
def test_what_has_no_integers_is_refused(cell, changes, message):
  config = config_of(*cell)
  for path, value in changes.items():
    group, name = path.split('__')
    config[group][name] = value
  model = settings.from_config(config).model(3)
  variables = {'params': {}}
  with pytest.raises(builder.ExportError, match=message):
    lowering.lower(
      model,
      variables,
      num_features=3,
      largest_input=1.0,
      max_degree=4,
      max_nodes=9,
    )


# A builder, variables and a value, of which nothing is read.
NOTHING = (
  builder.Builder(max_degree=1, max_nodes=1),
  parts.Place({}, {}, {}),
  builder.Wide('x', 1.0, 1, 3),
)


def test_self_loops_of_other_weights_are_refused():
  layer = conv.GCNConv(4, methods.QAT(), self_loop_weight=2.0)
  with pytest.raises(builder.ExportError, match='weight 2.0'):
    layers.LAYERS[type(layer)](NOTHING[0], layer, *NOTHING[1:])


@pytest.mark.parametrize('point', ['weight', 'attention'])
def test_weights_in_full_precision_are_refused(point):
  scheme = methods.QAT(points=('input', 'logits'))
  with pytest.raises(
    builder.ExportError, match=f'leaves out the point .{point}'
  ):
    parts.weight_of(NOTHING[0], scheme, NOTHING[1], point=point)


def test_quantizers_without_a_grid_are_refused():
  class Scheme(methods.QAT):
    def quantizer(self, point, *, non_negative):
      return nn.Dense(3)

  with pytest.raises(builder.ExportError, match='Dense has no method `grid`'):
    parts.grid_at(NOTHING[0], Scheme(), 'input', NOTHING[1])


def test_real_zero_points_and_scales_of_rows_have_sums():
  """In 16 bits: the error is that of the sum of so many steps."""
  b = builder.Builder(max_degree=40, max_nodes=5)
  x = b.fix('nodes', 2.0, 2)
  rng = np.random.default_rng(0)
  grid = grids.UniformGrid(np.array([0.1, 0.2]), np.array([0.3, -1.4]), -8, 7)
  columns = b.quantize('columns', x, grid)
  limit = np.array([7, 3, 1, 7, 7])
  rows = b.quantize('rows', x, grids.RowGrid(rng.uniform(0.1, 0.3, 5), limit))
  ends = rng.integers(0, 5, (2, 40)).astype(np.int32)
  ends[1] = 0
  nodes = rng.normal(size=(5, 2)).astype(np.float32)
  graph = program.Graph(nodes, *ends, np.zeros(5, np.int32), 1)
  for codes in (columns, rows):
    values = b.widen('values', codes)
    total = b.widen('sum', b.neighbor_sum('neighbors', codes))
    made = b.program(total, per_graph=False, num_features=2)
    found = program.execute(made, graph, keep=True)
    one = found[values.name] * values.unit
    expected = one[ends[0]].sum(0)
    error = np.abs(found[total.name][0] * total.unit - expected)
    assert np.all(error < 40 * 2.0**-14), error


@pytest.mark.parametrize('loops', [0, 1])
@pytest.mark.parametrize('slope', [0.2, 0.7])
def test_attention_is_that_of_floats(loops, slope):
  """Of the same codes: what is left is the table's 1 / 64 of an octave."""
  rng = np.random.default_rng(0)
  b = builder.Builder(max_degree=40, max_nodes=9)
  x = b.fix('nodes', 2.0, 6)
  four = b.product('four', b.operand('x', x), np.eye(6, 4), np.full(4, 3.0))
  scores = b.widen('scores', four)
  grid = grids.UniformGrid(np.asarray(0.05), np.asarray(9), -127, 127)
  message = b.quantize('message', x, grid)
  logits = []
  for kind in range(1 + loops):
    codes = b.quantize('logits', b.meet('met', scores, loops=kind), grid)
    logits.append(b.leaky_logits('leaky', codes, slope))
  y = b.widen('sum', b.attend('attended', message, *logits))
  made = b.program(y, per_graph=False, num_features=6)
  nodes = rng.uniform(-1.5, 1.5, (9, 6)).astype(np.float32)
  ends = rng.integers(0, 9, (2, 40)).astype(np.int32)
  ends[1] %= 6  # Some have no edges, others edges of their own.
  graph = program.Graph(nodes, *ends, np.zeros(9, np.int32), 1)
  found = program.execute(made, graph) * made.output_scale

  on_grid = lambda v: 0.05 * (np.clip(np.rint(v / 0.05 + 9), -127, 127) - 9)
  m, s = on_grid(nodes).reshape(9, 2, 3), 3.0 * nodes[:, :4]
  expected = np.zeros((9, 2, 3))
  for i in range(9):
    senders = list(ends[0][ends[1] == i])
    senders += [i] if loops and i not in senders else []
    if senders:
      z = on_grid(s[senders, :2] + s[i, 2:])
      p = np.exp(np.where(z > 0, z, slope * z))
      shares = p / p.sum(0)
      expected[i] = (shares[:, :, None] * m[senders]).sum(0)
  np.testing.assert_allclose(found, expected.reshape(9, 6), atol=0.02)
  assert np.abs(expected).mean() > 0.3


def test_shares_of_a_row_add_up_to_twice_the_whole_at_most():
  """The worst that rint can do, and a hub as large as a share."""
  one = np.zeros(1, np.int32)
  for power, count in ((2, 2730), (1, 8191), (3, 5000)):
    edges = np.zeros(count, np.int32)
    graph = program.Graph(np.zeros((1, 1), np.float32), edges, edges, one, 1)
    shares = program.OPERATIONS['shares'](
      np,
      graph,
      np.full((count, 1), power, np.int32),
      np.full((1, 1), count * power, np.int32),
      share=4096,
    )
    assert shares.sum() <= 2 * 4096


def test_what_could_overflow_is_refused_by_name():
  model, variables, _ = seen(CELLS[0][0])
  with pytest.raises(builder.ExportError, match='conv_0/neigh.* in-degree'):
    lowering.lower(
      model,
      variables,
      num_features=3,
      largest_input=1.0,
      max_degree=2**30,
      max_nodes=9,
    )


def test_codes_of_nine_bits_and_weights_of_more_than_eight():
  """Non-negative features have one bit more inside: codes up to 255."""
  made = builder.Builder(max_degree=1, max_nodes=1)
  grid = grids.GroupGrid(np.array([0.125]), np.array([255]), np.array([32.0]))
  codes = made.quantize('input', made.fix('nodes', 31.875, 1), grid)
  graph = evaluate.Graph(
    np.array([[31.875], [-3.75]], np.float32), *np.zeros((3, 0), np.int32), 1
  )
  nodes = made.program(
    made.widen('out', codes), per_graph=False, num_features=1
  )
  values = program.execute(nodes, graph, keep=True)
  np.testing.assert_array_equal(values[codes.name][:, 0], [255, -30])
  with pytest.raises(builder.ExportError, match='more than 8 bits'):
    made.product('product', codes, np.array([[128]]), np.ones(1))
