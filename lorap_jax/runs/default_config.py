"""Fields that all configurations share, with the defaults of the library.

A field that is not set (None) has the default of what it belongs to, which the
comment beside it says. One that is set and means nothing to the run is refused:
configurations set what their own method needs.
"""

from ml_collections import config_dict

from lorap_jax.runs import cells


def get_config() -> config_dict.ConfigDict:
  """Default values; a configuration starts here and changes some."""
  config = config_dict.ConfigDict()
  config.seed = 0
  # Runs with seeds seed, seed + 1, ... and folds data.fold, data.fold + 1, ...
  config.seeds = 1
  config.folds = 1  # TUDatasets.
  config.data = _data()
  config.model = _model()
  config.scheme = _scheme()
  config.prompt = _prompt()
  config.optim = _optim()
  config.train = _train()
  return config


def own_data_config(cell: str = 'gcn,dq8,lorap') -> config_dict.ConfigDict:
  """The configuration of a cell for the user's own data.

  Pool and encoder follow from the data: none of them where nodes have labels, a
  dense encoder and mean pooling where graphs have.

  Args:
    cell: BACKBONE,QUANTIZER,PROMPT, see `cells`.

  Returns:
    A configuration. `data.path` is not set: it is of no use where the data
    itself is handed to `train_and_evaluate`.

  Raises:
    ValueError: the cell has not three parts, or one that does not exist.
  """
  config = get_config()
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


def _group(**fields) -> config_dict.ConfigDict:
  """Fields; a type stands for one that is not set."""
  return config_dict.ConfigDict(
    {
      name: config_dict.placeholder(value) if isinstance(value, type) else value
      for name, value in fields.items()
    }
  )


def _data() -> config_dict.ConfigDict:
  return _group(
    name='mnist_superpixels',
    # Folder with the raw files. Without it: $LORAP_JAX_DATA_DIR.
    dir=str,
    source=str,  # auto; data_dir, download or (MNIST) embedded.
    offline=bool,  # False.
    workers=int,  # Superpixels: processes that build graphs; all cores.
    # Graphs to keep (train, valid, test); all. Not for one graph or own data.
    limit=tuple,
    # TUDatasets: fold whose graphs are the test set, 0; features auto (the
    # set's own), labels, attributes, degree or one_hot_degree; 10; 12345.
    fold=int,
    features=str,
    num_folds=int,
    split_seed=int,
    # Planetoid: none or row; superpixels: none, center or standard.
    normalize=str,
    tu_name=str,  # For the data set `tu`.
    path=str,  # For the data set `custom`.
    relations=bool,  # ogbn-mag: all kinds of nodes and edges; False, papers.
  )


def _model() -> config_dict.ConfigDict:
  return _group(
    name='gin',  # gcn, gin, gat or rgcn.
    features=110,
    num_layers=4,
    residual=False,
    dropout=0.0,
    input_dropout=0.0,
    # none, dense or embedding; none for labels of nodes, dense for graphs.
    encoder=str,
    # Raw features in front of the dense encoder: signed; non_negative or int8.
    encoder_operand=str,
    num_types=int,  # Rows of the embedding; 28.
    # mean, sum or max; mean. Labels of nodes have none.
    pool=str,
    # After pooling.
    normalize_pooled=bool,  # False.
    readout=int,  # 2.
    readout_dropout=float,  # 0.
    # GIN.
    num_dense=int,  # 2.
    mlp_norm=str,  # each; last or none.
    own_term=bool,  # True.
    full_precision_first=bool,  # False.
    # GCN, GAT and RGCN.
    norm=bool,  # Batch norm after each layer; False.
    # GCN and GAT.
    self_loops=bool,  # True.
    # GCN.
    existing_loops=str,  # remaining; or keep.
    # GAT.
    heads=int,  # 8.
    attention_dropout=float,  # 0.
  )


