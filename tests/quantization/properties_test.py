"""Properties of all quantizers, for values that nobody thought of.

200 examples in the ordinary run in all, 2,000 under the slow marker.
"""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import a2q, affine, mixq, observers

SHAPE = (6, 4)
PER = {'tensor': (1, 1), 'column': (1, 4), 'row': (6, 1)}
_floats = functools.partial(st.floats, width=32, allow_subnormal=False)
matrices = hnp.arrays(
  np.float32,
  SHAPE,
  elements=st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.5, 7.0, -8.0]),
    _floats(-1000, 1000),
    _floats(-float(np.float32(1e37)), float(np.float32(1e37))),
  ),
)
scales = _floats(float(np.float32(1e-3)), 1000)


def check(count, function, *strategies):
  """Runs a property over drawn examples."""
  run = hypothesis.settings(
    max_examples=count, deadline=None, derandomize=True, database=None
  )
  run(hypothesis.given(st.tuples(*strategies))(lambda v: function(*v)))()


sizes = pytest.mark.parametrize(
  'times', [1, pytest.param(10, marks=pytest.mark.slow)], ids=['few', 'many']
)


@functools.cache
def affine_program(bits, signed, gradient):
  def run(x, low, high):
    q = affine.affine_qparams(low, high, bits=bits, signed=signed)
    on_grid = functools.partial(
      affine.fake_quant, qparams=q, bits=bits, signed=signed, gradient=gradient
    )
    y, back = jax.vjp(on_grid, x)
    codes = affine.quantize(x, q, bits=bits, signed=signed)
    return q, codes, y, on_grid(y), on_grid(0 * x), back(jnp.ones_like(y))[0]

  return run, jax.jit(run)


@sizes
@pytest.mark.parametrize('per_column', [False, True])
def test_affine(times, per_column):
  def holds(x, bits, signed, gradient):
    x = jnp.asarray(x)
    low, high = observers.batch_range(x, axis=0 if per_column else None)
    eager, jitted = affine_program(bits, signed, gradient)
    q, codes, y, again, zero, dx = jitted(x, low, high)
    for a, b in zip(
      jax.tree.leaves(eager(x, low, high)),
      jax.tree.leaves((q, codes, y, again, zero, dx)),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)
    qmin, qmax = affine.code_range(bits, signed=signed)
    assert np.all((codes >= qmin) & (codes <= qmax)) and np.isfinite(y).all()
    np.testing.assert_array_equal(y, affine.dequantize(codes, q))
    np.testing.assert_array_equal(zero, np.zeros(SHAPE))
    np.testing.assert_array_equal(y, again)
    for column in range(SHAPE[1]):
      order = np.argsort(x[:, column], kind='stable')
      assert np.all(np.diff(np.asarray(y)[order, column]) >= 0)
    unclipped = np.round(x / q.scale + q.zero_point)
    inside = (unclipped >= qmin) & (unclipped <= qmax)
    expected = {'plain': np.ones(SHAPE), 'clipped': inside * 1.0}[gradient]
    np.testing.assert_array_equal(dx, expected)
    # The order of rows does not matter, and padding does not either.
    rows = np.arange(6)[::-1]
    mixed = jitted(x[rows], low, high)[2]
    np.testing.assert_array_equal(mixed, np.asarray(y)[rows])
    padded = jnp.concatenate([x, jnp.full_like(x, 7e30)])
    mask = np.arange(12)[:, None] < 6
    of_padded = observers.batch_range(
      padded, mask=jnp.asarray(mask), axis=0 if per_column else None
    )
    np.testing.assert_array_equal(of_padded, (low, high))

  check(
    40 * times,
    holds,
    matrices.map(lambda x: np.clip(x, -1e30, 1e30)),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
    st.sampled_from(['plain', 'clipped']),
  )


@functools.cache
def a2q_program(level):
  rule = a2q.a2q_rule(level, 'feature')

  def run(x, scale, bits):
    on_grid = lambda x: a2q.fake_quant(x, scale, bits, rule=rule)
    y, back = jax.vjp(on_grid, x)
    codes = a2q.quantize(x, scale, bits, rule=rule)
    return codes, y, on_grid(y), on_grid(0 * x), back(jnp.ones_like(y))[0]

  return run, jax.jit(run)


@sizes
@pytest.mark.parametrize('per', PER)
def test_a2q(times, per):
  shape = PER[per]

  def holds(x, scale, bits):
    x = jnp.asarray(x)
    eager, jitted = a2q_program('graph')
    scale, bits = jnp.asarray(scale), jnp.asarray(bits)
    out = jitted(x, scale, bits)
    for a, b in zip(eager(x, scale, bits), out, strict=True):
      np.testing.assert_array_equal(a, b)
    codes, y, again, zero, dx = (np.asarray(o) for o in out)
    qmax = 2.0 ** (np.clip(np.round(np.abs(bits)), 2, 8) - 1) - 1
    assert np.all(np.abs(codes) <= qmax) and np.isfinite(y).all()
    np.testing.assert_array_equal(y, codes.astype(np.float32) * scale)
    np.testing.assert_array_equal(zero, 0 * x)
    np.testing.assert_array_equal(y, again)
    inside = np.abs(x) <= np.float32(qmax) * np.asarray(scale)
    np.testing.assert_array_equal(dx, inside * 1.0)
    np.testing.assert_array_equal(jitted(-x, scale, bits)[1], -y)
    if per != 'row':
      np.testing.assert_array_equal(jitted(x[::-1], scale, bits)[1], y[::-1])

  check(
    20 * times,
    holds,
    matrices,
    hnp.arrays(np.float32, shape, elements=scales),
    hnp.arrays(np.float32, shape, elements=_floats(-9, 9)),
  )


@functools.cache
def mixq_program(bits, signed):
  def run(x, scale, zero_point):
    on_grid = lambda x: mixq.fake_quant(
      x, scale, zero_point, bits=bits, signed=signed
    )
    y, back = jax.vjp(on_grid, x)
    return y, on_grid(y), back(jnp.ones_like(y))[0]

  return run, jax.jit(run)


@sizes
@pytest.mark.parametrize('axis', [0, None])
def test_mixq(times, axis):
  def holds(x, bits, signed):
    x = jnp.asarray(x)
    scale, zero_point = mixq.calibrate(x, bits=bits, signed=signed, axis=axis)
    eager, jitted = mixq_program(bits, signed)
    out = jitted(x, scale, zero_point)
    for a, b in zip(eager(x, scale, zero_point), out, strict=True):
      np.testing.assert_array_equal(a, b)
    y, again, dx = (np.asarray(o) for o in out)
    assert np.isfinite(y).all() and set(np.unique(dx)) <= {0.0, 1.0}
    np.testing.assert_array_equal(y, again)
    for column in range(SHAPE[1]):
      order = np.argsort(x[:, column], kind='stable')
      assert np.all(np.diff(y[order, column]) >= 0)
    zeros = jitted(0 * x, scale, zero_point)[0]
    np.testing.assert_array_equal(zeros, 0 * x)  # At the start it is a code.
    padded = jnp.concatenate([x, jnp.full_like(x, 7e30)])
    mask = jnp.arange(12)[:, None] < 6
    same = mixq.calibrate(
      padded, bits=bits, signed=signed, axis=axis, mask=mask
    )
    np.testing.assert_array_equal(same[0], scale)
    np.testing.assert_array_equal(same[1], zero_point)

  check(
    30 * times,
    holds,
    matrices.map(lambda x: np.clip(x, -1e30, 1e30)),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
  )
