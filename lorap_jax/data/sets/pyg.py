"""Data sets from PyTorch Geometric's objects.

PyTorch is not needed: what has `x`, `edge_index`, `y` and so on as tensors or
as arrays will do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lorap_jax.data.containers.dataset import DataSplits
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets import custom, own_arrays

# Of one graph: attribute to argument of `node_dataset`.
_MASKS = {
  'train_mask': 'train_mask',
  'val_mask': 'valid_mask',
  'test_mask': 'test_mask',
}
_OF_EDGES = ('edge_attr', 'edge_weight')
_RELATIONS = 'edge_type'


def from_pyg(
  data: Any,
  split: ArrayLike | None = None,
  *,
  undirected: bool = False,
  task: str | None = None,
  num_classes: int | None = None,
  ignore: Collection[str] = (),
  name: str = 'pyg',
) -> NodeDataset | DataSplits:
  """Makes a checked data set of PyTorch Geometric's `Data` objects.

  Args:
    data: with `split`, an iterable of graphs with x [n, f], edge_index [2, e]
      and one y each. Without it one graph with x, edge_index, y [n], and
      train_mask, val_mask and test_mask [n]; an edge_type [e], if there is
      one, is the relation of each edge.
    split: integers [g], 0 to train, 1 to validate, 2 to test.
    undirected: edges are listed once, and the other direction is to be added;
      PyG's own data sets list both.
    task: 'classification' or 'regression'; by default the type of y decides.
    num_classes: the highest label plus one by default; 1 for regression.
    ignore: attributes to leave out, of 'edge_attr' and 'edge_weight'.
    name: how to call the data in messages and in the record.

  Returns:
    A `NodeDataset`, or `DataSplits` with `split`.

  Raises:
    DataError: something is missing, has another type or shape, does not fit
      together; or edges have weights or features, which no layer uses, and are
      not in `ignore`.
  """
  options: dict[str, Any] = {
    'undirected': undirected,
    'task': task,
    'num_classes': num_classes,
    'name': name,
  }
  _check_ignore(ignore, name)
  if split is None:
    if not hasattr(data, 'edge_index'):
      raise DataError(
        f'{name}: this is no graph with edge_index; for many graphs give split.'
      )
    return _node_dataset(data, ignore, options)
  return _graph_splits(data, split, ignore, options)


def _check_ignore(ignore: Any, name: str) -> None:
  if isinstance(ignore, str) or not isinstance(ignore, Collection):
    raise DataError(
      f'{name}: ignore is {ignore!r:.40}; expected a tuple of {_OF_EDGES}.'
    )
  if unknown := [str(given) for given in ignore if given not in _OF_EDGES]:
    raise DataError(f'{name}: ignore has {unknown}; it may have {_OF_EDGES}.')


def _node_dataset(
  graph: Any, ignore: Collection[str], options: dict[str, Any]
) -> NodeDataset:
  name = options['name']
  _refuse_edge_values(graph, ignore, name)
  masks: dict[str, Any] = {
    argument: _given(graph, attribute, name)
    for attribute, argument in _MASKS.items()
  }
  for attribute, argument in _MASKS.items():
    if masks[argument].ndim != 1:
      raise DataError(
        f'{name}: {attribute} has shape {masks[argument].shape}; choose one '
        f'split, such as data.{attribute} = data.{attribute}[:, 0].'
      )
  relations = None
  if getattr(graph, _RELATIONS, None) is not None:
    relations = _given(graph, _RELATIONS, name)
  return custom.node_dataset(
    _given(graph, 'x', name),
    edge_index=_given(graph, 'edge_index', name),
    labels=_column(_given(graph, 'y', name)),
    relations=relations,
    **masks,
    **options,
  )


def _graph_splits(
  graphs: Iterable[Any],
  split: ArrayLike,
  ignore: Collection[str],
  options: dict[str, Any],
) -> DataSplits:
  name = options['name']
  nodes, edges, labels = [], [], []
  if not isinstance(graphs, Iterable):
    raise DataError(
      f'{name}: data is a {type(graphs).__name__}; with split give graphs.'
    )
  for number, graph in enumerate(graphs):
    where = f'{name}, graph {number}'
    _refuse_edge_values(graph, ignore, where)
    x, ends = _given(graph, 'x', where), _given(graph, 'edge_index', where)
    y = _given(graph, 'y', where).reshape(-1)
    if x.ndim != 2 or nodes and x.shape[1] != nodes[0].shape[1]:
      raise DataError(
        f'{where}: x has shape {x.shape}; expected [n, '
        f'{nodes[0].shape[1] if nodes else "f"}].'
      )
    if ends.ndim != 2 or len(ends) != 2:
      raise DataError(
        f'{where}: edge_index has shape {ends.shape}; expected [2, e].'
      )
    if len(y) != 1:
      raise DataError(f'{where}: y has {len(y)} entries; expected one.')
    nodes.append(x)
    edges.append(ends)
    labels.append(y)
  if not nodes:
    raise DataError(f'{name}: there are no graphs.')
  return custom.graph_splits(
    np.concatenate(nodes),
    edge_index=np.concatenate(edges, axis=1),
    n_node=[len(x) for x in nodes],
    n_edge=[ends.shape[1] for ends in edges],
    labels=np.concatenate(labels),
    split=_array(split, 'split', name),
    **options,
  )


def _refuse_edge_values(graph: Any, ignore: Collection[str], name: str) -> None:
  for attribute in _OF_EDGES:
    if attribute in ignore or getattr(graph, attribute, None) is None:
      continue
    raise DataError(
      f'{name}: edges have {attribute}, which no layer uses; leave it out with '
      f'ignore=({attribute!r},).'
    )


def _given(graph: Any, attribute: str, name: str) -> np.ndarray:
  value = getattr(graph, attribute, None)
  if value is None:
    advice = '; give nodes features, such as ones' if attribute == 'x' else ''
    raise DataError(f'{name}: {attribute} is missing{advice}.')
  return _array(value, attribute, name)


def _array(value: Any, field: str, name: str) -> np.ndarray:
  """Returns a tensor of any device as an array."""
  if hasattr(value, 'tocsr'):
    value = value.toarray()
  if any(getattr(value, f'is_sparse{kind}', False) for kind in ('', '_csr')):
    value = value.to_dense()
  for step in ('detach', 'cpu', 'numpy'):
    if hasattr(value, step):
      value = getattr(value, step)()
  return own_arrays.as_array(value, field, name)


def _column(labels: np.ndarray) -> np.ndarray:
  """Returns [n] of [n, 1], which is how some data sets have it."""
  return labels[:, 0] if labels.shape[1:] == (1,) else labels
