"""GIN."""

import dataclasses
from typing import Literal

import flax.linen as nn

from lorap_jax.nn import conv, methods, prompts


@dataclasses.dataclass(frozen=True)
class GIN:
  """Graph isomorphism network.

  Attributes:
    num_dense: Dense layers of each MLP.
    mlp_norm: batch norm after `each` of them, after the `last`, or `none`.
    own_term: False leaves the node's own (1 + eps) x out, as MixQ's code does.
    full_precision_first: the very first Dense layer of a network without
      encoder is not quantized, as the published Degree-Quant code has it where
      one column enters.
  """

  num_dense: int = 2
  mlp_norm: Literal['each', 'last', 'none'] = 'each'
  own_term: bool = True
  full_precision_first: bool = False

  @property
  def activates(self) -> bool:
    """True."""
    return True

  @property
  def sums_first(self) -> bool:
    """True."""
    return True

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
    del non_negative  # Its operand is a sum with prompts.
    return conv.GINConv(
      features,
      scheme,
      prompt,
      num_dense=self.num_dense,
      norm=self.mlp_norm,
      last=last,
      own_term=self.own_term,
      full_precision_dense=self.full_precision_first and index == 0,
      name=f'conv_{index}',
    )
