import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import sharding

from lorap_jax import prompts
from lorap_jax.prompts import lorap_kernel

ON_GPU = jax.default_backend() == 'gpu'
# Rows, features, prompts, rank and rows of a block.
SHAPES = {
  'ragged': (50, 110, 10, 4, 16),
  'odd sides': (37, 33, 17, 3, 32),
  'one row': (1, 5, 3, 2, 16),
  'block beyond the rows': (7, 20, 5, 2, 64),
  'nothing padded': (64, 32, 16, 16, 32),
  'one prompt': (20, 6, 1, 1, 16),
  'several tiles for each program': (8300, 3, 2, 1, 16),
}
pytestmark = pytest.mark.filterwarnings(
  'ignore:The Pallas Triton backend is deprecated:DeprecationWarning'
)


def draw(key, n, d, k, r):
  """Parameters, s and the gradient that comes back to y."""
  keys = jax.random.split(key, 3)
  params = prompts.init_lorap(
    keys[0], d, num_prompts=k, rank=r, init='glorot', low_rank='basis'
  )
  s, g = (jax.random.normal(key, (n, d)) for key in keys[1:])
  return params, s, g


def injection(block_rows=16, interpret=True):
  return functools.partial(
    lorap_kernel.inject_lorap, block_rows=block_rows, interpret=interpret
  )


def plain(params, s):
  with jax.default_matmul_precision('highest'):
    return s + prompts.lorap_prompt(params, s)


def both(inject):
  """Value and all gradients of an injection, as one function."""

  def values(params, s, g):
    y, pull = jax.vjp(inject, params, s)
    return y, *pull(g)

  return values


def oracle(params, s, g):
  """Value and gradients in float64, by the derivative of each y_ij."""
  up, down, kernel, bias, s, g = (
    np.asarray(a, np.float64) for a in (*params[:4], s, g)
  )
  z = s @ kernel + bias
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  basis = down @ up
  slopes = p[:, :, None] * (np.eye(len(bias)) - p[:, None, :])  # dp_a / dz_b.
  dz = np.einsum('nd,ad,nab->nb', g, basis, slopes)
  d_basis = np.einsum('na,nd->ad', p, g)
  return (
    s + p @ basis,
    prompts.LoRAPParams(
      up=down.T @ d_basis,
      down=d_basis @ up.T,
      kernel=np.einsum('nd,nb->db', s, dz),
      bias=dz.sum(0),
      score_down=None,
    ),
    g + dz @ kernel.T,
  )


