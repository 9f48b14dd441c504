"""ZINC-12k: constrained solubility of 12,000 molecules, regression.

    python train.py --config=configs/zinc.py:gcn,a2q,gpf_lorap

GCN: embedding of the atom type in full precision, four layers of width 145
with batch norm, ReLU and residual, no self loops, mean pooling, two-layer
readout, L1 loss, batch 256, Adam .001, 200 epochs, halving on a plateau of 10
epochs (github.com/weihai-98/A-2Q, with its quantizer rates). GIN and GAT have
the same frame; it is ours.

Expected: published A2Q GCN .492 at 3.68 bits, FP32 .450 (mean absolute error).
"""

from ml_collections import config_dict

from configs import cells, default


def get_config(cell: str = 'gcn,a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of a cell, see `configs.cells`."""
  config = default.get_config()
  config.data.name = 'zinc'
  quantizer = cells.apply(config, cell)
  model, train = config.model, config.train
  model.encoder = 'embedding'
  model.features = 144 if model.name == 'gat' else 145
  if model.name in ('gcn', 'gat'):
    model.self_loops = model.name == 'gat'
  if model.name != 'gin':
    model.norm = True
  model.residual = True
  config.optim.learning_rate = 1e-3
  train.batch_size = 256
  train.epochs = 200
  train.schedule = 'plateau'
  train.patience = 10
  if quantizer == 'a2q':
    config.optim.feature_bits_lr = 0.001
    config.optim.feature_scale_lr = 0.01
    config.optim.message_scale_lr = 0.05
    config.optim.weight_scale_lr = 0.001
    config.scheme.memory_weight = 0.01
    config.scheme.memory_target = 1.0
  if quantizer == 'mixq':
    config.scheme.candidates = (4, 8)
  return config
