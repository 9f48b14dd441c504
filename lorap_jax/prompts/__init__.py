"""Graph prompts as pure functions."""

from lorap_jax.prompts.controls import (
  AdapterParams,
  matched_width,
  relu_adapter,
)
from lorap_jax.prompts.gpf import add_gpf, add_gpf_plus
from lorap_jax.prompts.lorap import (
  LoRAPParams,
  init_lorap,
  lorap_prompt,
  num_lorap_params,
  quantize_prompt,
)

__all__ = [
  'AdapterParams',
  'LoRAPParams',
  'add_gpf',
  'add_gpf_plus',
  'init_lorap',
  'lorap_prompt',
  'matched_width',
  'num_lorap_params',
  'quantize_prompt',
  'relu_adapter',
]
