"""MixQ's search for bit-widths, by gradient descent.

The search gives a tensor one quantizer (`quantization.mixq`) for each of m
candidate bit-widths b_i and the logits theta of a mixture, trained under a
price on memory:

    x~ = sum_i p_i x^_i        p = softmax(theta)
    C  = sum over tensors of elements * sum_i p_i b_i / 8192        (KiB)
    loss = task loss + lambda C

The candidate with the largest logit stays.

Differs from the published code (github.com/SamirMoustafa/MixQ) by default in
the quantizer (`quantization.mixq`) and in C, which is in KiB for all tensors;
`published=True` and the `depth` of `bit_cost` compute what that code computes.
Kept as published is the start, which prefers the most bits: from a uniform one
the choice is noise (on Cora 3.3 to 5.1 bits by seed, whatever lambda is).

| their name                                      | ours               |
|-------------------------------------------------|--------------------|
| num_bits_list                                   | candidates         |
| qi_, qo_, qw_relaxed_coeff                      | logits             |
| relaxed_quantize_input, _output, _weights       | relaxed_fake_quant |
| calculate_weighted_loss                         | bit_cost           |
| bit_width_lambda                                | search_penalty     |
| select_top_k_winners(1)                         | select_bits        |
| estimated_bit_operation_precision               | bit_operations     |

References:
  Moustafa, Kriege, Gansterer: Efficient Mixed Precision Quantization in Graph
  Neural Networks, ICDE 2025, arXiv 2505.09361.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float, Int, Scalar
from lorap_jax.quantization import mixq

_KIB = 8 * 1024  # bits


def check_candidates(candidates: tuple[int, ...]) -> None:
  """Raises ValueError unless these are different bit-widths in 1..16."""
  allowed = range(1, mixq.MAX_BITS + 1)
  distinct = len(set(candidates)) == len(candidates)
  if not (candidates and distinct and all(b in allowed for b in candidates)):
    raise ValueError(
      '`candidates` must be one or more different integers in 1..16, such as '
      f'(2, 4, 8), got {candidates!r}'
    )


def initial_logits(candidates: tuple[int, ...]) -> Float[Array, 'm']:
  """Logits before the search: theta = softmax(softmax(b)).

  A mild preference for the most bits, which only lambda and the task loss take
  away: for b = (2, 4, 8) it is (.214, .217, .569), and p = (.292, .293, .416).

  Raises:
    ValueError: candidates that are not different bit-widths in 1..16.
  """
  check_candidates(candidates)
  bits = jnp.asarray(candidates, jnp.float32)
  return jax.nn.softmax(jax.nn.softmax(bits))


def relaxed_fake_quant(
  x: Float[Array, 'n f'],
  scales: Float[Array, 'm a b'],
  zero_points: Float[Array, 'm a b'],
  logits: Float[Array, 'm'],
  *,
  candidates: tuple[int, ...],
  signed: bool = True,
  published: bool = False,
  mask: Bool[Array, 'n 1'] | None = None,
) -> Float[Array, 'n f']:
  """The mixture of all candidates, x~ = sum_i softmax(theta)_i x^_i.

  Only x is kept for the backward pass: each x^_i is computed again.

  Args:
    x: values [n, f].
    scales: step sizes of each candidate, as `mixq.fake_quant` takes them.
    zero_points: real zero points, the shape of scales.
    logits: theta, one for each candidate.
    candidates: m different bit-widths in 1..16.
    signed: whether negative codes exist.
    published: True for the published gradients, see `mixq`.
    mask: [n, 1], True for real rows. Rows of padding stay out of all
      gradients except dx.

  Returns:
    x~ [n, f], between the grids.

  Gradient:
    With dy_i = p_i dy to candidate i, and dp_i = sum of dy x^_i.

  Raises:
    ValueError: candidates; another number of logits, scales or zero points;
      what `mixq.fake_quant` raises.
  """
  for name, value in (('scales', scales), ('zero_points', zero_points)):
    if value.shape[0] != len(candidates):
      raise ValueError(
        f'`{name}` has {value.shape[0]} entries for {len(candidates)} '
        f'candidates {candidates!r}; give one for each'
      )
  probabilities = _probabilities(logits, candidates)

  def term(x, scale, zero_point, p, *, bits):
    y = mixq.fake_quant(
      x,
      scale,
      zero_point,
      bits=bits,
      signed=signed,
      published=published,
      mask=mask,
    )
    if mask is not None:
      p = jnp.where(mask, p, jax.lax.stop_gradient(p))
    return p * y

  mixture = jnp.zeros_like(x)
  for i, bits in enumerate(candidates):
    recomputed = jax.checkpoint(functools.partial(term, bits=bits))
    mixture += recomputed(x, scales[i], zero_points[i], probabilities[i])
  return mixture


def _probabilities(logits: Array, candidates: tuple[int, ...]) -> Array:
  check_candidates(candidates)
  if logits.shape[-1] != len(candidates):
    raise ValueError(
      f'`logits` has {logits.shape[-1]} entries for {len(candidates)} '
      f'candidates {candidates!r}; give one for each'
    )
  return jax.nn.softmax(logits)


def expected_bits(
  logits: Float[Array, '*s m'], candidates: tuple[int, ...]
) -> Float[Array, '*s']:
  """Mean bits of the mixture, E = sum_i softmax(theta)_i b_i.

  Args:
    logits: theta, one for each candidate along the last axis.
    candidates: m different bit-widths in 1..16.

  Returns:
    Bits. dE/dtheta_i = p_i (b_i - E).

  Raises:
    ValueError: candidates, or another number of logits.
  """
  bits = jnp.asarray(candidates, logits.dtype)
  return jnp.dot(_probabilities(logits, candidates), bits, precision='highest')


def bit_cost(
  num_elements: int | Scalar,
  logits: Float[Array, 'm'],
  candidates: tuple[int, ...],
  *,
  depth: int = 1,
) -> Float[Array, '']:
  """Expected memory of one tensor, elements * E / 8192**depth.

  In the published code every module divides its cost by 8192, and a
  convolution divides the sum of the costs of its parts once more. What lies in
  a convolution (its messages, and its linear layers or MLP) has depth 2, and
  weighs 1/8192 of a linear layer outside, which has depth 1.

  Args:
    num_elements: entries of the tensor, those of padding not counted.
    logits: theta [m].
    candidates: m different bit-widths in 1..16.
    depth: 1 for KiB. The published one otherwise, see above.

  Returns:
    A scalar, KiB with depth 1.

  Raises:
    ValueError: candidates, another number of logits, a depth below 1.
  """
  if depth < 1:
    raise ValueError(f'`depth` must be at least 1, got {depth}')
  return num_elements * expected_bits(logits, candidates) / _KIB**depth


def search_penalty(
  cost: Float[Array, ''], *, weight: float
) -> Float[Array, '']:
  """The term lambda C of the loss.

  Args:
    cost: C, the sum of `bit_cost` over all tensors.
    weight: lambda, per KiB. The published ones are 0 to 1, and -1e-8, which
      rewards bits a little.

  Returns:
    A scalar to be added to the loss.
  """
  return weight * cost


def select_bits(
  logits: Float[Array, '*s m'], candidates: tuple[int, ...]
) -> Int[Array, '*s']:
  """The bits that stay: the candidate of the largest softmax(theta).

  Of equal ones the first. Logits that differ by less than softmax resolves
  count as equal, as published.

  Args:
    logits: theta, one for each candidate along the last axis.
    candidates: m different bit-widths in 1..16.

  Returns:
    int32 bits. No gradient flows through them.

  Raises:
    ValueError: candidates, or another number of logits.
  """
  winner = jnp.argmax(_probabilities(logits, candidates), axis=-1)
  return jnp.asarray(candidates, jnp.int32)[winner]


def average_bits(selected: Sequence[int]) -> float:
  """Average bits as the published scripts print it.

  The mean over quantizers, each counted once whatever the size of its tensor.

  Args:
    selected: bits of every quantizer of the model.

  Raises:
    ValueError: no quantizers.
  """
  if not selected:
    raise ValueError('`selected` is empty; give the bits of every quantizer')
  return sum(selected) / len(selected)


def bit_operations(num_operations: int, selected: Sequence[int]) -> float:
  """BitOPs of one module as published: operations * mean bits.

  Args:
    num_operations: operations of the module in full precision.
    selected: bits of the quantizers of this module. Without any the published
      count is 0, not that of full precision.

  Returns:
    Bit operations; their sum over modules is that of the model.
  """
  return num_operations * average_bits(selected) if selected else 0.0
