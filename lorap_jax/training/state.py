"""The state of a training run on the device."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lorap_jax import graphs
from lorap_jax._typing import Array, PyTree


class TrainState(NamedTuple):
  """Everything a training step reads and replaces.

  Attributes:
    step: int32, optimizer steps taken.
    params: trained parameters, prompts and quantizers included.
    batch_stats: running means and variances of batch norm.
    quant_stats: observers of the quantizers; empty for A2Q and FP32.
    opt_state: optax state.
    key: typed random key of the run; step keys are folded from it.
  """

  step: Array
  params: PyTree
  batch_stats: PyTree
  quant_stats: PyTree
  opt_state: Any
  key: Array

  def variables(self) -> dict[str, PyTree]:
    """What `model.apply` takes."""
    return {
      'params': self.params,
      'batch_stats': self.batch_stats,
      'quant_stats': self.quant_stats,
    }


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  batch: graphs.Batch,
  key: Array,
) -> TrainState:
  """Initial state.

  Args:
    model: Linen module called as `model(graph, layout=..., train=...)`.
    optimizer: optax transformation.
    batch: a real batch; quantizers start from its ranges.
    key: typed random key.

  Returns:
    The state. Its leaves are strongly typed arrays, so that the second step
    finds the program of the first.
  """

  def create(key, batch):
    init_key, run_key = jax.random.split(key)
    # train=True, because quantizers start from the ranges they see, and batch
    # norm has no useful running statistics yet. init updates none.
    variables = model.init(
      init_key, batch.graph, layout=batch.layout, train=True
    )
    params = variables['params']
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      batch_stats=variables.get('batch_stats', {}),
      quant_stats=variables.get('quant_stats', {}),
      opt_state=optimizer.init(params),
      key=run_key,
    )
    return jax.tree.map(
      lambda a: jax.lax.convert_element_type(a, a.dtype), state
    )

  return jax.jit(create)(key, batch)
