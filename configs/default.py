"""Fields that all configurations share, with the defaults of the library."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Default values; a configuration starts here and changes some."""
  config = config_dict.ConfigDict()
  config.seed = 0
  # Runs with seeds seed, seed + 1, ... and folds data.fold, data.fold + 1, ...
  config.seeds = 1
  config.folds = 1
  config.data = _data()
  config.model = _model()
  config.scheme = _scheme()
  config.prompt = _prompt()
  config.optim = _optim()
  config.train = _train()
  return config


def _data() -> config_dict.ConfigDict:
  data = config_dict.ConfigDict()
  data.name = 'mnist_superpixels'
  # Folder with the raw files. Without it: $LORAP_JAX_DATA_DIR.
  data.dir = config_dict.placeholder(str)
  # auto, data_dir, download or (MNIST) embedded.
  data.source = 'auto'
  data.offline = False
  # Processes that build graphs; all cores without it.
  data.workers = config_dict.placeholder(int)
  # (train, valid, test) graphs to keep; all without it.
  data.limit = config_dict.placeholder(tuple)
  data.fold = 0  # TUDatasets: fold whose graphs are the test set.
  # TUDatasets; without them auto, 10 and 12345. auto (the set's own), labels,
  # attributes, degree or one_hot_degree.
  data.features = config_dict.placeholder(str)
  data.num_folds = config_dict.placeholder(int)
  data.split_seed = config_dict.placeholder(int)
  # Planetoid: none or row; superpixels: none, center or standard.
  data.normalize = 'none'
  data.tu_name = config_dict.placeholder(str)  # For the data set `tu`.
  data.path = config_dict.placeholder(str)  # For the data set `custom`.
  return data


def _model() -> config_dict.ConfigDict:
  model = config_dict.ConfigDict()
  model.name = 'gin'  # gcn, gin or gat.
  model.features = 110
  model.num_layers = 4
  model.encoder = 'dense'  # none, dense or embedding.
  # Raw features in front of the dense encoder: signed, non_negative or int8.
  model.encoder_operand = 'signed'
  model.num_types = 28  # Rows of the embedding.
  model.norm = False  # Batch norm after GCN and GAT layers.
  model.residual = False
  model.dropout = 0.0
  model.input_dropout = 0.0
  model.pool = 'mean'  # none (node tasks), mean, sum or max.
  model.normalize_pooled = False
  model.readout = 2
  model.readout_dropout = 0.0
  # GIN.
  model.num_dense = 2
  model.mlp_norm = 'each'  # each, last or none.
  model.own_term = True
  model.full_precision_first = False
  # GCN and GAT.
  model.self_loops = True
  model.self_loop_weight = 1.0
  model.existing_loops = 'remaining'  # remaining or keep.
  # GAT.
  model.heads = 8
  model.last_heads = 1
  model.attention_dropout = 0.0
  model.negative_slope = 0.2
  return model


def _scheme() -> config_dict.ConfigDict:
  """Fields of all schemes; what is not set has the scheme's own default."""
  scheme = config_dict.ConfigDict()
  # fp32, qat, dq, a2q (graph level), a2q_node, or mixq.
  scheme.name = 'a2q'
  scheme.bits = 4
  scheme.published = False
  # QAT and Degree-Quant; `gradient` (clipped or plain) of A2Q too.
  scheme.points = config_dict.placeholder(tuple)
  scheme.symmetric = config_dict.placeholder(bool)
  scheme.per_column = config_dict.placeholder(bool)
  scheme.range_rule = config_dict.placeholder(str)
  scheme.momentum = config_dict.placeholder(float)
  scheme.percentile = config_dict.placeholder(float)
  scheme.sum_percentile = config_dict.placeholder(float)
  scheme.feature_percentile = config_dict.placeholder(float)
  scheme.gradient = config_dict.placeholder(str)
  scheme.edge_messages = config_dict.placeholder(bool)
  scheme.stride = config_dict.placeholder(int)
  # Degree-Quant.
  scheme.low = config_dict.placeholder(float)
  scheme.change = config_dict.placeholder(float)
  scheme.redraw = config_dict.placeholder(bool)
  scheme.protected_points = config_dict.placeholder(tuple)
  # A2Q.
  scheme.num_groups = 1000
  scheme.start = 'data'
  scheme.memory_weight = 5e-5
  scheme.memory_target = 0.1
  scheme.memory_width = config_dict.placeholder(int)
  scheme.exact_range = False
  scheme.quantize_features = config_dict.placeholder(bool)
  scheme.quantize_messages = config_dict.placeholder(bool)
  scheme.node_messages = config_dict.placeholder(bool)
  scheme.weight_start = config_dict.placeholder(tuple)
  scheme.feature_start = config_dict.placeholder(tuple)
  scheme.message_start = config_dict.placeholder(tuple)
  # MixQ.
  scheme.candidates = config_dict.placeholder(tuple)
  scheme.cost_weight = config_dict.placeholder(float)
  # Bits by quantizer; without it a search runs first.
  scheme.assignment = config_dict.placeholder(dict)
  return scheme


def _prompt() -> config_dict.ConfigDict:
  prompt = config_dict.ConfigDict()
  # none, gpf, gpf_plus, lorap, gpf_lorap or gpf_plus_lorap.
  prompt.name = 'none'
  prompt.placement = 'pre'  # pre, post or bypass.
  prompt.num_prompts = 10
  prompt.rank = 4
  prompt.init = 'zero'
  prompt.node_init = 'zero'
  prompt.low_rank = 'basis'
  prompt.bits = 32
  prompt.form = 'lorap'  # lorap, or a control: bias or adapter.
  prompt.objective = 'task'  # task, local or both.
  prompt.implementation = 'xla'  # xla, or pallas: one kernel, on a GPU.
  return prompt


def _optim() -> config_dict.ConfigDict:
  optim = config_dict.ConfigDict()
  optim.learning_rate = 4e-3
  optim.weight_decay = 0.0
  optim.prompt_factor = 1.0
  optim.prompt_weight_decay = 0.0
  optim.feature_scale_lr = 5e-3
  optim.feature_bits_lr = 3e-4
  optim.message_scale_lr = 5e-3
  optim.weight_scale_lr = 5e-4
  optim.bit_logits_lr = 1e-2
  return optim


def _train() -> config_dict.ConfigDict:
  train = config_dict.ConfigDict()
  train.epochs = 30
  # Epochs on a subset: the embedded digits have 32 steps per epoch, not 430.
  train.subset_epochs = 60
  train.batch_size = 128
  train.schedule = 'cosine'  # cosine, plateau, step or constant.
  train.warmup = 0.05  # Share of the run, for cosine.
  train.patience = 5  # Epochs, for plateau.
  train.step_epochs = 50  # Epochs between halvings, for step.
  # Training batches that renew batch norm's statistics before an evaluation.
  train.settle_batches = 30
  # Which epoch's test metric counts: val_metric, val_loss or last.
  train.selection = 'val_metric'
  # Folder of a run whose weights are the start; one inside the work folder by
  # its path from there.
  train.init_from = config_dict.placeholder(str)
  train.plots = True
  # MixQ: epochs of its first phase (those of the run without it), epochs in
  # full precision between the phases, learning rate after them.
  train.search_epochs = config_dict.placeholder(int)
  train.pretrain_epochs = 0
  train.finetune_lr = 1e-3
  # Seeds and rates that train in one program where the data is one graph, at
  # most; 1 for one after the other. Memory grows with it.
  train.together = 10
  # Sums over neighbours: layout or segment_sum; auto is what the benchmarks
  # found faster on the device.
  train.aggregation = 'auto'
  return train
