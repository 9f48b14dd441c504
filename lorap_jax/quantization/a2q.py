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

By default it differs from the published code (github.com/weihai-98/A-2Q),
whose arithmetic `a2q_published` has, and a list of what differs.

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
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lorap_jax import ops
from lorap_jax._typing import Array, Bool, Float, Int
from lorap_jax.quantization import numerics

LN2 = 0.6931471805599453
_MIN_SCALE = 1e-20  # Times a code and a gradient it is a number yet.

Level = Literal['node', 'graph']
Tensor = Literal['feature', 'message', 'weight']
Gradient = Literal['clipped', 'plain']
Reduction = Literal['task', 'local']


class Parts(NamedTuple):
  """Values that the forward and the backward pass both use.

  Attributes:
    scale: the step |s|.
    qmax: largest code.
    threshold: C is where |x| exceeds it.
    ratio: x / |s| after the clip [n, f].
    codes: q [n, f].
  """

  scale: Array
  qmax: Array
  threshold: Array
  ratio: Array
  codes: Array


@dataclasses.dataclass(frozen=True)
class Rule:
  """How one kind of A2Q quantizer computes its codes and its gradients.

  Attributes:
    scale_grad: `task` or `local`, the reduction for ds.
    bits_grad: `task` or `local`, the reduction for db.
    min_bits: lower clamp on round(|b|), None for no clamp.
    max_bits: upper clamp on round(|b|), None for no clamp.
    clip_input_grad: dx = 0 on C; False passes dy through.
  """

  scale_grad: Reduction
  bits_grad: Reduction
  min_bits: int | None = 2
  max_bits: int | None = 8
  clip_input_grad: bool = True

  def parts(self, x: Array, scale: Array, bits: Array) -> Parts:
    """The codes, and what they were computed from."""
    qmax = self.largest_code(x, bits)
    step = jnp.maximum(jnp.abs(scale), _MIN_SCALE)
    threshold = qmax * step
    size = jnp.minimum(numerics.divide(jnp.abs(x), step), qmax)
    codes = jnp.floor(size + 0.5)
    with_sign = lambda t: jnp.where(x < 0, -t, t)
    return Parts(step, qmax, threshold, with_sign(size), with_sign(codes))

  def largest_code(self, x: Array, bits: Array) -> Array:
    """qmax, of the type of x."""
    qmax = numerics.symmetric_qmax(
      round_bits(bits, min_bits=self.min_bits, max_bits=self.max_bits)
    ).astype(x.dtype)
    if qmax.shape[1] > 1:  # One for each row stays out of the inner loop.
      qmax = ops.computed_once(qmax)
    return qmax

  def gradients(
    self, x: Array, y: Array, scale: Array, bits: Array, mask: Array, dy: Array
  ) -> tuple[Array, Array, Array]:
    """(dx, ds, db) for the upstream gradient dy of y = x^."""
    parts = self.parts(x, scale, bits)
    clipped = ~(jnp.abs(x) <= parts.threshold)
    dx = ops.pass_where(~clipped, dy) if self.clip_input_grad else dy
    axes = tuple(i for i in (0, 1) if scale.shape[i] == 1)
    if self.scale_grad == self.bits_grad == 'task' and axes == (1,):
      ds, db = _row_sums(x, y, dy, clipped, parts)
    else:
      sign = jnp.sign(x)
      d_scale = jnp.where(clipped, sign * parts.qmax, parts.codes - parts.ratio)
      d_bits = jnp.where(clipped, sign * slope(parts), 0)
      ds, db = self.reduce(x, dy, mask, parts, axes, d_scale, d_bits)
    return (
      dx,
      jnp.where(scale < 0, -ds, ds),
      jnp.where(bits < 0, -db, db),
    )

  def reduce(
    self,
    x: Array,
    dy: Array,
    mask: Array,
    parts: Parts,
    axes: tuple[int, ...],
    d_scale: Array,
    d_bits: Array,
  ) -> tuple[Array, Array]:
    """D_s and D_b reduced over the axes as this rule says."""
    x_hat = parts.codes * parts.scale
    # As a comparison, because x_hat - x may be contracted to one fused
    # multiply-add, whose sign is not that of the rounded difference.
    error_sign = (x_hat > x).astype(x.dtype) - (x_hat < x).astype(x.dtype)
    weights = mask.astype(x.dtype).T

    def reduced(kind: str, derivative: Array) -> Array:
      values = (dy if kind == 'task' else error_sign) * derivative
      if 0 in axes:
        # A row times a matrix: XLA's CPU column sums are slow behind a fusion.
        values = weights @ values
      total = jnp.sum(values, 1, keepdims=True) if 1 in axes else values
      if kind == 'task':
        return total
      rows = jnp.maximum(jnp.sum(weights), 1) if 0 in axes else 1
      return total / (rows * (x.shape[1] if 1 in axes else 1))

    return (
      reduced(self.scale_grad, d_scale),
      reduced(self.bits_grad, d_bits),
    )


