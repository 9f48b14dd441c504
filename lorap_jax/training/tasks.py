"""What a network is trained for: its loss and its metric."""

import dataclasses
from typing import Literal

import jax
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

  def distillation(
    self, outputs: Array, teacher: Array, mask: Array, temperature: float
  ) -> Array:
    """The distance from the outputs of a teacher.

    | kind           | distance                                           |
    |----------------|----------------------------------------------------|
    | classification | T^2 KL(q || p), q = softmax(z / T), p = softmax(x / T) |
    | regression     | abs(x - z), as the task's own loss                 |

    Args:
      outputs: x [r, c], of the network that learns.
      teacher: z [r, c].
      mask: [r], True where a target counts.
      temperature: T; of classes.

    Returns:
      A float32 scalar, the sum over the targets that count.

    Gradient:
      T (p - q) to x; none to z.

    References:
      Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015,
      arXiv 1503.02531, section 2.
    """
    teacher = jax.lax.stop_gradient(teacher)
    if self.kind == 'regression':
      distance = jnp.abs(outputs[:, 0] - teacher[:, 0])
    else:
      log_p, log_q = (
        jax.nn.log_softmax(x / temperature) for x in (outputs, teacher)
      )
      kl = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=1)
      distance = temperature**2 * kl
    return jnp.sum(jnp.where(mask, distance, 0))

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
