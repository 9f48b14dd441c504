r"""Your own data, from an npz file (see `lorap_jax/data/custom.py`).

    python train.py --config=configs/custom.py:gcn,dq8,lorap \
      --config.data.path=my.npz

The network fits a node task; for graphs set `--config.model.pool=mean
--config.model.encoder=dense`. Ours.
"""

from ml_collections import config_dict

from configs import cells, default


def get_config(cell: str = 'gcn,dq8,lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  config = default.get_config()
  config.data.name = 'custom'
  config.data.path = ''
  cells.apply(config, cell, node_task=True)
  config.model.encoder = 'none'
  config.model.pool = 'none'
  config.model.num_layers = 2
  config.model.features = 64
  config.model.dropout = 0.5
  config.optim.learning_rate = 0.01
  config.optim.weight_decay = 5e-4
  config.train.epochs = config.train.subset_epochs = 200
  config.train.schedule = 'constant'
  return config
