"""The last epochs of a run, in which its integers are what is evaluated."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.data import NodeDataset
from lorap_jax.integers import evaluate, limits
from lorap_jax.runs.settings import Data
from lorap_jax.training.state import TrainState
from lorap_jax.training.tasks import Task

_SPLITS = ('valid', 'test')
_ANY_RANGE = {'initialized': True, 'min_val': -1.0, 'max_val': 1.0}


class IntegerEvaluation:
  """Loss and metric of a network as integers, on what is held out.

  Attributes:
    limits: what its programs allow for.
  """

  def __init__(
    self,
    model: Any,
    data: Data,
    loaders: dict[str, Any],
    task: Task,
    first: TrainState,
  ):
    """Refuses a network without integers before it is trained.

    Args:
      model: the network.
      data: what it is trained on.
      loaders: of the splits, for batches of graphs.
      task: for the loss and the metric.
      first: the initial state.

    Raises:
      ExportError: the network has no integers.
    """
    self.limits = limits.of_data(data)
    self._model, self._data = model, data
    self._loaders, self._task = loaders, task
    self._sums = jax.jit(task.sums)
    self.program(first._replace(quant_stats=_as_if_seen(first.quant_stats)))

  def program(self, state: TrainState) -> Any:
    """The integer program of the network at a state."""
    return self.limits.lower(self._model, jax.device_get(state.variables()))

  def __call__(self, state: TrainState) -> dict[str, float]:
    """`valid_loss`, `valid_METRIC` and those of `test`, of the integers.

    Args:
      state: of the network.

    Raises:
      ExportError: its values have left what integers hold.
    """
    program = self.program(state)
    run = evaluate.compiled(program)
    found = {}
    for split in _SPLITS:
      total = np.zeros(3)
      for codes, labels, mask in self._batches(run, split):
        outputs = codes.astype(jnp.float32) * program.output_scale[None]
        total += np.asarray(self._sums(outputs, labels, mask), np.float64)
      found[f'{split}_loss'] = total[0] / total[2]
      found[f'{split}_{self._task.metric}'] = total[1] / total[2]
    return found

  def _batches(self, run: Callable[..., Any], split: str) -> Generator[Any]:
    """What the program returns, labels, and which of them count."""
    data, loader = self._data, self._loaders[split]
    if isinstance(data, NodeDataset):
      mask = getattr(data, f'{split}_mask')  # The loader's may be padded.
      # What is no target need not be a number.
      labels = np.where(mask, data.labels, 0)
      yield run(evaluate.arrays_of_nodes(data)), labels, mask
      return
    with contextlib.closing(loader.stream(loader.ordered())) as batches:
      for batch in batches:
        yield run(batch.graph, batch.layout), batch.labels, batch.target_mask()


def _as_if_seen(statistics: Any) -> Any:
  """Ranges of observers before their first batch, for a look at the bounds."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full_like(leaf, _ANY_RANGE.get(path[-1].key, leaf)),
    statistics,
  )
