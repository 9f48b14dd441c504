"""MixQ's `published=True` against vectors of the published code (README.md)."""

import functools
import pathlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import mixq, mixq_search

FOLDER = pathlib.Path(__file__).parent
NUM_CASES = 20  # Bits 1, 2, 4, 8 and 16, signed or not, calibrated or moved.


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
  with np.load(FOLDER / f'mixq_{name}.npz', allow_pickle=False) as arrays:
    return dict(arrays)


def case_of(granularity, index):
  arrays = golden(granularity)
  case = {name: arrays[name][index] for name in arrays if name != 'first'}
  settings = {
    'bits': int(case['bits']),
    'signed': bool(case['signed']),
    'published': True,
  }
  return case, settings


def eager_pull_back(arrays, upstream, *, function, **settings):
  """Output of a function of mixq, and its gradients for `upstream`."""
  out, vjp = jax.vjp(functools.partial(function, **settings), *arrays)
  return out, vjp(upstream)


STATIC = ('function', 'bits', 'candidates', 'signed', 'published')
compiled_pull_back = jax.jit(eager_pull_back, static_argnames=STATIC)


def pull_back(case, names, *, jit, **settings):
  arrays = [jnp.asarray(case[name]) for name in names]
  upstream = jnp.asarray(case['upstream'])
  run = compiled_pull_back if jit else eager_pull_back
  return run(arrays, upstream, **settings)


@functools.cache
def run(granularity, index, *, jit):
  case, settings = case_of(granularity, index)
  names = ('x', 'scale', 'zero_point')
  return pull_back(case, names, jit=jit, function=mixq.fake_quant, **settings)


compiled_calibrate = jax.jit(
  mixq.calibrate, static_argnames=('bits', 'signed', 'published', 'axis')
)


def close_sums(ours, theirs, terms, *, rtol):
  """Sums of the same float32 terms in another order."""
  allowed = rtol * np.abs(terms) + 1e-30
  error = np.abs(np.asarray(ours) - theirs)
  assert np.all(error <= allowed), (error / allowed).max()


@helpers.JIT
@pytest.mark.parametrize('index', range(NUM_CASES))
@pytest.mark.parametrize('granularity', ['columns', 'tensor'])
class TestQuantizer:
  def test_calibration_is_exact(self, granularity, index, jit):
    case, settings = case_of(granularity, index)
    axis = 0 if granularity == 'columns' else None
    scale, zero_point = (compiled_calibrate if jit else mixq.calibrate)(
      jnp.asarray(golden(granularity)['first']), axis=axis, **settings
    )
    np.testing.assert_array_equal(scale, case['start_scale'])
    np.testing.assert_array_equal(zero_point, case['start_zero_point'])

  def test_output_is_exact(self, granularity, index, jit):
    case, _ = case_of(granularity, index)
    out, _ = run(granularity, index, jit=jit)
    np.testing.assert_array_equal(out, case['out'])

  def test_input_gradient_is_exact(self, granularity, index, jit):
    case, _ = case_of(granularity, index)
    _, (dx, _, _) = run(granularity, index, jit=jit)
    np.testing.assert_array_equal(dx, case['dx'])

  def test_parameter_gradients(self, granularity, index, jit):
    case, _ = case_of(granularity, index)
    _, (_, dscale, dzero_point) = run(granularity, index, jit=jit)
    upstream = np.abs(case['upstream'])
    ratio = np.abs(case['x'] / case['scale'])
    for ours, name, terms in (
      (dscale, 'dscale', upstream * (ratio + np.abs(case['zero_point']))),
      (dzero_point, 'dzero_point', upstream),
    ):
      terms = terms.mean(0, keepdims=True)
      if granularity == 'tensor':
        terms = terms.sum(1, keepdims=True)
      close_sums(ours, case[name], terms, rtol=5e-7)


