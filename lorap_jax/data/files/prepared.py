"""Data made in shards, by any number of processes and machines.

A `Job` says how many shards there are and makes shard i from i alone. Who
makes which, when and how often changes no byte. In a folder of their own lie

| file          | what it is                                                  |
|---------------|-------------------------------------------------------------|
| 000000.npz .. | a shard: its arrays, the job's record, i, n; their SHA-256  |
| manifest.json | the record, the SHA-256 of each shard, all sizes; comes last |

`write` makes one shard, unless it is there and whole, so that a job that was
killed goes on. `join` looks at all shards and writes the manifest. `load` and
`shards` read what was joined. `cached` is all of it, for a cache.

No locks: processes on machines that share a disk may write the same shard at
once. Each writes to a name of its own, and what is renamed last has the same
bytes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lorap_jax.data.files import parallel, progress, store
from lorap_jax.data.files.store import AbsentDataError, DataError, PathLike

MANIFEST = 'manifest.json'
_REMEDY = 'the same command, or `prepared.write`, makes it again'


class OtherJobError(DataError):
  """A shard or manifest belongs to another job."""


class Job(NamedTuple):
  """Data to be made in shards.

  Attributes:
    record: all that decides the bytes, as JSON holds it: the digest of the
      source, settings, versions.
    num_shards: n.
    build: picklable pure function of i, 0 to n - 1, that returns the arrays of
      shard i by name. `load` has them one after the other, on the first axis.
  """

  record: Mapping[str, Any]
  num_shards: int
  build: Callable[[int], Mapping[str, np.ndarray]]

  @property
  def name(self) -> str:
    """A name for a folder, which no other job has."""
    text = _text({**self.record, 'shards': self.num_shards})
    return store.content_digest(text.encode())[:32]


def write(folder: PathLike, job: Job, index: int) -> pathlib.Path:
  """Makes a shard, unless it is there and whole; returns its path.

  Args:
    folder: of the job.
    job: what to make.
    index: i.

  Raises:
    ValueError: there is no shard i.
    OtherJobError: a shard of another job is in its place.
    DataError: it cannot be written. No part of it is left then.
  """
  if not 0 <= index < job.num_shards:
    raise ValueError(
      f'index is {index}; the shards are 0 to {job.num_shards - 1}.'
    )
  path = _path(folder, index)
  if _is_whole(folder, job, index):
    return path
  arrays = job.build(index)
  with _naming_unwritable(path):
    try:
      store.save_arrays(path, arrays, _meta(job, index), locked=False)
    except FileNotFoundError:  # All were whole, and `join` swept.
      _read(folder, job.record, job.num_shards, index)
  return path


def write_all(
  folder: PathLike,
  job: Job,
  *,
  workers: int,
  indices: Iterable[int] | None = None,
  description: str = 'Writing shards',
) -> None:
  """Makes the shards that are missing or damaged, in worker processes.

  Args:
    folder: of the job.
    job: what to make.
    workers: number of processes.
    indices: shards to make; None means all.
    description: what is being done, for the report of progress.

  Raises:
    DataError: as of `write`.
  """
  wanted = range(job.num_shards) if indices is None else indices
  missing = [i for i in wanted if not _is_whole(folder, job, i)]
  task = functools.partial(write, folder, job)
  with progress.track(description, len(missing)) as advance:
    for _ in parallel.ordered_map(task, missing, workers=workers):
      advance(1)


def join(folder: PathLike, job: Job) -> None:
  """Checks that all shards are there and whole, and writes the manifest.

  Args:
    folder: of the job.
    job: what was made.

  Raises:
    DataError: a shard is missing, damaged or of another job, or its arrays are
      not like those of the others; names it and says what to do. Or the
      manifest cannot be written.
  """
  digests: list[str] = []
  sizes: dict[str, int] = {}
  first: dict[str, Any] = {}
  for index in range(job.num_shards):
    arrays, digest = _read(folder, job.record, job.num_shards, index)
    digests.append(digest)
    form = {k: (a.dtype.str, list(a.shape[1:])) for k, a in arrays.items()}
    first = first or form
    if form != first:
      raise DataError(
        f'{_path(folder, index)}: shard {index} holds {form}, shard 0 {first}; '
        'the job must make arrays of one type and width.'
      )
    for name, array in arrays.items():
      sizes[name] = sizes.get(name, 0) + len(array)
  manifest = {
    'record': dict(job.record),
    'sha256': digests,
    'arrays': {
      name: [kind, [sizes[name], *rest]] for name, (kind, rest) in first.items()
    },
  }
  path = pathlib.Path(folder) / MANIFEST
  with (
    _naming_unwritable(path),
    store.atomic_file(path, locked=False) as part,
  ):
    part.write_text(f'{json.dumps(manifest, indent=2, sort_keys=True)}\n')
  for left in path.parent.glob('*.part'):  # By writers that were killed.
    left.unlink(missing_ok=True)


def shards(
  folder: PathLike, record: Mapping[str, Any] | None = None
) -> Iterator[dict[str, np.ndarray]]:
  """The arrays of each shard, in order; one shard is held at a time.

  Args:
    folder: joined.
    record: of the job; None takes the folder for what it is.

  Raises:
    DataError: the folder is not joined, or a shard is missing, damaged, of
      another job, or not the one that was joined.
  """
  manifest = read_manifest(folder, record)
  digests = manifest['sha256']
  for index, expected in enumerate(digests):
    arrays, found = _read(folder, manifest['record'], len(digests), index)
    if found != expected:
      raise DataError(
        f'{_path(folder, index)}: shard {index} is not the one that was '
        'joined; join again.'
      )
    yield arrays


def load(
  folder: PathLike, record: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
  """The arrays of all shards, one after the other.

  Beside the arrays that it returns, one shard is held at a time.

  Args:
    folder: joined.
    record: of the job; None takes the folder for what it is.

  Raises:
    DataError: as of `shards`.
  """
  sizes = read_manifest(folder, record)['arrays']
  whole = {name: np.empty(shape, kind) for name, (kind, shape) in sizes.items()}
  done = dict.fromkeys(whole, 0)
  for arrays in shards(folder, record):
    for name, array in arrays.items():
      whole[name][done[name] : done[name] + len(array)] = array
      done[name] += len(array)
  return whole


def cached(
  folder: PathLike, job: Job, *, workers: int, description: str
) -> dict[str, np.ndarray]:
  """What `load` returns; shards that are missing or damaged are made first.

  Processes of one machine that want the same wait for the one that makes it.

  Args:
    folder: of the job.
    job: what to make.
    workers: number of processes.
    description: as of `write_all`.

  Raises:
    DataError: the folder cannot be written, or holds shards of another job.
  """
  try:
    return load(folder, job.record)
  except DataError:
    parallel.refuse_in_worker()
  with store.lock(pathlib.Path(folder) / MANIFEST):
    try:
      return load(folder, job.record)  # Another process made it.
    except DataError:
      write_all(folder, job, workers=workers, description=description)
      join(folder, job)
  return load(folder, job.record)


def read_manifest(
  folder: PathLike, record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """The manifest of a joined folder.

  Raises:
    DataError: there is none, it is damaged, or of another record.
  """
  path = pathlib.Path(folder) / MANIFEST
  if not path.is_file():
    raise AbsentDataError(f'{path} is missing: write all shards and join them.')
  try:
    manifest = json.loads(path.read_text())
    found = dict(manifest['record'])
    for name in ('sha256', 'arrays'):
      len(manifest[name])
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise DataError(
      f'{path} is damaged ({error!s:.100}); join again.'
    ) from error
  if record is not None:
    _check_same(f'{path}: this', found, record)
  return manifest


@contextlib.contextmanager
def _naming_unwritable(path: pathlib.Path) -> Generator[None]:
  try:
    yield
  except OSError as error:
    raise DataError(
      f'{path}: cannot be written ({error.strerror}); choose a folder that can.'
    ) from error


def _is_whole(folder: PathLike, job: Job, index: int) -> bool:
  try:
    _read(folder, job.record, job.num_shards, index)
  except OtherJobError:
    raise
  except AbsentDataError:
    return False
  except DataError:
    path = _path(folder, index)
    logging.warning('%s is damaged and is built again.', path)
    return False
  return True


def _read(
  folder: PathLike, record: Mapping[str, Any], count: int, index: int
) -> tuple[dict[str, np.ndarray], str]:
  """The arrays of a shard, and its digest."""
  path = _path(folder, index)
  name = f'{path}: shard {index} of {count}'
  if not path.is_file():
    raise AbsentDataError(f'{name} is missing; {_REMEDY}.')
  try:
    arrays, meta, digest = store.load_verified(path)
  except DataError as error:
    raise DataError(f'{name} is damaged ({error}); {_REMEDY}.') from error
  _check_same(name, meta, {**record, 'shard': index, 'shards': count})
  return arrays, digest


def _check_same(
  name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
  if _text(found) == _text(wanted):
    return
  field = min(
    key
    for key in {*found, *wanted}
    if _text(found.get(key)) != _text(wanted.get(key))
  )
  raise OtherJobError(
    f'{name} is of another job: {field} is {found.get(field)!r}, not '
    f'{wanted.get(field)!r}; name another folder, or remove this one.'
  )


def _meta(job: Job, index: int) -> dict[str, Any]:
  return {**job.record, 'shard': index, 'shards': job.num_shards}


def _path(folder: PathLike, index: int) -> pathlib.Path:
  return pathlib.Path(folder) / f'{index:06d}.npz'


def _text(value: Any) -> str:
  return json.dumps(value, sort_keys=True)
