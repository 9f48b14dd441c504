"""Attention over the edges that a node receives, as GAT has it.

References:
  Velickovic, Cucurull, Casanova, Romero, Lio, Bengio: Graph Attention
  Networks, ICLR 2018, arXiv 1710.10903, equation 2.
"""

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float, Int

_EPSILON = 1e-16  # As in torch_geometric's softmax.


def segment_softmax(
  logits: Float[Array, 'e h'],
  receivers: Int[Array, 'e'],
  num_segments: int,
  *,
  mask: Bool[Array, 'e'] | None = None,
) -> Float[Array, 'e h']:
  """Softmax over the edges of each receiver and head.

  p_e = exp(l_e - m) / (1e-16 + sum of exp(l_e' - m)), m the largest logit of
  the receiver, a constant for gradients. Nothing is NaN where a node receives
  no edge or padding only, whatever the logits of padding edges are.

  Args:
    logits: l [e, h].
    receivers: int32 [e].
    num_segments: n (static).
    mask: [e], True for real edges; None if all are.

  Returns:
    p [e, h]; 0 for padding edges.
  """
  if mask is None:
    mask = jnp.ones(logits.shape[0], bool)
  real = mask[:, None]
  peak = jax.ops.segment_max(
    jnp.where(real, jax.lax.stop_gradient(logits), -jnp.inf),
    receivers,
    num_segments,
  )
  # Masked before exp as well: its gradient would be 0 * inf otherwise.
  shifted = jnp.where(real, logits - peak[receivers], 0.0)
  powers = jnp.where(real, jnp.exp(shifted), 0.0)
  total = jax.ops.segment_sum(powers, receivers, num_segments)
  return powers / (total[receivers] + _EPSILON)
