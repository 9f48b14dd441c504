"""One training step and one evaluation step, pure and jitted once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lorap_jax import graphs
from lorap_jax._typing import Array
from lorap_jax.nn import schemes, telemetry
from lorap_jax.training import accounting
from lorap_jax.training.state import TrainState


class StepMetrics(NamedTuple):
  """What a training step tells the loop; sums over the real graphs.

  Attributes:
    loss: cross entropy plus penalty, of the batch.
    cross_entropy: summed over graphs.
    correct: graphs classified rightly.
    count: graphs.
    bits: summed over elements of product operands.
    elements: number of those.
    memory: KiB that the penalty charges.
    finite: per gradient leaf, True if all its entries are.
  """

  loss: Array
  cross_entropy: Array
  correct: Array
  count: Array
  bits: Array
  elements: Array
  memory: Array
  finite: Array


def classification_sums(
  logits: Array, labels: Array, mask: Array
) -> tuple[Array, Array, Array]:
  """Cross entropy, right answers and number of the real graphs.

  Args:
    logits: [g, c].
    labels: int [g].
    mask: [g], True for real graphs.

  Returns:
    Three float32 scalars, sums over the real graphs.
  """
  # Labels and logits of padding are finite, so that where() is enough.
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  right = (jnp.argmax(logits, -1) == labels) & mask
  return (
    jnp.sum(jnp.where(mask, loss, 0)),
    jnp.sum(right, dtype=jnp.float32),
    jnp.sum(mask, dtype=jnp.float32),
  )


def make_train_step(
  model: nn.Module,
  scheme: schemes.Scheme,
  optimizer: optax.GradientTransformation,
) -> Callable[
  [TrainState, graphs.Batch, Array], tuple[TrainState, StepMetrics]
]:
  """The jitted training step; the old state is donated.

  Args:
    model: Linen module called as `model(graph, layout=..., train=...)`.
    scheme: for its penalty.
    optimizer: optax transformation.

  Returns:
    step(state, batch, factor) -> (state, metrics), where `factor` is a
    float32 array that multiplies all updates.
  """
  collections = ['batch_stats', 'quant_stats', 'memory', telemetry.COLLECTION]

  def loss_fn(params, state, batch):
    variables = state._replace(params=params).variables()
    logits, new = model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=collections,
      rngs={'quantization': jax.random.fold_in(state.key, state.step)},
    )
    sums = classification_sums(
      logits, batch.labels, graphs.graph_mask(batch.graph)
    )
    memory = sum(jax.tree.leaves(new.get('memory', {})), jnp.float32(0))
    loss = sums[0] / jnp.maximum(sums[2], 1) + scheme.penalty(memory)
    return loss, (new, sums, memory)

  def step(state, batch, factor):
    (loss, (new, sums, memory)), grads = jax.value_and_grad(
      loss_fn, has_aux=True
    )(state.params, state, batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: factor * u, updates)
    cross_entropy, correct, count = sums
    bits, elements = accounting.mean_bits(new[telemetry.COLLECTION])
    finite = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
    metrics = StepMetrics(
      loss=loss,
      cross_entropy=cross_entropy,
      correct=correct,
      count=count,
      bits=bits,
      elements=elements,
      memory=memory,
      finite=jnp.stack(finite),
    )
    state = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=new.get('batch_stats', state.batch_stats),
      quant_stats=new.get('quant_stats', state.quant_stats),
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(step, donate_argnums=0)


def make_settle_step(
  model: nn.Module,
) -> Callable[[TrainState, graphs.Batch], TrainState]:
  """The jitted step that renews the running statistics of batch norm.

  A training forward pass whose only effect is on `batch_stats`. While weights
  move fast, running averages describe networks of the last few steps, not the
  present one; some passes with the weights at rest mend that.

  Args:
    model: Linen module.

  Returns:
    step(state, batch) -> state; the old state is donated.

  References:
    Wu, Johnson: Rethinking "Batch" in BatchNorm, 2021, arXiv 2105.07576,
    section 3.2 (the true population statistics of a fixed model).
  """

  def step(state, batch):
    _, new = model.apply(
      state.variables(),
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['batch_stats'],
      rngs={'quantization': jax.random.fold_in(state.key, state.step)},
    )
    return state._replace(batch_stats=new.get('batch_stats', {}))

  return jax.jit(step, donate_argnums=0)


def make_eval_step(
  model: nn.Module,
) -> Callable[[dict[str, Any], graphs.Batch], tuple[Array, Array, Array]]:
  """The jitted evaluation step.

  Args:
    model: Linen module.

  Returns:
    step(variables, batch) -> the three sums of `classification_sums`.
  """

  def step(variables, batch):
    logits: Any = model.apply(
      variables, batch.graph, layout=batch.layout, train=False
    )
    return classification_sums(
      logits, batch.labels, graphs.graph_mask(batch.graph)
    )

  return jax.jit(step)


def make_cost_step(
  model: nn.Module,
) -> Callable[[dict[str, Any], graphs.Batch], tuple[Any, Any]]:
  """The jitted step that measures bits, bytes and operations.

  Args:
    model: Linen module.

  Returns:
    step(variables, batch) -> (`accounting.totals`, `accounting.constants`).
  """

  def step(variables, batch):
    _, new = model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=False,
      mutable=[telemetry.COLLECTION],
    )
    tree = new[telemetry.COLLECTION]
    return accounting.totals(tree, batch.graph), accounting.constants(tree)

  return jax.jit(step)
