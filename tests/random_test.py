import jax
import numpy as np
import pytest

from lorap_jax import _random


@pytest.mark.parametrize('shape', [(), (5,), (11, 3), (2, 3, 4)])
def test_uniform_draws_those_of_jax(key, shape):
  found = _random.uniform(key, shape, 0.3)
  expected = jax.random.uniform(key, shape, minval=-0.3, maxval=0.3)
  np.testing.assert_array_equal(found, expected)


def test_flat_draws_of_dropout(key):
  flat = jax.random.bernoulli(key, 0.4, (33,)).reshape(11, 3)
  np.testing.assert_array_equal(flat, jax.random.bernoulli(key, 0.4, (11, 3)))


def test_glorot_draws_those_of_jax(key):
  found = _random.glorot_uniform(key, (11, 3))
  expected = jax.nn.initializers.glorot_uniform()(key, (11, 3))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
