"""What is set has an effect or is refused."""

import dataclasses
import itertools
import logging

import jax
import jraph
import numpy as np
import pytest
import tiny_run

from configs import cells, default
from lorap_jax.models import factory
from lorap_jax.nn import groups, prompts
from lorap_jax.runs import datasets, fields, settings
from lorap_jax.training import optimizer, train_config


def names_of(kind):
  return {f.name for f in dataclasses.fields(kind)}


class TestTable:
  def test_has_the_fields_of_the_defaults(self):
    there = fields.flat(default.get_config().to_dict())
    assert set(fields.NEEDS) == set(there)

  @pytest.mark.parametrize('level', ['node', 'graph'])
  @pytest.mark.parametrize('name', factory.SCHEMES)
  def test_schemes(self, name, level):
    """A field of the table is one of the dataclass, in some cell each."""
    table = factory.NODE_SCHEMES if level == 'node' else factory.SCHEMES
    found = set()
    for backbone, start, encoder, fixed in itertools.product(
      cells.BACKBONES,
      ('data', 'normal'),
      ('none', 'dense'),
      (None, {}),
    ):
      values = fields.complete(
        {
          'data': {'name': 'cora'},
          'model': {'name': backbone, 'encoder': encoder},
          'scheme': {
            'name': name,
            'start': start,
            'assignment': fixed if name == 'mixq' else None,
          },
          'prompt': {'name': 'none'},
        }
      )
      means = fields.meaningful(values, level)
      found |= {
        path.removeprefix('scheme.')
        for path, lacks in means.items()
        if path.startswith('scheme.') and not lacks
      }
    own = names_of(table[name])
    if name == 'mixq':
      own |= names_of(factory.SCHEMES['mixq_search'])
    # What layers, backbones and other fields decide.
    own -= {'inside', 'node_messages'} | (
      {'momentum'} if name == 'dq' else set()
    )
    assert found - {'name'} == own

  def test_backbones_and_network(self):
    own = {
      path.removeprefix('model.')
      for path in fields.NEEDS
      if path.startswith('model.')
    }
    parts = set().union(*map(names_of, factory.BACKBONES.values()))
    parts -= {'last_heads'}  # For networks of one's own.
    network = names_of(factory.network.Network) - {
      'outputs',
      'backbone',
      'scheme',
      'prompt',
      'parent',
      'name',
    }
    assert own == {'name'} | parts | network
    for name, kind in factory.BACKBONES.items():
      for field in parts:
        words = ' '.join(n.words for n in fields.NEEDS[f'model.{field}'])
        assert (name in words) == (field in names_of(kind)), (name, field)

  @pytest.mark.parametrize(
    'group, kind',
    [
      ('prompt', prompts.PromptSpec),
      ('optim', optimizer.OptimizerConfig),
      ('train', train_config.TrainConfig),
    ],
  )
  def test_other_groups(self, group, kind):
    own = {p.partition('.')[2] for p in fields.NEEDS if p.startswith(group)}
    assert own == names_of(kind)

  def test_names(self):
    names = cells.names()
    assert set(names['scheme']) == set(factory.SCHEMES)
    assert set(names['model']) == set(factory.BACKBONES)
    assert names['prompt'] == tuple(prompts.PROMPTS)

  def test_free_fields_exist(self):
    assert set(fields.FREE) <= set(fields.NEEDS)


RATES = {
  'prompt': 'prompt_factor',
  'feature_scale': 'feature_scale_lr',
  'feature_bits': 'feature_bits_lr',
  'message_scale': 'message_scale_lr',
  'weight_scale': 'weight_scale_lr',
  'bit_logits': 'bit_logits_lr',
}


def groups_of(config):
  """The parameter groups of the network of a configuration."""
  chosen = settings.from_config(config)
  count, width = 4, 3
  graph = jraph.GraphsTuple(
    nodes=np.zeros((count, width), np.float32),
    edges=None,
    senders=np.zeros(2, np.int32),
    receivers=np.zeros(2, np.int32),
    n_node=np.array([count - 1, 1]),
    n_edge=np.array([1, 1]),
    globals=None,
  )
  labels = groups.param_labels(chosen.model(3), graph, train=False)
  return set(jax.tree.leaves(labels))


@pytest.mark.parametrize('level', ['node', 'graph'])
@pytest.mark.parametrize(
  'cell',
  [
    'gcn,fp32,none',
    'gcn,qat4,lorap',
    'gin,dq4,gpf',
    'gcn,a2q,none',
    'gin,a2q,gpf_plus',
    'gat,a2q,gpf_lorap',
    'gcn,mixq,none',
  ],
)
def test_a_rate_means_something_where_parameters_have_it(cell, level):
  config = tiny_run.node_config(cell)
  if level == 'graph':
    config = tiny_run.superpixels_config(cell)
  config.model.num_layers = 2
  if config.scheme.name == 'mixq':
    config.scheme.name = 'mixq_search'
    fields.drop_unused(config)
  record = settings.from_config(config).config
  found = groups_of(config)
  for group, rate in RATES.items():
    assert (rate in record['optim']) == (group in found), rate


