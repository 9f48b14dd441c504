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

# Fields of a layer; features are 6 throughout.
FORMS = {
  'concat': {'heads': 3},
  'mean': {'heads': 2, 'concat': False},
  'no_loops': {'heads': 3, 'self_loops': False},
  'steep': {'heads': 3, 'negative_slope': 0.9},
}
ALL_FORMS = pytest.mark.parametrize('form', list(FORMS))
QAT = methods.QAT(bits=4)
LORAP = prompts.PromptSpec('lorap', num_prompts=4, rank=2, init='glorot')


@functools.cache
def batch_of(kind='table'):
  return layers.batch_of(layers.graph_list(), kind=kind)


def make(form='concat', scheme=None, prompt=None, **changes):
  return conv.GATConv(
    6,
    scheme or methods.FP32(),
    prompt or prompts.PromptSpec(),
    **{**FORMS[form], **changes},
  )


@functools.cache
def variables_of(layer):
  variables = layers.init(layer, batch_of())
  bias = jnp.linspace(-1.0, 1.0, 6)
  return layers.with_start(variables, 'bias', bias)


def attention(layer, params, graph, seen, summed):
  """Heads [n, h, f] by a loop over nodes: scores of `seen` weigh `summed`."""
  vectors = np.asarray(params['attention_kernel'], np.float64)
  vectors = vectors.reshape(vectors.shape[0], layer.heads, 2)
  seen, summed = (
    np.asarray(v, np.float64).reshape(len(v), layer.heads, -1)
    for v in (seen, summed)
  )
  score = np.einsum('nhf,fhk->knh', seen, vectors)
  total = np.zeros_like(summed)
  for node in range(len(seen)):
    senders = list(graph.senders[graph.receivers == node])
    if layer.self_loops and node not in senders:
      senders.append(node)
    if senders:
      z = score[0, senders] + score[1, node]
      powers = np.exp(np.where(z > 0, z, layer.negative_slope * z))
      share = powers / powers.sum(0)
      total[node] = np.einsum('eh,ehf->hf', share, summed[senders])
  return total


def oracle(layer, variables, graph):
  """The layer without quantizers and prompts, for real nodes only."""
  params = variables['params']
  kernel = np.asarray(params['dense']['kernel'], np.float64)
  m = graph.nodes @ kernel
  s = attention(layer, params, graph, m, m)
  s = s.reshape(len(s), -1) if layer.concat else s.mean(1)
  return s[: layers.REAL] + np.asarray(params['bias'], np.float64)


