r"""Graph classification sets of the TUDataset collection, in folds.

The graphs are cut into folds with the classes in equal proportion; fold i is
the test set, fold i - 1 (of fold 0: the last) the validation set, and the rest
the training set, as in the published Degree-Quant code.

A set without node labels and attributes takes the in-degree d of a node as its
feature: one-hot while no degree of the set reaches 1,000, else the one column

  x = (d - mean(d)) / std(d),

mean and unbiased standard deviation over all nodes of all graphs of the set.

Sources: C. Morris et al., "TUDataset: A collection of benchmark datasets for
learning with graphs", 2020; S. A. Tailor et al., "Degree-Quant", ICLR 2021, and
its code camlsys/degree-quant, reddit_binary/dataset.py and train_eval.py.
"""

from __future__ import annotations

import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from lorap_jax.data.containers import limits
from lorap_jax.data.containers.dataset import DataSplits, GraphDataset
from lorap_jax.data.files import sources, store
from lorap_jax.data.files.store import DataError, PathLike
from lorap_jax.data.sets import tu_files
from lorap_jax.data.sets.tu_text import TUGraphs

FEATURES = ('auto', 'degree', 'one_hot_degree', 'attributes', 'labels')
FOLDS = 10
SPLIT_SEED = 12345
_MAX_ONE_HOT = 1000
_MAX_LABELS = 10000


class Statistics(NamedTuple):
  """What is known of a set.

  Attributes:
    class_sizes: graphs of each class, ascending.
    mean_nodes: nodes per graph, to one decimal.
    mean_edges: directed edges per graph, to one decimal.
  """

  class_sizes: tuple[int, ...]
  mean_nodes: float
  mean_edges: float


# Means: documentation of PyTorch Geometric's TUDataset.
PUBLISHED = {
  'MUTAG': Statistics((63, 125), 17.9, 39.6),
  'ENZYMES': Statistics((100,) * 6, 32.6, 124.3),
  'PROTEINS': Statistics((450, 663), 39.1, 145.6),
  'COLLAB': Statistics((775, 1625, 2600), 74.5, 4914.4),
  'IMDB-BINARY': Statistics((500, 500), 19.8, 193.1),
  'REDDIT-BINARY': Statistics((1000, 1000), 429.6, 995.5),
}


def load_tu(
  name: str | None,
  *,
  fold: int,
  num_folds: int | None = None,
  source: str = 'auto',
  data_dir: PathLike | None = None,
  offline: bool = False,
  features: str | None = None,
  split_seed: int | None = None,
  limit: Sequence[int] | None = None,
  cache_dir: PathLike | None = None,
) -> DataSplits:
  """Loads one fold of a graph classification set.

  Args:
    name: name of the set in the collection, as 'REDDIT-BINARY'.
    fold: 0 to `num_folds - 1`, the test fold.
    num_folds: number of folds, at least 3; 10 by default.
    source: 'auto' takes `data_dir` if it is given, else a download;
      'data_dir' and 'download' take that one.
    data_dir: folder with NAME.zip, with its unpacked files, or with an npz
      copy; see `tu_files.from_folder`.
    offline: whether to use a downloaded file only if it is there already.
    features: of the nodes. 'auto', the default: attributes and one-hot labels,
      those that there are, else the rule of the module docstring;
      'attributes' and 'labels': those alone; 'one_hot_degree' and 'degree':
      that branch of the rule.
    split_seed: seed of the folds, from 0 to 2**32 - 1; 12345 by default.
    limit: numbers of training, validation and test graphs to keep; None keeps
      all.
    cache_dir: folder for downloads and parsed graphs; `store.cache_dir()` by
      default.

  Raises:
    ValueError: an argument is not one of those described.
    DataError: a file is missing, damaged or is not that set.
  """
  num_folds = FOLDS if num_folds is None else num_folds
  features = 'auto' if features is None else features
  split_seed = SPLIT_SEED if split_seed is None else split_seed
  name = _check_arguments(name, fold, num_folds, features, split_seed)
  limits.check_limit(limit)
  folder = sources.choose_folder(source, data_dir)
  cache = pathlib.Path(cache_dir or store.cache_dir()) / 'tu'
  if folder is None:
    found = tu_files.from_download(name, offline=offline, cache=cache)
  else:
    found = tu_files.from_folder(folder, name, cache=cache)
  _check_published(found.graphs, name, found.path)
  whole = _split(
    found,
    name,
    fold=fold,
    num_folds=num_folds,
    features=features,
    split_seed=split_seed,
  )
  whole.source['origin'] = 'download' if folder is None else 'data_dir'
  whole = limits.limited(whole, limit, 'graphs')
  return whole


