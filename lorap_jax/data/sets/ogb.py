"""ogbn-arxiv and ogbn-mag on OGB's split by time.

Text is parsed once: the arrays are cached, keyed by the digests of the files.
Reading the papers of ogbn-mag takes about 2 GB of memory; with all relations
the arrays alone have 1.5 GB, and sorting the edges some more.

Only papers of ogbn-mag have features. With all relations the other nodes get
means of them: authors over their papers, fields of study over the papers on
them, institutions over their authors. OGB's own baseline for MAG240M makes
those of authors and institutions in the same way (github.com/snap-stanford/ogb,
examples/lsc/mag240m/rgnn.py); fields of study by this rule are ours. Four more
columns say of which kind a node is. OGB's example for ogbn-mag trains an
embedding of each of these nodes instead; that is not here.

Source of the data: see `ogb_files`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from scipy import sparse

from lorap_jax.data.containers import node_dataset
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.containers.splits import SPLITS
from lorap_jax.data.files import csv_table, sources, store
from lorap_jax.data.files.csv_table import Table
from lorap_jax.data.files.store import DataError, PathLike
from lorap_jax.data.sets import ogb_files
from lorap_jax.data.sets.ogb_files import Counts, OgbFiles, OgbTables

_CODE_VERSION = 1  # Raise it when the same files give other arrays.


def load_ogbn_arxiv(
  *,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  expect: Counts | None = ogb_files.ARXIV.published,
  cache_dir: PathLike | None = None,
) -> NodeDataset:
  """Loads ogbn-arxiv with its citations in both directions.

  `auto` takes the files in `data_dir` if it is given (then a missing or damaged
  file is an error), else the downloaded archive, without asking.

  Args:
    source: 'auto', or the one source to use: 'data_dir', 'download'.
    data_dir: folder with arxiv.zip, or with raw/ and split/ as the zip has
      them; also in arxiv/ or ogbn_arxiv/.
    offline: whether to use a downloaded archive only if it is there already.
    expect: sizes that the data must have; None takes any, for small files of
      the same layout, whose results are then not comparable.
    cache_dir: folder for downloads and arrays; `store.cache_dir()` by default.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or of the wrong size.
  """
  return _load(ogb_files.ARXIV, source, data_dir, offline, expect, cache_dir)


def load_ogbn_mag(
  *,
  relations: bool = False,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  expect: Counts | None = ogb_files.MAG.published,
  cache_dir: PathLike | None = None,
) -> NodeDataset:
  """Loads the papers of ogbn-mag with their citations in both directions.

  Authors, institutions and fields of study are left out, so that one kind of
  node and one kind of edge remain, unless `relations`. Then papers come first,
  authors, fields of study and institutions behind them, and the relations are
  affiliated_with, writes, cites and has_topic, 0 to 3, and their reverses, 4 to
  7. Features: see the module.

  Args:
    relations: all kinds of nodes and edges.
    source: 'auto', or the one source to use: 'data_dir', 'download'; as for
      `load_ogbn_arxiv`.
    data_dir: folder with mag.zip, or with raw/ and split/ as the zip has them;
      also in mag/ or ogbn_mag/.
    offline: whether to use a downloaded archive only if it is there already.
    expect: sizes that the data must have; None takes any.
    cache_dir: folder for downloads and arrays; `store.cache_dir()` by default.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or of the wrong size.
  """
  layout = ogb_files.MAG_RELATIONS if relations else ogb_files.MAG
  return _load(layout, source, data_dir, offline, expect, cache_dir)


def _load(
  layout: OgbTables,
  source: str,
  data_dir: PathLike | None,
  offline: bool,
  expect: Counts | None,
  cache_dir: PathLike | None,
) -> NodeDataset:
  folder = sources.choose_folder(source, data_dir)
  cache = pathlib.Path(cache_dir or store.cache_dir()) / 'ogb'
  if folder is None:
    origin = 'download'
    files = ogb_files.from_download(cache, layout, offline=offline)
  else:
    origin = 'data_dir'
    files = ogb_files.from_folder(folder, layout)
  sha256 = {
    layout.files[key]: store.content_digest(table.content)
    for key, table in files.tables.items()
  }
  arrays, counts = _cached_arrays(files, layout, expect, sha256, cache)
  where = f'{layout.name} in {files.place}'
  _check_counts(counts._asdict(), expect, where)
  others = _others(arrays, layout)
  if expect == layout.published:
    _check_others(others, layout, where)
  comparable = (counts, others) == (layout.published, layout.others)
  warning = '' if comparable else 'NOT the published data, other sizes; '
  record = {
    'name': layout.name,
    'origin': origin,
    'files': files.paths,
    'sha256': sha256,
    'counts': {**counts._asdict(), **dict(others)},
    'subset': False,
    'comparable': comparable,
    'note': f'{warning}{where} from {origin}; {layout.limits}',
  }
  given: dict[str, Any] = dict(arrays)
  if layout.relations:
    given['num_relations'] = 2 * len(layout.relations)
  data = NodeDataset(
    **given, num_classes=counts.classes, source=record, task='classification'
  )
  data.check(where)
  return data


def _cached_arrays(
  files: OgbFiles,
  layout: OgbTables,
  expect: Counts | None,
  sha256: dict[str, str],
  cache: pathlib.Path,
) -> tuple[dict[str, np.ndarray], Counts]:
  """Returns the arrays and sizes, from the cache or parsed and then cached."""
  settings = {'code_version': _CODE_VERSION, 'sha256': sha256}
  key = store.content_digest(json.dumps(settings, sort_keys=True).encode())
  path = cache / f'{key[:32]}.npz'
  if (found := _read_cache(path)) is not None:
    return found
  with store.lock(path):
    if (found := _read_cache(path)) is not None:  # Another process parsed it.
      return found
    if path.exists():
      logging.warning('%s is damaged and is made again.', path)
    arrays, counts = _parse(files.tables, layout, expect)
    try:
      store.save_arrays(path, arrays, {**settings, 'counts': counts._asdict()})
    except OSError as error:
      logging.warning('The parsed arrays could not be cached: %s', error)
  return arrays, counts


def _read_cache(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], Counts] | None:
  try:
    arrays, meta = store.load_arrays(path)
  except DataError:
    return None
  return arrays, Counts(**meta['counts'])


def _parse(
  tables: dict[str, Table], layout: OgbTables, expect: Counts | None
) -> tuple[dict[str, np.ndarray], Counts]:
  """Returns the arrays of the `NodeDataset`, and the sizes as published."""
  column = None if layout is ogb_files.ARXIV else 'paper'
  n = csv_table.read_count(tables['num_nodes'], column)
  e = csv_table.read_count(tables['num_edges'])
  # Before the long work.
  _check_counts({'nodes': n, 'edges': e}, expect, tables['num_nodes'].name)
  edges = csv_table.read_ids(tables['edges'], columns=2, below=n, rows=e)
  labels = csv_table.read_ids(tables['labels'], columns=1, below=n, rows=n)
  splits = {
    split: csv_table.read_ids(tables[split], columns=1, below=n)
    for split in SPLITS
  }
  width = None if expect is None else expect.features
  nodes = csv_table.read_table(
    tables['nodes'], dtype='f4', columns=width, rows=n
  )
  masks = {}
  for split, ids in splits.items():
    masks[f'{split}_mask'] = node_dataset.mask_of(ids[:, 0], n)
    if masks[f'{split}_mask'].sum() != len(ids):
      raise DataError(f'{tables[split].name}: a node is there twice.')
  arrays = {'labels': labels[:, 0].astype(np.int32), **masks}
  if layout.relations:
    arrays = _with_relations(arrays, nodes, edges, tables, layout)
  else:
    ends = node_dataset.both_directions(edges[:, 0], edges[:, 1], n)
    arrays |= {'nodes': nodes, 'senders': ends[0], 'receivers': ends[1]}
  counts = Counts(
    nodes=n,
    edges=e,
    features=nodes.shape[1],
    classes=int(labels.max()) + 1,
    **{split: len(ids) for split, ids in splits.items()},
  )
  return arrays, counts


def _with_relations(
  arrays: dict[str, np.ndarray],
  papers: np.ndarray,
  citations: np.ndarray,
  tables: dict[str, Table],
  layout: OgbTables,
) -> dict[str, np.ndarray]:
  """The arrays of all nodes and edges from those of the papers."""
  kinds = ('paper', *(kind for kind, _ in layout.others))
  sizes = {'paper': len(papers)}
  for kind in kinds[1:]:
    sizes[kind] = csv_table.read_count(tables['num_nodes'], kind)
  ends: dict[str, np.ndarray] = {'cites': citations}
  for sender, name, receiver in layout.relations:
    if name in ends:
      continue
    table = tables[f'edges_{name}']
    rows = csv_table.read_count(tables[f'num_edges_{name}'])
    most = max(sizes[sender], sizes[receiver])
    ends[name] = csv_table.read_ids(table, columns=2, below=most, rows=rows)
    limits = np.array([sizes[sender], sizes[receiver]])
    if (outside := (ends[name] >= limits).any(axis=1)).any():
      raise DataError(
        f'{table.name}: row {int(np.argmax(outside))} names no {sender} or no '
        f'{receiver}.'
      )
  authors = _means(papers, ends['writes'], sizes['author'])
  features = {
    'paper': papers,
    'author': authors,
    'field_of_study': _means(
      papers, ends['has_topic'][:, ::-1], sizes['field_of_study']
    ),
    'institution': _means(
      authors, ends['affiliated_with'][:, ::-1], sizes['institution']
    ),
  }
  starts = np.cumsum([0, *(sizes[kind] for kind in kinds)])
  start = dict(zip(kinds, starts.tolist(), strict=False))
  width = papers.shape[1]
  nodes = np.zeros((starts[-1], width + len(kinds)), np.float32)
  for i, kind in enumerate(kinds):
    rows = nodes[starts[i] : starts[i + 1]]
    rows[:, :width] = features[kind]
    rows[:, width + i] = 1
  of_each = [
    ends[name] + (start[sender], start[receiver])
    for sender, name, receiver in layout.relations
  ]
  count, both = len(of_each), np.concatenate(of_each)
  senders, receivers, relations = node_dataset.both_relations(
    both[:, 0],
    both[:, 1],
    np.repeat(np.arange(count), [len(edges) for edges in of_each]),
    len(nodes),
    count,
  )
  more = len(nodes) - len(papers)
  return {
    'nodes': nodes,
    'senders': senders,
    'receivers': receivers,
    'relations': relations,
    'labels': np.pad(arrays['labels'], (0, more), constant_values=-1),
    **{
      f'{split}_mask': np.pad(arrays[f'{split}_mask'], (0, more))
      for split in SPLITS
    },
  }


def _means(values: np.ndarray, edges: np.ndarray, count: int) -> np.ndarray:
  """Mean of values[j] over the edges (i, j) of each of `count` rows i, or 0."""
  rows, columns = edges[:, 0], edges[:, 1]
  entries = np.ones(len(rows), np.float32), (rows, columns)
  matrix = sparse.csr_array(entries, shape=(count, len(values)))
  degree = np.bincount(rows, minlength=count)
  mean = matrix @ values
  mean /= np.maximum(degree, 1).astype(np.float32)[:, None]
  return mean


def _others(
  arrays: Mapping[str, np.ndarray], layout: OgbTables
) -> tuple[tuple[str, int], ...]:
  """Numbers of the nodes that are no papers, by the columns that say so."""
  kinds = [kind for kind, _ in layout.others]
  columns = arrays['nodes'][:, arrays['nodes'].shape[1] - len(kinds) :]
  counts = np.count_nonzero(columns, axis=0).tolist()
  return tuple(zip(kinds, counts, strict=True))


def _check_others(
  found: tuple[tuple[str, int], ...], layout: OgbTables, name: str
) -> None:
  for (kind, count), (_, published) in zip(found, layout.others, strict=True):
    if count != published:
      raise DataError(f'{name}: expected {published} {kind}, found {count}.')


def _check_counts(
  found: Mapping[str, int], expect: Counts | None, name: str
) -> None:
  for key, count in found.items():
    if expect is not None and count != getattr(expect, key):
      raise DataError(
        f'{name}: expected {getattr(expect, key)} {key}, found {count}.'
      )
