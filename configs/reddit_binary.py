r"""REDDIT-BINARY: 2,000 discussion graphs, two classes, 10 folds.

    python train.py --config=configs/reddit_binary.py:gin,dq4,gpf_lorap \
      --config.folds=10

GIN: five layers of width 64, MLP Linear-ReLU-Linear-ReLU and batch norm, mean
pooling, two-layer readout with dropout .5, batch 128, 200 epochs, halving every
50 (github.com/camlsys/degree-quant, github.com/weihai-98/A-2Q). Rates: FP32 and
A2Q .01; Degree-Quant 4 bits .001, decay 4e-5, low .1; 8 bits .005, decay 2e-4;
QAT .005 (ours; published .05 and .005). Degree-Quant's percentiles look at
every 16th node (ours), some 4,000 of a batch, which takes half the time. The
epoch is chosen by validation loss, as published. GCN and GAT have the same
frame; it is ours.

The one node feature is the normalised degree; the first Linear, which it
enters, is not quantized, as published.

Expected: published DQ 4 bits 81.3, A2Q 90.8 at 3.50 bits, FP32 92.2 (accuracy
in %, ten folds; A2Q's on the best test epoch). About 5 s per epoch
and CPU core in FP32, 7 s quantized.
"""

from ml_collections import config_dict

from configs import cells, default


def get_config(cell: str = 'gin,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  config = default.get_config()
  config.data.name = 'reddit_binary'
  quantizer = cells.apply(config, cell)
  model, optim, train = config.model, config.optim, config.train
  model.encoder = 'none'
  model.features = 64
  model.num_layers = 5
  if model.name == 'gin':
    model.mlp_norm = 'last'
    model.full_precision_first = True
  else:
    model.norm = True
  model.dropout = 0.0
  model.readout = 2
  model.readout_dropout = 0.5
  optim.learning_rate = 0.01
  train.epochs = 200
  train.schedule = 'step'
  train.step_epochs = 50
  train.settle_batches = 0
  train.selection = 'val_loss'
  if quantizer == 'a2q':
    optim.feature_bits_lr = 0.008
    optim.feature_scale_lr = 0.02
    optim.message_scale_lr = 0.01
    optim.weight_scale_lr = 0.02
    config.scheme.memory_weight = 1e-3
    config.scheme.memory_target = 1.0
  if quantizer.startswith('dq'):
    config.scheme.stride = 16
  if quantizer == 'dq4':
    optim.learning_rate = 0.001
    optim.weight_decay = 4e-5
    config.scheme.low = 0.1
    config.scheme.protected_points = ('message', 'neighbor_sum', 'update')
  if quantizer == 'dq8':
    optim.learning_rate = 0.005
    optim.weight_decay = 2e-4
    config.scheme.protected_points = ('message', 'neighbor_sum', 'update')
  if quantizer.startswith('qat'):
    optim.learning_rate = 0.005
    optim.weight_decay = 2e-4 if quantizer == 'qat8' else 4e-5
  if quantizer == 'mixq':
    optim.weight_decay = 2e-4
    train.step_epochs = 25
    model.pool = 'max'
    config.scheme.candidates = (8, 16)
  return config
