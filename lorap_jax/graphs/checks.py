"""What a graph from outside must be, checked once, on the host.

Inside of compiled programs only shapes and types are known: `check_shapes`
looks at those.
"""

from typing import Any

import jraph
import numpy as np

from lorap_jax.graphs import relations
from lorap_jax.graphs.relations import Relations
from lorap_jax.graphs.shards import RealGraphs

_INDICES = ('senders', 'receivers', 'n_node', 'n_edge')


def check_shapes(graph: jraph.GraphsTuple, name: str = 'graph') -> None:
  """Refuses arrays whose shapes and types make no graph, under `jax.jit` too.

  Args:
    graph: one graph or several; nodes have a shape, whatever they are.
    name: how to call it in a message.

  Raises:
    ValueError: names the array, what it is and what to give.
  """
  _check_kind(graph, name)
  _check_rows(graph.nodes, f'{name}.nodes')
  _check_edges(graph, name)


def check_layer_input(
  x: Any, graph: jraph.GraphsTuple, mask: Any = None
) -> None:
  """Checks the input of a layer, which uses only the edges of the graph.

  Args:
    x: node features [n, f].
    graph: one graph or several.
    mask: [n, 1], the real rows; None for all.

  Raises:
    ValueError: names the array, what it is and what to give.
  """
  _check_kind(graph, 'graph')
  _check_rows(x, 'x')
  if mask is not None and mask.shape != (x.shape[0], 1):
    raise ValueError(
      f'`rows.mask` has shape {mask.shape} for the {x.shape[0]} rows of x; '
      'give booleans [nodes, 1]'
    )
  _check_edges(graph, 'graph')


def _check_rows(values: Any, name: str) -> None:
  shape = getattr(values, 'shape', None)
  if shape is None or len(shape) != 2:
    raise ValueError(
      f'`{name}` has shape {shape}; give numbers [nodes, features]'
    )


def _check_edges(graph: Any, name: str) -> None:
  for field in _INDICES:
    value = getattr(graph, field)
    dtype = getattr(value, 'dtype', np.dtype(object))
    shape = getattr(value, 'shape', None)
    if shape is None or len(shape) != 1 or np.dtype(dtype).kind not in 'iu':
      raise ValueError(
        f'`{name}.{field}` is {dtype} {shape}; give integers of one axis'
      )
  _check_pairs(graph, name)


