import functools
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from lorap_jax import prompts

LOW_RANK = ('basis', 'basis_and_score', 'none')


def draw(key, *, features=6, num_prompts=5, rank=2, low_rank='basis'):
  return prompts.init_lorap(
    key,
    features,
    num_prompts=num_prompts,
    rank=rank,
    init='glorot',
    low_rank=low_rank,
  )


def softmax(scores):
  weights = np.exp(scores - scores.max(1, keepdims=True))
  return weights / weights.sum(1, keepdims=True)


def oracle(params, s):
  """softmax(s W + c) P with the factors multiplied out, in float64."""
  params = [None if p is None else np.asarray(p, np.float64) for p in params]
  up, down, kernel, bias, score_down = params
  kernel = kernel if score_down is None else score_down @ kernel
  basis = up if down is None else down @ up
  return softmax(np.asarray(s, np.float64) @ kernel + bias) @ basis


class TestPrompt:
  def test_written_out(self):
    """Two prompts (3, 6) and (-1, -2) of rank 1, weights (1/4, 3/4)."""
    params = prompts.LoRAPParams(
      up=jnp.asarray([[1.0, 2.0]]),
      down=jnp.asarray([[3.0], [-1.0]]),
      kernel=jnp.asarray([[0.0, np.log(3.0)], [7.0, 7.0]]),
      bias=jnp.asarray([0.5, 0.5]),
      score_down=None,
    )
    prompt = prompts.lorap_prompt(params, jnp.asarray([[1.0, 4.0]]))
    np.testing.assert_allclose(prompt, [[0.0, 0.0]], atol=1e-6)
    prompt = prompts.lorap_prompt(params, jnp.asarray([[0.0, 4.0]]))
    np.testing.assert_allclose(prompt, [[1.0, 2.0]], rtol=1e-6)

  @helpers.JIT
  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_closed_form(self, key, low_rank, jit):
    params = draw(key, low_rank=low_rank)
    s = 3 * jax.random.normal(key, (40, 6))
    function = jax.jit(prompts.lorap_prompt) if jit else prompts.lorap_prompt
    np.testing.assert_allclose(
      function(params, s), oracle(params, s), rtol=1e-5, atol=1e-6
    )

  @pytest.mark.parametrize('bits', [4, 32])
  @pytest.mark.parametrize('low_rank', LOW_RANK)
  @helpers.JIT
  def test_zeroed_prompt_is_exactly_the_identity(
    self, key, low_rank, bits, jit
  ):
    params = draw(key, low_rank=low_rank)
    params = params._replace(up=jnp.zeros_like(params.up))
    s = 1e3 * jax.random.normal(key, (40, 6))

    def add(params, s):
      return s + prompts.lorap_prompt(params, s, bits=bits)

    out = (jax.jit(add) if jit else add)(params, s)
    np.testing.assert_array_equal(out, s)

  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_one_prompt_is_a_bias_vector(self, key, low_rank):
    """The softmax over one score is 1, whatever the score."""
    params = draw(key, num_prompts=1, low_rank=low_rank)
    s = jax.random.normal(key, (40, 6))
    basis = params.up if params.down is None else params.down @ params.up
    prompt = prompts.lorap_prompt(params, s)
    # A product of another shape may sum in another order.
    np.testing.assert_allclose(
      prompt, jnp.broadcast_to(basis, prompt.shape), rtol=1e-6
    )

  def test_full_rank_equals_dense(self, key):
    """A = identity: P = B."""
    dense = draw(key, low_rank='none')
    factored = dense._replace(down=jnp.eye(5))
    s = jax.random.normal(key, (40, 6))
    np.testing.assert_allclose(
      prompts.lorap_prompt(factored, s),
      prompts.lorap_prompt(dense, s),
      rtol=1e-6,
    )

  def test_rows_are_independent(self, key):
    params = draw(key)
    s = jax.random.normal(key, (40, 6))
    order = jax.random.permutation(key, 40)
    np.testing.assert_allclose(
      prompts.lorap_prompt(params, s[order]),
      prompts.lorap_prompt(params, s)[order],
      rtol=1e-6,
    )

  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_gradient_is_that_of_finite_differences(self, key, low_rank):
    params = draw(key, low_rank=low_rank)
    s = jax.random.normal(key, (10, 6))
    loss = jax.jit(lambda p, s: jnp.sum(prompts.lorap_prompt(p, s) ** 2))
    test_util.check_grads(
      loss, (params, s), order=1, modes=['rev'], rtol=0.02, atol=0.02
    )


