"""Integer programs of whole networks against the networks themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from matrix_test import config_of

from lorap_jax.data import pipeline
from lorap_jax.integers import builder, evaluate, lowering, program
from lorap_jax.quantization import grids
from lorap_jax.runs import settings
from lorap_jax.training import state

CELLS = [
  ('gin', 'qat4', 'gpf_plus', 'graph'),
  ('gin', 'a2q', 'gpf_lorap', 'graph'),
  ('gcn', 'a2q', 'gpf_plus_lorap', 'node'),
  ('gcn', 'mixq', 'lorap', 'node'),
  ('gin', 'qat8', 'none', 'graph'),
]
MORE = [
  ('gin', 'dq4', 'lorap', 'node'),
  ('gcn', 'qat4', 'lorap', 'node'),
  ('gcn', 'dq4', 'none', 'graph'),
  ('gin', 'mixq', 'gpf', 'graph'),
]
ids = lambda cell: '-'.join(cell)


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

  for _ in range(3):  # Ranges and norms settle.
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
@pytest.mark.parametrize('cell', MORE, ids=ids)
def test_more_networks_and_integers(cell):
  test_network_and_integers(cell)


@pytest.mark.parametrize('cell', CELLS, ids=ids)
def test_network_and_integers(cell):
  model, variables, data = seen(cell)
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
  run = jax.jit(
    lambda *arrays: program.execute(
      made, program.Graph(*arrays, graph.num_graphs), xp=jnp
    )
  )
  np.testing.assert_array_equal(run(*graph[:4]), values[made.output])
  text = str(
    jax.make_jaxpr(
      lambda *arrays: program.execute(
        made, program.Graph(*arrays, graph.num_graphs), xp=jnp
      )
    )(*graph[:4])
  )
  # The float32 numbers are multipliers: they are neither summed nor multiplied
  # as matrices.
  for line in text.splitlines():
    if any(op in line for op in ('dot_general', 'scatter-add', 'reduce_sum')):
      assert 'f32' not in line.split('=')[0], line


def test_padding_and_batches_change_nothing():
  model, variables, data = seen(CELLS[1])
  made = lowered(model, variables, data)
  expected = program.execute(made, graph_of(data))
  found = evaluate.outputs(made, data, batch_size=4)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  'cell, changes, message',
  [
    (('gin', 'fp32', 'none', 'graph'), {}, 'full precision .* no integers'),
    (('gin', 'mixq_search', 'none', 'graph'), {}, 'mixture of networks'),
    (('gat', 'a2q', 'none', 'graph'), {}, 'GAT is not exported yet'),
    (
      ('gin', 'qat4', 'none', 'graph'),
      {'scheme__published': True},
      'published=True',
    ),
    (
      ('gin', 'a2q', 'lorap', 'graph'),
      {'prompt__placement': 'post'},
      "placement 'post'",
    ),
    (
      ('gin', 'a2q', 'lorap', 'graph'),
      {
        'prompt__form': 'bias',
        'prompt__rank': None,
        'prompt__num_prompts': None,
      },
      "form 'bias'",
    ),
    (
      ('gin', 'qat4', 'none', 'graph'),
      {'scheme__points': ('input', 'aggregate')},
      'a weight is in full precision',
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
  if 'points' in str(changes):
    model, variables, _ = seen(cell, **changes)
  with pytest.raises(builder.ExportError, match=message):
    lowering.lower(
      model,
      variables,
      num_features=3,
      largest_input=1.0,
      max_degree=4,
      max_nodes=9,
    )


def test_what_could_overflow_is_refused_by_name():
  model, variables, _ = seen(CELLS[0])
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
