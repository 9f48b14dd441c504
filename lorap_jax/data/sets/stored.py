"""One large graph in a folder of npy files, opened without being read.

`write` makes the folder in pieces, `open_folder` maps its arrays into memory
(`numpy.memmap`): sampled training reads the rows and edges that it needs.

| file                              | array                                    |
|-----------------------------------|------------------------------------------|
| nodes.npy                         | f32[n, f] features                       |
| senders.npy, receivers.npy        | i32[e], edges in the order of receivers  |
| indptr.npy                        | i64[n + 1], edges of each receiver       |
| labels.npy                        | i32[n] classes or f32[n] numbers         |
| train_mask.npy, valid_mask, test_ | bool[n]                                  |
| relations.npy, if there are any   | i32[e], a receiver's edges by relation   |
| manifest.json                     | sizes, task, classes, SHA-256 of each    |

Edges are sorted by counting: once over the list to count, once to place them,
then those of each node among themselves, by relation and sender. What is held
in memory is 16 bytes for each node and a piece of the list.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files import edge_text, prepared, store
from lorap_jax.data.files.store import DataError, PathLike
from lorap_jax.data.sets import own_arrays

MANIFEST = 'manifest.json'
_VERSION = 1
_PIECE = 1 << 22  # Edges, or numbers of features, at a time.
_MOST_RELATIONS = 1 << 16
_ARRAYS = (
  'nodes',
  'senders',
  'receivers',
  'indptr',
  'labels',
  *(f'{split}_mask' for split in SPLITS),
)
_RELATIONS = 'relations'  # The array that need not be there.

# Pieces of an edge list, i[2, k] each; called once for every pass over it.
EdgeList = Callable[[], Iterable[np.ndarray]]


def write(
  folder: PathLike,
  nodes: np.ndarray,
  edges: EdgeList,
  labels: ArrayLike,
  train_mask: ArrayLike,
  valid_mask: ArrayLike,
  test_mask: ArrayLike,
  *,
  relations: np.ndarray | None = None,
  num_relations: int | None = None,
  undirected: bool = False,
  task: str | None = None,
  num_classes: int | None = None,
) -> None:
  """Writes the folder; it is there whole or not at all.

  Args:
    folder: to be made; none may be there.
    nodes: numbers [n, f]; a `numpy.memmap` is read in pieces.
    edges: the list of edges in pieces, from sender to receiver; `edge_list`
      makes it of a file.
    labels: as of `custom.node_dataset`.
    train_mask: booleans or 0 and 1 [n], the nodes to train on.
    valid_mask: booleans or 0 and 1 [n], those to validate on.
    test_mask: booleans or 0 and 1 [n], those to test on.
    relations: integers [e] from 0, the kind of each edge of the list; None for
      one kind. A `numpy.memmap` is read in pieces.
    num_relations: R, the highest relation plus one by default.
    undirected: edges are listed once; the other direction is added, and
      duplicates are removed. That of relation r is relation r + R.
    task: 'classification' or 'regression'; by default as the labels' type says.
    num_classes: the highest label plus one by default.

  Raises:
    DataError: the folder is there or cannot be made, or an array is of another
      type, shape or value than that; names the first such edge or node.
  """
  folder = pathlib.Path(folder).expanduser()
  name = str(folder)
  if folder.exists():
    raise DataError(f'{name} is there already; name a folder to be made.')
  targets, chosen = own_arrays.labels_for(labels, task, name, 'node')
  classes = own_arrays.count_classes(targets, chosen, num_classes, name)
  arrays: dict[str, Any] = {'labels': targets}
  masks = dict(zip(SPLITS, (train_mask, valid_mask, test_mask), strict=True))
  for split, mask in masks.items():
    field = f'{split}_mask'
    arrays[field] = own_arrays.mask(mask, field, name)
  nodes = own_arrays.as_array(nodes, 'nodes', name)
  if nodes.ndim != 2 or nodes.dtype.kind not in 'fiub' or not nodes.shape[1]:
    raise DataError(
      f'{name}: nodes is {nodes.dtype} {nodes.shape}; expected numbers [nodes, '
      'features].'
    )
  count = len(nodes)
  kinds = _relations(relations, num_relations, name)
  small = NodeDataset(
    np.zeros((count, 1), np.float32),
    *[np.zeros(0, np.int32)] * 2,
    **arrays,
    num_classes=classes,
    source={},
    task=chosen,  # pyrefly: ignore
  )
  small.check(name)
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
      dir=folder.parent, prefix=f'.{folder.name}-'
    ) as part:
      place = pathlib.Path(part) / 'whole'
      place.mkdir()
      for field, array in arrays.items():
        np.save(place / f'{field}.npy', array)
      _write_nodes(place, nodes, name)
      found = _Edges(edges, kinds, count, undirected, name)
      num_edges = _write_edges(place, found)
      manifest = {
        'version': _VERSION,
        'num_nodes': count,
        'num_features': nodes.shape[1],
        'num_edges': num_edges,
        'num_classes': classes,
        'task': chosen,
        'counts': {s: int(arrays[f'{s}_mask'].sum()) for s in SPLITS},
        'sha256': {
          field: _digest(place / f'{field}.npy')
          for field in (*_ARRAYS, *(() if kinds is None else (_RELATIONS,)))
        },
      }
      if kinds is not None:
        manifest['num_relations'] = found.num_relations
      text = json.dumps(manifest, indent=2, sort_keys=True)
      (place / MANIFEST).write_text(f'{text}\n')
      os.rename(place, folder)
  except OSError as error:
    reason = error.strerror or error
    raise DataError(f'{name} cannot be made ({reason}).') from error


def _mapped(path: pathlib.Path, kind: Any, shape: tuple[int, ...]) -> Any:
  """A new npy file, mapped into memory; its room on the disk is taken."""
  made = np.lib.format.open_memmap(path, 'w+', kind, shape)
  store.allocate(path)
  return made


def _write_nodes(place: pathlib.Path, nodes: np.ndarray, name: str) -> None:
  made = _mapped(place / 'nodes.npy', np.float32, nodes.shape)
  rows = max(_PIECE // nodes.shape[1], 1)
  for start in range(0, len(nodes), rows):
    with np.errstate(over='ignore'):
      piece = np.asarray(nodes[start : start + rows], np.float32)
    if not np.isfinite(piece).all():
      row = start + int(np.argmax(~np.isfinite(piece).all(axis=1)))
      raise DataError(f'{name}: node {row} has a feature that is not finite.')
    made[start : start + rows] = piece
  made.flush()


class _Edges(NamedTuple):
  """An edge list and what it is to become.

  Attributes:
    pieces: of the list.
    relations: int [e], of its edges, and how many there are; or None.
    num_nodes: n.
    undirected: the other direction is to be added.
    name: of the folder, for messages.
  """

  pieces: EdgeList
  relations: tuple[np.ndarray, int] | None
  num_nodes: int
  undirected: bool
  name: str

  @property
  def num_relations(self) -> int:
    """Relations of what is written, 1 for one kind of edge."""
    if self.relations is None:
      return 1
    return self.relations[1] * (2 if self.undirected else 1)


def _relations(
  relations: Any, count: int | None, name: str
) -> tuple[np.ndarray, int] | None:
  """Checked relations, not copied, and their number; None for one kind."""
  if relations is None:
    own_arrays.relations_of(None, count, name)
    return None
  array = own_arrays.as_array(relations, _RELATIONS, name)
  if array.ndim != 1 or array.dtype.kind not in 'iu':
    raise DataError(
      f'{name}: relations is {array.dtype} {array.shape}; expected integers '
      '[edges].'
    )
  low, high = int(array.min(initial=0)), int(array.max(initial=0))
  if count is None:
    count = high + 1
  if low < 0 or high >= count or count > _MOST_RELATIONS:
    raise DataError(
      f'{name}: relations are {low} to {high}; expected 0 to '
      f'{min(count, _MOST_RELATIONS) - 1}.'
    )
  return array, count


def _write_edges(place: pathlib.Path, edges: _Edges) -> int:
  """Writes senders, receivers and indptr; returns the number of edges."""
  count, name = edges.num_nodes, edges.name
  degree = np.zeros(count, np.int64)
  for _, receivers, _ in _checked(edges):
    degree += np.bincount(receivers, minlength=count)
  indptr = np.concatenate([[0], np.cumsum(degree)])
  total = int(indptr[-1])

  def room(file: str, kind: Any) -> np.ndarray:
    path = place.parent / file
    made = np.memmap(path, kind, 'w+', shape=(max(total, 1),))
    store.allocate(path)
    return made

  scratch, kinds = room('edges', np.int32), None
  if edges.relations is not None:
    kinds = room('kinds', np.int32)
  next_place = indptr[:-1].copy()
  for senders, receivers, of in _checked(edges):
    order = np.argsort(receivers, kind='stable')
    ordered = receivers[order]
    ids, first, counts = np.unique(
      ordered, return_index=True, return_counts=True
    )
    within = np.arange(len(ordered)) - np.repeat(first, counts)
    places = next_place[ordered] + within
    if places.size and (places >= indptr[ordered + 1]).any():
      raise DataError(f'{name}: the edges are others in a second pass.')
    scratch[places] = senders[order]
    if kinds is not None:
      kinds[places] = of[order]
    next_place[ids] += counts
  if (next_place != indptr[1:]).any():
    raise DataError(f'{name}: the edges are others in a second pass.')
  sorted_to = _sorted_once(scratch, kinds, indptr, drop=edges.undirected)
  indptr = sorted_to if edges.undirected else indptr
  total = int(indptr[-1])
  fields = {'senders': scratch, 'receivers': None}
  if kinds is not None:
    fields[_RELATIONS] = kinds
  out = {
    field: _mapped(place / f'{field}.npy', np.int32, (total,))
    for field in fields
  }
  for low, high in _pieces(indptr):
    start, stop = indptr[low], indptr[high]
    for field, source in fields.items():
      if source is not None:
        out[field][start:stop] = source[start:stop]
    out['receivers'][start:stop] = np.repeat(
      np.arange(low, high, dtype=np.int32), np.diff(indptr[low : high + 1])
    )
  for array in out.values():
    array.flush()
  np.save(place / 'indptr.npy', indptr)
  return total


def _sorted_once(
  scratch: np.ndarray,
  kinds: np.ndarray | None,
  indptr: np.ndarray,
  *,
  drop: bool,
) -> np.ndarray:
  """Sorts the edges of each receiver in place, and drops equal ones.

  Args:
    scratch: senders.
    kinds: relations, which come first in the order; None for one kind.
    indptr: edges of each receiver.
    drop: leave one of equal edges.

  Returns:
    The indptr of what is left, which lies at the front.
  """
  counts = np.diff(indptr)
  done = 0
  for low, high in _pieces(indptr):
    start, stop = indptr[low], indptr[high]
    owner = np.repeat(np.arange(high - low, dtype=np.int64), counts[low:high])
    keys = (owner << 32) | np.asarray(scratch[start:stop])
    if kinds is None:
      keys = np.unique(keys) if drop else np.sort(keys)
    else:
      of = np.asarray(kinds[start:stop])
      order = np.lexsort((keys & 0xFFFFFFFF, of, owner))
      keys, of = keys[order], of[order]
      if drop and len(keys):
        new = (keys[1:] != keys[:-1]) | (of[1:] != of[:-1])
        new = np.concatenate([[True], new])
        keys, of = keys[new], of[new]
      kinds[done : done + len(of)] = of
    counts[low:high] = np.bincount(keys >> 32, minlength=high - low)
    scratch[done : done + len(keys)] = keys & 0xFFFFFFFF
    done += len(keys)
  return np.concatenate([[0], np.cumsum(counts)])


def _pieces(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
  """Ranges of nodes with so many edges, or of one node with more."""
  low, count = 0, len(indptr) - 1
  while low < count:
    high = int(np.searchsorted(indptr, indptr[low] + _PIECE, 'right')) - 1
    high = min(max(high, low + 1), count)
    yield low, high
    low = high


def _checked(
  edges: _Edges,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Senders, receivers and relations in pieces; both ways if undirected."""
  done, count, name = 0, edges.num_nodes, edges.name
  of, kinds = edges.relations or (None, 1)
  for piece in edges.pieces():
    piece = np.asarray(piece)
    if piece.ndim != 2 or len(piece) != 2 or piece.dtype.kind not in 'iu':
      raise DataError(
        f'{name}: edges are {piece.dtype} {piece.shape}; expected integers '
        '[2, edges].'
      )
    outside = ((piece < 0) | (piece >= count)).any(axis=0)
    if outside.any():
      edge = int(np.argmax(outside))
      ends = piece[:, edge].tolist()
      raise DataError(
        f'{name}: edge {done + edge} goes from node {ends[0]} to {ends[1]}; '
        f'the nodes are 0 to {count - 1}.'
      )
    size = piece.shape[1]
    here = np.zeros(size, np.int32)
    if of is not None:
      here = np.asarray(of[done : done + size], np.int32)
      _check_count(of, done + size, name, more=True)
    done += size
    senders, receivers = piece.astype(np.int32)
    yield senders, receivers, here
    if edges.undirected:
      yield receivers, senders, here + kinds
  if of is not None:
    _check_count(of, done, name, more=False)


