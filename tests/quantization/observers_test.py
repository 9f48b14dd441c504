import functools
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import affine, observers

pytestmark = pytest.mark.optimized

batch_range = jax.jit(
  observers.batch_range, static_argnames=('axis', 'percentile', 'stride')
)


def by_sorting(x, p, axis=None):
  """The definition: k-th smallest values of a sorted array."""
  x = np.sort(x, axis=axis)
  m = len(x)
  low, high = (x[min(max(int(k), 1), m) - 1] for k in (m * p, m * (1 - p)))
  return (low, high) if axis is None else (low[None], high[None])


def table(kind, shape=(600, 7)):
  """Columns of unlike ranges."""
  x = np.random.default_rng(0).normal(size=shape) * np.arange(1, 8)
  if kind == 'ties':
    x = np.round(x)
  elif kind == 'constant':
    x = np.full(shape, -2.5)
  elif kind == 'wild':  # All magnitudes that float32 has.
    x = np.sign(x) * np.clip(10.0 ** (12 * x), 1e-37, 3e38)
    x[::50], x[1::50], x[2::50], x[3::50] = np.inf, -np.inf, 0.0, -0.0
  return x.astype(np.float32)


class TestBatchRange:
  @pytest.mark.parametrize('kind', ['plain', 'ties', 'constant', 'wild'])
  @pytest.mark.parametrize('axis', [None, 0])
  @pytest.mark.parametrize('p', [0.0, 0.001, 0.01, 0.05, 0.25, 0.49])
  def test_equals_sorting(self, kind, axis, p):
    x = table(kind)
    mask = np.random.default_rng(1).random((600, 1)) < 0.8
    for rows in (np.ones((600, 1), bool), mask):
      current = batch_range(
        jnp.asarray(x), mask=jnp.asarray(rows), axis=axis, percentile=p
      )
      expected = by_sorting(x[rows[:, 0]], p, axis)
      for ours, theirs in zip(current, expected, strict=True):
        assert ours.shape == np.shape(theirs) and ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)

  @pytest.mark.parametrize('p', [0.0005, 0.001, 0.01, 0.05])
  def test_ranks_of_all_counts(self, p):
    """Of 1, 2, ... m the k-th smallest is k."""
    x = jnp.arange(1.0, 2049.0)[:, None]
    counts = jnp.arange(1, 2049)

    def of_first(count):
      return observers.batch_range(x, mask=x <= count, percentile=p)

    low, high = jax.jit(jax.vmap(of_first))(counts)
    m = np.arange(1, 2049)
    np.testing.assert_array_equal(low, np.clip((m * p).astype(int), 1, m))
    np.testing.assert_array_equal(
      high, np.clip((m * (1 - p)).astype(int), 1, m)
    )

  def test_ranks_of_a_large_tensor(self):
    """M (1 - p) as a fraction of integers does not fit into int32."""
    x = jnp.arange(3_000_000, dtype=jnp.float32).reshape(-1, 100)
    low, high = batch_range(x, percentile=0.001)
    assert (low, high) == (2999, 2_996_999)

  @pytest.mark.parametrize('p', [0.0, 0.01])
  @pytest.mark.parametrize('axis', [None, 0])
  def test_no_mask_is_a_full_mask_and_jit_is_exact(self, p, axis):
    x = jnp.asarray(table('plain'))
    eager = observers.batch_range(x, axis=axis, percentile=p)
    full = batch_range(
      x, mask=jnp.ones((600, 1), bool), axis=axis, percentile=p
    )
    for ours, theirs in zip(eager, full, strict=True):
      np.testing.assert_array_equal(ours, theirs)

  @pytest.mark.parametrize('padding', [0.0, 1e9, -1e9, np.nan, np.inf])
  @pytest.mark.parametrize('p', [0.0, 0.01])
  @pytest.mark.parametrize('axis', [None, 0])
  def test_padding_invariance(self, padding, p, axis):
    x = table('plain')
    padded = np.concatenate([x, np.full((50, 7), padding, np.float32)])
    mask = jnp.arange(650)[:, None] < 600
    observe = functools.partial(batch_range, axis=axis, percentile=p)
    bare = observe(jnp.asarray(x))
    for ours, theirs in zip(
      observe(jnp.asarray(padded), mask=mask), bare, strict=True
    ):
      np.testing.assert_array_equal(ours, theirs)

  @pytest.mark.parametrize('p', [0.0, 0.01])
  @pytest.mark.parametrize('axis, shape', [(None, ()), (0, (1, 7))])
  def test_no_rows(self, p, axis, shape):
    """Neutral for min and max, and harmless as a range."""
    x, mask = jnp.asarray(table('plain')), jnp.zeros((600, 1), bool)
    current = batch_range(x, mask=mask, axis=axis, percentile=p)
    np.testing.assert_array_equal(current[0], np.full(shape, np.inf))
    np.testing.assert_array_equal(current[1], np.full(shape, -np.inf))
    qparams = affine.affine_qparams(*current, bits=4)
    np.testing.assert_array_equal(qparams.scale, np.ones(shape))
    np.testing.assert_array_equal(qparams.zero_point, np.zeros(shape))

  @pytest.mark.parametrize('p', [0.0, 0.01])
  def test_stride(self, p):
    x = jnp.asarray(table('plain'))
    mask = jnp.arange(600)[:, None] % 5 > 0
    ours = batch_range(x, mask=mask, percentile=p, stride=3)
    theirs = batch_range(x[::3], mask=mask[::3], percentile=p)
    assert ours == theirs
    assert ours != batch_range(x, mask=mask, percentile=p)

  @pytest.mark.parametrize('p', [0.0, 0.01])
  def test_no_gradient(self, p):
    def loss(x):
      low, high = observers.batch_range(x, percentile=p)
      return low + high + jnp.sum(x)

    x = jnp.asarray(table('plain'))
    np.testing.assert_array_equal(jax.grad(loss)(x), jnp.ones_like(x))

  def test_low_precision_is_observed_in_float32(self):
    x = jnp.asarray(table('plain')).astype(jnp.bfloat16)
    for p in (0.0, 0.01):
      low, high = batch_range(x, percentile=p)
      assert low.dtype == high.dtype == jnp.float32
      expected = by_sorting(np.asarray(x.astype(jnp.float32)), p)
      assert (low, high) == expected

  @pytest.mark.parametrize('p', [-0.1, 1e-5, 0.5, 1.0, np.nan])
  def test_percentile_out_of_bounds(self, p):
    message = re.escape(f'`percentile` must be 0 or in [0.0001, 0.5), got {p}')
    with pytest.raises(ValueError, match=message):
      observers.batch_range(jnp.ones((2, 2)), percentile=p)

  @pytest.mark.parametrize('stride', [0, -1])
  def test_stride_out_of_bounds(self, stride):
    with pytest.raises(ValueError, match=f'at least 1, got {stride}'):
      observers.batch_range(jnp.ones((2, 2)), stride=stride)


