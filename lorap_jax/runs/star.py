"""Processes that work together: each has a connection to process 0.

Over it they find each other before JAX does, tell one another values, and see
who is lost. JAX's own service does the last in minutes, with a stack trace, and
not at all where a process lives but stands still. Nothing here knows JAX.

A frame is the length of a JSON object (4 bytes), of what follows it (8 bytes),
the object, and bytes. Every process has a thread that reads frames, and sends a
`beat` from time to time; process 0 answers for all.
"""

import contextlib
import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_SIZES = struct.Struct('>IQ')
_MOST_HEADER = 1 << 26
_GOES_ON = 'the same command goes on from the last checkpoint'


class JoinError(ValueError):
  """The processes did not come together."""


class Place(NamedTuple):
  """Where a process belongs.

  Attributes:
    coordinator: HOST:PORT of process 0.
    count: of all processes.
    rank: number of this one.
  """

  coordinator: str
  count: int
  rank: int


class Clocks(NamedTuple):
  """Limits, in seconds.

  Attributes:
    join: until all processes are there.
    beat: from one sign of life to the next.
    silent: without any of a process before it is lost.
    batch: that the others wait for one which is between two batches.
    elsewhere: the same where it may compile, save or measure.
  """

  join: float = 50.0
  beat: float = 1.0
  silent: float = 20.0
  batch: float = 40.0
  elsewhere: float = 1800.0


class _Peer:
  """What is known of a process: its connection, and how far it is."""

  def __init__(self, rank: int, host: str, connection: socket.socket | None):
    self.rank, self.host, self.socket = rank, host, connection
    self.sending = threading.Lock()
    self.buffer = bytearray()
    self.heard = self.moved = time.monotonic()
    self.at = (0, 0, False)  # Ticks, step, between batches.
    self.left = False

  def send(self, header: dict[str, Any], blob: bytes = b'') -> None:
    text = json.dumps(header).encode()
    with self.sending:
      if self.socket is not None:
        self.socket.sendall(_SIZES.pack(len(text), len(blob)) + text + blob)

  def frames(self) -> list[tuple[dict[str, Any], bytes]]:
    """Reads what is there. Raises OSError or ValueError at its end."""
    data = self.socket.recv(1 << 20)  # pyrefly: ignore
    if not data:
      raise ConnectionError('its connection ended')
    self.heard = time.monotonic()
    self.buffer += data
    found = []
    while len(self.buffer) >= _SIZES.size:
      size, more = _SIZES.unpack_from(self.buffer)
      if size > _MOST_HEADER:
        raise ValueError('it does not speak as lorap_jax does')
      end = _SIZES.size + size + more
      if len(self.buffer) < end:
        break
      text = bytes(self.buffer[_SIZES.size : _SIZES.size + size])
      found.append((json.loads(text), bytes(self.buffer[end - more : end])))
      del self.buffer[:end]
    return found


def end_process(line: str) -> None:
  """Prints a line and ends this process, whatever its main thread is at."""
  print(f'error: {line}', file=sys.stderr, flush=True)
  os._exit(1)


