"""From wide values to codes: what the grid of each quantizer becomes."""

import numpy as np

from lorap_jax.integers.program import EXACT, INT32
from lorap_jax.integers.values import Codes, Values, Wide, f32
from lorap_jax.quantization import grids


class Quantizers(Values):
  """The part of the builder for quantizers."""

  def quantize(self, label: str, value: Wide, grid: grids.Grid | None) -> Codes:
    """The codes of a wide value; 16 bits where no quantizer acts."""
    with self.inside(label):
      if grid is None:
        return self.operand('codes', value)
      if isinstance(grid, grids.UniformGrid):
        return self._uniform(value, grid)
      if isinstance(grid, grids.GroupGrid):
        return self._grouped(value, grid)
      return self._by_row(value, grid)

  def _uniform(self, value: Wide, grid: grids.UniformGrid) -> Codes:
    if np.any(grid.zero_point != np.rint(grid.zero_point)):
      # A real zero point acts in front of the rounding.
      offset = np.broadcast_to(grid.zero_point * grid.scale, (value.width,))
      value = self.shifted('centered', value, offset)
      shift = np.zeros(())
    else:
      shift = np.asarray(grid.zero_point)
    constants = {'factor': f32(value.unit / grid.scale, columns=True)}
    if np.any(shift):
      bias = np.broadcast_to(shift, (value.width,))
      constants['bias'] = bias.astype(np.int32)[None]
    bound = max(abs(grid.low), abs(grid.high))
    name = self.add(
      'scale',
      'codes',
      {'a': value.name},
      constants,
      bound=bound,
      low=grid.low,
      high=grid.high,
    )
    zero = np.asarray(grid.zero_point, np.float64)
    return Codes(name, np.asarray(grid.scale), zero, bound, value.width)

  def _grouped(self, value: Wide, grid: grids.GroupGrid) -> Codes:
    reach, limit = _groups(grid, value.unit)
    largest = self.add(
      'row_max', 'largest', {'a': value.name}, bound=value.bound
    )
    group = self.add(
      'nearest',
      'group',
      {'a': largest},
      {'reach': reach.astype(np.float32)},
      bound=len(reach) - 1,
    )
    lookup = lambda label, table: self.add(
      'lookup', label, {'a': group}, {'table': table}, bound=int(table.max())
    )
    # reach = s 2**(b-1) in units, and the largest code is 2**(b-1) - 1.
    ranges = lookup('range', reach.astype(np.int32))
    power = lookup('power', (limit + 1).astype(np.int32))
    bound = int(limit.max())
    most = self.add(
      'scale',
      'limit',
      {'a': power},
      {'factor': f32(1.0), 'bias': np.full((1, 1), -1, np.int32)},
      bound=bound,
      low=-2 * bound,
      high=2 * bound,
    )
    inverse = self.add('quotient', 'inverse', {'a': power, 'b': ranges})
    step = self.add('quotient', 'step', {'a': ranges, 'b': power})
    scale = reach / (limit + 1)
    return self._of_rows(value, inverse, most, step, scale, limit, value.unit)

  def _by_row(self, value: Wide, grid: grids.RowGrid) -> Codes:
    index = self.add('row_index', 'node', {'a': value.name}, bound=INT32)
    lookup = lambda label, table, bound=0: self.add(
      'lookup', label, {'a': index}, {'table': table}, bound=bound
    )
    scale = np.maximum(grid.scale, 1e-20)
    inverse = lookup('inverse', f32(value.unit / scale))
    step = lookup('step', f32(scale))
    most = lookup('limit', grid.limit.astype(np.int32), int(grid.limit.max()))
    return self._of_rows(value, inverse, most, step, scale, grid.limit, 1.0)

  def _of_rows(
    self,
    value: Wide,
    inverse: str,
    most: str,
    step: str,
    scale: np.ndarray,
    limit: np.ndarray,
    unit: float,
  ) -> Codes:
    """Codes of rows with multipliers and limits of their own.

    Args:
      value: what is quantized.
      inverse: float32 value that takes a row to its codes.
      most: the largest code of a row.
      step: float32 value, the scale of a row in `unit`.
      scale: all scales that a row may have, in `unit`.
      limit: the largest code of each.
      unit: of scales.
    """
    bound = int(limit.max())
    name = self.add(
      'scale',
      'codes',
      {'a': value.name, 'row': inverse, 'limit': most},
      {'factor': f32(1.0)},
      bound=bound,
      low=-bound,
      high=bound,
    )
    return Codes(
      name,
      np.asarray(unit),
      np.zeros(()),
      bound,
      value.width,
      row=step,
      reach=float(np.max(scale * limit)) / bound,
    )


def _groups(
  grid: grids.GroupGrid, unit: float
) -> tuple[np.ndarray, np.ndarray]:
  """Ranges in whole units, in order and each once, and their largest codes.

  Ranges are whole numbers of `RANGE_BITS` bits times a power of two, so that a
  table has some hundred groups in place of a thousand; those that become equal
  get the median of their bits. See `a2q_groups.snapped_table`.
  """
  reach = np.clip(np.rint(grid.reach / unit), 1, EXACT)
  reach = np.maximum(
    reach, 2.0 ** (np.floor(np.log2(reach.max())) - grids.RANGE_OCTAVES)
  )
  power = np.maximum(np.floor(np.log2(reach)) - (grids.RANGE_BITS - 1), 0)
  reach = (np.rint(reach / 2**power) * 2**power).astype(np.int64)
  limit = np.asarray(grid.limit, np.int64)
  order = np.lexsort((limit, reach))
  ranges, first, count = np.unique(
    reach[order], return_index=True, return_counts=True
  )
  return ranges, limit[order][first + count // 2]
