"""Learning the outputs of a trained network beside the labels."""

import dataclasses
from typing import Any

import flax.linen as nn

from lorap_jax import graphs
from lorap_jax._typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A trained network, and how much of the loss it has.

  Attributes:
    model: Linen module called as `model(graph, layout=..., train=False)`.
    weight: share of the loss that is the distance from its outputs, see
      `tasks.Task.distillation`.
    temperature: of the probabilities that are compared; of classes.
    uses_layout: the layouts of the batches serve it.
    known: its outputs are given in place of its variables, for one batch that
      is the same in every step.
  """

  model: nn.Module
  weight: float
  temperature: float
  uses_layout: bool = True
  known: bool = False

  def outputs(self, given: PyTree, batch: graphs.Batch) -> Array:
    """Its outputs at evaluation.

    Args:
      given: its variables; or the outputs, where they are known.
      batch: what it looks at.

    Returns:
      [r, c], of all graphs or nodes of the batch.
    """
    if self.known:
      return given
    layout = batch.layout if self.uses_layout else None
    outputs: Any = self.model.apply(
      given, batch.graph, layout=layout, train=False
    )
    return outputs
