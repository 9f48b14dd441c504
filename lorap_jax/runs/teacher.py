"""A finished run whose outputs another run learns."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lorap_jax._typing import PyTree
from lorap_jax.data.files import store
from lorap_jax.runs import restore, settings
from lorap_jax.training import distillation

# What says which graphs are held out, and what features mean.
_SAME = ('normalize', 'features', 'fold', 'num_folds', 'split_seed')


class Loaded(NamedTuple):
  """A teacher, ready for a run.

  Attributes:
    static: what programs are made of.
    variables: of its network, on the devices of the run.
    digest: of the variables.
  """

  static: distillation.Teacher
  variables: PyTree
  digest: str


def load(chosen: settings.Settings, data: settings.Data) -> Loaded | None:
  """The teacher of a run.

  Args:
    chosen: settings of the run that learns.
    data: its data.

  Returns:
    The network at its selected epoch; None for a run without a teacher.

  Raises:
    ValueError: no finished run is there, or one of other data: another name or
      split, another number of features or classes, features in other units.
  """
  train = chosen.train
  if not train.teacher:
    return None
  folder = pathlib.Path(train.teacher).expanduser()
  with jax.set_mesh(None):  # What is loaded is on one device.
    run = restore.load_run(folder)
  own = settings.from_record(run.config)
  _check(own, run.data, chosen, data)
  static = distillation.Teacher(
    run.model,
    train.teacher_weight,
    train.teacher_temperature,
    uses_layout=chosen.weighted or not own.weighted,
  )
  variables = jax.device_get(run.variables)
  leaves = [np.ascontiguousarray(v) for v in jax.tree.leaves(variables)]
  digest = store.content_digest(b''.join(v.tobytes() for v in leaves))
  mesh = chosen.mesh
  place = None if mesh is None else NamedSharding(mesh, PartitionSpec())
  return Loaded(static, jax.device_put(variables, place), digest)


def _check(
  own: settings.Settings,
  there: dict[str, Any],
  chosen: settings.Settings,
  data: settings.Data,
) -> None:
  """Refuses a teacher of other data."""
  here = {
    'name': data.source['name'],
    'num_classes': data.num_classes,
    'num_features': (
      data.nodes if data.level == 'node' else data.train.nodes  # pyrefly: ignore
    ).shape[1],
    'level': data.level,
    **{name: chosen.config['data'].get(name) for name in _SAME},
  }
  its = {**there, 'level': own.level}
  its |= {name: own.config['data'].get(name) for name in _SAME}
  if own.level == 'node' and own.scheme.per_node:
    here['num_nodes'] = data.num_nodes  # pyrefly: ignore
  for name, value in here.items():
    if its[name] != value:
      raise ValueError(
        f'config.train: `teacher` {chosen.train.teacher!r} was trained on data '
        f'with {name} {its[name]!r}, this has {value!r}; give a run on the '
        'same data'
      )
