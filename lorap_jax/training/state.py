"""The state of a training run on the device."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from lorap_jax import graphs
from lorap_jax._typing import Array, PyTree
from lorap_jax.graphs import shards
from lorap_jax.nn import groups
from lorap_jax.quantization import mixq_search
from lorap_jax.training.optimizer import create_optimizer

_NUM_LABELS = 8  # Models whose labels are kept.


class TrainState(NamedTuple):
  """Everything a training step reads and replaces.

  Attributes:
    step: int32, optimizer steps taken.
    params: trained parameters, prompts and quantizers included.
    batch_stats: running means and variances of batch norm.
    quant_stats: observers of the quantizers; empty for A2Q and FP32.
    opt_state: optax state.
    key: typed random key of the run; step keys are folded from it.
    ema: moving average of `params`, see `moving_average`; empty for none.
  """

  step: Array
  params: PyTree
  batch_stats: PyTree
  quant_stats: PyTree
  opt_state: Any
  key: Array
  ema: PyTree = {}

  def variables(self) -> dict[str, PyTree]:
    """What `model.apply` takes."""
    return {
      'params': self.params,
      'batch_stats': self.batch_stats,
      'quant_stats': self.quant_stats,
    }

  def evaluated(self) -> 'TrainState':
    """The network that is evaluated: of the averaged parameters, if any."""
    return self._replace(params=self.ema, ema={}) if self.ema else self


def init_state(
  model: nn.Module,
  batch: graphs.Batch,
  key: Array,
  *,
  weights: dict[str, PyTree] | None = None,
  averaged: bool = False,
) -> TrainState:
  """Initial state.

  Args:
    model: Linen module called as `model(graph, layout=..., train=...)`.
    batch: a real batch; quantizers start from its ranges.
    key: typed random key.
    weights: `params` and `batch_stats` to start from, see
      `runs.restore.weights_of`; what they lack (quantizers, prompts) starts
      from the batch seen with them, and what the model lacks is left out.
    averaged: keep a moving average of the parameters, which starts from them.

  Returns:
    The state. Its leaves are strongly typed arrays, so that the second step
    finds the program of the first.

  Raises:
    ValueError: weights of other shapes.
  """
  return _create(model, averaged, key, batch, weights)


# Equal models share the program: seeds compile it once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _create(model, averaged, key, batch, weights):
  init_key, run_key = jax.random.split(key)
  # train=True, because quantizers start from the ranges they see, and batch
  # norm has no useful running statistics yet.
  streams = dict.fromkeys(('params', 'dropout', 'quantization'), init_key)
  inputs = {'layout': batch.layout, 'train': True}
  with groups.recording() as declared:
    variables = model.init(streams, batch.graph, **inputs)
  if weights is not None:
    given = _fitting(weights, variables)
    _, variables = model.apply(
      given, batch.graph, **inputs, mutable=True, rngs=streams
    )
    # Seen with them, but theirs are the running statistics.
    variables = {**variables, 'batch_stats': given.get('batch_stats', {})}
  params = variables['params']
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get('batch_stats', {}),
    quant_stats=variables.get('quant_stats', {}),
    opt_state=create_optimizer(groups.label(params, declared)).init(params),
    key=run_key,
    # Arrays of their own: a step gives the old ones away.
    ema=jax.tree.map(jnp.copy, params) if averaged else {},
  )
  strong = lambda a: jax.lax.convert_element_type(a, a.dtype)
  return shards.replicated(jax.tree.map(strong, state))


def moving_average(
  average: PyTree, params: PyTree, step: Array, decay: float
) -> PyTree:
  """The average of parameters after another step.

  With the number t of steps before it,

    a <- a + (1 - d) (p - a),  d = min(decay, (1 + t) / (10 + t)).

  The smaller d at the start lets the first parameters go. What does not move
  stays as it is, to the last bit.

  Args:
    average: a, of the steps before.
    params: p, after the step.
    step: int32 t.
    decay: in (0, 1).

  Returns:
    The new average.

  References:
    Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging,
    SIAM Journal on Control and Optimization 30(4), 1992. The decay at the start
    is that of TensorFlow's `tf.train.ExponentialMovingAverage` (`num_updates`).
  """
  steps = step.astype(jnp.float32)
  rest = 1 - jnp.minimum(decay, (1 + steps) / (10 + steps))
  return jax.tree.map(lambda a, p: a + rest * (p - a), average, params)


def labels_of(model: nn.Module, batch: graphs.Batch) -> PyTree:
  """`nn.groups.param_labels` of a model, traced once for equal models.

  Args:
    model: Linen module called as `model(graph, layout=..., train=...)`.
    batch: any batch; only its shapes and types matter.

  Returns:
    The group of each parameter.
  """
  leaves, structure = jax.tree.flatten((batch.graph, batch.layout))
  return _labels(model, structure, tuple((a.shape, a.dtype) for a in leaves))


@functools.lru_cache(_NUM_LABELS)
def _labels(model, structure, shapes):
  leaves = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
  graph, layout = jax.tree.unflatten(structure, leaves)
  return groups.param_labels(model, graph, layout=layout, train=True)


def _fitting(
  weights: dict[str, PyTree], variables: Mapping[str, PyTree]
) -> dict[str, PyTree]:
  """Those of the weights that a model with these variables has."""
  have: dict[Any, Any] = traverse_util.flatten_dict(dict(variables))
  given = {}
  flat: dict[Any, Any] = traverse_util.flatten_dict(weights)
  for path, leaf in flat.items():
    if path not in have:
      continue
    if leaf.shape != have[path].shape:
      raise ValueError(
        f'config.train: `init_from` has {"/".join(path[1:])} {leaf.shape}, '
        f'this model {have[path].shape}; start from a run of the same widths'
      )
    given[path] = leaf
  return traverse_util.unflatten_dict(given)


def chosen_bits(
  params: PyTree, labels: PyTree, candidates: tuple[int, ...]
) -> dict[str, int]:
  """The bit-width that MixQ's search prefers at each quantizer.

  Args:
    params: parameters of a network with `MixQSearch`.
    labels: group of each parameter, see `nn.groups`.
    candidates: bit-widths that the search chooses from.

  Returns:
    Path of the quantizer to its bits.
  """
  chosen = {}
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), group in zip(leaves, jax.tree.leaves(labels), strict=True):
    *module, _ = (key.key for key in path)
    if group == 'bit_logits':
      chosen['/'.join(module)] = int(mixq_search.select_bits(leaf, candidates))
  return chosen
