"""Container of a node data set: one graph on the host, labelled nodes."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.data.containers.dataset import (
  Level,
  Task,
  check_labels,
  check_types,
  check_width,
)
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files.store import DataError


class NodeDataset(NamedTuple):
  """One graph, some of whose nodes have labels.

  As for every tuple, `len()` counts the fields; use `num_nodes`.

  Attributes:
    nodes: f32[n, f] node features.
    senders: i32[e] node that sends the message of each edge; an undirected
      edge is there in both directions, a self loop once.
    receivers: i32[e] node that receives it.
    labels: i32[n] class of each node, -1 if it has none; or f32[n] the number
      to predict, NaN if it has none.
    train_mask: bool[n] nodes to fit.
    valid_mask: bool[n] nodes to select by.
    test_mask: bool[n] nodes to report on.
    num_classes: outputs of a model: the number of classes, and labels are 0 to
      `num_classes - 1`; or 1 for regression.
    source: JSON-able record of the data, with the keys of `DataSplits.source`.
    task: what a model is for, said by who makes the data set.
    indptr: i64[n + 1], where the edges that each node receives begin and end,
      of edges in the order of their receivers; None where nobody said it. Where
      there are relations, edges of a receiver are in their order then.
    relations: i32[e] the relation of each edge, from 0; None for one kind.
    num_relations: R, relations are 0 to R - 1; None for one kind of edge.
  """

  nodes: np.ndarray
  senders: np.ndarray
  receivers: np.ndarray
  labels: np.ndarray
  train_mask: np.ndarray
  valid_mask: np.ndarray
  test_mask: np.ndarray
  num_classes: int
  source: dict[str, Any]
  task: Task = 'classification'
  indptr: np.ndarray | None = None
  relations: np.ndarray | None = None
  num_relations: int | None = None

  @property
  def level(self) -> Level:
    """What has a label: a node."""
    return 'node'

  @property
  def num_nodes(self) -> int:
    """Number of nodes."""
    return len(self.nodes)

  def check(self, name: str = 'dataset') -> None:
    """Checks that the arrays fit together.

    Args:
      name: how to call the data set in an error message.

    Raises:
      DataError: a type or a length is wrong, there are no features, an edge
        leaves the graph or is of no relation, a feature or a label is not
        finite, the labels do not suit the task, or the splits are empty,
        overlap or hold a node without a label. The message names the first such
        node or edge.
    """
    _check_lengths(self, name)
    _check_relations(self, name)
    _check_values(self, name)
    _check_splits(self, name)


# Type and number of axes of each array.
_TYPES = {
  'nodes': (('float32',), 2),
  'senders': (('int32',), 1),
  'receivers': (('int32',), 1),
  'labels': (('int32', 'float32'), 1),
  'train_mask': (('bool',), 1),
  'valid_mask': (('bool',), 1),
  'test_mask': (('bool',), 1),
}


def both_directions(
  senders: np.ndarray, receivers: np.ndarray, num_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Makes edges undirected and removes duplicates.

  Args:
    senders: integers [e], from 0 to `num_nodes - 1`.
    receivers: integers [e], likewise.
    num_nodes: number of nodes.

  Returns:
    i32 senders and receivers, sorted by receiver and then by sender: each edge
    once in either direction, a self loop once.
  """
  senders = senders.astype(np.int64)
  receivers = receivers.astype(np.int64)
  forward = receivers * num_nodes + senders
  backward = senders * num_nodes + receivers
  keys = np.unique(np.concatenate([forward, backward]))
  receivers, senders = np.divmod(keys, num_nodes)
  return senders.astype(np.int32), receivers.astype(np.int32)


