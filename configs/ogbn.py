"""What the configurations of ogbn-arxiv and ogbn-mag share.

    python train.py --config=configs/ogbn_arxiv.py:gcn,dq8,lorap

Sources: see `configs/ogbn_arxiv.py` and `configs/ogbn_mag.py`. No configuration
by itself.
"""

from ml_collections import config_dict

from configs import cells, default


def create(name: str, cell: str) -> config_dict.ConfigDict:
  """The configuration of a cell on one of the two data sets.

  Args:
    name: `ogbn_arxiv` or `ogbn_mag`.
    cell: see `configs.cells`.

  Returns:
    A configuration.
  """
  config = default.get_config()
  config.data.name = name
  quantizer = cells.apply(config, cell)
  model, train = config.model, config.train
  model.features = 256
  model.num_layers = 3
  if model.name != 'gin':
    model.norm = True
  model.dropout = 0.5
  config.optim.learning_rate = 0.01
  train.epochs = 100
  train.schedule = 'constant'
  train.plots = False
  if name == 'ogbn_mag':
    model.num_layers = 2
    train.fanout = (25, 20)
    train.batch_size = 1024
    train.unlabelled = 0  # Of the papers 85 % are in the training split.
    train.epochs = 10
  else:
    train.together = 1  # One seed fills the memory.
  if quantizer == 'a2q':
    config.optim.feature_bits_lr = 0.01
    config.optim.feature_scale_lr = 0.01
    config.optim.weight_scale_lr = 0.001
    if model.name == 'gat':
      config.optim.message_scale_lr = 0.01
    else:
      config.scheme.quantize_messages = False
    config.scheme.memory_weight = 1e-4
    config.scheme.memory_target = 5.0
  if quantizer == 'mixq':
    config.scheme.candidates = (4, 8)
    train.pretrain_epochs = train.epochs
    train.finetune_lr = 1e-4
  return config