def node_features(
  graphs: TUGraphs, features: str, name: str
) -> tuple[np.ndarray, str]:
  """Makes the features of the nodes.

  Args:
    graphs: all graphs of the set.
    features: one of `FEATURES`; see `load_tu`.
    name: how to call the set in an error message.

  Returns:
    f32[n, f], and what they are: 'degree', 'one_hot_degree', 'attributes',
    'labels' or 'attributes+labels'.

  Raises:
    ValueError: attributes or labels are asked for and there are none.
    DataError: the labels do not look like classes.
  """
  tables = {'labels': graphs.node_labels, 'attributes': graphs.node_attributes}
  if features in tables and not tables[features].shape[1]:
    raise ValueError(
      f'features is {features!r}; {name} has no node {features}.'
    )
  degree = _degrees(graphs)
  kind = _rule(graphs, degree) if features == 'auto' else features
  if kind == 'degree':
    spread = degree.std(ddof=1) or 1.0  # All degrees may be equal.
    return ((degree - degree.mean()) / spread).astype(np.float32)[:, None], kind
  if kind == 'one_hot_degree':
    return _one_hot(degree, int(degree.max()) + 1), kind
  columns = []
  if 'attributes' in kind:
    columns.append(graphs.node_attributes)
  if 'labels' in kind:
    columns += [_one_hot_label(labels, name) for labels in graphs.node_labels.T]
  return np.concatenate(columns, axis=1), kind


def fold_indices(
  labels: np.ndarray, fold: int, num_folds: int, seed: int
) -> dict[str, np.ndarray]:
  """Returns the graphs of each split, ascending.

  Args:
    labels: [g] classes.
    fold: test fold.
    num_folds: number of folds.
    seed: seed of the shuffle before the cut.
  """
  # Late: the import takes a second.
  from sklearn.model_selection import StratifiedKFold

  cut = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
  with warnings.catch_warnings():  # Of rare classes; `_split` says it.
    warnings.filterwarnings('ignore', 'The least populated class')
    tests = [test for _, test in cut.split(labels, labels)]
  test, valid = tests[fold], tests[fold - 1]
  train = np.setdiff1d(np.arange(len(labels)), np.concatenate([test, valid]))
  return {'train': train, 'valid': valid, 'test': test}


def _check_arguments(
  name: str | None, fold: int, num_folds: int, features: str, split_seed: int
) -> str:
  # The name becomes part of paths and of an address.
  if name is None or not re.fullmatch('[A-Za-z0-9_-]+', name):
    raise ValueError(
      f"name is {name!r}; give the name of a set, as 'REDDIT-BINARY'."
    )
  if num_folds < 3:
    raise ValueError(f'num_folds is {num_folds}; give 3 or more.')
  if not 0 <= fold < num_folds:
    raise ValueError(f'fold is {fold}; choose one of 0 to {num_folds - 1}.')
  if features not in FEATURES:
    raise ValueError(f'features is {features!r}; choose one of {FEATURES}.')
  if not 0 <= split_seed < 1 << 32:  # What scikit-learn takes.
    raise ValueError(
      f'split_seed is {split_seed}; choose one of 0 to {(1 << 32) - 1}.'
    )
  return name


