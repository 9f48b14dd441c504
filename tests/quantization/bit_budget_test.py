import helpers
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.quantization import bit_budget

MASK = jnp.array([True, True, True, False])


def usage(bits, width=5, **changes):
  fields = {'mask': MASK, 'count': 4, 'min_bits': 2, **changes}
  return bit_budget.bit_usage(jnp.asarray(bits), width=width, **fields)


def test_usage_by_hand():
  found = usage([3.25, -4.5, 1.0, 7.0])
  assert float(found.bits) == 5 * (3.25 + 4.5 + 2)  # 1 is clamped to 2.
  assert (float(found.elements), float(found.count)) == (15, 4)
  unsigned = usage([3.25, -4.5, 1.0, 7.0], sign_bit=1, min_bits=3)
  assert float(unsigned.bits) == 5 * (2.25 + 3.5 + 2)


@helpers.JIT
def test_penalty_and_gradient_in_closed_form(jit):
  bits = np.float32([3.25, -4.5, 1.0, 7.0])
  other = usage([4.0, 4.0, 4.0, 4.0], width=2)
  penalty = lambda b: bit_budget.target_penalty([usage(b), other], 3.0)
  function = jax.value_and_grad(penalty)
  value, grad = (jax.jit(function) if jit else function)(bits)
  excess = (48.75 + 24) / 21 - 3
  np.testing.assert_allclose(value, 8 / 2 * excess**2, rtol=1e-6)
  # K (b - target) times the share of the elements; the sign of b; nothing for
  # what is clamped or padding.
  share = 8 * excess * 5 / 21
  np.testing.assert_allclose(grad, [share, -share, 0, 0], rtol=1e-5)


def test_nothing_below_the_target():
  function = jax.value_and_grad(
    lambda b: bit_budget.target_penalty([usage(b)], 4.5)
  )
  value, grad = function(jnp.full(4, 4.4))
  assert value == 0 and not grad.any()


def test_gradient_does_not_depend_on_the_size_of_the_data():
  means = []
  for n in (10, 1000):
    bits, mask = jnp.full(n, 4.0), jnp.ones(n, bool)
    grad = jax.grad(
      lambda b, m=mask, n=n: bit_budget.target_penalty(
        [usage(b, mask=m, count=n)], 3.5
      )
    )(bits)
    means.append(float(grad.mean()))
  np.testing.assert_allclose(means, 0.5, rtol=1e-5)