def both_relations(
  senders: np.ndarray,
  receivers: np.ndarray,
  relations: np.ndarray,
  num_nodes: int,
  num_relations: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Adds the other direction of each edge, as a relation of its own.

  Args:
    senders: integers [e], from 0 to `num_nodes - 1`.
    receivers: integers [e], likewise.
    relations: integers [e], from 0 to `num_relations - 1`.
    num_nodes: number of nodes.
    num_relations: R; the other direction of relation r is r + R.

  Returns:
    i32 senders, receivers and relations, sorted by receiver, relation and
    sender; what is there twice stays once.
  """
  ends = [ids.astype(np.int64) for ids in (senders, receivers)]
  kinds = relations.astype(np.int64)
  key = lambda to, kind, by: (to * 2 * num_relations + kind) * num_nodes + by
  keys = np.concatenate(
    [key(ends[1], kinds, ends[0]), key(ends[0], kinds + num_relations, ends[1])]
  )
  keys, senders = np.divmod(np.unique(keys), num_nodes)
  receivers, relations = np.divmod(keys, 2 * num_relations)
  return (
    senders.astype(np.int32),
    receivers.astype(np.int32),
    relations.astype(np.int32),
  )


def mask_of(indices: np.ndarray, num_nodes: int) -> np.ndarray:
  """Returns bool[num_nodes], True at `indices`."""
  mask = np.zeros(num_nodes, bool)
  mask[indices] = True
  return mask


def _check_lengths(data: NodeDataset, name: str) -> None:
  check_types(data, _TYPES, name)
  if not data.num_nodes:
    raise DataError(f'{name}: there are no nodes.')
  check_width(data.nodes, name)
  for field in ('labels', *(f'{split}_mask' for split in SPLITS)):
    if len(getattr(data, field)) != data.num_nodes:
      raise DataError(
        f'{name}: {field} has {len(getattr(data, field))} entries for '
        f'{data.num_nodes} nodes.'
      )
  if len(data.senders) != len(data.receivers):
    raise DataError(
      f'{name}: there are {len(data.senders)} senders and '
      f'{len(data.receivers)} receivers.'
    )


def _check_relations(data: NodeDataset, name: str) -> None:
  kinds, count = data.relations, data.num_relations
  if kinds is None and count is None:
    return
  if kinds is None or count is None:
    raise DataError(f'{name}: relations and num_relations go together.')
  check_types(data, {'relations': (('int32',), 1)}, name)
  whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
  if not whole or count < 1:
    raise DataError(
      f'{name}: num_relations is {count!r}; expected an integer from 1 on.'
    )
  if len(kinds) != len(data.senders):
    raise DataError(
      f'{name}: there are {len(kinds)} relations for {len(data.senders)} edges.'
    )
  outside = (kinds < 0) | (kinds >= count)
  if outside.any():
    edge = int(np.argmax(outside))
    raise DataError(
      f'{name}: edge {edge} is of relation {kinds[edge]}, outside 0 to '
      f'{count - 1}.'
    )


def _check_values(data: NodeDataset, name: str) -> None:
  for field in ('senders', 'receivers'):
    ids = getattr(data, field)
    outside = (ids < 0) | (ids >= data.num_nodes)
    if outside.any():
      edge = int(np.argmax(outside))
      raise DataError(
        f'{name}: edge {edge} has the {field} id {ids[edge]}, outside 0 to '
        f'{data.num_nodes - 1}.'
      )
  if data.indptr is not None:
    _check_indptr(data.indptr, data.receivers, data.num_nodes, name)
  not_finite = np.any(~np.isfinite(data.nodes), axis=1)
  _raise_at(not_finite, name, 'has a feature that is not finite')
  check_labels(data.labels, data.task, data.num_classes, name, 'node')
  infinite = np.isinf(data.labels)
  _raise_at(infinite, name, 'has a label that is not finite')


def _check_indptr(
  indptr: np.ndarray, receivers: np.ndarray, count: int, name: str
) -> None:
  ends = np.searchsorted(receivers, np.arange(count + 1))
  in_order = bool(np.all(receivers[1:] >= receivers[:-1]))
  if not in_order or not np.array_equal(indptr, ends):
    raise DataError(
      f'{name}: indptr does not say where the edges of each receiver begin; '
      'sort the edges by receiver, or leave it out.'
    )


def _check_splits(data: NodeDataset, name: str) -> None:
  masks = {split: getattr(data, f'{split}_mask') for split in SPLITS}
  for split, mask in masks.items():
    if not mask.any():
      raise DataError(f'{name}: the {split} split is empty.')
    if data.task == 'regression':
      unlabelled = mask & np.isnan(data.labels)
    else:
      unlabelled = mask & (data.labels == -1)
    _raise_at(unlabelled, name, f'is in the {split} split without a label')
  for one, other in itertools.combinations(SPLITS, 2):
    both = masks[one] & masks[other]
    _raise_at(both, name, f'is in the {one} and in the {other} split')


def _raise_at(bad: np.ndarray, name: str, what: str) -> None:
  """Raises for the node of the first True in `bad`, if there is one."""
  if bad.any():
    raise DataError(f'{name}: node {int(np.argmax(bad))} {what}.')
