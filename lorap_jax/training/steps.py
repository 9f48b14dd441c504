"""One training step and one evaluation step, pure and jitted once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lorap_jax import graphs
from lorap_jax._typing import Array, PyTree
from lorap_jax.graphs import shards
from lorap_jax.nn import groups, methods, telemetry
from lorap_jax.quantization import bit_budget
from lorap_jax.training import accounting, passes
from lorap_jax.training import augment as augment_lib
from lorap_jax.training import options as options_lib
from lorap_jax.training.optimizer import create_optimizer
from lorap_jax.training.state import TrainState, moving_average
from lorap_jax.training.tasks import Task

# Kept of each kind: MixQ's second phase has another program for every seed, and
# each holds megabytes of machine code.
NUM_PROGRAMS = 8


class StepMetrics(NamedTuple):
  """What a training step tells the loop.

  Attributes:
    loss: what is minimized: task loss, penalty and what options add, of the
      batch.
    task_loss: the plain one, summed over the targets, graphs or nodes.
    metric: summed over the targets.
    count: targets.
    bits: summed over elements of product operands.
    elements: number of those.
    memory: KiB that the penalty charges.
    finite: per gradient leaf, True if all its entries are.
  """

  loss: Array
  task_loss: Array
  metric: Array
  count: Array
  bits: Array
  elements: Array
  memory: Array
  finite: Array


# Of a state, a batch, `optimizer.Rates` and, if there is one, a teacher.
Step = Callable[..., tuple[TrainState, StepMetrics]]


def train_step(
  model: nn.Module,
  scheme: methods.Scheme,
  task: Task,
  options: options_lib.Options = options_lib.NONE,
) -> Step:
  """One training step as a pure function.

  Args:
    model: Linen module called as `model(graph, layout=..., train=...)`.
    scheme: for its penalty.
    task: for its loss.
    options: what it does beside.

  Returns:
    step(state, batch, rates, teacher) -> (state, metrics), with
    `OptimizerConfig.rates` and, where the options have a teacher, what its
    `outputs` takes.
  """

  def loss_fn(params, state, batch, target_bits, guide):
    outputs, seen = passes.apply(
      model,
      state._replace(params=params).variables(),
      batch.graph,
      layout=batch.layout,
      train=True,
      key=step_key(state),
    )
    sums = task.sums(outputs, batch.labels, batch.target_mask())
    loss = sums[0] / jnp.maximum(sums[2], 1)
    if options.label_smoothing:
      extra = task.smoothing(outputs, batch.labels, batch.target_mask())
      loss += options.label_smoothing * extra / jnp.maximum(sums[2], 1)
    if options.teacher is not None:
      weight, temperature = options.teacher.weight, options.teacher.temperature
      extra = task.distillation(
        outputs, guide, batch.target_mask(), temperature
      )
      loss = (1 - weight) * loss + weight * extra / jnp.maximum(sums[2], 1)
    loss += scheme.penalty(seen.memory)
    loss += seen.local_loss
    if scheme.bit_schedule is not None:
      loss += _target_penalty(seen.bit_usage, target_bits)
    return loss, (seen, sums)

  def step(state, batch, rates, teacher=None):
    if options.augment is not None:
      key = passes.augmentation_key(step_key(state))
      batch = augment_lib.moved(batch, key, options.augment)
    guide = None
    if options.teacher is not None:
      guide = options.teacher.outputs(teacher, batch)
    with groups.recording() as declared:
      (loss, (seen, sums)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params, state, batch, rates.target_bits, guide
      )
    optimizer = create_optimizer(groups.label(state.params, declared))
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.params, rates=rates
    )
    bits, elements = accounting.mean_bits(seen.telemetry, scheme.stored)
    finite = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
    metrics = StepMetrics(
      loss=loss,
      task_loss=sums[0],
      metric=sums[1],
      count=sums[2],
      bits=bits,
      elements=elements,
      memory=seen.memory,
      finite=jnp.stack(finite),
    )
    new = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=seen.variables['batch_stats'],
      quant_stats=seen.variables['quant_stats'],
      opt_state=opt_state,
    )
    if options.ema:
      average = moving_average(state.ema, new.params, state.step, options.ema)
      new = new._replace(ema=average)
    return shards.replicated((new, metrics))

  return step


def _target_penalty(usages: PyTree, target: Array) -> Array:
  """`bit_budget.target_penalty` of the raw features, and of all others.

  The average bits of a network leave its raw features out, see `accounting`.
  """
  raw, hidden = [], []
  leaves = jax.tree_util.tree_leaves_with_path(
    usages, is_leaf=lambda leaf: isinstance(leaf, bit_budget.BitUsage)
  )
  for path, usage in leaves:
    (raw if path[-1].key == 'features' else hidden).append(usage)
  penalties = [
    bit_budget.target_penalty(part, target) for part in (raw, hidden) if part
  ]
  return sum(penalties, jnp.float32(0))


def step_key(state: TrainState) -> Array:
  """The key of the present step, see `passes.random_streams`."""
  return jax.random.fold_in(state.key, state.step)


@functools.lru_cache(NUM_PROGRAMS)
def make_train_step(
  model: nn.Module,
  scheme: methods.Scheme,
  task: Task,
  options: options_lib.Options = options_lib.NONE,
) -> Step:
  """The jitted training step; the old state is donated.

  Equal arguments give the same program, so that seeds, folds and rates share
  one.

  Args:
    model: see `train_step`.
    scheme: see `train_step`.
    task: see `train_step`.
    options: see `train_step`.

  Returns:
    See `train_step`.
  """
  return jax.jit(train_step(model, scheme, task, options), donate_argnums=0)


def settle_step(
  model: nn.Module,
) -> Callable[[TrainState, graphs.Batch], TrainState]:
  """The step that renews the running statistics of batch norm.

  A training forward pass of the network that is evaluated (that of the averaged
  parameters, if any), whose only effect is on `batch_stats`. While weights
  move fast, running averages describe networks of the last few steps, not the
  present one; some passes with the weights at rest mend that.

  Args:
    model: Linen module.

  Returns:
    step(state, batch) -> state.

  References:
    Wu, Johnson: Rethinking "Batch" in BatchNorm, 2021, arXiv 2105.07576,
    section 3.2 (the true population statistics of a fixed model).
  """

  def step(state, batch):
    _, new = model.apply(
      state.evaluated().variables(),
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=['batch_stats'],
      rngs=passes.random_streams(step_key(state)),
    )
    statistics = shards.replicated(new.get('batch_stats', {}))
    return state._replace(batch_stats=statistics)

  return step


@functools.lru_cache(NUM_PROGRAMS)
def make_settle_step(
  model: nn.Module,
) -> Callable[[TrainState, graphs.Batch], TrainState]:
  """The jitted `settle_step`; the old state is donated."""
  return jax.jit(settle_step(model), donate_argnums=0)


@functools.lru_cache(NUM_PROGRAMS)
def make_sums(
  task: Task,
) -> Callable[[Array, Array], tuple[Array, Array, Array]]:
  """The jitted `Task.sums` of outputs and labels that all count."""

  def sums(outputs, labels):
    return task.sums(outputs, labels, jnp.ones(labels.shape, bool))

  return jax.jit(sums)


@functools.lru_cache(NUM_PROGRAMS)
def make_eval_step(
  model: nn.Module, task: Task
) -> Callable[[dict[str, Any], graphs.Batch], tuple[Array, Array, Array]]:
  """The jitted evaluation step.

  Args:
    model: Linen module.
    task: for its metric.

  Returns:
    step(variables, batch) -> the three sums of `Task.sums`.
  """

  def step(variables, batch):
    outputs: Any = model.apply(
      variables, batch.graph, layout=batch.layout, train=False
    )
    sums = task.sums(outputs, batch.labels, batch.target_mask())
    return shards.replicated(sums)

  return jax.jit(step)


def culprit(
  model: nn.Module, variables: dict[str, Any], batch: graphs.Batch
) -> str | None:
  """What is the first not to be finite in a forward pass; a slow, second look.

  Args:
    model: Linen module.
    variables: of the state in question.
    batch: any.

  Returns:
    The first parameter, range or statistic; else the layer and quantization
    point of the first tensor whose squares leave float32; None where all is
    finite.
  """
  for collection, tree in variables.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      if not jnp.isfinite(leaf).all():
        name = '/'.join(str(getattr(key, 'key', key)) for key in path)
        return f'{name} of {collection}'
  _, new = model.apply(
    variables,
    batch.graph,
    layout=batch.layout,
    train=False,
    mutable=[telemetry.COLLECTION],
  )
  return _first_point(new.get(telemetry.COLLECTION, {}), ())


def _first_point(tree: Any, path: tuple[str, ...]) -> str | None:
  """In the order of the modules' calls, which sorted trees have lost."""
  if isinstance(tree, telemetry.FeatureRecord):
    sums = (tree.energy * tree.mask, tree.error * tree.mask)
    if all(bool(jnp.isfinite(v).all()) for v in sums):
      return None
    layer = '/'.join(path[:-1])
    return f'{layer} (quantization point {tree.point!r})'
  if not isinstance(tree, dict):
    return None
  found = (_first_point(part, (*path, name)) for name, part in tree.items())
  return next((name for name in found if name), None)


@functools.lru_cache(NUM_PROGRAMS)
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
    cost = accounting.totals(tree, batch.graph), accounting.constants(tree)
    return shards.replicated(cost)

  return jax.jit(step)
