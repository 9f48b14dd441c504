"""The data sets, by the name that a configuration gives."""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lorap_jax import data as data_lib
from lorap_jax.data.containers import limits
from lorap_jax.data.sets import stored

DATA_DIR_VARIABLE = 'LORAP_JAX_DATA_DIR'

# Fields of config.data besides `name`, and what they are if they are not set.
FIELDS: dict[str, Any] = {
  'dir': None,
  'source': 'auto',
  'offline': False,
  'workers': None,
  'limit': None,
  'fold': 0,
  'features': 'auto',
  'num_folds': 10,
  'split_seed': 12345,
  'normalize': 'none',
  'tu_name': None,
  'path': None,
  'relations': False,
}
_FILES = ('dir', 'source', 'offline')
_RENAMED = {'tu_name': 'name', 'dir': 'data_dir'}
_EPOCHS = 30


class DataSet(NamedTuple):
  """A row of the table of data sets.

  Attributes:
    load: the loader.
    level: what has a label, `node` or `graph`; None if the file says it.
    fields: fields of config.data that the loader takes.
    sources: allowed values of `source`.
    task: `classification` or `regression`; None if the file says it.
    positions: whether features may be places in an image; the data says which.
  """

  load: Callable[..., Any]
  level: str | None
  fields: tuple[str, ...]
  sources: tuple[str, ...] = ('auto', 'data_dir', 'download')
  task: str | None = 'classification'
  positions: bool = False


_TU = (*_FILES, 'fold', 'limit', 'features', 'num_folds', 'split_seed')
_SUPERPIXELS = (*_FILES, 'workers', 'limit', 'normalize')


def _planetoid(name: str) -> DataSet:
  load = functools.partial(data_lib.load_planetoid, name)
  return DataSet(load, 'node', (*_FILES, 'normalize'))


DATASETS: dict[str, DataSet] = {
  'mnist_superpixels': DataSet(
    data_lib.load_mnist_superpixels,
    'graph',
    _SUPERPIXELS,
    ('auto', 'data_dir', 'download', 'embedded'),
    positions=True,
  ),
  'cifar10_superpixels': DataSet(
    data_lib.load_cifar10_superpixels,
    'graph',
    _SUPERPIXELS,
    positions=True,
  ),
  'zinc': DataSet(
    data_lib.load_zinc, 'graph', (*_FILES, 'limit'), task='regression'
  ),
  'reddit_binary': DataSet(
    functools.partial(data_lib.load_tu, 'REDDIT-BINARY'),
    'graph',
    _TU,
  ),
  'tu': DataSet(data_lib.load_tu, 'graph', (*_TU, 'tu_name')),
  'cora': _planetoid('cora'),
  'citeseer': _planetoid('citeseer'),
  'pubmed': _planetoid('pubmed'),
  'ogbn_arxiv': DataSet(data_lib.load_ogbn_arxiv, 'node', _FILES),
  'ogbn_mag': DataSet(data_lib.load_ogbn_mag, 'node', (*_FILES, 'relations')),
  'custom': DataSet(
    data_lib.load_custom, None, ('path',), task=None, positions=True
  ),
}


def check_name(name: str) -> None:
  """Refuses a data set that does not exist."""
  if name not in DATASETS:
    raise ValueError(
      f'config.data: `name` must be one of {tuple(DATASETS)}, got {name!r}'
    )


def check(values: Mapping[str, Any]) -> None:
  """Refuses what makes no data set.

  Args:
    values: fields of config.data.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  check_name(values['name'])
  row = DATASETS[values['name']]
  source = values['source']
  if source is not None and 'source' in row.fields:
    if source not in row.sources:
      raise ValueError(
        f'config.data: `source` must be one of {row.sources}, got {source!r}'
      )
    if source == 'data_dir' and folder(values) is None:
      raise ValueError(
        "config.data: `source` is 'data_dir', but no folder is named; give "
        f'--config.data.dir=FOLDER or set ${DATA_DIR_VARIABLE}'
      )
  if values['dir'] and 'dir' in row.fields:
    if not pathlib.Path(values['dir']).expanduser().is_dir():
      raise ValueError(
        f'config.data: `dir`: no such folder {values["dir"]!r}; give the one '
        'with the raw files, or leave it out'
      )
  if values['limit'] is not None and 'limit' in row.fields:
    try:
      limits.check_limit(values['limit'])
    except ValueError as error:
      raise ValueError(f'config.data: `limit`: {error}') from error
  if 'tu_name' in row.fields and not values['tu_name']:
    raise ValueError(
      'config.data: `tu_name` is missing; for example --config.data.'
      'tu_name=MUTAG'
    )
  if 'path' in row.fields:
    _check_path(values['path'])


def _check_path(path: str | None) -> None:
  remedy = (
    'give --config.data.path=FILE.npz or a FOLDER of `python -m '
    'lorap_jax.convert`, see lorap_jax/data/sets/custom.py'
  )
  if not path:
    raise ValueError(f'config.data: `path` is missing; {remedy}')
  place = pathlib.Path(path).expanduser()
  if not (place.is_file() or (place / stored.MANIFEST).is_file()):
    raise ValueError(f'config.data: `path`: no file {path!r}; {remedy}')


def folder(values: Mapping[str, Any]) -> str | None:
  """The folder with the raw files: that of the user, or the variable's."""
  return values['dir'] or os.environ.get(DATA_DIR_VARIABLE)


def level(values: Mapping[str, Any]) -> str:
  """What has a label in a data set, `node` or `graph`.

  Args:
    values: fields of config.data.

  Raises:
    ValueError: own data that cannot be read.
  """
  row = DATASETS[values['name']]
  if row.level is not None:
    return row.level
  _check_path(values['path'])
  return _own(values['path']).level


def defaults(values: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of config.data with the values in force."""
  return {
    name: FIELDS.get(name) if value is None else value
    for name, value in values.items()
  }


def default_epochs(data: data_lib.DataSplits | data_lib.NodeDataset) -> int:
  """Epochs of a run that sets none: 30, or 60 on the embedded digits.

  These have 32 batches per epoch, not 430.
  """
  return 2 * _EPOCHS if data.source['origin'] == 'embedded' else _EPOCHS


def load(
  values: Mapping[str, Any],
) -> data_lib.DataSplits | data_lib.NodeDataset:
  """Loads the data set of a configuration.

  Args:
    values: fields of config.data.

  Returns:
    Splits of graphs, or one graph with split nodes.

  Raises:
    ValueError: the data cannot be had, or a field it needs is missing.
  """
  row = DATASETS[values['name']]
  if values['name'] == 'custom':
    return _own(values['path'])
  values = {**FIELDS, **defaults(values)}
  given = {name: values[name] for name in row.fields}
  if 'dir' in given:
    given['dir'] = folder(values)
  try:
    return row.load(**{_RENAMED.get(n, n): v for n, v in given.items()})
  except ValueError as error:
    # The loaders say what their argument is called.
    text = re.sub(r"(?<!')\bdata_dir\b(?!')", '--config.data.dir', str(error))
    raise type(error)(text) from error


def _own(path: str) -> Any:
  """The user's file; read once, for its level and for the run."""
  place = pathlib.Path(path).expanduser().absolute()
  return _read(str(place), place.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(path: str, changed: int) -> Any:
  del changed
  return data_lib.load_custom(path)
