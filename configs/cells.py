"""Cells of the matrix, see `lorap_jax.training.cells`."""

from lorap_jax.training.cells import (
  BACKBONES,
  PROMPTS,
  QUANTIZERS,
  apply,
  check_choice,
  parse,
  parse_variant,
)

__all__ = [
  'BACKBONES',
  'PROMPTS',
  'QUANTIZERS',
  'apply',
  'check_choice',
  'parse',
  'parse_variant',
]
