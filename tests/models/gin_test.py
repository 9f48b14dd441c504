import dataclasses
import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.models import backbones, network
from lorap_jax.nn import methods, prompts, telemetry

BUDGET = graphs.Budget(32, 64, 7, 16)
LARGER = graphs.Budget(48, 96, 9, 16)
REAL = 5  # graphs
SCHEMES = {'fp32': methods.FP32(), 'a2q': methods.A2QGraph(num_groups=16)}
PROMPT = prompts.PromptSpec('gpf_lorap', num_prompts=4, rank=2)
LIVE = dataclasses.replace(PROMPT, init='glorot', node_init='glorot')
SLOW = pytest.mark.slow
BOTH = pytest.mark.parametrize(
  'scheme', ['a2q', pytest.param('fp32', marks=SLOW)]
)
PLACED = pytest.mark.parametrize('placement', prompts.PLACEMENTS)


def some_and_others(names, some, others):
  """Cases of the ordinary run, and those that are left for the slow one."""
  slow = [pytest.param(*case, marks=SLOW) for case in others]
  return pytest.mark.parametrize(names, [*some, *slow])


def make(scheme='a2q', prompt=LIVE, **changes):
  fields = {'outputs': 3, 'features': 8, 'num_layers': 2, **changes}
  return network.Network(
    backbone=backbones.GIN(), scheme=SCHEMES[scheme], prompt=prompt, **fields
  )


@functools.cache
def graph_list():
  return helpers.random_graphs(1)


def batch_of(graph_list, budget=BUDGET, *, layout=True):
  labels = np.arange(len(graph_list)) % 3
  batch = graphs.batch_graphs(graph_list, labels, budget, layout=layout)
  return jax.tree.map(jnp.asarray, batch)


@functools.cache
def _variables_of(model):
  """Parameters and running statistics that some training has moved."""
  batch = batch_of(graph_list())
  variables = _init(model)(
    jax.random.key(1), batch.graph, layout=batch.layout, train=True
  )
  rng = np.random.default_rng(0)
  stats = jax.tree.map(
    lambda v: v + jnp.asarray(rng.uniform(-0.3, 0.3, v.shape), v.dtype),
    variables['batch_stats'],
  )
  return {'params': variables['params'], 'batch_stats': stats}


def variables_of(model):
  # Neither changes a parameter: one initialization serves all of them.
  prompt = dataclasses.replace(model.prompt, placement='pre', bits=32)
  return _variables_of(model.clone(prompt=prompt))


@functools.cache
def _init(model):
  return jax.jit(model.init, static_argnames='train')


@functools.cache
def _pass(model, train):
  def run(variables, graph, layout):
    return model.apply(
      variables,
      graph,
      layout=layout,
      train=train,
      mutable=['batch_stats', 'memory', telemetry.COLLECTION],
    )

  return run, jax.jit(run)


def apply(model, variables, batch, *, train=False, jit=True):
  """Logits of the real graphs, and the collections that a pass writes."""
  run = _pass(model, train)[int(jit)]
  logits, sown = run(variables, batch.graph, batch.layout)
  return np.asarray(logits)[: int(graphs.graph_mask(batch.graph).sum())], sown


def assert_logits_close(actual, expected, scheme):
  """FP32: other shapes and orders change the last bits of the sums.

  A2Q: the same bits may carry a value over a rounding tie, or a row to the
  next group, and then a whole step is seen; no value of these examples does.
  """
  assert actual.shape == expected.shape
  rtol = {'fp32': 1e-5, 'a2q': 1e-4}[scheme]
  np.testing.assert_allclose(
    actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max()
  )


