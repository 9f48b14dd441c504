import json

import numpy as np
import pytest
import tiny_run

from lorap_jax.nn import methods
from lorap_jax.runs import datasets, fields, loop, settings

# Path of the field, value, and what the message says beside its name. Choices
# that are Literal types end in the type check of this session; for them see
# command_line_test.
MISTAKES = [
  ('seed', -1, '0 or more'),
  ('data__name', 'cifar', "got 'cifar'"),
  ('data__source', 'web', "got 'web'"),
  ('model__name', 'sage', "got 'sage'"),
  ('model__features', 0, 'at least 1, got 0'),
  ('model__num_layers', 0, 'at least 1, got 0'),
  ('scheme__name', 'a3q', "got 'a3q'"),
  ('scheme__bits', 0, 'in 1..16, got 0'),
  ('scheme__bits', 9, 'in 1..8, got 9'),
  ('scheme__num_groups', 0, 'at least 1'),
  ('scheme__start', 'ones', "got 'ones'"),
  ('prompt__name', 'gpf_minus', "got 'gpf_minus'"),
  ('prompt__num_prompts', 0, '0'),
  ('prompt__rank', 0, '0'),
  ('prompt__bits', 1, 'got 1'),
  ('prompt__bits', 9, 'got 9'),
  ('optim__learning_rate', -0.1, '0 or more, got -0.1'),
  ('optim__feature_bits_lr', -1.0, '0 or more, got -1.0'),
  ('optim__weight_decay', -1.0, '0 or more, got -1.0'),
  ('train__epochs', 0, 'at least 1, got 0'),
  ('train__batch_size', 0, 'at least 1, got 0'),
  ('train__schedule', 'linear', "got 'linear'"),
  ('train__selection', 'test_max', "got 'test_max'"),
  ('model__dropout', 1.0, 'in [0, 1), got 1.0'),
  ('model__pool', 'median', "got 'median'"),
  ('train__warmup', 1.0, 'in [0, 1), got 1.0'),
  ('train__warmup', -0.1, 'in [0, 1), got -0.1'),
  ('train__together', 0, 'at least 1, got 0'),
  ('train__patience', -1, '0 or more, got -1'),
  ('train__aggregation', 'sparse', "got 'sparse'"),
  ('seeds', 0, 'at least 1'),
  ('data__limit', (1, 2), 'three positive numbers'),
  ('seed', 2**40, 'at most 4,294,967,295, got 1099511627776'),
  ('seeds', 10**9, 'at most 10,000, got 1000000000'),
  ('model__features', 10**9, 'at most 65,536, got 1000000000'),
  ('model__num_layers', 10**9, 'at most 1,000, got'),
  ('scheme__num_groups', 10**9, 'at most 1,000,000, got'),
  ('scheme__memory_weight', float('nan'), 'a finite number, got nan'),
  ('scheme__memory_weight', 1e30, 'at most 1,000,000, got 1e+30'),
  ('scheme__memory_target', float('inf'), 'a finite number, got inf'),
  ('scheme__memory_target', -1.0, '0 or more, got -1.0'),
  ('prompt__rank', 10**9, 'at most 65,536, got'),
  ('optim__learning_rate', float('nan'), 'a finite number, got nan'),
  ('train__epochs', 10**9, 'at most 10,000,000, got'),
]


@pytest.mark.parametrize(
  'name, value, text', MISTAKES, ids=[f'{n}={v}' for n, v, _ in MISTAKES]
)
def test_mistake_is_named(name, value, text):
  config = tiny_run.config(**{name: value})
  with pytest.raises(ValueError) as caught:
    settings.from_config(config)
  message = str(caught.value)
  group, _, field = name.rpartition('__')
  assert message.startswith(f'config.{group}:' if group else 'config:')
  assert f'`{field}`' in message and text in message
  assert '\n' not in message


def test_unknown_names_are_answered_with_the_known_ones():
  config = tiny_run.config(scheme__name='int4')
  with pytest.raises(ValueError, match=r"\['a2q', .*'qat'\]"):
    settings.from_config(config)


def test_objects_hold_the_values():
  chosen = settings.from_config(
    tiny_run.config(scheme__bits=3, prompt__rank=1, train__batch_size=5)
  )
  assert isinstance(chosen.scheme, methods.A2QGraph)
  assert (chosen.scheme.bits, chosen.prompt.rank) == (3, 1)
  assert chosen.train.batch_size == 5
  assert chosen.model(10).outputs == 10


def embedded(data):
  return data._replace(source=data.source | {'origin': 'embedded'})


@pytest.mark.parametrize(
  'epochs, kind, expected',
  [
    (7, lambda data: data, 7),
    (7, embedded, 7),
    (None, lambda data: data, 30),  # A subset, which is no other length.
    (None, embedded, 60),
  ],
)
def test_one_length(epochs, kind, expected):
  data = kind(tiny_run.splits())
  chosen = settings.from_config(tiny_run.config(train__epochs=epochs)).on(data)
  assert chosen.train.epochs == chosen.config['train']['epochs'] == expected


