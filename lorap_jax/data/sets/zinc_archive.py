"""Converts the benchmark's archive of ZINC into the arrays that `zinc` reads.

The archive, molecules.zip, holds {train,val,test}.pickle: lists of molecules,
which are dicts of PyTorch tensors. A pickle is a program that may call anything
that it names. Here four names stand for functions of this module or for `dict`,
and any other is refused; PyTorch is not needed.

The 12,000 molecules of the benchmark are those that {train,val,test}.index
list, as numbers and commas; they are in the archive or beside it.

Source of the data: V. P. Dwivedi et al., "Benchmarking Graph Neural Networks",
JMLR 2023, graphdeeplearning/benchmarking-gnns, data/molecules.
"""

from __future__ import annotations

import io
import math
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from lorap_jax.data.files import archives, store
from lorap_jax.data.files.store import DataError, PathLike

SIZES = {'train': 10000, 'val': 1000, 'test': 1000}
_PICKLES = tuple(f'{split}.pickle' for split in SIZES)
_MAX_TOTAL = 1 << 33  # Most of it zeros of adjacency matrices.
_MAX_RATIO = 1000
_MAGIC = 0x1950A86A20F9469CFC6C  # First value of a stored PyTorch object.
_NUMBERS = {
  'ByteStorage': 'u1',
  'CharStorage': 'i1',
  'ShortStorage': '<i2',
  'IntStorage': '<i4',
  'LongStorage': '<i8',
  'FloatStorage': '<f4',
  'DoubleStorage': '<f8',
}


def convert_zinc(archive: PathLike, out: PathLike) -> None:
  """Writes the 12,000 molecules of the benchmark to an npz file.

  Args:
    archive: molecules.zip; {train,val,test}.index are in it or beside it. Its
      largest pickle is read as a whole, which takes a few gigabytes of memory.
    out: the npz file, in the layout of `zinc.load_zinc`.

  Raises:
    DataError: a file is missing, damaged or holds something else; nothing is
      written then.
  """
  archive = pathlib.Path(archive)
  names = (*_PICKLES, *(f'{split}.index' for split in SIZES))
  members = archives.read_members(
    archive,
    lambda member: member.rpartition('/')[2] in names,
    max_total=_MAX_TOTAL,
    max_ratio=_MAX_RATIO,
  )
  files = {member.rpartition('/')[2]: text for member, text in members.items()}
  for name in names:
    if name not in files:
      files[name] = store.read_bytes(archive.with_name(name))
  arrays: dict[str, np.ndarray] = {'official': np.array(True)}
  for split in SIZES:
    chosen = parse_index(files[f'{split}.index'], f'{split}.index', split)
    molecules = _load(
      files.pop(f'{split}.pickle'), f'{archive}: {split}.pickle'
    )
    arrays |= _arrays(molecules, chosen, split, str(archive))
  with store.atomic_file(out) as part, open(part, 'wb') as file:
    np.savez_compressed(file, allow_pickle=False, **arrays)


def check_archive(content: bytes, name: str) -> None:
  """Checks that an archive is sound and holds the pickles.

  Raises:
    DataError: it is not or does not.
  """
  missing = set(_PICKLES)

  def note(member: str) -> bool:
    missing.discard(member.rpartition('/')[2])
    return False  # To unpack over a gigabyte can wait.

  archives.parse_members(
    content, name, note, max_total=_MAX_TOTAL, max_ratio=_MAX_RATIO
  )
  if missing:
    raise DataError(f'{name}: {", ".join(sorted(missing))} missing.')


def parse_index(text: bytes, name: str, split: str) -> list[int]:
  """Returns the numbers of the molecules of a split.

  Raises:
    DataError: they are not as many different numbers as the split has.
  """
  try:
    chosen = [int(word) for word in text.replace(b',', b' ').split()]
  except ValueError as error:
    raise DataError(f'{name}: not a list of numbers ({error}).') from error
  sizes = {SIZES[split], len(chosen), len(set(chosen))}
  if len(sizes) > 1 or min(chosen) < 0:
    raise DataError(
      f'{name}: expected {SIZES[split]} different numbers from 0, found '
      f'{len(set(chosen))} in {len(chosen)}.'
    )
  return chosen


