"""What the configurations of MNIST and CIFAR-10 superpixels share.

    python train.py --config=configs/mnist.py:gcn,a2q,lorap

Sources: see `configs/mnist.py`. No configuration by itself.
"""

from ml_collections import config_dict

from configs import cells, default

# A2Q's rates of bits, feature, message and weight scales, memory weight and
# target (github.com/weihai-98/A-2Q). RGCN, which sums first as GIN does, has
# GIN's; that is ours.
_A2Q = {
  ('gcn', 'mnist'): (0.001, 0.001, 0.01, 0.001, 0.001, 1.0),
  ('gin', 'mnist'): (1e-4, 0.005, 0.005, 5e-4, 5e-5, 0.1),
  ('gat', 'mnist'): (0.01, 0.01, 0.01, 1e-4, 2e-4, 1.0),
  ('gcn', 'cifar10'): (3e-4, 0.01, 0.01, 0.001, 2e-4, 1.0),
  ('gin', 'cifar10'): (2e-4, 0.01, 0.01, 0.001, 2e-4, 0.1),
  ('gat', 'cifar10'): (5e-4, 0.01, 0.01, 0.001, 2e-5, 1.0),
}


def create(name: str, cell: str) -> config_dict.ConfigDict:
  """The configuration of a cell on one of the two data sets.

  Args:
    name: `mnist` or `cifar10`.
    cell: see `configs.cells`.

  Returns:
    A configuration.
  """
  config = default.get_config()
  config.data.name = f'{name}_superpixels'
  quantizer = cells.apply(config, cell)
  model = config.model
  model.normalize_pooled = True
  if model.name in ('gcn', 'gat'):
    model.self_loops = model.name == 'gat'
  if model.name != 'gin':
    model.norm = True
    model.residual = True
    model.features = 146 if model.name == 'gcn' else 152
  if quantizer == 'a2q':
    rates = _A2Q['gin' if model.name == 'rgcn' else model.name, name]
    optim, scheme = config.optim, config.scheme
    optim.feature_bits_lr, optim.feature_scale_lr = rates[:2]
    optim.message_scale_lr, optim.weight_scale_lr = rates[2:4]
    scheme.memory_weight, scheme.memory_target = rates[4:]
    # 4 bits of the raw features cost 2.6 points on MNIST (docs/experiments.md).
    model.encoder_operand = 'int8'
  if quantizer.startswith('dq'):
    config.scheme.stride = 16
  if quantizer.startswith('qat'):
    config.scheme.stride = 16
  if quantizer == 'mixq':
    config.scheme.candidates = (4, 8)
  return config
