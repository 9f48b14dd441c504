"""Cora, CiteSeer and PubMed on the public split.

Training nodes are the rows of file y (20 per class), validation nodes the next
500, test nodes the 1,000 of test.index. CiteSeer's graph has 15 nodes without a
row in the other files: they get zero features, no label and no split. An edge
that is there twice counts once; self loops stay (124 in CiteSeer, 3 in PubMed),
where PyTorch Geometric removes them.

Source of the data and of the split: see `planetoid_files`.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.data.containers import node_dataset
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files import sources, store, unpickle
from lorap_jax.data.files.store import DataError, PathLike
from lorap_jax.data.sets import planetoid_files
from lorap_jax.data.sets.planetoid_files import PUBLISHED, Statistics

NORMALIZATIONS = ('none', 'row')
# Arrays of an npz file; each entry of `edges` has two ends.
_NPZ_KEYS = ('edges', 'x_indptr', 'x_indices', 'x_shape', 'y') + tuple(
  f'{split}_idx' for split in ('train', 'val', 'test')
)


class _Parts(NamedTuple):
  """A data set as its files have it: nodes, labels and indices of the splits.

  `edges` are i64[e, 2], in any direction and with duplicates.
  """

  nodes: np.ndarray
  edges: np.ndarray
  labels: np.ndarray
  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray


def load_planetoid(
  name: str,
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  normalize: str = 'none',
  cache_dir: PathLike | None = None,
) -> NodeDataset:
  """Loads Cora, CiteSeer or PubMed.

  `auto` takes the files in `data_dir` if it is given (then a missing or damaged
  file is an error), else downloaded files.

  Args:
    name: 'cora', 'citeseer' or 'pubmed'.
    source: 'auto', or the one source to use: 'data_dir', 'download'.
    data_dir: folder with the eight files ind.NAME.x and so on, or with a
      NAME.npz that holds edges, x_indptr, x_indices, x_shape, x_values (ones if
      absent), y, train_idx, val_idx, test_idx; also in NAME/ or NAME/raw/.
    offline: whether to use downloaded files only if they are there already.
    normalize: 'none' or 'row': x_ij / sum_j x_ij, where a row of zeros stays.
    cache_dir: folder for downloads; `store.cache_dir()` by default.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or is not that data set.
  """
  for key, value, choices in (
    ('name', name, tuple(PUBLISHED)),
    ('normalize', normalize, NORMALIZATIONS),
  ):
    if value not in choices:
      raise ValueError(f'{key} is {value!r}; choose one of {choices}.')
  folder = sources.choose_folder(source, data_dir)
  if folder is None:
    origin = 'download'
    folder = pathlib.Path(cache_dir or store.cache_dir()) / 'planetoid'
    paths = planetoid_files.from_download(folder, name, offline=offline)
  else:
    origin = 'data_dir'
    paths = planetoid_files.from_folder(folder, name)
  data = _build(name, paths, origin)
  if normalize == 'row':
    sums = data.nodes.sum(axis=1, keepdims=True)
    data = data._replace(nodes=data.nodes / np.where(sums > 0, sums, 1))
  data.source['normalize'] = normalize
  return data


def _build(name: str, paths: list[pathlib.Path], origin: str) -> NodeDataset:
  """Reads the files, and checks what they hold against what is known."""
  published = PUBLISHED[name]
  is_npz = paths[0].suffix == '.npz'
  parts = _from_npz(paths[0], name) if is_npz else _from_files(paths, name)
  where = f'{published.title} in {paths[0].parent}'
  n = len(parts.nodes)
  for field in ('edges', *SPLITS):
    ids = getattr(parts, field)
    if ids.size and (ids.min() < 0 or ids.max() >= n):
      raise DataError(f'{where}: {field} has an id outside 0 to {n - 1}.')
  senders, receivers = node_dataset.both_directions(
    parts.edges[:, 0], parts.edges[:, 1], n
  )
  masks = {
    split: node_dataset.mask_of(getattr(parts, split), n) for split in SPLITS
  }
  self_loops = int((senders == receivers).sum())
  counts = {
    'nodes': n,
    'edges': (len(senders) - self_loops) // 2,
    'self_loops': self_loops,
    'features': parts.nodes.shape[1],
    'classes': int(parts.labels.max(initial=-1)) + 1,
    'unlabelled': int((parts.labels == -1).sum()),
    **{split: int(mask.sum()) for split, mask in masks.items()},
  }
  for key, count in counts.items():
    if count != getattr(published, key):
      raise DataError(
        f'{where}: expected {getattr(published, key)} {key}, found {count}.'
      )
  arrays: dict[str, Any] = {
    'nodes': parts.nodes,
    'senders': senders,
    'receivers': receivers,
    'labels': parts.labels,
    **{f'{split}_mask': mask for split, mask in masks.items()},
  }
  record = _record(name, paths, origin, counts)
  data = NodeDataset(
    **arrays,
    num_classes=published.classes,
    source=record,
    task='classification',
  )
  data.check(where)
  if (found := store.arrays_digest(arrays)) != published.sha256:
    raise DataError(
      f'{where}: expected SHA-256 {published.sha256} of the arrays, found '
      f'{found}.'
    )
  return data


def _record(
  name: str, paths: list[pathlib.Path], origin: str, counts: dict[str, int]
) -> dict[str, Any]:
  published = PUBLISHED[name]
  return {
    'name': name,
    'origin': origin,
    'files': [str(path) for path in paths],
    # An npz file with the right arrays holds what these files hold.
    'sha256': {file.name: file.sha256 for file in planetoid_files.FILES[name]},
    'counts': counts,
    'subset': False,
    'comparable': True,
    'note': (
      f'{published.title} from {origin} ({paths[0]}), public split; as '
      f'published with {counts["self_loops"]} self loops and '
      f'{counts["unlabelled"]} nodes without features and label'
    ),
  }


def _from_files(paths: list[pathlib.Path], name: str) -> _Parts:
  """Puts the eight files together."""
  published = PUBLISHED[name]
  *values, test_ids = planetoid_files.read(paths, name)
  n = published.nodes
  nodes = np.zeros((n, published.features), np.float32)
  labels = np.full(n, -1, np.int32)
  try:
    test = np.array([int(line) for line in test_ids.split()], np.int64)
    tx, allx = (
      _features(value, str(path), published)
      for value, path in zip(values[1:3], paths[1:3], strict=True)
    )
    y, ty, ally = (_classes(value) for value in values[3:6])
    nodes[: len(allx)], nodes[test] = allx, tx
    labels[: len(ally)], labels[test] = ally, ty
    edges = _edges(values[6])
  except DataError:
    raise
  except (ValueError, TypeError, LookupError, AttributeError) as error:
    raise DataError(
      f'{paths[0].parent}: the files of {name} do not fit together ({error}).'
    ) from error
  train = np.arange(len(y))
  valid = np.arange(len(y), len(y) + published.valid)
  return _Parts(nodes, edges, labels, train, valid, test)


def _features(
  matrix: unpickle.CsrMatrix, name: str, published: Statistics
) -> np.ndarray:
  """Returns f32[rows, f] of a pickled matrix."""
  fields = matrix.fields
  shape = fields['_shape'] if '_shape' in fields else fields['shape']
  arrays = (fields['indptr'], fields['indices'], fields['data'])
  return _dense(*arrays, shape=shape, name=name, published=published)


def _dense(
  starts: np.ndarray,
  columns: np.ndarray,
  values: np.ndarray,
  *,
  shape: Sequence[int],
  name: str,
  published: Statistics,
) -> np.ndarray:
  """Returns f32[rows, f] of a matrix in compressed rows."""
  rows, features = len(starts) - 1, published.features
  if tuple(shape) != (rows, features) or rows > published.nodes:
    raise DataError(
      f'{name}: features of shape {tuple(shape)} with {rows} row starts; '
      f'expected at most {published.nodes} rows of {features}.'
    )
  starts, columns = starts.astype(np.int64), columns.astype(np.int64)
  sizes = np.diff(starts)
  if (
    starts[0] != 0
    or sizes.min(initial=0) < 0
    or starts[-1] != len(columns)
    or values.shape != columns.shape
  ):
    raise DataError(f'{name}: the rows of the features do not fit together.')
  if columns.min(initial=0) < 0 or columns.max(initial=0) >= features:
    raise DataError(f'{name}: a feature column is outside 0 to {features - 1}.')
  dense = np.zeros((rows, features), np.float32)
  dense[np.repeat(np.arange(rows), sizes), columns] = values
  return dense


def _classes(one_hot: np.ndarray) -> np.ndarray:
  """Returns i64[rows] of one-hot rows, -1 for a row of zeros."""
  return np.where(one_hot.any(axis=1), one_hot.argmax(axis=1), -1)


def _edges(graph: dict[int, list[int]]) -> np.ndarray:
  """Returns i64[e, 2] of the neighbours of each node."""
  ends = np.array(list(itertools.chain(*graph.values())), np.int64)
  sizes = [len(ids) for ids in graph.values()]
  return np.stack([np.repeat(list(graph), sizes), ends], axis=1)


def _from_npz(path: pathlib.Path, name: str) -> _Parts:
  arrays = store.read_npz(path)
  for key in _NPZ_KEYS:
    if key not in arrays:
      raise DataError(
        f'{path}: has arrays {sorted(arrays)}; expected {list(_NPZ_KEYS)}.'
      )
    array = arrays[key]
    row = (2,) if key == 'edges' else ()
    if array.dtype.kind not in 'iu' or not array.ndim or array.shape[1:] != row:
      raise DataError(
        f'{path}: {key} is {array.dtype} of shape {array.shape}; expected '
        f'integers of shape {("n", *row)}.'
      )
  starts, columns = arrays['x_indptr'], arrays['x_indices']
  values = arrays.get('x_values', np.ones(len(columns), np.float32))
  if values.dtype.kind != 'f':
    raise DataError(f'{path}: x_values is {values.dtype}; expected floats.')
  nodes = _dense(
    starts,
    columns,
    values,
    shape=arrays['x_shape'].tolist(),
    name=str(path),
    published=PUBLISHED[name],
  )
  return _Parts(
    nodes=nodes,
    edges=arrays['edges'].astype(np.int64),
    labels=arrays['y'].astype(np.int32),
    train=arrays['train_idx'],
    valid=arrays['val_idx'],
    test=arrays['test_idx'],
  )
