import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import layers
import networks
import numpy as np
import pytest

from lorap_jax.models import backbones
from lorap_jax.nn import methods, prompts

ALL_BACKBONES = pytest.mark.parametrize('backbone', list(networks.BACKBONES))
QAT = methods.QAT(bits=4)


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
    model = networks.make(**FRAMES[frame])
    variables = networks.variables_of(model)
    out, _, _ = networks.apply(model, variables)
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
    out, _, _ = networks.apply(
      networks.make(backbone), networks.variables_of(networks.make(backbone))
    )
    assert out.shape == (7, 3) and np.all(
      np.isfinite(out[: networks.REAL_GRAPHS])
    )
    model = networks.make(backbone, pool='none')
    out, _, _ = networks.apply(model, networks.variables_of(model))
    assert out.shape == (28, 3)
    assert out[: layers.REAL].min() < 0 < out[: layers.REAL].max()  # Logits.

  def test_embedding(self):
    """Integer types read a row of the table, in full precision."""
    batch = networks.batch_of()
    types = jnp.arange(28)[:, None] % 5
    types = batch._replace(graph=batch.graph._replace(nodes=types * 1.0))
    fields = {'pool': 'none', 'num_layers': 1, 'scheme': QAT}
    model = networks.make(encoder='embedding', num_types=5, **fields)
    params = model.init(jax.random.key(0), types.graph, train=False)['params']
    table = params.pop('embedding')['embedding']
    assert table.shape == (5, 6)
    rows = batch._replace(
      graph=batch.graph._replace(nodes=table[jnp.arange(28) % 5])
    )
    assert set(params) == {'conv_0'}
    _, _, calls = networks.apply(
      model, {'params': {'embedding': {'embedding': table}, **params}}, types
    )
    np.testing.assert_array_equal(
      calls['conv_0/dense/input'].x, rows.graph.nodes
    )
    assert 'features' not in calls

  def test_operand_of_the_encoder(self):
    """Its grid is the scheme's, one without negative codes, or 8 bits."""
    found = {}
    for operand in ('signed', 'non_negative', 'int8'):
      scheme = methods.A2QGraph(num_groups=4)
      found[operand] = networks.quantizers_of(
        networks.make('gin', scheme, encoder_operand=operand, num_layers=1)
      )
    assert not found['signed']['embedding/input'].non_negative
    assert found['non_negative']['embedding/input'].non_negative
    assert 'embedding/input' not in found['int8']
    eight = found['int8']['input']
    assert eight.bits == 8 and eight == methods.QAT(bits=8).quantizer(
      'input', non_negative=False
    ).clone(name='input')

  @pytest.mark.parametrize('backbone', ['gcn', 'gin'])
  def test_raw_features_are_quantized_once(self, backbone):
    """Where edges are quantized, as messages in a layer that sums first."""
    scheme = methods.QAT(edge_messages=True)
    names = networks.quantizers_of(
      networks.make(backbone, scheme, encoder='none')
    )
    ranges = networks.variables_of(
      networks.make(backbone, scheme, encoder='none')
    )['quant_stats']
    assert 'features' in names and 'message' in ranges['conv_0']
    assert ('features' in ranges) == (backbone == 'gcn')

  @pytest.mark.parametrize('encoder', ['none', 'dense', 'embedding'])
  @ALL_BACKBONES
  def test_points_at_the_entrance(self, backbone, encoder):
    """Raw features that enter a convolution have a point of their own."""
    names = set(
      networks.quantizers_of(networks.make(backbone, QAT, encoder=encoder))
    )
    sums_first = networks.BACKBONES[backbone].sums_first
    first = 'conv_0/message' if sums_first else 'conv_0/dense/input'
    assert ('features' in names) == (encoder == 'none')
    assert ('embedding/input' in names) == (encoder == 'dense')
    assert (first in names) == (encoder != 'none')

  @pytest.mark.parametrize('encoder', ['none', 'dense'])
  def test_node_prompt_moves_the_raw_features(self, encoder):
    spec = prompts.PromptSpec('gpf', node_init='glorot')
    model = networks.make(prompt=spec, encoder=encoder)
    variables = networks.variables_of(model)
    out, _, _ = networks.apply(model, variables)
    params = dict(variables['params'])
    prompt = params.pop('node_prompt')['prompt']
    batch = networks.batch_of()
    moved = batch._replace(
      graph=batch.graph._replace(nodes=batch.graph.nodes + prompt)
    )
    plain = networks.make(encoder=encoder)
    expected, _, _ = networks.apply(plain, {'params': params}, moved)
    np.testing.assert_array_equal(out, expected)

  def test_node_prompt_moves_rows_of_the_embedding(self):
    """Types are no features that a prompt could be added to."""
    spec = prompts.PromptSpec('gpf')
    shapes = networks.shapes_of(networks.make(prompt=spec, encoder='embedding'))
    assert shapes['node_prompt/prompt'] == (1, 6)

  def test_aggregate_prompts_are_in_every_layer(self):
    spec = prompts.PromptSpec('lorap', num_prompts=4, rank=2)
    for backbone in networks.BACKBONES:
      spec_of = networks.shapes_of(
        networks.make(backbone, prompt=spec, num_layers=3)
      )
      found = {path.split('/')[0] for path in spec_of if '/prompt/' in path}
      assert found == {'conv_0', 'conv_1', 'conv_2'}


