"""The user's own data, from arrays or from an npz file.

A node task, one graph with a class or a number for each node:

    data = custom.node_dataset(
      nodes, senders, receivers, labels, train_mask, valid_mask, test_mask
    )

A graph task, many graphs with a class or a number each:

    data = custom.graph_splits(
      nodes, senders, receivers, n_node, n_edge, labels, split
    )

An npz file with arrays of these names does the same through `load_custom`;
`save` writes one. What both functions and files take:

| argument, array      | what it is                                            |
|----------------------|-------------------------------------------------------|
| nodes                | numbers [n, f], or a SciPy sparse matrix              |
| nodes_data, nodes_indices, nodes_indptr, nodes_shape | (file only) `nodes`   |
|                      | in compressed rows (CSR), in place of it              |
| senders, receivers   | integers [e], the ends of each directed edge          |
| edge_index           | integers [2, e], in place of both                     |
| undirected           | true: edges are listed once; adds the other direction |
| labels               | classes from 0, or numbers to predict                 |
| task                 | 'classification' or 'regression'; by default integers |
|                      | and booleans are classes, floats are not              |
| num_classes          | the highest class plus one by default                 |
| relations            | node tasks: integers [e] from 0, the kind of each     |
|                      | edge; `undirected` gives the other direction of kind  |
|                      | r the kind r + R                                      |
| num_relations        | R, the highest relation plus one by default           |
| train_mask, valid_mask, test_mask | node tasks: booleans or 0 and 1 [n]      |
| n_node, n_edge       | graph tasks: nodes and edges of each graph [g]        |
| split                | graph tasks: 0 to train, 1 to validate, 2 to test [g] |

A node without label has -1, or NaN where numbers are to be predicted, and is in
no mask. Edges have no weights and no features, since no layer uses them;
relations are for the backbone rgcn, the others see one kind of edge. Sparse
features take their dense size in memory, 4 n f bytes; on disk they do not.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from lorap_jax.data.containers import splits
from lorap_jax.data.containers.dataset import DataSplits, GraphDataset
from lorap_jax.data.containers.node_dataset import (
  NodeDataset,
  both_directions,
  both_relations,
)
from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError, PathLike
from lorap_jax.data.sets import own_arrays, stored

NODE_ARRAYS = ('labels', 'train_mask', 'valid_mask', 'test_mask')
GRAPH_ARRAYS = ('n_node', 'n_edge', 'labels', 'split')
_NODE_FIELDS = ('nodes', 'senders', 'receivers', *NODE_ARRAYS)
_RELATIONS = ('relations', 'num_relations')  # Of node tasks.
_OPTIONS = ('undirected', 'task', 'num_classes')
_UNUSED = ('edges', 'edge_attr', 'edge_weight', 'edge_weights', 'weights')


def load_custom(path: PathLike) -> DataSplits | NodeDataset:
  """Loads the user's own data from an npz file, or opens a folder of npy files.

  Args:
    path: folder that `stored.write` made, whose arrays stay on disk; or npz
      file that holds the arguments of `node_dataset` or of
      `graph_splits` as arrays, without pickled objects; see the module
      docstring. It is a node task if there is a `train_mask`.

  Raises:
    DataError: the file is missing, damaged or does not fit a task; names the
      array and what it should be.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    return stored.open_folder(path)
  arrays: dict[str, Any] = store.read_npz(path)
  name = str(path)
  is_node_task = 'train_mask' in arrays
  _check_names(arrays, is_node_task, name)
  if 'nodes' not in arrays:
    csr = {key: arrays.pop(key) for key in own_arrays.CSR}
    arrays['nodes'] = own_arrays.dense(csr, name)
  for field in ('num_classes', 'num_relations'):
    if field in arrays:
      count = own_arrays.cast(arrays[field], field, name, 'i4', shape=())
      arrays[field] = int(count)
  if 'undirected' in arrays:
    value = own_arrays.mask(
      np.atleast_1d(arrays['undirected']), 'undirected', name
    )
    arrays['undirected'] = bool(value.all())
  if 'task' in arrays:
    arrays['task'] = str(arrays['task'])
  build = node_dataset if is_node_task else graph_splits
  data = build(**arrays, name=name)
  data.source.update(
    name=path.stem,
    origin='file',
    files=[name],
    sha256={path.name: store.content_digest(store.read_bytes(path))},
  )
  return data


