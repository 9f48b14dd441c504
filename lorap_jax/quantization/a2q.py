"""A2Q: aggregation-aware quantization with learned scales and bit-widths.

Symmetric uniform quantizer with a learned scale s and a learned, real-valued
bit-width b:

    b^   = round(|b|)                         (halves to even)
    qmax = 2**(b^ - 1) - 1
    q    = sign(x) floor(min(|x| / s, qmax) + 1/2)
    x^   = s q
    C    = {|x| > s qmax}                     (the clipped elements)

and its derivatives with respect to scale and bits:

    D_s = q - x/s          off C,   sign(x) qmax                on C
    D_b = 0                off C,   sign(x) 2**(b^-1) ln(2) s   on C

Two reductions turn them into gradients. `task`: sum_j dy_j D_j, the chain
rule. `local`: mean_j sgn(x^_j - x_j) D_j, the straight-through gradient of the
mean absolute quantization error; the upstream gradient is ignored, which lets a
node learn that no label reaches.

Non-negative data uses the same formula with one bit more, and is reported as
b - 1.

Differs from the published code (github.com/weihai-98/A-2Q) by default;
`a2q_rule(level, tensor, published=True)` computes what that code computes,
forward and gradients:

1. Bits are clamped to [2, 8]. The published rules have no clamp: b^ = 1 gives
   qmax = 0 and erases the row, b^ = 0 gives qmax = -1/2, and its two in-place
   clips then map every element to +-s.
2. ds and db carry d|s|/ds and d|b|/db. The published code takes |s| and |b| in
   the forward pass only.
3. The clipped set uses |s| qmax. The published graph-level weight and message
   rules use s qmax with the signed s, so that a scale which turned negative
   marks every element as clipped.
4. A scale below 1e-20 is read as 1e-20 instead of dividing by 0.
5. dx = 0 for clipped elements, which do not change x^. The published code means
   to mask them, but tests the already clipped ratio, so that its mask only ever
   acts at b^ = 0, and passes dx = dy, which has no bound for what moves x: a
   prompt on the nodes can run off to where everything is clipped.
   `gradient='plain'` keeps that.

| their name                     | ours                  |
|--------------------------------|-----------------------|
| u_quant_fea (func / gc)        | a2q_rule('node' / 'graph', 'feature') |
| u_quant_xw (func / gc)         | a2q_rule('node' / 'graph', 'message') |
| u_quant_weight (func / gc)     | a2q_rule('node' / 'graph', 'weight')  |
| gama, alpha                    | scale                 |
| bit                            | bits                  |

References:
  Zhu, Li, Mo, Hu, Li, Liu, Liang, Cheng: A2Q: Aggregation-Aware Quantization
  for Graph Neural Networks, ICLR 2023, arXiv 2302.00193.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.quantization import numerics

_LN2 = 0.6931471805599453
_MIN_SCALE = 1e-20  # Times a code and a gradient it is a number yet.

Level = Literal['node', 'graph']
Gradient = Literal['clipped', 'plain']


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one kind of A2Q quantizer computes its bits and its gradients.

  Attributes:
    scale_grad: `task` or `local`, the reduction for ds.
    bits_grad: `task` or `local`, the reduction for db.
    min_bits: lower clamp on round(|b|), None for no clamp.
    max_bits: upper clamp on round(|b|), None for no clamp.
    clip_input_grad: dx = 0 on C; False passes dy through.
    signed_threshold: C compares |x| with s qmax, sign of s kept.
    chain_sign: multiply ds by sign(s) and db by sign(b); with it the rest is
      as corrected, too.
    aliased_mask: the mask of the published backward, which acts at b^ = 0
      only, and there zeroes dx and the dy inside the task sums alike.
    scale_sign: `x` or `ratio`, whose sign enters D_s on C. They differ at
      b^ = 0 only, where the published clips leave the ratio at +1/2.
    bits_sign: the same for D_b.
  """

  scale_grad: Literal['task', 'local']
  bits_grad: Literal['task', 'local']
  min_bits: int | None = 2
  max_bits: int | None = 8
  clip_input_grad: bool = True
  signed_threshold: bool = False
  chain_sign: bool = True
  aliased_mask: bool = False
  scale_sign: Literal['x', 'ratio'] = 'x'
  bits_sign: Literal['x', 'ratio'] = 'x'