class TestNonNegative:
  """Which operands are known to have no negative values."""

  def unsigned(self, backbone, **changes):
    found = networks.quantizers_of(
      networks.make(backbone, QAT, num_layers=3, **changes)
    )
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
    model = networks.make(backbone, QAT)
    _, _, calls = networks.apply(
      model, networks.variables_of(model), train=True
    )
    found = networks.quantizers_of(model)
    unsigned = {path for path in found if not found[path].signed}
    # A node with k > 1 self loops among its edges has the coefficient 1 - k.
    for path in unsigned - {'conv_0/norm', 'conv_1/norm'}:
      assert calls[path].x.min() >= 0, path


def test_rows_that_count():
  """Those of real nodes, and behind the pooling those of real graphs."""
  model = networks.make(scheme=QAT)
  _, _, calls = networks.apply(model, networks.variables_of(model))
  for path, call in calls.items():
    if 'norm' in path or path.endswith('weight'):
      continue
    real, rows = (6, 7) if path.startswith('readout') else (layers.REAL, 28)
    np.testing.assert_array_equal(
      call.mask[:, 0], np.arange(rows) < real, err_msg=path
    )


class TestDropout:
  FIELDS = {
    'num_layers': 3,
    'dropout': 0.3,
    'input_dropout': 0.2,
    'readout_dropout': 0.1,
  }

  def rates(self, **changes):
    """Rates in the order of their calls, and whether values were dropped."""
    model = networks.make(**{**self.FIELDS, **changes})
    batch, rates = networks.batch_of(), []

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
    model = networks.make(dropout=0.0)
    model = model.clone(
      backbone=backbones.GAT(heads=3, attention_dropout=0.5),
      readout_dropout=0.0,
    )
    variables = networks.variables_of(networks.make('gat'))
    one, two = (
      networks.apply(
        model, variables, train=True, rngs={'dropout': jax.random.key(seed)}
      )[0]
      for seed in (0, 1)
    )
    assert np.abs(one - two)[: networks.REAL_GRAPHS].max() > 1e-3

  @pytest.mark.parametrize(
    'name', ['dropout', 'input_dropout', 'readout_dropout']
  )
  def test_training_only(self, name):
    variables = networks.variables_of(networks.make(num_layers=3))
    model = networks.make(num_layers=3, **{name: 0.5})
    plain, _, _ = networks.apply(networks.make(num_layers=3), variables)
    quiet, _, _ = networks.apply(
      model, variables
    )  # No random stream is needed.
    np.testing.assert_array_equal(quiet, plain)
    draws = [
      networks.apply(
        model, variables, train=True, rngs={'dropout': jax.random.key(seed)}
      )[0][: networks.REAL_GRAPHS]
      for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3
    assert np.abs(draws[0] - plain[: networks.REAL_GRAPHS]).max() > 1e-3
