import helpers
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax import prompts


def test_gpf_adds_one_vector_to_every_node():
  x = jnp.asarray([[1.0, 2.0], [0.0, -1.0]])
  out = prompts.add_gpf(x, jnp.asarray([0.5, -3.0]))
  np.testing.assert_array_equal(out, [[1.5, -1], [0.5, -4]])


def test_gpf_plus_written_out():
  """Scores (0, ln 3) for the first node, (0, 0) for the second."""
  x = jnp.asarray([[1.0, 0.0], [0.0, 0.0]])
  basis = jnp.asarray([[4.0, 0.0], [0.0, 8.0]])
  kernel = jnp.asarray([[0.0, np.log(2.0)], [5.0, 5.0]])
  out = prompts.add_gpf_plus(x, basis, kernel, jnp.asarray([0.0, np.log(1.5)]))
  expected = [[1 + 4 * 0.25, 8 * 0.75], [4 * 0.4, 8 * 0.6]]
  np.testing.assert_allclose(out, expected, rtol=1e-6)


@helpers.JIT
def test_zeroed_prompts_are_the_identity(key, jit):
  x = jax.random.normal(key, (30, 5))
  kernel, bias = jax.random.normal(key, (5, 4)), jnp.ones(4)
  transform = jax.jit if jit else lambda f: f
  gpf = transform(prompts.add_gpf)(x, jnp.zeros(5))
  plus = transform(prompts.add_gpf_plus)(x, jnp.zeros((4, 5)), kernel, bias)
  np.testing.assert_array_equal(gpf, x)
  np.testing.assert_array_equal(plus, x)


def test_gpf_plus_with_one_prompt_is_gpf(key):
  x = jax.random.normal(key, (30, 5))
  prompt = jnp.arange(5.0)
  kernel = jax.random.normal(key, (5, 1))
  np.testing.assert_array_equal(
    prompts.add_gpf_plus(x, prompt[None], kernel, jnp.ones(1)),
    prompts.add_gpf(x, prompt),
  )


def test_gradient_of_gpf_is_the_sum_over_nodes(key):
  dy = jax.random.normal(key, (6, 5))
  grad = jax.grad(lambda p: jnp.sum(dy * prompts.add_gpf(dy, p)))(jnp.zeros(5))
  np.testing.assert_allclose(grad, dy.sum(0), rtol=1e-6)
