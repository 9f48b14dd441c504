"""Quantization methods, each in one room: its modules and its scheme.

A scheme says which quantizer acts at each point that a layer names, see
`scheme`. Quantizers are called as `module(x, rows=rows)`, return
`quantized.Quantized` and declare their parameter groups, see `nn.groups`.
"""

from lorap_jax.nn.methods.a2q import (
  A2QGraph,
  A2QNode,
  ChannelQuantizer,
  ColumnQuantizer,
  GroupedQuantizer,
  NodeQuantizer,
)
from lorap_jax.nn.methods.degree_quant import DegreeQuant
from lorap_jax.nn.methods.fp32 import FP32, Identity
from lorap_jax.nn.methods.mixq import (
  POINTS as MIXQ_POINTS,
)
from lorap_jax.nn.methods.mixq import (
  FixedQuantizer,
  MixQ,
  MixQSearch,
  RelaxedQuantizer,
)
from lorap_jax.nn.methods.qat import QAT, AffineQuantizer
from lorap_jax.nn.methods.scheme import (
  HIDDEN_OPERANDS,
  OPERANDS,
  PARAMETERS,
  Forms,
  Point,
  Protection,
  Scheme,
  name_of,
  quantize,
  run_quantizer,
)

__all__ = [
  'A2QGraph',
  'A2QNode',
  'AffineQuantizer',
  'ChannelQuantizer',
  'ColumnQuantizer',
  'DegreeQuant',
  'FP32',
  'FixedQuantizer',
  'Forms',
  'GroupedQuantizer',
  'HIDDEN_OPERANDS',
  'Identity',
  'MIXQ_POINTS',
  'MixQ',
  'MixQSearch',
  'NodeQuantizer',
  'OPERANDS',
  'PARAMETERS',
  'Point',
  'Protection',
  'QAT',
  'RelaxedQuantizer',
  'Scheme',
  'name_of',
  'quantize',
  'run_quantizer',
]
