"""LoRAP's injection in one pass over s: Pallas kernels for GPUs.

    y = s + softmax(s W + c) A B

with s [n, d], W [d, k], c [k], A [k, r], B [r, d]. The plain form
`s + lorap_prompt(params, s)` is several kernels, which write intermediates of
n rows out and read them again; here a row stays on chip from its load to its
store.

The kernels use Pallas' Triton backend, which JAX deprecates since 0.11: from
there on a compilation for a GPU gives a DeprecationWarning. They are tested in
interpret mode and lowered for GPUs, but nobody has timed them yet, which is
why the plain form is the default everywhere.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from lorap_jax._typing import Array, Float
from lorap_jax.prompts.lorap import LoRAPParams

_SIDE = 16  # The smallest side of a matrix that Triton is sure to multiply.
# Of B, A, W and c beyond their bounds: no prompt there wins any weight.
_FILLS = (0.0, 0.0, 0.0, -jnp.inf)
_PROGRAMS = 512  # At most, of the gradient: each writes sums of its own.
# With fewer threads, or with tiles loaded ahead, the sums of the gradient would
# not fit into registers beside a tile.
_COMPILER = triton.CompilerParams(num_warps=8, num_stages=1)


def inject_lorap(
  params: LoRAPParams,
  s: Float[Array, 'n d'],
  *,
  block_rows: int = 16,
  interpret: bool = False,
) -> Float[Array, 'n d']:
  """Injects the prompt: s + softmax(s W + c) A B, and its gradient.

  Each is one kernel. Products are float32 ones, never TF32. The order of sums
  depends on shapes alone: equal runs give equal gradients.

  Args:
    params: from `init_lorap` with `low_rank='basis'`.
    s: aggregated features [n, d].
    block_rows: rows on chip at a time, a power of two, at least 16.
    interpret: run the kernels as ordinary operations, slowly and on any
      device; for tests.

  Returns:
    y [n, d].

  Gradient:
    With p = softmax(s W + c), u = p A and g = dL/dy, for each row

        du = g B^T,  dp = du A^T,  dz = p (dp - <p, dp>),  ds = g + dz W^T

    and, summed over rows,

        dB = u^T g,  dA = p^T du,  dW = s^T dz,  dc = sum dz.

    Only s and the parameters are kept for it: dW reads s in any case, and p
    and u then cost less to compute again than to write and read. Each program
    of the kernel sums over its own rows; what they found is added up after it.

  Raises:
    ValueError: parameters of another form, arrays that are not float32 or do
      not fit together, bad block_rows; from JAX, when it compiles for a device
      that is not a GPU.
  """
  _check(params, s, block_rows)
  if not s.shape[0]:  # A kernel without programs cannot be launched.
    return s
  return _inject(params, s, block_rows, interpret)


def _check(params: LoRAPParams, s: Array, block_rows: int) -> None:
  plain = 'use the plain form, s + lorap_prompt(params, s)'
  if params.down is None or params.score_down is not None:
    found = 'no `down`' if params.down is None else '`score_down`'
    raise ValueError(
      "`params` must be of low_rank='basis' in full precision, but they have "
      f'{found}; {plain}'
    )
  for name, array in {**params._asdict(), 's': s}.items():
    if array is not None and array.dtype != jnp.float32:
      raise ValueError(f'`{name}` must be float32, got {array.dtype}; {plain}')
  (k, r), d = params.down.shape, s.shape[1]
  # The kernels read with masks: what does not fit would go unnoticed.
  expected = {'up': (r, d), 'kernel': (d, k), 'bias': (k,)}
  for name, shape in expected.items():
    given = getattr(params, name).shape
    if given != shape:
      raise ValueError(
        f'`{name}` must be {list(shape)} beside `down` {[k, r]} and `s` '
        f'{list(s.shape)}, got {list(given)}'
      )
  if block_rows < _SIDE or block_rows & (block_rows - 1):
    raise ValueError(
      f'`block_rows` must be a power of two and at least {_SIDE}, got '
      f'{block_rows}'
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _inject(
  params: LoRAPParams, s: Array, block_rows: int, interpret: bool
) -> Array:
  matrices: Any = params[:-1]  # Without `score_down`, which is None.
  rows = _rows(s, block_rows)
  return pl.pallas_call(
    functools.partial(_forward, s.shape, [m.shape for m in matrices]),
    out_shape=jax.ShapeDtypeStruct(s.shape, s.dtype),
    grid=(pl.cdiv(s.shape[0], block_rows),),
    in_specs=[*map(_whole, matrices), rows],
    out_specs=rows,
    compiler_params=_COMPILER,
    interpret=interpret,
  )(*matrices, s)


def _inject_fwd(params, s, block_rows, interpret):
  return _inject(params, s, block_rows, interpret), (params, s)


def _inject_bwd(block_rows, interpret, residuals, g):
  params, s = residuals
  matrices = params[:-1]
  shapes = [m.shape for m in matrices]
  # Several tiles for each program: its sums are as large as a tile.
  tiles = pl.cdiv(s.shape[0], block_rows * _PROGRAMS)
  programs = pl.cdiv(s.shape[0], block_rows * tiles)
  rows = _rows(s, block_rows * tiles)
  ds, *sums = pl.pallas_call(
    functools.partial(_backward, s.shape, shapes, tiles),
    out_shape=[
      jax.ShapeDtypeStruct(shape, s.dtype)
      for shape in (s.shape, *((programs, *shape) for shape in shapes))
    ],
    grid=(programs,),
    in_specs=[*map(_whole, matrices), rows, rows],
    out_specs=[rows, *map(_one_each, matrices)],
    compiler_params=_COMPILER,
    interpret=interpret,
  )(*matrices, s, g)
  summed = (jnp.sum(partial, axis=0) for partial in sums)
  return LoRAPParams(*summed, score_down=None), ds


_inject.defvjp(_inject_fwd, _inject_bwd)


def _rows(s: Array, count: int) -> pl.BlockSpec:
  """So many rows of s, other ones for each program."""
  return pl.BlockSpec((count, _padded(s.shape[1])), lambda i: (i, 0))


def _whole(matrix: Array) -> pl.BlockSpec:
  """All of a parameter, for every program."""
  shape = tuple(map(_padded, matrix.shape))
  return pl.BlockSpec(shape, lambda i: (0,) * len(shape))


def _one_each(matrix: Array) -> pl.BlockSpec:
  """A parameter's gradient, one for each program."""
  shape = tuple(map(_padded, matrix.shape))
  return pl.BlockSpec((None, *shape), lambda i: (i, *(0,) * len(shape)))


