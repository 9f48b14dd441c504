import dataclasses
import functools

import helpers
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax import prompts as pure
from lorap_jax.nn import conv, methods, prompts
from lorap_jax.nn.quantized import Quantized

# self_loops, self_loop_weight, existing_loops
LOOPS = {
  'no_loops': (False, 1.0, 'remaining'),
  'remaining': (True, 1.0, 'remaining'),
  'remaining_2': (True, 2.0, 'remaining'),
  'keep': (True, 1.0, 'keep'),
  'keep_2': (True, 2.0, 'keep'),
}
# Three ways to sum, all in full precision.
WAYS = {
  'scaled': layers.Unquantized(),
  'norm': layers.Unquantized(edge_weights=True),
  'edge_messages': layers.Unquantized(edge_messages=True),
}
ALL_WAYS = pytest.mark.parametrize('way', list(WAYS))
QAT = methods.QAT(bits=4)
LORAP = prompts.PromptSpec('lorap', num_prompts=4, rank=2, init='glorot')


@functools.cache
def batch_of(kind='table'):
  return layers.batch_of(layers.graph_list(), kind=kind)


def make(scheme, loops='remaining_2', prompt=None):
  self_loops, weight, existing = LOOPS[loops]
  return conv.GCNConv(
    6,
    scheme,
    prompt or prompts.PromptSpec(),
    self_loops=self_loops,
    self_loop_weight=weight,
    existing_loops=existing,
  )


@functools.cache
def variables_of(layer, train=True):
  variables = layers.init(layer, batch_of(), train=train)
  bias = jnp.linspace(-1.0, 1.0, 6)
  return layers.with_start(variables, 'bias', bias)


def normalized(graph, loops):
  """D^-1/2 (A + C) D^-1/2 and D^-1/2 [n, 1], with D the row sums of A + C."""
  self_loops, weight, existing = LOOPS[loops]
  matrix = layers.adjacency(graph)
  there = np.diag(matrix).copy()
  if self_loops and existing == 'keep':
    matrix += weight * np.eye(len(matrix))
  elif self_loops:
    np.fill_diagonal(matrix, np.where(there > 0, 1, weight))
  degree = matrix.sum(1, keepdims=True)
  scale = np.where(degree > 0, degree, np.inf) ** -0.5
  return scale * matrix * scale.T, scale


def oracle(variables, graph, loops='remaining_2'):
  """The layer in float64, for real nodes only."""
  matrix, _ = normalized(graph, loops)
  params = jax.tree.map(
    lambda v: np.asarray(v, np.float64), variables['params']
  )
  y = matrix @ graph.nodes @ params['dense']['kernel'] + params['bias']
  return y[: layers.REAL]


def test_example_is_hard():
  graph = batch_of().graph
  matrix = layers.adjacency(graph)[: layers.REAL, : layers.REAL]
  there = np.diag(matrix)
  assert (matrix - np.diag(there)).max() > 1, 'duplicate edges'
  assert there.max() > 1 and there.min() == 0, 'duplicate self loops, and none'
  assert np.any(matrix != matrix.T), 'directed'
  assert np.any(matrix.sum(0) + matrix.sum(1) == 0), 'isolated'
  assert np.any((matrix.sum(1) == 0) & (matrix.sum(0) > 0)), 'no incoming'
  assert not np.any(graph.receivers[layers.EDGES :] < layers.REAL), 'padding'


