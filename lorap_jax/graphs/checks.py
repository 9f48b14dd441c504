"""What a graph from outside must be, checked once, on the host."""

from typing import Any

import jraph
import numpy as np

from lorap_jax.graphs.segment import RealGraphs


def check_graph(
  graph: jraph.GraphsTuple, name: str = 'graph'
) -> jraph.GraphsTuple:
  """The graph as numpy arrays, or an error that says what it lacks.

  Args:
    graph: one graph or several, one after the other, as `jraph.batch` makes
      them. Edge features are not read.
    name: how to call it in a message.

  Returns:
    Nodes float32 [n, f], int32 indices and counts; the padding that
    `RealGraphs` declares is cut off.

  Raises:
    ValueError: no graphs, no nodes, a shape, a type or a count that does not
      fit, an index outside of its graph, or a feature that is not finite; with
      argument, value and remedy.
  """
  nodes = np.asarray(graph.nodes)
  if nodes.dtype.kind not in 'fiub' or nodes.ndim != 2 or not nodes.shape[1]:
    raise ValueError(
      f'`{name}.nodes` is {nodes.dtype} {nodes.shape}; give numbers [nodes, '
      'features], one column at least'
    )
  fields = ('senders', 'receivers', 'n_node', 'n_edge')
  given: dict[str, Any] = {
    field: _integers(getattr(graph, field), f'{name}.{field}')
    for field in fields
  }
  senders, receivers, n_node, n_edge = given.values()
  if not n_node.size or not nodes.shape[0]:
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
  if len(n_edge) != len(n_node) or len(receivers) != len(senders):
    raise ValueError(
      f'`{name}` has {len(n_node)} n_node and {len(n_edge)} n_edge, '
      f'{len(senders)} senders and {len(receivers)} receivers; each pair must '
      'be of one length'
    )
  if isinstance(graph.globals, RealGraphs):
    real = np.asarray(graph.globals.mask)
    count = int(real.sum())
    if real.shape != n_node.shape or not real[:count].all():
      raise ValueError(
        f'`{name}.globals` must be RealGraphs of {n_node.size} booleans, the '
        'padding behind the real graphs'
      )
    n_node, n_edge = n_node[:count], n_edge[:count]
    nodes = nodes[: n_node.sum()]
    senders, receivers = senders[: n_edge.sum()], receivers[: n_edge.sum()]
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
  nodes = nodes.astype(np.float32)
  if not np.isfinite(nodes).all():
    row = int(np.argmax(~np.isfinite(nodes).all(axis=1)))
    raise ValueError(f'`{name}.nodes` of node {row} are not finite')
  return graph._replace(
    nodes=nodes,
    edges=None,
    senders=senders,
    receivers=receivers,
    n_node=n_node,
    n_edge=n_edge,
    globals=None,
  )


def _integers(value: Any, name: str) -> np.ndarray:
  array = np.asarray(value)
  if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
    raise ValueError(
      f'`{name}` is {array.dtype} {array.shape}; give integers of one axis'
    )
  return array.astype(np.int64).astype(np.int32)
