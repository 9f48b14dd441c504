"""Uniform affine quantization: b bits, a scale s and an integer zero point z.

    c  = round(x / s + z)          (halves to even)
    q  = clip(c, qmin, qmax)
    x^ = s (q - z)

The zero point is the code of the real 0, which is always on the grid. Scale
and zero point follow from a range [lo, hi] that somebody else measured (see
`observers`); they are constants, no gradient reaches them.

The rounding has no useful derivative. Three replacements of it:

| `gradient`       | dx = dy where      | published name            |
|------------------|--------------------|---------------------------|
| `plain`          | everywhere         | STE                       |
| `clipped`        | qmin <= c <= qmax  | none                      |
| `clipped_strict` | qmin <  c <  qmax  | GC, "gradient clipping"   |

The strict rule also stops the gradient of values inside the range whose code
is the first or the last: 1/8 of the codes at 4 bits, and for non-negative data
every zero behind a ReLU.

References:
  Tailor, Fernandez-Marques, Lane: Degree-Quant: Quantization-Aware Training
  for Graph Neural Networks, ICLR 2021, arXiv 2008.05000; its code,
  github.com/camlsys/degree-quant. `degree_quant` lists the differences.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lorap_jax import ops
from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.quantization import numerics

Gradient = Literal['plain', 'clipped', 'clipped_strict']
ZeroPointRule = Literal['middle', 'published']


class QParams(NamedTuple):
  """Scale and zero point, float arrays that broadcast to the quantized tensor.

  Attributes:
    scale: s > 0, the distance of neighbouring values.
    zero_point: z, the code of 0; integral.
  """

  scale: Array
  zero_point: Array


def code_range(bits: int, *, signed: bool) -> tuple[int, int]:
  """The smallest and the largest code.

  | bits | signed                     | unsigned       |
  |------|----------------------------|----------------|
  | b    | -2**(b-1) ... 2**(b-1) - 1 | 0 ... 2**b - 1 |
  | 4    | -8 ... 7                   | 0 ... 15       |
  | 8    | -128 ... 127               | 0 ... 255      |

  Args:
    bits: 2 to 16; float32 does not resolve half a step of more.
    signed: whether negative codes exist.

  Returns:
    (qmin, qmax).

  Raises:
    ValueError: bits outside 2..16.
  """
  if not 2 <= bits <= 16:
    raise ValueError(
      f'`bits` must be in 2..16, got {bits}; leave the tensor unquantized for '
      'full precision'
    )
  qmin = -(2 ** (bits - 1)) if signed else 0
  return qmin, qmin + 2**bits - 1


def affine_qparams(
  min_val: Float[Array, '*s'],
  max_val: Float[Array, '*s'],
  *,
  bits: int,
  signed: bool = True,
  symmetric: bool = False,
  zero_point_rule: ZeroPointRule = 'middle',
) -> QParams:
  """Scale and zero point for values between min_val and max_val.

  With lo = min(min_val, 0) and hi = max(max_val, 0):

      s = (hi - lo) / (qmax - qmin),  z = clip(qmin - round(lo / s), qmin, qmax)

  The symmetric form has s = 2 max(-lo, hi) / (qmax - qmin) and z = 0 if signed,
  else z = 2**(b-1) with `middle` and z = 128 with `published`. The latter is
  right for 8 bits only: 4-bit codes end at 15, and every value becomes 15.

  * s is at least the float32 epsilon 2**-23.
  * lo = hi (both 0) gives s = 1, z = 0.
  * Finite ends beyond 1e38 are read as 1e38, so that s is finite; those that
    are infinite or NaN give a scale that is no number either. That is no error
    here, since compiled programs cannot raise one and the others are to do the
    same; a run stops at the first loss that is not finite, and names the point.
  * A range with lo = -hi puts lo / s on a tie; z is then one of two
    neighbours, whichever the rounding of s leads to.

  Args:
    min_val: smallest value; [] per tensor, [1, f] per column.
    max_val: largest value, same shape.
    bits: b, 2 to 16.
    signed: whether negative codes exist.
    symmetric: a grid symmetric about 0.
    zero_point_rule: zero point of the symmetric form.

  Returns:
    Float32 scale and zero point, the shape of min_val. No gradient flows
    through them.

  Raises:
    ValueError: bits outside 2..16, unknown zero_point_rule.
  """
  if zero_point_rule not in ('middle', 'published'):
    raise ValueError(
      "`zero_point_rule` must be 'middle' or 'published', got "
      f'{zero_point_rule!r}'
    )
  qmin, qmax = code_range(bits, signed=signed)
  low, high = jax.lax.stop_gradient((min_val, max_val))
  low = numerics.bounded(jnp.minimum(low.astype(jnp.float32), 0))
  high = numerics.bounded(jnp.maximum(high.astype(jnp.float32), 0))
  width = 2 * jnp.maximum(-low, high) if symmetric else high - low
  scale = numerics.divide(width, qmax - qmin)
  scale = jnp.maximum(scale, jnp.finfo(jnp.float32).eps)
  if symmetric:
    middle = 128 if zero_point_rule == 'published' else 2 ** (bits - 1)
    zero_point = jnp.full_like(scale, 0 if signed else middle)
  else:
    zero_point = jnp.clip(
      qmin - jnp.round(numerics.divide(low, scale)), qmin, qmax
    )
  empty = low == high
  return QParams(jnp.where(empty, 1, scale), jnp.where(empty, 0, zero_point))


def quantize(
  x: Float[Array, '*s'],
  qparams: QParams,
  *,
  bits: int,
  signed: bool,
  published: bool = False,
) -> Int[Array, '*s']:
  """Integer codes q = clip(round(x / s + z), qmin, qmax).

  Args:
    x: values, any shape.
    qparams: broadcastable to x.
    bits: b, 2 to 16.
    signed: whether negative codes exist.
    published: x times the inverse 1 / s, rounded twice, in place of x / s.

  Returns:
    int32 codes, the shape of x.

  Raises:
    ValueError: bits outside 2..16.
  """
  qmin, qmax = code_range(bits, signed=signed)
  return jnp.clip(_codes(x, qparams, published), qmin, qmax).astype(jnp.int32)


def dequantize(codes: Int[Array, '*s'], qparams: QParams) -> Float[Array, '*s']:
  """The values x^ = s (q - z) that integer codes stand for.

  Args:
    codes: integer codes, from `quantize`.
    qparams: scale and zero point that `quantize` was given.

  Returns:
    Float32 values, the shape of codes.
  """
  return _values(codes.astype(jnp.float32), qparams)


def fake_quant(
  x: Float[Array, '*s'],
  qparams: QParams,
  *,
  bits: int,
  signed: bool,
  gradient: Gradient,
  keep: Bool[Array, '...'] | None = None,
  published: bool = False,
) -> Float[Array, '*s']:
  """Puts x on the grid: x^ = dequantize(quantize(x)).

  Args:
    x: values, any shape.
    qparams: broadcastable to x; computed in float32.
    bits: b, 2 to 16.
    signed: whether negative codes exist.
    gradient: one of the table of the module.
    keep: True for elements that pass unquantized; broadcastable to x, [n, 1]
      for whole rows.
    published: x times the inverse 1 / s, rounded twice, in place of x / s.

  Returns:
    x^, the shape and dtype of x.

  Gradient:
    dx = dy or 0 by the table of the module, c being the code before the clip;
    dx = dy wherever `keep`. None to qparams.

  Raises:
    ValueError: bits outside 2..16, unknown gradient.
  """
  if gradient not in ('plain', 'clipped', 'clipped_strict'):
    raise ValueError(
      "`gradient` must be 'plain', 'clipped' or 'clipped_strict', got "
      f'{gradient!r}'
    )
  return _fake_quant(
    x, qparams, keep, code_range(bits, signed=signed), gradient, published
  )


def _codes(x: Array, qparams: QParams, published: bool) -> Array:
  x = x.astype(jnp.float32)
  if published:
    # The select, without effect on any value, keeps the rounding of the
    # product, which XLA would contract with the sum.
    ratio = jnp.where(jnp.isnan(x), x, x * (1 / qparams.scale))
  else:
    ratio = numerics.divide(x, qparams.scale)
  return jnp.round(ratio + qparams.zero_point)


def _values(codes: Array, qparams: QParams) -> Array:
  return (codes - qparams.zero_point) * qparams.scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _fake_quant(x, qparams, keep, bounds, gradient, published):
  return _fake_quant_fwd(x, qparams, keep, bounds, gradient, published)[0]


def _fake_quant_fwd(x, qparams, keep, bounds, gradient, published):
  codes = _codes(x, qparams, published)
  out = _values(jnp.clip(codes, *bounds), qparams).astype(x.dtype)
  if keep is not None:
    out = jnp.where(keep, x, out)
  if gradient == 'plain':
    return out, None
  qmin, qmax = bounds
  if gradient == 'clipped':
    passing = (codes >= qmin) & (codes <= qmax)
  else:
    passing = (codes > qmin) & (codes < qmax)
  return out, passing if keep is None else passing | keep


def _fake_quant_bwd(bounds, gradient, published, passing, dy):
  del bounds, published
  dx = dy if gradient == 'plain' else ops.pass_where(passing, dy)
  return dx, None, None


_fake_quant.defvjp(_fake_quant_fwd, _fake_quant_bwd)
