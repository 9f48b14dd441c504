"""The quantizer that does nothing."""

from typing import ClassVar

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows
from lorap_jax.nn.rows import Rows
from lorap_jax.nn.telemetry import Quantized


class Identity(nn.Module):
  """A quantization point that leaves its tensor in full precision."""

  param_groups: ClassVar[dict[str, str]] = {}

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """Returns x with its 32 bits."""
    del rows
    return Quantized(x)  # pyrefly: ignore
