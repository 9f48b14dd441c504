"""A2Q's published arithmetic, forward and gradients, for comparisons.

From github.com/weihai-98/A-2Q. Where it differs from `a2q`:

1. `a2q` clamps bits to [2, 8]. The published rules have no clamp: b^ = 1 gives
   qmax = 0 and erases the row, b^ = 0 gives qmax = -1/2, and its two in-place
   clips then map every element to +-s.
2. `a2q` carries d|s|/ds and d|b|/db. The published code takes |s| and |b| in
   the forward pass only.
3. The clipped set of `a2q` uses |s| qmax. The published graph-level weight and
   message rules use s qmax with the signed s, so that a scale which turned
   negative marks every element as clipped.
4. `a2q` reads a scale below 1e-20 as 1e-20. The published code divides by 0.
5. In `a2q` dx = 0 for clipped elements, which do not change x^. The published
   code means to mask them, but tests the already clipped ratio, so that its
   mask only ever acts at b^ = 0, and passes dx = dy, which has no bound for
   what moves x: a prompt on the nodes can run off to where everything is
   clipped. `a2q_rule(gradient='plain')` keeps that.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from lorap_jax._typing import Array
from lorap_jax.quantization import a2q, numerics


@dataclasses.dataclass(frozen=True)
class PublishedRule(a2q.Rule):
  """A rule as the published code has it.

  Attributes:
    signed_threshold: C compares |x| with s qmax, sign of s kept.
    aliased_mask: the mask of the published backward, which acts at b^ = 0
      only, and there zeroes dx and the dy inside the task sums alike.
    scale_sign: `x` or `ratio`, whose sign enters D_s on C. They differ at
      b^ = 0 only, where the published clips leave the ratio at +1/2.
    bits_sign: `x` or `ratio`, whose sign enters D_b on C.
  """

  min_bits: int | None = None
  max_bits: int | None = None
  clip_input_grad: bool = False
  signed_threshold: bool = False
  aliased_mask: bool = False
  scale_sign: Literal['x', 'ratio'] = 'x'
  bits_sign: Literal['x', 'ratio'] = 'x'

  def parts(self, x: Array, scale: Array, bits: Array) -> a2q.Parts:
    """The codes, by two clips at -qmax and qmax and without smallest scale."""
    qmax = self.largest_code(x, bits)
    step = jnp.abs(scale)
    threshold = qmax * (scale if self.signed_threshold else step)
    # Two clips in this order: they differ from one at qmax < 0.
    ratio = numerics.divide(x, step)
    ratio = jnp.where(ratio > qmax, qmax, ratio)
    ratio = jnp.where(ratio < -qmax, -qmax, ratio)
    codes = jnp.floor(jnp.abs(ratio) + 0.5) * jnp.sign(x)
    return a2q.Parts(step, qmax, threshold, ratio, codes)

  def gradients(
    self, x: Array, y: Array, scale: Array, bits: Array, mask: Array, dy: Array
  ) -> tuple[Array, Array, Array]:
    """(dx, ds, db) for the upstream gradient dy, as the fields say."""
    del y
    parts = self.parts(x, scale, bits)
    clipped = ~(jnp.abs(x) <= parts.threshold)
    if self.aliased_mask:
      live = (parts.ratio >= -parts.qmax) & (parts.ratio <= parts.qmax)
      dy = jnp.where(live, dy, 0)
    sign_of = {'x': jnp.sign(x), 'ratio': jnp.sign(parts.ratio)}
    d_scale = jnp.where(
      clipped, sign_of[self.scale_sign] * parts.qmax, parts.codes - parts.ratio
    )
    d_bits = jnp.where(clipped, sign_of[self.bits_sign] * a2q.slope(parts), 0)
    axes = tuple(i for i in (0, 1) if scale.shape[i] == 1)
    return dy, *self.reduce(x, dy, mask, parts, axes, d_scale, d_bits)


_RULES: dict[tuple[a2q.Level, a2q.Tensor], dict[str, Any]] = {
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


def published_rule(level: a2q.Level, tensor: a2q.Tensor) -> PublishedRule:
  """The published rule of one A2Q quantizer, for `a2q.fake_quant`.

  Args:
    level: `node` or `graph`.
    tensor: `feature`, `message` or `weight`, as in `a2q.a2q_rule`.

  Returns:
    The rule.

  Raises:
    ValueError: unknown level or tensor.
  """
  rule = a2q.a2q_rule(level, tensor)
  return PublishedRule(rule.scale_grad, rule.bits_grad, **_RULES[level, tensor])
