"""GAT."""

import dataclasses

import flax.linen as nn

from lorap_jax.nn import conv, methods, prompts


@dataclasses.dataclass(frozen=True)
class GAT:
  """Graph attention network.

  Attributes:
    heads: of all layers but a node task's last; they divide the hidden width.
    last_heads: of that one, averaged.
    self_loops: nodes without a self loop get one.
    attention_dropout: rate on the attention coefficients.
    negative_slope: of the LeakyReLU on the logits.
  """

  heads: int = 8
  last_heads: int = 1
  self_loops: bool = True
  attention_dropout: float = 0.0
  negative_slope: float = 0.2

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
    return conv.GATConv(
      features,
      scheme,
      prompt,
      heads=self.last_heads if last else self.heads,
      concat=not last,
      self_loops=self.self_loops,
      attention_dropout=self.attention_dropout,
      negative_slope=self.negative_slope,
      non_negative=non_negative,
      name=f'conv_{index}',
    )
