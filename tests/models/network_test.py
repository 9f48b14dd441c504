import dataclasses
import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax.models import gat, gcn, gin, network
from lorap_jax.nn import prompts, schemes

BACKBONES = {
  'gcn': gcn.GCN(),
  'gin': gin.GIN(mlp_norm='last'),
  'gat': gat.GAT(heads=3, last_heads=2),
}
ALL_BACKBONES = pytest.mark.parametrize('backbone', list(BACKBONES))
QAT = schemes.QAT(bits=4)
A2Q = schemes.A2QGraph(num_groups=8)
REAL_GRAPHS = 6


@functools.cache
def batch_of(larger=False):
  budget = layers.LARGER if larger else layers.BUDGET
  batch = layers.batch_of(layers.graph_list(), budget=budget)
  return jax.tree.map(jnp.asarray, batch)


def make(backbone='gcn', scheme=None, **changes):
  fields = {'outputs': 3, 'features': 6, 'num_layers': 2, **changes}
  return network.Network(
    backbone=BACKBONES[backbone], scheme=scheme or schemes.FP32(), **fields
  )


@functools.cache
def variables_of(model):
  """Parameters and running statistics away from their start."""
  batch = batch_of()
  variables = model.init(
    {name: jax.random.key(0) for name in ('params', 'dropout')},
    batch.graph,
    layout=batch.layout,
    train=True,
  )
  rng = np.random.default_rng(0)

  def moved(path, leaf):
    away = {'bias', 'mean', 'var', 'scale'} & {path[-1].key}
    away = away and path[-2].key in ('bn', 'readout_0') or len(path) == 2
    shift = rng.uniform(0.1, 0.5, leaf.shape) if away else 0.0
    return leaf + jnp.asarray(shift, leaf.dtype)

  kept = ('params', 'quant_stats', 'batch_stats')
  return {
    name: tree
    if name == 'quant_stats'
    else jax.tree_util.tree_map_with_path(moved, tree)
    for name, tree in variables.items()
    if name in kept
  }


def apply(model, variables, batch=None, *, train=False, rngs=None):
  """Outputs, what was written, and the calls of quantizers."""
  batch = batch or batch_of()
  return layers.recorded(
    lambda: model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=train,
      mutable=layers.WRITTEN,
      rngs=rngs,
    )
  )


def shapes_of(model, collection='params'):
  batch = batch_of()
  init = functools.partial(model.init, layout=batch.layout, train=False)
  tree = jax.eval_shape(init, jax.random.key(0), batch.graph)
  return helpers.tree_spec(tree.get(collection, {}))


def quantizers_of(model):
  batch = batch_of()
  return layers.quantizers_of(
    lambda key: model.init(key, batch.graph, layout=batch.layout, train=False)
  )


class InNumpy:
  """A GCN network at evaluation, in float64, graph by graph."""

  def __init__(self, model, variables):
    self.model = model
    self.tree = jax.tree.map(
      lambda v: np.asarray(v, np.float64),
      {name: variables.get(name, {}) for name in ('params', 'batch_stats')},
    )

  def dense(self, name, x):
    p = self.tree['params'][name]
    return x @ p['kernel'] + p['bias']

  def norm(self, name, x):
    p = self.tree['params'][name]['bn']
    s = self.tree['batch_stats'][name]['bn']
    x = (x - s['mean']) / np.sqrt(s['var'] + 1e-5)
    return x * p['scale'] + p['bias']

  def gcn(self, name, x, graph):
    p = self.tree['params'][name]
    matrix = layers.adjacency(graph)
    np.fill_diagonal(matrix, 1)
    scale = matrix.sum(1) ** -0.5
    s = scale[:, None] * matrix * scale @ x @ p['dense']['kernel']
    return s + p['bias']

  def __call__(self, graph):
    model, x = self.model, graph.nodes.astype(np.float64)
    if model.encoder == 'dense':
      x = self.dense('embedding', x)
    for i in range(model.num_layers):
      y = self.gcn(f'conv_{i}', x, graph)
      if model.pool == 'none' and i == model.num_layers - 1:
        return y
      if model.norm:
        y = self.norm(f'norm_{i}', y)
      y = np.maximum(y, 0)
      keep = model.residual and (i or model.encoder == 'dense')
      x = x + y if keep else y
    z = np.zeros(model.features)
    if len(x):
      z = {'mean': x.mean, 'sum': x.sum, 'max': x.max}[model.pool](0)
    if model.normalize_pooled:
      z = self.norm('norm_pooled', z)
    for i in range(model.readout):
      z = self.dense(f'readout_{i}', np.maximum(z, 0) if i else z)
    return z


