"""Networks whose node features come in both forms."""

import functools

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import layers
import networks
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.nn import methods, prompts
from lorap_jax.training import steps

WIDTH = 40
LORAP = prompts.PromptSpec('lorap', num_prompts=4, rank=2, init='glorot')
# Products of codes lie on a lattice. A quantizer behind it, with bounds on the
# lattice as well, meets values half-way between codes: rounding decides.
OFF_TIES = ('features', 'weight', 'update')
SPARSE = {
  'gcn_fp32': ('gcn', methods.FP32(), prompts.PromptSpec()),
  'gcn_a2q': ('gcn', methods.A2QNode(), LORAP),
  'gcn_qat': (
    'gcn',
    methods.QAT(points=('input', 'weight', 'message')),
    prompts.PromptSpec(),
  ),
  'gcn_qat_features': (
    'gcn',
    methods.QAT(points=OFF_TIES),
    prompts.PromptSpec(),
  ),
  'gcn_symmetric_clipped': (
    'gcn',
    methods.QAT(points=OFF_TIES, symmetric=True, gradient='clipped_strict'),
    LORAP,
  ),
  'gcn_degree_quant': (
    'gcn',
    methods.DegreeQuant(points=OFF_TIES, feature_percentile=0.0, low=0.4),
    prompts.PromptSpec(),
  ),
  'gat_fp32': ('gat', methods.FP32(), LORAP),
  'gat_a2q': ('gat', methods.A2QNode(), prompts.PromptSpec()),
  'gpf': (
    'gcn',
    methods.FP32(),
    prompts.PromptSpec('gpf', node_init='glorot'),
  ),
  'qat_of_gpf': (
    'gcn',
    methods.QAT(points=OFF_TIES),
    prompts.PromptSpec('gpf', node_init='glorot'),
  ),
  'degree_quant_of_gpf': (
    'gcn',
    methods.DegreeQuant(points=OFF_TIES, feature_percentile=0.0, low=0.4),
    prompts.PromptSpec('gpf', node_init='glorot'),
  ),
  'mixq': ('gcn', methods.MixQ(), prompts.PromptSpec()),
  'mixq_of_gpf': (
    'gcn',
    methods.MixQ(),
    prompts.PromptSpec('gpf', node_init='glorot'),
  ),
  'mixq_search': (
    'gcn',
    methods.MixQSearch(candidates=(2, 8)),
    prompts.PromptSpec(),
  ),
  'mixq_search_of_gpf': (
    'gcn',
    methods.MixQSearch(candidates=(2, 8)),
    prompts.PromptSpec('gpf', node_init='glorot'),
  ),
  'gpf_plus': (
    'gat',
    methods.FP32(),
    prompts.PromptSpec('gpf_plus', num_prompts=3, node_init='glorot'),
  ),
}


@functools.cache
def batches():
  """One batch with dense features, and with both forms of the same."""
  batch = layers.batch_of(layers.graph_list(WIDTH))
  keep = np.random.default_rng(0).random((layers.REAL, WIDTH)) < 0.1
  nodes = np.array(batch.graph.nodes)
  nodes[: layers.REAL] *= keep
  features = graphs.in_both_forms(nodes)
  assert isinstance(features, graphs.Features)
  return tuple(
    jax.tree.map(
      jnp.asarray, batch._replace(graph=batch.graph._replace(nodes=x))
    )
    for x in (nodes, features)
  )


def make(backbone='gcn', scheme=None, **changes):
  fields = {'encoder': 'none', 'pool': 'none', 'num_layers': 1, **changes}
  return networks.make(backbone, scheme, **fields)


@functools.partial(jax.jit, static_argnums=0)
def start(model, keys, graph, layout):
  return model.init(keys, graph, layout=layout, train=True)


@functools.cache
def variables_of(model):
  """Quantizers start from the dense form."""
  batch = batches()[0]
  keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
  variables = start(model, keys, batch.graph, batch.layout)
  kept = ('params', 'quant_stats')
  return {name: variables[name] for name in kept if name in variables}


def seen(model, batch):
  """What the first convolution receives, in a program that is only traced."""
  found = []

  def note(function, args, kwargs, context):
    if context.module.name == 'conv_0' and context.method_name == '__call__':
      x = args[0]
      found.append(getattr(x, 'values', x))
    return function(*args, **kwargs)

  keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
  with nn.intercept_methods(note):
    jax.eval_shape(
      functools.partial(model.init, layout=batch.layout, train=True),
      keys,
      batch.graph,
    )
  return found[0]