_TASK = Rule(scale_grad='task', bits_grad='task')
_LOCAL = Rule(scale_grad='local', bits_grad='local')
_MIXED = Rule(scale_grad='local', bits_grad='task')

_RULES = {
  ('node', 'feature'): _LOCAL,
  ('node', 'message'): _LOCAL,
  ('node', 'weight'): _TASK,
  ('graph', 'feature'): _TASK,
  ('graph', 'message'): _MIXED,
  ('graph', 'weight'): _TASK,
}

_UNCORRECTED: dict[str, Any] = {
  'min_bits': None,
  'max_bits': None,
  'clip_input_grad': False,
  'chain_sign': False,
}
_PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
  ('node', 'feature'): {'aliased_mask': True, 'scale_sign': 'ratio'},
  ('node', 'message'): {'aliased_mask': True, 'scale_sign': 'ratio'},
  ('node', 'weight'): {
    'aliased_mask': True,
    'scale_sign': 'ratio',
    'bits_sign': 'ratio',
  },
  ('graph', 'feature'): {'aliased_mask': True},
  ('graph', 'message'): {'signed_threshold': True, 'bits_sign': 'ratio'},
  ('graph', 'weight'): {'signed_threshold': True, 'bits_sign': 'ratio'},
}


def a2q_rule(
  level: Level,
  tensor: Literal['feature', 'message', 'weight'],
  *,
  published: bool = False,
  gradient: Gradient = 'clipped',
) -> Rule:
  """The gradient rule of one A2Q quantizer.

  | level, tensor  | parameters            | ds    | db    |
  |----------------|-----------------------|-------|-------|
  | node, feature  | one per node          | local | local |
  | node, message  | one per column, XW    | local | local |
  | node, weight   | one per output channel| task  | task  |
  | graph, feature | one per group (NNS)   | task  | task  |
  | graph, message | one per column        | local | task  |
  | graph, weight  | one per output channel| task  | task  |

  Args:
    level: node-level (one graph) or graph-level (many graphs) task.
    tensor: what is quantized. `message` is what is summed over neighbours.
    published: True for the published code's arithmetic, its bugs included
      (see the module docstring), False for the corrected default.
    gradient: `clipped` stops dx at clipped elements, `plain` passes it; of
      no effect if published.

  Returns:
    The rule, to be passed to `fake_quant`.

  Raises:
    ValueError: unknown level, tensor or gradient.
  """
  if (level, tensor) not in _RULES:
    raise ValueError(
      f'no A2Q rule for level={level!r}, tensor={tensor!r}; use level '
      "'node' or 'graph' and tensor 'feature', 'message' or 'weight'"
    )
  if gradient not in ('clipped', 'plain'):
    raise ValueError(
      f"`gradient` must be 'clipped' or 'plain', got {gradient!r}"
    )
  rule = _RULES[level, tensor]
  if published:
    return dataclasses.replace(
      rule, **_UNCORRECTED, **_PUBLISHED[level, tensor]
    )
  return dataclasses.replace(rule, clip_input_grad=gradient == 'clipped')


def with_sign_bit(rule: Rule, extra: int) -> Rule:
  """The rule for data whose bits are counted with `extra` bits on top.

  Args:
    rule: from `a2q_rule`, with clamps.
    extra: 1 for non-negative data, 0 otherwise.

  Returns:
    The rule with its upper clamp raised, so that the reported bits, which are
    `extra` less, reach the same maximum.
  """
  if rule.max_bits is None:
    return rule
  return dataclasses.replace(rule, max_bits=rule.max_bits + extra)


