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


def test_files_beside_the_modules_are_installed():
  tool = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']
  package = ROOT / 'lorap_jax'
  found = {
    str(path.relative_to(package))
    for path in package.rglob('*')
    if path.is_file() and path.suffix not in ('.py', '.pyc')
  }
  assert found == set(tool['setuptools']['package-data']['lorap_jax'])


def test_ci_has_the_versions_of_the_extra():
  text = (ROOT / '.ci' / 'run').read_text()
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  for line in project['optional-dependencies']['dev']:
    assert repr(line) in text
