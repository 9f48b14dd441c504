"""Processes that find each other, and notice who is lost; without JAX."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from lorap_jax.runs import star

CLOCKS = star.Clocks(join=20, beat=0.05, silent=1, batch=0.3, elsewhere=30)
SHORT = CLOCKS._replace(join=0.3)
GOES_ON = 'the same command goes on from the last checkpoint'
# A process that joins, and does something else to itself at its first step.
OTHER = """
import os, sys, time
from lorap_jax.runs import star
address, count, rank, number = sys.argv[1:]
clocks = star.Clocks(join=20, beat=.05, silent=1, batch=.3, elsewhere=30)
own = star.join(address, int(count), int(rank), clocks=clocks)
own.tick(7, batch=True)
own.exchange(None)
time.sleep(0.3)  # Some signs of life.
os.kill(os.getpid(), int(number))
time.sleep(60)
"""


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


def in_threads(functions):
  """The results of functions that wait for each other, or their errors."""
  results = [None] * len(functions)

  def call(i):
    try:
      results[i] = functions[i]()
    except Exception as error:
      results[i] = error

  threads = [
    threading.Thread(target=call, args=(i,)) for i in range(len(functions))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return results


class Joined:
  """Parts of processes, in threads of this one, and the lines they end with."""

  def __init__(self, count, ranks=None, clocks=CLOCKS, address=None):
    self.address = address or f'127.0.0.1:{free_port()}'
    self.lines = {rank: queue.Queue() for rank in ranks or range(count)}
    self.parts = in_threads(
      [
        lambda rank=rank, lines=lines: star.join(
          self.address, count, rank, clocks=clocks, end=lines.put
        )
        for rank, lines in self.lines.items()
      ]
    )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.parts = [p for p in self.parts if isinstance(p, star.Star)]
    self.all(lambda part: part.leave())

  def all(self, function):
    return in_threads([lambda part=part: function(part) for part in self.parts])

  def line(self, rank):
    return self.lines[rank].get(timeout=20)


def test_all_get_what_each_gives():
  with Joined(3) as joined:
    values = joined.all(lambda part: part.exchange({'rank': part.rank}))
    assert values == [[{'rank': 0}, {'rank': 1}, {'rank': 2}]] * 3
    blob = bytes(range(256)) * 10_000
    get = lambda part: part.share(None if part.rank else blob)
    assert joined.all(get) == [blob] * 3
  assert all(lines.empty() for lines in joined.lines.values())


def test_vote_is_the_same_for_all_and_one_late():
  with Joined(2) as joined:
    ballots = {0: [False, False, False, False], 1: [False, True, False, False]}
    votes = joined.all(
      lambda part: [part.vote(ballot) for ballot in ballots[part.rank]]
    )
    assert votes == [[False, False, True, False]] * 2


@pytest.mark.parametrize(
  'number, reason',
  [
    (signal.SIGKILL, 'its connection ended'),
    (signal.SIGSTOP, 'silent for 1 s'),
  ],
)
@pytest.mark.parametrize('rank', [0, 1])
def test_whoever_is_lost_ends_the_others(number, reason, rank):
  address = f'127.0.0.1:{free_port()}'
  arguments = [address, '3', str(rank), str(int(number))]
  other = subprocess.Popen([sys.executable, '-c', OTHER, *arguments])
  try:
    with Joined(
      3, [r for r in range(3) if r != rank], address=address
    ) as joined:
      joined.all(lambda part: part.exchange(None))
      line = (
        f'process {rank} (host {socket.gethostname()}) was lost at step 7: '
        f'{reason}; {GOES_ON}'
      )
      assert {joined.line(r) for r in joined.lines} == {line}
  finally:
    os.kill(other.pid, signal.SIGKILL)
    other.wait()


@pytest.mark.parametrize('rank', [0, 1])
def test_whoever_stands_still_ends_all(rank):
  with Joined(2) as joined:
    for part in joined.parts:
      part.tick(3, batch=True)
    joined.parts[1 - rank].tick(4, batch=True)
    lines = {joined.line(r) for r in joined.lines}
    assert len(lines) == 1
    assert f'process {rank} ' in (line := lines.pop())
    assert 'lost at step 3: the others wait for it since 0 s' in line


@pytest.mark.parametrize('ahead, batch', [(False, True), (True, False)])
def test_who_compiles_or_is_not_waited_for_may_stand(ahead, batch):
  with Joined(2) as joined:
    for part in joined.parts:
      part.tick(3, batch=batch)
    if ahead:
      joined.parts[1].tick(4, batch=batch)
    with pytest.raises(queue.Empty):
      joined.lines[1].get(timeout=4 * CLOCKS.batch)


@pytest.mark.parametrize('rank', [0, 1, 2])
def test_error_of_one_ends_the_others(rank):
  with Joined(3) as joined:
    joined.parts[rank].leave('no space left')
    host = socket.gethostname()
    for other in {0, 1, 2} - {rank}:
      line = f'process {rank} (host {host}) ended: no space left'
      assert joined.line(other) == line
    assert joined.lines[rank].empty()


def test_nobody_comes():
  with Joined(4, [0, 2], clocks=SHORT) as joined:
    for error in joined.parts:
      assert isinstance(error, star.JoinError)
      assert str(error).startswith('process 1, 3 of 4 did not come within 0 s')


def test_coordinator_that_cannot_be_reached():
  (error,) = Joined(2, [1], clocks=SHORT).parts
  assert re.match(
    r'process 1 cannot reach process 0 at 127.0.0.1:\d+ within 0 s '
    r'\(.+\); start it, or correct --coordinator',
    str(error),
  )


def test_port_in_use():
  with socket.create_server(('', 0)) as taken:
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    (error,) = Joined(2, [0], clocks=SHORT, address=address).parts
  assert 'cannot listen on port' in str(error)


def test_other_number_of_processes():
  address = f'127.0.0.1:{free_port()}'
  join = lambda count, rank: (
    lambda: star.join(address, count, rank, clocks=SHORT._replace(join=5))
  )
  errors = in_threads([join(2, 0), join(3, 1)])
  expected = '--num_processes is 3 in process 1 and 2 in process 0'
  assert [str(error) for error in errors] == [expected] * 2


def test_number_given_twice():
  address = f'127.0.0.1:{free_port()}'
  join = lambda rank: lambda: star.join(address, 3, rank, clocks=SHORT)
  first, *others = map(str, in_threads([join(0), join(1), join(1)]))
  missing = 'process 2 of 3 did not come'
  assert first.startswith(missing)
  second, third = sorted(others)
  assert second.startswith(missing)
  assert third == 'there is a process 1 of 3 already'


def test_strangers_are_let_go():
  address = f'127.0.0.1:{free_port()}'
  port = int(address.rpartition(':')[2])

  def knock():
    while True:
      try:
        stranger = socket.create_connection(('127.0.0.1', port))
        break
      except ConnectionRefusedError:
        pass
    with stranger:
      stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
      assert stranger.recv(1) == b''  # Only then the other one comes.
    return star.join(address, 2, 1, clocks=CLOCKS)

  main = lambda: star.join(address, 2, 0, clocks=CLOCKS)
  parts = in_threads([main, knock])
  values = in_threads([lambda p=p: p.exchange(p.rank) for p in parts])
  assert values == [[0, 1]] * 2
  in_threads([part.leave for part in parts])


@pytest.mark.parametrize('address', ['', 'host', 'host:', ':80', 'host:99999'])
def test_address_that_is_none(address):
  with pytest.raises(star.JoinError, match='must be HOST:PORT'):
    star.join(address, 2, 0)


def test_number_that_is_none():
  with pytest.raises(star.JoinError, match=re.escape('in [0, 1], got 2')):
    star.join('host:80', 2, 2)


class TestPlace:
  def test_alone(self):
    assert star.place(None, None, None) is None

  def test_given(self):
    assert star.place('host:80', 2, 1) == ('host:80', 2, 1)

  @pytest.mark.parametrize(
    'given',
    [('h:1', None, 0), ('h:1', 2, None), (None, 2, 0), ('auto', 2, None)],
  )
  def test_some_without_the_others(self, given):
    with pytest.raises(star.JoinError, match='go together'):
      star.place(*given)

  @pytest.mark.parametrize(
    'nodes, first',
    [
      ('node001', 'node001'),
      ('node001,host2', 'node001'),
      ('node[001-015],host2', 'node001'),
      ('node[003,007-015]', 'node003'),
      ('a,node[001-002]', 'a'),
    ],
  )
  def test_of_slurm(self, monkeypatch, nodes, first):
    monkeypatch.setenv('SLURM_JOB_ID', '4099')
    monkeypatch.setenv('SLURM_NTASKS', '16')
    monkeypatch.setenv('SLURM_PROCID', '3')
    monkeypatch.setenv('SLURM_STEP_NODELIST', nodes)
    assert star.place('auto', None, None) == (f'{first}:61443', 16, 3)

  def test_without_slurm(self, monkeypatch):
    monkeypatch.delenv('SLURM_JOB_ID', raising=False)
    with pytest.raises(star.JoinError, match='start with srun'):
      star.place('auto', None, None)