def save(path: PathLike, data: DataSplits | NodeDataset) -> None:
  """Writes a data set to an npz file that `load_custom` reads.

  Features of which less than half is not zero are written in compressed rows.

  Args:
    path: the file; one that is there is replaced.
    data: data set of this module, of `from_pyg` or of any loader.

  Raises:
    DataError: the data set is not sound, or the file cannot be written.
  """
  data.check(str(path))
  arrays: dict[str, Any]
  if isinstance(data, NodeDataset):
    arrays = {field: getattr(data, field) for field in _NODE_FIELDS}
    if data.relations is not None:
      arrays |= {field: getattr(data, field) for field in _RELATIONS}
  else:
    parts = (data.train, data.valid, data.test)
    arrays = {
      field: np.concatenate([getattr(part, field) for part in parts])
      for field in GraphDataset._fields
    }
    sizes = [part.num_graphs for part in parts]
    arrays['split'] = np.repeat(np.arange(3, dtype=np.uint8), sizes)
  if 2 * np.count_nonzero(arrays['nodes']) < arrays['nodes'].size:
    rows = sparse.csr_array(arrays.pop('nodes'))
    csr = (rows.data, rows.indices, rows.indptr, np.array(rows.shape))
    arrays.update(zip(own_arrays.CSR, csr, strict=True))
  arrays |= {'task': np.array(data.task), 'num_classes': data.num_classes}
  path = pathlib.Path(path).expanduser()
  try:
    with store.atomic_file(path) as part, open(part, 'wb') as file:
      np.savez_compressed(file, **arrays)
  except OSError as error:
    raise DataError(f'{path}: cannot be written ({error.strerror}).') from error


def node_dataset(
  nodes: Any,
  senders: ArrayLike | None = None,
  receivers: ArrayLike | None = None,
  labels: ArrayLike | None = None,
  train_mask: ArrayLike | None = None,
  valid_mask: ArrayLike | None = None,
  test_mask: ArrayLike | None = None,
  *,
  edge_index: ArrayLike | None = None,
  relations: ArrayLike | None = None,
  num_relations: int | None = None,
  undirected: bool = False,
  task: str | None = None,
  num_classes: int | None = None,
  name: str = 'custom',
) -> NodeDataset:
  """Makes a checked data set of one graph from arrays.

  Args:
    nodes: numbers [n, f], the features; or a SciPy sparse matrix.
    senders: integers [e], the node that sends the message of each edge.
    receivers: integers [e], the node that receives it.
    labels: integers or booleans [n], the classes from 0, -1 for none; or floats
      [n], the numbers to predict, NaN for none.
    train_mask: booleans or 0 and 1 [n], the nodes to train on.
    valid_mask: booleans or 0 and 1 [n], those to validate on.
    test_mask: booleans or 0 and 1 [n], those to test on.
    edge_index: integers [2, e], senders and receivers in place of the two.
    relations: integers [e] from 0, the kind of each edge; None for one kind.
    num_relations: R, the highest relation plus one by default.
    undirected: edges are listed once; the other direction is added, and
      duplicates are removed. That of relation r is relation r + R.
    task: 'classification' or 'regression'; by default the type of labels
      decides. With 'classification' whole floats are classes, with
      'regression' integers are numbers.
    num_classes: the highest label plus one by default; 1 for regression.
    name: how to call the data in messages and in the record.

  Raises:
    DataError: an array is missing, has another type or shape, or they do not
      fit together; or over half of the classes have no example.
  """
  undirected = own_arrays.flag(undirected, 'undirected', name)
  given = (labels, train_mask, valid_mask, test_mask)
  _refuse_missing(dict(zip(NODE_ARRAYS, given, strict=True)), name)
  targets, chosen = own_arrays.labels_for(labels, task, name, 'node')
  num_classes = own_arrays.count_classes(targets, chosen, num_classes, name)
  ends = own_arrays.edge_ends(senders, receivers, edge_index, name, 'i4')
  kinds, num_relations = own_arrays.relations_of(relations, num_relations, name)
  data = NodeDataset(
    nodes=own_arrays.features(nodes, name),
    senders=ends[0],
    receivers=ends[1],
    labels=targets,
    train_mask=own_arrays.mask(train_mask, 'train_mask', name),
    valid_mask=own_arrays.mask(valid_mask, 'valid_mask', name),
    test_mask=own_arrays.mask(test_mask, 'test_mask', name),
    num_classes=num_classes,
    source={},
    task=chosen,
    relations=kinds,
    num_relations=num_relations,
  )
  data.check(name)
  if undirected and kinds is not None and num_relations is not None:
    one, other, kinds = both_relations(
      *ends, kinds, data.num_nodes, num_relations
    )
    data = data._replace(
      senders=one,
      receivers=other,
      relations=kinds,
      num_relations=2 * num_relations,
    )
  elif undirected:
    one, other = both_directions(*ends, data.num_nodes)
    data = data._replace(senders=one, receivers=other)
  arrays = {field: getattr(data, field) for field in _NODE_FIELDS}
  if data.relations is not None:
    arrays['relations'] = data.relations
  counts = {key: int(arrays[f'{key}_mask'].sum()) for key in splits.SPLITS}
  return data._replace(source=_record(name, arrays, counts))