class TestParameters:
  def test_paths_and_shapes(self):
    """Paths are part of the interface: checkpoints are read by them."""
    params = variables_of(make())['params']
    layer = {
      'eps': (),
      'message/scale': (8,),
      'message/bits': (8,),
      'aggregate/scale': (16,),
      'aggregate/bits': (16,),
      'prompt/up': (2, 8),
      'prompt/down': (4, 2),
      'prompt/kernel': (8, 4),
      'prompt/bias': (4,),
      'dense_0/kernel': (8, 8),
      'dense_0/bias': (8,),
      'dense_0/weight/scale': (8,),
      'dense_0/weight/bits': (8,),
      'norm_0/bn/scale': (8,),
      'norm_0/bn/bias': (8,),
      'dense_1/kernel': (8, 8),
      'dense_1/bias': (8,),
      'dense_1/input/scale': (16,),
      'dense_1/input/bits': (16,),
      'dense_1/weight/scale': (8,),
      'dense_1/weight/bits': (8,),
      'norm_1/bn/scale': (8,),
      'norm_1/bn/bias': (8,),
    }
    expected = {'node_prompt/prompt': (1, 3)}
    for i in range(2):
      expected |= {f'conv_{i}/{path}': shape for path, shape in layer.items()}
    for name, width, out in (
      ('embedding', 3, 8),
      ('readout_0', 8, 8),
      ('readout_1', 8, 3),
    ):
      expected |= {
        f'{name}/kernel': (width, out),
        f'{name}/bias': (out,),
        f'{name}/input/scale': (16,),
        f'{name}/input/bits': (16,),
        f'{name}/weight/scale': (out,),
        f'{name}/weight/bits': (out,),
      }
    assert helpers.tree_spec(params) == expected

  def test_without_quantizers_and_prompts(self):
    params = variables_of(make('fp32', prompts.PromptSpec()))['params']
    paths = helpers.tree_spec(params)
    parts = {part for path in paths for part in path.split('/')}
    assert not parts & {'message', 'aggregate', 'input', 'weight', 'prompt'}
    assert 'node_prompt' not in parts

  def test_statistics(self):
    stats = variables_of(make())['batch_stats']
    assert helpers.tree_spec(stats) == {
      f'conv_{i}/norm_{j}/bn/{name}': (8,)
      for i in range(2)
      for j in range(2)
      for name in ('mean', 'var')
    }
    pooled = variables_of(make('fp32', normalize_pooled=True))['batch_stats']
    assert 'norm_pooled' in pooled

  @some_and_others('scheme', ['fp32'], [('a2q',)])
  def test_init_leaves_statistics_alone(self, key, scheme):
    batch = batch_of(graph_list())
    init = _init(make(scheme))
    for train in (False, True):
      variables = init(key, batch.graph, layout=batch.layout, train=train)
      for leaf in jax.tree.leaves(variables['batch_stats']):
        assert np.all(leaf == leaf[0]) and leaf[0] in (0, 1)

  def test_init_does_not_depend_on_train(self, key):
    batch = batch_of(graph_list())
    init = _init(make('fp32'))
    one, other = (
      init(key, batch.graph, layout=batch.layout, train=train)
      for train in (False, True)
    )
    for name in ('params', 'batch_stats'):
      helpers.assert_trees_close(one[name], other[name])

  def test_data_start_of_quantizers_fits_the_pass_that_init_ran(self, key):
    """Batch norm moves the ranges: a training run starts with train=True."""
    batch = batch_of(graph_list())
    model = make()
    errors = {}
    init = _init(model)
    for start in (False, True):
      variables = init(key, batch.graph, layout=batch.layout, train=start)
      variables = {k: variables[k] for k in ('params', 'batch_stats')}
      _, sown = apply(model, variables, batch, train=True)
      reports = helpers.records(
        sown[telemetry.COLLECTION], telemetry.FeatureRecord
      )
      errors[start] = max(
        float(np.sum(r.error * r.mask) / np.sum(r.energy * r.mask))
        for (r,) in reports.values()
      )
    assert errors[True] < 0.05 < errors[False]

  def test_data_start_leaves_no_dead_channel(self):
    model = make()
    params = variables_of(model)['params']
    found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      names = [key.key for key in path]
      if names[-1] != 'kernel' or 'prompt' in names:
        continue
      node = params
      for name in names[:-1]:
        node = node[name]
      codes = np.round(leaf / node['weight']['scale'][None])
      np.testing.assert_array_equal(np.abs(codes).max(0), 7)
      found += 1
    assert found == 7


