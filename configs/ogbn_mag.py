"""ogbn-mag as the graph of its papers and citations, node classification.

    python train.py --config=configs/ogbn_mag.py:gcn,a2q,gpf_lorap

Authors, institutions and fields of study are left out: their nodes have no
features. The network is that of ogbn-arxiv, which is ours: what the LoRAP paper
trained is not known (it lists 34.2 %).
"""

from ml_collections import config_dict

from configs import ogbn


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  return ogbn.create('ogbn_mag', cell)