def _check_count(
  relations: np.ndarray, num_edges: int, name: str, *, more: bool
) -> None:
  wrong = num_edges > len(relations) if more else num_edges != len(relations)
  if wrong:
    raise DataError(
      f'{name}: there are {len(relations)} relations for '
      f'{num_edges}{" edges or more" if more else " edges"}.'
    )


def edge_list(path: PathLike) -> EdgeList:
  """The edges of a file, in pieces.

  Args:
    path: npy file, integers [2, e] or [e, 2]; or text, as of `edge_text`; or a
      folder of its shards, see `lorap_jax.prepare`.

  Raises:
    DataError: no such file; or, when it is read, another content.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    record = prepared.read_manifest(path)['record']
    if record.get('kind') != edge_text.KIND:
      raise DataError(f'{path} is no folder of edges, but of {record}.')
    return lambda: (part['edges'].T for part in prepared.shards(path, record))
  if not path.is_file():
    raise DataError(f'{path}: no such file.')
  if path.suffix == '.npy':
    try:
      array = np.load(path, mmap_mode='r')
    except ValueError as error:
      raise DataError(f'{path} is no npy file of numbers: {error}') from error
    if array.ndim != 2 or 2 not in array.shape:
      raise DataError(
        f'{path} has shape {array.shape}; expected [2, edges] or [edges, 2].'
      )
    both = array if len(array) == 2 else array.T
    return lambda: (
      np.array(both[:, start : start + _PIECE])
      for start in range(0, both.shape[1], _PIECE)
    )
  return lambda: edge_text.pieces(path)


def open_folder(folder: PathLike) -> NodeDataset:
  """Opens a folder that `write` made; its arrays stay on disk.

  Features, labels and edges were checked when they were written. Sizes are
  checked here; contents are not read.

  Args:
    folder: with manifest.json.

  Raises:
    DataError: a file is missing, or its size is not that of the manifest.
  """
  folder = pathlib.Path(folder).expanduser()
  manifest = _read_manifest(folder)
  n, e = manifest['num_nodes'], manifest['num_edges']
  is_class = manifest['task'] == 'classification'
  expected: dict[str, Any] = {
    'nodes': ('float32', (n, manifest['num_features'])),
    'senders': ('int32', (e,)),
    'receivers': ('int32', (e,)),
    'indptr': ('int64', (n + 1,)),
    'labels': ('int32' if is_class else 'float32', (n,)),
    **{f'{split}_mask': ('bool', (n,)) for split in SPLITS},
  }
  if _RELATIONS in manifest['sha256']:
    expected[_RELATIONS] = ('int32', (e,))
  arrays: dict[str, Any] = {}
  for field, (kind, shape) in expected.items():
    path = folder / f'{field}.npy'
    try:
      arrays[field] = np.load(path, mmap_mode='r' if shape[0] else None)
    except (OSError, ValueError, EOFError) as error:
      raise DataError(f'{path} cannot be opened: {error}.') from error
    there = (arrays[field].dtype, arrays[field].shape)
    if there != (np.dtype(kind), shape):
      raise DataError(
        f'{path} is {there[0]} {there[1]}; {folder / MANIFEST} says {kind} '
        f'{shape}. Write the folder again.'
      )
  ends = arrays['indptr'][[0, -1]].tolist()
  if ends != [0, e] or manifest['num_classes'] < 1:
    raise DataError(
      f'{folder} is damaged: indptr goes from {ends[0]} to {ends[1]} for {e} '
      f'edges, num_classes is {manifest["num_classes"]}. Write it again.'
    )
  source = {
    'name': folder.name,
    'origin': 'file',
    'files': [str(folder)],
    'sha256': manifest['sha256'],
    'counts': manifest['counts'],
    'subset': False,
    'comparable': False,
    'note': f'own data: {folder}',
  }
  return NodeDataset(
    **arrays,
    num_classes=manifest['num_classes'],
    source=source,
    task=manifest['task'],
    num_relations=manifest.get('num_relations'),
  )


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / MANIFEST
  try:
    manifest = json.loads(store.read_bytes(path))
    whole = ('num_nodes', 'num_features', 'num_edges', 'num_classes')
    good = (
      manifest['version'] == _VERSION
      and all(type(manifest[key]) is int for key in whole)
      and manifest['task'] in ('classification', 'regression')
      and set(manifest['sha256']) - {_RELATIONS} == set(_ARRAYS)
      and (_RELATIONS in manifest['sha256']) == ('num_relations' in manifest)
      and type(manifest.get('num_relations', 1)) is int
      and set(manifest['counts']) == set(SPLITS)
    )
  except (ValueError, KeyError, TypeError) as error:
    raise DataError(f'{path} is damaged or missing: {error!s:.200}') from error
  if not good:
    raise DataError(
      f'{path} is not of version {_VERSION}; write the folder again.'
    )
  return manifest


def check_digests(folder: PathLike) -> None:
  """Reads all files of a folder and compares their digests.

  Raises:
    DataError: a file is not what was written, or missing.
  """
  folder = pathlib.Path(folder).expanduser()
  for field, digest in _read_manifest(folder)['sha256'].items():
    path = folder / f'{field}.npy'
    if not path.is_file() or _digest(path) != digest:
      raise DataError(f'{path} is not what was written; write it again.')


def _digest(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