class TestFullPrecision:
  def test_model_in_numpy(self):
    """Every graph on its own, with dense matrices, in float64."""
    model = make('fp32')
    variables = variables_of(model)
    expected = [in_numpy(variables, graph) for graph in graph_list()]
    logits, _ = apply(model, variables, batch_of(graph_list()))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


class TestInvariance:
  @some_and_others(
    'scheme, train',
    [('a2q', True)],
    [('fp32', False), ('fp32', True), ('a2q', False)],
  )
  def test_more_padding(self, scheme, train):
    model = make(scheme)
    variables = variables_of(model)
    small, sown = apply(model, variables, batch_of(graph_list()), train=train)
    large, sown_large = apply(
      model, variables, batch_of(graph_list(), LARGER), train=train
    )
    assert_logits_close(large, small, scheme)
    helpers.assert_trees_close(
      sown_large['batch_stats'], sown['batch_stats'], rtol=1e-5, atol=1e-6
    )

  @BOTH
  @pytest.mark.parametrize(
    'train',
    [
      pytest.param(False, marks=SLOW, id='eval'),
      pytest.param(True, id='train'),
    ],
  )
  def test_garbage_in_padding(self, scheme, train):
    """Same shapes, same order: nothing may change, not even a bit."""
    model = make(scheme)
    variables = variables_of(model)
    batch = batch_of(graph_list())
    real = np.asarray(graphs.node_mask(batch.graph))[:, None]
    garbage = 100 * np.random.default_rng(0).normal(size=(32, 3))
    nodes = np.where(real, batch.graph.nodes, garbage).astype(np.float32)
    dirty = batch._replace(graph=batch.graph._replace(nodes=nodes))
    clean_logits, clean = apply(model, variables, batch, train=train)
    dirty_logits, sown = apply(model, variables, dirty, train=train)
    np.testing.assert_array_equal(dirty_logits, clean_logits)
    helpers.assert_trees_close(sown['batch_stats'], clean['batch_stats'])
    if scheme == 'a2q':
      helpers.assert_trees_close(sown['memory'], clean['memory'])

  @BOTH
  def test_garbage_does_not_reach_gradients(self, scheme):
    model = make(scheme)
    variables = variables_of(model)
    batch = batch_of(graph_list())
    real = np.asarray(graphs.node_mask(batch.graph))[:, None]
    dirty = np.where(real, batch.graph.nodes, 7).astype(np.float32)
    dirty = batch._replace(graph=batch.graph._replace(nodes=dirty))
    gradient = functools.partial(_gradient(model), variables)
    helpers.assert_trees_close(gradient(dirty), gradient(batch))

  @BOTH
  def test_permuted_nodes(self, scheme):
    model = make(scheme)
    variables = variables_of(model)
    rng = np.random.default_rng(0)
    permuted = [helpers.permute_nodes(g, rng) for g in graph_list()]
    one, _ = apply(model, variables, batch_of(graph_list()))
    other, _ = apply(model, variables, batch_of(permuted))
    assert_logits_close(other, one, scheme)

  @BOTH
  def test_permuted_graphs(self, scheme):
    model = make(scheme)
    variables = variables_of(model)
    order = [3, 0, 4, 2, 1]
    one, _ = apply(model, variables, batch_of(graph_list()))
    other, _ = apply(
      model, variables, batch_of([graph_list()[i] for i in order])
    )
    assert_logits_close(other, one[order], scheme)

  @BOTH
  def test_graphs_do_not_see_each_other(self, scheme):
    model = make(scheme)
    variables = variables_of(model)
    together, _ = apply(model, variables, batch_of(graph_list()))
    alone = [
      apply(model, variables, batch_of([graph]))[0][0] for graph in graph_list()
    ]
    assert_logits_close(np.stack(alone), together, scheme)

  @some_and_others('scheme', ['fp32'], [('a2q',)])
  def test_layout(self, scheme):
    model = make(scheme)
    variables = variables_of(model)
    one, _ = apply(model, variables, batch_of(graph_list()))
    for budget, layout in (
      (BUDGET, False),
      (BUDGET._replace(max_out_degree=100), True),
    ):
      batch = batch_of(graph_list(), budget, layout=layout)
      other, _ = apply(model, variables, batch)
      assert_logits_close(other, one, scheme)

  @some_and_others('scheme', ['fp32'], [('a2q',)])
  def test_jit(self, scheme):
    model = make(scheme)
    variables = variables_of(model)
    batch = batch_of(graph_list())
    jitted, _ = apply(model, variables, batch)
    eager, _ = apply(model, variables, batch, jit=False)
    assert_logits_close(eager, jitted, scheme)

  def test_examples_are_no_trivial_ones(self):
    for scheme in SCHEMES:
      model = make(scheme)
      logits, _ = apply(model, variables_of(model), batch_of(graph_list()))
      assert np.std(logits, axis=0).min() > 1e-3

  def test_one_compilation_for_one_budget(self):
    model = make()
    variables = variables_of(model)
    step = jax.jit(
      lambda batch: model.apply(
        variables, batch.graph, layout=batch.layout, train=False
      )
    )
    for seed, sizes in ((1, (5, 1, 0, 9, 3)), (2, (2,)), (3, (7, 7))):
      step(batch_of(helpers.random_graphs(seed, sizes=sizes)))
    assert step._cache_size() == 1


