"""What users have in their arrays, as the types of the containers.

Everything is checked on the way: a message names the data set, the array, what
it is and what is expected.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from absl import logging
from scipy import sparse

from lorap_jax.data.containers import dataset, node_dataset
from lorap_jax.data.containers.dataset import TASKS, Level, Task
from lorap_jax.data.files.store import DataError

# The arrays of features in compressed rows, beside their shape.
CSR = ('nodes_data', 'nodes_indices', 'nodes_indptr', 'nodes_shape')
# What may be turned into a type, and how to call it.
_KINDS = {
  'b': ('b', 'booleans'),
  'f': ('fiub', 'numbers'),
  'i': ('iu', 'integers'),
  'u': ('iu', 'integers'),
}
_FEW_CLASSES = 10


def cast(
  value: Any, field: str, name: str, dtype: str, *, shape: tuple[Any, ...]
) -> np.ndarray:
  """Returns an array of `dtype` with the same values.

  Args:
    value: numbers, as an array or nested lists.
    field: what to call them in an error message.
    name: how to call the data set there.
    dtype: type of the result.
    shape: of the result, with letters for sizes of any number.

  Raises:
    DataError: another shape, or values that the type cannot hold.
  """
  array = as_array(value, field, name)
  expected = f'[{", ".join(map(str, shape))}]'
  fits = array.ndim == len(shape) and all(
    isinstance(size, str) or size == found
    for size, found in zip(shape, array.shape, strict=True)
  )
  if not fits:
    raise DataError(
      f'{name}: {field} has shape {array.shape}; expected {expected}.'
    )
  kinds, what = _KINDS[dtype[0]]
  if array.size and array.dtype.kind not in kinds:
    raise DataError(f'{name}: {field} is {array.dtype}; expected {what}.')
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


def mask(value: Any, field: str, name: str) -> np.ndarray:
  """Returns bool[n] of booleans or of integers 0 and 1."""
  array = as_array(value, field, name)
  if array.dtype.kind in 'iu' and array.ndim == 1:
    if not np.isin(array, (0, 1)).all():
      raise DataError(
        f'{name}: {field} holds integers other than 0 and 1; give one entry '
        'per node, true for those of the split.'
      )
    array = array.astype(bool)
  return cast(array, field, name, 'b1', shape=('n',))


def features(nodes: Any, name: str) -> np.ndarray:
  """Returns f32[n, f] of an array or of a sparse matrix.

  Args:
    nodes: numbers [n, f], or a matrix with a `tocsr` method (SciPy's).
    name: how to call the data set in an error message.
  """
  if not hasattr(nodes, 'tocsr'):
    return cast(nodes, 'nodes', name, 'f4', shape=('n', 'f'))
  rows = nodes.tocsr()
  arrays = (rows.data, rows.indices, rows.indptr, rows.shape)
  return dense(dict(zip(CSR, arrays, strict=True)), name)


def dense(csr: dict[str, Any], name: str) -> np.ndarray:
  """Returns f32[n, f] of features in compressed rows.

  x[i, nodes_indices[k]] is nodes_data[k] for each k from nodes_indptr[i] to
  nodes_indptr[i + 1] - 1; the sum of those of a column that is there twice; and
  zero elsewhere.

  Args:
    csr: the arrays `CSR`.
    name: how to call the data set in an error message.
  """
  shape = cast(csr['nodes_shape'], 'nodes_shape', name, 'i8', shape=(2,))
  n, f = (int(size) for size in shape)
  if min(n, f) < 0:
    raise DataError(f'{name}: nodes_shape is ({n}, {f}).')
  starts = cast(csr['nodes_indptr'], 'nodes_indptr', name, 'i8', shape=(n + 1,))
  columns = cast(
    csr['nodes_indices'], 'nodes_indices', name, 'i8', shape=('k',)
  )
  values = cast(
    csr['nodes_data'], 'nodes_data', name, 'f4', shape=(len(columns),)
  )
  sizes = np.diff(starts)
  if starts[0] != 0 or sizes.min(initial=0) < 0 or starts[-1] != len(columns):
    raise DataError(
      f'{name}: nodes_indptr does not ascend from 0 to {len(columns)}, the '
      'length of nodes_indices.'
    )
  if columns.min(initial=0) < 0 or columns.max(initial=-1) >= f:
    raise DataError(f'{name}: nodes_indices has a column outside 0 to {f - 1}.')
  try:
    return sparse.csr_array((values, columns, starts), shape=(n, f)).toarray()
  except (MemoryError, ValueError) as error:
    raise DataError(
      f'{name}: nodes of shape ({n}, {f}) need {4 * n * f} bytes of memory.'
    ) from error


def edge_ends(
  senders: Any, receivers: Any, edge_index: Any, name: str, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both ends of the edges, from either way to give them."""
  if (edge_index is None) == (senders is None and receivers is None):
    raise DataError(
      f'{name}: give either senders and receivers, or edge_index.'
    )
  if edge_index is not None:
    ends = cast(edge_index, 'edge_index', name, dtype, shape=(2, 'e'))
    return ends[0], ends[1]
  if senders is None or receivers is None:
    missing = 'senders' if senders is None else 'receivers'
    raise DataError(f'{name}: {missing} is missing.')
  one = cast(senders, 'senders', name, dtype, shape=('e',))
  return one, cast(receivers, 'receivers', name, dtype, shape=('e',))


def relations_of(
  relations: Any, num_relations: int | None, name: str
) -> tuple[np.ndarray | None, int | None]:
  """Returns i32[e] relations and their number; None for one kind of edge.

  Args:
    relations: integers [e] from 0, or None.
    num_relations: as the user says; None for the highest one plus one.
    name: how to call the data set in messages.

  Raises:
    DataError: they are no integers, or there is a number of them alone.
  """
  if relations is None:
    if num_relations is not None:
      raise DataError(
        f'{name}: num_relations is {num_relations!r}, but there are no '
        'relations; give the relation of each edge.'
      )
    return None, None
  kinds = cast(relations, 'relations', name, 'i4', shape=('e',))
  if num_relations is None:
    num_relations = int(kinds.max(initial=0)) + 1
  return kinds, num_relations


def in_both_directions(
  senders: np.ndarray,
  receivers: np.ndarray,
  n_node: np.ndarray,
  n_edge: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Makes the edges of graphs undirected, each once in either direction.

  Args:
    senders: ids inside the graph, integers [sum(n_edge)].
    receivers: ids inside the graph, integers [sum(n_edge)].
    n_node: nodes of each graph [g].
    n_edge: edges of each graph [g].

  Returns:
    Senders and receivers of the same type, and i32[g] edges per graph.
  """
  starts = np.cumsum(n_node, dtype=np.int64) - n_node
  shift = np.repeat(starts, n_edge)
  ends = node_dataset.both_directions(
    senders + shift, receivers + shift, int(n_node.sum(dtype=np.int64))
  )
  graph = np.repeat(np.arange(len(n_node)), n_node)[ends[0]]
  one, other = ((ids - starts[graph]).astype(senders.dtype) for ids in ends)
  counts = np.bincount(graph, minlength=len(n_node))
  return one, other, counts.astype(np.int32)


def labels_for(
  labels: Any, task: str | None, name: str, level: Level
) -> tuple[np.ndarray, Task]:
  """Returns the labels in the type of the task, and the task.

  Args:
    labels: numbers [n].
    task: 'classification' or 'regression'; None lets the type of the labels
      decide, with a warning where that may not be what is meant.
    name: how to call the data set in messages.
    level: what has a label.

  Raises:
    DataError: they are no numbers, or do not suit the task.
  """
  if task is not None and not (isinstance(task, str) and task in TASKS):
    raise DataError(f'{name}: task is {task!r}; expected one of {TASKS}.')
  array = as_array(labels, 'labels', name)
  size = 'n' if level == 'node' else 'g'
  if array.dtype.kind not in 'biuf' or array.ndim != 1:
    if array.dtype.kind in 'OUS':
      example = f' (such as {array.flat[0]!r:.40})' if array.size else ''
      raise DataError(
        f'{name}: labels are not numbers{example}; number the classes, as '
        'np.unique(labels, return_inverse=True)[1] does.'
      )
    raise DataError(
      f'{name}: labels is {array.dtype} of shape {array.shape}; expected one '
      f'number for each {level}, [{size}].'
    )
  floats = array.dtype.kind == 'f'
  if task is None:
    task = 'regression' if floats else 'classification'
    if floats and _small_whole(array):
      logging.warning(
        '%s: labels are floats and all of them small whole numbers; they are '
        'taken as numbers to predict. Set task (an argument, or an array of '
        "the npz file) to 'classification' if they are classes, or to "
        "'regression'.",
        name,
      )
  if task == 'regression':
    return cast(array, 'labels', name, 'f4', shape=(size,)), 'regression'
  if floats:
    array = _classes_of_floats(array, name, level)
  if array.dtype.kind == 'b':
    array = array.astype(np.int32)
  return cast(array, 'labels', name, 'i4', shape=(size,)), 'classification'


def count_classes(
  labels: np.ndarray, task: Task, num_classes: int | None, name: str
) -> int:
  """Returns the outputs of a model: `num_classes`, or what labels need.

  Args:
    labels: labels, from `labels_for`.
    task: task, from `labels_for`.
    num_classes: what the user says; None for the highest label plus one.
    name: how to call the data set in messages.

  Raises:
    DataError: there are more classes than that; or, where the user says no
      number, fewer than two, or over half of them without an example.
  """
  if num_classes is not None:
    dataset.check_num_classes(num_classes, name)
  if task == 'regression':
    if num_classes not in (None, 1):
      raise DataError(
        f'{name}: num_classes is {num_classes}; expected 1 for regression.'
      )
    return 1
  needed = int(labels.max(initial=-1)) + 1
  if num_classes is not None:
    if num_classes < max(needed, 1):
      raise DataError(
        f'{name}: num_classes is {num_classes}; expected {max(needed, 1)} or '
        'more, since labels count from 0.'
      )
    return int(num_classes)
  if needed < 2:
    raise DataError(
      f'{name}: labels are all of one class; set num_classes, to 2 or more.'
    )
  known = labels[labels >= 0]
  there = np.unique(known)
  remedy = (
    'number the classes from 0 without gaps; or set num_classes, or task to '
    "'regression' if labels are numbers to predict"
  )
  empty = needed - len(there)
  if 2 * empty > needed:
    raise DataError(
      f'{name}: labels go up to {needed - 1}, and {empty} of these {needed} '
      f'classes have no example; {remedy}.'
    )
  if empty:
    first = int(np.setdiff1d(np.arange(needed), there)[0])
    logging.warning(
      '%s: %d of %d classes have no example, the first of them is %d; %s.',
      *(name, empty, needed, first, remedy),
    )
  elif needed > _FEW_CLASSES and len(known) < 2 * needed:
    logging.warning(
      '%s: %d classes for %d examples; %s.', name, needed, len(known), remedy
    )
  return needed


def as_array(value: Any, field: str, name: str) -> np.ndarray:
  """Returns an array of whatever type.

  Args:
    value: an array, or nested sequences.
    field: what to call it in an error message.
    name: how to call the data set there.

  Raises:
    DataError: it is none.
  """
  try:
    return np.asarray(value)
  except (OverflowError, TypeError, ValueError) as error:
    raise DataError(
      f'{name}: {field} is no array: its rows differ in length, or they are no '
      'numbers.'
    ) from error


def flag(value: Any, field: str, name: str) -> bool:
  """Returns a boolean, also of 0 or 1.

  Args:
    value: what a user gives.
    field: what to call it in an error message.
    name: how to call the data set there.

  Raises:
    DataError: another value or type.
  """
  if isinstance(value, bool | int | np.bool_ | np.integer) and value in (0, 1):
    return bool(value)
  raise DataError(f'{name}: {field} is {value!r:.40}; expected true or false.')


def _small_whole(array: np.ndarray) -> bool:
  """Whether floats look like classes."""
  known = array[~np.isnan(array)]
  if not known.size or not np.isfinite(known).all():
    return False
  whole = (known == np.floor(known)).all() and known.min() >= -1
  return bool(whole and known.max() < max(_FEW_CLASSES, len(known) / 2))


def _classes_of_floats(
  array: np.ndarray, name: str, level: Level
) -> np.ndarray:
  """Returns i64 of whole floats; a node's NaN is -1, no class."""
  if level == 'node':
    array = np.where(np.isnan(array), -1, array)
  bad = ~(np.isfinite(array) & (array == np.floor(array)))
  bad |= np.abs(array) > np.iinfo(np.int32).max
  if bad.any():
    first = int(np.argmax(bad))
    raise DataError(
      f'{name}: {level} {first} has the label {array[first]:g}, which is no '
      "class; set task to 'regression' for numbers to predict."
    )
  return array.astype(np.int64)
