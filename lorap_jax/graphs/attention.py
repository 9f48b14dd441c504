"""Attention over the edges that a node receives, as GAT has it.

References:
  Velickovic, Cucurull, Casanova, Romero, Lio, Bengio: Graph Attention
  Networks, ICLR 2018, arXiv 1710.10903, equation 2.
"""

import jax
import jax.numpy as jnp
import jraph

from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.graphs import partition, shards

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


def receiver_softmax(
  logits: Float[Array, 'k h'],
  receivers: Int[Array, 'k'],
  mask: Bool[Array, 'k'],
  graph: jraph.GraphsTuple,
  num_receivers: int,
) -> Float[Array, 'k h']:
  """`segment_softmax` over the edges of a graph, and self loops behind them.

  Args:
    logits: of the edges, and where there are more of them of a loop at each
      node.
    receivers: of these.
    mask: True for real ones.
    graph: which may be shared by devices.
    num_receivers: nodes (static).

  Returns:
    p [k, h].
  """
  s = shards.count(graph)
  if partition.of(graph) is None:
    return segment_softmax(logits, receivers, num_receivers, mask=mask)
  count, num_edges = num_receivers // s, graph.senders.shape[0]  # pyrefly: ignore
  edges, loops = (
    tuple(t[part] for t in (logits, receivers, mask))
    for part in (slice(num_edges), slice(num_edges, None))
  )

  def local(number, _, edges, loops):
    both = [jnp.concatenate(pair) for pair in zip(edges, loops, strict=True)]
    own, ids, real = both
    # Padding that ends elsewhere is masked; any place of this shard does.
    ids = jnp.clip(ids - number * count, 0, count - 1)
    shares = segment_softmax(own, ids, count, mask=real)
    first = len(edges[0])
    return shares[:first], shares[first:]

  parts = partition.with_all(local, s, ((), ()), edges, loops)
  return jnp.concatenate(parts)
