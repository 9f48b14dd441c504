"""Passes of any Linen module that is made of this library's layers.

For training loops of one's own: `init` and `apply` know the collections and the
random streams that quantizers, prompts and norms use.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Float, PyTree
from lorap_jax.nn import methods, prompts, telemetry
from lorap_jax.training import accounting

_STATISTICS = ('batch_stats', 'quant_stats')


class Pass(NamedTuple):
  """What one call of a module returns beside its outputs.

  Attributes:
    variables: those given, with their statistics updated where `train`.
    memory: KiB that the scheme charges, for `scheme.penalty(memory)`.
    local_loss: of prompts with an objective of their own, else 0.
    telemetry: records of bits and cost, for `average_bits`.
    bit_usage: of A2Q's features, for `bit_budget.target_penalty`.
  """

  variables: PyTree
  memory: Float[Array, '']
  local_loss: Float[Array, '']
  telemetry: PyTree
  bit_usage: PyTree


def init(model: nn.Module, key: Array, *args: Any, **kwargs: Any) -> PyTree:
  """The variables of a module: `params`, and statistics where it has them.

  Args:
    model: any Linen module.
    key: of jax.random.
    *args: of a call. Quantizers start from the ranges they see, so that the
      data should be real.
    **kwargs: of a call, likewise.

  Returns:
    The collections.
  """
  streams = random_streams(key) | {'params': jax.random.fold_in(key, 2)}
  return model.init(streams, *args, **kwargs)


def apply(
  model: nn.Module,
  variables: PyTree,
  *args: Any,
  train: bool = False,
  key: Array | None = None,
  **kwargs: Any,
) -> tuple[Any, Pass]:
  """Calls `model(*args, train=train, **kwargs)`.

  Args:
    model: any Linen module that takes `train`.
    variables: from `init`, or from the last pass.
    *args: of the call.
    train: batch norm and observers use and update the statistics of the batch.
    key: for dropout, and for the nodes that Degree-Quant protects; another one
      for each step. Not needed without them.
    **kwargs: of the call.

  Returns:
    (outputs, what else the pass has), both with gradients.
  """
  outputs, new = model.apply(
    variables,
    *args,
    train=train,
    mutable=[
      *(_STATISTICS if train else ()),
      'memory',
      prompts.LOCAL_LOSS,
      telemetry.COLLECTION,
      telemetry.BIT_USAGE,
    ],
    rngs={} if key is None else random_streams(key),
    **kwargs,
  )
  total = lambda name: sum(jax.tree.leaves(new.get(name, {})), jnp.float32(0))
  return outputs, Pass(
    {**variables, **{name: new[name] for name in _STATISTICS if name in new}},
    total('memory'),
    total(prompts.LOCAL_LOSS),
    new.get(telemetry.COLLECTION, {}),
    new.get(telemetry.BIT_USAGE, {}),
  )


def average_bits(seen: Pass, scheme: methods.Scheme) -> Float[Array, '']:
  """Bits per stored feature element of a pass, weighted by use.

  Args:
    seen: from `apply`.
    scheme: that of the layers; it says which tensors its networks store.

  Returns:
    The average over the real rows of the batch; 32 if nothing is stored.
  """
  total, count = accounting.mean_bits(seen.telemetry, scheme.stored)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), 32.0)


def random_streams(key: Array) -> dict[str, Array]:
  """The keys of a pass: of protected nodes, and of dropout."""
  return {'quantization': key, 'dropout': jax.random.fold_in(key, 1)}


def augmentation_key(key: Array) -> Array:
  """The key of what is drawn of a batch before a pass; 2 is that of `init`."""
  return jax.random.fold_in(key, 3)