def _scheme() -> config_dict.ConfigDict:
  """Fields of all schemes; their defaults are in `lorap_jax.nn.methods`."""
  return _group(
    name='a2q',  # fp32, qat, dq, a2q or mixq.
    bits=int,  # 4. MixQ finds its own.
    published=bool,  # All but fp32: as the method's own code; False.
    # QAT, Degree-Quant and MixQ.
    points=tuple,
    # QAT and Degree-Quant; `gradient` (clipped or plain) of A2Q too.
    symmetric=bool,
    momentum=float,  # QAT.
    percentile=float,
    sum_percentile=float,
    feature_percentile=float,
    gradient=str,
    edge_messages=bool,  # GCN, GIN and RGCN.
    stride=int,
    # Degree-Quant.
    low=float,
    change=float,
    redraw=bool,
    protected_points=tuple,
    # A2Q.
    start=str,  # data; uniform or normal.
    memory_weight=float,
    memory_target=float,
    target_bits=float,  # Average bits to end at, in place of these two.
    quantize_features=bool,
    # A2Q, labels of graphs; with `train.fanout` a table of groups in place of
    # parameters of each node, of which those never drawn would learn nothing.
    num_groups=int,
    # A2Q, labels of nodes.
    memory_width=int,
    quantize_messages=bool,
    weight_start=tuple,
    feature_start=tuple,
    message_start=tuple,
    # MixQ.
    candidates=tuple,
    cost_weight=float,
    # Bits by quantizer; without it a search runs first.
    assignment=dict,
  )


def _prompt() -> config_dict.ConfigDict:
  return _group(
    # none, gpf, gpf_plus, lorap, gpf_lorap or gpf_plus_lorap.
    name='none',
    node_init=str,  # GPF and GPF-plus: zero; or glorot.
    num_prompts=int,  # GPF-plus, LoRAP and its adapter; 10.
    # LoRAP.
    placement=str,  # pre; post or bypass.
    form=str,  # lorap; or a control: bias or adapter.
    rank=int,  # 4.
    init=str,  # zero; or glorot.
    low_rank=str,  # basis; basis_and_score or none.
    bits=int,  # 32; or 2 to 8.
    objective=str,  # task; with `post` and `bypass` local or both too.
    implementation=str,  # xla; or pallas: one kernel, on a GPU.
  )


def _optim() -> config_dict.ConfigDict:
  return _group(
    learning_rate=4e-3,
    weight_decay=0.0,
    # Prompts.
    prompt_factor=float,  # 1.
    prompt_weight_decay=float,  # 0.
    # A2Q.
    feature_scale_lr=float,  # 5e-3.
    feature_bits_lr=float,  # 1e-4.
    message_scale_lr=float,  # 5e-3.
    weight_scale_lr=float,  # 5e-4.
    # MixQ's search.
    bit_logits_lr=float,  # 1e-2.
  )


def _train() -> config_dict.ConfigDict:
  return _group(
    epochs=int,  # 30; 60 on the embedded digits.
    schedule='cosine',  # cosine, plateau, step or constant.
    warmup=float,  # Share of the run, for cosine; 0.05.
    patience=int,  # Epochs, for plateau; 5.
    step_epochs=int,  # Epochs between halvings, for step; 50.
    # Which epoch's test metric counts: val_metric, val_loss or last.
    selection='val_metric',
    # In so many last epochs the network is evaluated as the integers that it
    # becomes, and one of these epochs is selected: what is validated is what
    # an export runs. 0.
    integer_epochs=int,
    export=bool,  # Write them at the end, see docs/integers.md; False.
    # Folder of a run whose weights are the start; one inside the work folder
    # by its path from there.
    init_from=str,
    plots=True,
    # Share of each label that goes to all classes alike; 0.
    label_smoothing=float,
    # Strength of random affine maps of the nodes' positions; 1 for 15 degrees,
    # 15 % of scale and shear, a tenth of the image's side. 0.
    augment=float,
    # Decay of a moving average of the parameters, such as .999, which is
    # evaluated, selected and exported in their place. 0.
    ema=float,
    # Folder of a finished run on this data, such as one in full precision,
    # whose outputs are learned beside the labels; their share of the loss, 1;
    # the temperature of classes, 2.
    teacher=str,
    teacher_weight=float,
    teacher_temperature=float,
    # Sums over neighbours: layout or segment_sum; auto is what the benchmarks
    # found faster on the device.
    aggregation='auto',
    # Batches of graphs.
    batch_size=int,  # 128; graphs, or with `fanout` nodes.
    # Labels of nodes: drawn edges per node, one number for each layer; all.
    fanout=tuple,
    # With `fanout`: nodes of the whole graph that are computed beside each
    # batch, for quantizers and batch norm; 1024 beside a smaller batch, else 0.
    unlabelled=int,
    # Devices that share each batch; 0 for all there are; 1.
    devices=int,
    # Batches that renew batch norm's statistics before an evaluation; 30.
    settle_batches=int,
    # One graph: seeds and rates that train in one program, at most; 1 for one
    # after the other. Memory grows with it. 10.
    together=int,
    # MixQ: epochs of its first phase (those of the run without it), epochs in
    # full precision between the phases, learning rate after them.
    search_epochs=int,
    pretrain_epochs=int,  # 0.
    finetune_lr=float,  # 1e-3.
  )
