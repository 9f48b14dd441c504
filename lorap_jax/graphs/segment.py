"""Masks, degrees and pooling of jraph batches, padded or not.

A batch says itself which of its graphs are padding: its `globals` are
`RealGraphs`. Any other graph has none. Our batches are padded as by
`jraph.pad_with_graphs`: the first padding graph owns all padding nodes and
edges, further padding graphs are empty.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jraph

from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.graphs import neighborhood, partition, shards
from lorap_jax.graphs.aggregate import gather_sum
from lorap_jax.graphs.layout import Csr, Table
from lorap_jax.graphs.shards import RealGraphs


def node_mask(graph: jraph.GraphsTuple) -> Bool[Array, 'n']:
  """True for real nodes: all, unless `globals` is `RealGraphs`."""
  nodes: Any = graph.nodes
  return _of_real_graphs(graph, graph.n_node, nodes.shape[0])


def edge_mask(graph: jraph.GraphsTuple) -> Bool[Array, 'e']:
  """True for real edges: all, unless `globals` is `RealGraphs`."""
  senders: Any = graph.senders
  return _of_real_graphs(graph, graph.n_edge, senders.shape[0])


def edge_order(graph: jraph.GraphsTuple) -> Int[Array, 'e'] | None:
  """`shards.order` of the edges; None of one shard."""
  count = shards.count(graph)
  return None if count == 1 else shards.order(edge_mask(graph), count)


def graph_mask(graph: jraph.GraphsTuple) -> Bool[Array, 'g']:
  """True for real graphs: all, unless `globals` is `RealGraphs`."""
  if isinstance(graph.globals, RealGraphs):
    return jnp.asarray(graph.globals.mask).reshape(-1)
  return jnp.ones(graph.n_node.shape[0], bool)


def _of_real_graphs(
  graph: jraph.GraphsTuple, counts: Any, size: int
) -> Bool[Array, '_']:
  """True for what belongs to real graphs, `counts` in each."""
  if not isinstance(graph.globals, RealGraphs):
    return jnp.ones(size, bool)
  return jnp.repeat(graph_mask(graph), counts, total_repeat_length=size)


def node_graph_idx(graph: jraph.GraphsTuple, num_nodes: int) -> Int[Array, 'n']:
  """The graph that each node belongs to.

  Args:
    graph: a padded batch.
    num_nodes: n, padding included (static).

  Returns:
    int32 [n].
  """
  if partition.of(graph) is not None:  # One graph, and padding.
    return jnp.where(node_mask(graph), 0, 1)
  return _owner(graph.n_node, num_nodes)


def _owner(n_node: Any, num_nodes: int) -> Array:
  return jnp.repeat(
    jnp.arange(n_node.shape[0], dtype=jnp.int32),
    n_node,
    total_repeat_length=num_nodes,
  )


def in_degree(graph: jraph.GraphsTuple, num_nodes: int) -> Int[Array, 'n']:
  """Edges that each node receives; padding edges count at padding nodes.

  Args:
    graph: a padded batch; of a sampled one, the edges of the whole graph.
    num_nodes: n, padding included (static).

  Returns:
    int32 [n].
  """
  there = neighborhood.of(graph)
  if there is not None:
    return jnp.asarray(there.in_degree)
  receivers: Any = graph.receivers
  ones = jnp.ones(receivers.shape, jnp.int32)
  return jax.ops.segment_sum(ones, receivers, num_nodes)


def sum_pool(
  x: Float[Array, 'n f'], graph: jraph.GraphsTuple
) -> Float[Array, 'g f']:
  """Sum over the nodes of each graph, in float32.

  The sum runs over contiguous rows, as a CSR product whose transpose is a
  gather.

  Args:
    x: node features [n, f].
    graph: a batch; padding nodes enter the padding graph only.

  Returns:
    [g, f]; 0 for graphs without nodes.
  """
  return shards.in_each(_sum_pool, shards.count(graph), x, graph.n_node)


def _sum_pool(x: Array, n_node: Any) -> Array:
  num_nodes = x.shape[0]
  ends = jnp.cumsum(n_node, dtype=jnp.int32)
  indptr = jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
  nodes = Csr(indptr, jnp.arange(num_nodes, dtype=jnp.int32))
  owner = Table(_owner(n_node, num_nodes)[:, None])
  if jax.default_backend() == 'cpu':
    return gather_sum(x, nodes, owner)
  return jax.ops.segment_sum(
    x, owner.indices[:, 0], n_node.shape[0], indices_are_sorted=True
  )


def mean_pool(
  x: Float[Array, 'n f'], graph: jraph.GraphsTuple
) -> Float[Array, 'g f']:
  """Mean over the nodes of each graph, in float32.

  z_g = 1/max(n_g, 1) sum over the nodes i of graph g of x_i.

  Args:
    x: node features [n, f].
    graph: a batch; padding nodes enter the padding graph only.

  Returns:
    [g, f]; 0 for graphs without nodes.
  """
  size = jnp.maximum(graph.n_node, 1)[:, None].astype(x.dtype)
  return sum_pool(x, graph) / size


def max_pool(
  x: Float[Array, 'n f'], graph: jraph.GraphsTuple
) -> Float[Array, 'g f']:
  """Maximum over the nodes of each graph, column by column.

  Args:
    x: node features [n, f].
    graph: a batch; padding nodes enter the padding graph only.

  Returns:
    [g, f]; 0 for graphs without nodes.

  Gradient:
    dz_g to the node of the maximum; k nodes that share it get dz_g / k each.
    Ties are common among quantized features.
  """
  return shards.in_each(_max_pool, shards.count(graph), x, graph.n_node)


def _max_pool(x: Array, n_node: Any) -> Array:
  owner, num_graphs = _owner(n_node, x.shape[0]), n_node.shape[0]
  top = jax.ops.segment_max(x, owner, num_graphs, indices_are_sorted=True)
  return jnp.where(n_node[:, None] > 0, top, 0)