class TestFullPrecision:
  @ALL_WAYS
  @pytest.mark.parametrize('loops', list(LOOPS))
  def test_dense_matrices(self, loops, way):
    layer = make(WAYS[way], loops)
    variables = variables_of(layer)
    out, _, _ = layers.apply(layer, variables, batch_of())
    expected = oracle(variables, batch_of().graph, loops)
    np.testing.assert_allclose(
      out[: layers.REAL], expected, rtol=1e-5, atol=1e-6
    )

  @ALL_WAYS
  @pytest.mark.parametrize('kind', ['none', 'csr'])
  def test_layout(self, way, kind):
    layer = make(WAYS[way])
    variables = variables_of(layer)
    out, _, _ = layers.apply(layer, variables, batch_of(kind))
    expected = oracle(variables, batch_of().graph)
    np.testing.assert_allclose(
      out[: layers.REAL], expected, rtol=1e-5, atol=1e-6
    )

  def test_loops_differ(self):
    variables = variables_of(make(WAYS['scaled']))
    graph = batch_of().graph
    outs = [oracle(variables, graph, loops) for loops in LOOPS]
    for i, one in enumerate(outs):
      for other in outs[i + 1 :]:
        assert np.abs(one - other).max() > 1e-2

  @pytest.mark.parametrize(
    'way, kind',
    [
      ('scaled', 'table'),
      ('norm', 'none'),
      ('norm', 'table'),
      ('edge_messages', 'none'),
      ('edge_messages', 'csr'),
    ],
  )
  def test_gradients(self, way, kind):
    """Those of the dense product, whatever the way to sum."""
    batch = jax.tree.map(jnp.asarray, batch_of(kind))
    layer = make(WAYS[way])
    params = variables_of(layer)['params']
    matrix = normalized(batch.graph, 'remaining_2')[0][: layers.REAL]
    weights = np.random.default_rng(0).normal(size=(layers.REAL, 6))

    def loss(params, x):
      out = layer.apply(
        {'params': params},
        x,
        batch.graph,
        rows=layers.rows_of(batch, train=True),
        layout=batch.layout,
      )
      return jnp.sum(out[: layers.REAL] * jnp.asarray(weights, jnp.float32))

    x = np.asarray(batch.graph.nodes, np.float64)
    d_params, d_x = jax.grad(loss, (0, 1))(params, batch.graph.nodes)
    kernel = np.asarray(params['dense']['kernel'], np.float64)
    for actual, expected in (
      (d_x, matrix.T @ weights @ kernel.T),
      (d_params['dense']['kernel'], (matrix @ x).T @ weights),
      (d_params['bias'], weights.sum(0)),
    ):
      np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

  @ALL_WAYS
  def test_isolated_node_without_loops_has_its_bias(self, way):
    layer = make(WAYS[way], 'no_loops')
    variables = variables_of(layer)
    out, _, _ = layers.apply(layer, variables, batch_of())
    silent = layers.adjacency(batch_of().graph).sum(1)[: layers.REAL] == 0
    expected = np.tile(variables['params']['bias'], (silent.sum(), 1))
    np.testing.assert_array_equal(out[: layers.REAL][silent], expected)


class TestPadding:
  @pytest.mark.parametrize(
    'scheme',
    [QAT, methods.QAT(edge_messages=True)],
    ids=['qat', 'edge_messages'],
  )
  def test_garbage_changes_nothing(self, scheme):
    """Not even the last bit, nor a running range."""
    layer, batch = make(scheme), batch_of()
    variables = variables_of(layer)
    mask = layers.rows_of(batch).mask
    dirty = np.where(mask, batch.graph.nodes, 1e4).astype(np.float32)
    rows = layers.rows_of(batch, train=True)
    one, written, _ = layers.apply(layer, variables, batch, rows=rows)
    other, dirtied, _ = layers.apply(
      layer, variables, batch, rows=rows, nodes=dirty
    )
    np.testing.assert_array_equal(other[: layers.REAL], one[: layers.REAL])
    helpers.assert_trees_close(dirtied, written)


