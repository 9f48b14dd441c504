"""Graph attention layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.graphs import neighborhood, shards
from lorap_jax.nn import linear, methods, telemetry
from lorap_jax.nn import prompts as prompt_lib
from lorap_jax.nn.quantized import Quantized, Rows, real_rows, receiver_rows
from lorap_jax.ops import glorot_uniform


class GATConv(nn.Module):
  """Graph attention with h heads.

      m_i = Q_message(Q_output(Q_input(x_i) Q_weight(W)))        [h, f]
      z_ij = Q_logits(a . m_j + b . m_i)     a, b = Q_attention, one per head
      c_ij = softmax over j of LeakyReLU(z_ij)
      s_i = sum over senders j, and i itself, of c_ij m_j
      y_i = Q_update(Q_neighbor_sum(s_i) + bias)

  with the heads concatenated, or averaged after Q_neighbor_sum, and the LoRAP
  prompt around Q_neighbor_sum as `placement` says, over all heads at once.

  Attributes:
    features: width of the output, all heads together if concatenated.
    scheme: the quantization framework.
    prompt: the prompts of the model; only the aggregate hook is used here.
    heads: h, number of heads.
    concat: concatenate the heads, of features / h columns each; else average
      heads of `features` columns.
    self_loops: nodes without a self loop get one.
    attention_dropout: dropout rate on the coefficients c.
    negative_slope: slope of the LeakyReLU below 0.
    non_negative: x has no negative values.

  References:
    Velickovic et al.: Graph Attention Networks, ICLR 2018, arXiv 1710.10903,
    equations 1 to 6.
  """

  features: int
  scheme: methods.Scheme
  prompt: prompt_lib.PromptSpec = prompt_lib.PromptSpec()
  heads: int = 8
  concat: bool = True
  self_loops: bool = True
  attention_dropout: float = 0.0
  negative_slope: float = 0.2
  non_negative: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'n f'] | Quantized,
    graph: jraph.GraphsTuple,
    *,
    rows: Rows,
    layout: graphs.Layout | None = None,
  ) -> Float[Array, 'm o']:
    """Applies the layer.

    Args:
      x: node features [n, f]; quantized ones are not quantized again.
      graph: batch whose edges are used.
      rows: real and protected nodes, and whether this is training.
      layout: memory layout of the edges, with weights; None for segment_sum.

    Returns:
      [n, features]; of a sampled graph [m, features].

    Raises:
      ValueError: shapes or types that make no graph, or heads that do not
        divide the features.
    """
    raw = x.values if isinstance(x, Quantized) else x
    graphs.check_layer_input(raw, graph, rows.mask)
    if self.heads < 1 or (self.concat and self.features % self.heads):
      raise ValueError(
        f'`heads` must divide `features` = {self.features}, got {self.heads}'
      )
    summed = receiver_rows(rows, graph)
    point = lambda name, t: methods.quantize(self.scheme, name, t, rows=summed)
    width = self.features // self.heads if self.concat else self.features
    dense = linear.QuantDense(
      self.heads * width,
      self.scheme.in_convolution(),
      non_negative=self.non_negative,
      use_bias=False,
      glorot=True,
      name='dense',
    )
    by_head = lambda t: t.reshape(-1, self.heads, width)
    projected = dense(x, rows=rows)
    message = methods.quantize(self.scheme, 'message', projected, rows=rows)
    edge, loop = self._coefficients(by_head(message.values), graph, rows)
    telemetry.record_sum(self, message, graph, rows)

    def attend(t: Array, grid: Any = None) -> Array:
      m = by_head(t)
      s = graphs.aggregate_weighted(m, edge, graph, layout, grid=grid)
      s += loop[:, :, None] * graphs.at_receivers(m, graph)
      return s.reshape(-1, t.shape[1])

    h = prompt_lib.prompted(
      self.prompt,
      lambda t: point('neighbor_sum', t),
      attend(message.values, message.grid),
      rows=summed,
      exact=lambda: attend(projected),
    ).values
    if not self.concat:
      h = by_head(h).mean(1)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return point('update', h + bias[None]).values

  def _coefficients(
    self, m: Array, graph: jraph.GraphsTuple, rows: Rows
  ) -> tuple[Array, Array]:
    """Attention [e, h] of the edges and [m, h] of the self loops.

    The drawn edges of a sampled graph stand for all: each counts d / k times.
    """
    _, heads, width = m.shape
    there = neighborhood.of(graph)
    summed = receiver_rows(rows, graph)
    real = real_rows(m[:, 0], rows)
    receiving = real_rows(graphs.at_receivers(m[:, 0], graph), summed)
    num_receivers = receiving.shape[0]
    vectors = self.param(
      'attention_kernel',
      glorot_uniform,
      (width, 2 * heads),
    )
    vectors = methods.quantize(
      self.scheme, 'attention', vectors, rows=Rows(train=rows.train)
    ).values
    score = jnp.einsum('nhf,fhk->nhk', m, vectors.reshape(width, heads, 2))
    sent, received = score[..., 0], score[..., 1]
    # Self loops are logits of their own: the edges stay as they are.
    senders: Any = graph.senders
    receivers: Any = graph.receivers
    num_edges = len(senders)
    if self.self_loops:
      nodes = jnp.arange(num_receivers)
      senders = jnp.concatenate([senders, nodes])
      receivers = jnp.concatenate([receivers, nodes])
    mask = real[senders] & receiving[receivers]
    if self.self_loops:
      edge_mask, loop_mask = jnp.split(mask, [num_edges])
      if there is None:
        absent = graphs.num_loops(graph, num_receivers)[:, None] == 0
      else:  # A node's own loops are no draw: they are there as they are.
        absent = jnp.ones(loop_mask.shape, bool)
        edge_mask &= (senders != receivers)[:num_edges, None]
      mask = jnp.concatenate([edge_mask, loop_mask & absent])
    loops = rows.order if self.self_loops else None
    order = shards.joined_order(graphs.edge_order(graph), loops)
    logits = methods.quantize(
      self.scheme,
      'logits',
      sent[senders] + received[receivers],
      rows=Rows(mask, rows.train, order=order),
    ).values
    logits = jax.nn.leaky_relu(logits, self.negative_slope)
    if there is not None:
      parts = [jnp.asarray(there.weight)[graph.receivers]]
      if self.self_loops:
        loops = graphs.at_receivers(jnp.asarray(there.loops), graph)
        parts.append(jnp.maximum(loops, 1).astype(jnp.float32))
      logits += jnp.log(jnp.concatenate(parts))[:, None]
    alpha = graphs.receiver_softmax(
      logits, receivers, mask[:, 0], graph, num_receivers
    )
    if self.attention_dropout:
      drop = nn.Dropout(self.attention_dropout, deterministic=not rows.train)
      if order is None:
        alpha = drop(alpha)
      else:
        alpha = drop(alpha[order])[jnp.argsort(order)]
    edge = alpha[:num_edges]
    if not self.self_loops:
      return edge, jnp.zeros((num_receivers, heads))
    return edge, alpha[num_edges:]
