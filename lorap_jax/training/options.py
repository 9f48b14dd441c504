"""What a training step does beside the plain loss and its optimizer."""

import dataclasses

from lorap_jax.training.augment import Augment
from lorap_jax.training.distillation import Teacher


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `steps.train_step`, all off by default.

  Equal ones give the same program; what is off is not part of it.

  Attributes:
    label_smoothing: share of each label that goes to all classes alike, see
      `tasks.Task.smoothing`; 0 for none.
    augment: how the positions of nodes are moved; None for not.
    ema: decay of the moving average of the parameters, which the state has
      then, see `state.moving_average`; 0 for none.
    teacher: whose outputs are learned beside the labels; None for none.
  """

  label_smoothing: float = 0.0
  augment: Augment | None = None
  ema: float = 0.0
  teacher: Teacher | None = None


NONE = Options()
