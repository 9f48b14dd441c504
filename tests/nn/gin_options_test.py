import functools

import helpers
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax.nn import conv, methods, prompts

FORMS = {
  'one_dense': {'num_dense': 1},
  'three_dense': {'num_dense': 3},
  'norm_last': {'norm': 'last'},
  'norm_none': {'norm': 'none'},
  'logits': {'last': True},
  'logits_norm_last': {'last': True, 'norm': 'last'},
  'neighbors_only': {'own_term': False},
}
QAT = methods.QAT(bits=4)


@functools.cache
def batch_of():
  return layers.batch_of(layers.graph_list())


@functools.cache
def variables_of(layer):
  """Away from the start, where norms and eps hide their parameters."""
  rng = np.random.default_rng(0)
  variables = layers.init(layer, batch_of())
  variables['params'] = jax.tree.map(
    lambda v: v + jnp.asarray(rng.uniform(-0.4, 0.4, v.shape), v.dtype),
    variables['params'],
  )
  return variables


def oracle(layer, variables, graph):
  """The layer in training, in float64, for real nodes only."""
  params = jax.tree.map(
    lambda v: np.asarray(v, np.float64), variables['params']
  )

  def norm(h, p):
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    return h * p['bn']['scale'] + p['bn']['bias']

  h = layers.adjacency(graph) @ graph.nodes
  if layer.own_term:
    h += (1 + params['eps']) * graph.nodes
  h = h[: layers.REAL]
  for i in range(layer.num_dense):
    dense = params[f'dense_{i}']
    h = h @ dense['kernel'] + dense['bias']
    if layer.norm == 'each':
      h = norm(h, params[f'norm_{i}'])
    if i < layer.num_dense - 1 or not layer.last:
      h = np.maximum(h, 0)
  return norm(h, params['norm']) if layer.norm == 'last' else h


@pytest.mark.parametrize('form', list(FORMS))
def test_dense_matrices(form):
  layer = conv.GINConv(6, methods.FP32(), **FORMS[form])
  variables = variables_of(layer)
  rows = layers.rows_of(batch_of(), train=True)
  out, _, _ = layers.apply(layer, variables, batch_of(), rows=rows)
  expected = oracle(layer, variables, batch_of().graph)
  np.testing.assert_allclose(out[: layers.REAL], expected, rtol=1e-3, atol=1e-3)
  negative = expected.min() < -0.1
  assert negative == (form in ('norm_last', 'logits', 'logits_norm_last'))


@pytest.mark.parametrize('form', list(FORMS))
def test_parameters(form):
  fields = FORMS[form]
  spec = helpers.tree_spec(
    variables_of(conv.GINConv(6, methods.FP32(), **fields))['params']
  )
  expected = {'eps': ()} if fields.get('own_term', True) else {}
  norms = []
  for i in range(fields.get('num_dense', 2)):
    expected |= {
      f'dense_{i}/kernel': (6 if i else 4, 6),
      f'dense_{i}/bias': (6,),
    }
    norms.append(f'norm_{i}')
  norms = {'each': norms, 'last': ['norm'], 'none': []}[
    fields.get('norm', 'each')
  ]
  for name in norms:
    expected |= {f'{name}/bn/scale': (6,), f'{name}/bn/bias': (6,)}
  assert spec == expected


class TestFullPrecisionDense:
  def layer(self, full, **fields):
    return conv.GINConv(6, QAT, full_precision_dense=full, **fields)

  def test_points(self):
    """What is left out: the aggregate and both tensors of the first layer."""
    names = [
      set(layers.points_of(self.layer(full), batch_of()))
      for full in (False, True)
    ]
    assert names[0] == {
      'message',
      'neighbor_sum',
      'aggregate',
      'dense_0/weight',
      'dense_0/output',
      'dense_1/input',
      'dense_1/weight',
      'dense_1/output',
      'update',
    }
    assert names[0] - names[1] == {'dense_0/weight', 'dense_0/output'}

  def test_first_dense_sees_the_sum_as_it_is(self):
    layer = self.layer(True, num_dense=2, norm='none')
    variables = variables_of(layer)
    rows = layers.rows_of(batch_of(), train=True)
    _, _, calls = layers.apply(layer, variables, batch_of(), rows=rows)
    params = jax.tree.map(np.asarray, variables['params'])
    own = (1 + params['eps']) * calls['message'].values
    s = own + calls['neighbor_sum'].values
    np.testing.assert_allclose(
      calls['aggregate'].values, s, rtol=1e-5, atol=1e-5
    )
    assert 'aggregate' not in variables['quant_stats']
    h = s @ params['dense_0']['kernel'] + params['dense_0']['bias']
    np.testing.assert_allclose(
      calls['dense_1/input'].x, np.maximum(h, 0), rtol=1e-4, atol=1e-4
    )


def test_inputs_behind_a_relu_have_unsigned_codes():
  points = layers.points_of(conv.GINConv(6, QAT, num_dense=3), batch_of())
  unsigned = {path for path in points if not points[path].signed}
  assert unsigned == {'dense_1/input', 'dense_2/input'}


def test_neighbors_only_ignores_the_node_in_the_local_objective():
  """Its exact aggregate has no own term either."""
  spec = prompts.PromptSpec(
    'lorap', num_prompts=2, rank=1, placement='post', objective='local'
  )
  layer = conv.GINConv(6, methods.FP32(), spec, own_term=False, norm='none')
  rows = layers.rows_of(batch_of(), train=True)
  variables = layers.init(layer, batch_of())
  _, written, _ = layers.apply(layer, variables, batch_of(), rows=rows)
  (share,) = jax.tree.leaves(written['local_loss'])
  assert share == 0  # Nothing is quantized, and the prompt starts at zero.
