"""Batch norm that leaves padding out."""

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.nn.rows import Rows


class MaskedBatchNorm(nn.Module):
  """Batch norm over the real rows: torch's momentum .1 and epsilon 1e-5.

  Flax's `nn.BatchNorm` with a mask. Variances are biased, also in the running
  average, where torch stores the unbiased one.
  """

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, rows: Rows
  ) -> Float[Array, 'n f']:
    """Normalises the columns of x over its real rows."""
    return nn.BatchNorm(
      use_running_average=not rows.train,
      momentum=0.9,
      epsilon=1e-5,
      name='bn',
    )(x, mask=rows.mask)
