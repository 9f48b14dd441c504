"""User data is never run: what the code calls, and exploits for its doors."""

import ast
import json
import os
import pathlib
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import tiny_run

from lorap_jax.data import load_cifar10_superpixels, load_tu, load_zinc
from lorap_jax.data.sets import custom
from lorap_jax.runs import loop, restore

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
  ROOT / 'train.py',
  *sorted((ROOT / 'lorap_jax').rglob('*.py')),
  *sorted((ROOT / 'configs').glob('*.py')),
]

# What can run data as a program, or hand it to a shell; dotted or bare names.
DANGEROUS = {
  'cPickle',
  'compile',
  'ctypes',
  'dill',
  'eval',
  'exec',
  'exec_module',
  'execv',
  'joblib',
  'marshal',
  'mktemp',
  'os.popen',
  'os.system',
  'pickle',
  'run_path',
  'shelve',
  'subprocess',
  'yaml',
}
# File to what it may use of these, and why.
ALLOWED = {
  # A configuration is a program of the user's, chosen on the command line.
  'lorap_jax/sweep.py': {'exec_module'},
  # Starts itself again, with its own arguments.
  'lorap_jax/_process.py': {'execv'},
  # Planetoid is published as pickles: an Unpickler of few names, behind the
  # pinned digests of the files.
  'lorap_jax/data/files/unpickle.py': {'pickle'},
  # So is ZINC, without a pinned digest: an Unpickler of few
  # names, each of which stands for a function of ours.
  'lorap_jax/data/sets/zinc_archive.py': {'pickle'},
  # Compiles what this library wrote, for tests and benchmarks.
  'lorap_jax/integers/c_run.py': {'ctypes', 'subprocess'},
}


def uses(path):
  """The dangerous names that a file imports, calls or mentions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name.partition('.')[0] for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      head = (node.module or '').partition('.')[0]
      names = [head, *(f'{head}.{alias.name}' for alias in node.names)]
    elif isinstance(node, ast.Attribute):
      whole = ast.unparse(node)
      # A method of that name, such as re.compile, runs nothing.
      runs = node.attr in ('exec_module', 'execv', 'mktemp', 'run_path')
      names = [whole, *([node.attr] if runs else [])]
    elif isinstance(node, ast.Name):
      names = [node.id]
    else:
      continue
    found |= DANGEROUS.intersection(names)
  return found


def test_runs_no_data():
  found = {str(path.relative_to(ROOT)): uses(path) for path in FILES}
  assert {path: names for path, names in found.items() if names} == ALLOWED


def test_arguments_that_open_doors():
  calls = (
    node
    for path in FILES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call)
  )
  for call in calls:
    for argument in call.keywords:
      if argument.arg in ('allow_pickle', 'shell'):
        assert ast.literal_eval(argument.value) is False, ast.unparse(call)


@pytest.mark.parametrize(
  'line',
  [
    'import pickle',
    'from pickle import loads',
    'from os import system',
    'os.system(x)',
    'eval(x)',
    'f = exec',
    'spec.loader.exec_module(m)',
    'import subprocess as s',
  ],
)
def test_the_search_finds(line, tmp_path):
  path = tmp_path / 'x.py'
  path.write_text(line)
  assert uses(path)


class Exploit:
  """Makes a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.fixture
def exploit(tmp_path):
  """A pickle, which does nothing in the test; it can."""
  trace = tmp_path / 'trace'
  payload = pickle.dumps(Exploit(trace))
  pickle.loads(payload)
  assert trace.exists()
  trace.rmdir()
  yield payload, Exploit(trace)
  assert not trace.exists()


def refused(call, *names):
  with pytest.raises((ValueError, OSError)) as error:
    call()
  for name in names:
    assert name in str(error.value)


def test_own_data_of_objects(exploit, tmp_path):
  objects = np.array([exploit[1]] * 3, object)
  path = tmp_path / 'own.npz'
  np.savez(path, allow_pickle=True, features=objects, labels=np.zeros(3, int))
  refused(lambda: custom.load_custom(path), 'own.npz', 'pickle')


