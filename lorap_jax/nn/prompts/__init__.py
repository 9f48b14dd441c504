"""Prompt adapters: what is added to node features and to aggregates."""

from lorap_jax.nn.prompts.aggregates import (
  AdapterPrompt,
  BiasPrompt,
  LoRAPPrompt,
)
from lorap_jax.nn.prompts.nodes import GPFPlusPrompt, GPFPrompt
from lorap_jax.nn.prompts.placement import LOCAL_LOSS, prompted
from lorap_jax.nn.prompts.spec import PLACEMENTS, PROMPTS, Placement, PromptSpec

__all__ = [
  'AdapterPrompt',
  'BiasPrompt',
  'GPFPlusPrompt',
  'GPFPrompt',
  'LOCAL_LOSS',
  'LoRAPPrompt',
  'PLACEMENTS',
  'PROMPTS',
  'Placement',
  'PromptSpec',
  'prompted',
]
