"""Real processes that train one run: equal to one, lost, stopped, refused.

All but one are slow: each process imports JAX and compiles.
"""

import concurrent.futures
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import kill_test
import pytest
from run_folder import metrics, read, without_times

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = str(ROOT / 'tests' / 'processes_run.py')
GOES_ON = 'the same command goes on from the last checkpoint'
SMALL = ('--config.scheme.name=fp32', '--config.prompt.name=gpf')


def start(rank, folder, *flags, what=('nothing', 0), devices=1, count=2):
  """Begins one of the processes; `count` 1 for a run of one."""
  action, step = what
  command = [sys.executable, SCRIPT, action, str(step)]
  command += ['--config=tests/processes_config.py', f'--workdir={folder}']
  if count > 1:
    command += [f'--num_processes={count}', f'--process_id={rank}']
  return subprocess.Popen(
    [*command, *flags],
    cwd=ROOT,
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')]),
      'JAX_NUM_CPU_DEVICES': str(devices),
      'JAX_COMPILATION_CACHE_DIR': str(jax.config.jax_compilation_cache_dir),
      'GLIBC_TUNABLES': '',  # Or it starts itself once more.
      'TF_CPP_MIN_LOG_LEVEL': '3',  # As train.py sets it, see `_process`.
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def end(process):
  """Exit code, standard output and standard error."""
  try:
    out, err = process.communicate(timeout=240)
  finally:
    process.kill()
    process.wait()
  return process.returncode, out, err


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


def run(folder, *flags, whats=({}, {}), own=((), ()), devices=1):
  """Two processes to their ends."""
  coordinator = f'--coordinator=127.0.0.1:{free_port()}'
  processes = [
    start(
      rank,
      folder,
      coordinator,
      *flags,
      *own[rank],
      what=whats[rank] or ('nothing', 0),
      devices=devices,
    )
    for rank in (0, 1)
  ]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return list(pool.map(end, processes))


def one(folder, *flags, devices=2):
  code, _, err = end(start(0, folder, *flags, devices=devices, count=1))
  assert code == 0, err
  return folder


def errors(ended):
  """The lines of an error of each process, which must fail, with one line."""
  found = []
  for code, _, err in ended:
    assert code == 1, err
    lines = [x for x in err.splitlines() if x.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in err, err
    found.append(lines[0].removeprefix('error: '))
  return found


def test_other_configurations(tmp_path):
  own = (), ('--config.optim.learning_rate=0.123', '--config.data.workers=3')
  ended = run(tmp_path / 'run', *SMALL, own=own)
  expected = 'process 1 has config.optim.learning_rate = 0.123, process 0 has'
  assert all(expected in line for line in errors(ended))
  assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The folder of a run of two processes, and what they printed."""
  folder = tmp_path_factory.mktemp('whole') / 'run'
  return folder, run(folder, *SMALL)


@pytest.mark.slow
def test_only_process_0_prints_and_writes(whole):
  folder, ((code, out, err), other) = whole
  assert code == 0, err
  assert other == (0, '', '')
  assert 'test accuracy' in out and 'Gloo' not in out
  assert 'epoch 3/3' in err
  assert read(folder)['device'] == '2 x cpu (cpu), of 2 processes'


@pytest.mark.slow
def test_run_is_that_of_one_process(whole, tmp_path):
  folder, _ = whole
  expected = one(tmp_path / 'run', *SMALL)
  same = lambda report: {
    k: v for k, v in report.items() if k not in ('seconds', 'device')
  }
  assert same(read(folder)) == same(read(expected))
  assert_same_state(folder, expected)


def assert_same_state(folder, expected):
  assert kill_test.lines(folder) == kill_test.lines(expected)
  found, wanted = kill_test.states(folder), kill_test.states(expected)
  assert found.keys() == wanted.keys()
  leaves = lambda tree: [kill_test.plain(x) for x in jax.tree.leaves(tree)]
  for mine, other in zip(leaves(found), leaves(wanted), strict=True):
    assert (mine == other).all()


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    ('--config.train.integer_epochs=1', '--config.train.export=True'),
    (
      '--config.scheme.name=mixq',
      '--config.seeds=2',
      '--config.train.epochs=1',
      '--config.train.search_epochs=1',
      '--config.train.pretrain_epochs=1',
    ),
  ],
)
def test_integers_and_phases(tmp_path, flags):
  (code, _, err), other = run(tmp_path / 'two', *flags)
  assert code == 0, err
  assert other == (0, '', '')
  expected = one(tmp_path / 'one', *flags)
  assert_same_state(tmp_path / 'two', expected)
  files = lambda f: {str(p.relative_to(f)) for p in f.rglob('integers/*')}
  assert files(tmp_path / 'two') == files(expected)


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize('action', ['kill', 'stop', 'stand'])
def test_lost_process_ends_the_other_and_the_run_goes_on(
  whole, tmp_path, action, rank
):
  folder = tmp_path / 'run'
  coordinator = f'--coordinator=127.0.0.1:{free_port()}'
  whats = [('nothing', 0), ('nothing', 0)]
  whats[rank] = (action, 5)  # In the second of three epochs.
  processes = [
    start(r, folder, coordinator, *SMALL, what=whats[r]) for r in (0, 1)
  ]
  other = end(processes[1 - rank])
  if action == 'stop':
    os.kill(processes[rank].pid, signal.SIGCONT)  # It finds itself alone.
  code, _, err = end(processes[rank])
  assert code == (-signal.SIGKILL if action == 'kill' else 1), err
  (line,) = errors([other])
  assert line.startswith(f'process {rank} (host {socket.gethostname()}) was lo')
  assert line.endswith(GOES_ON)
  assert [r['epoch'] for r in metrics(folder)] == [1]
  assert [code for code, *_ in run(folder, *SMALL)] == [0, 0]
  assert_same_state(folder, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_signal_to_one_stops_all_at_the_same_step(whole, tmp_path, rank):
  folder, whats = tmp_path / 'run', [{}, {}]
  whats[rank] = ('term', 4)
  ended = run(folder, *SMALL, whats=whats)
  assert [code for code, *_ in ended] == [130, 130]
  assert 'Stopped; the state is saved' in ended[0][2]
  assert ended[1][1:] == ('', '')
  shutil.copytree(folder, tmp_path / 'copy')
  assert [code for code, *_ in run(folder, *SMALL)] == [0, 0]
  assert_same_state(folder, whole[0])
  # One process with as many devices goes on alike.
  assert_same_state(one(tmp_path / 'copy', *SMALL), whole[0])


@pytest.mark.slow
def test_goes_on_with_another_number_of_devices(whole, tmp_path):
  folder = tmp_path / 'run'
  run(folder, *SMALL, whats=[('term', 4), {}])
  assert [code for code, *_ in run(folder, *SMALL, devices=2)] == [0, 0]
  assert read(folder)['device'] == '4 x cpu (cpu), of 2 processes'
  for line, other in zip(
    without_times(metrics(folder)),
    without_times(metrics(whole[0])),
    strict=True,
  ):
    assert line == pytest.approx(other, rel=2e-3)


NODES = '--config=tests/processes_config.py:nodes'


@pytest.fixture(scope='module')
def one_graph(tmp_path_factory):
  """The folder of a run on one graph, of one process with two devices."""
  return one(tmp_path_factory.mktemp('one_graph') / 'run', NODES)


@pytest.mark.slow
def test_one_graph_is_that_of_one_process(one_graph, tmp_path):
  (code, _, err), other = run(tmp_path / 'run', NODES)
  assert code == 0, err
  assert other == (0, '', '')
  assert_same_state(tmp_path / 'run', one_graph)
  assert read(tmp_path / 'run')['result'] == read(one_graph)['result']


@pytest.mark.slow
@pytest.mark.parametrize('action', ['kill', 'stand', 'term'])
def test_one_graph_goes_on(one_graph, tmp_path, action):
  folder, whats = tmp_path / 'run', [{}, (action, 2)]
  codes = [code for code, *_ in run(folder, NODES, whats=whats)]
  lost = -signal.SIGKILL if action == 'kill' else 1
  assert codes == ([130, 130] if action == 'term' else [1, lost])
  assert 2 <= len(metrics(folder)) < 8
  assert [code for code, *_ in run(folder, NODES)] == [0, 0]
  assert_same_state(folder, one_graph)


REFUSED = {
  'more devices': (('--config.train.devices=4',), '`devices` is 4, the 2'),
  'fewer devices': (('--config.train.devices=1',), '`devices` is 1, the 2'),
  'batch size': (('--config.train.batch_size=15',), 'is no multiple of the 2'),
}


@pytest.mark.slow
@pytest.mark.parametrize('mistake', REFUSED)
def test_mistakes_of_all(tmp_path, mistake):
  flags, message = REFUSED[mistake]
  lines = errors(run(tmp_path / 'run', *flags))
  assert all(message in line for line in lines), lines


@pytest.mark.slow
def test_folder_in_use(tmp_path, whole):
  shutil.copytree(whole[0], tmp_path / 'run')
  code = (
    'import sys, time; from lorap_jax.runs.hold import hold\n'
    'with hold(sys.argv[1]): print(flush=True); time.sleep(300)'
  )
  holder = subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path / 'run')],
    stdout=subprocess.PIPE,
    cwd=ROOT,
  )
  try:
    assert holder.stdout is not None
    holder.stdout.readline()
    lines = errors(run(tmp_path / 'run', *SMALL))
    assert all('is in use by process' in line for line in lines)
  finally:
    holder.kill()
    holder.communicate()


@pytest.mark.slow
def test_coordinator_that_is_not_there(tmp_path):
  began = start(1, tmp_path / 'run', '--coordinator=127.0.0.1:9', *SMALL)
  (line,) = errors([end(began)])
  assert 'cannot reach process 0 at 127.0.0.1:9 within 20 s' in line


@pytest.mark.slow
def test_slurm(tmp_path, monkeypatch):
  for name, value in {
    'JOB_ID': str(os.getpid()),
    'STEP_NODELIST': 'localhost',
    'NTASKS': '2',
    'LOCALID': '0',
  }.items():
    monkeypatch.setenv(f'SLURM_{name}', value)
  processes = []
  for rank in ('0', '1'):
    monkeypatch.setenv('SLURM_PROCID', rank)
    flags = ('--coordinator=auto', '--config.train.epochs=1', *SMALL)
    processes.append(start(rank, tmp_path / 'run', *flags, count=1))
    time.sleep(0.1)
  assert [end(process)[0] for process in processes] == [0, 0]
  assert read(tmp_path / 'run')['epochs'] == 1
