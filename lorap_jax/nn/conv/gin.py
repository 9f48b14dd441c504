"""Graph isomorphism layer."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.nn import linear, norm, schemes, telemetry
from lorap_jax.nn import prompts as prompt_lib
from lorap_jax.nn.rows import Rows
from lorap_jax.nn.telemetry import Quantized


class GINConv(nn.Module):
  """Graph isomorphism layer with a perceptron.

      m_i = Q_message(x_i)
      t_i = Q_neighbor_sum(sum over senders j of m_j)
      s_i = (1 + eps) m_i + t_i
      y_i = Q_update(MLP(Q_aggregate(s_i)))

  with the LoRAP prompt around Q_aggregate as `placement` says. The node's own
  term is the quantized m_i, as in A2Q's code: one stored tensor serves both.
  eps is trained and starts at 0.

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
  scheme: schemes.Scheme
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
  ) -> Float[Array, 'n o']:
    """Applies the layer.

    Args:
      x: node features [n, f]; quantized ones are sent as they are.
      graph: for its edges.
      rows: real nodes, and the mode.
      layout: of the graph, or None.

    Returns:
      [n, features].
    """
    point = lambda name, t: schemes.quantize(self.scheme, name, t, rows=rows)
    message = point('message', x)
    neighbors = graphs.aggregate(message.values, graph, layout)
    telemetry.report_sum(self, message, graph, rows)
    s = point('neighbor_sum', neighbors).values
    own: Any = 0
    if self.own_term:
      own = 1 + self.param('eps', nn.initializers.zeros, ())
      s = own * message.values + s
    raw = x.values if isinstance(x, Quantized) else x
    h = prompt_lib.prompted(
      self.prompt,
      lambda t: schemes.quantize(self._scheme_of(0), 'aggregate', t, rows=rows),
      s,
      rows=rows,
      exact=lambda: own * raw + graphs.aggregate(raw, graph, layout),
    )
    return point('update', self._mlp(h, rows)).values

  def _mlp(self, h: Any, rows: Rows) -> Array:
    for i in range(self.num_dense):
      h = linear.QuantDense(
        self.features,
        self._scheme_of(i),
        non_negative=i > 0,
        name=f'dense_{i}',
      )(h, rows=rows)
      if self.norm == 'each':
        h = norm.MaskedBatchNorm(name=f'norm_{i}')(h, rows=rows)
      if not (self.last and i == self.num_dense - 1):
        h = jax.nn.relu(h)
    if self.norm == 'last':
      h = norm.MaskedBatchNorm(name='norm')(h, rows=rows)
    return h

  def _scheme_of(self, i: int) -> schemes.Scheme:
    """The scheme of Dense layer i and of what enters it."""
    full = self.full_precision_dense and i == 0
    return schemes.FP32() if full else self.scheme
