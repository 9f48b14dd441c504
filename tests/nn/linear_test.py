import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.nn import linear, methods, telemetry
from lorap_jax.nn.quantized import Quantized, Rows

ROWS = Rows(jnp.arange(6)[:, None] < 4)
A2Q = methods.A2QGraph(num_groups=16)


def run(module, x, key):
  params = module.init(key, x, rows=ROWS)['params']
  out, sown = module.apply(
    {'params': params}, x, rows=ROWS, mutable=[telemetry.COLLECTION]
  )
  return params, out, sown[telemetry.COLLECTION]


def dense(x, kernel, bias):
  x, kernel, bias = (np.asarray(v, np.float64) for v in (x, kernel, bias))
  return x @ kernel + bias


def test_full_precision_is_a_dense_layer(key):
  x = jax.random.normal(key, (6, 3))
  params, out, _ = run(linear.QuantDense(5, methods.FP32()), x, key)
  assert helpers.tree_spec(params) == {'kernel': (3, 5), 'bias': (5,)}
  expected = dense(x, params['kernel'], params['bias'])
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_start_is_uniform_in_the_fan_in(key):
  params, _, _ = run(
    linear.QuantDense(500, methods.FP32()), jnp.ones((6, 4)), key
  )
  for name in ('kernel', 'bias'):
    assert 0.49 < np.abs(params[name]).max() <= 0.5


@pytest.mark.parametrize('non_negative', [False, True])
def test_operands_are_quantized_and_the_bias_is_not(key, non_negative):
  x = jnp.abs(jax.random.normal(key, (6, 3)))
  module = linear.QuantDense(5, A2Q, non_negative=non_negative)
  params, out, _ = run(module, x, key)
  left = A2Q.quantizer('input', non_negative=non_negative)
  right = A2Q.quantizer('weight', non_negative=False)
  q_x = left.apply({'params': params['input']}, x, rows=ROWS)
  q_w = right.apply({'params': params['weight']}, params['kernel'], rows=Rows())
  assert np.any(q_x.values != x) and np.any(q_w.values != params['kernel'])
  expected = dense(q_x.values, q_w.values, params['bias'])
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_quantized_input_is_not_quantized_again(key):
  x = Quantized(jax.random.normal(key, (6, 3)), jnp.full((6, 1), 3.0))
  params, out, tree = run(linear.QuantDense(5, A2Q), x, key)
  assert 'input' not in params
  q_w = A2Q.quantizer('weight', non_negative=False).apply(
    {'params': params['weight']}, params['kernel'], rows=Rows()
  )
  expected = dense(x.values, q_w.values, params['bias'])
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  # 4 real rows times 15 products, of 3 bits by 4 bits.
  product = tree['product']
  assert product.macs == 60 and product.bit_ops == 60 * 12


def test_reports_in_full_precision(key):
  _, _, tree = run(linear.QuantDense(5, methods.FP32()), jnp.ones((6, 3)), key)
  product, weight = tree['product'], tree['weight_matrix']
  assert product.macs == 60 and product.bit_ops == 60 * 32 * 32
  assert (weight.elements, weight.bits) == (15, 32)
  assert weight.metadata_bytes == 4 * 5  # The bias.


def test_reports_of_a2q(key):
  x = jnp.abs(jax.random.normal(key, (6, 3)))
  _, _, tree = run(linear.QuantDense(5, A2Q, non_negative=True), x, key)
  product, weight = tree['product'], tree['weight_matrix']
  feature = tree['input']['feature']
  np.testing.assert_array_equal(feature.bits, 4)  # Five inside, less one.
  assert product.bit_ops == 60 * 4 * 4
  assert (weight.elements, weight.bits) == (15, 4)
  assert weight.metadata_bytes == 4 * 5 + 4 * 5  # The bias and the scales.