class TestFullPrecision:
  @ALL_FORMS
  def test_loop_over_nodes(self, form):
    layer = make(form)
    variables = variables_of(layer)
    out, _, _ = layers.apply(layer, variables, batch_of())
    expected = oracle(layer, variables, batch_of().graph)
    np.testing.assert_allclose(
      out[: layers.REAL], expected, rtol=1e-5, atol=1e-5
    )

  @pytest.mark.parametrize('form', ['concat', 'mean'])
  @pytest.mark.parametrize('kind', ['none', 'csr'])
  def test_layout(self, form, kind):
    layer = make(form)
    variables = variables_of(layer)
    one, _, _ = layers.apply(layer, variables, batch_of())
    other, _, _ = layers.apply(layer, variables, batch_of(kind))
    np.testing.assert_allclose(
      other[: layers.REAL], one[: layers.REAL], rtol=1e-5, atol=1e-6
    )

  def test_forms_of_the_parameters(self):
    spec = helpers.tree_spec(variables_of(make('mean'))['params'])
    assert spec == {
      'dense/kernel': (4, 12),
      'attention_kernel': (6, 4),
      'bias': (6,),
    }
    spec = helpers.tree_spec(variables_of(make('concat'))['params'])
    assert spec == {
      'dense/kernel': (4, 6),
      'attention_kernel': (2, 6),
      'bias': (6,),
    }

  def test_isolated_nodes(self):
    """Their own message with a self loop, and nothing without."""
    graph = batch_of().graph
    alone = layers.adjacency(graph).sum(1)[: layers.REAL] == 0
    assert alone.sum() >= 4
    for form in ('concat', 'no_loops'):
      layer = make(form)
      variables = variables_of(layer)
      out, _, _ = layers.apply(layer, variables, batch_of())
      params = jax.tree.map(np.asarray, variables['params'])
      expected = graph.nodes @ params['dense']['kernel'] + params['bias']
      if form == 'no_loops':
        expected = np.broadcast_to(params['bias'], expected.shape)
      np.testing.assert_allclose(
        out[: layers.REAL][alone],
        expected[: layers.REAL][alone],
        rtol=1e-5,
        atol=1e-6,
      )

  def test_permuted_nodes(self):
    layer = make()
    variables = variables_of(layer)
    graph = helpers.random_graph(np.random.default_rng(4), 20, 50, features=4)
    graph = graph._replace(nodes=graph.nodes.astype(np.float32))
    rng = np.random.default_rng(0)
    order = rng.permutation(20)
    permuted = graph._replace(
      nodes=graph.nodes[order],
      senders=np.argsort(order)[graph.senders].astype(np.int32),
      receivers=np.argsort(order)[graph.receivers].astype(np.int32),
    )
    one, _, _ = layers.apply(layer, variables, layers.batch_of([graph]))
    other, _, _ = layers.apply(layer, variables, layers.batch_of([permuted]))
    np.testing.assert_allclose(
      other[:20], one[:20][order], rtol=1e-5, atol=1e-6
    )
    assert np.abs(other[:20] - one[:20]).max() > 0.1

  @pytest.mark.parametrize(
    'form, kind', [('concat', 'none'), ('no_loops', 'table')]
  )
  def test_gradients_are_finite(self, form, kind):
    """Also with logits of a thousand and garbage in the padding."""
    batch = jax.tree.map(jnp.asarray, batch_of(kind))
    layer = make(form)
    rows = layers.rows_of(batch, train=True)
    params = jax.tree.map(lambda v: 30 * v, variables_of(layer)['params'])
    nodes = jnp.where(rows.mask, batch.graph.nodes, 1e6)

    def loss(params, nodes):
      out = layer.apply(
        {'params': params},
        nodes,
        batch.graph,
        rows=rows,
        layout=batch.layout,
      )
      return jnp.sum(jnp.where(rows.mask, out, 0) ** 2)

    grads, d_nodes = jax.jit(jax.grad(loss, (0, 1)))(params, nodes)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
      assert np.all(np.isfinite(leaf)) and np.any(leaf), path
    assert np.all(np.isfinite(d_nodes)) and not np.any(d_nodes[layers.REAL :])

  def test_gradients_by_differences(self):
    batch = jax.tree.map(jnp.asarray, batch_of())
    layer = make()
    params = variables_of(layer)['params']
    rows = layers.rows_of(batch, train=True)

    def loss(params):
      out = layer.apply(
        {'params': params},
        batch.graph.nodes,
        batch.graph,
        rows=rows,
        layout=batch.layout,
      )
      return jnp.sum(jnp.sin(out[: layers.REAL]))

    def in_float64(params):
      out = oracle(layer, {'params': params}, batch_of().graph)
      return np.sum(np.sin(out))

    grads = jax.jit(jax.grad(loss))(params)
    params = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda v: rng.normal(size=v.shape), params)
    ends = [
      in_float64(jax.tree.map(lambda v, d, h=h: v + h * d, params, direction))
      for h in (1e-5, -1e-5)
    ]
    slope = sum(
      np.sum(np.asarray(g, np.float64) * d)
      for g, d in zip(
        jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True
      )
    )
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


class TestPadding:
  def test_garbage_changes_nothing(self):
    """Not even the last bit, nor a running range."""
    layer, batch = make(scheme=QAT), batch_of()
    variables = variables_of(layer)
    rows = layers.rows_of(batch, train=True)
    dirty = np.where(rows.mask, batch.graph.nodes, 1e4).astype(np.float32)
    one, written, _ = layers.apply(layer, variables, batch, rows=rows)
    other, dirtied, _ = layers.apply(
      layer, variables, batch, rows=rows, nodes=dirty
    )
    np.testing.assert_array_equal(other[: layers.REAL], one[: layers.REAL])
    helpers.assert_trees_close(dirtied, written)