def _check_published(graphs: TUGraphs, name: str, where: str) -> None:
  if (published := PUBLISHED.get(name)) is None:
    return
  found = Statistics(
    tuple(sorted(np.bincount(graphs.labels).tolist())),
    round(float(graphs.n_node.mean()), 1),
    round(float(graphs.n_edge.mean()), 1),
  )
  if found != published:
    raise DataError(
      f'{where}: this is not the published {name}: expected {published}, found '
      f'{found}.'
    )


def _split(
  found: tu_files.Found,
  name: str,
  *,
  fold: int,
  num_folds: int,
  features: str,
  split_seed: int,
) -> DataSplits:
  graphs = found.graphs
  nodes, kind = node_features(graphs, features, name)
  data = GraphDataset(
    nodes=nodes,
    senders=graphs.senders,
    receivers=graphs.receivers,
    n_node=graphs.n_node,
    n_edge=graphs.n_edge,
    labels=graphs.labels,
  )
  data.check(found.path)
  sizes = np.bincount(graphs.labels)
  largest, smallest = int(sizes.max()), int(sizes[sizes > 0].min())
  if num_folds > largest:
    raise ValueError(
      f'num_folds is {num_folds}; the largest class of {name} has {largest} '
      'graphs.'
    )
  if num_folds > smallest:
    logging.warning(
      '%s: a class has %d graphs, fewer than the %d folds, and is missing in '
      'some of them.',
      *(name, smallest, num_folds),
    )
  chosen = fold_indices(graphs.labels, fold, num_folds, split_seed)
  parts: dict[str, Any] = {
    key: data.take(indices) for key, indices in chosen.items()
  }
  published = _rule(
    graphs._replace(node_attributes=graphs.node_attributes[:, :0]),
    _degrees(graphs),
  )
  record = {
    'name': name,
    'files': [found.path],
    'sha256': found.sha256,
    'counts': {key: part.num_graphs for key, part in parts.items()},
    'fold': fold,
    'num_folds': num_folds,
    'split_seed': split_seed,
    'features': kind,
    'subset': False,
    'comparable': (kind, num_folds, split_seed)
    == (published, FOLDS, SPLIT_SEED),
    'note': (
      f'{name} from {found.path}, fold {fold} of {num_folds}; node features: '
      f'{kind}'
    ),
    'mean_nodes': float(graphs.n_node.mean()),
    'mean_edges': float(graphs.n_edge.mean()),
  }
  num_classes = int(graphs.labels.max()) + 1
  return DataSplits(
    **parts, num_classes=num_classes, source=record, task='classification'
  )


def _rule(graphs: TUGraphs, degree: np.ndarray) -> str:
  """Returns the features that 'auto' means for these graphs."""
  tables = {'attributes': graphs.node_attributes, 'labels': graphs.node_labels}
  given = [key for key, table in tables.items() if table.shape[1]]
  if given:
    return '+'.join(given)
  return 'one_hot_degree' if degree.max() < _MAX_ONE_HOT else 'degree'


def _degrees(graphs: TUGraphs) -> np.ndarray:
  """Returns the in-degree of every node, i64[n]."""
  starts = np.cumsum(graphs.n_node) - graphs.n_node
  receivers = graphs.receivers + np.repeat(starts, graphs.n_edge)
  return np.bincount(receivers, minlength=int(graphs.n_node.sum()))


def _one_hot(values: np.ndarray, size: int) -> np.ndarray:
  """Returns f32[n, size] with a one in the column that each value names."""
  table = np.zeros((len(values), size), np.float32)
  table[np.arange(len(values)), values] = 1
  return table


def _one_hot_label(labels: np.ndarray, name: str) -> np.ndarray:
  """Returns a column for each integer between the lowest and the highest."""
  lowest, size = int(labels.min()), int(np.ptp(labels)) + 1
  if size > _MAX_LABELS:
    raise DataError(
      f'{name}: node labels go from {lowest} to {lowest + size - 1}; over '
      f"{_MAX_LABELS} of them are no classes. Set features to 'degree', "
      "'one_hot_degree' or, where there are, 'attributes'."
    )
  return _one_hot(labels - lowest, size)
