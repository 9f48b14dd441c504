"""Several processes, maybe on several machines, that train one run together.

All run the same program. Process 0 has the work folder; the others a folder
that is thrown away, which holds the same records, so that all decide alike.
What process 0 alone can do, such as to read a checkpoint, it does for all
(`on_main`). Without others each function does what one process needs.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from lorap_jax._version import __version__
from lorap_jax.runs import apart, star, workdir

# Of the configuration, what may differ between machines.
_MAY_DIFFER = ('data.dir', 'data.workers', 'data.offline')
_RECORDS = (workdir.CONFIG, workdir.DATA, workdir.REPORT)
_NOT_COPIED = (workdir.CHECKPOINTS, workdir.INTEGERS, 'tensorboard')


class _Joined:
  """The processes of this one."""

  middle: star.Star | None = None
  alone = 0  # Depth of calls that process 0 makes for all.


def is_main() -> bool:
  """Whether this process prints, and has the work folder."""
  return _Joined.middle is None or _Joined.middle.rank == 0


@contextlib.contextmanager
def joined(
  where: star.Place | None,
  config: dict[str, Any],
  *,
  clocks: star.Clocks = star.Clocks(),  # noqa: B008
) -> Generator[None]:
  """Works together with the other processes; with none if `where` is None.

  A process that ends with an error ends the others.

  Args:
    where: see `star.place`.
    config: plain values; must be those of the others.
    clocks: limits of time.

  Raises:
    ValueError: the others do not come, or are not what this one is.
  """
  if where is None:
    yield
    return
  _Joined.middle = middle = star.join(*where, clocks=clocks, end=_end)
  try:
    if middle.rank:
      _silence()
    else:
      _quiet_libraries()
    versions = {'lorap_jax': __version__, 'jax': jax.__version__}
    agree('', {**versions, 'config': config})
    _connect_jax(middle, where.coordinator)
    yield
    middle.exchange('done')
    jax.distributed.shutdown()
    middle.leave()
    _Joined.middle = None
  except BaseException as error:
    _leave(error, middle, clocks)


def _end(line: str) -> None:
  for folder in _scratch:
    shutil.rmtree(folder, ignore_errors=True)
  star.end_process(line)


_scratch: list[str] = []


def _leave(
  error: BaseException, middle: star.Star, clocks: star.Clocks
) -> None:
  """Ends this process after an error, whose cause another one may be."""
  if _is_of_connection(error):
    # Whoever is lost is found in this time, and that ends this process.
    time.sleep(clocks.silent + clocks.batch)
  code, line = 1, None
  if isinstance(error, SystemExit):
    if isinstance(error.code, str):
      line = error.code.removeprefix('error: ')
    else:
      code = error.code or 0
      middle.exchange('done')  # All end so, at the same step.
  elif isinstance(error, KeyboardInterrupt):
    code, line = 130, 'it was interrupted'
  else:
    line = f'{error}'.partition('\n')[0]
    if not isinstance(error, ValueError | OSError):
      line = f'{type(error).__name__}: {line}'
  middle.leave(line)
  if line is not None:
    print(f'error: {line}', file=sys.stderr)
    if not isinstance(error, SystemExit | ValueError | OSError):
      sys.excepthook(type(error), error, error.__traceback__)
  for folder in _scratch:
    shutil.rmtree(folder, ignore_errors=True)
  sys.stdout.flush()
  sys.stderr.flush()
  # Not sys.exit: JAX would wait for the others.
  os._exit(code)


def _is_of_connection(error: BaseException | None) -> bool:
  """Whether a collective failed: the other end of it may be gone."""
  while error is not None:
    text = str(error)
    if 'RESOURCE_EXHAUSTED' in text:  # Its own memory.
      return False
    if isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in text:
      return True
    error = error.__cause__ or error.__context__
  return False


def _silence() -> None:
  """Only process 0 prints; errors all do."""
  logging.set_verbosity(logging.ERROR)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  os.close(nowhere)


def _quiet_libraries() -> None:
  """Keeps what C libraries print (gloo does) off the standard output."""
  sys.stdout.flush()
  own = os.dup(1)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  os.close(nowhere)
  sys.stdout = os.fdopen(own, 'w', buffering=1, encoding='utf-8')


def _connect_jax(middle: star.Star, coordinator: str) -> None:
  """Brings the JAX of all processes together.

  Raises:
    ValueError: it had begun before.
  """
  # Its handler of SIGTERM would take the place of ours.
  jax.config.update('jax_enable_preemption_service', False)
  port = 0
  if middle.rank == 0:
    with socket.create_server(('', 0)) as free:
      port = free.getsockname()[1]
  port = middle.exchange(port)[0]
  host = '127.0.0.1' if middle.rank == 0 else coordinator.rpartition(':')[0]
  try:
    jax.distributed.initialize(
      _relay((host.strip('[]'), port)),
      middle.count,
      middle.rank,
      initialization_timeout=50,
      coordinator_bind_address=f'0.0.0.0:{port}',
    )
  except RuntimeError as error:
    raise ValueError(f'JAX cannot join the processes: {error}') from error
  # Its devices ask the others for theirs.
  counts = middle.exchange(jax.local_device_count())
  if len(set(counts)) > 1:
    raise ValueError(
      f'the processes have {", ".join(map(str, counts))} devices; give each as '
      'many as the others'
    )


def _relay(to: tuple[str, int]) -> str:
  """An address of this machine from which all goes on to another one.

  But for the end of a connection: a client of JAX that sees its service go ends
  its process at once, with a stack trace, before anybody can say what happened.

  Args:
    to: address and port of the service.

  Returns:
    ADDRESS:PORT.
  """
  server = socket.create_server(('127.0.0.1', 0))

  def pump(source, target):
    with contextlib.suppress(OSError):
      while data := source.recv(1 << 16):
        target.sendall(data)

  def connect():
    while True:
      try:
        return socket.create_connection(to)
      except OSError as error:
        if error.errno == errno.EMFILE:
          raise
        time.sleep(0.1)  # The service is not there yet.

  def serve():
    while True:
      own, _ = server.accept()
      other = connect()
      for pair in ((own, other), (other, own)):
        threading.Thread(target=pump, args=pair, daemon=True).start()

  threading.Thread(target=serve, daemon=True).start()
  return f'127.0.0.1:{server.getsockname()[1]}'


def agree(what: str, value: dict[str, Any]) -> None:
  """Refuses processes that do not have the same.

  Args:
    what: its name, before that of a part; may be empty.
    value: JSON-able.

  Raises:
    ValueError: in all processes; names the first that differs, and how.
  """
  if _Joined.middle is None:
    return
  values = _Joined.middle.exchange(value)
  for rank, other in enumerate(values):
    difference = workdir.first_difference(
      values[0], other, free=tuple(f'config.{f}' for f in _MAY_DIFFER)
    )
    if difference is not None:
      name, first, own = difference
      name = f'{what} {name}'.strip()
      raise ValueError(
        f'process {rank} has {name} = {own!r}, process 0 has {first!r}; start '
        'all processes alike'
      )


@contextlib.contextmanager
def own_folder(folder: pathlib.Path) -> Generator[pathlib.Path]:
  """The work folder; in other processes than 0 one with its records.

  Args:
    folder: as process 0 has it, which holds it.
  """
  if _Joined.middle is None:
    yield folder
    return
  records = on_main(_records, folder)
  if is_main():
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix='lorap_jax_') as name:
    _scratch.append(name)
    copy = pathlib.Path(name)
    for path, text in records.items():
      place = copy / path
      place.parent.mkdir(parents=True, exist_ok=True)
      if text is None:
        place.mkdir(exist_ok=True)
      else:
        place.write_text(text)
    yield copy


def _records(folder: pathlib.Path) -> dict[str, str | None]:
  """The records of a run and of those in it: text by path; None for folders."""
  found: dict[str, str | None] = {}
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      found[path.name] = None
      if path.name not in _NOT_COPIED:
        inner = _records(path)
        found |= {f'{path.name}/{name}': text for name, text in inner.items()}
    elif path.name in _RECORDS:
      found[path.name] = path.read_text(errors='replace')
  return found


def on_main(
  function: Callable[..., Any],
  *args: Any,
  errors: Sequence[type[Exception]] = (),
) -> Any:
  """What process 0 gets of a call, in all processes.

  Args:
    function: called by process 0 alone; returns values of JSON, or trees of
      dicts with arrays.
    *args: its arguments.
    errors: types of its own, whose text is all they need. Others are an OSError
      or a ValueError.

  Raises:
    Exception: in all processes, what the function raises.
  """
  middle = _Joined.middle
  if middle is None or _Joined.alone:
    return function(*args)
  if middle.rank:
    return _unpacked(middle.share(None), errors)
  _Joined.alone += 1
  try:
    result = function(*args)
  except Exception as error:
    middle.share(_packed({'error': type(error).__name__, 'text': str(error)}))
    raise
  finally:
    _Joined.alone -= 1
  middle.share(_packed({'value': result}))
  return result


def _packed(value: Any) -> bytes:
  """JSON, with arrays beside it."""
  arrays: list[np.ndarray] = []

  def plain(node):
    node = apart.on_host(node)
    if isinstance(node, apart.Key):
      return {'key': node.implementation, 'array': plain(node.data)}
    if isinstance(node, np.ndarray):
      arrays.append(node)
      return {'array': len(arrays) - 1}
    if isinstance(node, dict):
      return {'dict': {str(k): plain(v) for k, v in node.items()}}
    if isinstance(node, list | tuple):
      return [plain(part) for part in node]
    return node

  text, file = json.dumps(plain(value)), io.BytesIO()
  np.savez(file, np.frombuffer(text.encode(), np.uint8), *arrays)
  return file.getvalue()


def _unpacked(blob: bytes, errors: Sequence[type[Exception]]) -> Any:
  """What `_packed` was given, or its error raised."""
  with np.load(io.BytesIO(blob)) as file:
    text, *arrays = (file[f'arr_{i}'] for i in range(len(file.files)))

  def back(node):
    if isinstance(node, list):
      return [back(part) for part in node]
    if not isinstance(node, dict):
      return node
    if 'dict' in node:
      return {name: back(part) for name, part in node['dict'].items()}
    if 'key' in node:
      return apart.Key(node['key'], back(node['array']))
    return arrays[node['array']]

  found = apart.on_device(back(json.loads(text.tobytes())))
  if 'error' not in found:
    return found['value']
  known = {kind.__name__: kind for kind in (*errors, OSError)}
  raise known.get(found['error'], ValueError)(found['text'])


def replicated(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """A leaf that all processes have, whole on each device of theirs."""
  if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  ):
    data = replicated(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  whole = np.asarray(leaf)
  return jax.make_array_from_process_local_data(sharding, whole, whole.shape)


def tick(step: int | None = None, *, batch: bool = False) -> None:
  """This process has moved, see `star.Star.tick`."""
  if _Joined.middle is not None:
    _Joined.middle.tick(step, batch=batch)


def vote(flag: bool) -> bool:
  """Whether any process said yes; among several, in the vote before this."""
  return flag if _Joined.middle is None else _Joined.middle.vote(flag)


def wait() -> None:
  """Until all processes are here."""
  if _Joined.middle is not None:
    _Joined.middle.exchange(None)


def watched(batches: Iterable[Any], seen: set[Any]) -> Iterator[Any]:
  """The batches; who stands still between two of them is stuck.

  With the first of a shape comes a compilation, which may take long.

  Args:
    batches: of a pass over data.
    seen: shapes that the program of the pass has had; gets those of the pass.
  """
  if _Joined.middle is None:
    yield from batches
    return
  for batch in batches:
    shape = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
    tick(batch=shape in seen)
    yield batch
    seen.add(shape)
    tick(batch=True)
  tick()


def check(devices: int) -> None:
  """Refuses what several processes do not do.

  Args:
    devices: `train.devices`.

  Raises:
    ValueError: several processes, and not all devices.
  """
  if jax.process_count() == 1:
    return
  if _Joined.middle is None:
    raise ValueError(
      'processes that JAX has joined by itself do not train together; start '
      'train.py with --coordinator'
    )
  there = jax.device_count()
  if devices not in (0, there):
    raise ValueError(
      f'config.train: `devices` is {devices}, the {jax.process_count()} '
      f'processes have {there} together; set it to 0 or {there}, which is all'
    )
