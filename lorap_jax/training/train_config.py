"""Length and schedule of a run. Knows no JAX, so that checks are quick."""

import dataclasses

SCHEDULES = ('cosine', 'plateau', 'step', 'constant')
RULES = ('val_metric', 'val_loss', 'last')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length and schedule of a run.

  Attributes:
    epochs: length of the run; None for the default of the data, see
      `datasets.default_epochs`.
    batch_size: graphs per batch; with `fanout` nodes.
    fanout: edges drawn per node in each hop, from the nodes of a batch on, one
      number for each convolution; None for all of the graph in each step.
    unlabelled: with `fanout`, nodes drawn from the whole graph for each batch
      and computed beside it. Their labels are not used. Ranges are observed on
      them alone; A2Q's scales and bits, and batch norm, see them too. 0 for
      none: ranges are then those of the batch. None for 1024 where a batch has
      fewer nodes than that, else for none.
    schedule: `cosine`, `plateau`, `step` or `constant`.
    warmup: share of the run in which the rate rises, for `cosine`.
    patience: epochs without improvement, for `plateau`.
    settle_batches: training batches that renew batch norm's running
      statistics before each evaluation; 0 keeps the running averages.
    step_epochs: epochs between halvings of the rate, for `step`.
    selection: rule that chooses the epoch, see `history.Selection`.
    integer_epochs: in so many last epochs, all in a shorter run, the network is
      evaluated as integers, and one of them is selected; 0 for none. A2Q's
      tables of groups then have the ranges that files hold, and stay so.
    export: write the integers into the work folder at the end.
    init_from: folder of a run whose weights are the start, or None; one inside
      the work folder by its path from there.
    plots: draw the learning curves and bits by degree.
    search_epochs: length of MixQ's first phase; None for `epochs`.
    pretrain_epochs: epochs in full precision before MixQ's second phase.
    finetune_lr: learning rate of the second phase after a pretraining.
    together: runs that train in one program, where one graph is the data.
    aggregation: how sums over neighbours run, see `graphs.layout`.
    devices: how many share each batch of graphs; 0 for all there are.
    label_smoothing: share of each label that goes to all classes alike, see
      `tasks.Task.smoothing`; 0 for none.
    augment: strength of random affine maps of the positions of nodes, see
      `augment`; 0 for none.
    ema: decay of a moving average of the parameters, which is evaluated in
      their place, see `state.moving_average`; 0 for none.
    teacher: folder of a finished run whose outputs are learned beside the
      labels, or None.
    teacher_weight: share of the loss that is the distance from them, see
      `tasks.Task.distillation`.
    teacher_temperature: of the probabilities that are compared.
  """

  epochs: int | None = None
  batch_size: int = 128
  fanout: tuple[int, ...] | None = None
  unlabelled: int | None = None
  schedule: str = 'cosine'
  warmup: float = 0.05
  patience: int = 5
  settle_batches: int = 30
  step_epochs: int = 50
  selection: str = 'val_metric'
  integer_epochs: int = 0
  export: bool = False
  init_from: str | None = None
  plots: bool = True
  search_epochs: int | None = None
  pretrain_epochs: int = 0
  finetune_lr: float = 1e-3
  together: int = 10
  aggregation: str = 'auto'
  devices: int = 1
  label_smoothing: float = 0.0
  augment: float = 0.0
  ema: float = 0.0
  teacher: str | None = None
  teacher_weight: float = 1.0
  teacher_temperature: float = 2.0

  def __post_init__(self):
    for names, lowest, in_words in (
      (
        ('epochs', 'search_epochs', 'batch_size', 'step_epochs', 'together'),
        1,
        'at least 1',
      ),
      (
        (
          'patience',
          'settle_batches',
          'pretrain_epochs',
          'integer_epochs',
          'devices',
          'unlabelled',
        ),
        0,
        '0 or more',
      ),
    ):
      for name in names:
        value = getattr(self, name)
        if value is not None and value < lowest:
          raise ValueError(f'`{name}` must be {in_words}, got {value}')
    for name, allowed in (('schedule', SCHEDULES), ('selection', RULES)):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'`{name}` must be one of {allowed}, got {getattr(self, name)!r}'
        )
    for name in ('warmup', 'label_smoothing', 'ema'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
          f'`{name}` must be in [0, 1), got {getattr(self, name)}'
        )
    if not 0 < self.teacher_weight <= 1:
      raise ValueError(
        f'`teacher_weight` must be in (0, 1], got {self.teacher_weight}'
      )
    if not 0 < self.teacher_temperature < float('inf'):
      raise ValueError(
        f'`teacher_temperature` must be above 0, got {self.teacher_temperature}'
      )
    for name in ('finetune_lr', 'augment'):
      if not 0 <= getattr(self, name) < float('inf'):
        raise ValueError(
          f'`{name}` must be 0 or more, got {getattr(self, name)}'
        )
