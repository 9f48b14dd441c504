"""The data sets, by the name that a configuration gives."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lorap_jax import data as data_lib

SOURCES = ('auto', 'data_dir', 'download', 'embedded')

# name -> loader, and the fields of config.data that it takes besides `source`,
# `data_dir` and `offline`.
_LOADERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
  'mnist_superpixels': (
    data_lib.load_mnist_superpixels,
    ('workers', 'limit', 'normalize'),
  ),
  'cifar10_superpixels': (
    data_lib.load_cifar10_superpixels,
    ('workers', 'limit', 'normalize'),
  ),
  'zinc': (data_lib.load_zinc, ('limit',)),
  'reddit_binary': (
    functools.partial(data_lib.load_tu, 'REDDIT-BINARY'),
    ('fold', 'limit', 'features', 'num_folds', 'split_seed'),
  ),
  'tu': (
    data_lib.load_tu,
    ('tu_name', 'fold', 'limit', 'features', 'num_folds', 'split_seed'),
  ),
  'cora': (functools.partial(data_lib.load_planetoid, 'cora'), ('normalize',)),
  'citeseer': (
    functools.partial(data_lib.load_planetoid, 'citeseer'),
    ('normalize',),
  ),
  'pubmed': (
    functools.partial(data_lib.load_planetoid, 'pubmed'),
    ('normalize',),
  ),
  'ogbn_arxiv': (data_lib.load_ogbn_arxiv, ()),
  'ogbn_mag': (data_lib.load_ogbn_mag, ()),
  'custom': (data_lib.load_custom, ('path',)),
}
_RENAMED = {'tu_name': 'name'}


def check(values: Mapping[str, Any]) -> None:
  """Refuses a name or a source that does not exist.

  Args:
    values: fields of config.data.

  Raises:
    ValueError: names the field, its value and what is allowed.
  """
  for name, allowed in (('name', tuple(_LOADERS)), ('source', SOURCES)):
    if values[name] not in allowed:
      raise ValueError(
        f'config.data: `{name}` must be one of {allowed}, got {values[name]!r}'
      )


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
  loader, fields = _LOADERS[values['name']]
  given = {_RENAMED.get(name, name): values[name] for name in fields}
  if values['name'] == 'custom':
    if given['path'] is None:
      raise ValueError('config.data: `path` is missing; name an npz file')
    return loader(given['path'])
  return loader(
    source=values['source'],
    data_dir=values['dir'],
    offline=values['offline'],
    **given,
  )
