"""QAT and Degree-Quant against vectors of the published code (README.md)."""

import functools
import pathlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import affine, degree_quant, observers

FOLDER = pathlib.Path(__file__).parent
GRIDS = {
  'int8_signed': (8, True),
  'int8_unsigned': (8, False),
  'int4_signed': (4, True),
  'int4_unsigned': (4, False),
}
# Published name to (gradient, rule, percentile in use).
RULES = {
  'ste_abs': ('plain', 'extreme', False),
  'ste_mom': ('plain', 'momentum', False),
  'ste_per': ('plain', 'extreme', True),
  'gc_abs': ('clipped_strict', 'extreme', False),
  'gc_mom': ('clipped_strict', 'momentum', False),
  'gc_per': ('clipped_strict', 'extreme', True),
}
PERCENTILES = {8: 0.001, 4: 0.01}

each_grid = pytest.mark.parametrize('grid', GRIDS)
each_rule = pytest.mark.parametrize('rule', RULES)


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
  with np.load(FOLDER / f'dq_{name}.npz', allow_pickle=False) as arrays:
    return dict(arrays)


def inputs(signed):
  """Batches, protected rows [t, n, 1] and upstream gradients."""
  case = golden('inputs')
  x = case['x'] if signed else np.maximum(case['x'], 0)
  return x, case['protected'][..., None], case['upstream']


@functools.cache
def train(rule, grid, *, jit):
  """Ranges, outputs and gradients of all batches, then the evaluation."""
  gradient, update, with_percentile = RULES[rule]
  bits, signed = GRIDS[grid]
  percentile = PERCENTILES[bits] if with_percentile else 0.0
  quant = functools.partial(
    affine.fake_quant, bits=bits, signed=signed, gradient=gradient
  )

  def qparams_of(running):
    return affine.affine_qparams(
      running.min_val, running.max_val, bits=bits, signed=signed
    )

  def step(running, x, protected, upstream):
    current = observers.batch_range(x, mask=~protected, percentile=percentile)
    running = observers.update_range(running, current, rule=update)
    out, pull_back = jax.vjp(
      lambda x: quant(x, qparams_of(running), keep=protected), x
    )
    return running, out, *pull_back(upstream)

  step = jax.jit(step) if jit else step
  running, steps = observers.init_range(), []
  for batch in zip(*inputs(signed), strict=True):
    running, *rest = step(running, *map(jnp.asarray, batch))
    steps.append((running.min_val, running.max_val, *rest))
  names = ('min', 'max', 'out', 'dx')
  found = {n: np.stack([s[i] for s in steps]) for i, n in enumerate(names)}
  evaluated = quant(
    jnp.asarray(golden('inputs')['x_eval']), qparams_of(running)
  )
  return found | {'eval': np.asarray(evaluated)}


def clear_of_ties(x, low, high, bits):
  """Where float32 rounding cannot move x / s + z over a half; and s."""
  low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
  scale = (high - low) / (2**bits - 1)
  ratio = x.astype(np.float64) / scale
  # Values of up to about 2**8 have a float32 spacing of 2**-16.
  return np.abs(ratio % 1 - 0.5) > 1e-4, scale


@helpers.JIT
@each_grid
@each_rule
class TestTraining:
  def test_ranges(self, rule, grid, jit):
    case, found = golden(rule), train(rule, grid, jit=jit)
    for name in ('min', 'max'):
      # A compiled momentum update may be one fused multiply-add.
      rtol = 2e-7 if rule.endswith('mom') and jit else 0
      np.testing.assert_allclose(found[name], case[f'{grid}_{name}'], rtol=rtol)

  def test_outputs_and_gradients(self, rule, grid, jit):
    case, found = golden(rule), train(rule, grid, jit=jit)
    bits, signed = GRIDS[grid]
    x, protected, _ = inputs(signed)
    low, high = (
      case[f'{grid}_{name}'].astype(np.float64)[:, None, None]
      for name in ('min', 'max')
    )
    clear, scale = clear_of_ties(x, low, high, bits)
    clear |= protected
    assert np.mean(clear) > 0.995
    out, dx = case[f'{grid}_out'], case[f'{grid}_dx']
    # The float32 scale is the rounded float64 one up to one unit more.
    np.testing.assert_allclose(found['out'][clear], out[clear], rtol=3e-7)
    np.testing.assert_array_equal(found['dx'][clear], dx[clear])
    error = np.abs(found['out'] - out)
    assert np.all(error <= scale * (1 + 1e-6))

  def test_protected_rows_pass(self, rule, grid, jit):
    found = train(rule, grid, jit=jit)
    x, protected, upstream = inputs(GRIDS[grid][1])
    rows = np.broadcast_to(protected, x.shape)
    np.testing.assert_array_equal(found['out'][rows], x[rows])
    np.testing.assert_array_equal(found['dx'][rows], upstream[rows])

  def test_evaluation(self, rule, grid, jit):
    case, found = golden(rule), train(rule, grid, jit=jit)
    low, high = (case[f'{grid}_{n}'][-1].astype(float) for n in ('min', 'max'))
    bits, _ = GRIDS[grid]
    clear, _ = clear_of_ties(golden('inputs')['x_eval'], low, high, bits)
    assert np.mean(clear) > 0.99
    np.testing.assert_allclose(
      found['eval'][clear], case[f'{grid}_eval'][clear], rtol=3e-7
    )


