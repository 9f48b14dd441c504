"""Tests of the reader of Python 2 pickles, hostile ones included."""

import builtins
import functools
import operator
import os
import pathlib
import pickle
import random

import numpy as np
import pytest

from lorap_jax.data.files import unpickle
from lorap_jax.data.files.store import DataError

PROTO = b'\x80\x02'
NEW_ARRAY = (
  b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
)


def text(value):
  return b'U' + bytes([len(value)]) + value


def number_type(code, order=b'<', names=b'N'):
  state = b'(K\x03' + text(order) + b'N' + names + b'NJ\xff\xff\xff\xff' * 2
  call = b'cnumpy\ndtype\n' + text(code) + b'K\x00K\x01\x87R'
  return call + state + b'K\x00tb'


def array(shape, dtype, content):
  """Opcodes of an array, as Python 2 writes them; `shape` are opcodes too."""
  return (
    NEW_ARRAY + b'(K\x01(' + shape + b't' + dtype + b'\x89' + content + b'tb'
  )


SIXES = array(b'K\x02K\x03', number_type(b'i2'), text(bytes(range(12))))
FLOATS = array(
  b'K\x02', number_type(b'f4', b'>'), text(b'\x3f\x80\0\0\xc0\0\0\0')
)


@pytest.mark.parametrize(
  'value',
  [
    None,
    [True, False, 0, -1, 255, 256, 70000, -(2**31), 2**40, -(2**200)],
    [0.5, -1e300, 'text', 'ä\u20ac', ''],
    [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[], [[1]]]],
    {},
    {'a': 1, 2: [3], '': {'b': {}}},
    {i: [i, i + 1] for i in range(3000)},  # Several batches of items.
  ],
)
def test_plain_values_are_those_of_python(value):
  content = pickle.dumps(value, protocol=2)
  assert unpickle.load(content, 'file') == value


def test_strings_of_python_2():
  content = PROTO + b'(U\x02a\xe4T\x03\0\0\0b\xffct.'
  assert unpickle.load(content, 'file') == ('aä', 'bÿc')


def test_arrays():
  found = unpickle.load(PROTO + SIXES + b'.', 'file')
  expected = np.frombuffer(bytes(range(12)), '<i2').reshape(2, 3)
  assert found.dtype == '<i2' and found.tolist() == expected.tolist()
  found = unpickle.load(PROTO + FLOATS + b'.', 'file')
  assert found.dtype == np.float32 and found.tolist() == [1, -2]


def test_an_array_and_its_type_can_be_used_twice():
  # Numbers 1 and 2 of the memo: the type, and the array before it is filled.
  dtype = number_type(b'u1')[:-1] + b'bq\x01'
  first = NEW_ARRAY + b'q\x02(K\x01K\x02\x85' + dtype + b'\x89U\x02abtb'
  second = array(b'K\x01', b'h\x01', text(b'c'))
  found = unpickle.load(PROTO + b'(' + first + second + b'h\x02t.', 'file')
  assert [a.tolist() for a in found] == [[97, 98], [99], [97, 98]]


@pytest.mark.parametrize('module', [b'scipy.sparse.csr', b'scipy.sparse._csr'])
def test_sparse_matrices_need_no_scipy(module):
  fields = text(b'_shape') + b'K\x02K\x03\x86' + text(b'data') + SIXES
  content = b'c' + module + b'\ncsr_matrix\n)\x81}(' + fields + b'ub.'
  matrix = unpickle.load(PROTO + content, 'file')
  assert isinstance(matrix, unpickle.CsrMatrix)
  assert matrix.fields['_shape'] == (2, 3)
  assert matrix.fields['data'].shape == (2, 3)


@pytest.mark.parametrize('module', [b'__builtin__', b'builtins'])
def test_defaultdict_becomes_a_dict(module):
  call = b'ccollections\ndefaultdict\nc' + module + b'\nlist\n\x85R'
  content = PROTO + call + b'(K\x00]K\x01]K\x02aK\x05](K\x06K\x07eu.'
  found = unpickle.load(content, 'file')
  assert type(found) is dict
  assert found == {0: [], 1: [2], 5: [6, 7]}


