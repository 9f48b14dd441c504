"""Properties of quantizers that learn: A2Q, of nodes and groups, and MixQ.

Values lie on the bounds and ties of the grids as well. Sums over rows and
columns are compared with those of closed forms in float64.
"""

import functools
import itertools

import drawing
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import PER, SHAPE, padded, same, sums, unpadded

from lorap_jax.quantization import a2q, a2q_groups, mixq

pytestmark = pytest.mark.optimized

RULES = list(
  itertools.product(
    ('node', 'graph'), ('feature', 'message', 'weight'), ('clipped', 'plain')
  )
)
LN2 = np.log(2)
masks = hnp.arrays(np.bool_, (SHAPE[0], 1))
bit_widths = st.one_of(
  drawing.floats(-9, 9), st.sampled_from([2.0, 2.5, 3.5, 8.0, -4.0, 1.0, 0.0])
)
signed_scales = st.one_of(drawing.scales, drawing.scales.map(lambda s: -s))


def moved(tree, order):
  """Rows in another order, of what has a row for each of x."""
  move = lambda a: a[order] if a.shape[:1] == (SHAPE[0],) else a
  return jax.tree.map(lambda a: move(np.asarray(a)), tree)


@functools.cache
def a2q_programs(cases):
  def run(x, scale, bits, dy, mask):
    found = []
    for level, tensor, gradient in cases:
      rule = a2q.a2q_rule(level, tensor, gradient=gradient)
      put = functools.partial(a2q.fake_quant, rule=rule)
      y, back = jax.vjp(functools.partial(put, mask=mask), x, scale, bits)
      again, zero = (put(v, scale, bits, mask=mask) for v in (y, 0 * x))
      codes = a2q.quantize(x, scale, bits, rule=rule)
      dx, *sums = back(dy)
      found.append(((codes, y, again, zero, dx), sums))
    return found

  return run, jax.jit(run), jax.jit(jax.vmap(run))


def a2q_terms(x, scale, bits, dy, rule):
  """Codes and D_s, D_b of each element, as the module's docstring has them."""
  qmax = np.exp2(np.clip(np.round(np.abs(bits)), 2, 8) - 1) - 1
  qmax = qmax.astype(np.float32)
  step = np.abs(scale)
  with np.errstate(over='ignore'):
    size = np.minimum(np.abs(x) / step, qmax)
  codes = np.where(x < 0, -1, 1) * np.floor(size + np.float32(0.5))
  clipped = np.abs(x) > step * qmax
  ratio = np.sign(x) * size.astype(np.float64)
  d_scale = np.where(clipped, np.sign(x) * qmax, codes - ratio)
  d_bits = np.where(clipped, np.sign(x) * (qmax + 1.0) * LN2 * step, 0)
  error = np.sign((codes * step).astype(np.float32) - x)
  terms = []
  for kind, derivative, learned in (
    (rule.scale_grad, d_scale, scale),
    (rule.bits_grad, d_bits, bits),
  ):
    by = dy.astype(np.float64) if kind == 'task' else error
    terms.append(by * derivative * np.where(learned < 0, -1, 1))
  return codes, clipped, terms