class Star:
  """One process among those that work together.

  All call `exchange`, `share` and `vote` in the same order.

  Attributes:
    rank: number of this process; 0 is the middle.
    count: of all.
  """

  def __init__(
    self,
    rank: int,
    count: int,
    peers: dict[int, _Peer],
    clocks: Clocks,
    end: Callable[[str], None],
  ):
    self.rank, self.count = rank, count
    self._own = _Peer(rank, socket.gethostname(), None)
    self._peers = peers
    self._clocks, self._end = clocks, end
    self._changed = threading.Condition()
    self._given: dict[int, dict[int, Any]] = {}  # Process 0: who gave what.
    self._blobs: dict[int, bytes] = {}
    self._done: dict[int, tuple[list[Any], bytes]] = {}
    self._round = 0
    self._ballot: int | None = None
    self._over = False
    self._end_line: str | None = None
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  # What the main thread calls.

  def tick(self, step: int | None = None, *, batch: bool = False) -> None:
    """This process has moved.

    Args:
      step: optimizer steps taken, if that has changed.
      batch: it is on its way to its next batch, and has compiled what for.
    """
    ticks, last, _ = self._own.at
    self._own.moved = time.monotonic()
    self._own.at = (ticks + 1, last if step is None else step, batch)

  def exchange(self, value: Any) -> list[Any]:
    """What every process gives, in their order; all wait for all.

    Args:
      value: JSON-able.
    """
    return self._get(self._give(value))[0]

  def share(self, blob: bytes | None) -> bytes:
    """The bytes that process 0 gives; the others give None."""
    return self._get(self._give(None, blob or b''))[1]

  def vote(self, flag: bool) -> bool:
    """Whether any process said yes in the vote before this one.

    One vote late, so that nobody waits; the same in every process.
    """
    before, self._ballot = self._ballot, self._give(bool(flag))
    return before is not None and any(self._get(before)[0])

  def leave(self, line: str | None = None) -> None:
    """Takes leave. A line that says what went wrong ends the others.

    Where another process ends this one, that comes first.
    """
    if not self._ends():
      with self._changed:
        self._changed.wait_for(lambda: self._end_line is not None)
      return
    bye = {'kind': 'bye', 'line': line, 'at': self._own.at}
    if line is not None and self.rank == 0:
      bye = {'kind': 'end', 'line': self._ended(self._own, line)}
    self._send_all(bye)
    self._thread.join(2 * self._clocks.beat)
    self._hang_up()
    self._end_line = line or ''

  def _give(self, value: Any, blob: bytes = b'') -> int:
    self._round += 1
    self.tick(batch=self._own.at[2])
    if self.rank:
      message = {'kind': 'give', 'round': self._round, 'value': value}
      self._send(self._peers[0], {**message, 'at': self._own.at})
    else:
      # As the others get it: tuples become lists.
      self._take(0, self._round, json.loads(json.dumps(value)), blob)
    return self._round

  def _get(self, number: int) -> tuple[list[Any], bytes]:
    with self._changed:
      while number not in self._done:
        if self._end_line is not None:
          raise ConnectionError(self._end_line)
        self._changed.wait(1)
      return self._done.pop(number)

  # What both threads call.

  def _take(self, rank: int, number: int, value: Any, blob: bytes) -> None:
    """Process 0: files what a process gives; tells all when it is complete."""
    with self._changed:
      given = self._given.setdefault(number, {})
      given[rank] = value
      if rank == 0:
        self._blobs[number] = blob
      if len(given) < self.count:
        return
      values = [given[r] for r in range(self.count)]
      del self._given[number]
      blob = self._blobs.pop(number)
      self._done[number] = values, blob
      self._changed.notify_all()
    all_of_it = {'kind': 'all', 'round': number, 'values': values}
    self._send_all({**all_of_it, 'at': self._own.at}, blob)

  def _send_all(self, header: dict[str, Any], blob: bytes = b'') -> None:
    for peer in self._peers.values():
      self._send(peer, header, blob)

  def _send(
    self, peer: _Peer, header: dict[str, Any], blob: bytes = b''
  ) -> None:
    try:
      peer.send(header, blob)
    except OSError:
      pass  # Who does not hear does not speak, and is lost by that.

  # The thread.

  def _watch(self) -> None:
    with selectors.DefaultSelector() as selector:
      for peer in self._peers.values():
        selector.register(peer.socket, selectors.EVENT_READ, peer)  # pyrefly: ignore
      due = woken = time.monotonic()
      while not self._over:
        for key, _ in selector.select(self._clocks.beat / 4):
          self._read(selector, key.data)
        now = time.monotonic()
        if now - woken > self._clocks.silent / 2:
          # This process itself was stopped: first hear what the others said.
          for peer in self._peers.values():
            peer.heard = now
        woken = now
        if now >= due:
          self._send_all({'kind': 'beat', 'at': self._own.at})
          due = now + self._clocks.beat
        self._look(now)

  def _read(self, selector: selectors.BaseSelector, peer: _Peer) -> None:
    try:
      for header, blob in peer.frames():
        self._hear(peer, header, blob)
    except (OSError, ValueError, KeyError) as error:
      selector.unregister(peer.socket)  # pyrefly: ignore
      if not peer.left:
        spoke = isinstance(error, OSError)
        self._lost(peer, 'its connection ended' if spoke else str(error))

  def _hear(self, peer: _Peer, header: dict[str, Any], blob: bytes) -> None:
    kind = header['kind']
    if 'at' in header:
      if header['at'][0] != peer.at[0]:
        peer.moved = time.monotonic()
      peer.at = tuple(header['at'])
    if kind == 'give':
      self._take(peer.rank, header['round'], header['value'], b'')
    elif kind == 'all':
      with self._changed:
        self._done[header['round']] = header['values'], blob
        self._changed.notify_all()
    elif kind == 'end':
      self._finish(header['line'])
    elif kind == 'bye':
      peer.left = True
      if header['line'] is not None:
        self._finish(self._ended(peer, header['line']))

  def _look(self, now: float) -> None:
    """Whether somebody is silent or, seen from process 0, stands still."""
    there = [peer for peer in self._peers.values() if not peer.left]
    for peer in there:
      if now - peer.heard > self._clocks.silent:
        self._lost(peer, f'silent for {self._clocks.silent:.0f} s')
        return
    if self.rank:
      return
    everyone = [self._own, *there]
    first = max(peer.at[0] for peer in everyone)
    for peer in everyone:
      clocks = self._clocks
      limit = clocks.batch if peer.at[2] else clocks.elsewhere
      if peer.at[0] < first and now - peer.moved > limit:
        self._lost(peer, f'the others wait for it since {limit:.0f} s')
        return

  def _lost(self, peer: _Peer, reason: str) -> None:
    self._finish(
      f'process {peer.rank} (host {peer.host}) was lost at step {peer.at[1]}: '
      f'{reason}; {_GOES_ON}'
    )

  def _ended(self, peer: _Peer, line: str) -> str:
    return f'process {peer.rank} (host {peer.host}) ended: {line}'

  def _finish(self, line: str) -> None:
    if not self._ends():
      return
    if self.rank == 0:
      self._send_all({'kind': 'end', 'line': line})
    self._hang_up()
    self._end(line)
    # Only where `end` has not ended the process.
    with self._changed:
      self._end_line = line
      self._changed.notify_all()

  def _hang_up(self) -> None:
    """Closes the connections when the others have heard the last word.

    What is closed with something unread takes with it what was sent.
    """
    deadline = time.monotonic() + 2 * self._clocks.beat
    sockets = [peer.socket for peer in self._peers.values() if peer.socket]
    for connection in sockets:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    for connection in sockets:
      with contextlib.suppress(OSError):
        while (left := deadline - time.monotonic()) > 0:
          connection.settimeout(left)
          if not connection.recv(1 << 16):
            break
      connection.close()

  def _ends(self) -> bool:
    """Whether the caller is the first that ends this process's part."""
    with self._changed:
      first, self._over = not self._over, True
    return first