FRAMES = {
  'plain': {},
  'no_encoder': {'encoder': 'none', 'residual': True},
  'norm_residual': {'norm': True, 'residual': True, 'num_layers': 3},
  'sum': {'pool': 'sum', 'readout': 1},
  'max': {'pool': 'max', 'readout': 3},
  'pooled_norm': {'normalize_pooled': True},
  'nodes': {'pool': 'none', 'norm': True},
  'one_layer_of_nodes': {'pool': 'none', 'num_layers': 1, 'encoder': 'none'},
}


class TestFrame:
  @pytest.mark.parametrize('frame', list(FRAMES))
  def test_gcn_in_numpy(self, frame):
    model = make(**FRAMES[frame])
    variables = variables_of(model)
    out, _, _ = apply(model, variables)
    expected = [InNumpy(model, variables)(g) for g in layers.graph_list()]
    if model.pool == 'none':
      expected = np.concatenate(expected)
      assert out.shape == (28, 3) and expected.min() < 0
    else:
      assert out.shape == (7, 3)
    np.testing.assert_allclose(
      out[: len(expected)], expected, rtol=1e-4, atol=1e-5
    )

  @ALL_BACKBONES
  def test_graph_and_node_outputs(self, backbone):
    out, _, _ = apply(make(backbone), variables_of(make(backbone)))
    assert out.shape == (7, 3) and np.all(np.isfinite(out[:REAL_GRAPHS]))
    model = make(backbone, pool='none')
    out, _, _ = apply(model, variables_of(model))
    assert out.shape == (28, 3)
    assert out[: layers.REAL].min() < 0 < out[: layers.REAL].max()  # Logits.

  def test_embedding(self):
    """Integer types read a row of the table, in full precision."""
    batch = batch_of()
    types = jnp.arange(28)[:, None] % 5
    types = batch._replace(graph=batch.graph._replace(nodes=types * 1.0))
    fields = {'pool': 'none', 'num_layers': 1, 'scheme': QAT}
    model = make(encoder='embedding', num_types=5, **fields)
    params = model.init(jax.random.key(0), types.graph, train=False)['params']
    table = params.pop('embedding')['embedding']
    assert table.shape == (5, 6)
    rows = batch._replace(
      graph=batch.graph._replace(nodes=table[jnp.arange(28) % 5])
    )
    assert set(params) == {'conv_0'}
    _, _, calls = apply(
      model, {'params': {'embedding': {'embedding': table}, **params}}, types
    )
    np.testing.assert_array_equal(
      calls['conv_0/dense/input'].x, rows.graph.nodes
    )
    assert 'features' not in calls

  @pytest.mark.parametrize('encoder', ['none', 'dense', 'embedding'])
  @ALL_BACKBONES
  def test_points_at_the_entrance(self, backbone, encoder):
    """Raw features that enter a convolution have a point of their own."""
    names = set(quantizers_of(make(backbone, QAT, encoder=encoder)))
    first = 'conv_0/message' if backbone == 'gin' else 'conv_0/dense/input'
    assert ('features' in names) == (encoder == 'none')
    assert ('embedding/input' in names) == (encoder == 'dense')
    assert (first in names) == (encoder != 'none')

  @pytest.mark.parametrize('encoder', ['none', 'dense'])
  def test_node_prompt_moves_the_raw_features(self, encoder):
    spec = prompts.PromptSpec('gpf', node_init='glorot')
    model = make(prompt=spec, encoder=encoder)
    variables = variables_of(model)
    out, _, _ = apply(model, variables)
    params = dict(variables['params'])
    prompt = params.pop('node_prompt')['prompt']
    batch = batch_of()
    moved = batch._replace(
      graph=batch.graph._replace(nodes=batch.graph.nodes + prompt)
    )
    plain = make(encoder=encoder)
    expected, _, _ = apply(plain, {'params': params}, moved)
    np.testing.assert_array_equal(out, expected)

  def test_node_prompt_moves_rows_of_the_embedding(self):
    """Types are no features that a prompt could be added to."""
    spec = prompts.PromptSpec('gpf')
    shapes = shapes_of(make(prompt=spec, encoder='embedding'))
    assert shapes['node_prompt/prompt'] == (1, 6)

  def test_aggregate_prompts_are_in_every_layer(self):
    spec = prompts.PromptSpec('lorap', num_prompts=4, rank=2)
    for backbone in BACKBONES:
      spec_of = shapes_of(make(backbone, prompt=spec, num_layers=3))
      found = {path.split('/')[0] for path in spec_of if '/prompt/' in path}
      assert found == {'conv_0', 'conv_1', 'conv_2'}


