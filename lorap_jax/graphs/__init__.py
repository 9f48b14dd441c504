"""Graphs: padded batches, aggregation over neighbours, pooling."""

from lorap_jax.graphs.aggregate import (
  Csr,
  Layout,
  Table,
  aggregate,
  make_layout,
)
from lorap_jax.graphs.batching import (
  Batch,
  Budget,
  batch_graphs,
  choose_budget,
  plan_batches,
)
from lorap_jax.graphs.segment import (
  graph_mask,
  in_degree,
  mean_pool,
  node_graph_idx,
  node_mask,
)

__all__ = [
  'Batch',
  'Budget',
  'Csr',
  'Layout',
  'Table',
  'aggregate',
  'batch_graphs',
  'choose_budget',
  'graph_mask',
  'in_degree',
  'make_layout',
  'mean_pool',
  'node_graph_idx',
  'node_mask',
  'plan_batches',
]
