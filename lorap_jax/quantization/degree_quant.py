"""Degree-Quant: nodes of high in-degree are protected from quantization.

In every training step some nodes stay in full precision, the more likely the
more edges they receive, because quantization errors add up over a sum of many
messages. A protected row passes the quantizer unchanged (`keep` of
`affine.fake_quant`), has gradient dx = dy, and does not enter the range
(`mask` of `observers.batch_range`). A message has the mask of its sender.
Weights are never protected. In evaluation everything is quantized.

    m      = protective_mask(key, probability)[:, None]
    range  = batch_range(x, mask=node_mask & ~m, percentile=p)
    x^     = fake_quant(x, qparams, keep=m, ...)

Quantization-aware training without protection is the same without m.

| their name                      | ours                                     |
|---------------------------------|------------------------------------------|
| ProbabilisticHighDegreeMask     | protection_probability                   |
| prob_mask_low, prob_mask_change | low, change                              |
| evaluate_prob_mask              | protective_mask                          |
| prob_mask; mask, edge_mask      | probability; protective_mask             |
| x_low, x_high quantizers        | fake_quant(keep=...)                     |
| get_qparams                     | affine.affine_qparams                    |
| Quantize, quantize              | affine.fake_quant                        |
| ste_*, gc_*                     | gradient `plain`, `clipped_strict`       |
| *_abs, *_mom, *_per             | the table of `observers`                 |
| IntegerQuantizer.update_ranges  | observers.batch_range, update_range      |
| sample_tensor, sample_prop      | stride of batch_range                    |

The published runs on REDDIT-BINARY use ste_mom without protection, and with it
gc_per and low 0 (8 bits) or .1 (4 bits), change .1.

Differs from the published code (github.com/camlsys/degree-quant):

1. The end codes keep their gradient with `gradient='clipped'`. The published
   rule is `clipped_strict`.
2. The zero point of the symmetric unsigned grid is 2**(b-1). The published 128
   is `zero_point_rule='published'`. No published script uses either.
3. A symmetric scale has the lower bound that an asymmetric one has.
4. Scale and zero point are computed in float32, by the published code in
   float64: the scale may differ in its last bit. x / s is a division, not a
   product with 1 / s, which `published=True` of `affine.fake_quant` computes.
   A code may differ by one where x / s + z is a tie up to float32 rounding.
5. A batch without rows to observe, or whose range is NaN, leaves the running
   range as it is. The published code stops at the former.
6. A quantizer that has seen no batch has s = 1, z = 0. The published one fails.
7. Ranks of percentiles are exact for the decimal p. The published code cuts
   off a float64 product, with the same result for .001 and .01.
8. The cheaper estimate takes every stride-th row. The published one draws
   values at random, about 1000 or more.
9. F below is a quotient of counts. The published code adds it up in float32;
   rounding may bring it above 1, and the draw then fails.

References:
  Tailor, Fernandez-Marques, Lane: Degree-Quant: Quantization-Aware Training
  for Graph Neural Networks, ICLR 2021, arXiv 2008.05000.
"""

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float, Int, Key


def protection_probability(
  in_degree: Int[Array, 'n'],
  node_graph_idx: Int[Array, 'n'],
  *,
  low: float,
  change: float,
) -> Float[Array, 'n']:
  """How likely each node is to be protected.

      p_v = low + (high - low) F(d_v),   high = min(low + change, 1)

  F(d) is the share of nodes of the same graph that receive at most d edges. The
  nodes that receive the most have exactly p = high.

  Args:
    in_degree: edges that each node receives, before self loops are added [n].
    node_graph_idx: graph of each node [n], in any order. Nodes of padding have
      a graph of their own, and do not affect others.
    low: smallest probability, in [0, 1].
    change: largest minus smallest probability, at least 0.

  Returns:
    p, float32 [n].

  Raises:
    ValueError: low or change out of bounds.
  """
  share = _degree_cdf(in_degree, node_graph_idx)
  return probability_of_share(share, low=low, change=change)


def probability_of_share(
  share: Float[Array, 'n'], *, low: float, change: float
) -> Float[Array, 'n']:
  """`protection_probability` where F is known, as of a sampled graph.

  Args:
    share: F(d_v) [n].
    low: smallest probability, in [0, 1].
    change: largest minus smallest probability, at least 0.

  Returns:
    p, float32 [n].

  Raises:
    ValueError: low or change out of bounds.
  """
  if not 0 <= low <= 1:
    raise ValueError(f'`low` must be in [0, 1], got {low}')
  if not change >= 0:
    raise ValueError(f'`change` must be at least 0, got {change}')
  high = min(low + change, 1.0)
  # Rounding may leave [low, high] by a unit in the last place.
  return jnp.clip((1 - share) * low + share * high, low, high)


def _degree_cdf(in_degree: Array, graph: Array) -> Array:
  """Share of nodes of the same graph with at most this in-degree [n]."""
  num_nodes = in_degree.shape[0]
  place = jnp.arange(num_nodes, dtype=jnp.int32)
  graph, degree, node = jax.lax.sort((graph, in_degree, place), num_keys=2)
  changes = graph[1:] != graph[:-1]
  first_of_graph = jnp.append(True, changes)
  last_of_graph = jnp.append(changes, True)
  last_of_degree = jnp.append(changes | (degree[1:] != degree[:-1]), True)

  start = jax.lax.cummax(jnp.where(first_of_graph, place, 0))

  def count_to_next(last):
    end = jnp.where(last, place, num_nodes)
    return jax.lax.cummin(end, reverse=True) + 1 - start

  share = count_to_next(last_of_degree) / count_to_next(last_of_graph)
  return jnp.zeros(num_nodes).at[node].set(share)


def protective_mask(
  key: Key[Array, ''], probability: Float[Array, 'n']
) -> Bool[Array, 'n']:
  """Draws the nodes that stay in full precision, m_v ~ Bernoulli(p_v).

  Args:
    key: typed random key, a fresh one for each training step.
    probability: p of each node [n].

  Returns:
    True for protected nodes [n].
  """
  return jax.random.bernoulli(key, probability)