def round_bits(
  bits: Float[Array, '*s'],
  *,
  min_bits: int | None = 2,
  max_bits: int | None = 8,
) -> Float[Array, '*s']:
  """The integer bit-width in use, b^ = clip(round(|b|), min_bits, max_bits).

  Args:
    bits: learned bit-widths b, any shape.
    min_bits: lower clamp, None for none.
    max_bits: upper clamp, None for none.

  Returns:
    Integral floats, same shape.
  """
  return jnp.clip(jnp.round(jnp.abs(bits)), min_bits, max_bits)


class _Parts(NamedTuple):
  """What the forward and the backward pass both need."""

  scale: Array  # |s|, > 0 unless published
  qmax: Array
  threshold: Array
  ratio: Array  # x / |s| after both clips
  codes: Array


def _parts(x: Array, scale: Array, bits: Array, rule: Rule) -> _Parts:
  qmax = numerics.symmetric_qmax(
    round_bits(bits, min_bits=rule.min_bits, max_bits=rule.max_bits)
  ).astype(x.dtype)
  if qmax.shape[1] > 1:  # One for each row stays out of the inner loop.
    qmax = numerics.computed_once(qmax)
  step = jnp.abs(scale)
  if rule.chain_sign:  # The published code divides by a scale of 0.
    step = jnp.maximum(step, _MIN_SCALE)
  threshold = qmax * (scale if rule.signed_threshold else step)
  if rule.min_bits is not None:  # qmax > 0
    size = jnp.minimum(numerics.divide(jnp.abs(x), step), qmax)
    codes = jnp.floor(size + 0.5)
    with_sign = lambda t: jnp.where(x < 0, -t, t)
    return _Parts(step, qmax, threshold, with_sign(size), with_sign(codes))
  # Two clips in this order, as published: they differ from one at qmax < 0.
  ratio = numerics.divide(x, step)
  ratio = jnp.where(ratio > qmax, qmax, ratio)
  ratio = jnp.where(ratio < -qmax, -qmax, ratio)
  codes = jnp.floor(jnp.abs(ratio) + 0.5) * jnp.sign(x)
  return _Parts(step, qmax, threshold, ratio, codes)


def quantize(
  x: Float[Array, 'n f'],
  scale: Float[Array, 'a b'],
  bits: Float[Array, 'a b'],
  *,
  rule: Rule,
) -> Int[Array, 'n f']:
  """Integer codes q of the quantizer above, in [-qmax, qmax].

  Args:
    x: values [n, f].
    scale: [n, 1] per row, [1, f] per column or [1, 1].
    bits: learned bit-widths, the shape of scale.
    rule: from `a2q_rule`.

  Returns:
    int32 codes; x^ = |scale| * codes.
  """
  return _parts(x, scale, bits, rule).codes.astype(jnp.int32)


def fake_quant(
  x: Float[Array, 'n f'],
  scale: Float[Array, 'a b'],
  bits: Float[Array, 'a b'],
  *,
  rule: Rule,
  mask: Bool[Array, 'n 1'] | None = None,
) -> Float[Array, 'n f']:
  """Puts x on the grid of the A2Q quantizer: x^ = |s| q.

  Args:
    x: finite values [n, f].
    scale: step sizes s, [n, 1] per row, [1, f] per column or [1, 1].
    bits: learned bit-widths b, the shape of scale.
    rule: from `a2q_rule`.
    mask: [n, 1], True for real rows. Rows of padding stay out of the sums
      and means over rows of column gradients.

  Returns:
    x^ [n, f], exactly on the grid.

  Gradient:
    dx = dy, but 0 on C with `clip_input_grad`.
    ds = sum_j dy_j D_s (`task`) or mean_j sgn(x^_j - x_j) D_s (`local`),
    reduced over the axes along which scale is broadcast, times sign(s).
    db likewise with D_b, times sign(b). On the bound |x| = s qmax an element
    counts as not clipped. D_s and D_b: module docstring.

  Raises:
    ValueError: scale or bits do not have two axes that broadcast to x.
  """
  for name, value in (('scale', scale), ('bits', bits)):
    if any(v not in (1, d) for v, d in zip(value.shape, x.shape, strict=True)):
      raise ValueError(
        f'`{name}` of shape {value.shape} does not broadcast to x of shape '
        f'{x.shape}; use [n, 1] per row, [1, f] per column or [1, 1]'
      )
  if mask is None:
    mask = jnp.ones((x.shape[0], 1), bool)
  return _fake_quant(x, scale, bits, mask, rule)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _fake_quant(x, scale, bits, mask, rule):
  del mask
  parts = _parts(x, scale, bits, rule)
  return parts.codes * parts.scale


