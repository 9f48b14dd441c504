"""What several processes have in common, seen from one of them."""

import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from lorap_jax.data import pipeline
from lorap_jax.graphs import batching, shards
from lorap_jax.runs import apart, processes, settings


class Middle:
  """In place of a star: what the others give is known."""

  def __init__(self, rank, values=None, blob=None):
    self.rank, self.count, self.values, self.blob = rank, 2, values, blob
    self.ticks = []

  def exchange(self, value):
    del value
    return self.values

  def share(self, blob):
    self.blob = blob or self.blob
    return self.blob

  def tick(self, step=None, *, batch=False):
    self.ticks.append(batch)


@pytest.fixture
def join(monkeypatch):
  def joined(*args, **options):
    middle = Middle(*args, **options)
    monkeypatch.setattr(processes._Joined, 'middle', middle)
    return middle

  return joined


def test_alone_nothing_is_different():
  assert processes.is_main()
  assert processes.on_main(max, 2, 3) == 3
  assert processes.vote(True) and not processes.vote(False)
  processes.agree('data', {'a': 1})
  assert list(processes.watched([1, 2], set())) == [1, 2]
  with processes.own_folder(pathlib.Path('x')) as folder:
    assert folder == pathlib.Path('x')


TREE = {
  'params': {'a': jnp.arange(3.0), 'b/c': jnp.ones((2, 0), jnp.int32)},
  'step': jnp.int32(7),
  'key': jax.random.key(3),
  'progress': {'epoch': 1, 'history': [{'x': 0.1}], 'none': None, 's': 'ü'},
  'array': {},
}


def test_others_get_what_process_0_gets(join):
  main = join(0)
  assert processes.on_main(lambda: TREE) is TREE
  join(1, blob=main.blob)
  found = processes.on_main(lambda: pytest.fail('process 0 alone'))
  assert jax.tree.structure(found) == jax.tree.structure(TREE)
  data = lambda tree: jax.tree.map(
    apart.on_host, {**tree, 'key': jax.random.key_data(tree['key'])}
  )
  for mine, expected in zip(
    jax.tree.leaves(data(found)), jax.tree.leaves(data(TREE)), strict=True
  ):
    np.testing.assert_array_equal(mine, expected)
    assert np.asarray(mine).dtype == np.asarray(expected).dtype


class DamagedError(ValueError):
  pass


@pytest.mark.parametrize('kind', [DamagedError, ValueError, OSError])
def test_others_get_the_error_of_process_0(join, kind):
  def fail():
    raise kind('no space')

  main = join(0)
  with pytest.raises(kind, match='no space'):
    processes.on_main(fail, errors=(DamagedError,))
  join(1, blob=main.blob)
  with pytest.raises(kind, match='no space'):
    processes.on_main(fail, errors=(DamagedError,))


def test_what_process_0_calls_for_all_it_does_not_share(join):
  main = join(0)
  outer = lambda: processes.on_main(lambda: 'inner') + ' and outer'
  assert processes.on_main(outer) == 'inner and outer'
  join(1, blob=main.blob)
  assert processes.on_main(outer) == 'inner and outer'


def test_who_differs_is_named(join):
  values = [{'config': {'seed': 1, 'data': {'dir': 'a'}}}] * 3
  join(2, values=values)
  processes.agree('', values[2])
  # Where the data lies may differ.
  values[1] = {'config': {'seed': 1, 'data': {'dir': 'b'}}}
  processes.agree('', values[2])
  values[1] = {'config': {'seed': 2, 'data': {'dir': 'a'}}}
  with pytest.raises(
    ValueError, match='process 1 has config.seed = 2, process 0 has 1; start'
  ):
    processes.agree('', values[2])


def test_others_have_the_records_of_the_folder(join, tmp_path):
  folder = tmp_path / 'run'
  (folder / 'search' / 'checkpoints' / 'latest' / '3').mkdir(parents=True)
  (folder / 'config.json').write_text('{"a": 1}')
  (folder / 'metrics.jsonl').write_text('{}')
  (folder / 'search' / 'report.json').write_text('{"b": 2}')
  main = join(0)
  with processes.own_folder(folder) as own:
    assert own == folder
  join(1, blob=main.blob)
  with processes.own_folder(folder) as own:
    found = {str(p.relative_to(own)) for p in own.rglob('*')}
    assert (own / 'search' / 'report.json').read_text() == '{"b": 2}'
  assert found == {
    'config.json',
    'search',
    'search/checkpoints',
    'search/report.json',
  }
  assert not own.exists()


