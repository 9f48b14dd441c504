"""Constants in as few bits as they need: one form for every file.

Codes of b bits are cut into fields of 8, 4, 2 and 1 bits, as b is written in
twos: 3 bits are a field of 2 and a field of 1. A field of w bits is an array of
bytes; byte j has number j in its lowest bits, then j + bytes, j + 2 bytes, ...:
each step of a reader fills a run of numbers.
"""

from typing import Any, NamedTuple

import numpy as np

FIELDS = (8, 4, 2, 1)
MOST_BITS = 24  # float32 holds the codes.
_FRACTIONS = (0, 4)


class Packed(NamedTuple):
  """An array as (f(codes) + offset) 2**exponent.

  Attributes:
    codes: 0 <= codes < 2**bits, int64, of the shape of the array.
    bits: of a code.
    offset: a whole number, or [1, columns].
    exponent: of a power of two.
    fraction: None, f(c) = c; or k, f(c) = (2**k + c mod 2**k) 2**(c div 2**k),
      with c div 2**k < 16: floating-point numbers.
  """

  codes: np.ndarray
  bits: int
  offset: np.ndarray
  exponent: int
  fraction: int | None = None


def pack(array: np.ndarray) -> Packed | None:
  """The packed form of numbers; None if they have none of 24 bits or fewer.

  Positive ones that are 1, or 16..31, times powers of two become floating-point
  numbers of 4 or 8 bits. Others that have both signs are centered, so that
  arrays of as many bits share their offset. Another offset, or one for each
  column of a matrix, is taken where it saves bits.

  Args:
    array: int or float32.

  Returns:
    What gives the same numbers, or None.
  """
  array = np.asarray(array)
  forms = [_floating(array, fraction) for fraction in _FRACTIONS]
  found = [form for form in (_fixed(array), *forms) if form is not None]
  best = min(found, key=lambda form: form.bits, default=None)
  return best if best is not None and best.bits <= MOST_BITS else None


def _fixed(array: np.ndarray) -> Packed | None:
  """With whole codes."""
  exponent = _exponent(array)
  if exponent is None:
    return None
  whole = np.ldexp(array.astype(np.float64), -exponent).astype(np.int64)
  low, high = int(whole.min(initial=0)), int(whole.max(initial=0))
  bits = _bits(low, high)
  offset = np.int64(-(2 ** (bits - 1)) if low < 0 else 0)
  least = whole.min(0, keepdims=True) if whole.ndim == 2 else offset
  for other in (whole.min(initial=high), least):
    needed = max(int((whole - other).max(initial=0)).bit_length(), 1)
    # An offset for each column takes room of its own.
    if (bits - needed) * whole.size > 64 * np.size(other):
      bits, offset = needed, np.asarray(other)
  return Packed(np.asarray(whole - offset), bits, np.asarray(offset), exponent)


def _floating(array: np.ndarray, fraction: int) -> Packed | None:
  """The same with floating-point codes, if the numbers have them."""
  if array.ndim != 1 or array.size < 2 or np.min(array) <= 0:
    return None
  mantissa, power = np.frexp(array.astype(np.float64))
  step = np.ldexp(mantissa, fraction + 1)
  # No factor behind the codes, where they can do without.
  start = fraction + 1
  if not start <= power.min() <= power.max() < start + 16:
    start = int(power.min())
  if np.any(step % 1) or np.ptp(power) >= 16:
    return None
  codes = (power - start) * 2**fraction + step.astype(np.int64) - 2**fraction
  return Packed(
    codes.astype(np.int64),
    fraction + 4,
    np.zeros((), np.int64),
    start - fraction - 1,
    fraction,
  )


def _bits(low: int, high: int) -> int:
  """Bits of whole numbers in low..high, a sign included where there is one."""
  if low >= 0:
    return max(high.bit_length(), 1)
  return max((-low - 1).bit_length(), high.bit_length()) + 1


def _exponent(array: np.ndarray) -> int | None:
  """The largest power of two that divides all numbers."""
  used = array[array != 0]
  if not used.size:
    return 0
  if array.dtype.kind != 'f':
    used = used.astype(np.int64)
    return int(np.log2((used & -used).min()))
  mantissa, exponent = np.frexp(used.astype(np.float64))
  units = np.ldexp(mantissa, 24).astype(np.int64)  # Whole for float32.
  least = np.log2(units & -units).astype(np.int64) + exponent - 24
  # Else codes would have more bits than any file takes.
  return int(least.min()) if np.ptp(exponent) <= MOST_BITS else None


def short(values: Any, bits: int) -> np.ndarray:
  """Numbers to the nearest multiple of one power of two, in `bits` bits.

  Args:
    values: finite numbers.
    bits: of the largest magnitude.

  Returns:
    float64 of the same shape.
  """
  values = np.asarray(values, np.float64)
  largest = float(np.max(np.abs(values), initial=0))
  if largest == 0:
    return values
  _, exponent = np.frexp(largest)
  unit = 2.0 ** (int(exponent) - bits)
  return np.asarray(np.rint(values / unit) * unit)


def fields(codes: np.ndarray, bits: int) -> list[tuple[int, np.ndarray]]:
  """Codes in bytes.

  Args:
    codes: 0 <= codes < 2**bits, in any shape.
    bits: of a code.

  Returns:
    The bits of each field, from the lowest bits of a code on, and its bytes.
  """
  rest, found = codes.reshape(-1).astype(np.int64), []
  for width in widths(bits):
    parts = 8 // width
    some = np.pad(rest & (2**width - 1), (0, -len(rest) % parts))
    shifts = width * np.arange(parts)[:, None]
    packed = (some.reshape(parts, -1) << shifts).sum(0)
    found.append((width, packed.astype(np.uint8)))
    rest = rest >> width
  return found


def widths(bits: int) -> list[int]:
  """Bits of the fields that make codes of `bits` bits."""
  eights = [8] * (bits // 8)
  return eights + [w for w in FIELDS[1:] if bits & w]


def size(bits: int, count: int) -> int:
  """Bytes of the fields of `count` codes."""
  return sum(-(-count * width // 8) for width in widths(bits))
