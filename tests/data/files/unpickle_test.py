"""Tests of the reader of pinned Python 2 pickles."""

import functools
import operator
import os
import pathlib
import pickle

import numpy as np
import pytest

from lorap_jax.data.files import store, unpickle
from lorap_jax.data.files.store import DataError

PROTO = b'\x80\x02'
NEW_ARRAY = (
  b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
)


def text(value):
  return b'U' + bytes([len(value)]) + value


def number_type(code, order=b'<'):
  state = b'(K\x03' + text(order) + b'NNN' + b'J\xff\xff\xff\xff' * 2
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
CSR = (
  b'cscipy.sparse.csr\ncsr_matrix\n)\x81}('
  + (text(b'_shape') + b'K\x02K\x03\x86' + text(b'data') + SIXES)
  + b'ub'
)


def load(content):
  """What a pickle holds that is pinned as it is."""
  digest = store.content_digest(content)
  return unpickle.load(content, 'mine', sha256=digest, size=len(content))


@pytest.mark.parametrize(
  'value',
  [
    None,
    [True, False, 0, -1, 255, 256, 70000, -(2**31), 2**40, -(2**200)],
    [0.5, -1e300, 'text', 'ä\u20ac', ''],
    [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[], [[1]]]],
    {'a': 1, 2: [3], '': {'b': {}}},
    {i: [i, i + 1] for i in range(3000)},  # Several batches of items.
  ],
)
def test_plain_values(value):
  assert load(pickle.dumps(value, protocol=2)) == value


def test_strings_of_python_2():
  content = PROTO + b'(U\x02a\xe4T\x03\0\0\0b\xffct.'
  assert load(content) == ('aä', 'bÿc')


def test_arrays():
  found = load(PROTO + SIXES + b'.')
  expected = np.frombuffer(bytes(range(12)), '<i2').reshape(2, 3)
  assert found.dtype == '<i2' and found.tolist() == expected.tolist()
  found = load(PROTO + FLOATS + b'.')
  assert found.dtype == np.float32 and found.tolist() == [1, -2]


def test_sparse_matrices_need_no_scipy():
  matrix = load(PROTO + CSR + b'.')
  assert isinstance(matrix, unpickle.CsrMatrix)
  assert matrix.fields['_shape'] == (2, 3)
  assert matrix.fields['data'].shape == (2, 3)


def test_graphs():
  call = b'ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R'
  found = load(PROTO + call + b'(K\x00]K\x01]K\x02aK\x05](K\x06K\x07eu.')
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
  r'posix\.system': lambda path: Call(os.system, f'touch {path}'),
  r'(__builtin__|builtins)\.eval': lambda path: Call(eval, CODE.format(path)),
  r'(__builtin__|builtins)\.exec': lambda path: Call(exec, CODE.format(path)),
  r'(__builtin__|builtins)\.getattr': lambda path: Call(
    Call(getattr, pathlib.Path(path), 'touch')
  ),
  # A path of names, or a call of getattr in old protocols.
  r'(pathlib\.Path\.touch|(__builtin__|builtins)\.getattr)': lambda path: Call(
    pathlib.Path.touch, pathlib.Path(path)
  ),
  r'functools\.partial': lambda path: Call(
    Call(functools.partial, os.mknod, str(path))
  ),
  r'_?operator\.methodcaller': lambda path: Call(
    Call(operator.methodcaller, 'touch'), pathlib.Path(path)
  ),
  r'numpy\.save': lambda path: Call(np.save, str(path), 1),
}


@pytest.mark.parametrize('name', EXPLOITS)
@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_exploits_do_nothing(name, protocol, tmp_path):
  path = tmp_path / 'done.npy'
  content = pickle.dumps(EXPLOITS[name](path), protocol=protocol)
  with pytest.raises(DataError, match=f'mine: .*the global {name} is refused'):
    load(content)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', EXPLOITS)
def test_the_exploits_are_real(name, tmp_path):
  path = tmp_path / 'done.npy'
  pickle.loads(pickle.dumps(EXPLOITS[name](path)))
  assert path.exists()


@pytest.mark.parametrize(
  ('module', 'name'),
  [
    ('numpy', 'ndarray.tofile'),
    ('collections', 'abc.sys.modules'),
    ('scipy.sparse', 'csr.csr_matrix'),
    ('builtins', 'list'),  # Of Python 3; no pinned file has it.
    ('', ''),
  ],
)
def test_no_name_leads_beyond_those_listed(module, name):
  words = text(module.encode()) + text(name.encode())
  with pytest.raises(DataError, match=f'mine: .*global {module}.{name} is ref'):
    load(b'\x80\x04' + words + b'\x93.')


@pytest.mark.parametrize(
  'content',
  [
    b'',
    PROTO + b'.',
    PROTO + b'h\x07.',
    PROTO + b'T\xff\xff\xff\x7fshort.',
    PROTO + b'K\x01Q.',  # An object that is stored elsewhere.
    PROTO + b'\x82\x01.',  # A name by its number.
    PROTO + array(b'K\x01', number_type(b'f9'), text(b'')) + b'.',
    PROTO + array(b'K\x02', number_type(b'f4'), text(bytes(4))) + b'.',
  ],
)
def test_damage(content):
  with pytest.raises(DataError, match='mine: cannot be unpickled'):
    load(content)


def test_cut_pickles():
  sound = PROTO + b'(' + CSR + FLOATS + b'}K\x01]K\x02ast.'
  load(sound)
  for end in range(len(sound)):
    with pytest.raises(DataError, match='mine: cannot be unpickled'):
      load(sound[:end])


class TestPin:
  SOUND = PROTO + CSR + b'.'

  @pytest.fixture(autouse=True)
  def nothing_unpickles(self, monkeypatch):
    unpickled = []
    monkeypatch.setattr(unpickle, '_Unpickler', unpickled.append)
    yield
    assert not unpickled

  @pytest.mark.parametrize(
    ('content', 'reason'),
    [
      (SOUND[:-2] + b'0.', 'expected SHA-256'),
      (SOUND[:-1], 'expected [0-9]+ bytes'),
      (SOUND + b'.', 'expected [0-9]+ bytes'),
    ],
  )
  def test_other_content_is_refused_before(self, content, reason):
    digest, size = store.content_digest(self.SOUND), len(self.SOUND)
    with pytest.raises(DataError, match=f'mine: {reason}'):
      unpickle.load(content, 'mine', sha256=digest, size=size)