def _fake_quant_fwd(x, scale, bits, mask, rule):
  y = _fake_quant(x, scale, bits, mask, rule)
  return y, (x, y, scale, bits, mask)


def _fake_quant_bwd(rule, residuals, dy):
  x, y, scale, bits, mask = residuals
  parts = _parts(x, scale, bits, rule)
  clipped = ~(jnp.abs(x) <= parts.threshold)
  dx = dy
  if rule.clip_input_grad:
    dx = numerics.pass_where(~clipped, dy)
  elif rule.aliased_mask:
    live = (parts.ratio >= -parts.qmax) & (parts.ratio <= parts.qmax)
    dx = dy = jnp.where(live, dy, 0)
  axes = tuple(i for i in (0, 1) if scale.shape[i] == 1)
  corrected_task = rule.chain_sign and rule.scale_grad == 'task'
  if corrected_task and rule.bits_grad == 'task' and axes == (1,):
    ds, db = _row_sums(x, y, dy, clipped, parts)
  else:
    ds, db = _sums(x, dy, mask, clipped, parts, rule, axes)
  if rule.chain_sign:
    ds = jnp.where(scale < 0, -ds, ds)
    db = jnp.where(bits < 0, -db, db)
  return dx, ds, db, None


def _row_sums(x, y, dy, clipped, parts: _Parts):
  """sum_j dy_j D_j of rows, without writing D_s and D_b out.

  s D_s is x^ on C and x^ - x off C, and D_b is x^ (qmax + 1) ln(2) / qmax on C.
  dy off C is the dx of the rule, which exists.
  """
  off = numerics.pass_where(~clipped, dy)
  on_c = jnp.sum((dy - off) * y, 1, keepdims=True)
  off_c = jnp.sum(off * (y - x), 1, keepdims=True)
  ds = (on_c + off_c) / parts.scale
  return ds, on_c * ((parts.qmax + 1) * _LN2 / parts.qmax)


def _sums(x, dy, mask, clipped, parts: _Parts, rule: Rule, axes):
  """The sums of all other rules and shapes, before the signs of s and b."""
  x_hat = parts.codes * parts.scale
  # As a comparison, because x_hat - x may be contracted to one fused
  # multiply-add, whose sign is not that of the rounded difference.
  sign_of = {'x': jnp.sign(x), 'ratio': jnp.sign(parts.ratio)}
  error_sign = (x_hat > x).astype(x.dtype) - (x_hat < x).astype(x.dtype)
  d_scale = jnp.where(
    clipped, sign_of[rule.scale_sign] * parts.qmax, parts.codes - parts.ratio
  )
  slope = (parts.qmax + 1) * _LN2 * parts.scale
  d_bits = jnp.where(clipped, sign_of[rule.bits_sign] * slope, 0)
  weights = mask.astype(x.dtype).T

  def reduce(kind, derivative):
    values = (dy if kind == 'task' else error_sign) * derivative
    if 0 in axes:
      # A row times a matrix: XLA's CPU column sums are slow behind a fusion.
      values = weights @ values
    total = jnp.sum(values, 1, keepdims=True) if 1 in axes else values
    if kind == 'task':
      return total
    rows = jnp.maximum(jnp.sum(weights), 1) if 0 in axes else 1
    return total / (rows * (x.shape[1] if 1 in axes else 1))

  return reduce(rule.scale_grad, d_scale), reduce(rule.bits_grad, d_bits)


_fake_quant.defvjp(_fake_quant_fwd, _fake_quant_bwd)