class TestPrompts:
  @some_and_others(
    'scheme, placement',
    [('fp32', 'post'), ('a2q', 'bypass')],
    [
      *(('fp32', p) for p in prompts.PLACEMENTS if p != 'post'),
      *(('a2q', p) for p in prompts.PLACEMENTS if p != 'bypass'),
    ],
  )
  def test_zeroed_prompts_are_exactly_no_prompt(self, scheme, placement):
    plain = make(scheme, prompts.PromptSpec())
    prompted = make(scheme, dataclasses.replace(PROMPT, placement=placement))
    variables = variables_of(make(scheme))
    zeroed = change(variables, 'up', jnp.zeros_like)
    zeroed['params']['node_prompt']['prompt'] = jnp.zeros((1, 3))
    batch = batch_of(graph_list())
    for train in (False, True) if scheme == 'fp32' else (True,):
      one, _ = apply(plain, without_prompts(variables), batch, train=train)
      other, _ = apply(prompted, zeroed, batch, train=train)
      np.testing.assert_array_equal(other, one)
      live, _ = apply(prompted, variables, batch, train=train)
      assert np.abs(live - one).max() > 1e-3

  def test_zero_start_is_zero(self):
    params = variables_of(make('fp32', PROMPT))['params']
    assert not np.any(params['node_prompt']['prompt'])
    for i in range(2):
      assert not np.any(params[f'conv_{i}']['prompt']['up'])
      assert np.all(params[f'conv_{i}']['prompt']['down'] != 0)

  @BOTH
  def test_placements_differ_from_each_other(self, scheme):
    specs = [dataclasses.replace(LIVE, placement=p) for p in prompts.PLACEMENTS]
    variables = variables_of(make(scheme, specs[0]))
    batch = batch_of(graph_list())
    logits = [apply(make(scheme, s), variables, batch)[0] for s in specs]
    # Without a quantizer all three add the same prompt to the same sum.
    differ = (
      np.abs(logits[0] - logits[1]).max() > 1e-3,
      (np.abs(logits[1] - logits[2]).max() > 1e-3),
    )
    assert differ == ((True, True) if scheme == 'a2q' else (False, False))

  @SLOW  # A row of tests/matrix_test.py trains each.
  @pytest.mark.parametrize('name', list(prompts.PROMPTS))
  def test_every_prompt_runs(self, name):
    spec = dataclasses.replace(LIVE, name=name)
    model = make('fp32', spec, num_layers=1)
    logits, _ = apply(model, variables_of(model), batch_of(graph_list()))
    assert np.all(np.isfinite(logits))

  @some_and_others(
    'scheme, placement, bits',
    [('fp32', 'post', 4), ('a2q', 'bypass', 32)],
    [
      ('a2q', 'pre', 32),
      ('fp32', 'pre', 32),
      ('a2q', 'post', 4),
      ('fp32', 'bypass', 32),
    ],
  )
  def test_gradients_reach_the_prompts(self, scheme, placement, bits):
    spec = dataclasses.replace(LIVE, placement=placement, bits=bits)
    model = make(scheme, spec)
    grads = gradients(model)
    for i in range(2):
      for name, leaf in grads[f'conv_{i}']['prompt'].items():
        assert np.any(leaf), (i, name)
    assert np.any(grads['node_prompt']['prompt'])

  def test_zero_start_can_leave_zero(self):
    model = make('fp32', PROMPT)
    grads = gradients(model)
    for i in range(2):
      assert np.any(grads[f'conv_{i}']['prompt']['up'])
    assert np.any(grads['node_prompt']['prompt'])

  def test_gradients_reach_all_parameters(self):
    model = make()
    grads = gradients(model)
    silent = {
      path
      for path in helpers.tree_spec(grads)
      if not np.any(functools.reduce(lambda t, k: t[k], path.split('/'), grads))
    }
    # Fixed bits learn only where something is clipped; a bias in front of a
    # batch norm is taken out by it up to rounding.
    assert all(path.endswith('/bits') for path in silent), silent


