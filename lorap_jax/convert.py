"""Makes a folder of npy files of one large graph, in pieces.

For example:
  python -m lorap_jax.convert big --nodes features.npy --edges edges.csv.gz \
    --labels labels.npy --splits train.npy valid.npy test.npy --undirected
  python train.py --config=configs/custom.py:gcn,dq8,lorap \
    --config.data.path=big '--config.train.fanout=(10,10)'
  python -m lorap_jax.convert big --check
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import stored


def main(argv: Sequence[str] | None = None) -> int:
  """Writes or checks a folder.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0, or 2 if there is no such folder to be made or to be checked.
  """
  parser = _parser()
  given = parser.parse_args(argv)
  files = ('nodes', 'edges', 'labels', 'splits')
  missing = [f'--{name}' for name in files if getattr(given, name) is None]
  if missing and (len(missing) < len(files) or not given.check):
    parser.error(f'{", ".join(missing)} missing; or give --check')
  try:
    if not missing:
      nodes, labels, *splits = (
        _load(path) for path in (given.nodes, given.labels, *given.splits)
      )
      masks = [_mask(split, len(nodes)) for split in splits]
      edges = stored.edge_list(given.edges)
      options: dict[str, Any] = {
        'undirected': given.undirected,
        'task': given.task,
        'num_classes': given.num_classes,
        'num_relations': given.num_relations,
        'relations': given.relations and _load(given.relations),
      }
      stored.write(given.folder, nodes, edges, labels, *masks, **options)
    if given.check:
      stored.check_digests(given.folder)
    data = stored.open_folder(given.folder)
  except DataError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(
    f'{given.folder}: {data.num_nodes:,} nodes, {len(data.senders):,} edges, '
    f'{data.nodes.shape[1]} features; {data.task}, {data.num_classes} outputs'
    + (f'; {data.num_relations} relations' if data.num_relations else '')
  )
  return 0


def _load(path: str) -> np.ndarray:
  try:
    array = np.load(path, mmap_mode='r')
  except (OSError, ValueError, EOFError) as error:
    raise DataError(f'{path} is no npy file: {error}') from error
  if not isinstance(array, np.ndarray) or not array.ndim:
    raise DataError(f'{path} is no npy file of numbers with an axis')
  return array


def _mask(split: np.ndarray, count: int) -> np.ndarray:
  """A mask as it is, or that of node numbers."""
  if split.dtype == bool or len(split) == count:
    return split
  if split.ndim != 1 or split.dtype.kind not in 'iu':
    raise DataError(f'a split is {split.dtype} {split.shape}; give nodes')
  if split.size and not 0 <= split.min() <= split.max() < count:
    raise DataError(
      f'a split has node {split.min()} or {split.max()}; the nodes are 0 to '
      f'{count - 1}'
    )
  mask = np.zeros(count, bool)
  mask[split] = True
  return mask


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m lorap_jax.convert',
    description='Writes one large graph as a folder of npy files, which '
    'training by drawn neighbours opens without reading it into memory.',
  )
  parser.add_argument('folder', help='to be made')
  parser.add_argument('--nodes', help='npy file, features [n, f]')
  parser.add_argument(
    '--edges',
    help='npy file [2, e] or [e, 2], or text with two numbers in a line '
    '(.csv, .txt, .gz), from sender to receiver',
  )
  parser.add_argument(
    '--relations',
    help='npy file [e], integers from 0, the kind of each edge of the list',
  )
  parser.add_argument('--labels', help='npy file [n]; -1 or NaN for none')
  parser.add_argument(
    '--splits',
    nargs=3,
    metavar=('TRAIN', 'VALID', 'TEST'),
    help='npy files, masks [n] or numbers of nodes',
  )
  parser.add_argument(
    '--undirected',
    action='store_true',
    help='edges are listed once; adds the other direction, drops duplicates',
  )
  parser.add_argument(
    '--task',
    choices=('classification', 'regression'),
    help="by default as the labels' type says",
  )
  for name, what in (('classes', 'label'), ('relations', 'relation')):
    parser.add_argument(
      f'--num_{name}', type=int, help=f'the highest {what} plus one by default'
    )
  parser.add_argument(
    '--check', action='store_true', help='read all files, compare digests'
  )
  return parser


def run() -> None:
  """Entry point of the console script."""
  sys.exit(main())


if __name__ == '__main__':
  run()
