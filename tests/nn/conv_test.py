import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile import as_users_run  # noqa: F401

from lorap_jax import graphs
from lorap_jax.nn import conv, methods, prompts, telemetry
from lorap_jax.nn.quantized import Rows

BUDGET = graphs.Budget(32, 64, 7, 16)


def batch_and_rows():
  batch = graphs.batch_graphs(
    helpers.random_graphs(1, features=4), np.zeros(5, int), BUDGET
  )
  return batch, Rows(graphs.node_mask(batch.graph)[:, None])


def test_full_precision_gin_layer(key):
  """(1 + eps) x + A x, then Dense, norm and ReLU twice, in numpy."""
  batch, rows = batch_and_rows()
  layer = conv.GINConv(8, methods.FP32())
  x = jnp.asarray(batch.graph.nodes)
  call = {'rows': rows._replace(train=True), 'layout': batch.layout}
  variables = layer.init(key, x, batch.graph, **call)
  variables['params']['eps'] = jnp.float32(0.25)
  out, _ = layer.apply(
    variables, x, batch.graph, mutable=['batch_stats'], **call
  )

  adjacency = np.zeros((32, 32))
  np.add.at(adjacency, (batch.graph.receivers, batch.graph.senders), 1)
  h = (1.25 * batch.graph.nodes + adjacency @ batch.graph.nodes)[:18]
  for i in range(2):
    dense = variables['params'][f'dense_{i}']
    h = h @ np.asarray(dense['kernel'], np.float64) + np.asarray(dense['bias'])
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    h = np.maximum(h, 0)
  np.testing.assert_allclose(out[:18], h, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  'scheme, bits',
  [(methods.FP32(), 32), (methods.A2QGraph(bits=3, num_groups=16), 3)],
)
def test_neighbor_sum_is_reported_over_real_edges(key, scheme, bits):
  batch, rows = batch_and_rows()
  x = jnp.asarray(batch.graph.nodes)
  layer = conv.GINConv(8, scheme)
  init = jax.jit(lambda key: layer.init(key, x, batch.graph, rows=rows))
  variables = init(key)
  run = jax.jit(
    lambda given: layer.apply(
      given, x, batch.graph, rows=rows, mutable=[telemetry.COLLECTION]
    )
  )
  _, sown = run({k: variables[k] for k in ('params', 'batch_stats')})
  report = sown[telemetry.COLLECTION]['sum']
  assert report.additions == 54 * 4  # 54 edges, 4 features.
  assert report.bit_ops == 54 * 4 * bits


def test_aggregate_is_an_integer_sum_of_messages(key):
  """The node's own term is its message as well: one grid serves both."""
  batch, rows = batch_and_rows()
  x = jnp.asarray(batch.graph.nodes)
  layer = conv.GINConv(8, methods.A2QGraph(num_groups=16))
  variables = jax.jit(lambda key: layer.init(key, x, batch.graph, rows=rows))(
    key
  )
  params = variables['params']
  received = []

  def record(function, args, kwargs, context):
    if (context.module.name, context.method_name) == ('aggregate', '__call__'):
      received.append(args[0])
    return function(*args, **kwargs)

  for eps in (0.0, 1.0):
    params['eps'] = jnp.float32(eps)
    with nn.intercept_methods(record):
      layer.apply(
        {'params': params, 'batch_stats': variables['batch_stats']},
        x,
        batch.graph,
        rows=rows,
      )
  scale = params['message']['scale'][None]
  codes = [np.asarray(s / scale)[:18] for s in received]
  assert np.abs(codes[0]).max() > 7  # More than one message.
  for values in codes:
    # Up to some ten float32 additions.
    np.testing.assert_allclose(values, np.round(values), atol=1e-4)
  own = np.round(codes[1] - codes[0])
  message = np.round(np.clip(batch.graph.nodes / scale, -7, 7))[:18]
  # Ties go elsewhere in numpy, but there are none here.
  np.testing.assert_array_equal(own, message)


def test_prompt_and_quantizer_meet_the_prompted_aggregate(key):
  """A large prompt vector on zero features is what dense_0 receives."""
  batch, rows = batch_and_rows()
  x = jnp.zeros((32, 4))
  spec = prompts.PromptSpec('lorap', num_prompts=1, rank=1)
  layer = conv.GINConv(8, methods.FP32(), spec)
  variables = layer.init(key, x, batch.graph, rows=rows)
  params = variables['params']
  params['prompt']['down'] = jnp.ones((1, 1))
  params['prompt']['up'] = jnp.asarray([[1.0, -2.0, 3.0, 0.5]])
  _, state = layer.apply(
    variables,
    x,
    batch.graph,
    rows=rows,
    capture_intermediates=lambda module, _: module.name == 'dense_0',
  )
  out = state['intermediates']['dense_0']['__call__'][0]
  dense = params['dense_0']
  expected = jnp.asarray([1.0, -2.0, 3.0, 0.5]) @ dense['kernel']
  np.testing.assert_allclose(
    out[0], expected + dense['bias'], rtol=1e-5, atol=1e-6
  )
  assert jax.tree.all(jax.tree.map(np.all, np.isfinite(out)))


LAYERS = (
  lambda **how: conv.GCNConv(8, methods.FP32(), **how),
  lambda **how: conv.GINConv(8, methods.FP32(), **how),
  lambda **how: conv.GATConv(8, methods.FP32(), heads=2, **how),
)


@pytest.mark.usefixtures('as_users_run')
@pytest.mark.parametrize('make', LAYERS, ids=['gcn', 'gin', 'gat'])
@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize(
  'change, message',
  [
    ({'senders': jnp.zeros((3, 1), jnp.int32)}, r'senders` is int32 \(3, 1\)'),
    ({'receivers': jnp.ones(64)}, r'receivers` is float32 \(64,\); give int'),
    ({'senders': jnp.zeros(3, jnp.int32)}, '3 senders and 64 receivers'),
    ({'n_node': None}, r'`graph.n_node` is object None; give integers'),
    ('x', r'`x` has shape \(32,\); give numbers \[nodes, features\]'),
    ('mask', r'`rows.mask` has shape \(32,\) for the 32 rows of x; give'),
  ],
)
def test_a_layer_alone_refuses_no_graph(key, make, jit, change, message):
  batch, rows = batch_and_rows()
  x, graph = jnp.asarray(batch.graph.nodes), batch.graph
  if change == 'x':
    x = x[:, 0]
  elif change == 'mask':
    rows = rows._replace(mask=rows.mask[:, 0])
  else:
    graph = graph._replace(**change)
  run = lambda x, graph: make().init(key, x, graph, rows=rows)
  with pytest.raises(ValueError, match=message):
    (jax.jit(run) if jit else run)(x, graph)


def test_heads_that_do_not_divide_the_features(key):
  batch, rows = batch_and_rows()
  layer = conv.GATConv(8, methods.FP32(), heads=3)
  with pytest.raises(ValueError, match='`heads` must divide `features` = 8, g'):
    layer.init(key, jnp.asarray(batch.graph.nodes), batch.graph, rows=rows)