def check_graph(
  graph: jraph.GraphsTuple, name: str = 'graph', *, empty: bool = False
) -> jraph.GraphsTuple:
  """The graph as numpy arrays, or an error that says what it lacks.

  Args:
    graph: one graph or several, one after the other, as `jraph.batch` makes
      them. Edge features are not read, `Relations` are.
    name: how to call it in a message.
    empty: allow graphs without any node.

  Returns:
    Nodes float32 [n, f], int32 indices and counts; the padding that
    `RealGraphs` declares is cut off.

  Raises:
    ValueError: no graph, no nodes, a shape, a type or a count that does not
      fit, an index outside of its graph, or a feature that is not finite; with
      argument, value and remedy.
  """
  _check_kind(graph, name)
  nodes = as_array(graph.nodes, f'{name}.nodes')
  if nodes.dtype.kind not in 'fiub' or nodes.ndim != 2 or not nodes.shape[1]:
    raise ValueError(
      f'`{name}.nodes` is {nodes.dtype} {nodes.shape}; give numbers [nodes, '
      'features], one column at least'
    )
  given: dict[str, Any] = {
    field: _integers(getattr(graph, field), f'{name}.{field}')
    for field in _INDICES
  }
  senders, receivers, n_node, n_edge = given.values()
  if not n_node.size or not (empty or nodes.shape[0]):
    raise ValueError(
      f'`{name}` has {n_node.size} graphs with {nodes.shape[0]} nodes; give at '
      'least one graph with a node'
    )
  for field, counts, rows, what in (
    ('n_node', n_node, len(nodes), 'rows of nodes'),
    ('n_edge', n_edge, len(senders), 'senders'),
  ):
    if counts.min(initial=0) < 0 or counts.sum() != rows:
      raise ValueError(
        f'`{name}.{field}` adds up to {counts.sum()} and its least is '
        f'{counts.min(initial=0)}; it must count the {rows} {what}'
      )
  _check_pairs(graph._replace(**given), name)
  kinds = _relations(graph._replace(**given), name)
  if isinstance(graph.globals, RealGraphs):
    real = as_array(graph.globals.mask, f'{name}.globals.mask').astype(bool)
    count = int(real.sum())
    if real.shape != n_node.shape or not real[:count].all():
      raise ValueError(
        f'`{name}.globals` must be RealGraphs of {n_node.size} booleans, the '
        'padding behind the real graphs'
      )
    n_node, n_edge = n_node[:count], n_edge[:count]
    nodes = nodes[: n_node.sum()]
    senders, receivers = senders[: n_edge.sum()], receivers[: n_edge.sum()]
    if kinds is not None:
      kinds = Relations(kinds.ids[: len(senders)], kinds.count, kinds.ordered)
  ends = np.cumsum(n_node)
  for field, ids in (('senders', senders), ('receivers', receivers)):
    low = np.repeat(ends - n_node, n_edge)
    outside = (ids < low) | (ids >= np.repeat(ends, n_edge))
    if outside.any():
      edge = int(np.argmax(outside))
      raise ValueError(
        f'`{name}.{field}` of edge {edge} is {ids[edge]}, outside of its '
        f'graph, whose nodes are {low[edge]} to '
        f'{np.repeat(ends, n_edge)[edge] - 1}'
      )
  with np.errstate(over='ignore'):  # Named below, as what is infinite.
    nodes = nodes.astype(np.float32)
  if not np.isfinite(nodes).all():
    row = int(np.argmax(~np.isfinite(nodes).all(axis=1)))
    raise ValueError(
      f'`{name}.nodes` of node {row} are not finite float32 numbers; mend or '
      'drop the node'
    )
  return graph._replace(
    nodes=nodes,
    edges=kinds,  # pyrefly: ignore
    senders=senders,
    receivers=receivers,
    n_node=n_node,
    n_edge=n_edge,
    globals=None,
  )


def _relations(graph: Any, name: str) -> Relations | None:
  if not isinstance(graph.edges, Relations):
    return None
  ids, count = graph.edges.ids, graph.edges.count
  ids = _integers(ids, f'{name}.edges.ids')
  found = Relations(ids, count, graph.edges.ordered)
  relations.of(graph._replace(edges=found))
  if ids.size and not 0 <= ids.min() <= ids.max() < count:
    edge = int(np.argmax((ids < 0) | (ids >= count)))
    raise ValueError(
      f'`{name}.edges.ids` of edge {edge} is {ids[edge]}; the relations are 0 '
      f'to {count - 1}'
    )
  return found


def _check_kind(graph: Any, name: str) -> None:
  if not isinstance(graph, jraph.GraphsTuple):
    raise ValueError(
      f'`{name}` is a {type(graph).__name__}; give a jraph.GraphsTuple'
    )


def _check_pairs(graph: Any, name: str) -> None:
  sizes = {field: getattr(graph, field).shape[0] for field in _INDICES}
  if (
    sizes['n_node'] != sizes['n_edge'] or sizes['senders'] != sizes['receivers']
  ):
    raise ValueError(
      f'`{name}` has {sizes["n_node"]} n_node and {sizes["n_edge"]} n_edge, '
      f'{sizes["senders"]} senders and {sizes["receivers"]} receivers; each '
      'pair must be of one length'
    )


def as_array(value: Any, name: str) -> np.ndarray:
  """The value as an array of whatever type.

  Args:
    value: an array, or nested sequences.
    name: how to call it in a message.

  Raises:
    ValueError: rows that differ in length, or what numpy cannot read.
  """
  try:
    return np.asarray(value)
  except (OverflowError, TypeError, ValueError) as error:
    raise ValueError(f'`{name}` is no array of numbers: {error}') from error


def _integers(value: Any, name: str) -> np.ndarray:
  array = as_array(value, name)
  if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
    raise ValueError(
      f'`{name}` is {array.dtype} {array.shape}; give integers of one axis'
    )
  limits = np.iinfo(np.int32)
  for extreme in (array.min(initial=0), array.max(initial=0)):
    if not limits.min <= extreme <= limits.max:
      raise ValueError(
        f'`{name}` holds {extreme}, outside of the numbers of int32'
      )
  return array.astype(np.int32)