class Call:
  """Pickles as a call of `function`."""

  def __init__(self, function, *arguments):
    self.call = (function, arguments)

  def __reduce__(self):
    return self.call

  def __call__(self):
    """Only so that the result of a call may be called."""


CODE = '__import__("os").mknod("{}")'
EXPLOITS = {
  'posix system': lambda path: Call(os.system, f'touch {path}'),
  '__builtin__ eval': lambda path: Call(eval, CODE.format(path)),
  '__builtin__ exec': lambda path: Call(exec, CODE.format(path)),
  '__builtin__ getattr': lambda path: Call(
    Call(getattr, pathlib.Path(path), 'touch')
  ),
  'functools partial': lambda path: Call(
    Call(functools.partial, open, str(path), 'w')
  ),
  'operator methodcaller': lambda path: Call(
    Call(operator.methodcaller, 'touch'), pathlib.Path(path)
  ),
  'numpy save': lambda path: Call(np.save, str(path), 1),
}


@pytest.mark.parametrize('name', EXPLOITS)
@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_exploits_do_nothing(name, protocol, tmp_path):
  path = tmp_path / 'done.npy'
  content = pickle.dumps(EXPLOITS[name](path), protocol=protocol)
  reason = f'the global {name!r}' if protocol == 2 else 'refused to unpickle'
  with pytest.raises(DataError, match=f'mine: .*{reason}'):
    unpickle.load(content, 'mine')
  assert not list(tmp_path.iterdir())


def test_the_exploits_are_real(tmp_path):
  path = tmp_path / 'done'
  for name in ('posix system', '__builtin__ eval', '__builtin__ getattr'):
    pickle.loads(pickle.dumps(EXPLOITS[name](path), protocol=2))
    path.unlink()


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    # Calls of what is allowed, with what it is not meant for.
    (b'cnumpy\nndarray\nK\x05\x85R.', 'a call of ndarray'),
    (b'c__builtin__\nlist\n)R.', 'a call of list'),
    (b'cscipy.sparse.csr\ncsr_matrix\n)R.', 'a call of csr'),
    (NEW_ARRAY + b')R.', 'a call of a ndarray'),
    (b'ccollections\ndefaultdict\n)R)R.', 'a call of a dict'),
    (text(b'numpy dtype') + text(b'i4') + b'\x85R.', 'a call of a str'),
    (b'cnumpy\nndarray\n)\x81.', 'a new object of ndarray'),
    (b'cscipy.sparse.csr\ncsr_matrix\nK\x01\x85\x81.', 'a new object of csr'),
    # State for what has none.
    (b'}}b.', 'setting the state of a dict'),
    (b'cscipy.sparse.csr\ncsr_matrix\n}b.', 'setting the state of csr'),
    (b'cscipy.sparse.csr\ncsr_matrix\n)\x81]b.', 'the state of a CsrMatrix'),
    (b'K\x01(U\x08__dict__}ub.', 'setting items of a int'),
    (b')K\x01a.', 'appending to a tuple'),
    (SIXES + b'K\x01a.', 'appending to a ndarray'),
    # Opcodes that import, call or look up.
    (b'(ios\nsystem\n.', 'the opcode INST'),
    (b'(cnumpy\nndarray\no.', 'the opcode OBJ'),
    (b'\x82\x01.', 'the opcode EXT1'),
    (b'Pname\n.', 'the opcode PERSID'),
    (b'K\x01Q.', 'the opcode BINPERSID'),
    (b'\x95' + bytes(8) + b'.', 'the opcode FRAME'),
    (text(b'os') + text(b'system') + b'\x93.', 'the opcode STACK_GLOBAL'),
    (b'cos\nsystem\n.', "the global 'os system'"),
    (b'c' + b'x' * 10**6 + b'\ny\n.', "the global 'xxx"),
    # Arrays that are more than numbers, or larger than their bytes.
    (array(b'K\x01', number_type(b'O8'), text(bytes(8))), "type 'O8'"),
    (array(b'K\x01', number_type(b'V4'), text(bytes(4))), "type 'V4'"),
    (array(b'K\x01', number_type(b'f4,O8'), text(bytes(12))), "'f4,O8'"),
    (array(b'K\x01', number_type(b'f4', names=b')'), b''), 'structured'),
    (array(b'K\x01', text(b'f4'), text(bytes(4))), 'an array of a str'),
    (array(b'K\x01', number_type(b'f4', b'?'), text(bytes(4))), 'order of by'),
    (
      array(b'J\0\xca\x9a\x3b', number_type(b'f8'), text(b'')),
      r'0 bytes as an array of shape \(1000000000,\)',
    ),
    (
      array(
        b'J\0\xca\x9a\x3b' * 2 + b'K\x00K\x03', number_type(b'f8'), b'U\1x'
      ),
      '1 bytes as an array',
    ),
    (array(b'J\xff\xff\xff\xff', number_type(b'i1'), text(b'')), 'a shape'),
    (array(b'K\x00' * 33, number_type(b'i1'), text(b'')), 'a shape'),
    # Small pickles of much data.
    (b']q\x01]h\x01ah\x01ae.', 'second use of a list'),
    (b'}q\x01h\x01.', 'second use of a dict'),
    (b'K\x01\x85q\x01h\x01\x86.', 'second use of a tuple'),
    (b'}N' + b'\x85' * 10**5 + b'Ns.', 'a tuple as a key'),
  ],
)
def test_refusals(content, reason):
  with pytest.raises(DataError, match=f'mine: refused to unpickle.*{reason}'):
    unpickle.load(PROTO + content, 'mine')


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (b'', 'damaged pickle'),
    (b'<html>', 'damaged pickle'),
    (PROTO + b'.', 'damaged pickle'),
    (PROTO + b'NN.', 'damaged pickle'),
    (PROTO + b'N', 'damaged pickle'),
    (PROTO + b'\x85.', 'stack underflow'),
    (PROTO + b'NN(\x86.', 'stack underflow'),  # Below a mark.
    (PROTO + b'Nt.', 'damaged pickle'),
    (PROTO + b'h\x07.', 'damaged pickle'),
    (PROTO + b'}(K\x01u.', 'damaged pickle'),
    (PROTO + b'T\xff\xff\xff\x7fshort.', 'damaged pickle'),
    (PROTO + b'T\xff\xff\xff\xffshort.', 'damaged pickle'),
    (
      PROTO + array(b'K\x01', number_type(b'f9'), text(b'')) + b'.',
      "type 'f9'",
    ),
    (PROTO + b'N.N', 'bytes follow the end'),
  ],
)
def test_damage(content, reason):
  with pytest.raises(DataError, match=f'mine: .*{reason}'):
    unpickle.load(content, 'mine')