def place(
  coordinator: str | None, count: int | None, rank: int | None
) -> Place | None:
  """Where flags, or with `auto` the variables of Slurm, put this process.

  Args:
    coordinator: HOST:PORT, `auto` or None.
    count: of all processes, None with `auto`.
    rank: number of this one, None with `auto`.

  Returns:
    None for a process alone.

  Raises:
    JoinError: some of the three without the others, or no Slurm.
  """
  given = (coordinator, count, rank)
  if coordinator == 'auto' and count is rank is None:
    return _of_slurm()
  if all(value is None for value in given):
    return None
  if coordinator is None or count is None or rank is None:
    raise JoinError(
      '--coordinator=HOST:PORT, --num_processes and --process_id go together; '
      'under Slurm --coordinator=auto is enough'
    )
  return Place(coordinator, count, rank)


def _of_slurm() -> Place:
  """From the variables of `srun`, by the rule of JAX for the port."""
  try:
    job, count, rank = (
      int(os.environ[f'SLURM_{name}'])
      for name in ('JOB_ID', 'NTASKS', 'PROCID')
    )
    nodes = os.environ['SLURM_STEP_NODELIST']
  except (KeyError, ValueError) as error:
    raise JoinError(
      '--coordinator=auto reads the variables of Slurm, which are not there '
      f'({error}); start with srun, or give --coordinator=HOST:PORT, '
      '--num_processes and --process_id'
    ) from error
  # The first of node001, node001,host2, node[001-015],host2, node[001,7],host2.
  name, bracket, rest = nodes.partition('[')
  if not bracket or ',' in name:
    first = nodes.partition(',')[0]
  else:
    first = name + rest.replace(']', ',').replace('-', ',').partition(',')[0]
  return Place(f'{first}:{61440 + job % 4096}', count, rank)


def join(
  address: str,
  count: int,
  rank: int,
  *,
  clocks: Clocks = Clocks(),  # noqa: B008
  end: Callable[[str], None] = end_process,
) -> Star:
  """Brings processes together.

  Args:
    address: HOST:PORT, where process 0 listens.
    count: of all processes.
    rank: number of this one.
    clocks: limits.
    end: called with a line, on another thread, when somebody is lost.

  Returns:
    This process's part, when all are there.

  Raises:
    JoinError: not all are there in time, or they are not what was asked for.
  """
  host, port = _parsed(address)
  if count < 1 or not 0 <= rank < count:
    raise JoinError(
      f'--process_id must be in [0, {count - 1}], got {rank} (--num_processes '
      f'is {count})'
    )
  peers = (
    _wait(port, count, clocks)
    if rank == 0
    else _reach(host, port, count, rank, clocks)
  )
  return Star(rank, count, peers, clocks, end)


