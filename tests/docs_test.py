"""The Python examples of the README and of docs run as they stand."""

import ast
import pathlib
import re

import jax
import pytest

from configs import custom as custom_config
from lorap_jax.data.sets import custom
from lorap_jax.runs import loop, settings

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / 'README.md'
LIBRARY = ROOT / 'docs' / 'library.md'
OWN_DATA = ROOT / 'docs' / 'own_data.md'
FOLDER = 'runs/mnist_a2q_lorap'


def python_blocks(page):
  return re.findall(r'^```python\n(.*?)^```$', page.read_text(), re.M | re.S)


def execute(block, page='README.md'):
  names = {'__name__': 'readme'}
  exec(compile(block, page, 'exec'), names)
  return names


def test_readme(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (block,) = python_blocks(README)
  assert execute(block)['y'].shape == (4, 16)
  assert len(README.read_text().splitlines()) <= 150


def test_own_network(tmp_path, monkeypatch):
  """It learns its labels; bits are counted; LoRAP is trained."""
  monkeypatch.chdir(tmp_path)
  names = execute(python_blocks(LIBRARY)[0], LIBRARY.name)
  assert 2 <= names['bits'] <= 4.5
  assert names['step']._cache_size() == 1
  prompt = names['variables']['params']['LoRAPPrompt_0']
  assert (prompt['up'] != 0).any()
  init = jax.jit(names['lj'].init, static_argnums=0)
  first = init(names['net'], names['key'], names['graph'])
  loss = jax.jit(
    lambda variables: names['loss'](
      variables['params'], variables, names['key']
    )[0]
  )
  assert loss(names['variables']) < 0.9 * loss(first)


def test_pure_functions(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  execute(python_blocks(LIBRARY)[1], LIBRARY.name)


def test_trained_run(finished_graphs):
  block = python_blocks(LIBRARY)[2]
  assert FOLDER in block
  execute(block.replace(FOLDER, str(finished_graphs.folder)))


def test_own_data_in_the_library(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  *_, block = python_blocks(LIBRARY)
  execute(block)
  assert (tmp_path / 'runs' / 'mine' / 'report.json').exists()


def test_own_data(tmp_path, monkeypatch):
  """The examples of the page follow each other."""
  monkeypatch.chdir(tmp_path)
  execute('\n'.join(python_blocks(OWN_DATA)), OWN_DATA.name)
  assert (tmp_path / 'runs' / 'mine' / 'report.json').exists()
  graphs = custom.load_custom(tmp_path / 'my_graphs.npz')
  assert graphs.task == 'regression'


@pytest.mark.slow
def test_own_data_can_be_trained_on_as_its_commands_say(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  blocks = python_blocks(OWN_DATA)
  execute('\n'.join([blocks[0], blocks[2], blocks[4]]), OWN_DATA.name)
  text = OWN_DATA.read_text().replace('\\\n', '')
  cells = re.findall(r'custom.py:(\S+) --config.data.path=(\S+)(.*)', text)
  assert len(cells) == 3
  for cell, path, changes in cells:
    config = custom_config.get_config(cell)
    config.data.path = path
    if path == 'big':  # tests/runs/sampled_test.py trains such ones.
      fanout = ast.literal_eval(re.search(r'fanout=([^\']+)', changes)[1])
      config.train.fanout = fanout
      settings.from_config(config)
      continue
    config.train.epochs = 1
    config.train.plots = False
    config.model.features, config.model.num_layers = 8, 1  # Compiles sooner.
    for field, value in re.findall(r'--config.(\S+)=(\S+)', changes):
      config.update_from_flattened_dict({field: value})
    loop.train_and_evaluate(config, tmp_path / path.removesuffix('.npz'))


PAGES = [README, *sorted((ROOT / 'docs').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_files_it_names_exist(page):
  text = page.read_text()
  for name in set(re.findall(r'--config=(\S+?\.py)', text)):
    if 'NAME' not in name:
      assert (ROOT / name).is_file(), name
  for name in set(re.findall(r'\]\(([^)#:]+)\)', text)):
    assert (page.parent / name).is_file(), name


def test_modules_they_name_exist():
  """As `lorap_jax/...py`, and within the package as `runs/run.py`."""
  for page in PAGES:
    text = page.read_text()
    for name in set(re.findall(r'`(?:lorap_jax/)?([a-z_0-9/]+\.py)`', text)):
      places = (ROOT, ROOT / 'lorap_jax', ROOT / 'lorap_jax' / 'data')
      assert any((place / name).is_file() for place in places), (page, name)