# Cell of Cora or of MNIST, field, value, and what it needs.
UNUSED = [
  ('cora', 'gcn,a2q,none', 'scheme.low', 0.1, 'scheme.name dq'),
  ('cora', 'gcn,a2q,none', 'scheme.candidates', (2, 4), 'scheme.name mixq'),
  ('cora', 'gcn,a2q,none', 'scheme.percentile', 0.01, 'qat or dq'),
  ('cora', 'gcn,a2q,none', 'scheme.redraw', False, 'scheme.name dq'),
  ('cora', 'gcn,fp32,none', 'scheme.bits', 3, 'scheme.name qat or dq or a2q'),
  ('cora', 'gcn,mixq,none', 'scheme.bits', 3, 'mixq with scheme.assignment'),
  ('cora', 'gcn,fp32,none', 'scheme.published', True, 'scheme.name qat'),
  ('cora', 'gcn,dq4,none', 'scheme.target_bits', 3.0, 'scheme.name a2q'),
  ('cora', 'gcn,a2q,none', 'scheme.num_groups', 9, 'graphs with a label'),
  ('mnist', 'gcn,a2q,none', 'scheme.memory_width', 9, 'nodes with a label'),
  ('cora', 'gcn,a2q,none', 'scheme.weight_start', (1.0, 1.0), 'start normal'),
  ('cora', 'gat,dq4,none', 'scheme.edge_messages', True, 'gcn or gin'),
  ('cora', 'gcn,dq4,none', 'scheme.momentum', 0.5, 'scheme.name qat'),
  ('mnist', 'gcn,dq4,none', 'scheme.feature_percentile', 0.1, 'encoder none'),
  ('cora', 'gcn,a2q,none', 'prompt.placement', 'post', 'prompt.name lorap'),
  ('cora', 'gcn,a2q,gpf', 'prompt.rank', 2, 'prompt.name lorap'),
  ('cora', 'gcn,a2q,gpf', 'prompt.num_prompts', 2, 'gpf_plus'),
  ('cora', 'gcn,a2q,lorap', 'prompt.node_init', 'zero', 'prompt.name gpf'),
  ('cora', 'gcn,a2q,lorap', 'prompt.objective', 'task', 'placement post'),
  ('cora', 'gcn,a2q,none', 'prompt.init', 'zero', 'prompt.name lorap'),
  ('cora', 'gcn,a2q,none', 'optim.prompt_factor', 1.0, 'a prompt'),
  ('cora', 'gcn,fp32,none', 'optim.feature_bits_lr', 1.0, 'scheme.name a2q'),
  ('cora', 'gcn,a2q,none', 'optim.bit_logits_lr', 1.0, 'scheme.name mixq'),
  ('cora', 'gcn,a2q,none', 'model.heads', 8, 'model.name gat'),
  ('cora', 'gat,a2q,none', 'model.mlp_norm', 'each', 'model.name gin'),
  ('cora', 'gin,a2q,none', 'model.norm', True, 'model.name gcn or gat'),
  ('cora', 'gcn,a2q,none', 'model.readout', 2, 'graphs with a label'),
  ('mnist', 'gcn,a2q,none', 'model.num_types', 9, 'model.encoder embedding'),
  ('cora', 'gcn,a2q,none', 'model.encoder_operand', 'int8', 'encoder dense'),
  ('cora', 'gcn,a2q,none', 'train.batch_size', 8, 'graphs with a label'),
  ('cora', 'gcn,a2q,none', 'train.settle_batches', 0, 'graphs with a label'),
  ('cora', 'gcn,a2q,none', 'train.patience', 5, 'train.schedule plateau'),
  ('cora', 'gcn,a2q,none', 'train.warmup', 0.1, 'train.schedule cosine'),
  ('mnist', 'gcn,a2q,none', 'train.step_epochs', 5, 'train.schedule step'),
  ('mnist', 'gcn,a2q,none', 'train.together', 5, 'nodes with a label'),
  ('cora', 'gcn,a2q,none', 'train.search_epochs', 5, 'scheme.name mixq'),
  ('mnist', 'gcn,mixq,none', 'train.finetune_lr', 0.1, 'pretrain_epochs 1'),
  ('cora', 'gcn,a2q,none', 'data.limit', (1, 1, 1), 'data.name mnist'),
  ('cora', 'gcn,a2q,none', 'data.workers', 2, 'data.name mnist'),
  ('cora', 'gcn,a2q,none', 'data.fold', 0, 'data.name reddit_binary or tu'),
  ('cora', 'gcn,a2q,none', 'data.path', 'a.npz', 'data.name custom'),
  ('cora', 'gcn,a2q,none', 'folds', 3, 'data.name reddit_binary or tu'),
  ('mnist', 'gcn,a2q,none', 'data.tu_name', 'MUTAG', 'data.name tu'),
]


