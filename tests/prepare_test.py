"""Preparing data by tasks, as docs/scale.md and the command have it."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from lorap_jax import convert, prepare
from lorap_jax.data import load_mnist_superpixels
from lorap_jax.data.files import edge_text, prepared
from lorap_jax.data.sets import superpixels
from lorap_jax.runs import datasets

ROOT = pathlib.Path(__file__).parents[1]
SCALE = ROOT / 'docs' / 'scale.md'
SMALL = ['mnist', '--source', 'embedded', '--limit', '20', '8', '5']
LIMIT = (20, 8, 5)
NODES = 300


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  folder = tmp_path / 'cache'
  monkeypatch.setenv('LORAP_JAX_CACHE', str(folder))
  monkeypatch.setattr(superpixels, '_PER_SHARD', 7)  # 3, 2 and 1 shards.
  return folder


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and path.suffix != '.lock'
  }


def main(*arguments):
  return prepare.main([*arguments, '--workers', '1'])


def assert_same(left, right):
  for split in ('train', 'valid', 'test'):
    one, other = getattr(left, split), getattr(right, split)
    for field in ('nodes', 'senders', 'receivers', 'n_node', 'labels'):
      found, expected = getattr(one, field), getattr(other, field)
      assert found.dtype == expected.dtype
      np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('tasks', [1, 2, 4])
def test_training_reads_what_tasks_made(cache, tmp_path, monkeypatch, tasks):
  """In any order, and the same bytes as if it had built them."""
  whole = load_mnist_superpixels(
    source='embedded', limit=LIMIT, workers=1, cache_dir=tmp_path / 'own'
  )
  if tasks == 1:
    assert not main(*SMALL)
  else:
    for task in reversed(range(tasks)):
      part = ['--task', str(task), '--tasks', str(tasks)]
      assert not main(*SMALL, *part)
    assert not list(cache.rglob(prepared.MANIFEST))
    assert not main(*SMALL, '--join')
  assert contents(cache) == contents(tmp_path / 'own')
  assert len(contents(cache)) == 6 + 3
  monkeypatch.setattr(superpixels, 'chunk_graphs', None)
  values = {'name': 'mnist_superpixels', 'source': 'embedded', 'limit': LIMIT}
  assert_same(datasets.load(values), whole)


def test_each_shard_has_one_task(cache):
  found = set()
  for task in range(4):
    main(*SMALL, '--task', str(task), '--tasks', '4')
    new = set(contents(cache)) - found
    assert len(new) == (2, 2, 1, 1)[task]
    found |= new


def test_join_names_what_is_missing(capsys):
  main(*SMALL, '--task', '1', '--tasks', '2')
  assert main(*SMALL, '--join') == 2
  error = capsys.readouterr().err
  assert '000000.npz: shard 0 of 3 is missing; the same command' in error
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
  'more, reason',
  [
    (['--task', '2', '--tasks', '2'], 'task is 2; of 2 tasks give 0 to 1'),
    (['--workers', '0'], 'workers is 0'),
    (['--source', 'data_dir'], 'name a folder'),
    (['--limit', '0', '1', '1'], 'limit'),
  ],
)
def test_mistakes_are_named(capsys, cache, monkeypatch, more, reason):
  monkeypatch.delenv(datasets.DATA_DIR_VARIABLE, raising=False)
  assert prepare.main([*SMALL, *more]) == 2
  assert reason in capsys.readouterr().err
  assert not cache.exists()


@pytest.mark.parametrize('more', [['--task', '1'], ['--join', '--tasks', '2']])
def test_options_that_do_not_fit_are_refused(capsys, more):
  if '--join' in more:
    more = [*more, '--task', '1']
  with pytest.raises(SystemExit):
    main(*SMALL, *more)
  assert '--task' in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_whole(cache, capsys, monkeypatch):
  made = superpixels.chunk_graphs

  def once(*args, **options):
    if contents(cache):
      raise KeyboardInterrupt
    return made(*args, **options)

  monkeypatch.setattr(superpixels, 'chunk_graphs', once)
  assert main(*SMALL) == 130
  assert 'the same command goes on' in capsys.readouterr().err
  before = contents(cache)
  assert len(before) == 1
  monkeypatch.setattr(superpixels, 'chunk_graphs', made)
  assert not main(*SMALL)
  assert contents(cache).items() > before.items()


@pytest.fixture
def graph(tmp_path, monkeypatch):
  """Files of a graph; returns the arguments of `convert` but for the edges."""
  monkeypatch.setattr(edge_text, '_BLOCK', 500)
  rng = np.random.default_rng(0)
  edges = rng.integers(0, NODES, (900, 2))
  (tmp_path / 'edges.csv').write_text(
    'from,to\n' + ''.join(f'{s},{r}\n' for s, r in edges)
  )
  arrays = {
    'nodes': rng.normal(size=(NODES, 2)),
    'labels': np.arange(NODES) % 3,
    'relations': rng.integers(0, 4, 900),  # Of the edges, in their order.
  }
  arguments = []
  for name, array in arrays.items():
    np.save(tmp_path / name, array)
    arguments += [f'--{name}', str(tmp_path / f'{name}.npy')]
  for split in range(3):
    np.save(tmp_path / f'{split}', np.arange(NODES) % 5 == split)
  masks = [str(tmp_path / f'{split}.npy') for split in range(3)]
  return [*arguments, '--splits', *masks, '--undirected']


def test_a_graph_of_prepared_edges_is_that_of_the_text(tmp_path, graph, capsys):
  text, shards = str(tmp_path / 'edges.csv'), str(tmp_path / 'shards')
  for task in (2, 0, 1):
    part = ['--task', str(task), '--tasks', '3']
    assert not main('edges', text, shards, *part)
  big = str(tmp_path / 'big')
  assert convert.main([big, '--edges', shards, *graph]) == 2
  assert 'manifest.json is missing: write all' in capsys.readouterr().err
  assert not main('edges', text, shards, '--join')
  assert len(list((tmp_path / 'shards').glob('*.npz'))) > 10
  for place, edges in (('big', shards), ('same', text)):
    made = [str(tmp_path / place), '--edges', edges, *graph, '--check']
    assert not convert.main(made)
  assert contents(tmp_path / 'big') == contents(tmp_path / 'same')


def test_damaged_edges_make_no_graph(tmp_path, graph, capsys):
  text, shards = str(tmp_path / 'edges.csv'), str(tmp_path / 'shards')
  assert not main('edges', text, shards)
  (tmp_path / 'shards' / '000004.npz').write_bytes(b'')
  big = tmp_path / 'big'
  assert convert.main([str(big), '--edges', shards, *graph]) == 2
  assert '000004.npz: shard 4 of ' in capsys.readouterr().err
  assert not big.exists()


def test_other_shards_are_no_edges(tmp_path, graph, cache, capsys):
  assert not main(*SMALL)
  place = next((cache / 'superpixels').iterdir())
  big = str(tmp_path / 'big')
  assert convert.main([big, '--edges', str(place), *graph]) == 2
  assert 'is no folder of edges' in capsys.readouterr().err


def example(language, word):
  """The block of the page that has a word, with data that is there."""
  text = SCALE.read_text()
  blocks = re.findall(rf'^```{language}\n(.*?)^```$', text, re.M | re.S)
  (block,) = (block for block in blocks if word in block)
  assert len(block.splitlines()) <= 10
  assert block.count('--data_dir data') + block.count("data_dir='data'") >= 1
  return block.replace(
    '--data_dir data', '--source embedded --limit 3 1 1'
  ).replace("data_dir='data'", "source='embedded', limit=(3, 1, 1)")


def start(arguments, folder, **variables):
  """Runs a program as on another machine."""
  python = pathlib.Path(sys.executable).parent
  done = subprocess.run(
    arguments,
    cwd=folder,
    env={
      **os.environ,
      'PATH': f'{python}{os.pathsep}{os.environ["PATH"]}',
      'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), *sys.path])),
      **variables,
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr


def assert_is_prepared(cache, monkeypatch):
  monkeypatch.setattr(superpixels, '_PER_SHARD', 500)
  options = {'source': 'embedded', 'limit': (3, 1, 1), 'workers': 1}
  whole = load_mnist_superpixels(**options, cache_dir=cache / 'own')
  monkeypatch.setattr(superpixels, 'chunk_graphs', None)
  assert_same(load_mnist_superpixels(**options, cache_dir=cache), whole)


def test_slurm_example(tmp_path, monkeypatch):
  """Its lines, with the variables that Slurm would set."""
  script, join = (example('bash', word) for word in ('#SBATCH', '--join'))
  (tmp_path / 'prepare.sh').write_text(script)
  for task in ('1', '0'):
    start(
      ['bash', '-e', 'prepare.sh'],
      tmp_path,
      SLURM_ARRAY_TASK_ID=task,
      SLURM_ARRAY_TASK_COUNT='2',
      SLURM_CPUS_PER_TASK='1',
    )
  cache = tmp_path / 'cache'
  assert len(list(cache.rglob('*.npz'))) == 3
  assert not list(cache.rglob(prepared.MANIFEST))
  (last,) = (line for line in join.splitlines() if '--join' in line)
  start(['bash', '-e', '-c', last], tmp_path, LORAP_JAX_CACHE=str(cache))
  assert len(list(cache.rglob(prepared.MANIFEST))) == 3
  assert_is_prepared(cache, monkeypatch)


def test_ray_example(tmp_path, cache, monkeypatch):
  pytest.importorskip('ray', reason="pip install 'lorap_jax[ray]'")
  (tmp_path / 'with_ray.py').write_text(example('python', 'import ray'))
  start([sys.executable, 'with_ray.py'], tmp_path)
  assert len(list(cache.rglob(prepared.MANIFEST))) == 3
  assert_is_prepared(cache, monkeypatch)
