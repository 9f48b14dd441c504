"""The published rules against vectors of the published code (README.md)."""

import functools
import pathlib

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.quantization import a2q, a2q_groups, a2q_published

FOLDER = pathlib.Path(__file__).parent
QUANTIZERS = [
  (level, tensor)
  for level in ('node', 'graph')
  for tensor in ('feature', 'message', 'weight')
]


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
  with np.load(FOLDER / f'a2q_{name}.npz', allow_pickle=False) as arrays:
    return dict(arrays)


@functools.cache
def run(level, tensor, *, jit):
  """Output and (dx, dscale, dbits), laid out as the published code has it."""
  case = golden(f'{level}_{tensor}')
  rule = a2q_published.published_rule(level, tensor)
  per_row = tensor == 'feature'

  def forward(x, scale, bits):
    scale, bits = scale[case['group']], bits[case['group']]
    if per_row:
      return a2q.fake_quant(x, scale[:, None], bits[:, None], rule=rule)
    return a2q.fake_quant(x.T, scale[None], bits[None], rule=rule).T

  def forward_and_backward(x, scale, bits, upstream):
    out, pull_back = jax.vjp(forward, x, scale, bits)
    return out, pull_back(upstream)

  function = jax.jit(forward_and_backward) if jit else forward_and_backward
  names = ('x', 'scale', 'bits', 'upstream')
  return function(*(jnp.asarray(case[name]) for name in names))


def reduced_magnitude(case, name):
  """What float32 sums of a gradient's terms are accurate relative to."""
  bits = np.round(np.abs(case['bits'])).astype(np.float64)
  largest = {
    'dscale': np.maximum(2 ** (bits - 1) - 1, 1),
    'dbits': 2 ** (bits - 1) * np.abs(case['scale']),
  }[name]
  rows = np.sum(np.abs(case['upstream']), axis=1)
  total = np.zeros(bits.shape)
  np.add.at(total, case['group'], rows)
  return largest * np.maximum(total, 1)


@helpers.JIT
@pytest.mark.parametrize('level, tensor', QUANTIZERS)
class TestQuantizers:
  def test_output_is_exact(self, level, tensor, jit):
    case = golden(f'{level}_{tensor}')
    out, _ = run(level, tensor, jit=jit)
    np.testing.assert_array_equal(out, case['out'])

  def test_input_gradient_is_exact(self, level, tensor, jit):
    case = golden(f'{level}_{tensor}')
    _, (dx, _, _) = run(level, tensor, jit=jit)
    np.testing.assert_array_equal(dx, case['dx'])

  @pytest.mark.parametrize('name', ['dscale', 'dbits'])
  def test_parameter_gradients(self, level, tensor, name, jit):
    case = golden(f'{level}_{tensor}')
    _, (_, dscale, dbits) = run(level, tensor, jit=jit)
    error = np.abs({'dscale': dscale, 'dbits': dbits}[name] - case[name])
    # Sums of 24 to 50 float32 terms in another order.
    allowed = 1e-6 * reduced_magnitude(case, name)
    assert np.all(error <= allowed), (error / allowed).max()


@pytest.mark.parametrize('level, tensor', QUANTIZERS)
def test_gradients_of_clear_cases_are_close_relatively(level, tensor):
  case = golden(f'{level}_{tensor}')
  _, (_, dscale, dbits) = run(level, tensor, jit=True)
  for ours, name in ((dscale, 'dscale'), (dbits, 'dbits')):
    clear = np.abs(case[name]) > 0.1 * reduced_magnitude(case, name)
    np.testing.assert_allclose(
      np.asarray(ours)[clear], case[name][clear], rtol=2e-6
    )


@pytest.mark.parametrize('level, tensor', QUANTIZERS)
def test_files_hold_the_hard_cases(level, tensor):
  case = golden(f'{level}_{tensor}')
  group = case['group']
  step = np.abs(case['scale'])[group][:, None]
  bits = np.round(np.abs(case['bits']))[group][:, None]
  qmax = 2 ** (bits - 1) - 1
  ratio = np.abs(case['x'] / step)
  assert np.any((ratio % 1 == 0.5) & (ratio < qmax)), 'ties'
  assert np.any((np.abs(case['x']) == qmax * step) & (qmax > 0)), 'bound'
  assert np.any(ratio > qmax + 1), 'clipped'
  assert np.any((case['x'] == 0) & np.signbit(case['x'])), 'negative zero'
  assert np.any(case['scale'] < 0) and np.any(case['bits'] < 0)
  assert set(np.unique(bits)) == {0, 1, 2, 4, 8}


def test_unused_groups_have_no_gradient():
  case = golden('graph_feature')
  _, (_, dscale, dbits) = run('graph', 'feature', jit=True)
  unused = np.setdiff1d(np.arange(case['scale'].size), case['group'])
  assert unused.size >= 4
  assert not np.any(np.asarray(dscale)[unused])
  assert not np.any(np.asarray(dbits)[unused])


@pytest.mark.parametrize('name', ['groups', 'groups_dyadic'])
@helpers.JIT
class TestGroups:
  def test_nearest_group(self, name, jit):
    case = golden(name)
    choose = a2q_groups.nearest_group
    group = (jax.jit(choose) if jit else choose)(
      *(jnp.asarray(case[n]) for n in ('max_abs', 'scale', 'bits'))
    )
    np.testing.assert_array_equal(group, case['uniform'])

  def test_nearest_group_by_degree(self, name, jit):
    case = golden(name)
    choose = a2q_groups.nearest_group_by_degree
    group = (jax.jit(choose) if jit else choose)(
      *(jnp.asarray(case[n]) for n in ('max_abs', 'degree', 'scale', 'bits'))
    )
    np.testing.assert_array_equal(group, case['by_degree'])

  def test_degree_group(self, name, jit):
    del jit
    case = golden(name)
    group = a2q_groups.degree_group(jnp.asarray(case['degree']), num_groups=12)
    np.testing.assert_array_equal(group, case['naive'])


def test_equal_distances_do_occur():
  case = golden('groups_dyadic')
  target = np.abs(case['scale']) * 2.0 ** (np.round(np.abs(case['bits'])) - 1)
  distance = (case['max_abs'][:, None] - target) ** 2
  ties = np.sum(distance == distance.min(1, keepdims=True), axis=1)
  assert np.mean(ties > 1) > 0.2


def test_memory_and_penalty():
  case = golden('memory')

  def penalty(bits):
    memory = sum(
      a2q_groups.group_memory(
        table, group, width=int(case['width']), min_bits=None, max_bits=None
      )
      for table, group in zip(bits, jnp.asarray(case['group']), strict=True)
    )
    value = a2q_groups.memory_penalty(
      memory, target=float(case['target']), weight=float(case['weight'])
    )
    return value, memory

  (value, memory), dbits = jax.value_and_grad(penalty, has_aux=True)(
    jnp.asarray(case['bits'])
  )
  np.testing.assert_allclose(memory, case['memory'], rtol=1e-6)
  np.testing.assert_allclose(value, case['penalty'], rtol=2e-6)
  np.testing.assert_allclose(dbits, case['dbits'], rtol=2e-6, atol=0)
