"""ZINC-12k: molecules with one number to predict (penalized logP).

Source of the data: V. P. Dwivedi et al., "Benchmarking Graph Neural Networks",
JMLR 2023.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from lorap_jax.data.containers import limits, splits
from lorap_jax.data.containers.dataset import DataSplits, GraphDataset
from lorap_jax.data.files import sources, store
from lorap_jax.data.files.store import AbsentDataError, DataError, PathLike
from lorap_jax.data.sets import own_arrays, zinc_archive

NUM_ATOM_TYPES = 28
ARCHIVE = 'molecules.zip'
NPZ = 'zinc12k.npz'
ARCHIVE_URLS = ('https://www.dropbox.com/s/feo9qle74kg48gy/molecules.zip?dl=1',)
INDEX_URL = (
  'https://raw.githubusercontent.com/graphdeeplearning/benchmarking-gnns/'
  'master/data/molecules/'
)
_MAX_DOWNLOAD = 1 << 30
_PLACES = ('', 'zinc', 'ZINC')
_WANTED = (
  f'{NPZ}, or {ARCHIVE} with train.index, val.index and test.index beside it'
)


def load_zinc(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  limit: Sequence[int] | None = None,
  cache_dir: PathLike | None = None,
) -> DataSplits:
  """Loads ZINC-12k: 10,000 / 1,000 / 1,000 molecules.

  A zinc12k.npz holds, for each SPLIT of train, val and test and as unsigned
  bytes unless said otherwise:

    SPLIT_n_atoms[g], SPLIT_n_bonds[g]   sizes of the molecules
    SPLIT_atom_type[sum(n_atoms)]        0 to 27
    SPLIT_bond_src[sum(n_bonds)]         ends of the bonds, numbers inside the
    SPLIT_bond_dst[sum(n_bonds)]           molecule; each bond once
    SPLIT_y f32[g]                       the number to predict

  Its training molecules count as the benchmark's own only where it also holds a
  true `official`, which `zinc_archive.convert_zinc` writes; others are a
  different draw from the same pool, and results on them compare with nothing
  published.

  Args:
    source: 'auto' takes `data_dir` if it is given, else a download;
      'data_dir' and 'download' take that one.
    data_dir: folder with zinc12k.npz, or with the benchmark's molecules.zip and
      its three index files.
    offline: whether to use a downloaded file only if it is there already.
    limit: numbers of training, validation and test molecules to keep; None
      keeps all.
    cache_dir: folder for downloads and converted files; `store.cache_dir()` by
      default.

  Returns:
    Splits with nodes f32[n, 1], the atom type; bonds as edges in both
    directions; labels f32[g]; `num_classes` 1, the number of outputs.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or is not ZINC-12k.
  """
  limits.check_limit(limit)
  folder = sources.choose_folder(source, data_dir)
  cache = pathlib.Path(cache_dir or store.cache_dir()) / 'zinc'
  if folder is None:
    path = _converted(_download(cache, offline=offline), cache)
    origin = 'download'
  else:
    path = _find(folder, cache)
    origin = 'data_dir'
  whole = limits.limited(_read(path, origin), limit, 'molecules')
  return whole


def _find(folder: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
  if path := sources.first_file(folder, _PLACES, [NPZ]):
    return path
  if path := sources.first_file(folder, _PLACES, [ARCHIVE]):
    return _converted(path, cache)
  raise AbsentDataError(
    f'data_dir {folder}: ZINC-12k is not there. Put in it {_WANTED}.'
  )


def _download(cache: pathlib.Path, *, offline: bool) -> pathlib.Path:
  """Returns the path of the archive, with the index files beside it."""
  archive = cache / ARCHIVE
  if offline:
    if not archive.is_file():
      raise DataError(f'{archive}: offline, and not downloaded before.')
    return archive
  remedy = f'put {_WANTED} into a folder and give it as data_dir.'
  store.download_checked(
    ARCHIVE_URLS,
    archive,
    check=zinc_archive.check_archive,
    max_size=_MAX_DOWNLOAD,
    remedy=remedy,
  )
  for split in zinc_archive.SIZES:
    store.download_checked(
      [f'{INDEX_URL}{split}.index'],
      cache / f'{split}.index',
      check=functools.partial(zinc_archive.parse_index, split=split),
      max_size=1 << 20,
      remedy=remedy,
    )
  return archive


def _converted(archive: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
  """Returns the path of the npz file made from this archive."""
  digest = store.content_digest(store.read_bytes(archive))
  path = cache / f'{digest[:32]}.npz'
  with store.lock(path):
    if not path.is_file():
      logging.info('Converting %s; this takes a minute.', archive)
      zinc_archive.convert_zinc(archive, path)
  return path


def _read(path: pathlib.Path, origin: str) -> DataSplits:
  arrays = store.read_npz(path)
  parts: dict[str, Any] = {
    key: _dataset(arrays, name, str(path))
    for key, name in zip(splits.SPLITS, zinc_archive.SIZES, strict=True)
  }
  official = bool(arrays.get('official', np.array(False)).all())
  draw = '' if official else '; TRAIN IS NOT the official choice of molecules'
  record: dict[str, Any] = {
    'name': 'zinc12k' if official else 'zinc12k-other-train',
    'origin': origin,
    'files': [str(path)],
    'sha256': {path.name: store.content_digest(store.read_bytes(path))},
    'counts': {key: part.num_graphs for key, part in parts.items()},
    'num_atom_types': NUM_ATOM_TYPES,
    'subset': False,
    'comparable': official,
    'note': f'ZINC-12k from {origin} ({path}){draw}',
  }
  return DataSplits(**parts, num_classes=1, source=record, task='regression')


def _dataset(
  arrays: Mapping[str, np.ndarray], split: str, name: str
) -> GraphDataset:
  fields = ('n_atoms', 'n_bonds', 'atom_type', 'bond_src', 'bond_dst')
  for field in (*fields, 'y'):
    kinds = 'f' if field == 'y' else 'u'
    array = arrays.get(f'{split}_{field}')
    if array is None:
      raise DataError(f'{name}: {split}_{field} is missing; see load_zinc.')
    if array.dtype.kind not in kinds or array.ndim != 1:
      raise DataError(
        f'{name}: {split}_{field} is {array.dtype} of shape {array.shape}; '
        f'expected {"floats" if field == "y" else "unsigned"} of one axis, see '
        'load_zinc.'
      )
  n_atoms, _, atoms, one, other = (
    arrays[f'{split}_{field}'] for field in fields
  )
  if len(n_atoms) != zinc_archive.SIZES[split]:
    raise DataError(
      f'{name}: expected {zinc_archive.SIZES[split]} {split} molecules, found '
      f'{len(n_atoms)}.'
    )
  if atoms.max(initial=0) >= NUM_ATOM_TYPES:
    raise DataError(f'{name}: {split} has the atom type {atoms.max()}.')
  if len(one) != len(other):
    raise DataError(f'{name}: {split} has bonds with one end.')
  cast = lambda field, dtype: own_arrays.cast(
    arrays[f'{split}_{field}'], f'{split}_{field}', name, dtype, shape=('g',)
  )
  one, other = cast('bond_src', 'u2'), cast('bond_dst', 'u2')
  data = GraphDataset(
    nodes=atoms.astype(np.float32)[:, None],
    # A bond in one direction, then in the other, then the next bond.
    senders=np.stack([one, other], axis=1).ravel(),
    receivers=np.stack([other, one], axis=1).ravel(),
    n_node=cast('n_atoms', 'i4'),
    n_edge=2 * cast('n_bonds', 'u2').astype(np.int32),
    labels=cast('y', 'f4'),
  )
  data.check(f'{name}, {split}')
  return data
