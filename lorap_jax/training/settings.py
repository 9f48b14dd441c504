"""A configuration, checked and turned into objects before any work."""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import config_dict

from lorap_jax.data import DataSplits, NodeDataset
from lorap_jax.graphs import layout
from lorap_jax.models import factory
from lorap_jax.nn import prompts, schemes
from lorap_jax.training import datasets, history, tasks
from lorap_jax.training.optimizer import OptimizerConfig

DATA_DIR_VARIABLE = 'LORAP_JAX_DATA_DIR'
Data = DataSplits | NodeDataset
_SCHEDULES = ('cosine', 'plateau', 'step', 'constant')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length and schedule of a run.

  Attributes:
    epochs: on a full data set.
    subset_epochs: on the embedded subset.
    batch_size: graphs per batch.
    schedule: `cosine`, `plateau`, `step` or `constant`.
    warmup: share of the run, for cosine.
    patience: epochs, for plateau.
    settle_batches: training batches that renew batch norm's running
      statistics before each evaluation; 0 keeps the running averages.
    step_epochs: epochs between halvings, for step.
    selection: rule that chooses the epoch, see `history.Selection`.
    init_from: folder of a run whose weights are the start, or None; one inside
      the work folder by its path from there.
    plots: draw the learning curves and bits by degree.
    search_epochs: of MixQ's first phase; None for `epochs`.
    pretrain_epochs: in full precision before its second; 0 for none.
    finetune_lr: learning rate of the second phase after them.
    together: runs that train in one program, where one graph is the data.
    aggregation: how sums over neighbours run, see `graphs.layout`.
  """

  epochs: int
  subset_epochs: int
  batch_size: int
  schedule: str
  warmup: float
  patience: int
  settle_batches: int
  step_epochs: int
  selection: str
  init_from: str | None
  plots: bool
  search_epochs: int | None
  pretrain_epochs: int
  finetune_lr: float
  together: int = 10
  aggregation: layout.Aggregation = 'auto'

  def __post_init__(self):
    for name in (
      'epochs',
      'subset_epochs',
      'batch_size',
      'step_epochs',
      'together',
    ):
      if getattr(self, name) < 1:
        raise ValueError(
          f'config.train: `{name}` must be at least 1, got '
          f'{getattr(self, name)}'
        )
    for name, allowed in (
      ('schedule', _SCHEDULES),
      ('selection', history.RULES),
      ('aggregation', layout.AGGREGATIONS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'config.train: `{name}` must be one of {allowed}, got '
          f'{getattr(self, name)!r}'
        )
    if not 0 <= self.warmup < 1:
      raise ValueError(
        f'config.train: `warmup` must be in [0, 1), got {self.warmup}'
      )
    for name in ('patience', 'settle_batches', 'pretrain_epochs'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'config.train: `{name}` must be 0 or more, got {getattr(self, name)}'
        )


@dataclasses.dataclass(frozen=True)
class Settings:
  """The objects that a configuration describes.

  Attributes:
    config: the configuration as plain values.
    scheme: quantization framework.
    prompt: prompts.
    optimizer: learning rates.
    train: length and schedule.
  """

  config: dict[str, Any]
  scheme: schemes.Scheme
  prompt: prompts.PromptSpec
  optimizer: OptimizerConfig
  train: TrainConfig

  def model(self, num_classes: int) -> nn.Module:
    """The model.

    Args:
      num_classes: outputs per graph or node.

    Returns:
      A Linen module.
    """
    return factory.create_model(
      self.config['model'],
      outputs=num_classes,
      scheme=self.scheme,
      prompt=self.prompt,
    )

  @property
  def weighted(self) -> bool:
    """Sums over neighbours have edge weights, or messages of edges."""
    kind, scheme = self.config['model']['name'], self.scheme
    gcn = kind == 'gcn' and (scheme.edge_weights or scheme.edge_messages)
    return kind == 'gat' or gcn

  @property
  def uses_layout(self) -> bool:
    """Batches carry a layout for sums over neighbours."""
    return layout.wants_layout(self.train.aggregation, jax.default_backend())

  def task(self, data: Data) -> tasks.Task:
    """What to train for on this data."""
    if isinstance(data, NodeDataset):
      return tasks.Task('classification')
    floats = data.train.labels.dtype == np.float32
    return tasks.Task('regression' if floats else 'classification')

  def load_data(self) -> Data:
    """The data set, from the source that the configuration asks for."""
    data = self.config['data']
    directory = data['dir'] or os.environ.get(DATA_DIR_VARIABLE)
    return datasets.load({**data, 'dir': directory})

  def epochs(self, data: Data) -> int:
    """Epochs of the run on this data.

    Args:
      data: full or subset.

    Returns:
      The number.
    """
    subset = data.source['subset']
    return self.train.subset_epochs if subset else self.train.epochs


def from_config(config: config_dict.ConfigDict) -> Settings:
  """Checks a configuration.

  Args:
    config: as `configs.default`.

  Returns:
    Its objects.

  Raises:
    ValueError: a value that makes no run, named with its path.
  """
  values = config.to_dict()
  if values['seed'] < 0:
    raise ValueError(f'config: `seed` must be 0 or more, got {values["seed"]}')
  datasets.check(values['data'])
  try:
    optimizer = OptimizerConfig(**values['optim'])
  except ValueError as error:
    raise ValueError(f'config.optim: {error}') from error
  settings = Settings(
    config=values,
    scheme=factory.create_scheme(values['scheme']),
    prompt=factory.create_prompt(values['prompt']),
    optimizer=optimizer,
    train=TrainConfig(**values['train']),
  )
  settings.model(num_classes=2)  # Refuses bad widths before any work.
  return settings