# Reductions of ds and db.
REDUCTIONS: dict[tuple[Level, Tensor], tuple[Reduction, Reduction]] = {
  ('node', 'feature'): ('local', 'local'),
  ('node', 'message'): ('local', 'local'),
  ('node', 'weight'): ('task', 'task'),
  ('graph', 'feature'): ('task', 'task'),
  ('graph', 'message'): ('local', 'task'),
  ('graph', 'weight'): ('task', 'task'),
}


def a2q_rule(
  level: Level, tensor: Tensor, *, gradient: Gradient = 'clipped'
) -> Rule:
  """The rule of one A2Q quantizer.

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
    gradient: `clipped` stops dx at clipped elements, `plain` passes it.

  Returns:
    The rule, to be passed to `fake_quant`.

  Raises:
    ValueError: unknown level, tensor or gradient.
  """
  if (level, tensor) not in REDUCTIONS:
    raise ValueError(
      f'no A2Q rule for level={level!r}, tensor={tensor!r}; use level '
      "'node' or 'graph' and tensor 'feature', 'message' or 'weight'"
    )
  if gradient not in ('clipped', 'plain'):
    raise ValueError(
      f"`gradient` must be 'clipped' or 'plain', got {gradient!r}"
    )
  of_scale, of_bits = REDUCTIONS[level, tensor]
  return Rule(of_scale, of_bits, clip_input_grad=gradient == 'clipped')


def with_sign_bit(rule: Rule, extra: int) -> Rule:
  """The rule for data whose bits are counted with `extra` bits on top.

  Args:
    rule: rule from `a2q_rule`, with clamps.
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
    rule: arithmetic and gradients, from `a2q_rule`.

  Returns:
    int32 codes; x^ = |scale| * codes.
  """
  return rule.parts(x, scale, bits).codes.astype(jnp.int32)


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
    rule: arithmetic and gradients, from `a2q_rule`.
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
  parts = rule.parts(x, scale, bits)
  return parts.codes * parts.scale


def _fake_quant_fwd(x, scale, bits, mask, rule):
  y = _fake_quant(x, scale, bits, mask, rule)
  return y, (x, y, scale, bits, mask)


def _fake_quant_bwd(rule, residuals, dy):
  x, y, scale, bits, mask = residuals
  return *rule.gradients(x, y, scale, bits, mask, dy), None


_fake_quant.defvjp(_fake_quant_fwd, _fake_quant_bwd)


def slope(parts: Parts) -> Array:
  """|D_b| on C."""
  return (parts.qmax + 1) * LN2 * parts.scale


def _row_sums(x, y, dy, clipped, parts: Parts):
  """sum_j dy_j D_j of rows, without writing D_s and D_b out.

  s D_s is x^ on C and x^ - x off C, and D_b is x^ (qmax + 1) ln(2) / qmax on C.
  dy off C is the dx of the rule, which exists.
  """
  off = ops.pass_where(~clipped, dy)
  on_c = jnp.sum((dy - off) * y, 1, keepdims=True)
  off_c = jnp.sum(off * (y - x), 1, keepdims=True)
  ds = (on_c + off_c) / parts.scale
  return ds, on_c * ((parts.qmax + 1) * LN2 / parts.qmax)