class TestInit:
  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_zero_start_is_a_no_op_with_gradient(self, key, low_rank):
    params = prompts.init_lorap(key, 6, low_rank=low_rank)
    s = jax.random.normal(key, (20, 6))
    assert not np.any(prompts.lorap_prompt(params, s))
    grad = jax.grad(lambda p: jnp.sum(prompts.lorap_prompt(p, s)))(params)
    assert np.any(grad.up)  # Else it could never leave zero.

  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_glorot_bounds(self, key, low_rank):
    params = draw(key, features=50, num_prompts=40, rank=4, low_rank=low_rank)
    bounds = prompts.LoRAPParams(
      up=(6 / (50 + (40 if low_rank == 'none' else 4))) ** 0.5,
      down=(6 / 44) ** 0.5,
      kernel=(4 if low_rank == 'basis_and_score' else 50) ** -0.5,
      bias=50**-0.5,
      score_down=50**-0.5,
    )
    for name, value in params._asdict().items():
      if value is None:
        continue
      largest, bound = float(jnp.abs(value).max()), getattr(bounds, name)
      # 40 to 2000 draws come close to the bound and stay inside.
      assert 0.85 * bound < largest <= bound, name
      assert value.dtype == jnp.float32

  def test_keys_matter(self, key):
    other = draw(jax.random.key(1))
    assert not np.any(np.asarray(draw(key).up) == np.asarray(other.up))

  @pytest.mark.parametrize('rank', [1, 3])
  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_parameter_count(self, key, low_rank, rank):
    k, d, r = 5, 6, rank
    table = {
      'basis': r * (k + d) + k * (d + 1),
      'basis_and_score': r * (k + d) + r * (k + d) + k,
      'none': k * d + k * (d + 1),
    }[low_rank]
    params = draw(key, num_prompts=k, rank=r, features=d, low_rank=low_rank)
    leaves = sum(leaf.size for leaf in jax.tree.leaves(params))
    counted = prompts.num_lorap_params(
      d, num_prompts=k, rank=r, low_rank=low_rank
    )
    assert counted == leaves == table

  @pytest.mark.parametrize(
    'low_rank, missing',
    [
      ('basis', {'score_down'}),
      ('basis_and_score', set()),
      ('none', {'down', 'score_down'}),
    ],
  )
  def test_factors_in_use(self, key, low_rank, missing):
    params = draw(key, low_rank=low_rank)._asdict()
    assert {n for n, v in params.items() if v is None} == missing


