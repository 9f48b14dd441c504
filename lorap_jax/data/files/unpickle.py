"""Reads the data of a Python 2 pickle without running the pickle.

A pickle is a program that may call anything, so it is never handed to the
`pickle` module. `load` walks its opcodes itself, knows only those that build
plain values, and calls nothing on the pickle's behalf: a name in the pickle is
no more than a mark, and marks other than those of `_GLOBALS` are refused. What
is claimed must be there: an array needs all its bytes in the file, a list or
dict can be used only once, and the number of opcodes is bounded.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import math
import pickletools
import re
from typing import Any

import numpy as np

from lorap_jax.data.files.store import DataError

_MAX_OPCODES = 1 << 20
_MAX_AXES = 32


@dataclasses.dataclass
class CsrMatrix:
  """A sparse matrix in compressed rows, as SciPy pickles it; not yet checked.

  Attributes:
    fields: what was stored: `_shape` or `shape`, `indptr`, `indices`, `data`.
  """

  fields: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Global(enum.Enum):
  """The names that a pickle may mention; none is ever imported or called."""

  CSR = enum.auto()
  RECONSTRUCT = enum.auto()
  NDARRAY = enum.auto()
  DTYPE = enum.auto()
  DEFAULTDICT = enum.auto()
  LIST = enum.auto()


_GLOBALS = {
  'scipy.sparse.csr csr_matrix': _Global.CSR,
  'scipy.sparse._csr csr_matrix': _Global.CSR,
  'numpy.core.multiarray _reconstruct': _Global.RECONSTRUCT,
  'numpy._core.multiarray _reconstruct': _Global.RECONSTRUCT,
  'numpy ndarray': _Global.NDARRAY,
  'numpy dtype': _Global.DTYPE,
  'collections defaultdict': _Global.DEFAULTDICT,
  '__builtin__ list': _Global.LIST,
  'builtins list': _Global.LIST,
}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_EMPTY = {'EMPTY_TUPLE': tuple, 'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_LITERALS = {
  'BININT',
  'BININT1',
  'BININT2',
  'LONG1',
  'BINFLOAT',
  'SHORT_BINSTRING',
  'BINSTRING',
  'BINUNICODE',
}
_PUTS = {'BINPUT', 'LONG_BINPUT'}
_GETS = {'BINGET', 'LONG_BINGET'}
_NUMBER_TYPE = re.compile('b1|[iu][1248]|f[248]')


@dataclasses.dataclass
class _Type:
  """A NumPy type: its code, as 'f4', and its byte order."""

  code: str
  order: str = '='


class _Refused(Exception):
  """The pickle does something that plain data does not need."""


def load(content: bytes, name: str) -> Any:
  """Returns the value of a protocol 2 pickle of plain data.

  Args:
    content: the pickle.
    name: how to call the file in an error message.

  Returns:
    Numbers, strings (decoded as latin1), tuples, lists, dicts (also for
    `defaultdict`), arrays of numbers and `CsrMatrix`, nested as they were.

  Raises:
    DataError: the pickle is damaged, too long, or does something else; names
      what was refused.
  """
  machine = _Machine()
  file = io.BytesIO(content)
  try:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
      if count >= _MAX_OPCODES:
        raise DataError(f'{name}: pickle of more than {_MAX_OPCODES} opcodes.')
      if opcode.name == 'STOP':
        if file.read(1):
          raise DataError(f'{name}: bytes follow the end of the pickle.')
        return machine.result()
      machine.step(opcode.name, argument)
  except _Refused as error:
    raise DataError(f'{name}: refused to unpickle {error}.') from error
  except DataError:
    raise
  except Exception as error:  # Damage shows in a dozen types of exception.
    reason = f'{type(error).__name__}: {error}'[:200]
    raise DataError(f'{name}: damaged pickle ({reason}).') from error
  raise AssertionError('genops ends with STOP or raises.')


class _Machine:
  """The stack and the memo of a pickle that is being read."""

  def __init__(self):
    self._stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}

  def result(self) -> Any:
    """The one value that is left on the stack at the end."""
    (value,) = self._stack
    return value

  def step(self, opcode: str, argument: Any) -> None:
    """Does one opcode."""
    push = self._stack.append
    if opcode in _LITERALS:
      push(argument)
    elif opcode in _CONSTANTS:
      push(_CONSTANTS[opcode])
    elif opcode in _EMPTY:
      push(_EMPTY[opcode]())
    elif opcode in _TUPLES:
      push(tuple(self._pop_last(_TUPLES[opcode])))
    elif opcode in _PUTS:
      self._memo[argument] = self._stack[-1]
    elif opcode in _GETS:
      value = self._memo[argument]
      # Containers in containers may mean far more than the file is long.
      if isinstance(value, (tuple, list, dict)):
        raise _Refused(f'second use of {_kind(value)}')
      push(value)
    elif opcode == 'MARK':
      self._marks.append(len(self._stack))
    elif opcode == 'GLOBAL':
      if argument not in _GLOBALS:
        raise _Refused(f'the global {argument[:100]!r}')
      push(_GLOBALS[argument])
    elif (method := _METHODS.get(opcode)) is not None:
      method(self)
    elif opcode != 'PROTO':
      raise _Refused(f'the opcode {opcode}')

  def _pop_last(self, count: int) -> list[Any]:
    if len(self._stack) - count < (self._marks[-1] if self._marks else 0):
      raise IndexError('stack underflow')
    start = len(self._stack) - count
    values = self._stack[start:]
    del self._stack[start:]
    return values

  def _pop_to_mark(self) -> list[Any]:
    return self._pop_last(len(self._stack) - self._marks.pop())

  def _tuple(self) -> None:
    self._stack.append(tuple(self._pop_to_mark()))

  def _append(self) -> None:
    self._extend(self._pop_last(1))

  def _appends(self) -> None:
    self._extend(self._pop_to_mark())

  def _extend(self, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is not list:
      raise _Refused(f'appending to {_kind(target)}')
    target.extend(values)

  def _set_item(self) -> None:
    self._update(self._pop_last(2))

  def _set_items(self) -> None:
    self._update(self._pop_to_mark())

  def _update(self, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is not dict:
      raise _Refused(f'setting items of {_kind(target)}')
    for key, value in zip(values[::2], values[1::2], strict=True):
      # A deeply nested tuple would overflow the stack of `hash`.
      if type(key) not in (str, int):
        raise _Refused(f'{_kind(key)} as a key')
      target[key] = value

  def _new(self) -> None:
    cls, arguments = self._pop_last(2)
    if cls is not _Global.CSR or arguments != ():
      raise _Refused(f'a new object of {_kind(cls)}')
    self._stack.append(CsrMatrix())

  def _reduce(self) -> None:
    function, arguments = self._pop_last(2)
    if function is _Global.RECONSTRUCT:
      value = np.zeros(0, np.uint8)  # `_build` gives it shape and content.
    elif function is _Global.DTYPE:
      value = _Type(str(arguments[0])[:9])
    elif function is _Global.DEFAULTDICT:
      value = {}
    else:
      raise _Refused(f'a call of {_kind(function)}')
    self._stack.append(value)

  def _build(self) -> None:
    (state,) = self._pop_last(1)
    target = self._stack[-1]
    if type(target) is CsrMatrix and type(state) is dict:
      target.fields = state
    elif type(target) is _Type:
      # Version, byte order, then subarray, names and fields: all None.
      _, target.order, *structure = state[:5]
      if structure != [None] * 3:
        raise _Refused('a structured array')
    elif type(target) is np.ndarray:
      _fill(target, state)
    else:
      raise _Refused(f'setting the state of {_kind(target)}')


_METHODS = {
  'TUPLE': _Machine._tuple,
  'APPEND': _Machine._append,
  'APPENDS': _Machine._appends,
  'SETITEM': _Machine._set_item,
  'SETITEMS': _Machine._set_items,
  'NEWOBJ': _Machine._new,
  'REDUCE': _Machine._reduce,
  'BUILD': _Machine._build,
}


def _fill(array: np.ndarray, state: tuple[Any, ...]) -> None:
  """Gives a new array its pickled shape, type and content."""
  version, shape, dtype, fortran, text = state
  if not (isinstance(dtype, _Type) and _NUMBER_TYPE.fullmatch(dtype.code)):
    raise _Refused(f'an array of {_kind(dtype)}')
  if len(shape) > _MAX_AXES or not all(
    type(size) is int and size >= 0 for size in shape
  ):
    raise _Refused('an array with a shape that is none')
  content = text.encode('latin1')
  if dtype.order not in ('<', '>', '=', '|'):
    raise _Refused('an unknown order of bytes')
  number = np.dtype(dtype.order + dtype.code)
  if len(content) != math.prod(shape) * number.itemsize:
    raise _Refused(
      f'{len(content)} bytes as an array of shape {shape} and type {number}'
    )
  checked: Any = (version, shape, number, bool(fortran), content)
  array.__setstate__(checked)


def _kind(value: Any) -> str:
  if isinstance(value, _Global):
    return value.name.lower()
  if isinstance(value, _Type):
    return f'the type {value.code!r}'
  return f'a {type(value).__name__}'
