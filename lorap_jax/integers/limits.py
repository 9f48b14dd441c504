"""What an integer program allows for, from the data that it is made for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lorap_jax.data import DataSplits, NodeDataset
from lorap_jax.integers import evaluate, lowering
from lorap_jax.integers.builder import ExportError
from lorap_jax.integers.program import Program
from lorap_jax.models import network

_MARGIN = 2  # Between the largest graph of the data and what is allowed.


@dataclasses.dataclass(frozen=True)
class Limits:
  """The largest inputs of a program.

  Attributes:
    num_features: columns of the raw features.
    largest_input: largest magnitude of a raw feature.
    max_degree: largest number of edges into a node.
    max_nodes: largest number of nodes of a graph.
    max_edges: largest number of edges of a graph.
  """

  num_features: int
  largest_input: float
  max_degree: int
  max_nodes: int
  max_edges: int

  def lower(
    self, model: network.Network, variables: Mapping[str, Any]
  ) -> Program:
    """The program of a network within these limits, see `lowering.lower`."""
    return lowering.lower(
      model,
      variables,
      num_features=self.num_features,
      largest_input=self.largest_input,
      max_degree=self.max_degree,
      max_nodes=self.max_nodes,
    )


def of_data(
  data: DataSplits | NodeDataset,
  *,
  max_degree: int | None = None,
  max_nodes: int | None = None,
) -> Limits:
  """Twice what the data has, or what is given.

  Args:
    data: all parts of it.
    max_degree: largest number of edges into a node; None for twice that of the
      data.
    max_nodes: largest number of nodes of a graph; None likewise.

  Raises:
    ExportError: a limit below the data.
  """
  parts = (data,) if isinstance(data, NodeDataset) else data[:3]
  degree, nodes, edges = 0, 0, 0
  for part in parts:
    graph = (
      evaluate.graph_of_nodes(part)
      if isinstance(part, NodeDataset)
      else evaluate.first_graphs(part, part.num_graphs)
    )
    largest = lambda ids: int(np.bincount(ids, minlength=1).max())
    degree = max(degree, largest(graph.receivers))
    nodes = max(nodes, largest(graph.graph_of))
    edges = max(edges, largest(graph.graph_of[graph.receivers]))
  limits = {}
  for name, found, given in (
    ('max_degree', degree, max_degree),
    ('max_nodes', nodes, max_nodes),
  ):
    if given is not None and given < found:
      raise ExportError(
        f'--{name}={given} is less than the {found} of the data of the run'
      )
    limits[name] = _MARGIN * found if given is None else given
  return Limits(
    num_features=int(parts[0].nodes.shape[1]),
    largest_input=max(float(np.abs(part.nodes).max()) for part in parts),
    max_edges=_MARGIN * edges,
    **limits,
  )
