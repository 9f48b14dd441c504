"""Graph convolutions: they name quantization points and prompt hooks."""

from lorap_jax.nn.conv.gat import GATConv
from lorap_jax.nn.conv.gcn import GCNConv
from lorap_jax.nn.conv.gin import GINConv
from lorap_jax.nn.conv.rgcn import RGCNConv

__all__ = ['GATConv', 'GCNConv', 'GINConv', 'RGCNConv']
