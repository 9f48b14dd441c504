"""The files of a TUDataset: found or downloaded, read, and kept parsed."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import logging

from lorap_jax.data.files import archives, sources, store
from lorap_jax.data.files.store import AbsentDataError, DataError
from lorap_jax.data.sets import tu_text
from lorap_jax.data.sets.tu_text import TUGraphs

URL = 'https://www.chrsmrrs.com/graphkerneldatasets/'
# SHA-256 of NAME.zip where it is known; of other archives the content is
# checked, and the digest goes into the record.
PINNED = {
  'IMDB-BINARY': (
    '2a4abb6431ec1ab025a6fbcd3b546607191f79a1e0aef0f42cd8bd4ec1546116'
  ),
  'MUTAG': '20f52db82d6d85d5f67d2fa42c3fb705d05934be44329314ab17b05d0c012f7e',
}
_CODE_VERSION = 2  # Raise it when the same files give other arrays.
_MAX_DOWNLOAD = 1 << 30
_PLACES = ('', 'tu', 'raw/tu', 'TUDataset')
_KEYS = (*tu_text.REQUIRED, *tu_text.OPTIONAL)
_NPZ_KEYS = ('n_nodes', 'n_edges', 'edge_src', 'edge_dst', 'y')


class Found(NamedTuple):
  """The graphs of a set, and what they come from.

  Attributes:
    graphs: the arrays, as in the files.
    path: the archive, the folder of text files or the npz file.
    sha256: digests by file name.
  """

  graphs: TUGraphs
  path: str
  sha256: dict[str, str]


def from_folder(
  folder: pathlib.Path, name: str, *, cache: pathlib.Path
) -> Found:
  """Reads NAME.zip, the text files or an npz copy from a folder.

  The npz file, tu_NAME.npz with the name in lower case and underscores, holds
  integers: n_nodes[g] and n_edges[g] per graph; edge_src[e] and edge_dst[e],
  ids inside the graph from 0, each undirected edge once; y[g], the classes; and
  node_label[n] where the set has node labels.

  Args:
    folder: where to look, also in its folders NAME, tu, raw/tu and TUDataset.
    name: name of the set.
    cache: where parsed graphs are kept.

  Raises:
    DataError: nothing is there, or a file is damaged.
  """
  if path := sources.first_file(folder, _PLACES, [f'{name}.zip']):
    return _from_zip(path, name, cache)
  inside = [f'{place}/{name}{sub}' for place in _PLACES for sub in ('', '/raw')]
  places = [part.lstrip('/') for part in inside]
  if path := sources.first_file(folder, ['', *places], [f'{name}_A.txt']):
    return _from_texts(path.parent, name, cache)
  npz = f'tu_{name.lower().replace("-", "_")}.npz'
  if path := sources.first_file(folder, _PLACES, [npz]):
    digest = store.content_digest(store.read_bytes(path))
    graphs = _cached(lambda: _parse_npz(path), {path.name: digest}, cache)
    return Found(graphs, str(path), {path.name: digest})
  raise AbsentDataError(
    f'data_dir {folder}: {name} is not there. Put in it {_wanted(name)} or '
    f'{npz}.'
  )


def from_download(name: str, *, offline: bool, cache: pathlib.Path) -> Found:
  """Reads NAME.zip from the cache folder; downloads it if it is not there.

  Args:
    name: name of the set.
    offline: whether to use a downloaded file only if it is there already.
    cache: folder of the archive and of parsed graphs.

  Raises:
    DataError: it cannot be downloaded, or is not there and `offline`.
  """
  path = cache / f'{name}.zip'
  if not offline:
    store.download_checked(
      [f'{URL}{name}.zip'],
      path,
      check=functools.partial(_check_archive, set_name=name),
      max_size=_MAX_DOWNLOAD,
      remedy=f'put {_wanted(name)} into a folder and give it as data_dir.',
    )
  elif not path.is_file():
    raise DataError(f'{path}: offline, and not downloaded before.')
  return _from_zip(path, name, cache)


def _wanted(name: str) -> str:
  return f'{name}.zip, {name}_A.txt and the other files of the set'


def _check_archive(content: bytes, where: str, *, set_name: str) -> None:
  store.refuse_web_page(content, where)
  expected = PINNED.get(set_name)
  found = store.content_digest(content)
  if expected is not None and found != expected:
    raise DataError(f'{where}: expected SHA-256 {expected}, found {found}.')
  _texts_of_zip(content, where, set_name)


def _texts_of_zip(content: bytes, where: str, name: str) -> dict[str, bytes]:
  files = {f'{name}_{key}.txt': key for key in _KEYS}
  members = archives.parse_members(
    content, where, lambda member: member.rpartition('/')[2] in files
  )
  texts = {files[m.rpartition('/')[2]]: text for m, text in members.items()}
  for key in tu_text.REQUIRED:
    if key not in texts:
      raise DataError(f'{where}: {name}_{key}.txt is missing.')
  return texts


def _from_zip(path: pathlib.Path, name: str, cache: pathlib.Path) -> Found:
  content = store.read_bytes(path)
  digests = {path.name: store.content_digest(content)}
  graphs = _cached(
    lambda: tu_text.parse(_texts_of_zip(content, str(path), name), str(path)),
    digests,
    cache,
  )
  return Found(graphs, str(path), digests)


def _from_texts(folder: pathlib.Path, name: str, cache: pathlib.Path) -> Found:
  paths = {key: folder / f'{name}_{key}.txt' for key in _KEYS}
  texts = {
    key: store.read_bytes(path) for key, path in paths.items() if path.is_file()
  }
  digests = {
    paths[key].name: store.content_digest(text) for key, text in texts.items()
  }
  graphs = _cached(lambda: tu_text.parse(texts, str(folder)), digests, cache)
  return Found(graphs, str(folder), digests)


def _cached(
  parse: Callable[[], TUGraphs], digests: dict[str, str], cache: pathlib.Path
) -> TUGraphs:
  """Returns `parse()`, or what it returned for files with these digests."""
  meta = {'code_version': _CODE_VERSION, 'sha256': digests}
  key = store.content_digest(json.dumps(meta, sort_keys=True).encode())
  path = cache / f'{key[:32]}.npz'
  with store.lock(path):
    try:
      return TUGraphs(**store.load_arrays(path)[0])
    except DataError:
      graphs = parse()
    try:
      store.save_arrays(path, graphs._asdict(), meta)
    except OSError as error:
      logging.warning('The graphs could not be cached: %s', error)
  return graphs


def _parse_npz(path: pathlib.Path) -> TUGraphs:
  arrays = store.read_npz(path)
  for key in _NPZ_KEYS:
    if key not in arrays:
      raise DataError(
        f'{path}: {key} is missing; expected the arrays {_NPZ_KEYS}.'
      )
  for key in (*_NPZ_KEYS, 'node_label'):
    array = arrays.get(key, np.zeros(0, int))
    if array.dtype.kind not in 'iu' or array.ndim != 1:
      raise DataError(
        f'{path}: {key} is {array.dtype} of shape {array.shape}; expected '
        'integers of one axis.'
      )
  n_node, n_edge, senders, receivers, labels = (
    arrays[key].astype(np.int64) for key in _NPZ_KEYS
  )
  _check_npz(n_node, n_edge, senders, receivers, labels, str(path))
  first = np.repeat(np.cumsum(n_node) - n_node, n_edge)
  node_labels = arrays.get('node_label')
  return tu_text.assemble(
    str(path),
    n_node=n_node,
    senders=senders + first,
    receivers=receivers + first,
    labels=labels,
    node_labels=None if node_labels is None else node_labels.reshape(-1, 1),
  )


def _check_npz(
  n_node: np.ndarray,
  n_edge: np.ndarray,
  senders: np.ndarray,
  receivers: np.ndarray,
  labels: np.ndarray,
  name: str,
) -> None:
  """Checks what `tu_text.assemble` cannot see in numbers of the whole set."""
  lengths = {len(n_node), len(n_edge), len(labels)}
  ends = {int(n_edge.sum()), len(senders), len(receivers)}
  if len(lengths) > 1 or len(ends) > 1 or (n_edge < 0).any():
    raise DataError(
      f'{name}: the arrays do not fit together: {len(n_node)} n_nodes, '
      f'{len(n_edge)} n_edges with the sum {n_edge.sum()}, {len(senders)} '
      f'edge_src, {len(receivers)} edge_dst, {len(labels)} y.'
    )
  sizes = np.repeat(n_node, n_edge)
  outside = (np.minimum(senders, receivers) < 0) | (
    np.maximum(senders, receivers) >= sizes
  )
  if outside.any():
    raise DataError(
      f'{name}: edge {int(np.argmax(outside))} has an id outside its graph.'
    )
