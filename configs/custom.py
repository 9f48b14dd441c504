r"""Your own data, from an npz file (see `lorap_jax/data/custom.py`).

    python train.py --config=configs/custom.py:gcn,dq8,lorap \
      --config.data.path=my.npz

Pool and encoder follow from the file: none of them where nodes have labels, a
dense encoder and mean pooling where graphs have. Ours.
"""

from ml_collections import config_dict

from configs import cells, default


def get_config(cell: str = 'gcn,dq8,lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  config = default.get_config()
  config.data.name = 'custom'
  quantizer = cells.apply(config, cell)
  config.model.num_layers = 2
  config.model.features = 64
  config.model.dropout = 0.5
  config.optim.learning_rate = 0.01
  config.optim.weight_decay = 5e-4
  config.train.epochs = 200
  config.train.schedule = 'constant'
  if quantizer == 'a2q':
    config.scheme.target_bits = 3.0  # Means the same on all data.
  return config
