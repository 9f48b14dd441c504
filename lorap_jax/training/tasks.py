"""What a network is trained for: its loss and its metric."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from lorap_jax._typing import Array


@dataclasses.dataclass(frozen=True)
class Task:
  """A kind of target.

  | kind           | loss                    | metric            |
  |----------------|-------------------------|-------------------|
  | classification | cross entropy           | `accuracy`        |
  | regression     | mean absolute error, L1 | `mae`, the same   |

  Attributes:
    kind: `classification` or `regression`.
  """

  kind: Literal['classification', 'regression'] = 'classification'

  @property
  def metric(self) -> str:
    """Name of the metric."""
    return 'accuracy' if self.kind == 'classification' else 'mae'

  @property
  def sign(self) -> int:
    """1 if larger values of the metric are better, else -1."""
    return 1 if self.kind == 'classification' else -1

  def sums(
    self, outputs: Array, labels: Array, mask: Array
  ) -> tuple[Array, Array, Array]:
    """Loss, metric and number of the targets.

    Args:
      outputs: [r, c] of graphs or nodes; c = 1 for regression.
      labels: int [r] classes, or float [r].
      mask: [r], True where a target counts.

    Returns:
      Three float32 scalars, sums over the targets that count.
    """
    count = jnp.sum(mask, dtype=jnp.float32)
    # Labels and outputs of padding are finite, so that where() is enough.
    if self.kind == 'regression':
      error = jnp.sum(jnp.where(mask, jnp.abs(outputs[:, 0] - labels), 0))
      return error, error, count
    labels = jnp.maximum(labels, 0)  # -1: unlabelled, masked.
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    right = (jnp.argmax(outputs, -1) == labels) & mask
    return (
      jnp.sum(jnp.where(mask, loss, 0)),
      jnp.sum(right, dtype=jnp.float32),
      count,
    )

  def smoothing(self, outputs: Array, labels: Array, mask: Array) -> Array:
    """What smoothed labels add to the cross entropy, over their share.

    With the label q_k = (1 - e) [k = y] + e / c in place of [k = y],

      -sum_k q_k log p_k = -log p_y + e (x_y - mean_k x_k),

    of which this is the last factor, x_y - mean_k x_k.

    Args:
      outputs: logits x [r, c] of a classification.
      labels: int [r] classes y.
      mask: [r], True where a target counts.

    Returns:
      A float32 scalar, the sum over the targets that count.

    Gradient:
      [k = y] - 1 / c to each logit of a target that counts.

    References:
      Szegedy et al.: Rethinking the Inception Architecture for Computer Vision,
      CVPR 2016, arXiv 1512.00567, section 7.
    """
    classes = jnp.maximum(labels, 0)[:, None]  # -1: unlabelled, masked.
    own = jnp.take_along_axis(outputs, classes, axis=1)[:, 0]
    return jnp.sum(jnp.where(mask, own - jnp.mean(outputs, axis=1), 0))
