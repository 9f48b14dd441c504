"""ogbn-arxiv: 169,343 papers, time split, node classification.

    python train.py --config=configs/ogbn_arxiv.py:gcn,a2q,gpf_lorap

GCN: three layers of width 256, batch norm, dropout .5, Adam .01, 100 epochs;
A2Q's rates, its messages left in full precision as published
(github.com/weihai-98/A-2Q). MixQ: 4 or 8 bits. GIN and GAT have the same frame;
it is ours. The graph is symmetrised.

Expected: published A2Q GCN 71.1 at 2.65 bits, FP32 71.7. Needs 8 GB of memory.
"""

from ml_collections import config_dict

from configs import ogbn


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  return ogbn.create('ogbn_arxiv', cell)
