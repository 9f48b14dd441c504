"""The text format of the TUDataset collection.

All graphs of data set NAME are in one set of files, with nodes and graphs
counted from 1 over the whole set:

  NAME_A.txt                 an edge per line, as `sender, receiver`
  NAME_graph_indicator.txt   the graph of each node, ascending
  NAME_graph_labels.txt      the class of each graph, an integer
  NAME_node_labels.txt       (some sets) one or more integers per node
  NAME_node_attributes.txt   (some sets) one or more numbers per node

Some files end a row with a comma, or write integers with a decimal point; that
is no matter.

Source of the format: C. Morris et al., "TUDataset: A collection of benchmark
datasets for learning with graphs", 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lorap_jax.data.containers import node_dataset
from lorap_jax.data.files import number_text
from lorap_jax.data.files.store import DataError

REQUIRED = ('A', 'graph_indicator', 'graph_labels')
OPTIONAL = ('node_labels', 'node_attributes')
_COLUMNS = {'A': 2, 'graph_indicator': 1, 'graph_labels': 1}
_MAX_NODES = 1 << 16  # Edge ends are uint16.


class TUGraphs(NamedTuple):
  """The graphs of a set, without node features yet.

  Attributes:
    n_node: i32[g] nodes per graph.
    n_edge: i32[g] directed edges per graph.
    senders: u16[sum(n_edge)] ids inside the graph; each undirected edge is
      there in both directions, self loops and duplicates are not.
    receivers: u16[sum(n_edge)].
    labels: i32[g] classes, 0 to c - 1 in the order of the labels in the file.
    node_labels: i32[sum(n_node), k], k may be 0.
    node_attributes: f32[sum(n_node), k], k may be 0.
  """

  n_node: np.ndarray
  n_edge: np.ndarray
  senders: np.ndarray
  receivers: np.ndarray
  labels: np.ndarray
  node_labels: np.ndarray
  node_attributes: np.ndarray


def parse(texts: Mapping[str, bytes], name: str) -> TUGraphs:
  """Reads the files of a set.

  Args:
    texts: content by the part of the file name after `NAME_`, without `.txt`.
    name: how to call the set in an error message.

  Raises:
    DataError: a file is missing or damaged, or they do not fit together.
  """
  for key in REQUIRED:
    if key not in texts:
      raise DataError(
        f'{name}: the file ..._{key}.txt is missing; a classification set has '
        f'{", ".join(f"..._{key}.txt" for key in REQUIRED)}.'
      )
  tables = {
    key: _table(text, f'{name}, {key}', key) for key, text in texts.items()
  }
  edges = tables['A']
  labels = tables['graph_labels'][:, 0]
  graph = tables['graph_indicator'][:, 0] - 1
  if (np.diff(graph) < 0).any() or graph[0] < 0 or graph[-1] >= len(labels):
    raise DataError(
      f'{name}, graph_indicator: graphs are not in ascending order from 1 to '
      f'{len(labels)}, the number of lines of graph_labels.'
    )
  return assemble(
    name,
    n_node=np.bincount(graph, minlength=len(labels)),
    senders=edges[:, 0] - 1,
    receivers=edges[:, 1] - 1,
    labels=labels,
    node_labels=tables.get('node_labels'),
    node_attributes=tables.get('node_attributes'),
  )


def assemble(
  name: str,
  *,
  n_node: np.ndarray,
  senders: np.ndarray,
  receivers: np.ndarray,
  labels: np.ndarray,
  node_labels: np.ndarray | None = None,
  node_attributes: np.ndarray | None = None,
) -> TUGraphs:
  """Checks graphs and brings them into the form of `TUGraphs`.

  Args:
    name: how to call the set in an error message.
    n_node: integers [g].
    senders: integers [e], node numbers from 0 over the whole set; edges in any
      order and direction, also twice.
    receivers: integers [e].
    labels: integers [g], of any values.
    node_labels: integers [n, k].
    node_attributes: numbers [n, k].

  Raises:
    DataError: the arrays do not fit together.
  """
  n = int(n_node.sum())
  _check_nodes(name, n_node, node_labels, node_attributes)
  graph = np.repeat(np.arange(len(n_node)), n_node)
  _check_edges(name, graph, senders, receivers)
  loops = senders == receivers
  # Sorted by receiver, and so by graph.
  senders, receivers = node_dataset.both_directions(
    senders[~loops], receivers[~loops], n
  )
  starts = np.cumsum(n_node) - n_node
  _, classes = np.unique(labels, return_inverse=True)
  none = np.zeros((n, 0))
  attributes = none if node_attributes is None else node_attributes
  with np.errstate(over='ignore'):  # `check` names what became infinite.
    attributes = attributes.astype(np.float32)
  return TUGraphs(
    n_node=n_node.astype(np.int32),
    n_edge=np.bincount(graph[senders], minlength=len(n_node)).astype(np.int32),
    senders=(senders - starts[graph[senders]]).astype(np.uint16),
    receivers=(receivers - starts[graph[receivers]]).astype(np.uint16),
    labels=classes.astype(np.int32),
    node_labels=(none if node_labels is None else node_labels).astype(np.int32),
    node_attributes=attributes,
  )


def _check_nodes(
  name: str,
  n_node: np.ndarray,
  node_labels: np.ndarray | None,
  node_attributes: np.ndarray | None,
) -> None:
  for bad, what in (
    (n_node < 1, 'has no nodes'),
    (n_node > _MAX_NODES, f'has over {_MAX_NODES} nodes'),
  ):
    if bad.any():
      raise DataError(f'{name}: graph {int(np.argmax(bad)) + 1} {what}.')
  n = int(n_node.sum())
  for key, table in (
    ('node_labels', node_labels),
    ('node_attributes', node_attributes),
  ):
    if table is not None and len(table) != n:
      raise DataError(
        f'{name}: {key} has {len(table)} rows; there are {n} nodes.'
      )
  if node_labels is not None and node_labels.size:
    most = np.iinfo(np.int32).max
    large = ((node_labels > most) | (node_labels < -most)).any(axis=1)
    if large.any():
      raise DataError(
        f'{name}: node_labels, row {int(np.argmax(large)) + 1}: a label is '
        'beyond 32-bit integers.'
      )


def _check_edges(
  name: str, graph: np.ndarray, senders: np.ndarray, receivers: np.ndarray
) -> None:
  n = len(graph)
  for ids in (senders, receivers):
    outside = (ids < 0) | (ids >= n)
    if outside.any():
      raise DataError(
        f'{name}: an edge names node {ids[np.argmax(outside)] + 1}; there are '
        f'{n} nodes.'
      )
  across = graph[senders] != graph[receivers]
  if across.any():
    first = int(np.argmax(across))
    raise DataError(
      f'{name}: edge {first + 1} joins graphs {graph[senders[first]] + 1} and '
      f'{graph[receivers[first]] + 1}.'
    )


def _table(text: bytes, name: str, key: str) -> np.ndarray:
  """Returns the numbers of a text file, [lines, numbers per line]."""
  try:
    table = number_text.parse(
      text.decode(errors='replace'), columns=_COLUMNS.get(key)
    )
    return table if key == 'node_attributes' else number_text.whole(table)
  except ValueError as error:
    raise DataError(f'{name}: {error}.') from error
