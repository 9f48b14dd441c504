r"""Any TUDataset, graph classification in 10 folds.

    python train.py --config=configs/tu.py:gin,dq4,lorap \
      --config.data.tu_name=MUTAG --config.folds=10

The network and the rates of `configs/reddit_binary.py`, all layers quantized.
Ours; the papers have REDDIT-BINARY.
"""

from ml_collections import config_dict

from configs import reddit_binary


def get_config(cell: str = 'gin,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  config = reddit_binary.get_config(cell)
  config.data.name = 'tu'
  config.data.tu_name = 'MUTAG'
  config.model.full_precision_first = None
  return config
