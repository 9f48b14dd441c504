"""Graph convolutional layer."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.graphs import neighborhood, shards
from lorap_jax.nn import linear, methods, telemetry
from lorap_jax.nn import prompts as prompt_lib
from lorap_jax.nn.quantized import Quantized, Rows, real_rows, receiver_rows


class Norm(NamedTuple):
  """The normalisation d (A + C) d of one graph.

  Attributes:
    scale: d [n, 1].
    loop: the diagonal C [n, 1].
  """

  scale: Array
  loop: Array


class GCNConv(nn.Module):
  """Graph convolution: the symmetrically normalised sum of projected features.

      m_i = Q_message(Q_output(Q_input(x_i) Q_weight(W)))
      s_i = sum over senders j, and i itself, of d_i d_j m_j
      y_i = Q_update(Q_neighbor_sum(s_i) + b),  d_i = degree_i^(-1/2)

  with the LoRAP prompt around Q_neighbor_sum as `placement` says. A scheme that
  has no quantizer at this point (A2Q) leaves s in full precision, and the next
  layer's `input` quantizes what the prompt made of it; the placements are then
  the same.

  Three ways to sum, by what the scheme quantizes. None of the norm: s = d A(d
  m), without edge weights. `norm`: one weight Q_norm(d_i d_j) per edge and self
  loop. `edge_messages`: Q_message acts on each weighted message, [e, f] numbers
  per layer, as published for Degree-Quant. The scheme's `forms` say where an
  edge counts for the degree, and whether b is part of the messages.

  Attributes:
    features: width of the output.
    scheme: the quantization framework.
    prompt: the prompts of the model; only the aggregate hook is used here.
    self_loops: add self loops.
    self_loop_weight: weight of the added loops.
    existing_loops: `remaining` or `keep`, see `graphs.normalize`.
    non_negative: x has no negative values.

  References:
    Kipf, Welling: Semi-Supervised Classification with Graph Convolutional
    Networks, ICLR 2017, arXiv 1609.02907, equation 2.
  """

  features: int
  scheme: methods.Scheme
  prompt: prompt_lib.PromptSpec = prompt_lib.PromptSpec()
  self_loops: bool = True
  self_loop_weight: float = 1.0
  existing_loops: graphs.Existing = 'remaining'
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
      layout: memory layout of the edges; None for segment_sum.

    Returns:
      [n, features]; of a sampled graph [m, features].

    Raises:
      ValueError: shapes or types that make no graph.
    """
    raw = x.values if isinstance(x, Quantized) else x
    graphs.check_layer_input(raw, graph, rows.mask)
    summed = receiver_rows(rows, graph)
    point = lambda name, t: methods.quantize(self.scheme, name, t, rows=summed)
    dense = linear.QuantDense(
      self.features,
      self.scheme.in_convolution(),
      non_negative=self.non_negative,
      use_bias=False,
      glorot=True,
      name='dense',
    )
    h = dense(x, rows=rows)
    bias: Any = self.param('bias', nn.initializers.zeros, (self.features,))[
      None
    ]
    if self.scheme.forms.bias_in_messages:
      h, bias = h + bias, 0
    norm = self._norm(graph, real_rows(h, rows))
    s = prompt_lib.prompted(
      self.prompt,
      lambda t: point('neighbor_sum', t),
      self._sum(h, norm, graph, rows, layout),
      rows=summed,
      exact=lambda: graphs.gcn_aggregate(h, graph, *norm, layout),
    )
    return point('update', s.values + bias).values

  def _norm(self, graph: jraph.GraphsTuple, mask: Array) -> Norm:
    loops: dict[str, Any] = {
      'self_loops': self.self_loops,
      'self_loop_weight': self.self_loop_weight,
      'existing': self.existing_loops,
    }
    return Norm(
      graphs.gcn_scale(
        graph, mask, degree_of=self.scheme.forms.degree_of, **loops
      ),
      graphs.self_loop_weights(graph, mask, **loops),
    )

  def _sum(
    self,
    h: Array,
    norm: Norm,
    graph: jraph.GraphsTuple,
    rows: Rows,
    layout: graphs.Layout | None,
  ) -> Array:
    if self.scheme.edge_messages:
      return self._sum_of_edges(h, norm, graph, rows)
    message = methods.quantize(self.scheme, 'message', h, rows=rows)
    telemetry.record_sum(self, message, graph, rows)
    if not self.scheme.edge_weights:
      return graphs.gcn_aggregate(
        message.values, graph, *norm, layout, grid=message.grid
      )
    edge, loop = self._weights(norm, graph, rows)
    factor = neighborhood.edge_factor(graph)
    weights = edge[:, 0] if factor is None else factor * edge[:, 0]
    total = graphs.aggregate_weighted(
      message.values, weights, graph, layout, grid=message.grid
    )
    return total + loop * graphs.at_receivers(message.values, graph)

  def _weights(self, norm, graph, rows: Rows) -> tuple[Array, Array]:
    """Weights [e, 1] of the edges and [m, 1] of the self loops, quantized."""
    edge = graphs.gcn_edge_weights(graph, norm.scale)[:, None]
    loop = graphs.at_receivers(norm.loop * norm.scale**2, graph)
    if self.scheme.edge_weights:
      summands = _summands(norm, graph, rows)._replace(protected=None)
      both = methods.quantize(
        self.scheme,
        'norm',
        jnp.concatenate([edge, loop]),
        rows=summands,
        non_negative=True,
      ).values
      edge, loop = both[: len(edge)], both[len(edge) :]
    return edge, loop

  def _sum_of_edges(self, h, norm, graph, rows: Rows) -> Array:
    edge, loop = self._weights(norm, graph, rows)
    quantized = methods.quantize(
      self.scheme,
      'message',
      jnp.concatenate(
        [edge * h[graph.senders], loop * graphs.at_receivers(h, graph)]
      ),
      rows=_summands(norm, graph, rows),
    )
    values = quantized.values
    total = graphs.edge_aggregate(values[: len(edge)], graph)
    telemetry.record_sum(self, Quantized(h, quantized.bits), graph, rows)
    return total + values[len(edge) :]


def _summands(norm: Norm, graph: jraph.GraphsTuple, rows: Rows) -> Rows:
  """Rows of the edges and of the self loops that are there [e + m, 1]."""
  real, summed = real_rows(norm.scale, rows), receiver_rows(rows, graph)
  loops = graphs.at_receivers(norm.loop != 0, graph)
  looped = real_rows(loops, summed) & loops
  mask = jnp.concatenate([real[graph.senders], looped])
  protected = rows.protected
  if protected is not None:
    of_loops: Any = summed.protected
    protected = jnp.concatenate([protected[graph.senders], of_loops])
  order = shards.joined_order(graphs.edge_order(graph), rows.order)
  return Rows(mask, rows.train, protected, order)
