"""Learning-rate factors, common to all parameter groups."""

import math
from typing import NamedTuple


def warmup_cosine(progress: float, *, warmup: float) -> float:
  """Linear rise over the first part of a run, then half a cosine to 0.

  Args:
    progress: position in the run, 0 to 1.
    warmup: share of the run that the rise takes, 0 to 1 (1 excluded).

  Returns:
    Factor in [0, 1].
  """
  if progress < warmup:
    return progress / warmup
  rest = min((progress - warmup) / (1 - warmup), 1.0)
  return 0.5 * (1 + math.cos(math.pi * rest))


def step(epoch: int | float, *, every: int, decay: float = 0.5) -> float:
  """StepLR of torch: decay to the power of the periods that have passed.

  Args:
    epoch: position in the run, in epochs.
    every: length of a period, in epochs.
    decay: factor of each.

  Returns:
    Factor.
  """
  return decay ** (int(epoch) // every)


BITS_REACHED, BITS_FIXED = 0.6, 0.7  # Shares of a run.


def bit_target(progress: float, *, start: float, target: float) -> float:
  """Average bits to be driven to: a line from the start to the target.

  The line reaches the target at `BITS_REACHED` of the run. From `BITS_FIXED` on
  bits are not trained any more, see `bit_rate`.

  Args:
    progress: position in the run, 0 to 1.
    start: bits at its beginning.
    target: bits at its end.

  Returns:
    Bits.
  """
  share = min(progress / BITS_REACHED, 1.0)
  return start + share * (target - start)


def bit_rate(
  progress: float, *, start: float, target: float, steps: int
) -> float:
  """Learning rate of bits that have a target: twice what the line needs.

  Adam moves a bit-width by about its rate in each step, whatever the data.

  Args:
    progress: position in the run, 0 to 1.
    start: bits at its beginning.
    target: bits at its end.
    steps: optimizer steps of the run.

  Returns:
    Bits per step; 0 from `BITS_FIXED` on.
  """
  if progress >= BITS_FIXED:
    return 0.0
  distance = max(start - target, 0.5)  # Bits of single nodes move anyway.
  return 2 * distance / max(BITS_REACHED * steps, 1)


class Plateau(NamedTuple):
  """torch's ReduceLROnPlateau, mode min, relative threshold, no cooldown.

  Attributes:
    factor: the current learning-rate factor.
    best: lowest loss seen.
    bad_epochs: epochs since it was seen.
  """

  factor: float = 1.0
  best: float = math.inf
  bad_epochs: int = 0


def update_plateau(
  state: Plateau,
  loss: float,
  *,
  patience: int,
  decay: float = 0.5,
  threshold: float = 1e-4,
) -> Plateau:
  """The plateau state after an epoch.

  The factor is multiplied by `decay` when more than `patience` epochs in a
  row bring no loss below best (1 - threshold).

  Args:
    state: before the epoch.
    loss: validation loss of the epoch.
    patience: epochs in a row without improvement that leave the factor alone.
    decay: what the next such epoch multiplies it by.
    threshold: share of the best loss by which a lower one has to improve on it.

  Returns:
    The new state.
  """
  if loss < state.best * (1 - threshold):
    return Plateau(state.factor, loss, 0)
  bad = state.bad_epochs + 1
  if bad > patience:
    return Plateau(state.factor * decay, state.best, 0)
  return Plateau(state.factor, state.best, bad)