def _padded(size: int) -> int:
  """What Triton wants of the side of an array: a power of two, not small."""
  return max(_SIDE, pl.next_power_of_2(size))


def _forward(shape: Any, shapes: Any, *refs: Any) -> None:
  """Injects into one tile of s [n, d]."""
  *param_refs, s_ref, y_ref = refs
  up, down, kernel, bias = map(_read, param_refs, shapes, _FILLS)
  first = pl.program_id(0) * s_ref.shape[0]
  bounds = (shape[0] - first, shape[1])
  s = _read(s_ref, bounds)
  p = _softmax(_dot(s, kernel) + bias[None, :])
  _write(y_ref, s + _dot(_dot(p, down), up), bounds)


def _backward(shape: Any, shapes: Any, tiles: int, *refs: Any) -> None:
  """Goes through tiles of s [n, d] and sums the parameters' gradients up."""
  param_refs, (s_ref, g_ref, ds_ref), sum_refs = refs[:4], refs[4:7], refs[7:]
  up, down, kernel, bias = map(_read, param_refs, shapes, _FILLS)
  count = s_ref.shape[0] // tiles
  first = pl.program_id(0) * s_ref.shape[0]

  def tile(i, sums):
    rows = pl.ds(i * count, count)
    bounds = (shape[0] - first - i * count, shape[1])
    s, g = (_read(ref.at[rows, :], bounds) for ref in (s_ref, g_ref))
    p = _softmax(_dot(s, kernel) + bias[None, :])
    du = _dot(g, up.T)
    dp = _dot(du, down.T)
    dz = p * (dp - jnp.sum(p * dp, axis=1)[:, None])
    _write(ds_ref.at[rows, :], g + _dot(dz, kernel.T), bounds)
    d_up, d_down = _dot(_dot(p, down).T, g), _dot(p.T, du)
    d_kernel, d_bias = _dot(s.T, dz), jnp.sum(dz, axis=0)
    own = (d_up, d_down, d_kernel, d_bias)
    return tuple(a + b for a, b in zip(sums, own, strict=True))

  zeros = tuple(map(jnp.zeros_like, (up, down, kernel, bias)))
  sums = jax.lax.fori_loop(0, tiles, tile, zeros)
  for ref, total, bounds in zip(sum_refs, sums, shapes, strict=True):
    _write(ref, total, bounds)


def _read(ref: Any, bounds: Any, fill: float = 0.0) -> Array:
  """A block, with `fill` where it reaches over the bounds of its array."""
  return triton.load(ref, mask=_inside(ref.shape, bounds), other=fill)


def _write(ref: Any, value: Array, bounds: Any) -> None:
  triton.store(ref, value, mask=_inside(value.shape, bounds))


def _inside(shape: tuple[int, ...], bounds: Any) -> Array:
  """Which elements of a block are inside of the bounds of its array."""
  indices = (
    jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    for axis in range(len(shape))
  )
  return functools.reduce(
    jnp.logical_and, (i < b for i, b in zip(indices, bounds, strict=True))
  )


def _softmax(z: Array) -> Array:
  weights = jnp.exp(z - jnp.max(z, axis=1)[:, None])
  return weights / jnp.sum(weights, axis=1)[:, None]


def _dot(a: Array, b: Array) -> Array:
  # Triton's default keeps ten bits of the mantissa.
  return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