@drawing.sizes(12, 500)
@pytest.mark.parametrize('per', PER)
def test_a2q(per, count):
  shape = PER[per]
  cases = tuple(RULES if count > 100 else RULES[list(PER).index(per) :: 3])

  @st.composite
  def arrays(draw):
    scale = draw(hnp.arrays(np.float32, shape, elements=signed_scales))
    bits = draw(hnp.arrays(np.float32, shape, elements=bit_widths))
    return draw(drawing.matrices(np.abs(scale))), scale, bits

  def holds(given, dy, mask, order):
    x, scale, bits = given
    args = x, scale, bits, dy, mask
    eager, jitted, mapped = a2q_programs(cases)
    out = jitted(*args)
    plain = out[:1]
    if drawing.one_by_one(per, count):
      plain = a2q_programs(cases[:1])[0](*map(jnp.asarray, args))
    many = mapped(
      *(padded(a, v) for a, v in zip(args, (7e30, 9, 3, 1, False), strict=True))
    )
    many = jax.tree.map(unpadded, many)
    exact = lambda found: [elements for elements, _ in found]
    same(exact(plain), exact(out[:1]))
    same(exact(many), exact(out))
    same(exact(jitted(*moved(args, order))), moved(exact(out), order))
    for i, (name, found) in enumerate(zip(cases, out, strict=True)):
      rule = a2q.a2q_rule(*name[:2], gradient=name[2])
      codes, y, again, zero, dx = map(np.asarray, found[0])
      expected, clipped, terms = a2q_terms(x, scale, bits, dy, rule)
      same(codes, expected)
      assert np.abs(codes).max() <= 127 and np.isfinite(y).all()
      same(y, codes.astype(np.float32) * np.abs(scale))
      same(again, y)
      same(zero, np.zeros(SHAPE))
      same(dx, dy * ~(clipped & (name[2] == 'clipped')))
      drawing.monotone(x, y, per)
      rows = mask if shape[0] == 1 else np.ones_like(mask)
      kinds = rule.scale_grad, rule.bits_grad
      slack = 3 * np.abs(codes) + 1.0, 0 * x
      for gradients in (found[1], many[i][1], *[plain[0][1]] * (i == 0)):
        for j, term in enumerate(terms):
          size = np.abs(dy) if kinds[j] == 'task' else 1
          share = 1.0
          if kinds[j] == 'local':
            share /= max(rows.sum(), 1) if shape[0] == 1 else 1
            share /= SHAPE[1] if shape[1] == 1 else 1
          weight = rows * share
          sums(gradients[j], term * weight, shape, slack[j] * weight * size)

  strategies = (drawing.upstream, masks, drawing.permutations)
  drawing.check(count, holds, arrays(), *strategies)


@functools.cache
def group_programs(exact):
  rule = a2q.a2q_rule('graph', 'feature')

  def run(x, scale, bits, dy):
    largest = jnp.max(jnp.abs(x), 1)
    group = a2q_groups.nearest_group(largest, scale, bits, exact_range=exact)
    put = lambda x, s, b: a2q.fake_quant(
      x, s[group][:, None], b[group][:, None], rule=rule
    )
    y, back = jax.vjp(put, x, scale, bits)
    return group, y, back(dy)

  return run, jax.jit(run)


@drawing.sizes(10, 250)
@pytest.mark.parametrize('exact', [False, True])
def test_a2q_groups(exact, count):
  """The nearest group, whose parameters learn from its rows alone."""

  def holds(x, scale, bits, dy, order):
    args = x, scale, bits, dy
    eager, jitted = group_programs(exact)
    group, y, (dx, ds, db) = jitted(*args)
    plain = eager(*map(jnp.asarray, args))
    same((plain[:2], plain[2][0]), ((group, y), dx))
    group = np.asarray(group)
    reach = np.abs(scale) * (np.exp2(np.round(np.abs(bits)) - 1) - exact)
    largest = np.abs(x).max(1, keepdims=True)
    distance = np.abs(largest.astype(np.float64) - reach)
    chosen = distance[np.arange(len(x)), group]
    slack = 1e-6 * (largest[:, 0] + np.abs(reach).max())
    assert np.all(chosen <= distance.min(1) + slack)
    first = [np.flatnonzero(reach == reach[g])[0] for g in group]
    same(group, np.array(first))  # The first of equal ones.
    rule = a2q.a2q_rule('graph', 'feature')
    own = scale[group][:, None], bits[group][:, None]
    codes, clipped, terms = a2q_terms(x, *own, dy, rule)
    same(y, codes.astype(np.float32) * np.abs(own[0]))
    same(dx, dy * ~clipped)
    mine = np.eye(len(scale))[group].T  # Rows of each group.
    slack = np.abs(dy) * (3 * np.abs(codes) + 1), 0 * x
    for found, term, more in zip((ds, db), terms, slack, strict=True):
      sums(
        np.asarray(found)[:, None], mine @ term, (len(scale), 1), mine @ more
      )
    again = jitted(x[order], scale, bits, dy[order])
    same(again[:2], (group[order], np.asarray(y)[order]))
    more = [
      np.concatenate([a, np.full((3, SHAPE[1]), v, np.float32)])
      for a, v in ((x, 7e3), (dy, 0))
    ]
    many = jitted(more[0], scale, bits, more[1])
    same([np.asarray(a)[: len(x)] for a in many[:2]], (group, y))
    for a, b in zip(many[2][1:], (ds, db), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)

  drawing.check(
    count,
    holds,
    drawing.matrices().map(lambda x: np.clip(x, -1e6, 1e6)),
    hnp.arrays(np.float32, 5, elements=signed_scales),
    hnp.arrays(np.float32, 5, elements=bit_widths),
    drawing.upstream,
    drawing.permutations,
  )