@pytest.mark.parametrize('member', ['features.npy', 'labels.npy'])
def test_own_data_whose_array_is_a_pickle(exploit, tmp_path, member):
  path = tmp_path / 'own.npz'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr(member, exploit[0])
  refused(lambda: custom.load_custom(path), 'own.npz')


def test_data_sets_that_are_pickles(exploit, tmp_path):
  for name in ('zinc12k.npz', 'tu_mutag.npz', 'MUTAG.zip', 'molecules.zip'):
    (tmp_path / name).write_bytes(exploit[0])
  where = {'data_dir': tmp_path, 'source': 'data_dir', 'offline': True}
  refused(lambda: load_zinc(**where), 'zinc12k.npz')
  refused(lambda: load_tu('MUTAG', fold=0, **where), 'MUTAG.zip')
  (tmp_path / 'MUTAG.zip').unlink()
  refused(lambda: load_tu('MUTAG', fold=0, **where), 'tu_mutag.npz')


def test_pickled_cifar10(exploit, tmp_path):
  folder = tmp_path / 'cifar-10-batches-py'
  folder.mkdir()
  for i in range(1, 6):
    (folder / f'data_batch_{i}').write_bytes(exploit[0])
  where = {'data_dir': tmp_path, 'source': 'data_dir', 'offline': True}
  refused(lambda: load_cifar10_superpixels(**where), 'pickles')


def test_archive_that_leaves_its_folder(tmp_path):
  inside = tmp_path / 'data'
  inside.mkdir()
  with zipfile.ZipFile(inside / 'MUTAG.zip', 'w') as file:
    for name in ('A', 'graph_indicator', 'graph_labels'):
      file.writestr(f'../../MUTAG_{name}.txt', '1, 2\n')
  where = {'data_dir': inside, 'source': 'data_dir', 'offline': True}
  refused(lambda: load_tu('MUTAG', fold=0, **where), 'MUTAG')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['data']
  (inside / 'x').mkdir()
  with tarfile.open(inside / 'cifar-10-binary.tar.gz', 'w:gz') as file:
    link = tarfile.TarInfo('cifar-10-batches-bin/data_batch_1.bin')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    file.addfile(link)
  refused(lambda: load_cifar10_superpixels(**where), 'cifar-10-binary')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('trained') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    tiny_run.feed(patch, tiny_run.node_data)
    loop.train_and_evaluate(tiny_run.node_config(), folder)
  return folder


class TestRun:
  @pytest.fixture
  def folder(self, trained, tmp_path, monkeypatch):
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    return shutil.copytree(trained, tmp_path / 'run')

  def test_files_that_are_pickles(self, exploit, folder):
    for name in ('config.json', 'data.json', 'metrics.jsonl', 'report.json'):
      whole = (folder / name).read_bytes()
      (folder / name).write_bytes(exploit[0])
      if name in ('config.json', 'data.json'):
        refused(lambda: restore.load_run(folder), name)
      else:
        loop_again = lambda: loop.train_and_evaluate(
          tiny_run.node_config(), folder
        )
        try:
          loop_again()
        except (ValueError, OSError) as error:
          assert name in str(error)  # noqa: PT017
      (folder / name).write_bytes(whole)

  def test_checkpoint_of_pickles(self, exploit, folder):
    for path in (folder / 'checkpoints').rglob('*'):
      if path.is_file():
        path.write_bytes(exploit[0])
    refused(lambda: restore.load_run(folder), 'checkpoints')

  def test_record_that_names_files(self, folder):
    """A path in a record is not opened when a run is loaded."""
    record = json.loads((folder / 'data.json').read_text())
    record['files'] = ['/etc/passwd']
    (folder / 'data.json').write_text(json.dumps(record))
    try:
      loaded = restore.load_run(folder)
    except ValueError as error:
      assert 'data.json' in str(error)  # noqa: PT017
    else:
      assert 'root:' not in str(loaded)