@each_grid
def test_training_files_hold_the_hard_cases(grid):
  _, protected, _ = inputs(GRIDS[grid][1])
  assert not np.any(protected[1]) and np.all(np.any(protected[[0, 2, 3]], 1))
  extreme, momentum = golden('gc_abs'), golden('gc_mom')
  assert extreme[f'{grid}_max'][0] == extreme[f'{grid}_max'][1], 'no shrinking'
  assert momentum[f'{grid}_max'][0] > momentum[f'{grid}_max'][1], 'shrinking'
  stopped = np.mean(momentum[f'{grid}_dx'][2] == 0)
  assert 0.1 < stopped < 0.9, 'clipped'
  assert np.all(golden('ste_mom')[f'{grid}_dx'] != 0)
  percentile = golden('gc_per')[f'{grid}_max']
  assert np.all(percentile < extreme[f'{grid}_max']), 'outliers left out'


@helpers.JIT
@each_grid
@pytest.mark.parametrize(
  'name, gradient', [('ste', 'plain'), ('gc', 'clipped_strict')]
)
def test_dyadic_scales_are_exact(name, gradient, grid, jit):
  """Ties and their neighbours, bounds, both zeros: every bit agrees."""
  case = {
    key.removeprefix(f'{grid}_'): jnp.asarray(value)
    for key, value in golden('exact').items()
    if key.startswith(grid)
  }
  bits, signed = GRIDS[grid]

  def forward_and_backward(x, low, high, upstream):
    qparams = affine.affine_qparams(low, high, bits=bits, signed=signed)
    quant = functools.partial(
      affine.fake_quant, bits=bits, signed=signed, gradient=gradient
    )
    out, pull_back = jax.vjp(lambda x: quant(x, qparams), x)
    return out, *pull_back(upstream)

  run = jax.jit(forward_and_backward) if jit else forward_and_backward
  out, dx = run(
    case['x'], case['min'][:, None], case['max'][:, None], case['upstream']
  )
  np.testing.assert_array_equal(out, case[name])
  np.testing.assert_array_equal(dx, case[f'{name}_dx'])


@each_grid
def test_dyadic_file_holds_the_hard_cases(grid):
  case = golden('exact')
  x, low, high = (case[f'{grid}_{n}'] for n in ('x', 'min', 'max'))
  scale = ((high - low) / (2 ** GRIDS[grid][0] - 1))[:, None]
  assert np.all(np.log2(scale) % 1 == 0)
  assert np.all(np.any((x / scale) % 1 == 0.5, axis=1)), 'ties'
  end = np.any(x == low[:, None], axis=1) & np.any(x == high[:, None], axis=1)
  assert np.all(end), 'bounds'
  assert np.all(np.any((x == 0) & np.signbit(x), axis=1)), 'negative zero'
  inside = (x > low[:, None]) & (x < high[:, None])
  lost = (case[f'{grid}_gc_dx'] == 0) & inside
  assert np.any(lost), 'end codes without gradient'


@helpers.JIT
@each_grid
@pytest.mark.parametrize('form', ['affine', 'symmetric'])
def test_scale_and_zero_point(form, grid, jit):
  case, (bits, signed) = golden('qparams'), GRIDS[grid]
  function = functools.partial(
    affine.affine_qparams,
    bits=bits,
    signed=signed,
    symmetric=form == 'symmetric',
    zero_point_rule='published',
  )
  scale, zero_point = (jax.jit(function) if jit else function)(
    jnp.asarray(case['min']), jnp.asarray(case['max'])
  )
  expected = case[f'{grid}_{form}_scale']
  if form == 'symmetric':  # The published one has no lower bound.
    expected = np.maximum(expected, np.finfo(np.float32).eps)
    assert np.any(expected > case[f'{grid}_{form}_scale'])
  # One rounding of the width, one of the quotient.
  np.testing.assert_allclose(scale, expected, rtol=1.3e-7)
  low, high = (case[name].astype(np.float64) for name in ('min', 'max'))
  clear, _ = clear_of_ties(np.minimum(low, 0), low, high + 1e-30, bits)
  assert np.sum(clear) > 60
  np.testing.assert_array_equal(
    np.asarray(zero_point)[clear], case[f'{grid}_{form}_zero_point'][clear]
  )


@pytest.mark.parametrize('bits', [4, 8])
@pytest.mark.parametrize('values', ['plain', 'ties'])
def test_percentiles(values, bits):
  case = golden('percentiles')
  x = jnp.asarray(case[values])
  observe = jax.jit(
    functools.partial(observers.batch_range, percentile=PERCENTILES[bits])
  )
  ranges = [
    observe(x, mask=jnp.arange(len(x))[:, None] < rows) for rows in case['rows']
  ]
  np.testing.assert_array_equal(ranges, case[f'{values}_int{bits}'])


def test_protection_probability():
  case = golden('probability')
  num_nodes = case['n_node'].sum()
  in_degree = np.bincount(case['receivers'], minlength=num_nodes)
  graph = np.repeat(np.arange(case['n_node'].size), case['n_node'])
  for (low, change), expected in zip(
    case['settings'], case['probability'], strict=True
  ):
    probability = degree_quant.protection_probability(
      jnp.asarray(in_degree), jnp.asarray(graph), low=low, change=change
    )
    # The published sum over degrees is in float32.
    np.testing.assert_allclose(probability, expected, rtol=0, atol=5e-7)