MIXQ = list(itertools.product(range(1, 9), (False, True)))


@functools.cache
def mixq_programs(forms, axis):
  def run(x, scale, zero_point, dy, mask):
    found = []
    for bits, signed in forms:
      how = {'bits': bits, 'signed': signed}
      put = functools.partial(mixq.fake_quant, mask=mask, **how)
      y, back = jax.vjp(put, x, scale, zero_point)
      first = mixq.calibrate(x, axis=axis, mask=mask, **how)
      starts = put(x, *first), put(0 * x, *first)
      dx, *sums = back(dy)
      found.append(((y, put(y, scale, zero_point), dx, first, starts), sums))
    return found

  return run, jax.jit(run), jax.jit(jax.vmap(run))


@drawing.sizes(12, 700)
@pytest.mark.parametrize('per', PER)
def test_mixq(per, count):
  shape, axis = PER[per], {'tensor': None, 'column': 0, 'row': 1}[per]
  forms = tuple(MIXQ if count > 100 else MIXQ[list(PER).index(per) :: 3])

  @st.composite
  def arrays(draw):
    scale = draw(hnp.arrays(np.float32, shape, elements=signed_scales))
    zeros = st.one_of(
      st.sampled_from([0.0, 1.0, -3.0, 0.5, 128.0]), drawing.floats(-300, 300)
    )
    zero_point = draw(hnp.arrays(np.float32, shape, elements=zeros))
    return draw(drawing.matrices(scale, zero_point)), scale, zero_point

  def holds(given, dy, mask, order):
    x, scale, z = given
    args = x, scale, z, dy, mask
    eager, jitted, mapped = mixq_programs(forms, axis)
    out = jitted(*args)
    plain = out[:1]
    if drawing.one_by_one(per, count):
      plain = mixq_programs(forms[:1], axis)[0](*map(jnp.asarray, args))
    many = mapped(
      *(padded(a, v) for a, v in zip(args, (7e30, 9, 3, 1, False), strict=True))
    )
    many = jax.tree.map(unpadded, many)
    exact = lambda found: [elements for elements, _ in found]
    same(exact(plain), exact(out[:1]))
    same(exact(many), exact(out))
    same(exact(jitted(*moved(args, order))), moved(exact(out), order))
    for i, ((bits, signed), found) in enumerate(zip(forms, out, strict=True)):
      y, again, dx, first, starts = jax.tree.map(np.asarray, found[0])
      codes = mixq.code_range(bits, signed=signed)
      with np.errstate(over='ignore'):
        ratio = x / scale
      u = z + ratio
      q = np.round(np.clip(u, *codes))
      same(y, scale * (q - z))
      same(again, y)
      inside = (u >= codes[0]) & (u <= codes[1])
      same(dx, dy * inside)
      drawing.monotone(x, y, per)
      # At the start 0 is a code, and values of all rows that count fit.
      same(starts[1], np.zeros(SHAPE))
      assert np.isfinite(starts[0]).all() and np.all(first[0] > 0)
      drawing.monotone(x, starts[0], per)
      rows = mask if shape[0] == 1 or per == 'row' else 1
      wide = lambda a: a.astype(np.float64)
      d_scale = np.where(inside, q - wide(np.where(inside, u, 0)), q - wide(z))
      d_zero = np.where(inside, 0, -wide(scale))
      rounding = np.abs(q) + np.abs(z) + np.abs(np.where(inside, ratio, 0))
      for gradients in (found[1], many[i][1], *[plain[0][1]] * (i == 0)):
        sums(gradients[0], dy * d_scale * rows, shape, np.abs(dy) * rounding)
        rows_z = mask if shape[0] == 1 else 1
        sums(gradients[1], dy * d_zero * rows_z, shape, np.abs(dy * scale))

  strategies = (drawing.upstream, masks, drawing.permutations)
  drawing.check(count, holds, arrays(), *strategies)
