"""The files of Cora, CiteSeer and PubMed: found in a folder or downloaded.

Source of the data: Z. Yang, W. Cohen, R. Salakhutdinov, "Revisiting
Semi-Supervised Learning with Graph Embeddings" (ICML 2016). The digests are
those of the files of github.com/kimiyoung/planetoid (MIT) at commit af6abf4.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

from lorap_jax.data.files import store, unpickle
from lorap_jax.data.files.store import AbsentDataError, DataError

_REPOSITORY = 'kimiyoung/planetoid'
_COMMIT = 'af6abf468a772cc055bec88c52e4d6f51b7c37e3'
MIRRORS = (
  f'https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/data/',
  f'https://github.com/{_REPOSITORY}/raw/master/data/',
)
# Folders that common tools put the files in, below the one that is given.
_FOLDERS = ('', '{name}', '{name}/raw', '{title}', '{title}/raw', 'planetoid')


class Statistics(NamedTuple):
  """What is known of a data set.

  Attributes:
    title: name of the data set in print.
    nodes: number of nodes; the numbers of `features`, `classes`, `unlabelled`
      nodes and of nodes to `train`, `valid` and `test` likewise.
    edges: undirected edges without self loops.
    self_loops: self loops.
    sha256: `store.arrays_digest` of the arrays of its `NodeDataset`.
  """

  title: str
  nodes: int
  edges: int
  self_loops: int
  features: int
  classes: int
  unlabelled: int
  train: int
  valid: int
  test: int
  sha256: str


PUBLISHED = {
  'cora': Statistics(
    title='Cora',
    nodes=2708,
    edges=5278,
    self_loops=0,
    features=1433,
    classes=7,
    unlabelled=0,
    train=140,
    valid=500,
    test=1000,
    sha256='a04b07d2c8693bb4647c944f9c51d0567f9905b19b54d01403a2d793e5d6fcaa',
  ),
  'citeseer': Statistics(
    title='CiteSeer',
    nodes=3327,
    edges=4552,
    self_loops=124,
    features=3703,
    classes=6,
    unlabelled=15,
    train=120,
    valid=500,
    test=1000,
    sha256='5d7a9cf4446718013285759a25543061790f09666a282847cf958896d349dfe6',
  ),
  'pubmed': Statistics(
    title='PubMed',
    nodes=19717,
    edges=44324,
    self_loops=3,
    features=500,
    classes=3,
    unlabelled=0,
    train=60,
    valid=500,
    test=1000,
    sha256='483cc5e30ab7367eb6844ecd268feda7df495e75fe0c2dfc68aa7a7568dacf2b',
  ),
}


class PinnedFile(NamedTuple):
  """One of the eight files: its name, its size and its digest."""

  name: str
  size: int
  sha256: str


def _pinned(name: str, table: str) -> tuple[PinnedFile, ...]:
  rows = [line.split() for line in table.strip().splitlines()]
  return tuple(
    PinnedFile(f'ind.{name}.{part}', int(size), sha256)
    for part, size, sha256 in rows
  )


# What follows ind.NAME in the file's name, its size and its SHA-256.
FILES = {
  'cora': _pinned(
    'cora',
    """
x 22119 23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab
tx 148025 b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a
allx 257305 9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543
y 4054 94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1
ty 28135 41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad
ally 47959 2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71
graph 59847 58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d
test.index 5000 297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875
""",
  ),
  'citeseer': _pinned(
    'citeseer',
    """
x 31087 d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6
tx 260321 539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21
allx 595021 2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668
y 3014 8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924
ty 24135 55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce
ally 55623 f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95
graph 61987 d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7
test.index 5000 2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4
""",
  ),
  'pubmed': _pinned(
    'pubmed',
    """
x 23172 fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33
tx 405505 4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d
allx 7578385 508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e
y 854 e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3
ty 12135 ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd
ally 224739 0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e
graph 471808 5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9
test.index 6000 b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5
""",
  ),
}


def from_folder(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Finds a data set in a folder.

  Returns:
    The paths of the eight files in the order of `FILES`, or that of NAME.npz.

  Raises:
    DataError: a file is missing.
  """
  title = PUBLISHED[name].title
  found: list[str] = []
  for sub in _FOLDERS:
    place = folder / sub.format(name=name, title=title)
    paths = [place / file.name for file in FILES[name]]
    there = [path.name for path in paths if path.is_file()]
    if len(there) == len(paths):
      return paths
    if (place / f'{name}.npz').is_file():
      return [place / f'{name}.npz']
    found += there
  raise AbsentDataError(
    f'data_dir {folder}: {title} is not complete there (found '
    f'{", ".join(found) or "none of its files"}). Put in it {_wanted(name)}.'
  )


def from_download(
  folder: pathlib.Path, name: str, *, offline: bool
) -> list[pathlib.Path]:
  """Returns the paths of the eight files, downloading those not there.

  Raises:
    DataError: a file cannot be downloaded, or is not there and `offline`.
  """
  remedy = f'put {_wanted(name)} into a folder and give it as data_dir.'
  paths = [folder / file.name for file in FILES[name]]
  missing = [path.name for path in paths if not path.is_file()]
  if offline and missing:
    raise DataError(
      f'{folder}: offline, and {", ".join(missing)} not downloaded before; '
      f'{remedy}'
    )
  for path, file in zip(paths, FILES[name], strict=True):
    if not offline:
      urls = [mirror + file.name for mirror in MIRRORS]
      try:
        store.download(urls, path, sha256=file.sha256, size=file.size)
      except DataError as error:
        raise DataError(f'{error} Or {remedy}') from error
  return paths


def read(paths: list[pathlib.Path], name: str) -> list[Any]:
  """Returns what the eight files hold: seven unpickled values, and a text.

  Raises:
    DataError: a file cannot be read or has not the pinned digest.
  """
  values: list[Any] = []
  for path, file in zip(paths, FILES[name], strict=True):
    content = store.read_file(path, max_size=file.size)
    if file.name.endswith('.test.index'):
      store.check_content(
        content, str(path), sha256=file.sha256, size=file.size
      )
      values.append(content)
    else:
      values.append(
        unpickle.load(content, str(path), sha256=file.sha256, size=file.size)
      )
  return values


def _wanted(name: str) -> str:
  return f'{name}.npz or the eight files ' + ', '.join(
    file.name for file in FILES[name]
  )
