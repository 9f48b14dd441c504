"""The files of ogbn-arxiv and ogbn-mag: found or downloaded.

Source of the data and of the sizes: W. Hu et al., "Open Graph Benchmark:
Datasets for Machine Learning on Graphs" (NeurIPS 2020). OGB publishes no
digests of its archives; those below are what other projects found, so that
another one is no more than a reason to warn.
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

from absl import logging

from lorap_jax.data.files import archives, store
from lorap_jax.data.files.csv_table import Table
from lorap_jax.data.files.store import AbsentDataError, DataError

MIRRORS = ('https://snap.stanford.edu/ogb/data/nodeproppred/',)
_MAX_ARCHIVE = 1 << 30  # ogbn-mag has 0.4 GB.


class Counts(NamedTuple):
  """Sizes of a data set; `edges` are directed, as in the file."""

  nodes: int
  edges: int
  features: int
  classes: int
  train: int
  valid: int
  test: int


class OgbTables(NamedTuple):
  """A data set of OGB and its files.

  Attributes:
    name: name in OGB.
    archive: name of the zip, without suffix, and of the folder in it.
    archive_sha256: digest of the zip.
    files: path of each table below that folder.
    published: sizes of the published data.
    limits: what the loader leaves out or changes.
    relations: kind of the sender, name and kind of the receiver of each kind of
      edge, in OGB's order; none where one kind of edge is read.
    others: published numbers of the nodes that are no papers, by their kind.
  """

  name: str
  archive: str
  archive_sha256: str
  files: dict[str, str]
  published: Counts
  limits: str
  relations: tuple[tuple[str, str, str], ...] = ()
  others: tuple[tuple[str, int], ...] = ()


ARXIV = OgbTables(
  name='ogbn-arxiv',
  archive='arxiv',
  archive_sha256=(
    '49f85c801589ecdcc52cfaca99693aaea7b8af16a9ac3f41dd85a5f3193fe276'
  ),
  files={
    'num_nodes': 'raw/num-node-list.csv.gz',
    'num_edges': 'raw/num-edge-list.csv.gz',
    'edges': 'raw/edge.csv.gz',
    'nodes': 'raw/node-feat.csv.gz',
    'labels': 'raw/node-label.csv.gz',
    'train': 'split/time/train.csv.gz',
    'valid': 'split/time/valid.csv.gz',
    'test': 'split/time/test.csv.gz',
  },
  published=Counts(
    nodes=169343,
    edges=1166243,
    features=128,
    classes=40,
    train=90941,
    valid=29799,
    test=48603,
  ),
  limits='citations in both directions',
)
MAG = OgbTables(
  name='ogbn-mag',
  archive='mag',
  archive_sha256=(
    '2afe62ead87f2c301a7398796991d347db85b2d01c5442c95169372bf5a9fca4'
  ),
  files={
    'num_nodes': 'raw/num-node-dict.csv.gz',
    'num_edges': 'raw/relations/paper___cites___paper/num-edge-list.csv.gz',
    'edges': 'raw/relations/paper___cites___paper/edge.csv.gz',
    'nodes': 'raw/node-feat/paper/node-feat.csv.gz',
    'labels': 'raw/node-label/paper/node-label.csv.gz',
    'train': 'split/time/paper/train.csv.gz',
    'valid': 'split/time/paper/valid.csv.gz',
    'test': 'split/time/paper/test.csv.gz',
  },
  published=Counts(
    nodes=736389,
    edges=5416271,
    features=128,
    classes=349,
    train=629571,
    valid=64879,
    test=41939,
  ),
  limits=(
    'papers only (no authors, institutions or fields of study), citations in '
    'both directions; compares with results on that homogeneous graph'
  ),
)


_TRIPLETS = (
  ('author', 'affiliated_with', 'institution'),
  ('author', 'writes', 'paper'),
  ('paper', 'cites', 'paper'),
  ('paper', 'has_topic', 'field_of_study'),
)


def _of_relation(triplet: tuple[str, str, str], name: str) -> str:
  return f'raw/relations/{"___".join(triplet)}/{name}.csv.gz'


# Numbers of nodes: those in the documentation of PyTorch Geometric, page
# torch_geometric.datasets.OGB_MAG. Layout: `read_csv_heterograph_raw` of OGB
# (github.com/snap-stanford/ogb, ogb/io/read_graph_raw.py).
MAG_RELATIONS = MAG._replace(
  files={
    **MAG.files,
    # Those of citations are there already.
    **{
      f'{key}_{t[1]}': _of_relation(t, name)
      for t in _TRIPLETS
      for key, name in (('num_edges', 'num-edge-list'), ('edges', 'edge'))
      if t[1] != 'cites'
    },
  },
  limits=(
    'all nodes and edges, each direction a relation of its own; nodes without '
    "features have the mean of their neighbours', and each node says its kind"
  ),
  relations=_TRIPLETS,
  others=(
    ('author', 1134649),
    ('field_of_study', 59965),
    ('institution', 8740),
  ),
)


class OgbFiles(NamedTuple):
  """The tables of a data set, their folder or archive, and what was read."""

  tables: dict[str, Table]
  place: str
  paths: list[str]


def from_folder(folder: pathlib.Path, layout: OgbTables) -> OgbFiles:
  """Reads the files, or the official zip, from a folder.

  Raises:
    DataError: a file is missing, or the zip is damaged.
  """
  found: list[str] = []
  for sub in ('', layout.archive, layout.name.replace('-', '_')):
    paths = {key: folder / sub / file for key, file in layout.files.items()}
    there = [str(path) for path in paths.values() if path.is_file()]
    if len(there) == len(paths):
      tables = {
        key: Table(str(path), store.read_bytes(path))
        for key, path in paths.items()
      }
      return OgbFiles(tables, str(folder / sub), there)
    found += there
  archive = folder / f'{layout.archive}.zip'
  if archive.is_file():
    return _from_archive(archive, layout)
  raise AbsentDataError(
    f'data_dir {folder}: {layout.name} is not complete there (found '
    f'{", ".join(found) or "none of its files"}). Put in it {_wanted(layout)}.'
  )


def from_download(
  folder: pathlib.Path, layout: OgbTables, *, offline: bool
) -> OgbFiles:
  """Reads the official zip, downloading it if it is not there.

  Raises:
    DataError: it cannot be downloaded, or is not there and `offline`.
  """
  path = folder / f'{layout.archive}.zip'
  remedy = f'put {_wanted(layout)} into a folder and give it as data_dir.'
  if offline and not path.is_file():
    raise DataError(f'{path}: offline, and not downloaded before; {remedy}')
  if not offline:
    store.download_checked(
      [mirror + path.name for mirror in MIRRORS],
      path,
      check=functools.partial(_check_archive, layout=layout),
      max_size=_MAX_ARCHIVE,
      remedy=remedy,
    )
  return _from_archive(path, layout)


def _from_archive(path: pathlib.Path, layout: OgbTables) -> OgbFiles:
  content = store.read_bytes(path)
  tables = _unpack(content, str(path), layout)
  if (found := store.content_digest(content)) != layout.archive_sha256:
    logging.warning(
      '%s has SHA-256 %s where others found %s; only its sizes are checked.',
      path,
      found,
      layout.archive_sha256,
    )
  return OgbFiles(tables, str(path), [str(path)])


def _check_archive(content: bytes, name: str, layout: OgbTables) -> None:
  _unpack(content, name, layout)


def _unpack(content: bytes, name: str, layout: OgbTables) -> dict[str, Table]:
  """Returns the tables in a zip, which are in a folder of any name."""
  members = archives.parse_members(
    content, name, lambda member: _inner(member) in layout.files.values()
  )
  tables = {
    _inner(member): Table(f'{name}, {member}', table)
    for member, table in members.items()
  }
  missing = [file for file in layout.files.values() if file not in tables]
  if missing:
    raise DataError(f'{name}: it has no {", ".join(missing)}.')
  return {key: tables[file] for key, file in layout.files.items()}


def _inner(member: str) -> str:
  return member.partition('/')[2]


def _wanted(layout: OgbTables) -> str:
  return f'{layout.archive}.zip or the files ' + ', '.join(
    layout.files.values()
  )
