"""Reads Python 2 pickles whose content is pinned by a digest.

A pickle is a program that may call anything. Here the `pickle` module and
NumPy's own code run it, and neither withstands a hostile one. That is
acceptable only because `load` compares the SHA-256 first: what it unpickles was
known, byte by byte, when the digest was written down. Names that the pinned
files do not need are refused all the same.
"""

from __future__ import annotations

import collections
import io
import pickle
from typing import Any

import numpy as np

from lorap_jax.data.files import store
from lorap_jax.data.files.store import DataError


class CsrMatrix:
  """A sparse matrix in compressed rows, as SciPy pickles it; not yet checked.

  Attributes:
    fields: what was stored: `_shape`, `indptr`, `indices`, `data` and more.
  """

  fields: dict[str, Any]

  def __setstate__(self, state: dict[str, Any]):
    self.fields = state


def _dtype(code: str, align: int, copy: int) -> np.dtype:
  # NumPy 2.4.0 warns of the numbers that Python 2 wrote for booleans.
  return np.dtype(code, bool(align), bool(copy))


_GLOBALS = {
  ('scipy.sparse.csr', 'csr_matrix'): CsrMatrix,
  # Its place differs between versions of NumPy, what it does does not.
  ('numpy.core.multiarray', '_reconstruct'): np.ndarray.__new__,
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy', 'dtype'): _dtype,
  ('collections', 'defaultdict'): collections.defaultdict,
  ('__builtin__', 'list'): list,
}


class _Unpickler(pickle.Unpickler):
  """Knows the names of `_GLOBALS` only, and imports nothing."""

  def find_class(self, module: str, name: str) -> Any:
    """What a name stands for."""
    if (module, name) not in _GLOBALS:
      raise pickle.UnpicklingError(f'the global {module}.{name} is refused')
    return _GLOBALS[module, name]


def load(content: bytes, name: str, *, sha256: str, size: int) -> Any:
  """Returns the value of a pinned pickle.

  Args:
    content: the pickle.
    name: how to call the file in an error message.
    sha256: its pinned digest.
    size: its pinned number of bytes.

  Returns:
    Numbers, strings (decoded as latin1), tuples, lists, dicts, arrays and
    `CsrMatrix`, nested as they were.

  Raises:
    DataError: the content is not the pinned one, which is seen before any of it
      is unpickled; or it is no whole pickle, or mentions another name.
  """
  store.check_content(content, name, sha256=sha256, size=size)
  try:
    return _Unpickler(io.BytesIO(content), encoding='latin1').load()
  except Exception as error:  # Damage shows in a dozen types of exception.
    raise DataError(f'{name}: cannot be unpickled ({error}).') from error
