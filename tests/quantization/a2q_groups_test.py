import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.integers import quantizers
from lorap_jax.quantization import a2q, a2q_groups, grids

pytestmark = pytest.mark.optimized

# |s| 2**(b-1): 2, 8, 4, 4, .5
SCALE = jnp.asarray([0.25, -1.0, 0.5, 0.5, 0.0625])
BITS = jnp.asarray([4.0, 4.2, -4.0, 3.6, 3.5])
nearest_group = jax.jit(a2q_groups.nearest_group, static_argnames='exact_range')


def brute_force(max_abs, target):
  distance = (max_abs[:, None] - np.asarray(target)[None]) ** 2
  return distance, distance.argmin(1)


class TestNearestGroup:
  @pytest.mark.parametrize(
    'value, group',
    [
      (0.0, 4),
      (0.5, 4),
      (1.25, 0),  # As near to .5 as to 2: the smaller number.
      (1.24, 4),
      (2.9, 0),
      (3.0, 0),  # As near to 2 as to 4.
      (3.1, 2),
      (4.0, 2),  # Groups 2 and 3 are equal.
      (6.0, 1),  # As near to 4 (group 2) as to 8 (group 1).
      (100.0, 1),
    ],
  )
  def test_values_written_out(self, value, group):
    chosen = nearest_group(jnp.asarray([value]), SCALE, BITS)
    assert chosen == group

  def test_exact_range(self):
    # 2 bits: 2 s and 1 s.
    scale, bits = jnp.asarray([1.0, 1.5]), jnp.asarray([2.0, 2.0])
    value = jnp.asarray([2.0])
    assert nearest_group(value, scale, bits) == 0
    chosen = nearest_group(value, scale, bits, exact_range=True)
    assert chosen == 1

  def test_range_factor(self):
    bits = jnp.asarray([1.0, 2.5, -4.0, 8.2])
    factor = a2q_groups.range_factor(bits)
    np.testing.assert_array_equal(factor, [1, 2, 8, 128])
    exact = a2q_groups.range_factor(bits, exact_range=True)
    np.testing.assert_array_equal(exact, [0, 1, 7, 127])

  @pytest.mark.parametrize('exact_range', [False, True])
  @pytest.mark.parametrize('num_groups', [1, 2, 3, 37, 1000])
  def test_equals_argmin_on_a_lattice(self, num_groups, exact_range):
    """All distances are exact, so that ties and duplicates must agree."""
    rng = np.random.default_rng(num_groups)
    for _ in range(5):
      scale = rng.integers(-20, 21, num_groups).astype(np.float32) / 16
      bits = rng.integers(2, 6, num_groups).astype(np.float32)
      max_abs = rng.integers(0, 400, 200).astype(np.float32) / 16
      target = np.abs(scale) * (2 ** (bits - 1) - exact_range)
      chosen = nearest_group(
        *map(jnp.asarray, (max_abs, scale, bits)), exact_range=exact_range
      )
      assert chosen.dtype == jnp.int32
      np.testing.assert_array_equal(chosen, brute_force(max_abs, target)[1])

  def test_is_as_near_as_argmin(self):
    rng = np.random.default_rng(0)
    scale = rng.uniform(-1, 1, 1000).astype(np.float32)
    bits = rng.uniform(1, 9, 1000).astype(np.float32)
    max_abs = np.abs(20 * rng.normal(size=500)).astype(np.float32)
    chosen = nearest_group(*map(jnp.asarray, (max_abs, scale, bits)))
    target = np.abs(scale) * 2.0 ** (np.round(bits) - 1)
    distance, _ = brute_force(max_abs.astype(np.float64), target)
    ours = distance[np.arange(500), chosen]
    # Differences of float32 numbers of up to 80.
    np.testing.assert_allclose(
      np.sqrt(ours), np.sqrt(distance.min(1)), atol=1e-5
    )

  def test_no_gradient(self):
    def loss(max_abs, scale, bits):
      group = a2q_groups.nearest_group(max_abs, scale, bits)
      return jnp.sum(jnp.asarray([1.0, 2, 3, 4, 5])[group] * max_abs)

    value = jnp.asarray([1.0, 5.0])
    grads = jax.grad(loss, (0, 1, 2))(value, SCALE, BITS)
    np.testing.assert_array_equal(grads[0], [5, 3])
    assert not np.any(grads[1]) and not np.any(grads[2])

  def test_permuted_rows_choose_alike(self, key):
    max_abs = jnp.abs(jax.random.normal(key, (50,)))
    order = jax.random.permutation(key, 50)
    np.testing.assert_array_equal(
      nearest_group(max_abs[order], SCALE, BITS),
      nearest_group(max_abs, SCALE, BITS)[order],
    )


