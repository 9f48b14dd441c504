"""Properties of the affine quantizers, for values that nobody thought of.

Every example goes through all bits, signed and unsigned, in one program. For
the learned quantizers see learned_properties_test.
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
from drawing import PER, SHAPE, padded, same, unpadded

from lorap_jax.quantization import affine, degree_quant, observers

pytestmark = pytest.mark.optimized

GRADIENTS = ('plain', 'clipped', 'clipped_strict')
BITS = list(itertools.product(range(2, 9), (False, True)))
ALL = list(itertools.product(BITS, (False, True), GRADIENTS))
masks = hnp.arrays(np.bool_, (SHAPE[0], 1))


def few_forms(per: str) -> list:
  """A third of the bits, the other two are those of the other shapes."""
  mine = [i for i in range(len(BITS)) if i % 3 == list(PER).index(per)]
  return [(BITS[i], i % 4 == 3, GRADIENTS[i // 3 % 3]) for i in mine]


def program(forms, x, low, high, keep, dy):
  """All that can be seen of the quantizers of these forms."""
  found = []
  for (bits, signed), symmetric, gradient in forms:
    how = {'bits': bits, 'signed': signed}
    q = affine.affine_qparams(low, high, symmetric=symmetric, **how)
    put = functools.partial(
      affine.fake_quant, qparams=q, gradient=gradient, **how
    )
    y, back = jax.vjp(functools.partial(put, keep=keep), x)
    codes = affine.quantize(x, q, **how)
    again = put(y, keep=keep)
    found.append((q, codes, y, again, put(0 * x), back(dy)[0]))
  return found


@functools.cache
def programs(forms):
  run = functools.partial(program, forms)
  return jax.jit(run), jax.jit(jax.vmap(run))


def agree(forms, number, args, *, eager) -> list:
  """Compiled = eager = vmap of padded rows; returns what they agree on."""
  jitted, mapped = programs(forms)
  out = jitted(*args)
  if eager:
    plain = program(forms[number : number + 1], *map(jnp.asarray, args))
    same(plain, out[number : number + 1])
  many = mapped(*(padded(a, v) for a, v in zip(args, FILL, strict=True)))
  same(jax.tree.map(unpadded, many), out)
  return jax.tree.map(np.asarray, out)


FILL = (7e30, -1e5, 1e5, False, 3)  # Of x, low, high, keep and dy.


@st.composite
def cases(draw, shape, forms):
  """Values, a range that may be narrower, and the form whose step it has."""
  step = draw(hnp.arrays(np.float32, shape, elements=drawing.scales))
  x = draw(drawing.matrices(step))
  number = draw(st.integers(0, len(forms) - 1))
  bits, signed = forms[number][0]
  low, high = (step * code for code in affine.code_range(bits, signed=signed))
  if draw(st.booleans()):
    axes = tuple(i for i in (0, 1) if shape[i] == 1)
    low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
  if shape == (1, 1):
    low, high = np.float32(low[0, 0]), np.float32(high[0, 0])
  return x, np.asarray(low), np.asarray(high), number


@drawing.sizes(20, 700)
@pytest.mark.parametrize('per', PER)
def test_affine(per, count):
  forms = tuple(ALL if count > 100 else few_forms(per))

  def holds(case, keep, dy, order):
    x, low, high, number = case
    args = x, low, high, keep, dy
    eager = drawing.one_by_one(per, count)
    out = agree(forms, number, args, eager=eager)
    for form, found in zip(forms, out, strict=True):
      (bits, signed), symmetric, gradient = form
      q, codes, y, again, zero, dx = found
      qmin, qmax = affine.code_range(bits, signed=signed)
      check_qparams(q, low, high, (qmin, qmax), symmetric)
      with np.errstate(over='ignore'):  # Far outside of a narrow range.
        unclipped = np.round(x / q.scale + q.zero_point)
      same(codes, np.clip(unclipped, qmin, qmax))
      values = (codes.astype(np.float32) - q.zero_point) * q.scale
      same(y, np.where(keep, x, values))
      assert np.isfinite(y).all()
      same(again, y)
      same(zero, np.zeros(SHAPE))
      passing = {
        'plain': np.ones(SHAPE, bool),
        'clipped': (unclipped >= qmin) & (unclipped <= qmax),
        'clipped_strict': (unclipped > qmin) & (unclipped < qmax),
      }[gradient]
      same(dx, dy * (passing | keep))
      drawing.monotone(x, values, per)
    # The order of the nodes is theirs.
    moved = lambda a: a[order] if a.shape[:1] == (SHAPE[0],) else a
    same(programs(forms)[0](*map(moved, args)), jax.tree.map(moved, out))

  strategies = (masks, drawing.upstream, drawing.permutations)
  drawing.check(count, holds, cases(PER[per], forms), *strategies)


def test_the_ordinary_run_meets_all():
  met = [form for per in PER for form in few_forms(per)]
  assert sorted(form[0] for form in met) == sorted(BITS)
  assert {form[2] for form in met} == set(GRADIENTS)
  assert {form[1] for form in met} == {False, True}


def check_qparams(q, low, high, codes, symmetric):
  low = np.minimum(low, np.float32(0))
  high = np.maximum(high, np.float32(0))
  width = 2 * np.maximum(-low, high) if symmetric else high - low
  scale = np.maximum(
    width / np.float32(codes[1] - codes[0]), np.float32(2**-23)
  )
  empty = low == high
  same(q.scale, np.where(empty, 1, scale))
  if symmetric:
    zero = np.float32(0 if codes[0] else (codes[1] + 1) // 2)
  else:
    zero = np.clip(codes[0] - np.round(low / scale), *codes)
  same(q.zero_point, np.where(empty, 0, zero))


RANGES = list(itertools.product((None, 0), (0.0, 0.25)))


@jax.jit
def ranges(x, mask):
  return [
    observers.batch_range(x, mask=mask, axis=axis, percentile=percentile)
    for axis, percentile in RANGES
  ]


@drawing.sizes(10, 500)
def test_ranges(count):
  """Protected rows and padding are not seen; the order does not matter."""

  def holds(x, rows, order):
    found = ranges(x, rows)
    fill = np.full((3, SHAPE[1]), 7e30, np.float32)
    more = (
      np.concatenate([x, fill]),
      np.concatenate([rows, np.zeros((3, 1), bool)]),
    )
    same(ranges(*more), found)
    same(ranges(x[order], rows[order]), found)
    seen = x[rows[:, 0]]
    for (axis, percentile), (low, high) in zip(RANGES, found, strict=True):
      if not len(seen):
        assert np.all(low == np.inf) and np.all(high == -np.inf)
        continue
      ranked = np.sort(seen, axis=axis)
      m = len(ranked)
      first, last = (
        (max(int(m * percentile), 1) - 1, int(m * (1 - percentile)) - 1)
        if percentile
        else (0, m - 1)
      )
      np.testing.assert_array_equal(np.ravel(low), np.ravel(ranked[first]))
      np.testing.assert_array_equal(np.ravel(high), np.ravel(ranked[last]))

  drawing.check(count, holds, drawing.matrices(), masks, drawing.permutations)


@functools.cache
def follow(rule):
  def run(batches, rows):
    running = observers.init_range((1, SHAPE[1]))
    for x, mask in zip(batches, rows, strict=True):
      current = observers.batch_range(x, mask=mask, axis=0)
      running = observers.update_range(running, current, rule=rule)
    return running

  return run, jax.jit(run)


@drawing.sizes(10, 500)
@pytest.mark.parametrize('rule', ['extreme', 'momentum'])
def test_running_ranges(rule, count):
  """Within what was seen, from the first batch on; all of it if `extreme`."""

  def holds(batches, rows):
    eager, jit = follow(rule)
    low, high, initialized = jit(batches, rows)
    # Compiled, each step of a momentum may round its product and sum as one.
    largest = 0 if rule == 'extreme' else np.max(np.abs(batches))
    for found, value in zip(
      eager(jnp.asarray(batches), jnp.asarray(rows)),
      (low, high, initialized),
      strict=True,
    ):
      np.testing.assert_allclose(
        found, value, rtol=0, atol=len(batches) * 2.0**-23 * largest
      )
    seen = np.concatenate(
      [x[m[:, 0]] for x, m in zip(batches, rows, strict=True)]
    )
    assert initialized == (len(seen) > 0)
    if not len(seen):
      return same((low, high), (np.zeros((1, SHAPE[1])),) * 2)
    least, most = seen.min(0, keepdims=True), seen.max(0, keepdims=True)
    if rule == 'extreme':
      return same((low, high), (least, most))
    slack = 1e-6 * np.maximum(abs(least), abs(most))
    assert np.all(low >= least - slack) and np.all(high <= most + slack)
    assert np.all(low <= high + slack)

  three = st.tuples(*[drawing.matrices()] * 3).map(np.stack)
  drawing.check(count, holds, three, st.tuples(*[masks] * 3).map(np.stack))


@jax.jit
def protected(degree, graph, key):
  found = []
  for low, change in ((0.0, 0.1), (0.1, 0.25), (0.3, 0.9), (0.0, 0.0)):
    run = functools.partial(
      degree_quant.protection_probability, low=low, change=change
    )
    p = run(degree, graph)
    found.append((p, degree_quant.protective_mask(key, p)))
  return found


@drawing.sizes(10, 500)
def test_protection(count):
  """Probabilities are bounded, in the order of degrees, wherever nodes lie."""

  def holds(degree, sizes, order):
    graph = np.repeat(np.arange(3, dtype=np.int32), sizes)
    key = jax.random.key(0)
    found = protected(degree, graph, key)
    bounds = ((0.0, 0.1), (0.1, 0.1 + 0.25), (0.3, 1.0), (0.0, 0.0))
    for (low, high), (p, mask) in zip(bounds, found, strict=True):
      p = np.asarray(p)
      low, high = np.float32(low), np.float32(high)
      assert np.all((p >= low) & (p <= high)) and mask.dtype == bool
      assert not np.any(mask & (p == 0)) and np.all(mask | (p < 1))
      for g in range(3):
        mine = np.argsort(degree[graph == g], kind='stable')
        assert np.all(np.diff(p[graph == g][mine]) >= 0)
        if len(mine):
          assert p[graph == g].max() == high
    moved = protected(degree[order], graph[order], key)
    more = protected(
      np.append(degree, np.int32([9, 0, 9])),
      np.append(graph, np.int32([3] * 3)),
      key,
    )
    for (p, _), (q, _), (r, _) in zip(found, moved, more, strict=True):
      same(q, np.asarray(p)[order])
      same(np.asarray(r)[: len(p)], p)

  splits = st.tuples(st.integers(0, 3), st.integers(0, 3))
  drawing.check(
    count,
    holds,
    hnp.arrays(np.int32, SHAPE[0], elements=st.integers(0, 5)),
    splits.map(lambda s: (*s, SHAPE[0] - sum(s))),
    drawing.permutations,
  )
