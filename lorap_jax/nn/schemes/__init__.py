"""Quantization frameworks, as layers see them."""

from lorap_jax.nn.schemes.a2q import A2QGraph, A2QNode
from lorap_jax.nn.schemes.base import (
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
from lorap_jax.nn.schemes.fp32 import FP32
from lorap_jax.nn.schemes.mixq import POINTS as MIXQ_POINTS
from lorap_jax.nn.schemes.mixq import MixQ, MixQSearch
from lorap_jax.nn.schemes.qat import QAT, DegreeQuant

__all__ = [
  'A2QGraph',
  'A2QNode',
  'DegreeQuant',
  'FP32',
  'Forms',
  'HIDDEN_OPERANDS',
  'MIXQ_POINTS',
  'MixQ',
  'MixQSearch',
  'OPERANDS',
  'PARAMETERS',
  'Point',
  'Protection',
  'QAT',
  'Scheme',
  'name_of',
  'quantize',
  'run_quantizer',
]
