"""An integer program on a data set, as JAX runs it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.data import GraphDataset, NodeDataset, pipeline
from lorap_jax.integers.program import Graph, Program, execute


def outputs(
  program: Program,
  data: GraphDataset | NodeDataset,
  *,
  batch_size: int = 128,
) -> np.ndarray:
  """The whole numbers that a program returns, in the order of the data.

  Many graphs go through in padded batches of one shape.

  Args:
    program: of a network of this data.
    data: many graphs, or one whose nodes have labels.
    batch_size: graphs per batch.

  Returns:
    int32 [g, outputs] of the graphs, or [n, outputs] of the nodes.
  """
  step = jax.jit(
    lambda nodes, senders, receivers, graph_of, num_graphs: execute(
      program,
      Graph(nodes, senders, receivers, graph_of, num_graphs),
      xp=jnp,
    ),
    static_argnums=4,
  )
  if isinstance(data, NodeDataset):
    return np.asarray(step(*graph_of_nodes(data)))
  loader = pipeline.Loader(
    data,
    pipeline.joint_budget((data,), batch_size=batch_size),
    layout=False,
  )
  found = []
  for indices in loader.ordered():
    graph: Any = loader.batch(indices).graph
    n_node = np.asarray(graph.n_node)
    graph_of = np.repeat(np.arange(len(n_node), dtype=np.int32), n_node)
    codes = step(
      graph.nodes, graph.senders, graph.receivers, graph_of, len(n_node)
    )
    found.append(np.asarray(codes)[: len(indices)])
  return np.concatenate(found)


def graph_of_nodes(data: NodeDataset) -> Graph:
  """The one graph of a data set."""
  return Graph(
    np.asarray(data.nodes, np.float32),
    np.asarray(data.senders, np.int32),
    np.asarray(data.receivers, np.int32),
    np.zeros(data.num_nodes, np.int32),
    1,
  )


def first_graphs(data: GraphDataset, count: int) -> Graph:
  """The first graphs of a data set, one behind the other."""
  n_node, n_edge = data.n_node[:count], data.n_edge[:count]
  starts = np.cumsum(n_node) - n_node
  shift = np.repeat(starts, n_edge).astype(np.int32)
  nodes, edges = int(n_node.sum()), int(n_edge.sum())
  return Graph(
    np.asarray(data.nodes[:nodes], np.float32),
    (data.senders[:edges] + shift).astype(np.int32),
    (data.receivers[:edges] + shift).astype(np.int32),
    np.repeat(np.arange(len(n_node), dtype=np.int32), n_node),
    len(n_node),
  )
