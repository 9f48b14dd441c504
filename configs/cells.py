"""Cells of the matrix, see `lorap_jax.runs.cells`."""

from lorap_jax.runs.cells import (
  BACKBONES,
  PROMPTS,
  QUANTIZERS,
  apply,
  check_choice,
  names,
  parse,
  parse_variant,
)

__all__ = [
  'BACKBONES',
  'PROMPTS',
  'QUANTIZERS',
  'apply',
  'check_choice',
  'names',
  'parse',
  'parse_variant',
]