# Each scheme and each prompt; the parts of the others are met by these.
SOME = (
  'gcn_a2q',
  'gcn_symmetric_clipped',
  'gcn_degree_quant',
  'mixq_of_gpf',
  'mixq_search',
  'gpf_plus',
)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in SOME))
    for name in SPARSE
  ],
)
class TestSparse:
  def model(self, name):
    backbone, scheme, prompt = SPARSE[name]
    return make(backbone, scheme, prompt=prompt)

  def test_same_outputs_and_gradients(self, name):
    model = self.model(name)
    assert isinstance(seen(model, batches()[1]), graphs.SparseRows)

    def loss(params, batch):
      variables = {**variables_of(model), 'params': params}
      out, _ = model.apply(
        variables,
        batch.graph,
        layout=batch.layout,
        train=True,
        mutable=layers.WRITTEN,
        rngs={'quantization': jax.random.key(1)},
      )
      out = out[: layers.REAL]
      return jnp.mean(jax.nn.log_softmax(out)[:, 0]), out

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    # Biases off 0: what cancels before a ReLU leaves only rounding. Zero points
    # off whole numbers: where MixQ has 0 on the grid, it stays 0.
    params = jax.tree_util.tree_map_with_path(
      lambda path, p: (
        p + 0.03 * (p.ndim == 1) + 0.3 * (path[-1].key == 'range_zero_point')
      ),
      variables_of(model)['params'],
    )
    dense, sparse = (run(params, b) for b in batches())
    helpers.assert_trees_close(sparse, dense, rtol=1e-5, atol=1e-5)
    kernel = sparse[1]['conv_0']['dense']['kernel']
    assert np.abs(kernel).max() > 1e-3

  def test_same_start(self, name):
    """Of weights, and of quantizers, which start from what they see."""
    model = self.model(name)
    keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
    batch = batches()[1]
    variables = start(model, keys, batch.graph, batch.layout)
    found = {name: variables[name] for name in variables_of(model)}
    helpers.assert_trees_close(found, variables_of(model), rtol=1e-5, atol=1e-6)

  def test_same_cost(self, name):
    model = self.model(name)
    step = steps.make_cost_step(model)
    dense, sparse = (step(variables_of(model), batch) for batch in batches())
    # Sums in another order; the largest value lies on the bound at the start.
    helpers.assert_trees_close(
      off_bounds(sparse), off_bounds(dense), rtol=1e-5, atol=1e-5
    )
    features = sparse[0]['features']['features']['features']
    assert features['elements'] == layers.REAL * WIDTH and features['energy']
    macs = sparse[0]['products']['layer']['conv_0/dense']['macs']
    assert macs == layers.REAL * WIDTH * kernel_width(name)


def off_bounds(cost):
  """Costs without the one element of a tensor that may count as clipped."""
  return jax.tree_util.tree_map_with_path(
    lambda path, v: v - (v == 1) if path[-1].key == 'clipped' else v, cost[0]
  ), cost[1:]


def kernel_width(name):
  """Of the layer that receives the features: three outputs, of each head."""
  return 3 * {'gcn': 1, 'gat': 2}[SPARSE[name][0]]


DENSE = {
  'qat_of_gpf_plus': (
    'gcn',
    {'scheme': methods.QAT(), 'prompt': prompts.PromptSpec('gpf_plus')},
  ),
  'degree_quant': ('gcn', {'scheme': methods.DegreeQuant()}),
  'mixq_published': ('gcn', {'scheme': methods.MixQ(published=True)}),
  'a2q_of_features': (
    'gat',
    {'scheme': methods.A2QNode(quantize_features=True)},
  ),
  'dropped_prompt': (
    'gcn',
    {'prompt': prompts.PromptSpec('gpf'), 'input_dropout': 0.5},
  ),
  'encoder': ('gcn', {'encoder': 'dense'}),
  'sums_first': ('gin', {}),
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] * name.startswith('mixq'))
    for name in DENSE
  ],
)
def test_dense_where_something_takes_every_element(name):
  backbone, fields = DENSE[name]
  model = make(backbone, **fields)
  x = seen(model, batches()[1])
  assert x.shape[0] == 28 and not isinstance(x, graphs.SparseRows)
  keys = {k: jax.random.key(0) for k in ('params', 'quantization')}
  run = jax.jit(functools.partial(model.init_with_output, train=True))
  outs = [run(keys, b.graph, layout=b.layout)[0] for b in batches()]
  np.testing.assert_array_equal(*outs)


def test_dense_form_is_not_in_the_program():
  model = make(scheme=methods.A2QNode(), input_dropout=0.5)

  def loss(params, batch):
    out, _ = model.apply(
      {'params': params},
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['memory', 'telemetry'],
      rngs={'dropout': jax.random.key(0)},
    )
    return out.sum()

  dense, sparse = (
    jax.jit(jax.grad(loss))
    .lower(variables_of(model)['params'], batch)
    .compile()
    .as_text()
    for batch in batches()
  )
  assert f'f32[28,{WIDTH}]' in dense
  assert f'f32[28,{WIDTH}]' not in sparse