def test_compilation_of_a_new_shape_is_no_standstill(join):
  middle = join(0)
  seen: set = set()
  for _ in processes.watched([np.zeros(2), np.zeros(2), np.zeros(3)], seen):
    pass
  first = [False, True]
  assert middle.ticks == [*first, True, True, *first, False]
  middle.ticks.clear()
  for _ in processes.watched([np.zeros(2)], seen):
    pass
  assert middle.ticks == [True, True, False]


def loader(num_shards, shard=None):
  data = tiny_run.dataset(5, 12)
  budget = pipeline.joint_budget((data,), batch_size=12)
  mesh = shards.mesh_of(jax.devices()[:1])
  return pipeline.Loader(
    data,
    budget,
    layout=True,
    weighted=True,
    num_shards=num_shards,
    shard=shard,
    mesh=mesh,
  )


@pytest.mark.parametrize('small', [False, True])
def test_shards_of_processes_make_the_batch(monkeypatch, small):
  """Those that do not fit get the same larger shape in each."""
  shard = batching.Budget(16, 32, 13, 20) if small else None
  own = loader(4, shard)
  # Of the first shard alone the shape would do, of another it would not.
  indices = np.argsort(own.data.n_node)

  def batch(local):
    monkeypatch.setattr(shards, 'in_this_process', lambda mesh: local)
    return own.batch(indices)

  whole, *parts = (batch(local) for local in ([0, 1, 2, 3], [0], [1, 2], [3]))
  joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
  assert jax.tree.structure(joined) == jax.tree.structure(whole)
  jax.tree.map(np.testing.assert_array_equal, joined, whole)


def test_what_they_do_not_do(join, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  with pytest.raises(ValueError, match='start train.py with --coordinator'):
    processes.check(0)
  join(0)
  message = '`devices` is 1, the 2 processes have 4 .* set it to 0 or 4'
  with pytest.raises(ValueError, match=message):
    processes.check(1)
  processes.check(0)
  processes.check(4)


def test_settings_look(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='start train.py with --coordinator'):
    settings.from_config(tiny_run.config())


def test_failed_collectives_are_told_from_other_errors():
  gloo = ValueError('UNKNOWN: Gloo AllGather failed')
  assert processes._is_of_connection(gloo)
  exit_of_it = SystemExit('error: x')
  exit_of_it.__context__ = gloo
  assert processes._is_of_connection(exit_of_it)
  assert processes._is_of_connection(jax.errors.JaxRuntimeError('INTERNAL: x'))
  memory = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
  assert not processes._is_of_connection(memory)
  assert not processes._is_of_connection(ValueError('config.train: x'))


def test_relay_does_not_pass_the_end_on():
  with processes.socket.create_server(('127.0.0.1', 0)) as service:
    address = processes._relay(service.getsockname())
    host, port = address.split(':')
    with processes.socket.create_connection((host, int(port))) as client:
      inner, _ = service.accept()
      with inner:
        client.sendall(b'ask')
        assert inner.recv(3) == b'ask'
        inner.sendall(b'answer')
        assert client.recv(6) == b'answer'
      client.settimeout(0.3)
      with pytest.raises(TimeoutError):
        client.recv(1)


def test_child_does_the_call(monkeypatch):
  """Over its pipe, here in a thread; errors come back as they are."""
  context = apart.multiprocessing
  here, there = context.Pipe()
  monkeypatch.setattr(apart, '_children', [here])
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  thread = threading.Thread(target=apart._answer, args=(there,))
  thread.start()
  tree = {'a': jnp.arange(3), 'key': jax.random.key(1)}
  found = apart.call(echo, tree)
  assert jax.random.key_data(found['key']).tolist() == [0, 1]
  assert found['a'].tolist() == [0, 1, 2]
  with pytest.raises(OSError, match='disk'):
    apart.call(fail, tree)
  here.close()
  thread.join()
  there.close()


def echo(tree):
  assert isinstance(tree['a'], jax.Array)
  return tree


def fail(tree):
  raise OSError('disk')
