"""MixQ's quantizer: an affine grid with trained scale and zero point.

Affine uniform quantizer of b bits, with a trained scale s and zero point z:

    u  = z + x/s
    q  = round(clip(u, qmin, qmax))           (halves to even)
    x^ = s (q - z)

with codes -2**(b-1) ... 2**(b-1)-1 if signed, 0 ... 2**b-1 if not, and, as
published, the three codes -1 ... 1 for b = 1. Its derivatives, the round
passed straight through:

    D_x = 1   D_s = q - u   D_z =  0          inside, qmin <= u <= qmax
    D_x = 0   D_s = q - z   D_z = -s          outside

Differs from the published code (github.com/SamirMoustafa/MixQ) by default;
`published=True` computes what that code computes:

1. ds is the one above. Published: D_s = x/s everywhere, which is not 0 on the
   grid and has no bound where x is clipped.
2. dz likewise. Published: D_z = 1 everywhere.
3. ds and dz are sums, the chain rule. Published: means over rows, and per
   tensor the sum over columns of these means.
4. A column without range (all zeros, or no real rows) starts at s = 1, z = 0.
   Published: s = 1e-16, z = qmax, which maps every later value to 0 without
   a gradient to x, and gives ds the size of 1e16.
5. A scale of 0 is read as the smallest normal float; published, as 0.

Kept: the clip before the round, which gives the same values as after it but
calls clipped what lies up to half a step beyond the last code; and a real z,
so that 0 is on the grid only at the start.

| their name                                      | ours               |
|-------------------------------------------------|--------------------|
| define_quantization_ranges                      | code_range         |
| QuantizationParameters.calibrate                | calibrate          |
| FakeQuantize                                    | fake_quant         |

References:
  Moustafa, Kriege, Gansterer: Efficient Mixed Precision Quantization in Graph
  Neural Networks, ICDE 2025, arXiv 2505.09361.
"""

import functools

import jax
import jax.numpy as jnp

from lorap_jax import ops
from lorap_jax._typing import Array, Bool, Float
from lorap_jax.quantization import numerics

_EPSILON = 1e-16  # Of the published scale.
MAX_BITS = 16


def code_range(bits: int, *, signed: bool = True) -> tuple[int, int]:
  """Smallest and largest code (qmin, qmax).

  Args:
    bits: 1 to 16. 1 gives (-1, 1), as published.
    signed: whether negative codes exist; 1 bit always has them. Otherwise this
      moves all codes and z by 2**(b-1), and changes no value.

  Raises:
    ValueError: bits outside 1..16.
  """
  if bits not in range(1, MAX_BITS + 1):
    raise ValueError(f'`bits` must be an integer in 1..16, got {bits!r}')
  if bits == 1:
    return -1, 1
  if signed:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
  return 0, 2**bits - 1


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
    bits: b, 1 to 16.
    signed: whether negative codes exist.
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
  low = numerics.bounded(jnp.min(x, axis, keepdims=True, initial=0))
  high = numerics.bounded(jnp.max(x, axis, keepdims=True, initial=0))
  scale = numerics.divide(high - low, qmax - qmin) + _EPSILON
  zero_point = jnp.round(qmax - numerics.divide(high, scale))
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
    bits: b, 1 to 16.
    signed: whether negative codes exist.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _fake_quant(x, scale, zero_point, mask, codes, published):
  del mask
  scale = _nonzero(scale, published)
  q = jnp.round(jnp.clip(zero_point + numerics.divide(x, scale), *codes))
  return scale * (q - zero_point)


def _fake_quant_fwd(x, scale, zero_point, mask, codes, published):
  y = _fake_quant(x, scale, zero_point, mask, codes, published)
  return y, (x, scale, zero_point, mask)


def _fake_quant_bwd(codes, published, residuals, dy):
  x, scale, zero_point, mask = residuals
  scale = _nonzero(scale, published)
  ratio = numerics.divide(x, scale + _EPSILON if published else scale)
  u = zero_point + ratio
  inside = (u >= codes[0]) & (u <= codes[1])
  dx = ops.pass_where(inside, dy)
  over_rows, over_columns = (size == 1 for size in scale.shape)
  weights = mask.astype(x.dtype).T

  def reduce(values):
    total = values
    if over_rows:
      # A row times a matrix: XLA's CPU column sums are slow behind a fusion.
      total = jnp.matmul(weights, values, precision='highest')
    if over_columns:
      total = jnp.sum(total, 1, keepdims=True)
    if not published:
      return total
    rows = jnp.maximum(jnp.sum(weights), 1)
    return total / (rows if over_rows else x.shape[1])

  if published:
    terms = dy * (u - zero_point)
  else:
    q = jnp.round(jnp.clip(u, *codes))
    # Outside the ratio may be infinite, and 0 times that is no number.
    terms = dy * (q - zero_point) - jnp.where(inside, dx * ratio, 0)
  d_zero_point = reduce(dy)
  if not published:
    # The sum over all less that over what is inside, from two arrays that exist
    # anyway; a third one of the terms outside takes longer. Where all are
    # inside the sums are the same, and on a CPU the difference is exactly 0.
    d_zero_point = -scale * (d_zero_point - reduce(dx))
  return dx, reduce(jnp.where(mask, terms, 0)), d_zero_point, None


_fake_quant.defvjp(_fake_quant_fwd, _fake_quant_bwd)