class TestByDegree:
  def test_degrees_choose_their_part(self):
    """All groups are alike, so that the first of each part is chosen."""
    degree = jnp.asarray([0, 1, 2, 4, 5, 100])
    chosen = a2q_groups.nearest_group_by_degree(
      jnp.ones(6), degree, jnp.ones(101), jnp.full((101,), 4.0)
    )
    np.testing.assert_array_equal(chosen, [100, 100, 10, 10, 0, 0])

  def test_nearest_inside_the_part(self):
    rng = np.random.default_rng(1)
    scale = rng.integers(-20, 21, 300).astype(np.float32) / 16
    max_abs = rng.integers(0, 100, 90).astype(np.float32) / 16
    degree = np.repeat([7, 3, 0], 30)
    chosen = a2q_groups.nearest_group_by_degree(
      *map(jnp.asarray, (max_abs, degree, scale, np.full(300, 3, np.float32)))
    )
    target = 4 * np.abs(scale)
    parts = ((0, 10), (10, 100), (100, 300))
    for rows, (start, stop) in zip(
      np.split(np.arange(90), 3), parts, strict=True
    ):
      _, expected = brute_force(max_abs[rows], target[start:stop])
      np.testing.assert_array_equal(chosen[rows], expected + start)

  def test_small_table(self):
    with pytest.raises(ValueError, match='`scale` has 100 groups'):
      a2q_groups.nearest_group_by_degree(
        jnp.ones(1), jnp.asarray([1]), jnp.ones(100), jnp.ones(100)
      )

  def test_degree_group(self):
    group = a2q_groups.degree_group(jnp.asarray([0, 3, 4, 5, 9]), num_groups=5)
    np.testing.assert_array_equal(group, [0, 3, 4, 4, 4])


class TestMemory:
  def test_distinct_groups_count_once(self):
    bits = jnp.asarray([2.5, 3.25, 4.0, 7.0])
    group = jnp.asarray([2, 0, 2, 2, 0])
    memory = a2q_groups.group_memory(bits, group, width=110)
    assert memory == 110 * 6.5 / 8192

  def test_padding_rows_do_not_count(self):
    bits = jnp.asarray([2.5, 3.25, 4.0, 7.0])
    group = jnp.asarray([2, 0, 3, 1])
    mask = jnp.asarray([True, True, False, False])
    memory = a2q_groups.group_memory(bits, group, width=8, mask=mask)
    assert memory == 8 * 6.5 / 8192

  def test_gradient(self):
    bits = jnp.asarray([2.5, -3.25, 4.0, 12.0, 0.5])
    group = jnp.asarray([0, 1, 1, 3, 4, 0])
    slope = 16 / 8192
    function = functools.partial(a2q_groups.group_memory, group=group, width=16)
    grad = jax.grad(function)(bits)
    np.testing.assert_array_equal(grad, [slope, -slope, 0, 0, 0])
    raw = jax.grad(lambda b: function(b, min_bits=None, max_bits=None))(bits)
    np.testing.assert_array_equal(raw, [slope, slope, 0, slope, slope])

  def test_clamp(self):
    bits, group = jnp.asarray([12.0, -0.5]), jnp.asarray([0, 1])
    memory = a2q_groups.group_memory(bits, group, width=8192)
    assert memory == 8 + 2
    raw = a2q_groups.group_memory(
      bits, group, width=8192, min_bits=None, max_bits=None
    )
    assert raw == 11.5

  def test_node_memory(self):
    bits = jnp.asarray([2.5, -3.0, 12.0])
    clamped = a2q_groups.node_memory(bits, width=8192)
    raw = a2q_groups.node_memory(bits, width=8192, min_bits=None, max_bits=None)
    assert clamped == 2.5 + 3 + 8 and raw == 17.5

  @pytest.mark.parametrize(
    'memory, penalty, slope', [(0.5, 0, 0), (1.0, 0, 0), (3.0, 2.0, 2.0)]
  )
  def test_penalty(self, memory, penalty, slope):
    function = functools.partial(
      a2q_groups.memory_penalty, target=1.0, weight=0.5
    )
    value, grad = jax.value_and_grad(function)(jnp.float32(memory))
    assert value == penalty and grad == slope

  def test_published_average_bits(self):
    tables = [jnp.asarray([4.4, -3.6]), jnp.asarray([1.0, 2.5, 3.5, 8.0])]
    # Rounded 4 4 and 1 2 4 8, each minus one: means 3 and 2.75.
    assert a2q_groups.published_average_bits(tables) == 2.875


