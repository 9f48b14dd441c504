"""Relational graph convolutional layer."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.nn import linear, methods, telemetry
from lorap_jax.nn import prompts as prompt_lib
from lorap_jax.nn.quantized import Quantized, Rows, real_rows, receiver_rows


class RGCNConv(nn.Module):
  """Relational graph convolution: a matrix for each relation and the node.

      m_i = Q_message(x_i)
      a_ir = 1 / c_ir sum over senders j of relation r of m_j
      s_i = [m_i, Q_neighbor_sum([a_i1, ..., a_iR])]             [(1 + R) f]
      y_i = Q_update(Q_output(Q_aggregate(s_i) Q_weight(W) + b))

  with c_ir the edges of relation r that i receives, W the matrices W_0, W_1,
  ..., W_R one below the other, and the LoRAP prompt around Q_aggregate as
  `placement` says. With b = 0 and no quantizer this is W_0 x_i + sum_r 1 / c_ir
  sum_j W_r x_j.

  Means come before products. There are f additions for each edge, not one for
  each output column, which is less in all layers but a last one of few classes;
  the products are of the nodes that receive, which for sampled neighbourhoods
  are far fewer than those that send; and no [n, R, o] array of messages is
  kept. A mean stays inside of the range of what it is of, so that the node's
  own term and all relations share the one quantizer of a product's operand. As
  in GIN the own term is the quantized m_i.

  The relations of the edges are `graph.edges`, a `graphs.Relations`; without,
  all edges are of one. W starts Glorot uniform as one matrix, b at zero. With a
  scheme's `edge_messages` Q_message acts on the messages of the edges, [e, f]
  numbers per layer, and the own term is the unquantized x_i.

  Attributes:
    features: width of the output.
    scheme: the quantization framework.
    prompt: the prompts of the model; only the aggregate hook is used here.

  References:
    Schlichtkrull et al.: Modeling Relational Data with Graph Convolutional
    Networks, ESWC 2018, arXiv 1703.06103, equation 2. Neither decomposition of
    the matrices (equations 3 and 4) is here.
  """

  features: int
  scheme: methods.Scheme
  prompt: prompt_lib.PromptSpec = prompt_lib.PromptSpec()

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
      x: node features [n, f]; quantized ones are sent as they are.
      graph: batch whose edges are used, and their relations.
      rows: real and protected nodes, and whether this is training.
      layout: memory layout of the edges, with weights; None for segment_sum.

    Returns:
      [n, features]; of a sampled graph [m, features].

    Raises:
      ValueError: shapes or types that make no graph, or `edges` that are no
        relations.
    """
    raw = x.values if isinstance(x, Quantized) else x
    graphs.check_layer_input(raw, graph, rows.mask)
    summed = receiver_rows(rows, graph)
    point = lambda name, t: methods.quantize(self.scheme, name, t, rows=summed)
    flat = lambda t: t.reshape(t.shape[0], -1)
    beside = lambda node, means: jnp.concatenate(
      [graphs.at_receivers(node, graph), means], axis=1
    )
    mean = lambda t: flat(graphs.mean_by_relation(t, graph, layout))
    if self.scheme.edge_messages:
      means, node = flat(self._mean_of_edges(raw, graph, rows)), raw
    else:
      message = methods.quantize(self.scheme, 'message', x, rows=rows)
      telemetry.record_sum(self, message, graph, rows)
      node = message.values
      means = mean(node)
    h = prompt_lib.prompted(
      self.prompt,
      lambda t: point('aggregate', t),
      beside(node, point('neighbor_sum', means).values),
      rows=summed,
      exact=lambda: beside(raw, mean(raw)),
    )
    dense = linear.QuantDense(
      self.features, self.scheme.in_convolution(), glorot=True, name='dense'
    )
    return point('update', dense(h, rows=summed)).values

  def _mean_of_edges(self, x: Array, graph: Any, rows: Rows) -> Array:
    kept = real_rows(x, rows)[graph.senders]
    protected = rows.protected
    if protected is not None:
      protected = protected[graph.senders]
    quantized = methods.quantize(
      self.scheme,
      'message',
      x[graph.senders],
      rows=Rows(kept, rows.train, protected, graphs.edge_order(graph)),
    )
    telemetry.record_sum(self, Quantized(x, quantized.bits), graph, rows)
    return graphs.mean_of_edges(jnp.where(kept, quantized.values, 0), graph)
