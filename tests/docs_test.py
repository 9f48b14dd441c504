"""The Python examples of the README run as they stand."""

import pathlib
import re

import pytest
import tiny_run

from lorap_jax.training import loop

README = pathlib.Path(__file__).parents[1] / 'README.md'
SECTION = '## Use it as a library'
FOLDER = 'runs/mnist_a2q_lorap'


def blocks():
  """The ```python blocks of the section on the library."""
  assert README.exists(), 'there is no README.md'
  _, found, rest = README.read_text().partition(f'\n{SECTION}\n')
  assert found, f'README.md has no section {SECTION!r}'
  section = re.split(r'^## ', rest, flags=re.MULTILINE)[0]
  return re.findall(r'^```python\n(.*?)^```$', section, re.M | re.S)


def execute(block):
  exec(compile(block, 'README.md', 'exec'), {'__name__': 'readme'})


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


@pytest.mark.parametrize('pattern', [r'--config=(\S+?\.py)'])
def test_files_it_names_exist(pattern):
  assert README.exists(), 'there is no README.md'
  for name in set(re.findall(pattern, README.read_text())):
    if 'NAME' not in name:
      assert (README.parent / name).is_file(), name
