"""The Python examples of the README and of docs run as they stand."""

import pathlib
import re

import pytest
import tiny_run

from configs import custom as custom_config
from lorap_jax.data.sets import custom
from lorap_jax.runs import loop

README = pathlib.Path(__file__).parents[1] / 'README.md'
OWN_DATA = README.parent / 'docs' / 'own_data.md'
SECTION = '## Use it as a library'
FOLDER = 'runs/mnist_a2q_lorap'


def blocks():
  """The ```python blocks of the section on the library."""
  assert README.exists(), 'there is no README.md'
  _, found, rest = README.read_text().partition(f'\n{SECTION}\n')
  assert found, f'README.md has no section {SECTION!r}'
  section = re.split(r'^## ', rest, flags=re.MULTILINE)[0]
  return python_blocks(section)


def python_blocks(text):
  return re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)


def execute(block, page='README.md'):
  exec(compile(block, page, 'exec'), {'__name__': 'readme'})


def test_there_are_three_examples():
  assert len(blocks()) == 3


def test_first_example(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  execute(blocks()[0])


def test_second_example(tmp_path, monkeypatch):
  tiny_run.feed(monkeypatch)
  loop.train_and_evaluate(tiny_run.config(), tmp_path / 'run')
  block = blocks()[1]
  assert FOLDER in block
  execute(block.replace(FOLDER, str(tmp_path / 'run')))


def test_third_example(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  execute(blocks()[2])
  assert (tmp_path / 'runs' / 'mine' / 'report.json').exists()


def test_own_data(tmp_path, monkeypatch):
  """The examples of the page follow each other."""
  monkeypatch.chdir(tmp_path)
  execute('\n'.join(python_blocks(OWN_DATA.read_text())), OWN_DATA.name)
  assert (tmp_path / 'runs' / 'mine' / 'report.json').exists()
  graphs = custom.load_custom(tmp_path / 'my_graphs.npz')
  assert graphs.task == 'regression'


def test_own_data_can_be_trained_on_as_its_commands_say(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  blocks = python_blocks(OWN_DATA.read_text())
  execute('\n'.join([blocks[0], blocks[2]]), OWN_DATA.name)
  text = OWN_DATA.read_text().replace('\\\n', '')
  cells = re.findall(r'custom.py:(\S+) --config.data.path=(\S+)(.*)', text)
  assert len(cells) == 2
  for cell, path, changes in cells:
    config = custom_config.get_config(cell)
    config.data.path = path
    config.train.epochs = 1
    config.train.plots = False
    config.model.features, config.model.num_layers = 8, 1  # Compiles sooner.
    for field, value in re.findall(r'--config.(\S+)=(\S+)', changes):
      config.update_from_flattened_dict({field: value})
    loop.train_and_evaluate(config, tmp_path / path.removesuffix('.npz'))


@pytest.mark.parametrize('page', [README, OWN_DATA], ids=lambda path: path.name)
@pytest.mark.parametrize('pattern', [r'--config=(\S+?\.py)'])
def test_files_it_names_exist(page, pattern):
  assert page.exists(), f'there is no {page.name}'
  for name in set(re.findall(pattern, page.read_text())):
    if 'NAME' not in name:
      assert (README.parent / name).is_file(), name
