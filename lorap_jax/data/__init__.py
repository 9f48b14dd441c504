"""Graph data sets on the host: download, check, build, cache."""

from lorap_jax.data.dataset import DataSplits, GraphDataset
from lorap_jax.data.store import DataError
from lorap_jax.data.superpixels import load_mnist_superpixels

__all__ = ['DataError', 'DataSplits', 'GraphDataset', 'load_mnist_superpixels']
