"""A2Q: learned scales and bit-widths, of nodes or of groups of nodes."""

from lorap_jax.nn.methods.a2q.quantizers import (
  ChannelQuantizer,
  ColumnQuantizer,
  GroupedQuantizer,
  NodeQuantizer,
)
from lorap_jax.nn.methods.a2q.schemes import A2QGraph, A2QNode

__all__ = [
  'A2QGraph',
  'A2QNode',
  'ChannelQuantizer',
  'ColumnQuantizer',
  'GroupedQuantizer',
  'NodeQuantizer',
]
