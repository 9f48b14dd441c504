"""The ends of the grid that each quantizer declares, and who lies beyond."""

import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.nn import methods, prompts
from lorap_jax.nn.quantized import Quantized, Rows
from lorap_jax.quantization import a2q

ROWS = Rows(jnp.ones((40, 1), bool))
A2Q = {'bits': 3, 'start': 'data', 'rule': a2q.a2q_rule('graph', 'feature')}
QUANTIZERS = {
  'affine': methods.AffineQuantizer(bits=3, signed=True),
  'affine_columns': methods.AffineQuantizer(bits=3, signed=True),
  'groups': methods.GroupedQuantizer(num_groups=8, non_negative=False, **A2Q),
  'nodes': methods.NodeQuantizer(non_negative=False, **A2Q),
  'columns': methods.ColumnQuantizer(**A2Q),
  'mixq': methods.FixedQuantizer((), 3),
}


@pytest.mark.parametrize('name', QUANTIZERS)
def test_bounds_are_the_ends_of_the_grid(name):
  module = QUANTIZERS[name]
  x = jax.random.normal(jax.random.key(0), (40, 4))
  train = ROWS._replace(train=True)
  init, apply = (
    jax.jit(functools.partial(run, rows=train))
    for run in (
      module.init,
      functools.partial(module.apply, mutable=['quant_stats']),
    )
  )
  variables = init(jax.random.key(1), x)
  _, seen = apply(variables, x)
  variables = {**variables, **seen}
  far = 100 * jnp.sign(x)  # To both ends of every grid.
  evaluate = jax.jit(functools.partial(module.apply, rows=ROWS))
  out = evaluate(variables, far)
  low, high = (jnp.broadcast_to(b, x.shape) for b in out.bounds)
  expected = np.where(far > 0, high, low)
  np.testing.assert_allclose(out.values, expected, rtol=1e-6, atol=1e-6)
  report = helpers.feature_report(far, out, ROWS)
  np.testing.assert_array_equal(report.clipped, 4)
  np.testing.assert_allclose(
    report.energy_after, np.sum(expected**2, 1), rtol=1e-5
  )
  inside = evaluate(variables, 0.999 * out.values)
  if name != 'groups':  # Whose rows would choose other groups.
    report = helpers.feature_report(0.999 * out.values, inside, ROWS)
    np.testing.assert_array_equal(report.clipped, 0)


def test_clipped_nonzeros_of_sparse_rows():
  x = np.zeros((40, 4), np.float32)
  x[3, 1], x[5, 2], x[5, 3] = 9, 0.5, -9
  out = Quantized(jnp.asarray(x), 3.0, bounds=(jnp.float32(-1), jnp.float32(1)))
  expected = np.zeros(40)
  expected[[3, 5]] = 1
  for form in (jnp.asarray(x), graphs.sparse_rows(x)):
    report = helpers.feature_report(form, out._replace(values=form), ROWS)
    np.testing.assert_array_equal(report.clipped, expected)


def test_report_of_a_prompt():
  spec = prompts.PromptSpec('lorap', form='bias')
  s = jnp.arange(12.0).reshape(4, 3)
  rows = Rows(jnp.array([[True], [True], [True], [False]]))

  class Layer(helpers.nn.Module):
    @helpers.nn.compact
    def __call__(self, s):
      quantizer = lambda t: methods.quantize(
        methods.FP32(), 'aggregate', t, rows=rows
      )
      return prompts.prompted(spec, quantizer, s, rows=rows).values

  params = {'prompt': {'prompt': jnp.array([[1.0, -2.0, 0.5]])}}
  _, sown = Layer().apply({'params': params}, s, mutable=['telemetry'])
  report = sown['telemetry']['prompt']['prompt']
  real = np.arange(9.0).reshape(3, 3)
  assert report.elements == 9
  np.testing.assert_allclose(report.before, np.sum(real**2))
  np.testing.assert_allclose(report.prompt, 3 * (1 + 4 + 0.25))
  np.testing.assert_allclose(report.after, np.sum((real + [1, -2, 0.5]) ** 2))
