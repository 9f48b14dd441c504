"""MixQ: bit-widths chosen by a differentiable search, scales by training.

Affine uniform quantizer of b bits, with a trained scale s and zero point z:

    u  = z + x/s
    q  = round(clip(u, qmin, qmax))           (halves to even)
    x^ = s (q - z)

with codes -2**(b-1) ... 2**(b-1)-1 if signed, 0 ... 2**b-1 if not, and, as
published, the three codes -1 ... 1 for b = 1. Its derivatives, the round
passed straight through:

    D_x = 1   D_s = q - u   D_z =  0          inside, qmin <= u <= qmax
    D_x = 0   D_s = q - z   D_z = -s          outside

The search gives a tensor one quantizer for each of m candidate bit-widths b_i
and the logits theta of a mixture, trained under a price on memory:

    x~ = sum_i p_i x^_i        p = softmax(theta)
    C  = sum over tensors of elements * sum_i p_i b_i / 8192        (KiB)
    loss = task loss + lambda C

The candidate with the largest logit stays.

Differs from the published code (github.com/SamirMoustafa/MixQ) by default;
`published=True`, and `depth` for the last, compute what that code computes:

1. ds is the one above. Published: D_s = x/s everywhere, which is not 0 on the
   grid and has no bound where x is clipped.
2. dz likewise. Published: D_z = 1 everywhere.
3. ds and dz are sums, the chain rule. Published: means over rows, and per
   tensor the sum over columns of these means.
4. A column without range (all zeros, or no real rows) starts at s = 1, z = 0.
   Published: s = 1e-16, z = qmax, which maps every later value to 0 without
   a gradient to x, and gives ds the size of 1e16.
5. A scale of 0 is read as the smallest normal float; published, as 0.
6. The mixture starts uniform. Published: theta = softmax(softmax(b)), which is
   (.214, .217, .569) for bits (2, 4, 8), and p = (.292, .293, .416).
7. C is in KiB for all tensors. Published: see `bit_cost`.

Kept: the clip before the round, which gives the same values as after it but
calls clipped what lies up to half a step beyond the last code; and a real z,
so that 0 is on the grid only at the start.

| their name                                      | ours               |
|-------------------------------------------------|--------------------|
| define_quantization_ranges                      | code_range         |
| QuantizationParameters.calibrate                | calibrate          |
| FakeQuantize                                    | fake_quant         |
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

_KIB = 8 * 1024  # bits
_EPSILON = 1e-16  # Of the published scale.
_MAX_BITS = 16


def code_range(bits: int, *, signed: bool = True) -> tuple[int, int]:
  """Smallest and largest code (qmin, qmax).

  Args:
    bits: 1 to 16. 1 gives (-1, 1), as published.
    signed: see the module docstring. With an affine quantizer this moves all
      codes and z by 2**(b-1), and no value.

  Raises:
    ValueError: bits outside 1..16.
  """
  if bits not in range(1, _MAX_BITS + 1):
    raise ValueError(f'`bits` must be an integer in 1..16, got {bits!r}')
  if bits == 1:
    return -1, 1
  if signed:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
  return 0, 2**bits - 1


def check_candidates(candidates: tuple[int, ...]) -> None:
  """Raises ValueError unless these are different bit-widths in 1..16."""
  allowed = range(1, _MAX_BITS + 1)
  distinct = len(set(candidates)) == len(candidates)
  if not (candidates and distinct and all(b in allowed for b in candidates)):
    raise ValueError(
      '`candidates` must be one or more different integers in 1..16, such as '
      f'(2, 4, 8), got {candidates!r}'
    )


def calibrate(
  x: Float[Array, 'n f'],
  *,
  bits: int,
  signed: bool = True,
  published: bool = False,
  mask: Bool[Array, 'n 1'] | None = None,
  axis: int | None = 0,
) -> tuple[Float[Array, 'a b'], Float[Array, 'a b']]:
  """Scale and zero point whose codes span the range of x and 0.

  s = (hi - lo) / (qmax - qmin) + 1e-16 and z = round(qmax - hi / s), not
  clipped, with hi = max(0, max x) and lo = min(0, min x).

  Args:
    x: the first values that the quantizer sees [n, f].
    bits: 1 to 16.
    signed: see `code_range`.
    published: False starts a column without range at s = 1, z = 0.
    mask: [n, 1], True for real rows. The others do not widen the range.
    axis: 0 for one range per column, 1 per row, None per tensor. The
      published ranges of a weight are per input feature: 1 for [in, out].

  Returns:
    (scale, zero_point), each [1, f], [n, 1] or [1, 1].

  Raises:
    ValueError: bits outside 1..16, or an axis not described.
  """
  qmin, qmax = code_range(bits, signed=signed)
  if axis not in (0, 1, None):
    raise ValueError(f'`axis` must be 0, 1 or None, got {axis!r}')
  if mask is not None:
    x = jnp.where(mask, x, 0)  # Every range contains 0.
  low = jnp.min(x, axis, keepdims=True, initial=0)
  high = jnp.max(x, axis, keepdims=True, initial=0)
  # Behind the barrier, or XLA multiplies by a rounded 1 / (qmax - qmin).
  steps = jax.lax.optimization_barrier(jnp.full_like(high, qmax - qmin))
  scale = (high - low) / steps + _EPSILON
  zero_point = jnp.round(qmax - high / scale)
  if not published:
    empty = low == high
    scale = jnp.where(empty, 1, scale)
    zero_point = jnp.where(empty, 0, zero_point)
  return scale, zero_point


def fake_quant(
  x: Float[Array, 'n f'],
  scale: Float[Array, 'a b'],
  zero_point: Float[Array, 'a b'],
  *,
  bits: int,
  signed: bool = True,
  published: bool = False,
  mask: Bool[Array, 'n 1'] | None = None,
) -> Float[Array, 'n f']:
  """Puts x on the grid of the quantizer above: x^ = s (q - z).

  Args:
    x: values [n, f].
    scale: step sizes s, [1, f] per column, [n, 1] per row or [1, 1]. A
      negative one mirrors the codes.
    zero_point: real zero points z, the shape of scale.
    bits: 1 to 16.
    signed: see `code_range`.
    published: True for the published gradients, see the module docstring.
    mask: [n, 1], True for real rows. Rows of padding are quantized too, but
      stay out of the sums and means over rows.

  Returns:
    x^ [n, f], exactly on the grid.

  Gradient:
    dx = dy D_x, ds = sum_j dy_j D_s and dz = sum_j dy_j D_z over the axes
    along which scale is broadcast. On the bounds an element is inside.

  Raises:
    ValueError: bits outside 1..16; shapes of scale and zero_point.
  """
  shapes = ((1, x.shape[1]), (x.shape[0], 1), (1, 1))
  for name, value in (('scale', scale), ('zero_point', zero_point)):
    if value.shape not in shapes or value.shape != scale.shape:
      raise ValueError(
        f'`{name}` of shape {value.shape} does not fit x of shape {x.shape}; '
        'use [1, f] per column, [n, 1] per row or [1, 1] for both parameters'
      )
  codes = code_range(bits, signed=signed)
  if mask is None:
    mask = jnp.ones((x.shape[0], 1), bool)
  return _fake_quant(x, scale, zero_point, mask, codes, published)


def _nonzero(scale: Array, published: bool) -> Array:
  tiny = jnp.finfo(scale.dtype).tiny
  return scale if published else jnp.where(scale == 0, tiny, scale)


def _divide(x: Array, scale: Array) -> Array:
  # XLA turns x / scale into x * (1 / scale), rounded twice: elements on a
  # bound would fall on either side of it. The select, without effect on the
  # values, keeps the division.
  return x / jnp.where(jnp.isnan(x), 1, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _fake_quant(x, scale, zero_point, mask, codes, published):
  del mask
  scale = _nonzero(scale, published)
  q = jnp.round(jnp.clip(zero_point + _divide(x, scale), *codes))
  return scale * (q - zero_point)


def _fake_quant_fwd(x, scale, zero_point, mask, codes, published):
  y = _fake_quant(x, scale, zero_point, mask, codes, published)
  return y, (x, scale, zero_point, mask)


def _fake_quant_bwd(codes, published, residuals, dy):
  x, scale, zero_point, mask = residuals
  scale = _nonzero(scale, published)
  ratio = _divide(x, scale + _EPSILON if published else scale)
  u = zero_point + ratio
  inside = (u >= codes[0]) & (u <= codes[1])
  if published:
    d_scale, d_zero_point = u - zero_point, jnp.ones_like(u)
  else:
    q = jnp.round(jnp.clip(u, *codes))
    d_scale = (q - zero_point) - jnp.where(inside, ratio, 0)
    d_zero_point = jnp.where(inside, 0, -scale)

  over_rows, over_columns = (size == 1 for size in scale.shape)
  weights = mask.astype(x.dtype).T

  def reduce(values):
    total = values
    if over_rows:
      # A row times a matrix: XLA's CPU column sums are slow behind a fusion.
      real = jnp.where(mask, values, 0)
      total = jnp.matmul(weights, real, precision='highest')
    if over_columns:
      total = jnp.sum(total, 1, keepdims=True)
    if not published:
      return total
    rows = jnp.maximum(jnp.sum(weights), 1)
    return total / (rows if over_rows else x.shape[1])

  dx = jnp.where(inside, dy, 0)
  return dx, reduce(dy * d_scale), reduce(dy * d_zero_point), None


_fake_quant.defvjp(_fake_quant_fwd, _fake_quant_bwd)


def initial_logits(
  candidates: tuple[int, ...], *, published: bool = False
) -> Float[Array, 'm']:
  """Logits before the search: zeros, or softmax(softmax(b)) if published.

  Raises:
    ValueError: see `check_candidates`.
  """
  check_candidates(candidates)
  bits = jnp.asarray(candidates, jnp.float32)
  if published:
    return jax.nn.softmax(jax.nn.softmax(bits))
  return jnp.zeros_like(bits)


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
    scales: those of `fake_quant`, one for each candidate.
    zero_points: the shape of scales.
    logits: theta, one for each candidate.
    candidates: m different bit-widths in 1..16.
    signed: see `code_range`.
    published: see `fake_quant`.
    mask: [n, 1], True for real rows. Rows of padding stay out of all
      gradients except dx.

  Returns:
    x~ [n, f], between the grids.

  Gradient:
    With dy_i = p_i dy to candidate i, and dp_i = sum of dy x^_i.

  Raises:
    ValueError: candidates; another number of logits, scales or zero points;
      what `fake_quant` raises.
  """
  for name, value in (('scales', scales), ('zero_points', zero_points)):
    if value.shape[0] != len(candidates):
      raise ValueError(
        f'`{name}` has {value.shape[0]} entries for {len(candidates)} '
        f'candidates {candidates!r}; give one for each'
      )
  probabilities = _probabilities(logits, candidates)

  def term(x, scale, zero_point, p, *, bits):
    y = fake_quant(
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