def test_data_of_another_level():
  chosen = settings.from_config(tiny_run.config())
  with pytest.raises(ValueError, match='label for each node.*each graph'):
    chosen.on(tiny_run.node_data())


class TestDataArguments:
  @pytest.fixture
  def call(self, monkeypatch):
    """Loads with the given changes; returns the arguments of the loader."""

    def call(**changes):
      row = datasets.DATASETS['mnist_superpixels']
      row = row._replace(load=lambda **kwargs: kwargs)
      monkeypatch.setitem(datasets.DATASETS, 'mnist_superpixels', row)
      load = settings.Settings.load_data
      load = getattr(load, '__wrapped__', load)  # Its result is no data set.
      inner = getattr(datasets.load, '__wrapped__', datasets.load)
      monkeypatch.setattr(datasets, 'load', inner)
      return load(settings.from_config(tiny_run.config(**changes)))

    return call

  def test_from_the_configuration(self, call, monkeypatch, tmp_path):
    monkeypatch.setenv(datasets.DATA_DIR_VARIABLE, '/from/environment')
    given = call(data__dir=str(tmp_path), data__workers=2, data__offline=True)
    assert given == {
      'source': 'embedded',
      'data_dir': str(tmp_path),
      'offline': True,
      'workers': 2,
      'limit': (256, 64, 64),
      'normalize': 'none',
    }

  def test_folder_that_is_not_there(self, call, tmp_path):
    with pytest.raises(ValueError, match='`dir`: no such folder .*leave it'):
      call(data__dir=str(tmp_path / 'none'))

  @pytest.mark.parametrize('value', [None, '/from/environment'])
  def test_folder_from_the_environment(self, call, monkeypatch, value):
    monkeypatch.delenv(datasets.DATA_DIR_VARIABLE, raising=False)
    if value:
      monkeypatch.setenv(datasets.DATA_DIR_VARIABLE, value)
    assert call()['data_dir'] == value


class TestRecord:
  def test_has_the_values_in_force(self):
    record = settings.from_config(tiny_run.config()).config
    assert record['scheme']['gradient'] == 'clipped'
    assert record['model']['pool'] == 'mean'
    assert record['data']['level'] == 'graph'
    assert record['optim']['feature_scale_lr'] == 5e-3
    assert record['train']['warmup'] == 0.05

  def test_has_no_field_of_others(self):
    record = settings.from_config(tiny_run.node_config()).config
    assert record['scheme'] == {'name': 'fp32'}
    assert record['prompt'] == {'name': 'none'}
    assert set(record['optim']) == {'learning_rate', 'weight_decay'}
    assert not {'heads', 'mlp_norm', 'readout'} & record['model'].keys()
    assert not {'patience', 'batch_size'} & record['train'].keys()

  @pytest.mark.parametrize(
    'config',
    [
      tiny_run.config(),
      tiny_run.node_config('gat,a2q,gpf_plus_lorap'),
      tiny_run.node_config('gin,mixq,none'),
      tiny_run.node_config('gcn,dq4,gpf'),
    ],
  )
  def test_makes_the_same_objects(self, config):
    first = settings.from_config(config)
    plain = json.loads(json.dumps(first.config))
    again = settings.from_record(plain)
    assert json.loads(json.dumps(again.config)) == plain
    assert (again.scheme, again.prompt) == (first.scheme, first.prompt)
    assert again.model(3) == first.model(3)

  def test_of_an_older_version(self):
    """Fields that are gone, that meant nothing, that are new; other names."""
    config = tiny_run.node_config('gcn,a2q,none')
    record = fields.complete(config.to_dict())
    record['scheme'] |= {'name': 'a2q_node', 'num_groups': 1000}
    record['model'] |= {'pool': 'none', 'encoder': 'none', 'heads': 8}
    record['train'] |= {'subset_epochs': 60, 'batch_size': 128}
    del record['train']['aggregation'], record['prompt']['form']
    found = settings.from_record(record)
    expected = settings.from_config(config)
    assert (found.scheme, found.level) == (expected.scheme, 'node')
    assert found.model(3) == expected.model(3)
    assert found.config == expected.config


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'senders': np.full(60, 24, np.int32)}, 'data: edge 0 has the senders id'),
    ({'nodes': np.full((24, 5), np.nan, np.float32)}, 'data: node 0 has a fea'),
    ({'source': {'name': 'mine'}}, 'data: source lacks origin, .*node_dataset'),
  ],
)
def test_data_that_is_passed_is_checked(changes, message, tmp_path):
  data = tiny_run.node_data()._replace(**changes)
  with pytest.raises(ValueError, match=message):
    loop.train_and_evaluate(tiny_run.node_config(), tmp_path / 'x', data=data)
  assert not (tmp_path / 'x').exists()
