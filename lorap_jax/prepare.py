"""Prepares data in shards, by any number of processes and machines.

For example, all of it here, in a process for each processor:
  python -m lorap_jax.prepare mnist --data_dir data

or a part of it in each of 64 tasks, on machines that share the cache, then:
  python -m lorap_jax.prepare mnist --data_dir data --task 3 --tasks 64
  python -m lorap_jax.prepare mnist --data_dir data --join

Training finds superpixels in the cache ($LORAP_JAX_CACHE), as if it had built
them itself. Edges of a text go to a folder, from which a graph is made:
  python -m lorap_jax.prepare edges edges.csv.gz shards --task 3 --tasks 64
  python -m lorap_jax.prepare edges edges.csv.gz shards --join
  python -m lorap_jax.convert big --edges shards --nodes features.npy ...
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import logging

from lorap_jax import _logging
from lorap_jax._stopping import interrupt_on_termination
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files import edge_text, parallel, prepared, store
from lorap_jax.data.files.prepared import Job
from lorap_jax.data.files.store import PathLike
from lorap_jax.data.images.slic_graphs import CIFAR10_RECIPE, MNIST_RECIPE
from lorap_jax.data.sets import cifar10, mnist, superpixels
from lorap_jax.runs import datasets

_IMAGES: dict[str, Any] = {
  'mnist': (mnist.load_mnist, MNIST_RECIPE),
  'cifar10': (cifar10.load_cifar10, CIFAR10_RECIPE),
}

# A job and the folder of its shards.
Placed = tuple[pathlib.Path, Job]


def superpixel_jobs(
  name: str, *, cache_dir: PathLike | None = None, **options: Any
) -> list[Placed]:
  """The jobs behind the superpixels of each split, and their folders.

  Args:
    name: 'mnist' or 'cifar10'.
    cache_dir: where training looks; `store.cache_dir()` by default.
    **options: source, data_dir, offline and limit of `mnist.load_mnist` or
      `cifar10.load_cifar10`.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: the images cannot be had.
  """
  if name not in _IMAGES:
    raise ValueError(f'name is {name!r}; choose one of {tuple(_IMAGES)}.')
  load, recipe = _IMAGES[name]
  cache = pathlib.Path(cache_dir or store.cache_dir())
  images = load(cache_dir=cache, **options)
  jobs = [
    superpixels.graph_job(getattr(images, split).images, recipe)
    for split in SPLITS
  ]
  return [(superpixels.folder_of(job, cache), job) for job in jobs]


def edge_jobs(text: PathLike, folder: PathLike) -> list[Placed]:
  """The job of a list of edges, and its folder.

  Args:
    text: as of `edge_text`.
    folder: of the shards.

  Raises:
    DataError: the text cannot be read.
  """
  return [(pathlib.Path(folder).expanduser(), edge_text.job(text))]


def prepare(
  jobs: Sequence[Placed],
  *,
  workers: int | None = None,
  task: int = 0,
  tasks: int = 1,
) -> None:
  """Makes the shards of one task: of all shards each `tasks`-th, from `task`.

  Args:
    jobs: with their folders.
    workers: processes; None takes one per processor.
    task: number of this task, from 0.
    tasks: their number; with 1 all shards are made, and joined.

  Raises:
    ValueError: no such task, or no workers.
    DataError: a shard cannot be written, or one of another job is there.
  """
  workers = parallel.check_workers(workers)
  if not 0 <= task < tasks:
    raise ValueError(f'task is {task}; of {tasks} tasks give 0 to {tasks - 1}.')
  number = itertools.count()
  for folder, job in jobs:
    mine = [i for i in range(job.num_shards) if next(number) % tasks == task]
    prepared.write_all(folder, job, workers=workers, indices=mine)
    if mine and tasks > 1:
      print(f'{folder}: {len(mine)} of {job.num_shards} shards, task {task}')
  if tasks == 1:
    join(jobs)


def join(jobs: Sequence[Placed]) -> None:
  """Checks all shards and writes the manifests.

  Args:
    jobs: with their folders.

  Raises:
    DataError: a shard is missing, damaged or of another job.
  """
  for folder, job in jobs:
    prepared.join(folder, job)
    print(f'{folder}: {job.num_shards} shards, joined')


def main(argv: Sequence[str] | None = None) -> int:
  """Prepares data, or a part of it.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0; 2 if it cannot be done; 130 if it was stopped.
  """
  parser = _parser()
  given = parser.parse_args(argv)
  if (given.task is None) != (given.tasks is None):
    parser.error('--task and --tasks go together')
  if given.join and given.tasks is not None:
    parser.error('--join comes once, after all tasks; leave out --task')
  try:
    jobs = _jobs(given)
    if given.join:
      join(jobs)
    else:
      part = {'task': given.task or 0, 'tasks': given.tasks or 1}
      prepare(jobs, workers=given.workers, **part)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('Stopped; the same command goes on.', file=sys.stderr)
    return 130
  return 0


def _jobs(given: argparse.Namespace) -> list[Placed]:
  if given.what == 'edges':
    return edge_jobs(given.text, given.folder)
  return superpixel_jobs(
    given.what,
    data_dir=datasets.folder({'dir': given.data_dir}),
    source=given.source,
    offline=given.offline,
    limit=given.limit,
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m lorap_jax.prepare',
    description='Prepares data in shards. What is there is not made again.',
  )
  kinds = parser.add_subparsers(dest='what', required=True)
  for name in _IMAGES:
    images = kinds.add_parser(name, help='superpixels, into the cache')
    images.add_argument('--data_dir', help='as config.data.dir')
    images.add_argument('--source', default='auto', help='as config.data')
    images.add_argument('--offline', action='store_true')
    images.add_argument(
      '--limit',
      nargs=3,
      type=int,
      metavar=('TRAIN', 'VALID', 'TEST'),
      help='as config.data.limit',
    )
    _add_common(images)
  edges = kinds.add_parser('edges', help='edges of a text, into a folder')
  edges.add_argument('text', help='two numbers in a line (.csv, .txt, .gz)')
  edges.add_argument('folder', help='of the shards')
  _add_common(edges)
  return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--workers', type=int, help='processes; one per processor by default'
  )
  parser.add_argument('--task', type=int, help='number of this task, from 0')
  parser.add_argument('--tasks', type=int, help='number of all tasks')
  parser.add_argument(
    '--join', action='store_true', help='make nothing, check all, and join'
  )


def run() -> None:
  """Entry point of the console script."""
  interrupt_on_termination()
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(_logging.FirstLine('%(message)s'))
  handler.addFilter(_logging.is_told)
  sys.exit(main())


if __name__ == '__main__':
  run()