def _parsed(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
    raise JoinError(f'--coordinator must be HOST:PORT, got {address!r}')
  return host.strip('[]'), int(port)


def _wait(port: int, count: int, clocks: Clocks) -> dict[int, _Peer]:
  """Process 0: takes the others in."""
  try:
    server = socket.create_server(('', port), backlog=count)
  except OSError as error:
    raise JoinError(
      f'process 0 cannot listen on port {port} ({error.strerror}); choose '
      'another in --coordinator'
    ) from error
  peers: dict[int, _Peer] = {}
  deadline = time.monotonic() + clocks.join
  with server:
    while len(peers) < count - 1:
      left = deadline - time.monotonic()
      try:
        if left <= 0:
          raise TimeoutError
        server.settimeout(left)
        connection, _ = server.accept()
      except TimeoutError as error:
        missing = [str(r) for r in range(1, count) if r not in peers]
        line = (
          f'process {", ".join(missing)} of {count} did not come within '
          f'{clocks.join:.0f} s; start all with the same --coordinator and '
          '--num_processes'
        )
        _refuse(peers, line)
        raise JoinError(line) from error
      _take_in(connection, count, peers, clocks)
  for peer in peers.values():
    peer.send({'kind': 'welcome', 'host': socket.gethostname()})
  return peers


def _refuse(peers: dict[int, _Peer], line: str) -> None:
  for peer in peers.values():
    try:
      peer.send({'kind': 'refuse', 'line': line})
    except OSError:
      pass
    if peer.socket is not None:
      peer.socket.close()


def _take_in(
  connection: socket.socket,
  count: int,
  peers: dict[int, _Peer],
  clocks: Clocks,
) -> None:
  """Hears who is there. Whoever speaks otherwise is let go."""
  connection.settimeout(min(clocks.join, 5.0))
  peer = _Peer(-1, '', connection)
  try:
    header = _next(peer)
    peer.rank, peer.host = int(header['rank']), str(header['host'])
    line = None
    if header['count'] != count:
      line = (
        f'--num_processes is {header["count"]} in process {peer.rank} and '
        f'{count} in process 0'
      )
    elif peer.rank in peers or not 0 < peer.rank < count:
      line = f'there is a process {peer.rank} of {count} already'
    if line is not None:
      peer.send({'kind': 'refuse', 'line': line})
      connection.close()
      if header['count'] != count:
        _refuse(peers, line)
        raise JoinError(line)
      return
  except (OSError, LookupError, TypeError):
    connection.close()
    return
  except ValueError as error:
    connection.close()
    if isinstance(error, JoinError):
      raise
    return
  connection.settimeout(clocks.silent)
  peers[peer.rank] = peer


def _reach(
  host: str, port: int, count: int, rank: int, clocks: Clocks
) -> dict[int, _Peer]:
  """The others: connects to process 0."""
  deadline = time.monotonic() + clocks.join
  while True:
    try:
      connection = socket.create_connection(
        (host, port), timeout=max(deadline - time.monotonic(), 0.1)
      )
      break
    except OSError as error:
      if time.monotonic() >= deadline:
        reason = error.strerror or str(error)
        raise JoinError(
          f'process {rank} cannot reach process 0 at {host}:{port} within '
          f'{clocks.join:.0f} s ({reason}); start it, or correct --coordinator'
        ) from error
      time.sleep(min(0.2, clocks.join / 10))
  # It may wait as long for the others, and says so.
  connection.settimeout(clocks.join + clocks.silent)
  peer = _Peer(0, host, connection)
  hello = {'rank': rank, 'count': count, 'host': socket.gethostname()}
  try:
    peer.send({'kind': 'hello', **hello})
    answer = _next(peer)
    if answer['kind'] == 'refuse':
      raise JoinError(answer['line'])
    peer.host = answer['host']
  except JoinError:
    connection.close()
    raise
  except (OSError, ValueError, LookupError) as error:
    connection.close()
    raise JoinError(
      f'process 0 at {host}:{port} does not answer process {rank} ({error})'
    ) from error
  connection.settimeout(clocks.silent)
  return {0: peer}


def _next(peer: _Peer) -> dict[str, Any]:
  """The first frame."""
  while not (found := peer.frames()):
    pass
  return found[0][0]
