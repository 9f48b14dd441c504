"""Batch norm that leaves padding out."""

import flax.linen as nn
import jax.numpy as jnp

from lorap_jax._typing import Array, Float
from lorap_jax.nn.quantized import Rows, real_rows

_STATS = 'batch_stats'
_MOMENTUM = 0.9


class MaskedBatchNorm(nn.Module):
  """Batch norm over the real rows: torch's momentum .1 and epsilon 1e-5.

  Flax's `nn.BatchNorm` with a mask. Variances are biased.

  Attributes:
    unbiased: the running average takes n / (n - 1) times the variance of n
      rows, as torch's does. A batch of one row has 0.
  """

  unbiased: bool = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, rows: Rows
  ) -> Float[Array, 'n f']:
    """Normalises the columns of x over its real rows."""
    bn = nn.BatchNorm(
      use_running_average=not rows.train,
      momentum=_MOMENTUM,
      epsilon=1e-5,
      name='bn',
    )
    updates = rows.train and not self.is_initializing()
    if not (self.unbiased and updates and self.is_mutable_collection(_STATS)):
      return bn(x, mask=rows.mask)
    old = _MOMENTUM * bn.get_variable(_STATS, 'var')
    y = bn(x, mask=rows.mask)
    count = jnp.sum(real_rows(x, rows), dtype=jnp.float32)
    factor = count / jnp.maximum(count - 1, 1)
    new = old + factor * (bn.get_variable(_STATS, 'var') - old)
    bn.put_variable(_STATS, 'var', new)
    return y
