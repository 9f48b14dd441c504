"""The user's own data, from arrays or from an npz file.

A graph task, many graphs with a class or a number each:

    data = custom.graph_splits(
      nodes, senders, receivers, n_node, n_edge, labels, split
    )

A node task, one graph with a class for each node:

    data = custom.node_dataset(
      nodes, senders, receivers, labels, train_mask, valid_mask, test_mask
    )

An npz file with arrays of these names does the same through `load_custom`.
Edges are directed: an undirected edge is given in both directions, which
`node_dataset.both_directions` can do.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lorap_jax.data import splits, store
from lorap_jax.data.dataset import DataSplits, GraphDataset
from lorap_jax.data.node_dataset import NodeDataset
from lorap_jax.data.store import DataError, PathLike

NODE_ARRAYS = (
  'nodes',
  'senders',
  'receivers',
  'labels',
  'train_mask',
  'valid_mask',
  'test_mask',
)
GRAPH_ARRAYS = (
  'nodes',
  'senders',
  'receivers',
  'n_node',
  'n_edge',
  'labels',
  'split',
)
# What may be turned into a type, and how to call it.
_KINDS = {
  'b': ('b', 'booleans'),
  'f': ('fiu', 'numbers'),
  'i': ('iu', 'integers'),
  'u': ('iu', 'integers'),
}


def load_custom(path: PathLike) -> DataSplits | NodeDataset:
  """Loads the user's own data from an npz file.

  Args:
    path: npz file that holds the arguments of `node_dataset` or of
      `graph_splits` as arrays, without pickled objects; and `num_classes` where
      it is not the highest label plus one.

  Raises:
    DataError: the file is missing, damaged or does not fit a task; names the
      array and what it should be.
  """
  path = pathlib.Path(path).expanduser()
  arrays = store.read_npz(path)
  is_node_task = 'train_mask' in arrays
  names = NODE_ARRAYS if is_node_task else GRAPH_ARRAYS
  missing = [name for name in names if name not in arrays]
  unknown = sorted(arrays.keys() - {*names, 'num_classes'})
  if missing or unknown:
    raise DataError(
      f'{path}: missing arrays {missing}, unknown arrays {unknown}. A node '
      f'task has {NODE_ARRAYS}, a graph task {GRAPH_ARRAYS}.'
    )
  arguments: dict[str, Any] = {name: arrays[name] for name in names}
  if 'num_classes' in arrays:
    count = _cast(arrays['num_classes'], 'num_classes', str(path), 'i4', ndim=0)
    arguments['num_classes'] = int(count)
  build = node_dataset if is_node_task else graph_splits
  data = build(**arguments, name=str(path))
  data.source.update(
    name=path.stem,
    origin='file',
    files=[str(path)],
    sha256={path.name: store.content_digest(store.read_bytes(path))},
  )
  return data


def node_dataset(
  nodes: ArrayLike,
  senders: ArrayLike,
  receivers: ArrayLike,
  labels: ArrayLike,
  train_mask: ArrayLike,
  valid_mask: ArrayLike,
  test_mask: ArrayLike,
  *,
  num_classes: int | None = None,
  name: str = 'custom',
) -> NodeDataset:
  """Makes a checked node classification data set from arrays.

  Args:
    nodes: numbers [n, f], the features.
    senders: integers [e], the node that sends the message of each edge.
    receivers: integers [e], the node that receives it.
    labels: integers [n], the classes from 0; -1 for none.
    train_mask: booleans [n].
    valid_mask: booleans [n].
    test_mask: booleans [n].
    num_classes: the highest label plus one by default.
    name: how to call the data in messages and in the record.

  Raises:
    DataError: an array has another type or shape, or they do not fit together.
  """
  classes = _cast(labels, 'labels', name, 'i4')
  arrays = {
    'nodes': _cast(nodes, 'nodes', name, 'f4', ndim=2),
    'senders': _cast(senders, 'senders', name, 'i4'),
    'receivers': _cast(receivers, 'receivers', name, 'i4'),
    'labels': classes,
    'train_mask': _cast(train_mask, 'train_mask', name, 'b1'),
    'valid_mask': _cast(valid_mask, 'valid_mask', name, 'b1'),
    'test_mask': _cast(test_mask, 'test_mask', name, 'b1'),
  }
  if num_classes is None:
    num_classes = int(classes.max(initial=-1)) + 1
  counts = {key: int(arrays[f'{key}_mask'].sum()) for key in splits.SPLITS}
  data = NodeDataset(
    **arrays,
    num_classes=num_classes,
    source=_record(name, arrays, counts),
    task='classification',
  )
  data.check(name)
  return data


def graph_splits(
  nodes: ArrayLike,
  senders: ArrayLike,
  receivers: ArrayLike,
  n_node: ArrayLike,
  n_edge: ArrayLike,
  labels: ArrayLike,
  split: ArrayLike,
  *,
  num_classes: int | None = None,
  name: str = 'custom',
) -> DataSplits:
  """Makes a checked graph classification or regression data set from arrays.

  The graphs are one after the other, as in `GraphDataset`.

  Args:
    nodes: numbers [sum(n_node), f], the features.
    senders: integers [sum(n_edge)], the node that sends the message of each
      edge; ids inside the graph, from 0.
    receivers: integers [sum(n_edge)], the node that receives it.
    n_node: integers [g], nodes per graph.
    n_edge: integers [g], directed edges per graph.
    labels: integers [g], the classes from 0; or floats [g], the numbers to
      predict.
    split: integers [g], 0 to train, 1 to validate, 2 to test.
    num_classes: the highest class plus one by default; 1 for regression.
    name: how to call the data in messages and in the record.

  Raises:
    DataError: an array has another type or shape, or they do not fit together.
  """
  floats = np.asarray(labels).dtype.kind == 'f'
  whole = GraphDataset(
    nodes=_cast(nodes, 'nodes', name, 'f4', ndim=2),
    senders=_cast(senders, 'senders', name, 'u2'),
    receivers=_cast(receivers, 'receivers', name, 'u2'),
    n_node=_cast(n_node, 'n_node', name, 'i4'),
    n_edge=_cast(n_edge, 'n_edge', name, 'i4'),
    labels=_cast(labels, 'labels', name, 'f4' if floats else 'i4'),
  )
  whole.check(name)
  num_classes = _num_outputs(whole.labels, num_classes, name)
  part_of = _cast(split, 'split', name, 'i4')
  if len(part_of) != whole.num_graphs or not np.isin(part_of, (0, 1, 2)).all():
    raise DataError(
      f'{name}: split must be {whole.num_graphs} numbers, one per graph, of 0 '
      '(train), 1 (valid) and 2 (test).'
    )
  parts = {
    key: whole.take(np.flatnonzero(part_of == i))
    for i, key in enumerate(splits.SPLITS)
  }
  counts = {key: part.num_graphs for key, part in parts.items()}
  if empty := [key for key, count in counts.items() if not count]:
    raise DataError(f'{name}: the {empty[0]} split is empty.')
  source = _record(name, {**whole._asdict(), 'split': part_of}, counts)
  return DataSplits(
    **parts,
    num_classes=num_classes,
    source=source,
    task='regression' if floats else 'classification',
  )


def _num_outputs(labels: np.ndarray, num_classes: int | None, name: str) -> int:
  """Returns `num_classes`, or the number that the labels need."""
  floats = labels.dtype.kind == 'f'
  needed = 1 if floats else int(labels.max(initial=-1)) + 1
  if num_classes is None:
    return needed
  if num_classes < needed or (floats and num_classes != 1):
    raise DataError(
      f'{name}: num_classes is {num_classes}; expected '
      f'{"1 for regression" if floats else f"{needed} or more"}.'
    )
  return num_classes


def _cast(
  value: ArrayLike, field: str, name: str, dtype: str, *, ndim: int = 1
) -> np.ndarray:
  """Returns an array of `dtype` with the same values."""
  array = np.asarray(value)
  kinds, what = _KINDS[dtype[0]]
  if array.ndim != ndim or (array.size and array.dtype.kind not in kinds):
    raise DataError(
      f'{name}: {field} is {array.dtype} with {array.ndim} axes; expected '
      f'{what} with {ndim}.'
    )
  if what == 'integers' and array.size:
    limits = np.iinfo(dtype)
    for extreme in (array.min(), array.max()):
      if not limits.min <= extreme <= limits.max:
        raise DataError(
          f'{name}: {field} holds {extreme}, outside {limits.min} to '
          f'{limits.max}.'
        )
  with np.errstate(over='ignore'):  # `check` names what became infinite.
    return array.astype(dtype)


def _record(
  name: str, arrays: dict[str, np.ndarray], counts: dict[str, int]
) -> dict[str, Any]:
  return {
    'name': name,
    'origin': 'arrays',
    'files': [],
    'sha256': {'arrays': store.arrays_digest(arrays)},
    'counts': counts,
    'subset': False,
    'comparable': False,
    'note': f'own data: {name}',
  }
