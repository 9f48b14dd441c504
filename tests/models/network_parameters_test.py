"""Paths are part of the interface: checkpoints are read by them."""

import functools

import jax
import networks
import pytest

from lorap_jax.models import backbones
from lorap_jax.nn import methods, prompts

ALL_BACKBONES = pytest.mark.parametrize('backbone', list(networks.BACKBONES))
QAT = methods.QAT(bits=4)
A2Q = methods.A2QGraph(num_groups=8)


class TestParameters:
  """Paths are part of the interface: checkpoints are read by them."""

  PROMPT = prompts.PromptSpec('gpf_lorap', num_prompts=4, rank=2)

  def test_gcn(self):
    """A2Q at graph level with prompts, norm and one Dense layer to read out."""
    model = networks.make(scheme=A2Q, prompt=self.PROMPT, norm=True, readout=1)
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
    assert networks.shapes_of(model) == expected

  def test_gat(self):
    """QAT on a node task: two averaged heads give the logits."""
    model = networks.make(
      'gat', QAT, prompt=self.PROMPT, norm=True, encoder='none', pool='none'
    )
    assert networks.shapes_of(model) == {
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
    assert networks.shapes_of(model, 'quant_stats') == {
      f'{point}/range/{name}': ()
      for point in points
      for name in ('min_val', 'max_val', 'initialized')
    }

  def test_gin(self):
    """MixQ's search on one graph task, neighbours only."""
    scheme = methods.MixQSearch(
      candidates=(4, 8), points=methods.MIXQ_POINTS['gin']
    )
    model = networks.make(
      scheme=scheme, encoder='none', num_layers=1, readout=1
    )
    model = model.clone(backbone=backbones.GIN(mlp_norm='last', own_term=False))
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
    assert networks.shapes_of(model) == expected

  def test_statistics_of_norms(self):
    model = networks.make('gat', norm=True, normalize_pooled=True)
    assert networks.shapes_of(model, 'batch_stats') == {
      f'{norm}/bn/{name}': (6,)
      for norm in ('norm_0', 'norm_1', 'norm_pooled')
      for name in ('mean', 'var')
    }
    assert not networks.shapes_of(
      networks.make('gat', norm=False), 'batch_stats'
    )
    # The MLP of GIN has norms of its own.
    spec = networks.shapes_of(networks.make('gin', norm=True), 'batch_stats')
    assert {path.split('/')[0] for path in spec} == {'conv_0', 'conv_1'}

  @ALL_BACKBONES
  def test_readout_of_node_tasks(self, backbone):
    spec = networks.shapes_of(networks.make(backbone, pool='none'))
    assert not [path for path in spec if path.startswith('readout')]


def test_full_precision_first_is_the_first_layer_only():
  backbone = backbones.GIN(full_precision_first=True)
  model = networks.make(scheme=QAT, encoder='none').clone(backbone=backbone)
  names = set(networks.quantizers_of(model))
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
  layer = backbones.GCN(False, 'keep').layer(**shared)
  assert (layer.self_loops, layer.existing_loops) == (False, 'keep')
  assert layer.non_negative
  backbone = backbones.GAT(4, 2, False, 0.3)
  for last, heads in ((False, 4), (True, 2)):
    layer = backbone.layer(**{**shared, 'last': last})
    assert (layer.heads, layer.concat) == (heads, not last)
    assert (layer.self_loops, layer.attention_dropout) == (False, 0.3)
    assert layer.non_negative
  backbone = backbones.GIN(3, 'last', False, True)
  layer = backbone.layer(**{**shared, 'last': True})
  assert (layer.num_dense, layer.norm, layer.last) == (3, 'last', True)
  assert (layer.own_term, layer.full_precision_dense) == (False, False)
  layer = backbone.layer(**{**shared, 'index': 0})
  assert layer.full_precision_dense and layer.name == 'conv_0'
  assert layer.prompt.name == 'lorap' and layer.scheme is QAT


def test_last_heads_are_those_of_a_node_task():
  """A graph task has `heads` in every layer."""
  shapes = networks.shapes_of(networks.make('gat'))
  assert shapes['conv_1/attention_kernel'] == (2, 6)
  assert networks.BACKBONES['gat'].last_heads == 2


SCHEMES = {
  'fp32': methods.FP32(),
  'qat': QAT,
  'degree_quant': methods.DegreeQuant(),
  'a2q': A2Q,
  'a2q_node': methods.A2QNode(),
  'a2q_uniform': methods.A2QGraph(num_groups=8, start='uniform'),
  'mixq': methods.MixQ(),
  'mixq_search': methods.MixQSearch(candidates=(2, 8)),
}


@ALL_BACKBONES
@pytest.mark.parametrize('scheme', SCHEMES.values(), ids=list(SCHEMES))
def test_no_leaf_is_weakly_typed(backbone, scheme):
  """Else the second training step of one's own loop compiles again."""
  prompt = prompts.PromptSpec('gpf_plus_lorap', num_prompts=4, rank=2)
  model = networks.make(
    backbone, scheme, prompt=prompt, norm=True, num_layers=1
  )
  batch = networks.batch_of()
  keys = {name: jax.random.key(0) for name in ('params', 'dropout')}
  variables = jax.eval_shape(
    functools.partial(model.init, layout=batch.layout, train=True),
    keys,
    batch.graph,
  )
  weak = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      {name: variables.get(name, {}) for name in networks.KEPT}
    )
    if leaf.weak_type
  ]
  assert not weak