def graph_splits(
  nodes: Any,
  senders: ArrayLike | None = None,
  receivers: ArrayLike | None = None,
  n_node: ArrayLike | None = None,
  n_edge: ArrayLike | None = None,
  labels: ArrayLike | None = None,
  split: ArrayLike | None = None,
  *,
  edge_index: ArrayLike | None = None,
  undirected: bool = False,
  task: str | None = None,
  num_classes: int | None = None,
  name: str = 'custom',
) -> DataSplits:
  """Makes a checked data set of many graphs from arrays.

  The graphs are one after the other, as in `GraphDataset`.

  Args:
    nodes: numbers [sum(n_node), f], the features; or a SciPy sparse matrix.
    senders: integers [sum(n_edge)], the node that sends the message of each
      edge; ids inside the graph, from 0.
    receivers: integers [sum(n_edge)], the node that receives it.
    n_node: integers [g], nodes per graph.
    n_edge: integers [g], edges per graph, as many as are listed.
    labels: integers or booleans [g], the classes from 0; or floats [g], the
      numbers to predict.
    split: integers [g], 0 to train, 1 to validate, 2 to test.
    edge_index: integers [2, sum(n_edge)], in place of senders and receivers.
    undirected: edges are listed once; the other direction is added, and
      duplicates are removed.
    task: 'classification' or 'regression'; by default the type of labels
      decides, see `node_dataset`.
    num_classes: the highest label plus one by default; 1 for regression.
    name: how to call the data in messages and in the record.

  Raises:
    DataError: an array is missing, has another type or shape, or they do not
      fit together; or over half of the classes have no example.
  """
  undirected = own_arrays.flag(undirected, 'undirected', name)
  given = (n_node, n_edge, labels, split)
  _refuse_missing(dict(zip(GRAPH_ARRAYS, given, strict=True)), name)
  targets, chosen = own_arrays.labels_for(labels, task, name, 'graph')
  ends = own_arrays.edge_ends(senders, receivers, edge_index, name, 'u2')
  whole = GraphDataset(
    nodes=own_arrays.features(nodes, name),
    senders=ends[0],
    receivers=ends[1],
    n_node=own_arrays.cast(n_node, 'n_node', name, 'i4', shape=('g',)),
    n_edge=own_arrays.cast(n_edge, 'n_edge', name, 'i4', shape=('g',)),
    labels=targets,
  )
  whole.check(name)
  num_classes = own_arrays.count_classes(targets, chosen, num_classes, name)
  if undirected:
    one, other, n_edge = own_arrays.in_both_directions(
      *ends, whole.n_node, whole.n_edge
    )
    whole = whole._replace(senders=one, receivers=other, n_edge=n_edge)
  part_of = own_arrays.cast(split, 'split', name, 'i4', shape=('g',))
  if len(part_of) != whole.num_graphs or not np.isin(part_of, (0, 1, 2)).all():
    raise DataError(
      f'{name}: split must be {whole.num_graphs} numbers, one per graph, of 0 '
      '(train), 1 (valid) and 2 (test).'
    )
  parts: dict[str, Any] = {
    key: whole.take(np.flatnonzero(part_of == i))
    for i, key in enumerate(splits.SPLITS)
  }
  counts = {key: part.num_graphs for key, part in parts.items()}
  if empty := [key for key, count in counts.items() if not count]:
    raise DataError(f'{name}: the {empty[0]} split is empty.')
  source = _record(name, {**whole._asdict(), 'split': part_of}, counts)
  return DataSplits(
    **parts, num_classes=num_classes, source=source, task=chosen
  )


def _check_names(arrays: dict[str, Any], is_node_task: bool, name: str) -> None:
  """Checks that a file has the arrays of a task and no others."""
  own = NODE_ARRAYS if is_node_task else GRAPH_ARRAYS
  in_rows = any(key in arrays for key in own_arrays.CSR)
  nodes = own_arrays.CSR if in_rows else ('nodes',)
  ends = ('edge_index',) if 'edge_index' in arrays else ('senders', 'receivers')
  wanted = (*nodes, *ends, *own)
  missing = [key for key in wanted if key not in arrays]
  options = (*_OPTIONS, *(_RELATIONS if is_node_task else ()))
  unknown = sorted(arrays.keys() - {*wanted, *options})
  if unused := [key for key in unknown if key in _UNUSED]:
    raise DataError(
      f'{name}: no layer uses weights or features of edges; leave {unused} out.'
    )
  if missing or unknown:
    raise DataError(
      f'{name}: missing arrays {missing}, unknown arrays {unknown}. A node '
      f'task has {NODE_ARRAYS}, a graph task {GRAPH_ARRAYS}; both have nodes '
      f'(or {own_arrays.CSR}), senders and receivers (or edge_index), and may '
      f'have {options}.'
    )


def _refuse_missing(arrays: dict[str, Any], name: str) -> None:
  if missing := [key for key, value in arrays.items() if value is None]:
    raise DataError(f'{name}: {", ".join(missing)} missing.')


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
