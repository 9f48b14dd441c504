"""Position, history and best epoch of a run, in JSON-able form."""

import dataclasses
from collections.abc import Callable
from typing import Any

from lorap_jax.training.schedules import Plateau
from lorap_jax.training.tasks import Task

_EARLY = 1e9  # More than any metric or loss: early epochs nearly tie.


@dataclasses.dataclass(frozen=True)
class Selection:
  """How the epoch whose test metric counts is chosen.

  | rule       | epoch                                                         |
  |------------|---------------------------------------------------------------|
  | val_metric | best validation metric; of equal ones lowest loss, then first |
  | val_loss   | lowest validation loss, then first                            |
  | last       | the last one                                                  |

  The best test epoch is never a rule; it is only shown beside the result.

  Attributes:
    rule: `val_metric`, `val_loss` or `last`.
    task: says which metrics are better.
    first: epochs before this one count only where there is no other.
    integers: from this epoch on the metrics of a record are those of the
      network as integers; None for never.
  """

  rule: str
  task: Task
  first: int = 0
  integers: int | None = None

  @property
  def text(self) -> str:
    """The rule in words."""
    behind = f', from epoch {self.first} on' if self.first else ''
    words = {
      'val_metric': f'epoch of the best validation {self.task.metric}; of '
      'equal ones the lowest validation loss, then the first',
      'val_loss': 'epoch of the lowest validation loss, then the first',
      'last': 'last epoch',
    }
    by = '' if self.integers is None else ' (evaluated as integers)'
    return words[self.rule] + behind + by

  def score(self, record: dict[str, Any]) -> tuple[Any, Any]:
    """The key of a record, to be compared by `beats`."""
    if self.rule == 'last':
      return record['epoch'], 0
    loss = -record['valid_loss']
    early = 0.0
    if self.first:
      early = _EARLY * (record['epoch'] < self.first)
    if self.rule == 'val_loss':
      return loss - early, 0 * loss
    return self.task.sign * record[f'valid_{self.task.metric}'] - early, loss

  def best(self, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The selected record.

    Args:
      history: records of the epochs, at least one.

    Returns:
      One of them.
    """
    return _first_best(history, self.score)

  def best_test(self, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of the best test metric: optimistic, as A2Q reports.

    Of all epochs, or of those in which integers were evaluated.
    """
    name = f'test_{self.task.metric}'
    if self.integers is not None:
      history = [r for r in history if r['epoch'] >= self.integers] or history
    return _first_best(history, lambda r: (self.task.sign * r[name], 0))


def beats(new: tuple[Any, Any], old: tuple[Any, Any]) -> Any:
  """Whether a key is larger, lexicographically; NaN is less than all numbers.

  Nothing but operators, so that host and compiled programs share the rule.

  Args:
    new: two numbers, or two arrays of one shape.
    old: two numbers or arrays, of the shape of new.

  Returns:
    A bool, or an array of them.
  """
  larger = lambda a, b: (a > b) | ((a == a) & (b != b))
  same = lambda a, b: (a == b) | ((a != a) & (b != b))
  return larger(new[0], old[0]) | (
    same(new[0], old[0]) & larger(new[1], old[1])
  )


def _first_best(
  records: list[dict[str, Any]], score: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
  best, *rest = records
  for record in rest:
    if beats(score(record), score(best)):
      best = record
  return best


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

  def until(self, step: int) -> 'Progress':
    """As it was at the end of the epoch of a step; itself if not beyond it."""
    kept = [record for record in self.history if record['step'] <= step]
    if len(kept) == len(self.history):
      return self
    return dataclasses.replace(
      self, epoch=len(kept), batch=0, sums={}, history=kept
    )

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
