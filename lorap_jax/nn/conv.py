"""Graph convolutions with named quantization points and prompt hooks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Bool, Float
from lorap_jax.nn import linear, norm, schemes, telemetry
from lorap_jax.nn import prompts as prompt_lib


class GINConv(nn.Module):
  """Graph isomorphism layer with a two-layer perceptron.

      m_i = Q_message(x_i)
      t_i = Q_neighbor_sum(sum over senders j of m_j)
      s_i = (1 + eps) m_i + t_i
      y_i = MLP(Q_aggregate(s_i)),  MLP = (Dense, BatchNorm, ReLU) twice

  with the LoRAP prompt around Q_aggregate as `placement` says. The node's own
  term is the quantized m_i, as in A2Q's code: one stored tensor serves both.
  eps is trained and starts at 0.

  Attributes:
    features: width of both Dense layers.
    scheme: the quantization framework.
    prompt: the prompts of the model; only the aggregate hook is used here.

  References:
    Xu, Hu, Leskovec, Jegelka: How Powerful are Graph Neural Networks?,
    ICLR 2019, arXiv 1810.00826, equation 4.1.
  """

  features: int
  scheme: schemes.Scheme
  prompt: prompt_lib.PromptSpec = prompt_lib.PromptSpec()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'n f'],
    graph: jraph.GraphsTuple,
    *,
    mask: Bool[Array, 'n 1'],
    layout: graphs.Layout | None = None,
    train: bool,
  ) -> Float[Array, 'n o']:
    """Applies the layer.

    Args:
      x: node features [n, f].
      graph: for its edges.
      mask: [n, 1], True for real nodes.
      layout: of the graph, or None.
      train: batch norm uses and updates batch statistics.

    Returns:
      [n, features], not negative.
    """
    message = schemes.quantize(self.scheme, 'message', x, mask=mask)
    neighbors = graphs.aggregate(message.values, graph, layout)
    _report_sum(self, message, graph, mask)
    neighbors = schemes.quantize(
      self.scheme, 'neighbor_sum', neighbors, mask=mask
    ).values
    eps = self.param('eps', nn.initializers.zeros, ())
    s = (1 + eps) * message.values + neighbors

    h: Any = prompt_lib.prompted(
      self.prompt.on_aggregate(),
      self.prompt.placement,
      lambda t: schemes.quantize(self.scheme, 'aggregate', t, mask=mask),
      s,
      mask=mask,
    )
    for i in range(2):
      h = linear.QuantDense(
        self.features, self.scheme, non_negative=i > 0, name=f'dense_{i}'
      )(h, mask=mask)
      h = norm.MaskedBatchNorm(name=f'norm_{i}')(h, mask=mask, train=train)
      h = jax.nn.relu(h)
    return h


def _report_sum(module, message, graph, mask):
  """Sows the additions of a neighbour sum over the real edges."""
  received = jnp.sum(
    mask[graph.receivers, 0] & mask[graph.senders, 0], dtype=jnp.float32
  )
  additions = received * message.values.shape[1]
  report = telemetry.SumReport(additions, additions * message.bits)
  module.sow(telemetry.COLLECTION, 'sum', report)
