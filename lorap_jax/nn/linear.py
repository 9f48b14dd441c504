"""Dense layer with quantization points."""

import flax.linen as nn
import jax.numpy as jnp

from lorap_jax._typing import Array, Float
from lorap_jax.nn import methods, telemetry
from lorap_jax.nn.quantized import Quantized, Rows, real_rows
from lorap_jax.ops import glorot_uniform, matmul, to_each_row, uniform


class QuantDense(nn.Module):
  """y = Q_output(Q_input(x) Q_weight(W) + b).

  Points: `input` (unless x comes quantized), `weight`, `output`. The bias stays
  in full precision. W and b start uniform in +-1/sqrt(in), as torch's Linear
  does.

  Attributes:
    features: width of the output.
    scheme: the quantization framework.
    non_negative: x has no negative values.
    point: name of the left operand, `input` or `readout`.
    use_bias: False for no bias; the scheme's `forms` may leave it out too.
    glorot: W starts Glorot uniform and b at zero instead, as PyG's layers do.
  """

  features: int
  scheme: methods.Scheme
  non_negative: bool = False
  point: methods.Point = 'input'
  use_bias: bool = True
  glorot: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | Quantized, *, rows: Rows
  ) -> Float[Array, 'n o']:
    """Applies the layer.

    Args:
      x: [n, f], or what a quantization point returned, which is not quantized
        again.
      rows: real and protected rows of x, and whether this is training.

    Returns:
      [n, features].
    """
    x = methods.quantize(
      self.scheme, self.point, x, rows=rows, non_negative=self.non_negative
    )
    width = x.values.shape[1]
    fan_in = uniform_init(width**-0.5)
    kernel = self.param(
      'kernel',
      glorot_uniform if self.glorot else fan_in,
      (width, self.features),
    )
    weight = methods.quantize(
      self.scheme, 'weight', kernel, rows=Rows(train=rows.train)
    )
    y = matmul(x.values, weight.values)
    if self.use_bias and self.scheme.forms.dense_bias:
      start = nn.initializers.zeros if self.glorot else fan_in
      bias = self.param('bias', start, (self.features,))
      y += to_each_row(bias[None, :], y.shape[0])
    self._report(x, kernel, weight, rows)
    return methods.quantize(self.scheme, 'output', y, rows=rows).values

  def _report(self, x, kernel, weight, rows: Rows) -> None:
    mask = real_rows(x.values, rows)
    telemetry.record_product(self, x, weight.bits, mask, kernel.size)
    use_bias = self.use_bias and self.scheme.forms.dense_bias
    bias_bytes = 4 * self.features * use_bias
    report = telemetry.WeightRecord(
      jnp.float32(kernel.size),
      jnp.asarray(weight.bits, jnp.float32),
      jnp.float32(weight.metadata_bytes + bias_bytes),
    )
    telemetry.sow(self, telemetry.COLLECTION, 'weight_matrix', report)


def uniform_init(bound: float) -> nn.initializers.Initializer:
  """Uniform in +-bound; torch's Linear has bound 1/sqrt(in)."""
  return lambda key, shape: uniform(key, shape, bound)
