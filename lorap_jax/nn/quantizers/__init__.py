"""Quantizer modules: where the variables of the pure quantizers live.

All are called as `module(x, rows=rows)`, return `telemetry.Quantized` and
declare their parameter groups, see `nn.groups`.
"""

from lorap_jax.nn.quantizers.a2q import (
  ChannelQuantizer,
  ColumnQuantizer,
  GroupedQuantizer,
  NodeQuantizer,
)
from lorap_jax.nn.quantizers.affine import AffineQuantizer
from lorap_jax.nn.quantizers.identity import Identity
from lorap_jax.nn.quantizers.mixq import FixedQuantizer, RelaxedQuantizer

__all__ = [
  'AffineQuantizer',
  'ChannelQuantizer',
  'ColumnQuantizer',
  'FixedQuantizer',
  'GroupedQuantizer',
  'Identity',
  'NodeQuantizer',
  'RelaxedQuantizer',
]
