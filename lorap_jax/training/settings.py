"""A configuration, checked and turned into objects before any work."""

import dataclasses
import os
from typing import Any

import flax.linen as nn
from ml_collections import config_dict

from lorap_jax.data import DataSplits, load_mnist_superpixels
from lorap_jax.models import factory
from lorap_jax.nn import prompts, schemes
from lorap_jax.training.optimizer import OptimizerConfig

DATA_DIR_VARIABLE = 'LORAP_JAX_DATA_DIR'
_DATASETS = {'mnist_superpixels': load_mnist_superpixels}
_SOURCES = ('auto', 'data_dir', 'download', 'embedded')
_SCHEDULES = ('cosine', 'plateau', 'constant')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length and schedule of a run.

  Attributes:
    epochs: on a full data set.
    subset_epochs: on the embedded subset.
    batch_size: graphs per batch.
    schedule: `cosine`, `plateau` or `constant`.
    warmup: share of the run, for cosine.
    patience: epochs, for plateau.
    settle_batches: training batches that renew batch norm's running
      statistics before each evaluation; 0 keeps the running averages.
  """

  epochs: int
  subset_epochs: int
  batch_size: int
  schedule: str
  warmup: float
  patience: int
  settle_batches: int

  def __post_init__(self):
    for name in ('epochs', 'subset_epochs', 'batch_size'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'config.train: `{name}` must be at least 1, got '
          f'{getattr(self, name)}'
        )
    if self.schedule not in _SCHEDULES:
      raise ValueError(
        f'config.train: `schedule` must be one of {_SCHEDULES}, got '
        f'{self.schedule!r}'
      )
    if not 0 <= self.warmup < 1:
      raise ValueError(
        f'config.train: `warmup` must be in [0, 1), got {self.warmup}'
      )
    for name in ('patience', 'settle_batches'):
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
      num_classes: outputs per graph.

    Returns:
      A Linen module.
    """
    return factory.create_model(
      self.config['model'],
      num_classes=num_classes,
      scheme=self.scheme,
      prompt=self.prompt,
    )

  def load_data(self) -> DataSplits:
    """The data set, from the source that the configuration asks for."""
    data = self.config['data']
    return _DATASETS[data['name']](
      source=data['source'],
      data_dir=data['dir'] or os.environ.get(DATA_DIR_VARIABLE),
      offline=data['offline'],
      workers=data['workers'],
      limit=data['limit'],
    )

  def epochs(self, data: DataSplits) -> int:
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
  data = values['data']
  for name, allowed in (('name', tuple(_DATASETS)), ('source', _SOURCES)):
    if data[name] not in allowed:
      raise ValueError(
        f'config.data: `{name}` must be one of {allowed}, got {data[name]!r}'
      )
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