class TestInputDropout:
  RATE = 0.6

  def values(self, *, seeds, train=True):
    """Of the nonzeros that enter the first product, for each seed."""
    model = make('gat', input_dropout=self.RATE, num_layers=1)
    variables, batch = variables_of(model), batches()[1]

    def draw(key):
      found = []

      def note(function, args, kwargs, context):
        first = context.module.name == 'conv_0'
        if first and context.method_name == '__call__':
          found.append(args[0].values)
        return function(*args, **kwargs)

      with nn.intercept_methods(note):
        model.apply(
          variables,
          batch.graph,
          layout=batch.layout,
          train=train,
          rngs={'dropout': key},
        )
      return found[0].values

    keys = jax.random.split(jax.random.key(0), seeds)
    return np.asarray(jax.jit(jax.vmap(draw))(keys))

  def test_keeps_its_share_of_the_nonzeros(self):
    before = batches()[1].graph.nodes.sparse.values
    draws = self.values(seeds=40)
    kept = draws != 0
    assert abs(kept.mean() - (1 - self.RATE)) < 0.03
    scaled = np.broadcast_to(before / (1 - self.RATE), draws.shape)
    np.testing.assert_allclose(draws[kept], scaled[kept], rtol=1e-5)
    assert len(np.unique(kept, axis=0)) == 40

  def test_keeps_the_expected_product(self):
    sparse = batches()[1].graph.nodes.sparse
    weight = jnp.ones((WIDTH, 1))
    mean = jnp.asarray(self.values(seeds=200).mean(0))
    product = sparse._replace(values=mean) @ weight
    # Deviation of one draw: sqrt(rate / (1 - rate) * sum of squares).
    spread = np.sqrt(1.5 * sparse.square_sums() / 200)[:, None]
    assert np.all(np.abs(product - sparse @ weight) <= 4.5 * spread)

  def test_training_only(self):
    (values,) = self.values(seeds=1, train=False)
    sparse = batches()[1].graph.nodes.sparse
    np.testing.assert_array_equal(values, sparse.values)


@pytest.mark.parametrize('rate', [0.0, 0.5])
def test_networks_of_many_seeds_in_one_program(rate):
  """Each with its own weights and its own dropped values."""
  model = make(input_dropout=rate, num_layers=1)
  batch, start = batches()[1], variables_of(model)['params']
  seeds = [
    jax.tree.map(lambda leaf, i=i: leaf * (1 + i / 10), start) for i in range(3)
  ]

  def loss(params, key):
    out = model.apply(
      {'params': params},
      batch.graph,
      layout=batch.layout,
      train=True,
      rngs={'dropout': key},
    )
    return jnp.mean(out[: layers.REAL, 0] ** 2)

  grad = jax.value_and_grad(loss)
  keys = jax.random.split(jax.random.key(1), 3)
  together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
  found = jax.jit(jax.vmap(grad))(together, keys)
  one = jax.jit(grad)
  for i, params in enumerate(seeds):
    helpers.assert_trees_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], found),
      one(params, keys[i]),
      rtol=1e-5,
      atol=1e-5,
    )
  assert one._cache_size() == 1


# Those of a user's programs.
OPTIMIZED = {
  'xla_backend_optimization_level': 3,
  'xla_llvm_disable_expensive_passes': False,
  'xla_cpu_use_fusion_emitters': True,
}


@pytest.mark.parametrize(
  'operations', ['plain', pytest.param('single', marks=pytest.mark.slow)]
)
def test_gradients_of_the_compiled_program(operations):
  """XLA once wrote sums over what the same loop still gathered from.

  Against the program without those loops, and operations one by one.
  """
  prompt = prompts.PromptSpec('gpf', node_init='glorot')
  model = make('gcn', methods.MixQ(), prompt=prompt, norm=True, num_layers=2)
  batch = batches()[0]
  keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
  variables = start(model, keys, batch.graph, batch.layout)
  rng = np.random.default_rng(0)
  # Off the start, which is special: biases 0 and whole zero points.
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf
      + np.float32(rng.normal(size=leaf.shape))
      * (0.31 if path[-1].key == 'range_zero_point' else 0)
      + 0.03 * np.float32(rng.normal(size=leaf.shape)) * (leaf.ndim == 1)
    ),
    variables['params'],
  )

  def loss(params, batch):
    out, _ = model.apply(
      {**variables, 'params': params},
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=layers.WRITTEN,
    )
    return jnp.mean(jax.nn.log_softmax(out[: layers.REAL])[:, 0])

  grad = jax.grad(loss)
  compiled = jax.jit(grad, compiler_options=OPTIMIZED)(params, batch)
  other = jax.jit(grad) if operations == 'plain' else grad
  helpers.assert_trees_close(
    compiled, other(params, batch), rtol=1e-4, atol=1e-4
  )
