"""Constants of an integer program in C, packed, each written once."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorap_jax.integers import packing
from lorap_jax.integers.program import INT32

ENGINE = (pathlib.Path(__file__).parent / 'engine.h').read_text()
_RAW_BITS = 32  # Of numbers that have no packed form.


class Tables:
  """The arrays of a header, and their bytes when they are linked."""

  def __init__(self, name: str):
    self._name = name
    self._names: dict[tuple[str, bytes], str] = {}
    self.lines: list[str] = []
    self.bytes = 0

  def add(self, array: Any) -> str:
    """Numbers as a `lorap_table`, in C."""
    array = np.asarray(array).reshape(-1)
    finite = bool(np.all(np.isfinite(array)))
    require(finite, 'a table has numbers that are not finite')
    packed = packing.pack(array)
    if packed is None:
      real = array.dtype.kind == 'f'
      kind = 'float' if real else 'int32_t'
      name = self._array(array.astype('float32' if real else 'int32'), kind)
      entries = f'{_RAW_BITS}, {array.size}, 0, -1, 0, 1.0f'
      return f'(lorap_table){{(const uint8_t *){name}, {entries}}}'
    block = constant('LORAP_BLOCK')
    name = self.add_bytes(
      [
        packed.codes[i : i + block] for i in range(0, max(array.size, 1), block)
      ],
      packed.bits,
    )
    fraction = -1 if packed.fraction is None else packed.fraction
    shift = 0 if array.dtype.kind == 'f' else packed.exponent
    entries = (
      f'{packed.bits}, {array.size}, {packed.offset}, {fraction}, '
      f'{shift}, {number(np.float32(2.0**packed.exponent))}'
    )
    return f'(lorap_table){{{name}, {entries}}}'

  def add_bytes(self, blocks: Sequence[np.ndarray], bits: int) -> str:
    """The name of an array of the fields of blocks of codes."""
    parts = [
      content for codes in blocks for _, content in packing.fields(codes, bits)
    ]
    return self._array(np.concatenate(parts), 'uint8_t')

  def _array(self, array: np.ndarray, kind: str) -> str:
    key = (kind, array.tobytes())
    if key not in self._names:
      name = self._names[key] = f'{self._name}_table_{len(self._names)}'
      # C has no arrays without numbers.
      numbers = [number(x) for x in array] or ['0']
      self.lines += [
        f'static const {kind} {name}[] = {{',
        *wrapped(numbers),
        '};',
      ]
      self.bytes += array.nbytes
    return self._names[key]


def number(x: Any) -> str:
  """A number in C, in all its bits."""
  return f'{float(x).hex()}f' if x.dtype.kind == 'f' else str(x)


def wrapped(words: Sequence[str]) -> list[str]:
  """Words in lines of 80 columns."""
  lines = ['']
  for word in words:
    if len(lines[-1]) + len(word) > 76:
      lines.append('')
    lines[-1] += f' {word},'
  return [f' {line}' for line in lines]


def largest(array: Any) -> int:
  """The largest magnitude of whole numbers; 0 for none."""
  return int(np.max(np.abs(np.asarray(array, np.int64)), initial=0))


def size(bound: int) -> int:
  """Bytes of the smallest type that holds -bound..bound."""
  require(bound <= INT32, f'a number of {bound} takes more than 32 bits')
  return 1 if bound < 2**7 else 2 if bound < 2**15 else 4


def require(condition: bool, message: str) -> None:
  """Raises ValueError where a program has no header."""
  if not condition:
    raise ValueError(message)


def constant(name: str) -> int:
  """A whole number that engine.h defines."""
  found = re.search(rf'^#define {name} (\d+)', ENGINE, re.MULTILINE)
  assert found
  return int(found[1])


def weight_blocks(weight: np.ndarray) -> tuple[list[np.ndarray], int]:
  """Integer weights [f, c] in the order of their reading.

  Args:
    weight: in -128..127.

  Returns:
    Codes w + 2**(bits - 1) of each block, column after column, and the bits.
  """
  weight = weight.astype(np.int64)
  low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
  bits = max((-low - 1).bit_length() if low else 0, high.bit_length()) + 1
  require(bits <= 8, f'weights in {low}..{high} take more than 8 bits')
  rows, columns = constant('LORAP_BLOCK'), constant('LORAP_COLUMNS')
  blocks = [
    weight[k : k + rows, c : c + columns].T.reshape(-1) + 2 ** (bits - 1)
    for k in range(0, weight.shape[0], rows)
    for c in range(0, weight.shape[1], columns)
  ]
  return blocks or [np.zeros(0, np.int64)], bits
