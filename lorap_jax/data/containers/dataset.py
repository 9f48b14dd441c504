"""Containers of a data set of labelled graphs: ragged arrays on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lorap_jax.data.containers.positions import Positions
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files.store import DataError

Level = Literal['node', 'graph']
Task = Literal['classification', 'regression']
TASKS: tuple[str, ...] = get_args(Task)
_MOST_CLASSES = 10**7  # Of any network.


class GraphDataset(NamedTuple):
  """Many graphs, stored one after the other in flat arrays.

  Graph i owns rows `sum(n_node[:i]) : sum(n_node[:i + 1])` of `nodes` and the
  same ranges, counted with `n_edge`, of `senders` and `receivers`. Edge ends
  are ids inside their own graph, from 0 to `n_node[i] - 1`.

  As for every tuple, `len()` counts the fields; use `num_graphs`.

  Attributes:
    nodes: f32[sum(n_node), f] node features.
    senders: u16[sum(n_edge)] node that sends the message of each edge.
    receivers: u16[sum(n_edge)] node that receives it.
    n_node: i32[g] nodes per graph.
    n_edge: i32[g] directed edges per graph.
    labels: i32[g] class of each graph, or f32[g] the number to predict.
  """

  nodes: np.ndarray
  senders: np.ndarray
  receivers: np.ndarray
  n_node: np.ndarray
  n_edge: np.ndarray
  labels: np.ndarray

  @property
  def num_graphs(self) -> int:
    """Number of graphs."""
    return len(self.n_node)

  def take(self, indices: np.ndarray | Sequence[int]) -> GraphDataset:
    """Returns the graphs `indices`, in that order (repeats are allowed)."""
    indices = np.asarray(indices, np.int64)
    node_rows = _ragged_rows(self.n_node, indices)
    edge_rows = _ragged_rows(self.n_edge, indices)
    return GraphDataset(
      nodes=self.nodes[node_rows],
      senders=self.senders[edge_rows],
      receivers=self.receivers[edge_rows],
      n_node=self.n_node[indices],
      n_edge=self.n_edge[indices],
      labels=self.labels[indices],
    )

  def check(self, name: str = 'dataset') -> None:
    """Checks that the arrays fit together.

    Args:
      name: how to call the data set in an error message.

    Raises:
      DataError: a type or a total is wrong, there are no features, an edge
        leaves its graph, a feature or a label is not finite, a graph has no
        nodes or a class is negative. The message names the first such graph.
    """
    _check_totals(self, name)
    _check_values(self, name)


class DataSplits(NamedTuple):
  """Training, validation and test graphs, and where they come from.

  Attributes:
    train: graphs to fit.
    valid: graphs to select by.
    test: graphs to report on.
    num_classes: outputs of a model: the number of classes, and labels are 0 to
      `num_classes - 1`; or 1 for regression, and labels are float32.
    source: JSON-able record of the data: `name`, `origin`, `files`, `sha256`,
      `counts`, `subset`, `comparable` (may results stand beside published
      ones) and `note`.
    task: what a model is for, said by who makes the data set.
    positions: the features that are places in an image; None where there are
      none.
  """

  train: GraphDataset
  valid: GraphDataset
  test: GraphDataset
  num_classes: int
  source: dict[str, Any]
  task: Task = 'classification'
  positions: Positions | None = None

  @property
  def level(self) -> Level:
    """What has a label: a graph."""
    return 'graph'

  def check(self, name: str = 'dataset') -> None:
    """Checks each split, and that its labels suit the task.

    Args:
      name: how to call the data set in an error message.

    Raises:
      DataError: an array of a split has a wrong type, shape or value, the
        labels of a split or `num_classes` are not those of the task, or
        `positions` are no columns. The message names the split.
    """
    for split in SPLITS:
      part: Any = getattr(self, split)
      if not isinstance(part, GraphDataset):
        raise DataError(
          f'{name}: {split} is a {type(part).__name__}; expected a '
          'GraphDataset.'
        )
      part.check(f'{name}, {split}')
      check_labels(
        part.labels, self.task, self.num_classes, f'{name}, {split}', 'graph'
      )
    if self.positions is not None:
      columns, width = self.positions.columns, self.train.nodes.shape[1]
      if not all(0 <= column < width for column in columns):
        raise DataError(
          f'{name}: positions are columns {columns}; nodes has {width} columns.'
        )


def check_num_classes(num_classes: Any, name: str) -> None:
  """Checks that a number of classes is one.

  Args:
    num_classes: outputs of a model.
    name: how to call the data set in an error message.

  Raises:
    DataError: no integer, or too many classes for any network.
  """
  whole = isinstance(num_classes, int | np.integer)
  if not whole or isinstance(num_classes, bool) or num_classes > _MOST_CLASSES:
    raise DataError(
      f'{name}: num_classes is {num_classes!r:.40}; expected an integer of at '
      f'most {_MOST_CLASSES:,}.'
    )


def check_labels(
  labels: np.ndarray, task: str, num_classes: int, name: str, level: Level
) -> None:
  """Checks that labels suit a task.

  Args:
    labels: int32 classes, -1 for none; or float32 numbers.
    task: one of `TASKS`.
    num_classes: outputs of a model.
    name: how to call the data set in an error message.
    level: what has a label.

  Raises:
    DataError: another task; labels of another type; a class outside 0 to
      `num_classes - 1`; or a regression that has not one output.
  """
  if not (isinstance(task, str) and task in TASKS):
    raise DataError(f'{name}: task is {task!r}; expected one of {TASKS}.')
  check_num_classes(num_classes, name)
  dtype = 'int32' if task == 'classification' else 'float32'
  if labels.dtype != dtype:
    raise DataError(
      f'{name}: labels is {labels.dtype}; expected {dtype} for {task}.'
    )
  if task == 'regression':
    if num_classes != 1:
      raise DataError(
        f'{name}: num_classes is {num_classes}; expected 1 for regression.'
      )
    return
  outside = (labels < -1) | (labels >= num_classes)
  if outside.any():
    raise DataError(
      f'{name}: {level} {int(np.argmax(outside))} has a label outside -1 '
      f'(none) to {num_classes - 1}.'
    )


# What `DataSplits.source` holds.
_SOURCE = (
  'name',
  'origin',
  'files',
  'sha256',
  'counts',
  'subset',
  'comparable',
  'note',
)


def check_source(source: dict[str, Any], name: str) -> None:
  """Checks that a record of data has all that reports take from it.

  Args:
    source: record of where a data set comes from.
    name: how to call the data set in an error message.

  Raises:
    DataError: names what is missing.
  """
  if not isinstance(source, Mapping):
    raise DataError(f'{name}: source is a {type(source).__name__}, no record.')
  missing = [key for key in _SOURCE if key not in source]
  if missing:
    raise DataError(
      f'{name}: source lacks {", ".join(missing)}; make the data set with '
      'data.custom.node_dataset or graph_splits, which record it.'
    )


# Types and number of axes of each field.
_TYPES = {
  'nodes': (('float32',), 2),
  'senders': (('uint16',), 1),
  'receivers': (('uint16',), 1),
  'n_node': (('int32',), 1),
  'n_edge': (('int32',), 1),
  'labels': (('int32', 'float32'), 1),
}


def check_types(
  data: Any, types: Mapping[str, tuple[tuple[str, ...], int]], name: str
) -> None:
  """Checks types and axes of the arrays of a container.

  Args:
    data: container.
    types: types and number of axes of each field.
    name: how to call the data set in an error message.

  Raises:
    DataError: names the field, what it is and what is expected.
  """
  for field, (dtypes, ndim) in types.items():
    array = getattr(data, field)
    expected = f'expected {" or ".join(dtypes)} with {ndim} axes'
    if not isinstance(array, np.ndarray):
      raise DataError(
        f'{name}: {field} is a {type(array).__name__}, no numpy array; '
        f'{expected}.'
      )
    if array.dtype not in dtypes or array.ndim != ndim:
      raise DataError(
        f'{name}: {field} is {array.dtype} of shape {array.shape}; {expected}.'
      )


def check_width(nodes: np.ndarray, name: str) -> None:
  """Checks that nodes [n, f] have features.

  Args:
    nodes: features.
    name: how to call the data set in an error message.

  Raises:
    DataError: f is 0.
  """
  if not nodes.shape[1]:
    raise DataError(
      f'{name}: nodes has shape {nodes.shape}, no features; give at least one '
      'column, such as ones or the degree of each node.'
    )


def _ragged_rows(sizes: np.ndarray, indices: np.ndarray) -> np.ndarray:
  """Returns the flat rows of the ragged items `indices`, i64[sum]."""
  starts = np.cumsum(sizes, dtype=np.int64) - sizes
  taken = sizes[indices].astype(np.int64)
  shifts = starts[indices] - (np.cumsum(taken) - taken)
  return np.repeat(shifts, taken) + np.arange(taken.sum())


def _check_totals(data: GraphDataset, name: str) -> None:
  check_types(data, _TYPES, name)
  check_width(data.nodes, name)
  for field in ('n_edge', 'labels'):
    if len(getattr(data, field)) != data.num_graphs:
      raise DataError(
        f'{name}: {field} has {len(getattr(data, field))} entries for '
        f'{data.num_graphs} graphs.'
      )
  _raise_at(data.n_node < 1, name, 'has no nodes')
  _raise_at(data.n_edge < 0, name, 'has a negative number of edges')
  for field, counts in (
    ('nodes', data.n_node),
    ('senders', data.n_edge),
    ('receivers', data.n_edge),
  ):
    total = int(counts.sum(dtype=np.int64))
    if len(getattr(data, field)) != total:
      raise DataError(
        f'{name}: {field} has {len(getattr(data, field))} rows, the counts '
        f'of the {data.num_graphs} graphs add up to {total}.'
      )


def _check_values(data: GraphDataset, name: str) -> None:
  if data.labels.dtype == np.float32:
    _raise_at(~np.isfinite(data.labels), name, 'has a label that is not finite')
  else:
    _raise_at(data.labels < 0, name, 'has a negative label')
  not_finite = np.any(~np.isfinite(data.nodes), axis=1)
  node_graph = np.repeat(np.arange(data.num_graphs), data.n_node)
  edge_graph = np.repeat(np.arange(data.num_graphs), data.n_edge)
  _raise_at(not_finite, name, 'has a feature that is not finite', node_graph)
  for field in ('senders', 'receivers'):
    outside = getattr(data, field) >= data.n_node[edge_graph]
    _raise_at(
      outside, name, f'has an edge whose {field} id is outside', edge_graph
    )


def _raise_at(
  bad: np.ndarray, name: str, what: str, graph: np.ndarray | None = None
) -> None:
  """Raises for the graph of the first True in `bad`, if there is one."""
  if bad.any():
    first = int(np.argmax(bad))
    raise DataError(
      f'{name}: graph {first if graph is None else graph[first]} {what}.'
    )
