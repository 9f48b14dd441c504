"""Node features of many graphs, shifted and scaled alike."""

from typing import Literal, get_args

import numpy as np

from lorap_jax.data.containers.dataset import DataSplits
from lorap_jax.data.containers.splits import SPLITS

Normalize = Literal['none', 'center', 'standard']


def check(normalize: str) -> None:
  """Refuses a normalization that does not exist.

  Raises:
    ValueError: names the argument and what is allowed.
  """
  if normalize not in get_args(Normalize):
    raise ValueError(
      f'`normalize` must be one of {get_args(Normalize)}, got {normalize!r}'
    )


def normalized(data: DataSplits, normalize: Normalize) -> DataSplits:
  """The same graphs with other node features, column by column.

  `center` is x - 1/2, for features between 0 and 1. `standard` is
  (x - mean) / deviation, both over the nodes of the TRAINING graphs; a constant
  column is only shifted.

  Args:
    data: splits with float features.
    normalize: `none`, `center` or `standard`.

  Returns:
    Splits whose `source` says what was done.
  """
  if normalize == 'none':
    return data
  shift, scale = np.float32(0.5), np.float32(1)
  if normalize == 'standard':
    nodes = data.train.nodes
    shift = nodes.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = nodes.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1).astype(np.float32)
  parts = {}
  for name in SPLITS:
    part = getattr(data, name)
    parts[name] = part._replace(nodes=(part.nodes - shift) / scale)
  source = {**data.source, 'normalize': normalize}
  places = data.positions
  if places is not None:
    width = data.train.nodes.shape[1]
    places = places.rescaled(
      np.broadcast_to(shift, width), np.broadcast_to(scale, width)
    )
  return data._replace(**parts, source=source, positions=places)
