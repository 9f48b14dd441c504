"""MNIST superpixels, GIN, A2Q with GPF-LoRAP: the headline configuration.

    python train.py --config=configs/mnist_a2q_lorap.py
    python train.py --config=configs/mnist_a2q_lorap.py:published
    python train.py --config=configs/mnist_a2q_lorap.py:smoke

Recipes: `fast` (ours, the default) warms up, anneals along a cosine from a
larger learning rate, normalises the pooled vector, renews batch norm's
statistics before each evaluation, has integer prompts and 8 bits for the raw
features that enter the encoder; in its last epochs it is evaluated as the
integers that it exports. `published` is A2Q's: Adam at 1e-3, halved on a
plateau of the validation loss, 200 epochs, uniform start of the scales, the
published arithmetic. `smoke` is a small network on few digits, for a look and
for the tests.

Hyper-parameters of the quantizers: A2Q's for GIN on MNIST (memory weight
5e-5, target 0.1 KiB, bit rate 1e-4, scale rates 5e-3, 5e-3, 5e-4), from its
README, github.com/weihai-98/A-2Q; `fast` has a bit rate of 3e-4, because it
takes a seventh of the steps.

References:
  Liu, Li, Rossi: LoRAP: Low-Rank Aggregation Prompting for Quantized Graph
  Neural Networks Training, 2026, arXiv 2601.15079.
  Zhu et al.: A2Q: Aggregation-Aware Quantization for Graph Neural Networks,
  ICLR 2023, arXiv 2302.00193.
"""

from ml_collections import config_dict

from configs import cells, default

RECIPES = ('fast', 'published', 'smoke')


def get_config(recipe: str = 'fast') -> config_dict.ConfigDict:
  """The configuration of a recipe.

  Args:
    recipe: `fast`, `published` or `smoke`.

  Returns:
    A configuration.

  Raises:
    ValueError: another recipe.
  """
  cells.check_choice('recipe', recipe, RECIPES)
  config = default.get_config()
  config.model.normalize_pooled = True
  # 4 bits of the raw features cost 2.6 points (docs/experiments.md).
  config.model.encoder_operand = 'int8'
  config.prompt.name = 'gpf_lorap'
  config.prompt.bits = 8
  config.optim.feature_bits_lr = 3e-4
  # What is validated in the end are the integers that are exported.
  config.train.integer_epochs = 10
  config.train.export = True
  if recipe == 'published':
    config.model.normalize_pooled = False
    config.model.encoder_operand = None
    config.scheme.start = 'uniform'
    config.scheme.published = True
    config.prompt.bits = None
    config.optim.learning_rate = 1e-3
    config.optim.feature_bits_lr = 1e-4
    config.train.epochs = 200
    config.train.schedule = 'plateau'
    config.train.settle_batches = 0
    config.train.integer_epochs = None
    config.train.export = None
  if recipe == 'smoke':
    config.data.source = 'embedded'
    config.data.limit = (256, 64, 64)
    config.model.features = 16
    config.model.num_layers = 2
    config.scheme.num_groups = 100
    config.train.epochs = 3
    config.train.integer_epochs = 2
    config.train.batch_size = 32
  return config