class TestDropout:
  def run(self, *, train, seed=None, rate=0.5):
    layer = make(attention_dropout=rate)
    rows = layers.rows_of(batch_of(), train=train)
    rngs = None if seed is None else {'dropout': jax.random.key(seed)}
    variables = variables_of(make())
    out, _, _ = layers.apply(layer, variables, batch_of(), rows=rows, rngs=rngs)
    return out[: layers.REAL]

  def test_off_at_evaluation(self):
    np.testing.assert_array_equal(
      self.run(train=False), self.run(train=False, rate=0.0)
    )

  def test_drops_coefficients_in_training(self):
    """What is left of a node's only coefficient is 0 or 2, for each head."""
    one, other = self.run(train=True, seed=1), self.run(train=True, seed=2)
    assert np.abs(one - other).max() > 0.1
    graph = batch_of().graph
    alone = layers.adjacency(graph).sum(1)[: layers.REAL] == 0
    params = jax.tree.map(np.asarray, variables_of(make())['params'])
    message = (graph.nodes @ params['dense']['kernel'])[: layers.REAL][alone]
    share = (one[alone] - params['bias']) / message
    np.testing.assert_allclose(
      share, np.where(share > 1, 2, 0), rtol=1e-4, atol=1e-4
    )
    heads = share.reshape(len(share), 3, 2)
    np.testing.assert_allclose(heads[..., 0], heads[..., 1], atol=1e-3)
    assert 0 < np.mean(share > 1) < 1


class TestPoints:
  """Each point receives what the points before it have returned."""

  def calls(self, form, scheme=QAT):
    layer, batch = make(form, scheme), batch_of()
    variables = variables_of(layer)
    protected = np.arange(28)[:, None] % 3 == 0
    rows = layers.rows_of(batch, train=True, protected=protected)
    out, _, calls = layers.apply(layer, variables, batch, rows=rows)
    return layer, variables['params'], out, calls

  @pytest.mark.parametrize('form', ['concat', 'mean'])
  def test_qat(self, form):
    graph = batch_of().graph
    layer, params, out, calls = self.calls(form)
    assert list(calls) == [
      'dense/input',
      'dense/weight',
      'dense/output',
      'message',
      'attention',
      'logits',
      'neighbor_sum',
      'update',
    ]
    message = calls['message'].values
    m = message.reshape(28, layer.heads, -1)
    vectors = calls['attention'].values.reshape(m.shape[2], layer.heads, 2)
    score = np.einsum('nhf,fhk->knh', m, vectors)
    ends = [graph.senders, graph.receivers]
    if layer.self_loops:
      ends = [np.concatenate([v, np.arange(28)]) for v in ends]
    total = calls['neighbor_sum'].values
    if not layer.concat:
      total = total.reshape(28, layer.heads, -1).mean(1)
    for path, expected in (
      ('message', calls['dense/output'].values),
      ('attention', params['attention_kernel']),
      ('logits', score[0, ends[0]] + score[1, ends[1]]),
      ('update', total + np.asarray(params['bias'])),
    ):
      np.testing.assert_allclose(
        calls[path].x, expected, rtol=1e-5, atol=1e-5, err_msg=path
      )
    np.testing.assert_array_equal(out, calls['update'].values)

  def test_softmax_takes_the_quantized_logits(self):
    graph = batch_of().graph
    _, _, _, calls = self.calls('concat')
    logits, edges = calls['logits'].values, len(graph.senders)
    assert len(np.unique(logits)) <= 16
    m = calls['message'].values.reshape(28, 3, 2)
    z = np.where(logits > 0, logits, 0.2 * logits)
    for node in (0, 3, 17, 20):
      used = np.flatnonzero(graph.receivers == node)
      senders = list(graph.senders[used])
      if node not in senders:
        used, senders = np.append(used, edges + node), [*senders, node]
      powers = np.exp(z[used].astype(np.float64))
      s = np.einsum('eh,ehf->hf', powers / powers.sum(0), m[senders])
      np.testing.assert_allclose(
        calls['neighbor_sum'].x[node], s.ravel(), rtol=1e-5, atol=1e-5
      )

  def test_rows_of_the_logits(self):
    """Real edges, and the self loops that are missing; none is protected."""
    graph = batch_of().graph
    _, _, _, calls = self.calls('concat', methods.DegreeQuant(percentile=0.0))
    missing = (np.diag(layers.adjacency(graph)) == 0)[: layers.REAL]
    real = np.arange(64) < layers.EDGES
    expected = np.hstack([real, missing, np.zeros(6, bool)])
    np.testing.assert_array_equal(calls['logits'].mask[:, 0], expected)
    assert calls['logits'].protected is None
    assert calls['message'].protected is not None

  @pytest.mark.parametrize(
    'scheme, missing',
    [
      (
        methods.A2QGraph(num_groups=8),
        {'dense/output', 'neighbor_sum', 'update'},
      ),
      (methods.A2QNode(), {'dense/output', 'neighbor_sum', 'update'}),
      (
        methods.MixQ(points=methods.MIXQ_POINTS['gat']),
        {'dense/input', 'message', 'logits', 'update'},
      ),
    ],
    ids=['a2q', 'a2q_node', 'mixq'],
  )
  def test_names(self, scheme, missing):
    every = set(layers.points_of(make(scheme=QAT), batch_of()))
    names = set(layers.points_of(make(scheme=scheme), batch_of()))
    assert names == every - missing

  def test_non_negative_data_has_unsigned_codes(self):
    points = layers.points_of(make(scheme=QAT, non_negative=True), batch_of())
    unsigned = {path for path in points if not points[path].signed}
    assert unsigned == {'dense/input'}


