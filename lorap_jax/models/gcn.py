"""GCN."""

import dataclasses
from typing import Literal

import flax.linen as nn

from lorap_jax.nn import conv, methods, prompts


@dataclasses.dataclass(frozen=True)
class GCN:
  """Graph convolutional network.

  Attributes:
    self_loops: add self loops.
    self_loop_weight: their weight; MixQ's code asks for 2.
    existing_loops: `remaining` for nodes that have none, `keep` for all.
  """

  self_loops: bool = True
  self_loop_weight: float = 1.0
  existing_loops: Literal['remaining', 'keep'] = 'remaining'

  @property
  def activates(self) -> bool:
    """False."""
    return False

  @property
  def sums_first(self) -> bool:
    """False."""
    return False

  def layer(
    self,
    *,
    index: int,
    last: bool,
    features: int,
    scheme: methods.Scheme,
    prompt: prompts.PromptSpec,
    non_negative: bool,
  ) -> nn.Module:
    """See Backbone."""
    del last
    return conv.GCNConv(
      features,
      scheme,
      prompt,
      self_loops=self.self_loops,
      self_loop_weight=self.self_loop_weight,
      existing_loops=self.existing_loops,
      non_negative=non_negative,
      name=f'conv_{index}',
    )
