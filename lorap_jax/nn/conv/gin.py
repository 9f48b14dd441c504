"""Graph isomorphism layer."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.graphs import neighborhood
from lorap_jax.nn import linear, methods, norm, telemetry
from lorap_jax.nn import prompts as prompt_lib
from lorap_jax.nn.quantized import Quantized, Rows, real_rows, receiver_rows


class GINConv(nn.Module):
  """Graph isomorphism layer with a perceptron.

      m_i = Q_message(x_i)
      t_i = Q_neighbor_sum(sum over senders j of m_j)
      s_i = (1 + eps) m_i + t_i
      y_i = Q_update(MLP(Q_aggregate(s_i)))

  with the LoRAP prompt around Q_aggregate as `placement` says. The node's own
  term is the quantized m_i, as in A2Q's code: one stored tensor serves both.
  eps is trained and starts at 0. With a scheme's `edge_messages` Q_message acts
  on the messages of the edges, [e, f] numbers per layer, and the own term is
  the unquantized x_i, as published for Degree-Quant.

  Attributes:
    features: width of the Dense layers.
    scheme: the quantization framework.
    prompt: the prompts of the model; only the aggregate hook is used here.
    num_dense: Dense layers of the MLP, each with its activation.
    norm: batch norm after `each` Dense layer, after the `last` activation, or
      `none`.
    last: leave out the last activation, for layers that give logits.
    own_term: False leaves (1 + eps) m_i out, as MixQ's code does.
    full_precision_dense: neither the first Dense layer nor s, its operand, is
      quantized, as the published code of Degree-Quant has it where one column
      enters.

  References:
    Xu, Hu, Leskovec, Jegelka: How Powerful are Graph Neural Networks?,
    ICLR 2019, arXiv 1810.00826, equation 4.1.
  """

  features: int
  scheme: methods.Scheme
  prompt: prompt_lib.PromptSpec = prompt_lib.PromptSpec()
  num_dense: int = 2
  norm: Literal['each', 'last', 'none'] = 'each'
  last: bool = False
  own_term: bool = True
  full_precision_dense: bool = False

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
    here = lambda t: graphs.at_receivers(t, graph)
    point = lambda name, t: methods.quantize(self.scheme, name, t, rows=summed)
    if self.scheme.edge_messages:
      neighbors, node = self._sum_of_edges(raw, graph, rows), raw
    else:
      message = methods.quantize(self.scheme, 'message', x, rows=rows)
      self._record_sum(message, graph, rows)
      node = message.values
      neighbors = self._sum(node, graph, layout, message.grid)
    s = point('neighbor_sum', neighbors).values
    own: Any = 0
    if self.own_term:
      own = 1 + self.param('eps', nn.initializers.zeros, ())
      s = own * here(node) + s
    mlp_rows = summed
    if not self.scheme.forms.protects_mlp:
      mlp_rows = summed._replace(protected=None)
    h = prompt_lib.prompted(
      self.prompt,
      lambda t: methods.quantize(
        self._scheme_of(0), 'aggregate', t, rows=mlp_rows
      ),
      s,
      rows=summed,
      exact=lambda: own * here(raw) + self._sum(raw, graph, layout),
    )
    return point('update', self._mlp(h, mlp_rows)).values

  def _sum(self, x: Array, graph: Any, layout: Any, grid: Any = None) -> Array:
    total = graphs.aggregate(x, graph, layout, grid=grid)
    if self.scheme.forms.drops_self_loops:
      loops = graphs.num_loops(graph, x.shape[0])[:, None] * x
      total -= neighborhood.whole_sum(graphs.at_receivers(loops, graph), graph)
    return total

  def _sum_of_edges(self, x: Array, graph: Any, rows: Rows) -> Array:
    real = real_rows(x, rows)
    kept = real[graph.senders]
    if self.scheme.forms.drops_self_loops:
      kept &= (graph.senders != graph.receivers)[:, None]
    protected = rows.protected
    if protected is not None:
      protected = protected[graph.senders]
    quantized = methods.quantize(
      self.scheme,
      'message',
      x[graph.senders],
      rows=Rows(kept, rows.train, protected, graphs.edge_order(graph)),
    )
    self._record_sum(Quantized(x, quantized.bits), graph, rows)
    return graphs.edge_aggregate(jnp.where(kept, quantized.values, 0), graph)

  def _record_sum(self, message: Quantized, graph: Any, rows: Rows) -> None:
    loops = not self.scheme.forms.drops_self_loops
    telemetry.record_sum(self, message, graph, rows, loops=loops)

  def _mlp(self, h: Any, rows: Rows) -> Array:
    unbiased = self.scheme.forms.unbiased_variance
    for i in range(self.num_dense):
      h = linear.QuantDense(
        self.features,
        self._scheme_of(i).in_convolution(),
        non_negative=i > 0,
        name=f'dense_{i}',
      )(h, rows=rows)
      if self.norm == 'each':
        h = norm.MaskedBatchNorm(unbiased, name=f'norm_{i}')(h, rows=rows)
      if not (self.last and i == self.num_dense - 1):
        h = jax.nn.relu(h)
    if self.norm == 'last':
      h = norm.MaskedBatchNorm(unbiased, name='norm')(h, rows=rows)
    return h

  def _scheme_of(self, i: int) -> methods.Scheme:
    """The scheme of Dense layer i and of what enters it."""
    full = self.full_precision_dense and i == 0
    return methods.FP32() if full else self.scheme