class TestPrompt:
  @pytest.mark.parametrize('form', ['concat', 'mean'])
  def test_reaches_the_sum_of_all_heads(self, form):
    layer = make(form, prompt=LORAP)
    variables = variables_of(layer)
    out, _, _ = layers.apply(layer, variables, batch_of())
    params = variables['params']
    kernel = np.asarray(params['dense']['kernel'], np.float64)
    graph = batch_of().graph
    m = graph.nodes @ kernel
    s = attention(layer, params, graph, m, m)
    flat = jnp.asarray(s.reshape(len(s), -1), jnp.float32)
    p = pure.LoRAPParams(**params['prompt'], score_down=None)
    y = np.asarray(flat + pure.lorap_prompt(p, flat))
    if form == 'mean':
      y = y.reshape(s.shape).mean(1)
    expected = (y + np.asarray(params['bias']))[: layers.REAL]
    np.testing.assert_allclose(
      out[: layers.REAL], expected, rtol=1e-4, atol=1e-5
    )

  @pytest.mark.parametrize('placement', prompts.PLACEMENTS)
  def test_zero_start_is_exactly_no_prompt(self, placement):
    spec = dataclasses.replace(LORAP, placement=placement, init='zero')
    layer, batch = make(scheme=QAT, prompt=spec), batch_of()
    variables = variables_of(layer)
    plain = {**variables, 'params': dict(variables['params'])}
    del plain['params']['prompt']
    rows = layers.rows_of(batch, train=True)
    one, _, _ = layers.apply(make(scheme=QAT), plain, batch, rows=rows)
    other, _, _ = layers.apply(layer, variables, batch, rows=rows)
    np.testing.assert_array_equal(other, one)

  def test_local_objective_aims_at_unquantized_messages(self):
    """Of the same coefficients; the prompt corrects what Q_message did."""
    spec = dataclasses.replace(LORAP, placement='post', objective='local')
    scheme = methods.QAT(bits=2, points=('message', 'neighbor_sum'))
    layer, batch = make(scheme=scheme, prompt=spec), batch_of()
    variables = variables_of(layer)
    rows = layers.rows_of(batch, train=True)
    out, written, calls = layers.apply(layer, variables, batch, rows=rows)
    (share,) = jax.tree.leaves(written['local_loss'])
    params, message = variables['params'], calls['message']
    s = attention(layer, params, batch.graph, message.values, message.x)
    s = s.reshape(28, 6)[: layers.REAL]
    y = out[: layers.REAL] - np.asarray(params['bias'])
    expected = np.sum((y - s) ** 2) / np.sum(s**2)
    assert share == pytest.approx(expected, rel=1e-4)
    assert share > 0.01