class TestIntegerPrompt:
  @helpers.JIT
  @pytest.mark.parametrize('bits', [2, 4, 8])
  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_matrices_are_on_their_grid(self, key, low_rank, bits, jit):
    params = draw(key, low_rank=low_rank)
    quantize = functools.partial(prompts.quantize_prompt, bits=bits)
    out = (jax.jit(quantize) if jit else quantize)(params)
    assert out.down is None
    np.testing.assert_array_equal(out.bias, params.bias)
    dense = params.up if params.down is None else params.down @ params.up
    pairs = [(out.up, dense), (out.kernel, params.kernel)]
    if params.score_down is not None:
      pairs.append((out.score_down, params.score_down))
    qmax = 2 ** (bits - 1) - 1
    for ours, matrix in pairs:
      scale = np.abs(matrix).max() / np.float32(qmax)
      codes = np.round(np.asarray(ours) / scale)
      # P = A B may differ in its last bit, and its scale with it.
      np.testing.assert_allclose(ours, codes * scale, rtol=1e-6)
      assert np.abs(codes).max() == qmax
      assert np.abs(np.asarray(ours) - matrix).max() <= scale * 0.5001
      assert len(np.unique(ours)) <= 2 * qmax + 1

  @helpers.JIT
  def test_ties_are_those_of_float32_division(self, key, jit):
    quantize = functools.partial(prompts.quantize_prompt, bits=4)
    quantize = jax.jit(quantize) if jit else quantize
    params = draw(key, low_rank='none')
    shape = params.kernel.shape
    for j in range(1, 30):
      steps = np.resize(np.arange(-14, 15), shape) * np.float32(0.5)
      kernel = (steps * (np.float32(j) / np.float32(255))).astype(np.float32)
      out = quantize(params._replace(kernel=jnp.asarray(kernel))).kernel
      scale = np.abs(kernel).max() / np.float32(7)
      np.testing.assert_array_equal(out, np.round(kernel / scale) * scale)

  def test_prompt_uses_the_quantized_parameters(self, key):
    params = draw(key)
    s = jax.random.normal(key, (40, 6))
    integer = prompts.lorap_prompt(params, s, bits=4)
    folded = prompts.quantize_prompt(params, bits=4)
    np.testing.assert_allclose(integer, oracle(folded, s), rtol=1e-5, atol=1e-6)
    assert np.abs(integer - prompts.lorap_prompt(params, s)).max() > 1e-3

  def test_eight_bits_are_close(self, key):
    params = draw(key)
    s = jax.random.normal(key, (40, 6))
    full = prompts.lorap_prompt(params, s)
    integer = prompts.lorap_prompt(params, s, bits=8)
    # Half a step of 1/127 in both factors of the product.
    assert np.abs(integer - full).max() < 0.02 * np.abs(full).max()

  @pytest.mark.parametrize('low_rank', LOW_RANK)
  def test_straight_through_gradient(self, key, low_rank):
    """The gradient of the unquantized product at the quantized point."""
    params = draw(key, low_rank=low_rank)
    weights = draw(jax.random.key(1), low_rank='none')

    def loss(params):
      out = prompts.quantize_prompt(params, bits=4)
      total = jnp.sum(out.up * weights.up) + jnp.sum(2 * out.kernel)
      total += 3 * jnp.sum(out.bias)
      if out.score_down is not None:
        total += 5 * jnp.sum(out.score_down)
      return total

    grad = jax.grad(loss)(params)
    if params.down is None:
      np.testing.assert_array_equal(grad.up, weights.up)
    else:
      np.testing.assert_allclose(
        grad.up, params.down.T @ weights.up, rtol=1e-5, atol=1e-6
      )
      np.testing.assert_allclose(
        grad.down, weights.up @ params.up.T, rtol=1e-5, atol=1e-6
      )
    np.testing.assert_array_equal(grad.kernel, jnp.full_like(grad.kernel, 2))
    np.testing.assert_array_equal(grad.bias, jnp.full_like(grad.bias, 3))
    if grad.score_down is not None:
      np.testing.assert_array_equal(
        grad.score_down, jnp.full_like(grad.score_down, 5)
      )

  @pytest.mark.parametrize('bits', [1, 9, 0, 16])
  def test_bits_out_of_range(self, key, bits):
    params, s = draw(key), jnp.ones((3, 6))
    with pytest.raises(ValueError, match=rf'in 2\.\.8, or 32.*got {bits}'):
      prompts.lorap_prompt(params, s, bits=bits)


class TestErrors:
  @pytest.mark.parametrize('name', ['num_prompts', 'rank'])
  @pytest.mark.parametrize('value', [0, -1])
  def test_counts(self, key, name, value):
    message = re.escape(f'`{name}` must be at least 1, got {value}')
    with pytest.raises(ValueError, match=message):
      prompts.init_lorap(key, 6, **{name: value})

  @pytest.mark.parametrize('name', ['init', 'low_rank'])
  def test_choices(self, key, name):
    # Called without the type checks of the test run, as a user would.
    function = getattr(prompts.init_lorap, '__wrapped__', prompts.init_lorap)
    with pytest.raises(ValueError, match=rf"`{name}` must be .* got 'other'"):
      function(key, 6, **{name: 'other'})
