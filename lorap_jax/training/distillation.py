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
  """

  model: nn.Module
  weight: float
  temperature: float
  uses_layout: bool = True

  def outputs(self, variables: PyTree, batch: graphs.Batch) -> Array:
    """Its outputs at evaluation, [r, c] of all graphs or nodes of a batch."""
    layout = batch.layout if self.uses_layout else None
    outputs: Any = self.model.apply(
      variables, batch.graph, layout=layout, train=False
    )
    return outputs
