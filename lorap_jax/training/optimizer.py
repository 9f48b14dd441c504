"""Adam with parameter groups chosen by path."""

import dataclasses
import functools
from collections.abc import Hashable

import jax
import optax

from lorap_jax._typing import PyTree

_FEATURE_POINTS = ('features', 'input', 'aggregate')
_MESSAGE_POINTS = ('message', 'logits')
_WEIGHT_POINTS = ('weight', 'attention')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Learning rates of the parameter groups.

  | group           | parameters                          | rate             |
  |-----------------|-------------------------------------|------------------|
  | base            | kernels, biases, batch norm, eps    | learning_rate    |
  | prompt          | everything under a prompt           | x prompt_factor  |
  | feature_scale   | scales of feature group tables      | feature_scale_lr |
  | feature_bits    | bits of feature group tables        | feature_bits_lr  |
  | message_scale   | scales of messages                  | message_scale_lr |
  | weight_scale    | scales of weights                   | weight_scale_lr  |
  | bit_logits      | MixQ's choices of bits              | bit_logits_lr    |
  | frozen          | bits of messages and weights        | 0                |

  Attributes:
    learning_rate: of the base group.
    weight_decay: L2 of the base group, added to the gradient as torch's Adam.
    prompt_factor: prompt learning rate over learning_rate.
    prompt_weight_decay: L2 of the prompts.
    feature_scale_lr: see table.
    feature_bits_lr: see table.
    message_scale_lr: see table.
    weight_scale_lr: see table.
    bit_logits_lr: see table.
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


def group_of(path: tuple[str, ...]) -> str:
  """The parameter group of a path, by the table of OptimizerConfig.

  Args:
    path: module names and the parameter's name, outermost first.

  Returns:
    The group's name.
  """
  if any(name in ('prompt', 'node_prompt') for name in path[:-1]):
    return 'prompt'
  point, name = path[-2:] if len(path) > 1 else ('', path[-1])
  if name == 'bits':
    return 'feature_bits' if point in _FEATURE_POINTS else 'frozen'
  if name == 'scale' and point in _FEATURE_POINTS:
    return 'feature_scale'
  if name == 'scale' and point in _MESSAGE_POINTS:
    return 'message_scale'
  if name == 'scale' and point in _WEIGHT_POINTS:
    return 'weight_scale'
  if name == 'logits' and len(path) > 1:
    return 'bit_logits'
  return 'base'


def param_groups(params: PyTree) -> PyTree:
  """A tree like params with the group of each leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: group_of(tuple(key.key for key in path)), params
  )


@functools.lru_cache
def create_optimizer(
  config: OptimizerConfig,
) -> optax.GradientTransformation:
  """Adam for every group, at the learning rates of the config.

  Schedules are a factor common to all groups, applied to the updates by the
  training step.

  Args:
    config: learning rates.

  Returns:
    An optax transformation.
  """
  c = config
  rates = {
    'base': c.learning_rate,
    'prompt': c.learning_rate * c.prompt_factor,
    'feature_scale': c.feature_scale_lr,
    'feature_bits': c.feature_bits_lr,
    'message_scale': c.message_scale_lr,
    'weight_scale': c.weight_scale_lr,
    'bit_logits': c.bit_logits_lr,
    'frozen': 0.0,
  }
  decays = {'base': c.weight_decay, 'prompt': c.prompt_weight_decay}
  # One Adam for all groups, whose moments are alike, on one vector: kernels
  # take as long to compile for a bias as for a matrix.
  moments: dict[Hashable, optax.GradientTransformation] = {
    'trained': optax.flatten(optax.scale_by_adam()),
    'frozen': optax.set_to_zero(),
  }

  def decayed(grads, params):
    def add(grad, leaf, group):
      decay = decays.get(group, 0)
      return grad + decay * leaf if decay else grad

    return jax.tree.map(add, grads, params, param_groups(grads))

  def scaled(updates, params):
    del params
    scale = lambda update, group: -rates[group] * update
    return jax.tree.map(scale, updates, param_groups(updates))

  return optax.chain(
    optax.stateless(decayed),
    optax.partition(moments, _trained),
    optax.stateless(scaled),
  )


def _trained(params: PyTree) -> PyTree:
  return jax.tree.map(
    lambda group: 'frozen' if group == 'frozen' else 'trained',
    param_groups(params),
  )