class TestPoints:
  """Each point receives what the points before it have returned."""

  def calls(self, scheme, protected=None):
    layer, batch = make(scheme), batch_of()
    variables = variables_of(layer)
    rows = layers.rows_of(batch, train=True, protected=protected)
    out, _, calls = layers.apply(layer, variables, batch, rows=rows)
    return variables['params'], out, calls

  def test_qat(self):
    graph = batch_of().graph
    params, out, calls = self.calls(QAT)
    dense = ['dense/input', 'dense/weight', 'dense/output']
    assert list(calls) == [*dense, 'message', 'norm', 'neighbor_sum', 'update']
    left, right = calls['dense/input'].values, calls['dense/weight'].values
    edges, own = np.split(calls['norm'].values[:, 0], [len(graph.senders)])
    message = calls['message'].values
    total = own[:, None] * message
    np.add.at(total, graph.receivers, edges[:, None] * message[graph.senders])
    for path, expected in (
      ('dense/input', graph.nodes),
      ('dense/weight', params['dense']['kernel']),
      ('dense/output', left @ right),
      ('message', calls['dense/output'].values),
      ('neighbor_sum', total),
      ('update', calls['neighbor_sum'].values + np.asarray(params['bias'])),
    ):
      np.testing.assert_allclose(
        calls[path].x, expected, rtol=1e-5, atol=1e-5, err_msg=path
      )
    np.testing.assert_array_equal(out, calls['update'].values)

  def test_norm_has_the_weights_of_edges_and_loops(self):
    graph = batch_of().graph
    _, _, calls = self.calls(QAT)
    _, scale = normalized(graph, 'remaining_2')
    product = scale[graph.senders] * scale[graph.receivers]
    # A node with k self loops among its edges has C = 1 - k.
    there = np.diag(layers.adjacency(graph))[:, None]
    loop = np.where(there == 0, 2, 1 - there) * scale**2
    edges, own = np.split(calls['norm'].x, [len(graph.senders)])
    for actual, expected, real in (
      (edges, product, layers.EDGES),
      (own, loop, layers.REAL),
    ):
      np.testing.assert_allclose(actual[:real], expected[:real], rtol=1e-6)
    # Of the self loops, those that are there.
    real = np.arange(28) < layers.REAL
    mask = np.arange(64) < layers.EDGES, real & (loop[:, 0] != 0)
    np.testing.assert_array_equal(calls['norm'].mask[:, 0], np.hstack(mask))
    assert 0 < mask[1].sum() < layers.REAL

  def test_norm_is_on_a_grid(self):
    """16 values at 4 bits; the sum then uses them."""
    _, _, calls = self.calls(QAT)
    real = calls['norm'].values[calls['norm'].mask]
    assert len(np.unique(real)) <= 16 < len(np.unique(calls['norm'].x))

  def test_edge_messages(self):
    """Messages carry their weights; the sender's row is the protected one."""
    graph = batch_of().graph
    protected = np.arange(28)[:, None] % 3 == 0
    scheme = methods.DegreeQuant(edge_messages=True, percentile=0.0)
    _, out, calls = self.calls(scheme, protected)
    h = calls['dense/output'].values
    weights = calls['norm'].values
    call = calls['message']
    assert list(calls)[3:] == ['norm', 'message', 'neighbor_sum', 'update']
    np.testing.assert_allclose(
      call.x, weights * np.concatenate([h[graph.senders], h]), rtol=1e-6
    )
    np.testing.assert_array_equal(call.mask, calls['norm'].mask)
    np.testing.assert_array_equal(
      call.protected, np.concatenate([protected[graph.senders], protected])
    )
    total = call.values[len(graph.senders) :].copy()
    np.add.at(total, graph.receivers, call.values[: len(graph.senders)])
    np.testing.assert_allclose(
      calls['neighbor_sum'].x, total, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(calls['neighbor_sum'].protected, protected)
    np.testing.assert_array_equal(out, calls['update'].values)

  @pytest.mark.parametrize(
    'scheme, names',
    [
      (
        methods.A2QGraph(num_groups=8),
        {'dense/input', 'dense/weight', 'message'},
      ),
      (methods.A2QNode(), {'dense/input', 'dense/weight', 'message'}),
      (methods.FP32(), {'dense/input', 'message'}),
      (
        methods.MixQSearch(),
        {'dense/weight', 'dense/output', 'norm', 'neighbor_sum'},
      ),
    ],
    ids=['a2q', 'a2q_node', 'fp32', 'mixq'],
  )
  def test_names(self, scheme, names):
    assert set(layers.points_of(make(scheme), batch_of())) == names

  def test_quantized_input_is_not_quantized_again(self):
    layer, batch = make(QAT), jax.tree.map(jnp.asarray, batch_of())
    x = Quantized(batch.graph.nodes, 4.0)
    rows = layers.rows_of(batch)
    tree = jax.eval_shape(
      lambda key: layer.init(key, x, batch.graph, rows=rows),
      jax.random.key(0),
    )
    assert set(tree['quant_stats']['dense']) == {'weight', 'output'}

  def test_non_negative_data_has_unsigned_codes(self):
    """What the caller says of x, and the normalisation."""
    for non_negative in (False, True):
      layer = make(QAT).clone(non_negative=non_negative)
      points = layers.points_of(layer, batch_of())
      unsigned = {path for path in points if not points[path].signed}
      assert unsigned == {'norm'} | ({'dense/input'} if non_negative else set())


@pytest.mark.parametrize('edge_messages', [False, True])
def test_eight_bits_are_close_to_full_precision(edge_messages):
  layer = make(methods.QAT(bits=8, edge_messages=edge_messages))
  variables = variables_of(layer)
  rows = layers.rows_of(batch_of(), train=True)
  out, _, _ = layers.apply(layer, variables, batch_of(), rows=rows)
  expected = oracle(variables, batch_of().graph)
  error = np.abs(out[: layers.REAL] - expected).max()
  assert 1e-4 < error < 0.05 * np.abs(expected).max()


class TestPrompt:
  @pytest.mark.parametrize(
    'way, placement',
    [
      ('scaled', 'pre'),
      ('scaled', 'post'),
      ('norm', 'bypass'),
      ('edge_messages', 'pre'),
    ],
  )
  def test_reaches_the_sum(self, way, placement):
    """The prompt of the normalised sum is added to it, and then the bias."""
    spec = dataclasses.replace(LORAP, placement=placement)
    layer = make(WAYS[way], prompt=spec)
    variables = variables_of(layer)
    out, _, _ = layers.apply(layer, variables, batch_of())
    bias = np.asarray(variables['params']['bias'], np.float64)
    s = oracle(variables, batch_of().graph) - bias
    p = variables['params']['prompt']
    prompt = pure.lorap_prompt(
      pure.LoRAPParams(**p, score_down=None), jnp.asarray(s, jnp.float32)
    )
    prompt = np.asarray(prompt)
    assert np.abs(prompt).max() > 0.1
    np.testing.assert_allclose(
      out[: layers.REAL], s + prompt + bias, rtol=1e-4, atol=1e-5
    )

  @pytest.mark.parametrize('placement', prompts.PLACEMENTS)
  def test_meets_the_quantizer_of_the_sum(self, placement):
    layer = make(QAT, prompt=dataclasses.replace(LORAP, placement=placement))
    variables = variables_of(layer)
    rows = layers.rows_of(batch_of(), train=True)
    _, _, calls = layers.apply(layer, variables, batch_of(), rows=rows)
    plain = {**variables, 'params': dict(variables['params'])}
    del plain['params']['prompt']
    _, _, bare = layers.apply(make(QAT), plain, batch_of(), rows=rows)
    p = variables['params']['prompt']
    p = pure.LoRAPParams(**p, score_down=None)
    s = jnp.asarray(bare['neighbor_sum'].x)
    q = jnp.asarray(bare['neighbor_sum'].values)
    bias = np.asarray(variables['params']['bias'])
    into, update = {
      'pre': (s + pure.lorap_prompt(p, s), None),
      'post': (s, q + pure.lorap_prompt(p, q)),
      'bypass': (s, q + pure.lorap_prompt(p, s)),
    }[placement]
    call = calls['neighbor_sum']
    np.testing.assert_allclose(call.x, into, rtol=1e-5, atol=1e-5)
    update = np.asarray(call.values if update is None else update)
    np.testing.assert_allclose(
      calls['update'].x, update + bias, rtol=1e-5, atol=1e-5
    )

  @pytest.mark.parametrize('placement', prompts.PLACEMENTS)
  def test_zero_start_is_exactly_no_prompt(self, placement):
    spec = dataclasses.replace(LORAP, placement=placement, init='zero')
    layer, batch = make(QAT, prompt=spec), batch_of()
    variables = variables_of(layer)
    plain = {**variables, 'params': dict(variables['params'])}
    del plain['params']['prompt']
    rows = layers.rows_of(batch, train=True)
    one, _, _ = layers.apply(make(QAT), plain, batch, rows=rows)
    other, _, _ = layers.apply(layer, variables, batch, rows=rows)
    np.testing.assert_array_equal(other, one)

  @ALL_WAYS
  def test_local_objective_aims_at_unquantized_messages(self, way):
    """Without quantizers the prompt itself is all of the error."""
    spec = dataclasses.replace(LORAP, placement='post', objective='local')
    layer, batch = make(WAYS[way], prompt=spec), batch_of()
    variables = variables_of(layer)
    rows = layers.rows_of(batch, train=True)
    out, written, _ = layers.apply(layer, variables, batch, rows=rows)
    (share,) = jax.tree.leaves(written['local_loss'])
    bias = np.asarray(variables['params']['bias'], np.float64)
    s = oracle(variables, batch.graph) - bias
    error = out[: layers.REAL] - bias - s
    np.testing.assert_allclose(
      share, np.sum(error**2) / np.sum(s**2), rtol=1e-4
    )
