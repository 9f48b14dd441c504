"""The quantizer that does nothing."""

import flax.linen as nn
import jax.numpy as jnp

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows
from lorap_jax.nn import telemetry
from lorap_jax.nn.rows import Rows
from lorap_jax.nn.telemetry import Quantized, real_rows


class Identity(nn.Module):
  """A quantization point that leaves its tensor in full precision."""

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Quantized:
    """Returns x with its 32 bits."""
    telemetry.report_feature(
      self,
      x,
      x,
      jnp.float32(telemetry.FULL_BITS),
      real_rows(x, rows),
      row_metadata_bits=0,
      table_bytes=0,
    )
    return Quantized(x)  # pyrefly: ignore
