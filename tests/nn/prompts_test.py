import dataclasses

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import prompts as pure
from lorap_jax.nn import prompts, telemetry
from lorap_jax.nn.quantized import Quantized, Rows

MASK = jnp.arange(9)[:, None] < 6
ROWS = Rows(MASK)
LORAP = prompts.PromptSpec('lorap', num_prompts=5, rank=2, init='glorot')


def at(placement):
  return dataclasses.replace(LORAP, placement=placement)


def rounding(x):
  """A quantizer that leaves no doubt about where it acts."""
  return Quantized(jnp.round(x), 3.0)


def run(module, x, key):
  params = module.init(key, x, rows=ROWS)['params']
  out, sown = module.apply(
    {'params': params}, x, rows=ROWS, mutable=[telemetry.COLLECTION]
  )
  return params, out, sown.get(telemetry.COLLECTION, {})


class Host(nn.Module):
  """The part of a layer that prompts its aggregate."""

  spec: prompts.PromptSpec

  @nn.compact
  def __call__(self, s):
    return prompts.prompted(self.spec, rounding, s, rows=ROWS)


class Training(nn.Module):
  """The same in training, with the aggregate of unquantized messages."""

  spec: prompts.PromptSpec

  @nn.compact
  def __call__(self, s, exact):
    return prompts.prompted(
      self.spec, rounding, s, rows=Rows(MASK, True), exact=lambda: exact
    )


def place(spec, s, key):
  """The output of Host, its prompt, and what the prompt sowed."""
  host = Host(spec)
  params = host.init(key, s)['params']
  out, sown = host.apply({'params': params}, s, mutable=[telemetry.COLLECTION])
  p = pure.LoRAPParams(
    **{name: params['prompt'].get(name) for name in pure.LoRAPParams._fields}
  )
  return out, p, sown[telemetry.COLLECTION]['prompt']


class TestPlacement:
  @pytest.mark.parametrize('placement', prompts.PLACEMENTS)
  def test_written_out(self, key, placement):
    s = 3 * jax.random.normal(key, (9, 6))
    out, p, _ = place(at(placement), s, key)
    before, after = (pure.lorap_prompt(p, x) for x in (s, jnp.round(s)))
    expected = {
      'pre': jnp.round(s + before),
      'post': jnp.round(s) + after,
      'bypass': jnp.round(s) + before,
    }[placement]
    np.testing.assert_allclose(out.values, expected, rtol=1e-5, atol=1e-6)
    assert out.bits == 3

  def test_placements_differ(self, key):
    s = 3 * jax.random.normal(key, (9, 6))
    outs = [
      np.asarray(place(at(where), s, key)[0].values)
      for where in prompts.PLACEMENTS
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
      assert np.abs(outs[a] - outs[b]).max() > 1e-3

  @pytest.mark.parametrize('placement', prompts.PLACEMENTS)
  @pytest.mark.parametrize('bits', [4, 32])
  def test_zero_start_is_exactly_no_prompt(self, key, placement, bits):
    s = 3 * jax.random.normal(key, (9, 6))
    spec = dataclasses.replace(at(placement), init='zero', bits=bits)
    out, _, _ = place(spec, s, key)
    np.testing.assert_array_equal(out.values, jnp.round(s))

  def test_no_prompt(self, key):
    s = 3 * jax.random.normal(key, (9, 6))
    out = prompts.prompted(prompts.PromptSpec(), rounding, s, rows=ROWS)
    np.testing.assert_array_equal(out.values, jnp.round(s))

  @pytest.mark.parametrize('objective', ['task', 'local', 'both'])
  @pytest.mark.parametrize('placement', ['post', 'bypass'])
  def test_local_objective(self, key, placement, objective):
    """Its value by hand, and who gets a gradient from which part."""
    spec = dataclasses.replace(at(placement), objective=objective)
    s = 3 * jax.random.normal(key, (9, 6))
    exact = s + 0.1
    variables = Training(spec).init(key, s, exact)

    def parts(params, s):
      out, sown = Training(spec).apply(
        {'params': params}, s, exact, mutable=[prompts.LOCAL_LOSS]
      )
      shares = jax.tree.leaves(sown.get(prompts.LOCAL_LOSS, {}))
      return jnp.sum(out.values**2), sum(shares, jnp.float32(0))

    params = variables['params']
    task = jax.grad(lambda p: parts(p, s)[0])(params)
    local, local_s = jax.grad(lambda p, s: parts(p, s)[1], (0, 1))(params, s)
    reaches = lambda tree: any(np.any(v) for v in jax.tree.leaves(tree))
    assert reaches(task) == (objective != 'local')
    assert reaches(local) == (objective != 'task')
    assert not np.any(local_s)
    if objective != 'task':
      out, _ = parts(params, s)
      y = Training(spec).apply({'params': params}, s, exact).values
      error = np.square(exact - y)[:6].sum() / np.square(exact)[:6].sum()
      np.testing.assert_allclose(parts(params, s)[1], error, rtol=1e-5)

  def test_local_objective_needs_a_place_after_the_quantizer(self):
    with pytest.raises(ValueError, match="'post' or 'bypass'"):
      prompts.PromptSpec('lorap', objective='local')

  @pytest.mark.parametrize('form', ['bias', 'adapter'])
  def test_controls(self, key, form):
    spec = dataclasses.replace(at('bypass'), form=form)
    s = 3 * jax.random.normal(key, (9, 6))
    host = Host(spec)
    params = host.init(key, s)['params']
    out = host.apply({'params': params}, s)
    np.testing.assert_array_equal(out.values, jnp.round(s))  # Zero start.
    params = jax.tree.map(lambda v: v + 0.5, params)
    out = host.apply({'params': params}, s).values - jnp.round(s)
    p = params['prompt']
    if form == 'bias':
      expected = jnp.broadcast_to(p['prompt'], s.shape)
    else:
      assert p['down'].shape == (6, 4)  # 57 parameters of LoRAP over 13.
      expected = jax.nn.relu(s @ p['down'] + p['bias'][None]) @ p['up']
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)

  @pytest.mark.parametrize('placement', prompts.PLACEMENTS)
  def test_side_path(self, key, placement):
    """Only what is added after Q has to travel beside the codes."""
    s = jnp.ones((9, 6))
    _, _, sown = place(at(placement), s, key)
    if placement == 'pre':
      assert 'side_path' not in sown
      return
    report = sown['side_path']
    assert report.row_bits == 32 * 2  # The rank.
    np.testing.assert_array_equal(report.mask, MASK[:, 0])

  @pytest.mark.parametrize(
    'changes, width',
    [
      ({}, 2),
      ({'low_rank': 'basis_and_score'}, 2),
      ({'low_rank': 'none'}, 5),
      ({'bits': 4}, 5),
    ],
  )
  def test_side_width(self, changes, width):
    module = dataclasses.replace(LORAP, **changes).on_aggregate()
    assert module.side_width() == width