def _arrays(
  molecules: Any, chosen: list[int], split: str, name: str
) -> dict[str, np.ndarray]:
  """Returns the arrays of one split, see `zinc.load_zinc`."""
  atoms, bonds, kinds, targets = [], [], [], []
  try:
    for number in chosen:
      molecule = molecules[number]
      types, matrix = molecule['atom_type'], molecule['bond_type']
      if matrix.shape != (len(types),) * 2 or (matrix != matrix.T).any():
        raise DataError(f'{name}: {split} molecule {number} has odd bonds.')
      atoms.append(types)
      bonds.append(np.stack(np.nonzero(np.triu(matrix))))
      kinds.append(matrix[tuple(bonds[-1])])
      targets.append(molecule['logP_SA_cycle_normalized'].item())
  except DataError:
    raise
  except (LookupError, TypeError, AttributeError, ValueError) as error:
    raise DataError(
      f'{name}: {split}.pickle is no list of molecules ({error!r}).'
    ) from error
  ends = np.concatenate(bonds, axis=1)
  arrays = {
    'n_atoms': np.array([len(types) for types in atoms]),
    'n_bonds': np.array([len(types) for types in kinds]),
    'atom_type': np.concatenate(atoms),
    'bond_src': ends[0],
    'bond_dst': ends[1],
    'bond_type': np.concatenate(kinds),
  }
  packed: dict[str, np.ndarray] = {f'{split}_y': np.array(targets, np.float32)}
  for key, array in arrays.items():
    if array.dtype.kind not in 'iu' or array.min() < 0 or array.max() > 255:
      raise DataError(f'{name}: {split} {key} is not of integers 0 to 255.')
    packed[f'{split}_{key}'] = array.astype(np.uint8)
  return packed


class _Machine(pickle.Unpickler):
  """Runs a pickle that may name what is in `names` only."""

  def __init__(self, file: io.BytesIO, names: Mapping[str, Any]):
    super().__init__(file)
    self._names = names

  def find_class(self, module: str, name: str) -> Any:
    """Our own stand-in for a name, or a refusal: nothing is imported."""
    if (full := f'{module}.{name}') not in self._names:
      raise DataError(f'refused to unpickle {full}')
    return self._names[full]

  def persistent_load(self, pid: Any) -> tuple[str, int]:
    """Returns type and number of the values of a storage."""
    kind, number_type, _, _, count = pid[:5]
    if kind != 'storage' or number_type not in _NUMBERS.values():
      raise DataError(f'refused to unpickle the storage {pid!r}')
    return number_type, count


_STORAGES = {f'torch.{name}': code for name, code in _NUMBERS.items()}


def _storage(content: bytes) -> np.ndarray:
  """Returns the values of a stored PyTorch storage, one after the other."""
  file = io.BytesIO(content)
  magic, _, _, (number_type, count), keys = (
    _Machine(file, _STORAGES).load() for _ in range(5)
  )
  if magic != _MAGIC or len(keys) != 1:
    raise DataError('not the storage of one tensor')
  if int.from_bytes(file.read(8), 'little') != count:
    raise DataError('two sizes of one storage')
  return np.frombuffer(file.read(), number_type, count)


def _tensor(
  storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any
) -> np.ndarray:
  """Returns a tensor as an array of its own."""
  steps = zip(shape, strides, strict=True)
  last = offset + sum((size - 1) * stride for size, stride in steps)
  if min(offset, *shape, *strides, 0) < 0 or not (
    math.prod(shape) <= len(storage) and last < len(storage)
  ):
    raise DataError(f'a tensor {shape} that leaves its storage')
  step = storage.itemsize
  return np.lib.stride_tricks.as_strided(
    storage[offset:], shape, [stride * step for stride in strides]
  ).copy()


def _encode(text: str, encoding: str) -> bytes:
  if encoding != 'latin1':
    raise DataError(f'refused to encode as {encoding!r}')
  return text.encode(encoding)


_FUNCTIONS = {
  'torch._utils._rebuild_tensor_v2': _tensor,
  'torch.storage._load_from_bytes': _storage,
  '_codecs.encode': _encode,
  'collections.OrderedDict': dict,
}


def _load(content: bytes, name: str) -> Any:
  """Returns the value of a pickle of plain values and tensors.

  Raises:
    DataError: it is damaged or names something else.
  """
  try:
    return _Machine(io.BytesIO(content), _FUNCTIONS).load()
  except Exception as error:  # Damage shows in a dozen types of exception.
    raise DataError(f'{name}: {error}.') from error
