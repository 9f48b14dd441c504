"""Graphs: padded batches, aggregation over neighbours, pooling."""

from lorap_jax.graphs.aggregate import (
  aggregate,
  aggregate_weighted,
  edge_aggregate,
)
from lorap_jax.graphs.attention import receiver_softmax, segment_softmax
from lorap_jax.graphs.batching import (
  Batch,
  Budget,
  batch_graphs,
  choose_budget,
  plan_batches,
)
from lorap_jax.graphs.checks import (
  check_graph,
  check_layer_input,
  check_shapes,
)
from lorap_jax.graphs.layout import Csr, Layout, Table, make_layout
from lorap_jax.graphs.neighborhood import (
  Neighborhood,
  Sampled,
  at_receivers,
)
from lorap_jax.graphs.normalize import (
  Existing,
  add_self_loops,
  gcn_aggregate,
  gcn_degree,
  gcn_edge_weights,
  gcn_scale,
  num_loops,
  self_loop_weights,
)
from lorap_jax.graphs.relations import (
  Relations,
  mean_by_relation,
  mean_of_edges,
)
from lorap_jax.graphs.segment import (
  edge_mask,
  edge_order,
  graph_mask,
  in_degree,
  max_pool,
  mean_pool,
  node_graph_idx,
  node_mask,
  sum_pool,
)
from lorap_jax.graphs.shards import RealGraphs
from lorap_jax.graphs.sparse import (
  Features,
  SparseRows,
  in_both_forms,
  sparse_rows,
)

__all__ = [
  'Batch',
  'Budget',
  'Csr',
  'Existing',
  'Features',
  'Layout',
  'Neighborhood',
  'RealGraphs',
  'Relations',
  'Sampled',
  'SparseRows',
  'Table',
  'add_self_loops',
  'aggregate',
  'aggregate_weighted',
  'at_receivers',
  'batch_graphs',
  'check_graph',
  'check_layer_input',
  'check_shapes',
  'choose_budget',
  'edge_aggregate',
  'edge_mask',
  'edge_order',
  'gcn_aggregate',
  'gcn_degree',
  'gcn_edge_weights',
  'gcn_scale',
  'graph_mask',
  'in_both_forms',
  'in_degree',
  'make_layout',
  'max_pool',
  'mean_by_relation',
  'mean_of_edges',
  'mean_pool',
  'node_graph_idx',
  'node_mask',
  'num_loops',
  'plan_batches',
  'receiver_softmax',
  'segment_softmax',
  'self_loop_weights',
  'sparse_rows',
  'sum_pool',
]