class TestTelemetry:
  def reports(self, model, kind, *, variables=None):
    variables = variables or variables_of(model)
    _, sown = apply(model, variables, batch_of(graph_list()))
    return helpers.records(sown[telemetry.COLLECTION], kind)

  def test_full_precision_reports_32_bits(self):
    reports = self.reports(make('fp32'), telemetry.FeatureRecord)
    assert set(reports) == feature_paths()
    for (report,) in reports.values():
      np.testing.assert_array_equal(report.bits, 32)
      np.testing.assert_array_equal(report.error, 0)

  def test_non_negative_data_is_reported_with_one_bit_less(self):
    """All tables start at 4 bits, 5 inside for what a ReLU has left."""
    model = make()
    variables = variables_of(model)
    reports = self.reports(model, telemetry.FeatureRecord)
    assert set(reports) == feature_paths()
    for path, (report,) in reports.items():
      real = np.asarray(report.bits)[np.asarray(report.mask)]
      np.testing.assert_array_equal(real, 4, err_msg=path)
    params = variables['params']
    for node, inside in (
      (params['conv_0']['dense_1']['input'], 5),
      (params['readout_1']['input'], 5),
      (params['conv_0']['aggregate'], 4),
      (params['embedding']['input'], 4),
    ):
      np.testing.assert_array_equal(np.round(node['bits']), inside)

  def test_masks_count_real_rows(self):
    reports = self.reports(make(), telemetry.FeatureRecord)
    for path, (report,) in reports.items():
      rows = REAL if path.startswith('readout') else 18
      assert report.mask.sum() == rows, path

  @BOTH
  @PLACED
  def test_side_path(self, scheme, placement):
    model = make(scheme, dataclasses.replace(LIVE, placement=placement))
    reports = self.reports(model, telemetry.SideRecord)
    if placement == 'pre':
      assert not reports
      return
    assert set(reports) == {'conv_0/prompt', 'conv_1/prompt'}
    for (report,) in reports.values():
      assert report.row_bits == 64 and report.mask.sum() == 18

  @pytest.mark.parametrize(
    'scheme, bits', [('fp32', (32, 32)), ('a2q', (4, 4))]
  )
  def test_products(self, scheme, bits):
    reports = self.reports(make(scheme), telemetry.ProductRecord)
    rows = {
      'embedding': 18 * 24,
      'readout_0': REAL * 64,
      'readout_1': REAL * 24,
    }
    for i in range(2):
      rows |= {f'conv_{i}/dense_{j}': 18 * 64 for j in range(2)}
    for path, macs in rows.items():
      (report,) = reports.pop(path)
      assert report.macs == macs, path
      assert report.bit_ops == macs * bits[0] * bits[1], path
    assert set(reports) == {'conv_0/prompt', 'conv_1/prompt'}

  def test_memory(self):
    model = make()
    _, sown = apply(model, variables_of(model), batch_of(graph_list()))
    leaves = jax.tree.leaves(sown['memory'])
    assert len(leaves) == 7 and all(leaf > 0 for leaf in leaves)
    _, sown = apply(
      make('fp32'), variables_of(make('fp32')), batch_of(graph_list())
    )
    assert not jax.tree.leaves(sown.get('memory', {}))


