"""Data sets on the host: graphs with labels, where from, and how to batch."""

from lorap_jax.data.containers.dataset import DataSplits, GraphDataset
from lorap_jax.data.containers.node_dataset import NodeDataset
from lorap_jax.data.files.store import DataError
from lorap_jax.data.sets.cifar10 import load_cifar10_superpixels
from lorap_jax.data.sets.custom import load_custom
from lorap_jax.data.sets.ogb import load_ogbn_arxiv, load_ogbn_mag
from lorap_jax.data.sets.planetoid import load_planetoid
from lorap_jax.data.sets.pyg import from_pyg
from lorap_jax.data.sets.superpixels import load_mnist_superpixels
from lorap_jax.data.sets.tu import load_tu
from lorap_jax.data.sets.zinc import load_zinc

__all__ = [
  'DataError',
  'DataSplits',
  'GraphDataset',
  'NodeDataset',
  'from_pyg',
  'load_cifar10_superpixels',
  'load_custom',
  'load_mnist_superpixels',
  'load_ogbn_arxiv',
  'load_ogbn_mag',
  'load_planetoid',
  'load_tu',
  'load_zinc',
]
