import pytest
import tiny_run

from lorap_jax.nn import schemes
from lorap_jax.training import datasets, settings

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
  ('scheme__bits', 0, 'in 1..8, got 0'),
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
  ('train__subset_epochs', 0, 'at least 1, got 0'),
  ('train__batch_size', 0, 'at least 1, got 0'),
  ('train__schedule', 'linear', "got 'linear'"),
  ('train__selection', 'test_max', "got 'test_max'"),
  ('model__dropout', 1.0, 'in [0, 1), got 1.0'),
  ('model__pool', 'median', "got 'median'"),
  ('train__warmup', 1.0, 'in [0, 1), got 1.0'),
  ('train__warmup', -0.1, 'in [0, 1), got -0.1'),
  ('train__together', 0, 'at least 1, got 0'),
  ('train__patience', -1, '0 or more, got -1'),
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
  with pytest.raises(ValueError, match=r"\['a2q', 'a2q_node', .*'qat'\]"):
    settings.from_config(config)


def test_objects_hold_the_values():
  chosen = settings.from_config(
    tiny_run.config(scheme__bits=3, prompt__rank=1, train__batch_size=5)
  )
  assert isinstance(chosen.scheme, schemes.A2QGraph)
  assert (chosen.scheme.bits, chosen.prompt.rank) == (3, 1)
  assert chosen.train.batch_size == 5
  assert chosen.model(10).outputs == 10


def test_length_depends_on_the_data():
  chosen = settings.from_config(
    tiny_run.config(train__epochs=7, train__subset_epochs=2)
  )
  data = tiny_run.splits()
  full = data._replace(source=data.source | {'subset': False})
  assert (chosen.epochs(full), chosen.epochs(data)) == (7, 2)


class TestDataArguments:
  @pytest.fixture
  def call(self, monkeypatch):
    """Loads with the given changes; returns the arguments of the loader."""

    def call(**changes):
      monkeypatch.setitem(
        datasets._LOADERS,
        'mnist_superpixels',
        (lambda **kwargs: kwargs, ('workers', 'limit')),
      )
      load = settings.Settings.load_data
      load = getattr(load, '__wrapped__', load)  # Its result is no data set.
      inner = getattr(datasets.load, '__wrapped__', datasets.load)
      monkeypatch.setattr(datasets, 'load', inner)
      return load(settings.from_config(tiny_run.config(**changes)))

    return call

  def test_from_the_configuration(self, call, monkeypatch):
    monkeypatch.setenv(settings.DATA_DIR_VARIABLE, '/from/environment')
    given = call(data__dir='/from/config', data__workers=2, data__offline=True)
    assert given == {
      'source': 'embedded',
      'data_dir': '/from/config',
      'offline': True,
      'workers': 2,
      'limit': (256, 64, 64),
    }

  @pytest.mark.parametrize('value', [None, '/from/environment'])
  def test_folder_from_the_environment(self, call, monkeypatch, value):
    monkeypatch.delenv(settings.DATA_DIR_VARIABLE, raising=False)
    if value:
      monkeypatch.setenv(settings.DATA_DIR_VARIABLE, value)
    assert call()['data_dir'] == value