class TestNnxBridge:
  def test_runs(self):
    bridge = pytest.importorskip('flax.nnx').bridge
    from flax import nnx

    batch = batch_of(graph_list())
    linen = make('fp32', prompts.PromptSpec(), num_layers=1)
    model = bridge.ToNNX(linen, rngs=nnx.Rngs(0)).lazy_init(
      batch.graph, layout=batch.layout, train=False
    )
    logits = model(batch.graph, layout=batch.layout, train=False)
    assert logits.shape == (7, 3)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    expected, _ = apply(linen, {'params': params, 'batch_stats': stats}, batch)
    np.testing.assert_allclose(logits[:REAL], expected, rtol=1e-5, atol=1e-6)


def in_numpy(variables, graph):
  """Logits of one graph by GIN with GPF and LoRAP."""
  variables = jax.tree.map(lambda v: np.asarray(v, np.float64), variables)
  params, stats = variables['params'], variables['batch_stats']

  def dense(x, p):
    return x @ p['kernel'] + p['bias']

  n = len(graph.nodes)
  adjacency = np.zeros((n, n))
  np.add.at(adjacency, (graph.receivers, graph.senders), 1)
  x = graph.nodes + params['node_prompt']['prompt']
  x = dense(x, params['embedding'])
  for i in range(2):
    layer = params[f'conv_{i}']
    x = (1 + layer['eps']) * x + adjacency @ x
    scores = np.exp(dense(x, layer['prompt']))
    weights = scores / scores.sum(1, keepdims=True)
    x = x + weights @ layer['prompt']['down'] @ layer['prompt']['up']
    for j in range(2):
      norm, running = layer[f'norm_{j}']['bn'], stats[f'conv_{i}'][f'norm_{j}']
      x = dense(x, layer[f'dense_{j}']) - running['bn']['mean']
      x = x / np.sqrt(running['bn']['var'] + 1e-5)
      x = np.maximum(x * norm['scale'] + norm['bias'], 0)
  pooled = x.sum(0) / max(n, 1)
  hidden = np.maximum(dense(pooled, params['readout_0']), 0)
  return dense(hidden, params['readout_1'])


def feature_paths():
  paths = {'embedding/input', 'readout_0/input', 'readout_1/input'}
  for i in range(2):
    paths |= {
      f'conv_{i}/{point}' for point in ('message', 'aggregate', 'dense_1/input')
    }
  return paths


def without_prompts(tree):
  if not isinstance(tree, dict):
    return tree
  return {
    key: without_prompts(leaf)
    for key, leaf in tree.items()
    if key not in ('prompt', 'node_prompt')
  }


def change(tree, name, function):
  """A copy of the tree with the leaves called `name` changed."""
  return {
    key: change(leaf, name, function)
    if isinstance(leaf, dict)
    else (function(leaf) if key == name else leaf)
    for key, leaf in tree.items()
  }


@functools.cache
def _gradient(model):
  """Of squared errors of the real graphs in training, by parameters."""
  target = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)

  def loss(params, variables, batch):
    logits, _ = model.apply(
      {**variables, 'params': params},
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['batch_stats', 'memory'],
    )
    mask = graphs.graph_mask(batch.graph)[:, None]
    return jnp.sum(jnp.where(mask, (logits - target) ** 2, 0))

  return jax.jit(
    lambda variables, batch: jax.grad(loss)(
      variables['params'], variables, batch
    )
  )


def gradients(model):
  grads = _gradient(model)(variables_of(model), batch_of(graph_list()))
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert np.all(np.isfinite(leaf)), path
  return grads
