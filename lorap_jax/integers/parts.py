"""Parts of layers in integers: their quantizers, dense layers and weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.integers.builder import Builder, Codes, ExportError, Wide
from lorap_jax.nn import methods
from lorap_jax.nn.quantized import Rows
from lorap_jax.quantization import grids

_EPSILON = 1e-5  # Of batch norm.


class Place:
  """The variables of a module, by the names of its children."""

  def __init__(self, params: Any, batch_stats: Any, quant_stats: Any):
    self.params = params or {}
    self.batch_stats = batch_stats or {}
    self.quant_stats = quant_stats or {}

  def child(self, name: str) -> 'Place':
    """The variables of a child; empty if it has none."""
    return Place(
      self.params.get(name),
      self.batch_stats.get(name),
      self.quant_stats.get(name),
    )

  def array(self, name: str) -> np.ndarray:
    """A parameter, float64."""
    return np.asarray(self.params[name], np.float64)


def grid_at(
  builder: Builder,
  scheme: methods.Scheme,
  point: methods.Point,
  place: Place,
  *,
  non_negative: bool = False,
) -> grids.Grid | None:
  """The grid at a point; None where the scheme has no quantizer."""
  module: Any = scheme.quantizer(point, non_negative=non_negative)
  if module is None or isinstance(module, methods.Identity):
    return None
  if not hasattr(module, 'grid'):
    raise ExportError(
      f'the quantizer {type(module).__name__} has no method `grid`, which says '
      'what its integers are'
    )
  name = methods.name_of(point)
  own = place.child(name)
  return module.grid(own.params, own.quant_stats, builder.path(name))


def codes_at(
  builder: Builder,
  scheme: methods.Scheme,
  point: methods.Point,
  place: Place,
  value: Wide,
  *,
  non_negative: bool = False,
) -> Codes:
  """What the scheme makes of a value at a point."""
  grid = grid_at(builder, scheme, point, place, non_negative=non_negative)
  return builder.quantize(methods.name_of(point), value, grid)


def at_point(
  builder: Builder, scheme: Any, point: Any, place: Place, value: Wide
) -> Wide | Codes:
  """What the scheme makes of a value at a point; itself without quantizer."""
  grid = grid_at(builder, scheme, point, place)
  return value if grid is None else builder.quantize(point, value, grid)


def wide_at(
  builder: Builder, scheme: Any, point: Any, place: Place, value: Wide
) -> Wide:
  """What passes a point that feeds no product: codes, and wide again."""
  found = at_point(builder, scheme, point, place, value)
  return widened(builder, f'{point}_values', found)


def widened(builder: Builder, label: str, value: Wide | Codes) -> Wide:
  """The value as a wide one."""
  return value if isinstance(value, Wide) else builder.widen(label, value)


def dense(
  builder: Builder,
  scheme: methods.Scheme,
  place: Place,
  x: Wide | Codes,
  *,
  point: methods.Point = 'input',
  non_negative: bool = False,
  norm: Place | None = None,
) -> Wide:
  """`QuantDense`, and the batch norm behind it."""
  if isinstance(x, Wide):
    x = codes_at(builder, scheme, point, place, x, non_negative=non_negative)
  x = factored(builder, x)
  weight, scale = weight_of(builder, scheme, place)
  total = builder.product('product', x, weight, scale)
  bias = place.array('bias') if 'bias' in place.params else None
  gain, shift = affine_of(norm, weight.shape[1])
  if grid_at(builder, scheme, 'output', place) is None:
    bias = shift if bias is None else gain * bias + shift
    return builder.widen('result', total, factor=gain, bias=bias)
  y = builder.widen('result', total, bias=bias)
  codes = builder.quantize(
    'output', y, grid_at(builder, scheme, 'output', place)
  )
  return builder.widen('output_values', codes, factor=gain, bias=shift)


def factored(builder: Builder, x: Codes) -> Codes:
  """Codes whose scale factors out of a product; 16 bits if theirs does not."""
  if not np.ndim(x.scale) and np.all(x.zero == np.rint(x.zero)):
    return x
  return builder.operand('operand', builder.widen('operand_values', x))


def affine_of(norm: Place | None, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Gain and shift of a batch norm at evaluation."""
  if norm is None:
    return np.ones(width), np.zeros(width)
  norm = norm.child('bn')
  mean, var = (
    np.asarray(norm.batch_stats[k], np.float64) for k in ('mean', 'var')
  )
  gain = norm.array('scale') / np.sqrt(var + _EPSILON)
  return gain, norm.array('bias') - mean * gain


def weight_of(
  builder: Builder,
  scheme: methods.Scheme,
  place: Place,
  *,
  point: methods.Point = 'weight',
  name: str = 'kernel',
) -> tuple[np.ndarray, np.ndarray]:
  """Integer weights with zero point 0, and the scale of each column.

  Three kinds get new codes of 8 bits with a scale for each column: those with a
  scale for each input feature (MixQ), which does not factor out of a product,
  with zero points between whole numbers, and codes that leave 8 bits without
  their zero point.
  """
  module: Any = scheme.quantizer(point, non_negative=False)
  if module is None or not hasattr(module, 'grid'):
    raise ExportError(
      'a weight is in full precision: the scheme leaves out the point '
      f'{point!r}; train with it'
    )
  own = place.child(point)
  path = builder.path(point)
  grid = module.grid(own.params, own.quant_stats, path)
  collections = {'params': own.params, 'quant_stats': own.quant_stats}
  kernel = jnp.asarray(place.params[name])
  # By the quantizer's own arithmetic: its rounding is what was trained.
  given = {k: v for k, v in collections.items() if v}
  values = np.asarray(_quantizer(module)(given, kernel), np.float64)
  whole = np.all(grid.zero_point == np.rint(grid.zero_point))
  if whole and not getattr(module, 'transposed', False):
    scale = np.broadcast_to(grid.scale, (kernel.shape[1],))
    codes = np.rint(values / scale)
    if np.max(np.abs(codes), initial=0) <= 127:
      return codes, scale
  return on_columns(values)


@functools.lru_cache(16)
def _quantizer(module: Any) -> Any:
  """The values that a quantizer makes of a weight, compiled once."""
  return jax.jit(lambda given, x: module.apply(given, x, rows=Rows()).values)


def on_columns(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Codes in -127..127, and the scale of each column."""
  scale = np.max(np.abs(values), axis=0, initial=0) / 127
  scale = np.where(scale > 0, scale, 1)
  return np.rint(values / scale), scale
