"""What is installed: the package's own needs, and the tests' beside them."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[1]


def test_requirements_are_those_of_the_package_and_of_its_tests():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  listed = [line for line in lines if line and not line.startswith('#')]
  extras = project['optional-dependencies']
  assert listed == [*project['dependencies'], *extras['test']]
  assert not any('pytest' in line for line in project['dependencies'])


def test_ci_has_the_versions_of_the_extra():
  text = (ROOT / '.ci' / 'run').read_text()
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  for line in project['optional-dependencies']['dev']:
    assert repr(line) in text