def config_of(host, cell):
  if host == 'cora':
    return tiny_run.node_config(cell)
  return tiny_run.superpixels_config(cell)


@pytest.mark.parametrize(
  'host, cell, path, value, needs',
  UNUSED,
  ids=[f'{u[1]}-{u[2]}' for u in UNUSED],
)
def test_what_has_no_effect_is_refused(host, cell, path, value, needs):
  config = config_of(host, cell)
  config.update_from_flattened_dict({path: value})
  with pytest.raises(ValueError) as caught:
    settings.from_config(config)
  text = str(caught.value)
  group, _, name = path.rpartition('.')
  assert text.startswith(f'config.{group}:' if group else 'config:')
  assert f'`{name}` = {value!r} has no effect' in text
  assert needs in text and 'leave it out' in text and '\n' not in text


@pytest.mark.parametrize('scheme', factory.SCHEMES)
def test_published_is_refused_or_a_field_of_the_scheme(scheme):
  config = tiny_run.node_config('gcn,fp32,none')
  config.scheme.name = scheme
  config.scheme.published = True
  if 'published' in names_of(factory.NODE_SCHEMES[scheme]):
    assert settings.from_config(config).scheme.published  # pyrefly: ignore
  else:
    with pytest.raises(ValueError, match='`published` = True has no effect'):
      settings.from_config(config)


def test_a_target_in_bits_is_in_place_of_one_in_memory():
  config = tiny_run.node_config('gcn,a2q,none')
  config.scheme.target_bits = 2.0
  with pytest.raises(
    ValueError, match='`memory_weight` = .*scheme.target_bits None'
  ):
    settings.from_config(config)
  fields.drop_unused(config, {'scheme.target_bits'})
  record = settings.from_config(config).config['scheme']
  assert record['target_bits'] == 2.0 and 'memory_target' not in record


class TestDropUnused:
  def test_what_the_file_set_for_another_method(self, caplog):
    config = tiny_run.node_config('gin,dq4,lorap')
    assert config.scheme.stride == 3 and config.model.mlp_norm == 'none'
    config.model.name, config.scheme.name = 'gcn', 'fp32'
    with caplog.at_level(logging.INFO):
      dropped = fields.drop_unused(config, {'model.name', 'scheme.name'})
    assert {'scheme.stride', 'scheme.percentile', 'model.mlp_norm'} <= {
      *dropped
    }
    assert (
      'config.scheme.stride = 3 has no effect here, left out' in caplog.text
    )
    settings.from_config(config)

  def test_what_the_user_set_stays(self):
    config = tiny_run.node_config('gin,dq4,lorap')
    config.scheme.name = 'fp32'
    given = {'scheme.name', 'scheme.stride'}
    assert 'scheme.stride' not in fields.drop_unused(config, given)
    with pytest.raises(ValueError, match='`stride` = 3 has no effect'):
      settings.from_config(config)


@pytest.mark.parametrize(
  'path, text',
  [
    ('train.subset_epochs', 'no such field any more; .*set `train.epochs`'),
    ('train.epoch', 'no such field; did you mean `train.epochs`'),
  ],
)
def test_unknown_field(path, text):
  config = tiny_run.config()
  group, name = path.split('.')
  config[group][name] = 3
  with pytest.raises(ValueError, match=f'config.{path}: {text}'):
    settings.from_config(config)


def test_missing_field():
  config = tiny_run.config()
  del config.train['epochs']
  with pytest.raises(ValueError, match='config.train.epochs is missing'):
    settings.from_config(config)


@pytest.mark.parametrize('pool', ['mean', 'none'])
def test_pool_of_the_other_level(pool):
  make = tiny_run.node_config if pool == 'mean' else tiny_run.config
  with pytest.raises(ValueError, match=f"`pool` is '{pool}', but the data"):
    settings.from_config(make(model__pool=pool))


def test_name_of_the_node_form_before():
  config = tiny_run.node_config(scheme__name='a2q_node')
  with pytest.raises(ValueError, match="'a2q_node' is 'a2q' now"):
    settings.from_config(config)


class TestOwnData:
  @pytest.mark.parametrize('path', [None, '', 'nowhere.npz'])
  def test_without_a_file(self, path):
    config = tiny_run.node_config(data__name='custom')
    config.data.path, config.data.normalize = path, None
    with pytest.raises(ValueError, match='config.data.path=FILE.npz'):
      settings.from_config(config)

  def test_level_is_that_of_the_file(self, tmp_path, monkeypatch):
    data = tiny_run.node_data()
    path = tmp_path / 'own.npz'
    np.savez(path, **{k: getattr(data, k) for k in data._fields[:7]})
    assert datasets.level({'name': 'custom', 'path': str(path)}) == 'node'
