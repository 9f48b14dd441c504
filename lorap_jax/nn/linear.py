"""Dense layer with quantization points."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float
from lorap_jax.nn import schemes, telemetry
from lorap_jax.nn.telemetry import Quantized


class QuantDense(nn.Module):
  """y = Q_input(x) Q_weight(W) + b.

  Points: `input` (unless x comes quantized), `weight`. The bias stays in full
  precision. W and b start uniform in +-1/sqrt(in), as torch's Linear does.

  Attributes:
    features: width of the output.
    scheme: the quantization framework.
    non_negative: x has no negative values.
  """

  features: int
  scheme: schemes.Scheme
  non_negative: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | Quantized, *, mask: Bool[Array, 'n 1']
  ) -> Float[Array, 'n o']:
    """Applies the layer.

    Args:
      x: [n, f], or what a quantization point returned, which is not quantized
        again.
      mask: [n, 1], True for real rows.

    Returns:
      [n, features] in full precision.
    """
    if not isinstance(x, Quantized):
      x = schemes.quantize(
        self.scheme, 'input', x, mask=mask, non_negative=self.non_negative
      )
    width = x.values.shape[1]
    uniform = uniform_init(width**-0.5)
    kernel = self.param('kernel', uniform, (width, self.features))
    bias = self.param('bias', uniform, (self.features,))
    weight = schemes.quantize(self.scheme, 'weight', kernel)
    telemetry.report_product(self, x, weight.bits, mask, width * self.features)
    scale_bytes = 4 * self.features if weight.bits != 32 else 0
    self.sow(
      telemetry.COLLECTION,
      'weight_matrix',
      telemetry.WeightReport(
        jnp.float32(kernel.size),
        jnp.float32(weight.bits),
        jnp.float32(scale_bytes + 4 * self.features),
      ),
    )
    return x.values @ weight.values + bias[None, :]


def uniform_init(bound: float) -> nn.initializers.Initializer:
  """Uniform in +-bound; torch's Linear has bound 1/sqrt(in)."""
  return lambda key, shape: jax.random.uniform(
    key, shape, minval=-bound, maxval=bound
  )