class TestNonNegative:
  """Which operands are known to have no negative values."""

  def unsigned(self, backbone, **changes):
    found = quantizers_of(make(backbone, QAT, num_layers=3, **changes))
    return {path for path, module in found.items() if not module.signed}

  @pytest.mark.parametrize('backbone', ['gcn', 'gat'])
  def test_inputs_behind_a_relu(self, backbone):
    norms = {f'conv_{i}/norm' for i in range(3)} if backbone == 'gcn' else set()
    inner = {'conv_1/dense/input', 'conv_2/dense/input'}
    readout = {'readout_1/input'}
    assert self.unsigned(backbone) == norms | inner | readout
    assert self.unsigned(backbone, residual=True) == norms | readout
    assert self.unsigned(backbone, pool='none') == norms | inner

  def test_gin(self):
    """The second Dense layer of each MLP, and no message."""
    dense = {f'conv_{i}/dense_1/input' for i in range(3)}
    assert self.unsigned('gin') == dense | {'readout_1/input'}

  @ALL_BACKBONES
  def test_they_are_not_negative_indeed(self, backbone):
    model = make(backbone, QAT)
    _, _, calls = apply(model, variables_of(model), train=True)
    found = quantizers_of(model)
    unsigned = {path for path in found if not found[path].signed}
    # A node with k > 1 self loops among its edges has the coefficient 1 - k.
    for path in unsigned - {'conv_0/norm', 'conv_1/norm'}:
      assert calls[path].x.min() >= 0, path


