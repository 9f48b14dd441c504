"""CIFAR-10 superpixels, any cell.

    python train.py --config=configs/cifar10.py:gcn,a2q,gpf_lorap

Networks: A2Q's (github.com/weihai-98/A-2Q): embedding, four layers, mean
pooling, two-layer readout; GIN of width 110; GCN of 146 without self loops and
GAT of 8 heads of 19, with batch norm, ReLU and residual. Its quantizer rates.
Schedule, learning rate and the norm of the pooled vector: ours, as in
`configs/mnist_a2q_lorap.py`, which is the headline.

Expected: published A2Q GCN 52.5 at 3.32 bits, GAT 64.7 at 3.73, after 200
epochs. About three minutes per epoch and CPU core.
"""

from ml_collections import config_dict

from configs import superpixels


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  return superpixels.create('cifar10', cell)
