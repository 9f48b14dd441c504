"""Every file in configs/, with each of its recipes."""

import importlib
import json
import pathlib

import pytest
from ml_collections import config_dict

from configs import default
from lorap_jax import sweep
from lorap_jax.runs import fields, settings

FOLDER = pathlib.Path(default.__file__).parent


# For configurations that take a cell of the matrix.
CELLS = (
  None,
  'gcn,fp32,none',
  'gin,qat8,gpf_plus',
  'gat,qat4,gpf',
  'gin,dq4,lorap',
  'gcn,dq8,gpf_lorap',
  'gat,a2q,gpf_plus_lorap',
  'gcn,mixq,lorap',
)


def cases():
  for path in sorted(FOLDER.glob('*.py')):
    if path.stem in ('__init__', 'default'):
      continue
    module = importlib.import_module(f'configs.{path.stem}')
    if not hasattr(module, 'get_config'):  # What several of them share.
      continue
    for recipe in getattr(module, 'RECIPES', CELLS):
      arguments = () if recipe is None else (recipe,)
      name = path.stem if recipe is None else f'{path.stem}:{recipe}'
      yield pytest.param(module, arguments, id=name)


CASES = list(cases())
every_recipe = pytest.mark.parametrize('module, arguments', CASES)


def types(values, prefix=''):
  """Path to type, of every field; optional ones have None."""
  found = {}
  for name, value in values.items():
    if isinstance(value, dict):
      found |= types(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = None if value is None else type(value)
  return found


def made(config):
  """Its objects; own data are a file that is not there, of either level."""
  if config.data.name == 'custom':
    settings.from_config(config, level='graph')
    return settings.from_config(config, level='node')
  return settings.from_config(config)


def test_there_are_some():
  assert len(CASES) >= 3


@every_recipe
def test_has_the_fields_of_the_defaults(module, arguments):
  found = types(module.get_config(*arguments).to_dict())
  expected = types(default.get_config().to_dict())
  assert found.keys() == expected.keys()
  for name, kind in expected.items():
    assert kind is None or found[name] is kind, name


@every_recipe
def test_json_round_trip(module, arguments):
  config = module.get_config(*arguments)
  again = config_dict.ConfigDict(json.loads(json.dumps(config.to_dict())))
  text = json.dumps(config.to_dict(), sort_keys=True)
  assert json.dumps(again.to_dict(), sort_keys=True) == text
  assert made(again).train == made(config).train


@every_recipe
def test_makes_a_run(module, arguments):
  chosen = made(module.get_config(*arguments))
  assert chosen.model(10).outputs == 10


@every_recipe
def test_can_be_given_optional_values(module, arguments):
  config = module.get_config(*arguments).lock()
  config.data.dir = '/somewhere'
  config.data.workers = 2
  config.data.limit = (10, 5, 5)
  with pytest.raises(AttributeError, match='Did you mean'):
    config.train.epoch = 3


@every_recipe
def test_is_made_anew_for_every_caller(module, arguments):
  module.get_config(*arguments).train.epochs = 12345
  assert module.get_config(*arguments).train.epochs != 12345


def test_first_recipe_is_the_default():
  for module in {case.values[0] for case in CASES}:
    if hasattr(module, 'RECIPES'):
      first = module.get_config(module.RECIPES[0]).to_dict()
      assert module.get_config().to_dict() == first


@pytest.mark.parametrize('cell', CELLS[1:])
def test_ogbn_mag_samples_or_takes_the_whole_graph(cell):
  module = importlib.import_module('configs.ogbn_mag')
  config = module.get_config(cell)
  chosen = settings.from_config(config)
  assert len(chosen.train.fanout) == chosen.config['model']['num_layers']
  config.train.fanout = None
  fields.drop_unused(config, ('train.fanout',))
  assert settings.from_config(config).train.fanout is None


def test_unknown_recipe():
  module = importlib.import_module('configs.mnist_a2q_lorap')
  with pytest.raises(ValueError, match=r"'smoke'.*got 'smok'"):
    module.get_config('smok')


@pytest.mark.parametrize(
  'cell, message',
  [
    ('gcn,a2q', 'BACKBONE,QUANTIZER,PROMPT'),
    ('gnc,a2q,none', "backbone must be one of .*'gnc'"),
    ('gcn,a2,none', "quantizer must be one of .*'a2'"),
    ('gcn,a2q,lora', "prompt must be one of .*'lora'"),
  ],
)
def test_unknown_cell(cell, message):
  module = importlib.import_module('configs.cora')
  with pytest.raises(ValueError, match=message):
    module.get_config(cell)


def test_commands_in_the_docstrings_name_their_file():
  for module in {case.values[0] for case in CASES}:
    name = f'configs/{pathlib.Path(module.__file__).name}'
    assert f'python train.py --config={name}' in module.__doc__


def test_columns_of_the_recipe():
  module = importlib.import_module('configs.recipe')
  main = importlib.import_module('configs.mnist_a2q_lorap')
  same = module.get_config('a2q,gpf_lorap,protocol').to_dict()
  assert same == main.get_config().to_dict()
  mnist = importlib.import_module('configs.mnist')
  same = module.get_config('qat4,lorap,protocol').to_dict()
  assert same == mnist.get_config('gin,qat4,lorap').to_dict()
  added = {}
  for column in module.COLUMNS:
    train = made(module.get_config(f'a2q,none,{column}')).train
    added[column] = (train.ema, train.label_smoothing, train.augment)
  assert added == {
    'protocol': (0, 0, 0),
    'recipe': (0.999, 0.05, 0),
    'beyond': (0.999, 0.05, 1),
  }
  for wrong in ('a2q,recipe', 'a2q,none,fast', 'a2,none,recipe'):
    with pytest.raises(ValueError, match='got'):
      module.get_config(wrong)


class TestPublished:
  """Cells of the publications."""

  def test_every_cell_makes_a_run(self):
    module = importlib.import_module('configs.published')
    assert len(set(module.CELLS)) == len(module.CELLS)
    for cell in module.CELLS:
      chosen = settings.from_config(module.get_config(cell))
      assert chosen.scheme.published, cell
      assert chosen.prompt.name == 'none'
      # MixQ's second phase has other forms than its search.
      assert chosen.scheme.forms.unbiased_variance, cell

  def test_one_command_runs_them_all(self):
    module = importlib.import_module('configs.published')
    script = str(FOLDER / 'published.py')
    names = [
      n for n, _ in sweep.expand(f'{script}:{{{",".join(module.CELLS)}}}', ())
    ]
    assert names == [f'published_{cell}' for cell in module.CELLS]

  def test_degree_quant_on_reddit(self):
    module = importlib.import_module('configs.published')
    scheme = settings.from_config(
      module.get_config('reddit_binary-gin-dq4')
    ).scheme
    assert scheme.gradient == 'clipped_strict' and scheme.edge_messages
    assert (scheme.low, scheme.change, scheme.stride) == (0.1, 0.1, 1)

  def test_unknown_cell(self):
    module = importlib.import_module('configs.published')
    with pytest.raises(ValueError, match="got 'cora-gin-mixq'"):
      module.get_config('cora-gin-mixq')