def follow(batches, *, jit=False, **kwargs):
  """All running ranges over batches of (min, max)."""
  update = functools.partial(observers.update_range, **kwargs)
  update = jax.jit(update) if jit else update
  running = observers.init_range(np.shape(batches[0][0]))
  states = []
  for low, high in batches:
    running = update(running, (jnp.float32(low), jnp.float32(high)))
    states.append(running)
  return states


class TestUpdateRange:
  def test_start(self):
    running = observers.init_range((1, 3))
    assert not running.initialized
    assert running.min_val.shape == running.max_val.shape == (1, 3)
    qparams = affine.affine_qparams(*running[:2], bits=8)
    np.testing.assert_array_equal(qparams.scale, [[1, 1, 1]])

  @helpers.JIT
  def test_extreme(self, jit):
    states = follow(
      [(1, 2), (1.5, 1.75), (-3, 1), (0, 9)], rule='extreme', jit=jit
    )
    # The first range does not hold the 0 of the start.
    expected = [(1, 2), (1, 2), (-3, 2), (-3, 9)]
    assert [(s.min_val, s.max_val) for s in states] == expected
    assert all(s.initialized for s in states)

  @helpers.JIT
  def test_momentum(self, jit):
    states = follow(
      [(-1, 2), (-3, 2), (0, 10)], rule='momentum', momentum=0.25, jit=jit
    )
    expected = [(-1, 2), (-1.5, 2), (-1.125, 4)]
    assert [(s.min_val, s.max_val) for s in states] == expected

  def test_default_momentum(self):
    states = follow([(-1, 1), (-2, 3)], rule='momentum')
    np.testing.assert_allclose(states[-1].min_val, -1.01, rtol=1e-6)
    np.testing.assert_allclose(states[-1].max_val, 1.02, rtol=1e-6)

  @helpers.JIT
  @pytest.mark.parametrize('rule', ['extreme', 'momentum'])
  @pytest.mark.parametrize('bad', [(np.inf, -np.inf), (np.nan, np.nan)])
  def test_batches_without_a_range_change_nothing(self, bad, rule, jit):
    states = follow([bad, (-1, 2), bad, (-2, 1)], rule=rule, jit=jit)
    assert [bool(s.initialized) for s in states] == [False, True, True, True]
    assert (states[0].min_val, states[0].max_val) == (0, 0)
    assert states[2] == states[1]
    assert follow([(-1, 2), (-2, 1)], rule=rule, jit=jit)[-1] == states[-1]

  @pytest.mark.parametrize('rule', ['extreme', 'momentum'])
  def test_columns_are_separate(self, rule):
    rng = np.random.default_rng(0)
    batches = np.sort(rng.normal(size=(4, 2, 1, 3)), axis=1)
    columns = follow(batches, rule=rule)[-1]
    for i in range(3):
      tensor = follow(batches[:, :, 0, i], rule=rule)[-1]
      assert columns.min_val[0, i] == tensor.min_val
      assert columns.max_val[0, i] == tensor.max_val

  def test_no_gradient(self):
    def loss(x):
      current = (jnp.min(x), jnp.max(x))
      running = observers.update_range(
        observers.init_range(), current, rule='extreme'
      )
      return running.max_val - running.min_val

    assert not np.any(jax.grad(loss)(jnp.asarray([1.0, 2.0])))

  def test_shapes_differ(self):
    current = (jnp.zeros((1, 3)), jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r'shape \(1, 3\), the .* \(\);'):
      observers.update_range(observers.init_range(), current, rule='extreme')

  def test_unknown_rule(self):
    function = observers.update_range
    function = getattr(function, '__wrapped__', function)
    current = (jnp.zeros(()), jnp.ones(()))
    with pytest.raises(ValueError, match="`rule` must be .* got 'other'"):
      function(observers.init_range(), current, rule='other')
