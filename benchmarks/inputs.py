"""Graphs of the shapes of known data sets, made with a fixed seed."""

import numpy as np
from ml_collections import config_dict

from lorap_jax.data import DataError, DataSplits, NodeDataset
from lorap_jax.data.containers.node_dataset import both_directions
from lorap_jax.data.sets import custom
from lorap_jax.runs import settings

# Nodes, undirected edges, falling exponent of the expected degrees, features,
# share of them that is not 0, classes, training, validation, test nodes.
_SHAPES = {
  'cora': (2708, 5278, 0.6, 1433, 0.0127, 7, 140, 500, 1000),
  'pubmed': (19717, 44324, 0.45, 500, 0.1, 3, 60, 500, 1000),
  'arxiv': (169343, 1157799, 0.68, 128, 1.0, 40, 90941, 29799, 48603),
}
_SENT = 8  # Edges that a superpixel sends.
_ANSWERS = 1.6  # Exponent that gives discussions hubs like REDDIT's.
_SPACE = 7  # Dimensions that give 8 neighbours the in-degrees of superpixels.


def node_data(
  name: str, scale: float = 1.0, density: float = 1.0
) -> NodeDataset:
  """A graph with power-law degrees and random features and labels.

  Args:
    name: `cora`, `pubmed` or `arxiv`, for the shapes.
    scale: of the numbers of nodes and edges.
    density: a further factor of the number of edges.
  """
  *sizes, exponent, features, share, classes, train, valid, test = _SHAPES[name]
  num_nodes, pairs, *counts = (
    int(scale * count) for count in (*sizes, train, valid, test)
  )
  pairs = int(density * pairs)
  rng = np.random.default_rng(0)
  nodes = rng.standard_normal((num_nodes, features), np.float32)
  if share < 1:
    nodes *= rng.random((num_nodes, features), np.float32) < share
  part = np.repeat([0, 1, 2, 3], [*counts, num_nodes - sum(counts)])
  rng.shuffle(part)
  return custom.node_dataset(
    nodes,
    *power_law(rng, num_nodes, pairs, exponent),
    np.append(
      np.arange(classes), rng.integers(0, classes, num_nodes - classes)
    ),
    part == 0,
    part == 1,
    part == 2,
    name=f'{name}, synthetic',
  )


def power_law(
  rng: np.random.Generator, num_nodes: int, pairs: int, exponent: float
) -> tuple[np.ndarray, np.ndarray]:
  """Undirected edges whose ends are drawn with probabilities rank^-exponent.

  Args:
    rng: source.
    num_nodes: n.
    pairs: undirected edges, without loops and repetitions.
    exponent: of the fall.

  Returns:
    Senders and receivers [2 pairs], sorted by receiver.
  """
  share = rng.permutation(np.arange(1, num_nodes + 1) ** -exponent)
  share = np.cumsum(share / share.sum())
  keys = np.zeros(0, np.int64)
  while len(keys) < pairs:
    ends = np.searchsorted(share, rng.random((2, pairs))).clip(0, num_nodes - 1)
    low, high = ends.min(0), ends.max(0)
    new = (low * num_nodes + high)[low != high]
    keys = np.unique(np.concatenate([keys, new]))
  keys = rng.permutation(keys)[:pairs]
  return both_directions(*np.divmod(keys, num_nodes), num_nodes)


def superpixels(num_train: int, num_rest: int = 8) -> DataSplits:
  """Graphs like those of MNIST: 9,062 nodes and 72,496 edges in 128.

  Each node sends to its 8 nearest neighbours, so that in-degrees vary.

  Args:
    num_train: training graphs.
    num_rest: validation graphs, and test graphs.
  """
  rng = np.random.default_rng(0)
  split = np.repeat([0, 1, 2], [num_train, num_rest, num_rest])
  which = np.arange(len(split))
  n_node = 70 + np.diff((which[:, None] + [0, 1]) * 102 // 128)[:, 0]
  receivers = []
  for count in n_node:
    at = rng.standard_normal((count, _SPACE), np.float32)
    distance = np.square(at[:, None] - at[None]).sum(-1)
    nearest = np.argpartition(distance, _SENT, axis=1)[:, : _SENT + 1]
    others = nearest[nearest != np.arange(count)[:, None]]
    receivers.append(others)
  return custom.graph_splits(
    rng.random((n_node.sum(), 3), np.float32),
    np.concatenate([np.repeat(np.arange(n), _SENT) for n in n_node]),
    np.concatenate(receivers),
    n_node,
    _SENT * n_node,
    which % 10,
    split,
    name='superpixels, synthetic',
  )


def discussions(num_train: int = 128) -> DataSplits:
  """Graphs like those of REDDIT-BINARY: few edges, large hubs.

  Args:
    num_train: training graphs; 128 have 63,000 nodes and 147,000 edges.
  """
  rng = np.random.default_rng(0)
  n_node = np.exp(rng.normal(0, 1.1, num_train + 2))
  n_node = (num_train * 485 * n_node / n_node[:-2].sum()).astype(int) + 8
  n_node[-2:] = 8
  edges = [_discussion(rng, int(n)) for n in n_node]
  return custom.graph_splits(
    np.ones((n_node.sum(), 1), np.float32),
    np.concatenate([senders for senders, _ in edges]),
    np.concatenate([receivers for _, receivers in edges]),
    n_node,
    [len(senders) for senders, _ in edges],
    np.arange(num_train + 2) % 2,
    np.append(np.zeros(num_train, int), [1, 2]),
    name='discussions, synthetic',
  )


def _discussion(
  rng: np.random.Generator, num_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Every node answers one of a few, and one in five answers another."""
  share = np.arange(1, num_nodes + 1) ** -_ANSWERS
  answered = rng.choice(num_nodes, int(1.22 * num_nodes), p=share / share.sum())
  answering = np.arange(len(answered)) % num_nodes
  other = answered != answering
  return both_directions(answering[other], answered[other], num_nodes)


def real_or(
  made: settings.Data, config: config_dict.ConfigDict, data_dir: str | None
) -> settings.Data:
  """The data of a configuration where the folder has them, else `made`."""
  if data_dir is None:
    return made
  config = config.copy_and_resolve_references()
  config.data.dir, config.data.source = data_dir, 'data_dir'
  try:
    return settings.from_config(config).load_data()
  except (DataError, ValueError, OSError):
    return made


def origin(data: settings.Data) -> str:
  """`real` or `synthetic`, for the tables."""
  return 'synthetic' if data.source['origin'] == 'arrays' else 'real'
