"""What the doctor finds."""

import importlib.metadata
import pathlib

import jax
import numpy as np
import pytest

from lorap_jax import doctor, graphs
from lorap_jax.runs import datasets

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
  """A cache of its own and no data directory."""
  monkeypatch.setenv('LORAP_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.delenv(datasets.DATA_DIR_VARIABLE, raising=False)


@pytest.fixture
def versions(monkeypatch):
  """Sets what seems to be installed."""
  found = {name: low for name, (low, _) in doctor.TESTED.items()}

  def version(name):
    if found[name] is None:
      raise importlib.metadata.PackageNotFoundError(name)
    return found[name]

  monkeypatch.setattr(importlib.metadata, 'version', version)
  return found


def find(about):
  found = [row for row in doctor.examine() if row.about == about]
  assert len(found) == 1, found
  return found[0]


def test_ready_here(capsys):
  code = doctor.main([])
  lines = capsys.readouterr().out.splitlines()
  # But for a version that has not been tested, or noise in what was timed.
  to_do = lines[lines.index('to do:') + 1 :] if code else []
  assert all('aggregation' in line or 'pip' in line for line in to_do), lines
  assert (lines[-1] == 'ready') == (code == 0)
  for subject in ('lorap_jax', 'jax', 'devices', 'sums over neighbours'):
    assert any(line.startswith(f'{subject}: ') for line in lines), subject


def test_ranges_are_those_of_the_requirements():
  lines = (ROOT / 'requirements.txt').read_text().splitlines()
  ranges = {}
  for line in lines:
    if line and not line.startswith('#'):
      name = line.split('>')[0].split('=')[0]
      ranges[name] = line
  for name, (low, high) in doctor.TESTED.items():
    assert low in ranges[name], ranges[name]
    assert high in ranges[name] or '==' in ranges[name], ranges[name]
  for name, version in doctor.KNOWN_BAD:
    assert f'!={version}' in ranges[name]


class TestVersions:
  @pytest.mark.parametrize(
    'name, version, text',
    [
      ('flax', '0.11.0', 'not tested'),
      ('flax', '0.13.0', 'not tested'),
      ('optax', None, 'is not installed'),
      ('jaxlib', '0.10.2', 'wrong rows'),
    ],
  )
  def test_wrong_one(self, versions, name, version, text):
    versions[name] = version
    found = find(name)
    assert text in found.found
    assert found.remedy.startswith(f'pip install "{name}>=')

  def test_right_ones(self, versions):
    rows = {row.about: row for row in doctor.examine()}
    for name, version in versions.items():
      assert rows[name] == doctor.Finding(name, version)
    assert 'jax and jaxlib' not in rows

  def test_of_two_versions(self, versions):
    versions['jaxlib'] = '0.11.0'
    found = find('jax and jaxlib')
    assert '0.10.1 and 0.11.0' in found.found
    assert found.remedy == 'pip install "jaxlib==0.10.1"'

  @pytest.mark.parametrize('version', ['0.9.9', '0.10', '0.10.1.dev3'])
  def test_earlier(self, version):
    assert doctor._number(version) <= doctor._number('0.10.1')
    assert doctor._number(version) < doctor._number('0.11')


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='finds one itself')
class TestAccelerator:
  @pytest.fixture(autouse=True)
  def there(self, monkeypatch):
    files = lambda pattern: ['/dev/nvidia0'] if 'nvidia' in pattern else []
    monkeypatch.setattr(doctor.glob, 'glob', files)

  def test_not_used(self, monkeypatch):
    monkeypatch.delenv('JAX_PLATFORMS', raising=False)
    found = find('accelerator')
    assert found.found == 'an NVIDIA GPU is here and not used'
    assert 'jax[cuda' in found.remedy

  def test_forbidden(self, monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert find('accelerator').remedy == 'unset JAX_PLATFORMS'


class TestPrograms:
  def test_sum_that_is_wrong(self, monkeypatch):
    monkeypatch.setattr(graphs, 'aggregate', lambda x, graph, layout: x)
    found = find('sums over neighbours')
    assert 'layout and segment_sum give wrong sums' in found.found
    assert found.remedy

  def test_slow_choice(self, monkeypatch):
    # One takes ten of the other's turns of the clock.
    clock = iter(np.cumsum([1.0, 10.0, 1.0, 1.0] * 99))
    monkeypatch.setattr(doctor.time, 'perf_counter', lambda: next(clock))
    found = find('sums over neighbours')
    assert 'times the speed of' in found.found
    assert found.remedy == '--config.train.aggregation=segment_sum'

  def test_wrong_rows(self, monkeypatch):
    def jit(function):
      def call(*args):
        out = np.array(function(*args))
        out[-1] = 0
        return out

      return call

    monkeypatch.setattr(jax, 'jit', jit)
    monkeypatch.setattr(doctor, '_aggregation', lambda jax: [])
    assert '1 of 32,769 rows' in find('compiler').found


class TestFolders:
  def test_data_directory(self, monkeypatch, tmp_path):
    assert find('data directory').remedy == ''
    monkeypatch.setenv(datasets.DATA_DIR_VARIABLE, str(tmp_path / 'none'))
    assert 'is no folder' in find('data directory').found
    assert find('data directory').remedy
    (tmp_path / 'cora.npz').touch()
    monkeypatch.setenv(datasets.DATA_DIR_VARIABLE, str(tmp_path))
    assert find('data directory').found == f'{tmp_path}: cora.npz'

  def test_cache(self, tmp_path):
    programs = tmp_path / 'cache' / 'programs'
    assert 'empty' in find('caches').found
    programs.mkdir(parents=True)
    (programs / 'x').write_bytes(bytes(3 << 20))
    assert 'programs 3 MiB' in find('caches').found

  def test_cache_that_is_a_file(self, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('LORAP_JAX_CACHE', str(tmp_path / 'file' / 'cache'))
    assert 'set LORAP_JAX_CACHE' in find('caches').remedy

  def test_full_disk(self, monkeypatch):
    monkeypatch.setattr(doctor, '_FREE_DISK', 1 << 60)
    assert 'make room' in find('caches').remedy


class TestData:
  def read(self, folder, monkeypatch):
    monkeypatch.setenv(datasets.DATA_DIR_VARIABLE, str(folder))
    return {row.about: row for row in doctor._data_sets()}

  def test_nothing(self, monkeypatch, tmp_path):
    found = self.read(tmp_path, monkeypatch)
    assert {'cora', 'zinc', 'mnist_superpixels', 'ogbn_mag'} <= found.keys()
    assert {row.found for row in found.values()} == {
      'not there, or not complete'
    }
    assert not any(row.remedy for row in found.values())

  def test_damaged(self, monkeypatch, tmp_path):
    (tmp_path / 'zinc12k.npz').write_bytes(b'no zip')
    found = self.read(tmp_path, monkeypatch)['zinc']
    assert 'zinc12k.npz' in found.found
    assert found.remedy == 'replace the file, or take it away'
