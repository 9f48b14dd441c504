"""Fields that all configurations share, with the defaults of the library."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Default values; a configuration starts here and changes some."""
  config = config_dict.ConfigDict()
  config.seed = 0

  config.data = config_dict.ConfigDict()
  config.data.name = 'mnist_superpixels'
  # Folder with the raw files. Without it: $LORAP_JAX_DATA_DIR.
  config.data.dir = config_dict.placeholder(str)
  # auto, data_dir, download or embedded.
  config.data.source = 'auto'
  config.data.offline = False
  # Processes that build graphs; all cores without it.
  config.data.workers = config_dict.placeholder(int)
  # (train, valid, test) graphs to keep; all without it.
  config.data.limit = config_dict.placeholder(tuple)

  config.model = config_dict.ConfigDict()
  config.model.name = 'gin'
  config.model.features = 110
  config.model.num_layers = 4
  config.model.normalize_pooled = True

  config.scheme = config_dict.ConfigDict()
  config.scheme.name = 'a2q'  # fp32 or a2q.
  config.scheme.bits = 4
  config.scheme.num_groups = 1000
  config.scheme.start = 'data'
  config.scheme.memory_weight = 5e-5
  config.scheme.memory_target = 0.1
  config.scheme.published = False
  config.scheme.exact_range = False

  config.prompt = config_dict.ConfigDict()
  config.prompt.name = 'none'  # none, gpf, gpf_plus, lorap or gpf_lorap.
  config.prompt.placement = 'pre'  # pre, post or bypass.
  config.prompt.num_prompts = 10
  config.prompt.rank = 4
  config.prompt.init = 'zero'
  config.prompt.node_init = 'zero'
  config.prompt.low_rank = 'basis'
  config.prompt.bits = 32

  config.optim = config_dict.ConfigDict()
  config.optim.learning_rate = 4e-3
  config.optim.weight_decay = 0.0
  config.optim.prompt_factor = 1.0
  config.optim.prompt_weight_decay = 0.0
  config.optim.feature_scale_lr = 5e-3
  config.optim.feature_bits_lr = 3e-4
  config.optim.message_scale_lr = 5e-3
  config.optim.weight_scale_lr = 5e-4

  config.train = config_dict.ConfigDict()
  config.train.epochs = 30
  # Epochs on the embedded subset, which has 32 steps per epoch, not 430.
  config.train.subset_epochs = 60
  config.train.batch_size = 128
  config.train.schedule = 'cosine'  # cosine, plateau or constant.
  config.train.warmup = 0.05  # Share of the run, for cosine.
  config.train.patience = 5  # Epochs, for plateau.
  # Training batches that renew batch norm's statistics before an evaluation.
  config.train.settle_batches = 30
  return config
