"""GCN, GIN, GAT and RGCN: which layers a network is made of."""

import dataclasses
from typing import Literal

import flax.linen as nn

from lorap_jax.nn import conv, methods, prompts


@dataclasses.dataclass(frozen=True)
class GCN:
  """Graph convolutional network.

  Attributes:
    self_loops: add self loops.
    existing_loops: `remaining` counts self loops of the graph once, `keep` adds
      to them; see `graphs.normalize`.
  """

  self_loops: bool = True
  existing_loops: Literal['remaining', 'keep'] = 'remaining'
  activates = False
  sums_first = False

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
    """A `GCNConv`; the last layer is like the others."""
    del last
    return conv.GCNConv(
      features,
      scheme,
      prompt,
      self_loops=self.self_loops,
      existing_loops=self.existing_loops,
      non_negative=non_negative,
      name=f'conv_{index}',
    )


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
  activates = True
  sums_first = True

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
    """A `GINConv`; the last layer has no last activation."""
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


@dataclasses.dataclass(frozen=True)
class GAT:
  """Graph attention network.

  Attributes:
    heads: attention heads of every layer but a node task's last; they divide
      the hidden width.
    last_heads: attention heads of that last layer, which averages them.
    self_loops: nodes without a self loop get one.
    attention_dropout: rate on the attention coefficients.
  """

  heads: int = 8
  last_heads: int = 1
  self_loops: bool = True
  attention_dropout: float = 0.0
  activates = False
  sums_first = False

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
    """A `GATConv`; the last layer averages its heads."""
    return conv.GATConv(
      features,
      scheme,
      prompt,
      heads=self.last_heads if last else self.heads,
      concat=not last,
      self_loops=self.self_loops,
      attention_dropout=self.attention_dropout,
      non_negative=non_negative,
      name=f'conv_{index}',
    )


@dataclasses.dataclass(frozen=True)
class RGCN:
  """Relational graph convolutional network, see `graphs.Relations`."""

  activates = False
  sums_first = True
  relational = True  # Others see one kind of edge.

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
    """An `RGCNConv`; the last layer is like the others."""
    del last, non_negative  # Its operand is a mean with prompts.
    return conv.RGCNConv(features, scheme, prompt, name=f'conv_{index}')