UNIT = 2.0**-16  # Whole numbers of it, so that a file rounds ranges once.


def a_table(seed, count=1000):
  rng = np.random.default_rng(seed)
  scale = np.rint(2.0 ** rng.uniform(-3, 0, count) / UNIT) * UNIT
  scale *= rng.choice([-1, 1], count)
  return jnp.float32(scale), jnp.float32(rng.uniform(1, 9, count))


RULE = a2q.a2q_rule('graph', 'feature')


@pytest.mark.parametrize('seed', range(3))
def test_snapped_ranges_are_those_of_the_file(seed):
  scale, bits = a_table(seed)
  snap = jax.jit(functools.partial(a2q_groups.snapped_table, rule=RULE))
  new_scale, new_bits = map(np.asarray, snap(scale, bits))
  scale, used = np.asarray(scale), np.clip(np.rint(bits), 2, 8)

  def groups(scale, bits):
    reach = np.abs(np.float64(scale)) * 2.0 ** (bits - 1)
    limit = (2.0 ** (bits - 1) - 1).astype(int)
    return quantizers._groups(grids.GroupGrid(scale, limit, reach), UNIT)

  before, after = groups(scale, used), groups(new_scale, new_bits)
  for old, new in zip(before, after, strict=True):
    np.testing.assert_array_equal(old, new)
  # Five bits, and nothing is left for a file to round.
  reach = new_scale * 2.0 ** (new_bits - 1)
  np.testing.assert_array_equal(np.unique(reach), before[0] * UNIT)
  np.testing.assert_allclose(
    reach, np.abs(scale) * 2.0 ** (used - 1), rtol=1 / 32
  )
  assert len(np.unique(reach)) < 200


def test_snapped_groups_of_equal_ranges_are_equal():
  # Ranges 16.4, 16.4, 16, 17.5, 18 in steps of 1, ties to even; their bits.
  scale = jnp.float32([8.2, 4.1, 0.25, 8.75, 4.5, 1e-9])
  bits = jnp.float32([2, 3, 7.4, 2, 3, 2])
  new_scale, new_bits = a2q_groups.snapped_table(scale, bits, rule=RULE)
  np.testing.assert_array_equal(new_bits, [3, 3, 3, 3, 3, 2])
  # 2**-15 of 16, the power of two below the largest range.
  np.testing.assert_array_equal(new_scale, [4, 4, 4, 4.5, 4.5, 2.0**-12])


def test_snapping_twice_changes_nothing():
  once = a2q_groups.snapped_table(*a_table(7), rule=RULE)
  twice = a2q_groups.snapped_table(*once, rule=RULE)
  jax.tree.map(np.testing.assert_array_equal, once, twice)