class TestDropout:
  FIELDS = {
    'num_layers': 3,
    'dropout': 0.3,
    'input_dropout': 0.2,
    'readout_dropout': 0.1,
  }

  def rates(self, **changes):
    """Rates in the order of their calls, and whether values were dropped."""
    model = make(**{**self.FIELDS, **changes})
    batch, rates = batch_of(), []

    def note(function, args, kwargs, context):
      if isinstance(context.module, nn.Dropout):
        rates.append((context.module.rate, context.module.deterministic))
      return function(*args, **kwargs)

    init = functools.partial(model.init, layout=batch.layout, train=True)
    keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
    with nn.intercept_methods(note):
      jax.eval_shape(init, keys, batch.graph)
    return rates

  @pytest.mark.parametrize('encoder', ['none', 'dense'])
  @ALL_BACKBONES
  def test_places(self, backbone, encoder):
    rates = self.rates(backbone=backbone, encoder=encoder)
    assert rates == [(rate, False) for rate in (0.2, 0.3, 0.3, 0.1)]

  def test_zero_rates_draw_nothing(self):
    assert self.rates(dropout=0.0, input_dropout=0.0) == [(0.1, False)]

  def test_attention_dropout_is_the_backbones(self):
    model = make(dropout=0.0)
    model = model.clone(
      backbone=gat.GAT(heads=3, attention_dropout=0.5), readout_dropout=0.0
    )
    variables = variables_of(make('gat'))
    one, two = (
      apply(
        model, variables, train=True, rngs={'dropout': jax.random.key(seed)}
      )[0]
      for seed in (0, 1)
    )
    assert np.abs(one - two)[:REAL_GRAPHS].max() > 1e-3

  @pytest.mark.parametrize(
    'name', ['dropout', 'input_dropout', 'readout_dropout']
  )
  def test_training_only(self, name):
    variables = variables_of(make(num_layers=3))
    model = make(num_layers=3, **{name: 0.5})
    plain, _, _ = apply(make(num_layers=3), variables)
    quiet, _, _ = apply(model, variables)  # No random stream is needed.
    np.testing.assert_array_equal(quiet, plain)
    draws = [
      apply(
        model, variables, train=True, rngs={'dropout': jax.random.key(seed)}
      )[0][:REAL_GRAPHS]
      for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3
    assert np.abs(draws[0] - plain[:REAL_GRAPHS]).max() > 1e-3


class TestInvariance:
  @pytest.mark.parametrize('backbone', ['gcn', 'gat'])
  @pytest.mark.parametrize('scheme', [QAT, A2Q], ids=['qat', 'a2q'])
  def test_garbage_in_padding(self, backbone, scheme):
    """Not even the last bit changes, nor a statistic."""
    model = make(backbone, scheme, norm=True)
    variables = variables_of(model)
    batch = batch_of()
    mask = layers.rows_of(batch).mask
    nodes = jnp.where(mask, batch.graph.nodes, 1e3)
    dirty = batch._replace(graph=batch.graph._replace(nodes=nodes))
    one, written, _ = apply(model, variables, train=True)
    other, dirtied, _ = apply(model, variables, dirty, train=True)
    np.testing.assert_array_equal(other[:REAL_GRAPHS], one[:REAL_GRAPHS])
    helpers.assert_trees_close(dirtied, written)

  @pytest.mark.parametrize(
    'backbone, scheme',
    [
      ('gat', schemes.QAT(bits=8)),
      ('gcn', schemes.A2QGraph(bits=8, num_groups=8)),
    ],
    ids=['gat_qat', 'gcn_a2q'],
  )
  def test_more_padding(self, backbone, scheme):
    """Other shapes sum in another order, which may move a value by a step."""
    model = make(backbone, scheme, norm=True)
    variables = variables_of(model)

    @jax.jit
    def run(variables, graph, layout):
      return model.apply(
        variables, graph, layout=layout, train=True, mutable=layers.WRITTEN
      )

    (one, written), (other, more) = (
      run(variables, batch.graph, batch.layout)
      for batch in (batch_of(), batch_of(larger=True))
    )
    np.testing.assert_allclose(
      other[:REAL_GRAPHS], one[:REAL_GRAPHS], rtol=0, atol=0.02
    )
    helpers.assert_trees_close(more, written, rtol=0.01, atol=0.02)

  @pytest.mark.parametrize('scheme', [None, QAT], ids=['fp32', 'qat'])
  @ALL_BACKBONES
  def test_permuted_nodes_of_graphs(self, backbone, scheme):
    model = make(backbone, scheme, pool='max')
    variables = variables_of(model)
    _, written, _ = apply(model, variables, train=True)
    variables = {**variables, **written}
    rng = np.random.default_rng(0)
    graph_list = [helpers.permute_nodes(g, rng) for g in layers.graph_list()]
    batch = jax.tree.map(jnp.asarray, layers.batch_of(graph_list))
    one, _, _ = apply(model, variables)
    other, _, _ = apply(model, variables, batch)
    np.testing.assert_allclose(
      other[:REAL_GRAPHS], one[:REAL_GRAPHS], rtol=1e-4, atol=1e-5
    )

  @ALL_BACKBONES
  def test_permuted_nodes_of_a_node_task(self, backbone):
    model = make(backbone, pool='none')
    variables = variables_of(model)
    graph = helpers.random_graph(np.random.default_rng(4), 20, 50, features=4)
    order = np.random.default_rng(0).permutation(20)
    place = np.argsort(order).astype(np.int32)
    permuted = graph._replace(
      nodes=graph.nodes[order],
      senders=place[graph.senders],
      receivers=place[graph.receivers],
    )
    one, other = (
      apply(model, variables, jax.tree.map(jnp.asarray, layers.batch_of([g])))[
        0
      ][:20]
      for g in (graph, permuted)
    )
    np.testing.assert_allclose(other, one[order], rtol=1e-4, atol=1e-5)
    assert np.abs(other - one).max() > 0.01

  def test_graphs_do_not_see_each_other(self):
    model = make('gat', QAT)
    variables = variables_of(model)
    _, written, _ = apply(model, variables, train=True)
    variables = {**variables, **written}
    together, _, _ = apply(model, variables)
    graph = layers.graph_list()[3]
    alone = jax.tree.map(jnp.asarray, layers.batch_of([graph]))
    out, _, _ = apply(model, variables, alone)
    np.testing.assert_allclose(out[0], together[3], rtol=1e-4, atol=1e-5)


class TestParameters:
  """Paths are part of the interface: checkpoints are read by them."""

  PROMPT = prompts.PromptSpec('gpf_lorap', num_prompts=4, rank=2)

  def test_gcn(self):
    """A2Q at graph level with prompts, norm and one Dense layer to read out."""
    model = make(scheme=A2Q, prompt=self.PROMPT, norm=True, readout=1)
    expected = {'node_prompt/prompt': (1, 4)}
    for i in range(2):
      layer = {
        'bias': (6,),
        'dense/kernel': (6, 6),
        'dense/input/bits': (8,),
        'dense/input/scale': (8,),
        'dense/weight/bits': (6,),
        'dense/weight/scale': (6,),
        'message/bits': (6,),
        'message/scale': (6,),
        'prompt/bias': (4,),
        'prompt/down': (4, 2),
        'prompt/kernel': (6, 4),
        'prompt/up': (2, 6),
      }
      expected |= {f'conv_{i}/{path}': shape for path, shape in layer.items()}
      expected |= {f'norm_{i}/bn/{name}': (6,) for name in ('bias', 'scale')}
    for name, width, out in (('embedding', 4, 6), ('readout_0', 6, 3)):
      expected |= {
        f'{name}/kernel': (width, out),
        f'{name}/bias': (out,),
        f'{name}/input/bits': (8,),
        f'{name}/input/scale': (8,),
        f'{name}/weight/bits': (out,),
        f'{name}/weight/scale': (out,),
      }
    assert shapes_of(model) == expected

  def test_gat(self):
    """QAT on a node task: two averaged heads give the logits."""
    model = make(
      'gat', QAT, prompt=self.PROMPT, norm=True, encoder='none', pool='none'
    )
    assert shapes_of(model) == {
      'node_prompt/prompt': (1, 4),
      'conv_0/dense/kernel': (4, 6),
      'conv_0/attention_kernel': (2, 6),
      'conv_0/bias': (6,),
      'conv_0/prompt/bias': (4,),
      'conv_0/prompt/down': (4, 2),
      'conv_0/prompt/kernel': (6, 4),
      'conv_0/prompt/up': (2, 6),
      'norm_0/bn/bias': (6,),
      'norm_0/bn/scale': (6,),
      'conv_1/dense/kernel': (6, 6),
      'conv_1/attention_kernel': (3, 4),
      'conv_1/bias': (3,),
      'conv_1/prompt/bias': (4,),
      'conv_1/prompt/down': (4, 2),
      'conv_1/prompt/kernel': (6, 4),
      'conv_1/prompt/up': (2, 6),
    }
    points = {'features'}
    for i in range(2):
      inside = {'dense/weight', 'dense/output', 'message', 'attention'}
      inside |= {'logits', 'neighbor_sum', 'update'}
      points |= {f'conv_{i}/{point}' for point in inside}
    points.add('conv_1/dense/input')
    assert shapes_of(model, 'quant_stats') == {
      f'{point}/range/{name}': ()
      for point in points
      for name in ('min_val', 'max_val', 'initialized')
    }

  def test_gin(self):
    """MixQ's search on one graph task, neighbours only."""
    scheme = schemes.MixQSearch(
      candidates=(4, 8), points=schemes.mixq.POINTS['gin']
    )
    model = make(scheme=scheme, encoder='none', num_layers=1, readout=1)
    model = model.clone(backbone=gin.GIN(mlp_norm='last', own_term=False))
    widths = {
      'features': 4,
      'conv_0/neighbor_sum': 4,
      'conv_0/dense_0/weight': 4,
      'conv_0/dense_0/output': 6,
      'conv_0/dense_1/weight': 6,
      'conv_0/dense_1/output': 6,
      'readout_0/input': 6,
      'readout_0/weight': 6,
      'readout_0/output': 3,
    }
    expected = {
      'conv_0/dense_0/kernel': (4, 6),
      'conv_0/dense_0/bias': (6,),
      'conv_0/dense_1/kernel': (6, 6),
      'conv_0/dense_1/bias': (6,),
      'conv_0/norm/bn/scale': (6,),
      'conv_0/norm/bn/bias': (6,),
      'readout_0/kernel': (6, 3),
      'readout_0/bias': (3,),
    }
    for path, width in widths.items():
      expected |= {
        f'{path}/logits': (2,),
        f'{path}/range_scale': (2, 1, width),
        f'{path}/range_zero_point': (2, 1, width),
      }
    assert shapes_of(model) == expected

  def test_statistics_of_norms(self):
    model = make('gat', norm=True, normalize_pooled=True)
    assert shapes_of(model, 'batch_stats') == {
      f'{norm}/bn/{name}': (6,)
      for norm in ('norm_0', 'norm_1', 'norm_pooled')
      for name in ('mean', 'var')
    }
    assert not shapes_of(make('gat', norm=False), 'batch_stats')

  @ALL_BACKBONES
  def test_readout_of_node_tasks(self, backbone):
    spec = shapes_of(make(backbone, pool='none'))
    assert not [path for path in spec if path.startswith('readout')]


def test_full_precision_first_is_the_first_layer_only():
  backbone = gin.GIN(full_precision_first=True)
  model = make(scheme=QAT, encoder='none').clone(backbone=backbone)
  names = set(quantizers_of(model))
  assert 'conv_0/dense_0/weight' not in names
  assert {'conv_0/dense_1/weight', 'conv_1/dense_0/weight'} <= names


def test_fields_of_the_backbones_reach_their_layers():
  shared = {
    'index': 1,
    'last': False,
    'features': 6,
    'scheme': QAT,
    'prompt': prompts.PromptSpec('lorap'),
    'non_negative': True,
  }
  layer = gcn.GCN(False, 2.0, 'keep').layer(**shared)
  assert (layer.self_loops, layer.self_loop_weight) == (False, 2.0)
  assert (layer.existing_loops, layer.non_negative) == ('keep', True)
  backbone = gat.GAT(4, 2, False, 0.3, 0.1)
  for last, heads in ((False, 4), (True, 2)):
    layer = backbone.layer(**{**shared, 'last': last})
    assert (layer.heads, layer.concat) == (heads, not last)
    assert (layer.self_loops, layer.attention_dropout) == (False, 0.3)
    assert (layer.negative_slope, layer.non_negative) == (0.1, True)
  backbone = gin.GIN(3, 'last', False, True)
  layer = backbone.layer(**{**shared, 'last': True})
  assert (layer.num_dense, layer.norm, layer.last) == (3, 'last', True)
  assert (layer.own_term, layer.full_precision_dense) == (False, False)
  layer = backbone.layer(**{**shared, 'index': 0})
  assert layer.full_precision_dense and layer.name == 'conv_0'
  assert layer.prompt.name == 'lorap' and layer.scheme is QAT


def test_last_heads_are_those_of_a_node_task():
  """A graph task has `heads` in every layer."""
  shapes = shapes_of(make('gat'))
  assert shapes['conv_1/attention_kernel'] == (2, 6)
  assert dataclasses.asdict(BACKBONES['gat'])['last_heads'] == 2
