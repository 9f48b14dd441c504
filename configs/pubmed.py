r"""PubMed: 19,717 papers, public split, transductive node classification.

    python train.py --config=configs/pubmed.py:gcn,a2q,gpf_lorap \
      --config.seeds=10

Backbones and optimiser: A2Q's for PubMed (GCN: two layers of width 16,
dropout .5, Adam .01, decay .01, 200 epochs; GIN: width 16, decay .01, dropout
.5; GAT:
8 heads of 8, feature and attention dropout .6, decay .001, 250 epochs), and its
quantizer rates, from github.com/weihai-98/A-2Q. MixQ has its own host: width
128, dropout .5, decay 2e-4, row-normalised features, 50 epochs in full
precision and 50 quantized at 1e-3, from github.com/SamirMoustafa/MixQ. QAT and
Degree-Quant: A2Q's host; the ranges are ours.

Expected: see the README's results. A minute for ten seeds on two CPU cores.
"""

from ml_collections import config_dict

from configs import planetoid


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  return planetoid.create('pubmed', cell)
