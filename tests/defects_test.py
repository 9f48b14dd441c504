"""The list of deliberate defects, and the command that tries them."""

import ast
import re

import pytest

from tests import defects
from tests.defect_list import DEFECTS, Defect

NAMED = pytest.mark.parametrize('defect', DEFECTS, ids=lambda d: d.name)


def test_there_are_forty_with_names_of_their_own():
  assert 40 <= len({defect.name for defect in DEFECTS}) == len(DEFECTS)


@NAMED
def test_still_applies(defect):
  """Else it would be caught for what it is not."""
  text = (defects.ROOT / 'lorap_jax' / defect.file).read_text()
  changed = defects.planted(text, defect)
  assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
  assert '\n' not in defect.old + defect.new


@NAMED
def test_its_tests_are_there(defect):
  assert defect.tests
  for test in defect.tests:
    file, *names = test.partition('[')[0].split('::')
    text = (defects.ROOT / 'tests' / file).read_text()
    for name in names:
      assert re.search(rf'(def|class) {name}\b', text), name


def test_a_text_that_is_there_twice_is_refused():
  defect = Defect('twice', '', 'a.py', 'x', 'y', ())
  with pytest.raises(ValueError, match="twice: 'x' is 2 times in a.py"):
    defects.planted('x + x', defect)


THING = """
def half(x):
  return x / 2

def third(x):
  return x / 3
"""
TESTS = """
import pytest
from lorap_jax import thing

@pytest.fixture
def four():
  assert thing.half(8) == 4
  return 4

def test_half():
  assert thing.half(4) == 2

def test_third():
  assert thing.third(0) == 0

def test_with_fixture(four):
  assert four == 4
"""


def of_thing(name, old, new, test):
  return Defect(name, 'all', 'thing.py', old, new, (f'thing_test.py{test}',))


@pytest.fixture
def project(tmp_path, monkeypatch):
  """A project that the command takes for ours; returns its file."""
  for name, text in (('lorap_jax/thing', THING), ('tests/thing_test', TESTS)):
    path = tmp_path / f'{name}.py'
    path.parent.mkdir()
    path.write_text(text)
  found = (
    of_thing('caught', 'x / 2', 'x // 3', '::test_half'),
    of_thing('survives', 'x / 3', 'x / 4', '::test_third'),
    of_thing('no_name', 'x / 2', 'y / 2', '::test_half'),
    of_thing('no_syntax', 'def half(x)', 'def half(x', ''),
    of_thing('no_fixture', 'x / 2', 'x / 4', '::test_with_fixture'),
  )
  monkeypatch.setattr(defects, 'ROOT', tmp_path)
  monkeypatch.setattr(defects, 'DEFECTS', found)
  return tmp_path / 'lorap_jax' / 'thing.py'


def test_only_a_failing_test_is_a_catch(project, capsys):
  assert defects.main([]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[1:6]] == [
    'caught',
    'SURVIVED',
    'error',
    'error',
    'error',
  ]
  assert lines[1].endswith('tests/thing_test.py::test_half')
  assert lines[-3] == '| all | 5 | 1 |'
  assert lines[-1].startswith('1 of 5 caught')
  assert project.read_text() == THING


def test_named_ones_only(project, capsys):
  assert defects.main(['caught']) == 0
  assert '1 of 1 caught' in capsys.readouterr().out


def test_red_base_is_no_catch(project, capsys):
  project.write_text(THING.replace('x / 2', 'x / 5'))
  assert defects.main(['survives', 'no_fixture']) == 2
  assert 'fail without any defect' in capsys.readouterr().out


def test_list_and_mistakes(project, capsys):
  assert defects.main(['--list']) == 0
  assert capsys.readouterr().out.split()[0] == 'caught'
  for arguments in (['other'], ['--jobs', '0']):
    with pytest.raises(SystemExit, match='2'):
      defects.main(arguments)
