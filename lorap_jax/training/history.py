"""Position, history and best epoch of a run, in JSON-able form."""

import dataclasses
from typing import Any

from lorap_jax.training.schedules import Plateau

SELECTION_RULE = (
  'epoch of the highest validation accuracy; of equal ones the lowest '
  'validation loss, then the first'
)


@dataclasses.dataclass
class Progress:
  """What a run needs beside its arrays to go on as if never stopped.

  Attributes:
    epoch: current epoch, from 0.
    batch: batches done in it.
    sums: sums over these batches, for the epoch's training metrics.
    history: one record per finished epoch.
    plateau: learning-rate state.
    seconds: wall time spent training and evaluating.
  """

  epoch: int = 0
  batch: int = 0
  sums: dict[str, float] = dataclasses.field(default_factory=dict)
  history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  plateau: Plateau = Plateau()
  seconds: float = 0.0

  def to_json(self) -> dict[str, Any]:
    """JSON-able copy; infinity becomes None."""
    values = dataclasses.asdict(self)
    plateau = self.plateau
    best = None if plateau.best == float('inf') else plateau.best
    values['plateau'] = [plateau.factor, best, plateau.bad_epochs]
    return values

  @classmethod
  def from_json(cls, values: dict[str, Any]) -> 'Progress':
    """The inverse of `to_json`."""
    factor, best, bad = values['plateau']
    plateau = Plateau(factor, float('inf') if best is None else best, int(bad))
    rest = {name: v for name, v in values.items() if name != 'plateau'}
    return cls(plateau=plateau, **rest)

  def add(self, metrics: dict[str, float]) -> None:
    """Adds the sums of one batch."""
    for name, value in metrics.items():
      self.sums[name] = self.sums.get(name, 0.0) + value
    self.batch += 1

  def finish_epoch(self, record: dict[str, Any]) -> None:
    """Files the record of the epoch and moves to the next."""
    self.history.append(record)
    self.epoch += 1
    self.batch = 0
    self.sums = {}


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
  """The selected record: see SELECTION_RULE.

  Args:
    history: records with `valid_accuracy` and `valid_loss`, at least one.

  Returns:
    One of them.
  """
  return max(history, key=lambda r: (r['valid_accuracy'], -r['valid_loss']))


def best_test_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
  """The record of the highest test accuracy: optimistic, as A2Q reports."""
  return max(history, key=lambda r: r['test_accuracy'])
