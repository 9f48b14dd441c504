"""A configuration, checked and turned into objects before any work."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from absl import logging
from ml_collections import config_dict

from lorap_jax.data import DataSplits, NodeDataset
from lorap_jax.data.containers import dataset
from lorap_jax.graphs import layout, shards
from lorap_jax.integers import lowering
from lorap_jax.integers.builder import ExportError
from lorap_jax.models import factory
from lorap_jax.nn import methods, prompts
from lorap_jax.runs import datasets, fields, processes, workdir
from lorap_jax.training import tasks
from lorap_jax.training.augment import Augment
from lorap_jax.training.distillation import Teacher
from lorap_jax.training.optimizer import OptimizerConfig
from lorap_jax.training.options import Options
from lorap_jax.training.train_config import TrainConfig

Data = DataSplits | NodeDataset


@dataclasses.dataclass(frozen=True)
class Settings:
  """The objects that a configuration describes.

  Attributes:
    config: what runs, as plain values: the fields that mean something to this
      run, each with the value in force.
    scheme: quantization framework.
    prompt: prompts.
    optimizer: learning rates.
    train: length and schedule.
  """

  config: dict[str, Any]
  scheme: methods.Scheme
  prompt: prompts.PromptSpec
  optimizer: OptimizerConfig
  train: TrainConfig

  @property
  def level(self) -> str:
    """What has a label in the data: `node` or `graph`."""
    return self.config['data']['level']

  @property
  def trains_together(self) -> bool:
    """Whether several such runs may train in one program."""
    sampled = self.train.fanout is not None
    alone = sampled or self.train.integer_epochs or self.train.devices != 1
    return self.level == 'node' and not alone

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
    """Sums have edge weights or messages of edges, or are by relation."""
    kind, scheme = self.config['model']['name'], self.scheme
    gcn = kind == 'gcn' and (scheme.edge_weights or scheme.edge_messages)
    return kind in ('gat', 'rgcn') or gcn

  @property
  def uses_layout(self) -> bool:
    """Batches carry a layout for sums over neighbours."""
    wanted: Any = self.train.aggregation
    return layout.wants_layout(wanted, jax.default_backend())

  @property
  def mesh(self) -> jax.sharding.Mesh | None:
    """The devices that share each batch; None for one.

    Raises:
      ValueError: more than there are, or a batch that they can't share.
    """
    processes.check(self.level, self.train.devices)
    if self.train.fanout is not None or self.train.devices == 1:
      return None
    there = jax.devices()
    count = self.train.devices or len(there)
    if count == 1:
      return None
    if count > len(there):
      raise ValueError(
        f'config.train: `devices` is {count}, there are {len(there)} '
        f'({there[0].platform}); set it to {len(there)} or less'
      )
    if self.level == 'graph' and self.train.batch_size % count:
      raise ValueError(
        f'config.train: `batch_size` {self.train.batch_size} is no multiple of '
        f'the {count} `devices`; set it to one'
      )
    return shards.mesh_of(there[:count])

  def on_devices(self) -> contextlib.AbstractContextManager[Any]:
    """Where programs are made and run: on the mesh, if there is one."""
    mesh = self.mesh
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)

  def task(self, data: Data) -> tasks.Task:
    """The task of this data: its loss and its metric."""
    return tasks.Task(data.task)

  def options(self, data: Data, teacher: Teacher | None = None) -> Options:
    """What a training step on this data does beside.

    Args:
      data: the data set.
      teacher: that of the run, see `runs.teacher`.
    """
    strength, positions = self.train.augment, getattr(data, 'positions', None)
    return Options(
      label_smoothing=self.train.label_smoothing,
      ema=self.train.ema,
      teacher=teacher,
      augment=Augment(strength, positions) if strength else None,  # pyrefly: ignore
    )

  def load_data(self) -> Data:
    """The data set, from the source that the configuration asks for."""
    return datasets.load(self.config['data'])

  def check(self, data: Data) -> None:
    """Refuses data that the settings are not for.

    Args:
      data: the data set.

    Raises:
      ValueError: labels of nodes where the settings are for graphs, or the
        other way round; numbers as labels where they are smoothed; no
        positions where they are moved.
    """
    if data.level != self.level:
      raise ValueError(
        f'the data has a label for each {data.level}, the configuration is for '
        f'labels of each {self.level} (config.data: `name` is '
        f'{self.config["data"]["name"]!r})'
      )
    if self.train.label_smoothing and data.task != 'classification':
      raise ValueError(
        'config.train: `label_smoothing` is for classes as labels, this data '
        f'is for {data.task}; leave it out'
      )
    if self.train.augment and getattr(data, 'positions', None) is None:
      raise ValueError(
        'config.train: `augment` moves features that are places in an image, '
        'and this data declares none (`DataSplits.positions`); leave it out'
      )

  def on(self, data: Data) -> 'Settings':
    """The settings of a run on this data: with its number of epochs.

    Args:
      data: the data set.

    Raises:
      ValueError: see `check`.
    """
    self.check(data)
    epochs = self.epochs(data)
    train = {**self.config['train'], 'epochs': epochs}
    return dataclasses.replace(
      self,
      config={**self.config, 'train': train},
      train=dataclasses.replace(self.train, epochs=epochs),
    )

  def epochs(self, data: Data) -> int:
    """Epochs of the run on this data."""
    return self.train.epochs or datasets.default_epochs(data)


def is_relational(model: Any) -> bool:
  """Whether a network tells edges by their relations."""
  return getattr(model.backbone, 'relational', False)


def log_relations(model: Any, data: Data) -> None:
  """Says where a network and the edges of its data do not go together."""
  count = getattr(data, 'num_relations', None)
  name = type(model.backbone).__name__
  if count is None and is_relational(model):
    logging.info(
      'The data has one kind of edge: %s has one matrix for all of them beside '
      'that of the nodes.',
      name,
    )
  elif count is not None and not is_relational(model):
    logging.info(
      '%s does not read the %d relations of the data; model.name rgcn does.',
      name,
      count,
    )


def check_data(data: Any) -> None:
  """Refuses what is no sound data set, before any work.

  Args:
    data: what a user passed as the data of a run.

  Raises:
    ValueError: another type, or what `check` of the container finds.
  """
  if not isinstance(data, DataSplits | NodeDataset):
    raise ValueError(
      f'`data` is a {type(data).__name__}; give what data.custom.node_dataset '
      'or graph_splits make, or a data set of lorap_jax.data'
    )
  data.check('data')
  dataset.check_source(data.source, 'data')


def from_config(
  config: config_dict.ConfigDict, *, level: str | None = None
) -> Settings:
  """Checks a configuration.

  Args:
    config: as `configs.default`.
    level: what has a label in data that is given as arrays; None for the data
      set that the configuration names.

  Returns:
    Its objects.

  Raises:
    ValueError: a value that makes no run, or one that means nothing to this
      run, named with its path.
  """
  values = config.to_dict()
  level_given, level = level, fields.check(values, level)
  chosen = _settings(values, level)
  _ = chosen.mesh  # Refuses devices that are not there.
  if level_given is None and values['data']['name'] == 'custom':
    chosen.check(chosen.load_data())  # Was read for its level.
  teacher = chosen.train.teacher
  if (
    teacher
    and not (pathlib.Path(teacher).expanduser() / workdir.REPORT).is_file()
  ):
    raise ValueError(
      f'config.train: `teacher`: no finished run in {teacher!r}; give the work '
      'folder of one, or leave it out'
    )
  for name in ('integer_epochs', 'export'):
    if getattr(chosen.train, name):
      try:
        model: Any = chosen.model(2)
        lowering.refuse(model)
      except ExportError as error:
        raise ValueError(
          f'config.train: `{name}` needs a network that has integers: {error}; '
          'or leave it out'
        ) from error
  return chosen


def from_record(record: Mapping[str, Any]) -> Settings:
  """The settings of a run that was, from its `Settings.config`.

  Those of other versions are read as far as that goes: fields that are gone or
  meant nothing are left out, new ones have their defaults.

  Args:
    record: plain values, such as config.json holds.

  Raises:
    ValueError: a value that this version does not know, by its field.
  """
  there = fields.flat(record)
  values = fields.complete(record)
  level, pool = there.pop('data.level', None), values['model']['pool']
  if level is None and pool is not None:
    # Before the level was recorded, the pool said it.
    level = 'node' if pool == 'none' else 'graph'
  if level is None:
    level = fields.level_of(values)
  if values['scheme']['name'] == 'a2q_node':  # As the form was called then.
    values['scheme']['name'] = 'a2q'
  gone = sorted(path for path in there if path not in fields.NEEDS)
  if gone:
    logging.info('Fields of another version, left out: %s', ', '.join(gone))
  if level not in ('node', 'graph'):
    raise ValueError(
      f"config.data: `level` is {level!r}, not 'node' or 'graph'"
    )
  fields.check_values(values)
  for path in fields.unused(values, level):
    group, _, name = path.rpartition('.')
    (values[group] if group else values)[name] = None
  return _settings(values, level)


def _settings(values: dict[str, Any], level: str) -> Settings:
  """The objects of checked values."""
  at_level = fields.at_level(values['model'], level)
  model_values = {**values['model'], **at_level}
  scheme, scheme_values = _scheme(values['scheme'], model_values['name'], level)
  prompt = factory.create_prompt(values['prompt'])
  try:
    optimizer = OptimizerConfig(
      **{k: v for k, v in values['optim'].items() if v is not None}
    )
  except ValueError as error:
    raise ValueError(f'config.optim: {error}') from error
  train = fields.train_config(values['train'])
  if train.aggregation not in layout.AGGREGATIONS:
    raise ValueError(
      f'config.train: `aggregation` must be one of {layout.AGGREGATIONS}, got '
      f'{train.aggregation!r}'
    )
  # Refuses bad widths before any work.
  model = factory.create_model(
    model_values, outputs=2, scheme=scheme, prompt=prompt
  )
  in_force = {
    **values,
    'data': datasets.defaults(values['data']),
    'model': {**model_values, **factory.model_values(model)},
    'scheme': scheme_values,
    'prompt': dataclasses.asdict(prompt),
    'optim': dataclasses.asdict(optimizer),
    'train': dataclasses.asdict(train),
  }
  record = fields.record(fields.complete(in_force), level)
  return Settings(record, scheme, prompt, optimizer, train)


def _scheme(
  values: dict[str, Any], backbone: str, level: str
) -> tuple[methods.Scheme, dict[str, Any]]:
  """The scheme of config.scheme, and its fields with the values in force."""
  values, name = dict(values), values['name']
  if name in ('mixq', 'mixq_search') and values['points'] is None:
    values['points'] = methods.MIXQ_POINTS[backbone]
  if name == 'a2q' and level == 'node' and values['num_groups'] is None:
    values['node_messages'] = backbone == 'gat'
  in_force = {'name': name}
  if name == 'mixq' and values['assignment'] is None:
    search = {**values, 'name': 'mixq_search'}
    in_force |= _plain(factory.create_scheme(search, level=level))
    values |= {'candidates': None, 'cost_weight': None}
  scheme = factory.create_scheme(values, level=level)
  in_force |= _plain(scheme)
  if values['assignment'] is None:
    in_force['assignment'] = None
  return scheme, in_force


def _plain(scheme: Any) -> dict[str, Any]:
  """The fields of a scheme, as a configuration has them."""
  values = dataclasses.asdict(scheme)
  if 'assignment' in values:
    values['assignment'] = dict(values['assignment'])
  return values
