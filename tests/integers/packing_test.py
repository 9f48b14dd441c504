"""Packed constants give back the same numbers, in as few bits as said."""

import numpy as np
import pytest

from lorap_jax.integers import packing

RNG = np.random.default_rng(0)
ARRAYS = {
  'signed': (RNG.integers(-8, 8, 99), 4),
  'unsigned': (RNG.integers(0, 8, 99), 3),
  'one_value': (np.full(40, 7), 1),
  'none': (np.zeros(0, np.int32), 1),
  'zeros': (np.zeros(9, np.float32), 1),
  'multiples': (RNG.integers(-7, 8, 99) << 12, 4),
  'shifted': (RNG.integers(1000, 1016, 999), 4),
  'columns': (RNG.integers(0, 16, (400, 5)) + [[0, 90, -70, 3, 9]], 4),
  'dyadic': (RNG.integers(-511, 512, 99).astype(np.float32) / 2**14, 10),
  'powers': (np.int32([2, 4, 128, 2]), 4),
  'floating': (np.array([17.0, 31, 16 * 2**15, 24], np.float32), 8),
  'floating_below_one': (np.array([17 / 64, 31 * 2**7], np.float32), 8),
  'widest': (np.int32([0, 2**24 - 1]), 24),
}


def numbers(packed):
  codes = packed.codes
  if packed.fraction is not None:
    one = 2**packed.fraction
    codes = (one + codes % one) << (codes // one)
  return (codes + packed.offset) * 2.0**packed.exponent


@pytest.mark.parametrize('name', ARRAYS)
def test_numbers_come_back(name):
  array, bits = ARRAYS[name]
  packed = packing.pack(array)
  assert packed is not None and packed.bits == bits
  assert packed.codes.min(initial=0) >= 0
  assert packed.codes.max(initial=0) < 2**bits
  np.testing.assert_array_equal(numbers(packed), array)


@pytest.mark.parametrize(
  'array', [np.int32([-1, 2**24]), np.float32([1, 1e-30]), np.float32([1 / 3])]
)
def test_what_takes_more_bits_is_not_packed(array):
  packed = packing.pack(np.append(array, np.float32(0)).astype(array.dtype))
  assert packed is None or np.array_equal(numbers(packed)[:-1], array)
  assert (packed is None) == (array.size > 1)


@pytest.mark.parametrize('bits', [*range(1, 9), 10, 12, 14, 24])
@pytest.mark.parametrize('count', [0, 1, 13, 128])
def test_fields(bits, count):
  codes = np.random.default_rng(bits).integers(0, 2**bits, count)
  found, done = np.zeros(count, np.int64), 0
  total = 0
  for width, content in packing.fields(codes, bits):
    for part in range(8 // width):
      place = part * len(content)
      some = (content >> width * part & (2**width - 1)).astype(np.int64)
      rest = found[place : place + len(content)]
      rest |= some[: len(rest)] << done
    done += width
    total += len(content)
  np.testing.assert_array_equal(found, codes)
  assert done == bits and total == packing.size(bits, count)


def test_short_numbers_share_a_unit():
  values = np.array([1.0, -0.123, 1e-5, 0])
  short = packing.short(values, 10)
  assert np.max(np.abs(short - values)) <= 2.0**-11
  assert packing.pack(short.astype(np.float32)).bits <= 11
