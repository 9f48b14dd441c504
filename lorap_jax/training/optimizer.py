"""Adam with the parameter groups that modules declare, see `nn.groups`."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lorap_jax._typing import PyTree


class Rates(NamedTuple):
  """Learning rates and decays by parameter group, and the target of the bits.

  Attributes:
    learning: learning rates; a group without one is frozen.
    decay: L2 weights; a group without one has none.
    target_bits: present target of the average bits, for schemes with one.
  """

  learning: dict[str, Any]
  decay: dict[str, Any]
  target_bits: Any


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Learning rates of the parameter groups.

  | group           | parameters                          | rate             |
  |-----------------|-------------------------------------|------------------|
  | base            | kernels, biases, batch norm, eps    | learning_rate    |
  | prompt          | everything under a prompt           | x prompt_factor  |
  | feature_scale   | scales of features                  | feature_scale_lr |
  | feature_bits    | bits of features                    | feature_bits_lr  |
  | message_scale   | scales of messages                  | message_scale_lr |
  | weight_scale    | scales of weights                   | weight_scale_lr  |
  | bit_logits      | logits of MixQ's candidate bits     | bit_logits_lr    |
  | frozen          | bits of messages and weights        | none             |

  Attributes:
    learning_rate: rate of the base group.
    weight_decay: L2 weight of the base group, whose term is added to the
      gradient as in torch's Adam.
    prompt_factor: rate of prompts over `learning_rate`.
    prompt_weight_decay: L2 weight of prompts.
    feature_scale_lr: rate of A2Q's feature scales.
    feature_bits_lr: rate of A2Q's feature bits.
    message_scale_lr: rate of A2Q's message scales.
    weight_scale_lr: rate of A2Q's weight scales.
    bit_logits_lr: rate of MixQ's logits, which choose the bits.
  """

  learning_rate: float = 1e-3
  weight_decay: float = 0.0
  prompt_factor: float = 1.0
  prompt_weight_decay: float = 0.0
  feature_scale_lr: float = 5e-3
  feature_bits_lr: float = 1e-4
  message_scale_lr: float = 5e-3
  weight_scale_lr: float = 5e-4
  bit_logits_lr: float = 1e-2

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not 0 <= value < float('inf'):
        raise ValueError(f'`{field.name}` must be 0 or more, got {value}')

  def rates(
    self,
    factor: float | Sequence[float] = 1.0,
    *,
    bits_lr: float | Sequence[float] | None = None,
    target_bits: float | Sequence[float] = 0.0,
  ) -> Rates:
    """The rates of the groups at a place in the schedule.

    Args:
      factor: common to all learning rates; k factors for k places.
      bits_lr: learning rate of learned bits in place of `feature_bits_lr` and
        its factor; one for each place.
      target_bits: target of the average bits; one, or one for each place.

    Returns:
      float32 arrays [], or [k] for k places.
    """
    factors = np.asarray(factor)
    learning = {
      'base': self.learning_rate,
      'prompt': self.learning_rate * self.prompt_factor,
      'feature_scale': self.feature_scale_lr,
      'feature_bits': self.feature_bits_lr,
      'message_scale': self.message_scale_lr,
      'weight_scale': self.weight_scale_lr,
      'bit_logits': self.bit_logits_lr,
    }
    decay = {'base': self.weight_decay, 'prompt': self.prompt_weight_decay}
    rates: dict[str, Any] = {
      group: np.float32(rate * factors) for group, rate in learning.items()
    }
    if bits_lr is not None:
      rates['feature_bits'] = np.asarray(bits_lr, np.float32)
    return Rates(
      rates,
      {
        group: np.full(factors.shape, rate, np.float32)
        for group, rate in decay.items()
      },
      np.float32(np.broadcast_to(target_bits, factors.shape)),
    )


def create_optimizer(
  labels: PyTree,
) -> optax.GradientTransformationExtraArgs:
  """Adam for every group, at rates that are given with each update.

  g' = g + decay p,  u = -rate Adam(g'),  rate and decay of the leaf's group.
  No rate is part of the compiled program, so that runs which differ in nothing
  else share it, one after the other or side by side.

  Args:
    labels: the group of each parameter, see `nn.groups`.

  Returns:
    An optax transformation whose `update` takes the `Rates` as `rates`.
  """
  # One Adam for all groups, whose moments are alike, on one vector: kernels
  # take as long to compile for a bias as for a matrix.
  moments: dict[Hashable, optax.GradientTransformation] = {
    'trained': optax.flatten(optax.scale_by_adam()),
    'frozen': optax.set_to_zero(),
  }
  kinds = jax.tree.map(
    lambda group: 'frozen' if group == 'frozen' else 'trained', labels
  )
  adam = optax.partition(moments, kinds)

  def update(grads, state, params, *, rates: Rates):
    def decayed(grad, leaf, group):
      return grad + rates.decay[group] * leaf if group in rates.decay else grad

    def scaled(step, group):
      return -rates.learning[group] * step if group in rates.learning else step

    grads = jax.tree.map(decayed, grads, params, labels)
    updates, state = adam.update(grads, state, params)
    return jax.tree.map(scaled, updates, labels), state

  return optax.GradientTransformationExtraArgs(adam.init, update)  # pyrefly: ignore