class TestModules:
  @pytest.mark.parametrize('low_rank', ['basis', 'basis_and_score', 'none'])
  @pytest.mark.parametrize('bits', [4, 32])
  def test_lorap_is_the_pure_function(self, key, low_rank, bits):
    s = jax.random.normal(key, (9, 6))
    spec = dataclasses.replace(LORAP, low_rank=low_rank, bits=bits)
    params, out, tree = run(spec.on_aggregate(), s, key)
    p = pure.LoRAPParams(
      **{name: params.get(name) for name in pure.LoRAPParams._fields}
    )
    np.testing.assert_array_equal(out, pure.lorap_prompt(p, s, bits=bits))
    count = pure.num_lorap_params(6, num_prompts=5, rank=2, low_rank=low_rank)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    product = tree['product']
    assert product.bit_ops == product.macs * 32 * bits

  def test_factors_are_drawn_independently(self, key):
    s = jnp.ones((9, 5))
    spec = dataclasses.replace(LORAP, rank=5, low_rank='basis_and_score')
    params, _, _ = run(spec.on_aggregate(), s, key)
    names = ('up', 'down', 'kernel', 'score_down')  # All of shape [5, 5].
    for i, a in enumerate(names):
      for b in names[i + 1 :]:
        ratio = params[a] / params[b]
        assert np.std(ratio) > 1e-3 * np.abs(ratio).mean(), (a, b)

  def test_gpf(self, key):
    x = jax.random.normal(key, (9, 6))
    spec = prompts.PromptSpec('gpf', node_init='glorot')
    params, out, tree = run(spec.on_nodes(), x, key)
    assert helpers.tree_spec(params) == {'prompt': (1, 6)}
    assert np.all(params['prompt'] != 0)
    np.testing.assert_array_equal(out, x + params['prompt'])
    assert 'product' not in tree

  def test_gpf_plus(self, key):
    x = jax.random.normal(key, (9, 6))
    spec = prompts.PromptSpec('gpf_plus', num_prompts=4, node_init='glorot')
    params, out, tree = run(spec.on_nodes(), x, key)
    assert helpers.tree_spec(params) == {
      'prompt': (4, 6),
      'kernel': (6, 4),
      'bias': (4,),
    }
    expected = pure.add_gpf_plus(
      x, params['prompt'], params['kernel'], params['bias']
    )
    np.testing.assert_array_equal(out, expected)
    product = tree['product']
    assert product.macs == 6 * 2 * 4 * 6  # 6 real rows.

  @pytest.mark.parametrize('name', ['gpf', 'gpf_plus'])
  def test_zero_start_of_node_prompts(self, key, name):
    x = jax.random.normal(key, (9, 6))
    _, out, _ = run(prompts.PromptSpec(name).on_nodes(), x, key)
    np.testing.assert_array_equal(out, x)


class TestSpec:
  @pytest.mark.parametrize(
    'name, on_nodes, on_aggregate',
    [
      ('none', None, None),
      ('gpf', prompts.GPFPrompt, None),
      ('gpf_plus', prompts.GPFPlusPrompt, None),
      ('lorap', None, prompts.LoRAPPrompt),
      ('gpf_lorap', prompts.GPFPrompt, prompts.LoRAPPrompt),
      ('gpf_plus_lorap', prompts.GPFPlusPrompt, prompts.LoRAPPrompt),
    ],
  )
  def test_hooks(self, name, on_nodes, on_aggregate):
    spec = prompts.PromptSpec(name)
    for hook, kind in (
      (spec.on_nodes(), on_nodes),
      (spec.on_aggregate(), on_aggregate),
    ):
      assert hook is None if kind is None else isinstance(hook, kind)

  @pytest.mark.parametrize(
    'field, value',
    [
      ('name', 'lora'),
      ('placement', 'after'),
      ('num_prompts', 0),
      ('rank', 0),
      ('init', 'ones'),
      ('node_init', 'ones'),
      ('low_rank', 'all'),
      ('bits', 1),
      ('bits', 16),
      ('implementation', 'triton'),
    ],
  )
  def test_errors(self, field, value):
    # Called without the type checks of the test run, as a user would.
    init = prompts.PromptSpec.__init__
    init = getattr(init, '__wrapped__', init)
    spec = object.__new__(prompts.PromptSpec)
    with pytest.raises(ValueError, match=f'`{field}` must be .*{value}'):
      init(spec, **{field: value})
