"""In which forms an ONNX model stores its constants.

Those of one kind lie one below the other in a store, which is taken apart at
once. A table of powers is one period and factors.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.integers import packing

# What operators and names take: of a field of so many bits, and of a store.
_FIELD_BYTES = {8: 40, 4: 50, 2: 130, 1: 150}
_STORE_BYTES = 150
_PERIODS = (32, 64)  # Of tables of powers,
_ROWS = range(3, 25)  # and how many of them,
_TOP = 2**16  # and the largest number.


def largest(array: Any) -> int:
  """The largest magnitude of whole numbers; 0 for none."""
  return int(np.max(np.abs(np.asarray(array, np.int64)), initial=0))


class Kind(NamedTuple):
  """What the packed constants of one store have in common."""

  bits: int
  fraction: int | None
  width: int  # Columns; 0 of arrays of one dimension.
  shared: bool  # The offset is that of numbers of both signs.
  rows: bool  # Each is a row, and has an offset and an exponent of its own.


class Entry(NamedTuple):
  """A constant of a store: one, or one for each layer."""

  name: str
  codes: np.ndarray  # [layers, rows, columns]
  offsets: np.ndarray  # [layers]
  exponents: np.ndarray
  stacked: bool


class Form(NamedTuple):
  """Arrays as (f(codes) + offset) 2**exponent, of one kind."""

  kind: Kind
  codes: np.ndarray  # [layers, rows, columns]
  offsets: np.ndarray  # [layers], or [1, 1, columns] of one matrix.
  exponents: np.ndarray  # [layers]


def form(arrays: Sequence[np.ndarray]) -> Form | None:
  """The packed form of an array, or of those of layers, if they have one.

  A row keeps its own offset and exponent. The matrices of layers share them:
  that of both signs where it takes no more bits.

  Args:
    arrays: one, or one for each layer, of the same shape.
  """
  forms = [packed for packed in map(packing.pack, arrays) if packed is not None]
  if len(forms) < len(arrays) or len({packed.fraction for packed in forms}) > 1:
    return None
  first, shape = forms[0], arrays[0].shape
  width = shape[-1] if len(shape) > 1 else 0
  rows = width > 1 and shape[0] == 1
  exponents = np.array([packed.exponent for packed in forms])
  codes = np.stack([packed.codes for packed in forms])
  if first.fraction is not None or (len(forms) == 1 and not rows):
    bits, offsets = first.bits, np.stack([packed.offset for packed in forms])
  else:
    codes = codes + np.stack(
      [np.broadcast_to(packed.offset, shape) for packed in forms]
    )
    if not rows:
      more = exponents - exponents.min()
      codes, exponents = codes << more.reshape(-1, 1, 1), exponents - more
    axes = (1, 2) if rows else None
    low = codes.min(axes, keepdims=True)
    bits = max(int((codes - low).max()).bit_length(), 1)
    half = 2 ** (bits - 1)
    if not rows and low.min() < 0 and -half <= low.min() <= codes.max() < half:
      low = np.full_like(low, -half)
    codes = codes - low
    offsets = np.broadcast_to(low.reshape(-1), len(forms))
  shared = not rows and offsets[0].size == 1
  shared = shared and bool(offsets.flat[0] == -(2 ** (bits - 1)))
  kind = Kind(bits, first.fraction, width, shared, rows)
  return Form(kind, codes, offsets, exponents)


def halved(table: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
  """A table of powers as factors [k, 1] and a period [p]: rint(f p).

  Each row of it is half of the row before, and rounded; or it is 0.
  """
  if table.ndim != 1 or table.dtype != np.int32 or largest(table) > _TOP:
    return None
  for period in _PERIODS:
    rows = -(-len(table) // period)
    if rows not in _ROWS:
      continue
    grid = np.full((rows, period), np.nan)
    grid.flat[: len(table)] = table
    factor = 0.5 ** np.arange(rows)[:, None]
    factor[np.nanmax(np.abs(grid), 1) == 0] = 0
    live = factor[:, 0] > 0
    if not live[0]:
      continue
    # What the period may be, so that each row is rounded as it has to be.
    ends = [(grid[live] + half) / factor[live] for half in (-0.5, 0.5)]
    middle = (np.nanmax(ends[0], 0) + np.nanmin(ends[1], 0)) / 2
    factor, middle = factor.astype(np.float32), middle.astype(np.float32)
    if np.array_equal(np.rint(factor * middle).flat[: len(table)], table):
      return factor, middle
  return None


def merged(
  stores: Mapping[Kind, list[Entry]],
) -> Iterator[tuple[Kind, list[Entry]]]:
  """Stores of which some have more bits than they need, where that is less."""
  groups: dict[Kind, list[tuple[Kind, list[Entry]]]] = {}
  for kind, used in sorted(stores.items(), key=lambda item: item[0].bits):
    if used:
      groups.setdefault(kind._replace(bits=0), []).append((kind, used))
  for group in groups.values():
    # The least bytes of the first k stores, and where the last of them starts.
    least: list[tuple[float, int]] = [(0, 0)]
    for stop in range(1, len(group) + 1):
      bits = group[stop - 1][0].bits
      options = [
        (least[start][0] + store_bytes(bits, group[start:stop]), start)
        for start in range(stop)
      ]
      least.append(min(options))
    stop = len(group)
    while stop:
      start, kind = least[stop][1], group[stop - 1][0]
      yield (
        kind,
        [
          entry._replace(codes=entry.codes + more)
          for narrow, used in group[start:stop]
          for more in [kind.shared * (2**kind.bits - 2**narrow.bits) // 2]
          for entry in used
        ],
      )
      stop = start


def store_bytes(bits: int, parts: list[tuple[Kind, list[Entry]]]) -> float:
  """What a store takes that has so many bits of all of these."""
  count = sum(entry.codes.size for _, used in parts for entry in used)
  fields = sum(_FIELD_BYTES[width] for width in packing.widths(bits))
  return count * bits / 8 + fields + _STORE_BYTES