def test_a_memo_far_away_takes_no_memory():
  content = PROTO + b'Nr\xff\xff\xff\xff.'
  assert unpickle.load(content, 'file') is None


def test_opcodes_are_counted(monkeypatch):
  monkeypatch.setattr(unpickle, '_MAX_OPCODES', 10)
  assert unpickle.load(PROTO + b']' + b'Na' * 3 + b'.', 'file')
  with pytest.raises(DataError, match='mine: pickle of more than 10 opcodes'):
    unpickle.load(PROTO + b']' + b'Na' * 4 + b'.', 'mine')


def test_cut_and_changed_pickles_raise_nothing_else():
  fields = text(b'_shape') + b'K\x02K\x03\x86' + text(b'data') + SIXES
  matrix = b'cscipy.sparse.csr\ncsr_matrix\n)\x81}(' + fields + b'ub'
  sound = PROTO + b'(' + matrix + FLOATS + b'}K\x01]K\x02ast.'
  unpickle.load(sound, 'file')
  for end in range(len(sound)):
    with pytest.raises(DataError):
      unpickle.load(sound[:end], 'file')
  rng = random.Random(0)
  refused = 0
  for _ in range(3000):
    changed = bytearray(sound)
    changed[rng.randrange(len(sound))] = rng.randrange(256)
    try:
      unpickle.load(bytes(changed), 'file')
    except DataError:
      refused += 1
  assert refused > 1000


def test_nothing_is_imported_or_called(monkeypatch):
  """Not even what is allowed: only the loader's own code runs."""
  monkeypatch.setattr(builtins, '__import__', None)
  call = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R'
  assert unpickle.load(PROTO + call + b'.', 'file').size == 0