@pytest.mark.parametrize('granularity', ['columns', 'tensor'])
def test_files_hold_the_hard_cases(granularity):
  settings = set()
  ties = bounds = beyond = 0
  for index in range(NUM_CASES):
    case, _ = case_of(granularity, index)
    bits, signed = int(case['bits']), bool(case['signed'])
    settings.add((bits, signed, bool(case['moved'])))
    u = case['zero_point'] + case['x'] / case['scale']
    qmin, qmax = mixq.code_range(bits, signed=signed)
    inside = (u > qmin) & (u < qmax)
    ties += np.any(inside & (u % 1 == 0.5))
    bounds += np.any(u == qmin) & np.any(u == qmax)
    beyond += np.any(u < qmin - 1) & np.any(u > qmax + 1)
    assert np.any((case['x'] == 0) & np.signbit(case['x'])), 'negative zero'
  assert len(settings) == NUM_CASES
  assert ties == beyond == NUM_CASES
  assert bounds > 0.8 * NUM_CASES  # Not every scale reaches both exactly.


@helpers.JIT
@pytest.mark.parametrize('name', ['mixture_2_4_8', 'mixture_8_16'])
def test_mixture(name, jit):
  case = golden(name)
  out, (dx, dscales, dzero_points, dlogits) = pull_back(
    case,
    ('x', 'scales', 'zero_points', 'logits'),
    jit=jit,
    function=mixq_search.relaxed_fake_quant,
    candidates=tuple(case['candidates'].tolist()),
    signed=bool(case['signed']),
    published=True,
  )
  # float32 softmax, and two or three products added up.
  np.testing.assert_allclose(out, case['out'], rtol=1e-6, atol=1e-12)
  np.testing.assert_allclose(dx, case['dx'], rtol=1e-6, atol=1e-7)
  upstream = np.abs(case['upstream'])
  ratio = np.abs(case['x'] / case['scales']) + np.abs(case['zero_points'])
  scale_terms = np.mean(upstream * ratio, 1, keepdims=True)
  close_sums(dscales, case['dscales'], scale_terms, rtol=1e-6)
  zero_terms = np.mean(upstream, 0, keepdims=True)
  close_sums(dzero_points, case['dzero_points'], zero_terms, rtol=1e-6)
  logit_terms = np.sum(upstream * np.abs(case['out']))
  close_sums(dlogits, case['dlogits'], logit_terms, rtol=1e-6)


def test_mixture_gradients_of_logits_are_not_lost_in_the_tolerance():
  for name in ('mixture_2_4_8', 'mixture_8_16'):
    case = golden(name)
    terms = np.sum(np.abs(case['upstream'] * case['out']))
    assert np.all(np.abs(case['dlogits']) > 1e-5 * terms), name


class TestSearch:
  def test_cost_and_its_gradient(self):
    case = golden('search')
    candidates = tuple(case['candidates'].tolist())

    def cost(logits):
      return sum(
        mixq_search.bit_cost(int(size), theta, candidates, depth=int(depth))
        for theta, size, depth in zip(
          logits, case['elements'], case['depth'], strict=True
        )
      )

    value, dlogits = jax.value_and_grad(cost)(jnp.asarray(case['logits']))
    np.testing.assert_allclose(value, case['cost'], rtol=1e-6)
    # Of the elements times 8 bits, which the softmax gradient subtracts.
    terms = 8 * case['elements'] / 8192.0 ** case['depth']
    close_sums(dlogits, case['dlogits'], terms[:, None], rtol=3e-7)

  def test_both_depths_occur(self):
    assert set(golden('search')['depth']) == {1, 2}

  def test_winners(self):
    case = golden('search')
    candidates = tuple(case['candidates'].tolist())
    selected = mixq_search.select_bits(jnp.asarray(case['logits']), candidates)
    np.testing.assert_array_equal(selected, case['winners'])

  def test_average_bits(self):
    case = golden('search')
    average = mixq_search.average_bits(case['winners'].tolist())
    assert average == pytest.approx(float(case['average_bits']), rel=1e-12)

  def test_bit_operations(self):
    case = golden('search')
    total = sum(
      mixq_search.bit_operations(
        int(operations), case['winners'][case['module'] == module].tolist()
      )
      for module, operations in enumerate(case['operations'])
    )
    assert total == pytest.approx(float(case['bit_operations']), rel=1e-12)

  @pytest.mark.parametrize(
    'candidates', [(2, 4, 8), (4, 8), (8, 16), (1, 2, 16)], ids=str
  )
  def test_initial_logits(self, candidates):
    expected = golden('initial')['_'.join(map(str, candidates))]
    logits = mixq_search.initial_logits(candidates)
    np.testing.assert_allclose(logits, expected, rtol=3e-7)