def assert_close(actual, expected, tolerance=1e-5):
  """Up to a part of the largest value: sums of both signs cancel."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  for a, b in pairs:
    # All gradients of the scores of a single prompt are 0.
    atol = tolerance * np.abs(b).max() + 1e-12
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=atol)


class TestValueAndGradient:
  @pytest.mark.parametrize(
    'interpret',
    [
      True,
      pytest.param(
        False, marks=pytest.mark.skipif(not ON_GPU, reason='needs a GPU')
      ),
    ],
    ids=['interpreted', 'compiled'],
  )
  @pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
  def test_closed_form_and_plain_form(self, key, shape, interpret):
    *sizes, block_rows = shape
    arguments = draw(key, *sizes)
    found = jax.jit(both(injection(block_rows, interpret)))(*arguments)
    assert_close(found, oracle(*arguments))
    assert_close(found, jax.jit(both(plain))(*arguments))

  def test_gradient_of_a_sum(self, key):
    params, s, _ = draw(key, 20, 6, 5, 2)
    losses = (
      lambda p, s, inject=inject: jnp.sum(inject(p, s) ** 2)
      for inject in (injection(), plain)
    )
    found, expected = (
      jax.jit(jax.grad(loss, (0, 1)))(params, s) for loss in losses
    )
    assert_close(found, expected)

  def test_large_scores(self, key):
    """The largest score of a row takes it all; exp must not overflow."""
    params, s, g = draw(key, 20, 6, 5, 2)
    arguments = params, 1e4 * s, g
    y, *gradients = jax.jit(both(injection()))(*arguments)
    assert_close(y, oracle(*arguments)[0])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))

  def test_zeroed_prompt_is_exactly_the_identity(self, key):
    params, s, g = draw(key, 20, 6, 5, 2)
    params = params._replace(up=jnp.zeros_like(params.up))
    y, d_params, ds = jax.jit(both(injection()))(params, 1e3 * s, g)
    np.testing.assert_array_equal(y, 1e3 * s)
    np.testing.assert_array_equal(ds, g)
    assert np.any(d_params.up)  # Else it could never leave zero.

  def test_padded_rows(self, key):
    """Rows whose gradient is 0 leave no trace in that of the parameters."""
    params, s, g = draw(key, 20, 6, 5, 2)
    values = jax.jit(both(injection()))
    rows = lambda x: jnp.pad(x, ((0, 25), (0, 0)))
    y, d_params, ds = values(params, rows(s), rows(g))
    expected = values(params, s, g)
    assert_close((y[:20], d_params, ds[:20]), expected, 1e-6)
    assert not np.any(ds[20:])

  def test_batches(self, key):
    """As of several seeds that train in one program."""
    draws = [draw(jax.random.fold_in(key, i), 20, 6, 5, 2) for i in range(2)]
    arguments = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
    found = jax.jit(jax.vmap(both(injection())))(*arguments)
    for i, arguments in enumerate(draws):
      assert_close(jax.tree.map(lambda x, i=i: x[i], found), oracle(*arguments))

  def test_no_rows(self, key):
    params, s, g = draw(key, 0, 6, 5, 2)
    y, d_params, ds = both(injection())(params, s, g)
    assert y.shape == ds.shape == (0, 6)
    assert not any(map(np.any, jax.tree.leaves(d_params)))


@contextlib.contextmanager
def targeting_a_gpu():
  """Says which GPU a program is lowered for where there is none."""
  gpu = sharding.AbstractDevice(
    device_kind='NVIDIA A100', platform='cuda', num_cores=None
  )
  mesh = sharding.AbstractMesh((), (), abstract_device=gpu)
  with sharding.use_abstract_mesh(mesh):
    yield


class TestLowering:
  @pytest.mark.parametrize(
    'name, batched',
    [
      ('ragged', False),
      ('ragged', True),
      ('odd sides', False),
      ('several tiles for each program', False),
    ],
  )
  def test_one_gpu_kernel_each_way(self, key, name, batched):
    *sizes, block_rows = SHAPES[name]
    arguments = draw(key, *sizes)
    function = both(injection(block_rows, interpret=False))
    if batched:
      function = jax.vmap(function)
      arguments = jax.tree.map(lambda x: jnp.stack([x] * 3), arguments)
    with targeting_a_gpu():
      traced = jax.jit(function).trace(*arguments)
      text = traced.lower(lowering_platforms=('cuda',)).as_text()
    assert text.count('@__gpu$xla.gpu.triton') == 2

  @pytest.mark.skipif(ON_GPU, reason='there is a GPU')
  def test_without_a_gpu(self, key):
    params, s, _ = draw(key, 20, 6, 5, 2)
    with pytest.raises(ValueError, match='interpret mode'):
      lorap_kernel.inject_lorap(params, s)


class TestErrors:
  @pytest.mark.parametrize(
    'low_rank, found',
    [('none', 'no `down`'), ('basis_and_score', 'score_down')],
  )
  def test_form(self, key, low_rank, found):
    params = prompts.init_lorap(key, 6, low_rank=low_rank)
    with pytest.raises(ValueError, match=f"'basis'.*{found}.*use the plain"):
      lorap_kernel.inject_lorap(params, jnp.ones((3, 6)))

  def test_integer_prompt(self, key):
    params = prompts.quantize_prompt(prompts.init_lorap(key, 6), bits=4)
    with pytest.raises(ValueError, match='full precision.*use the plain form'):
      lorap_kernel.inject_lorap(params, jnp.ones((3, 6)))

  @pytest.mark.parametrize('name', ['s', 'up', 'bias'])
  def test_types(self, key, name):
    params, s = prompts.init_lorap(key, 6), jnp.ones((3, 6))
    if name == 's':
      s = s.astype(jnp.bfloat16)
    else:
      half = getattr(params, name).astype(jnp.bfloat16)
      params = params._replace(**{name: half})
    with pytest.raises(ValueError, match=f'`{name}` must be float32.*bfloat16'):
      lorap_kernel.inject_lorap(params, s)

  @pytest.mark.parametrize('name', ['up', 'kernel', 'bias'])
  def test_shapes(self, key, name):
    params, s = prompts.init_lorap(key, 6), jnp.ones((3, 6))
    short = getattr(params, name)[:-1]
    with pytest.raises(ValueError, match=rf'`{name}` must be .* got \['):
      lorap_kernel.inject_lorap(params._replace(**{name: short}), s)

  @pytest.mark.parametrize('block_rows', [0, 8, 48, -16])
  def test_block_rows(self, key, block_rows):
    params, s = prompts.init_lorap(key, 6), jnp.ones((3, 6))
    with pytest.raises(ValueError, match=f'power of two.*got {block_rows}'):
      lorap_kernel.inject_lorap(params, s, block_rows=block_rows)
