"""A trained run, reloaded for use."""

import os
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from ml_collections import config_dict

from lorap_jax._typing import PyTree
from lorap_jax.graphs import Budget, batch_graphs
from lorap_jax.training import settings, state, workdir
from lorap_jax.training.checkpointing import Checkpoints


class LoadedRun(NamedTuple):
  """A trained network.

  Attributes:
    model: Linen module.
    variables: what `model.apply` takes first.
    config: the run's configuration, plain values.
  """

  model: nn.Module
  variables: dict[str, PyTree]
  config: dict[str, Any]


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
  """The network of a run at its best validation epoch.

  `model.apply(variables, graph, train=False)` gives the logits [g, c] of a
  jraph.GraphsTuple whose nodes have the features of the training data, or [n,
  c] for a node task.

  Args:
    folder: work folder of a run that has finished at least one epoch.

  Returns:
    Model, variables and configuration.

  Raises:
    ValueError: no run there, or no checkpoint yet.
  """
  path = pathlib.Path(folder).absolute()
  shape = workdir.read_json(path / workdir.DATA)
  config = workdir.read_json(path / workdir.CONFIG)
  config['prompt']['implementation'] = 'xla'  # Whatever it was trained on.
  chosen = settings.from_config(config_dict.ConfigDict(config))
  model = chosen.model(shape['num_classes'])
  # Node-level quantizers have parameters for each node, the padding included.
  node_task = chosen.config['model']['pool'] == 'none'
  count = shape['num_nodes'] - 1 if node_task else 1
  graph = jraph.GraphsTuple(
    nodes=jnp.zeros((count, shape['num_features'])),
    edges=None,
    senders=jnp.zeros(0, jnp.int32),
    receivers=jnp.zeros(0, jnp.int32),
    n_node=jnp.array([count]),
    n_edge=jnp.array([0]),
    globals=None,
  )
  batch = batch_graphs(
    [graph], np.zeros(1, np.int32), Budget(count + 1, 1, 2, 0), layout=False
  )
  abstract = jax.eval_shape(
    lambda: state.init_state(model, batch, jax.random.key(0))
  )
  checkpoints = Checkpoints(path / workdir.CHECKPOINTS)
  try:
    # Whatever the optimizer of the run kept.
    variables = checkpoints.load_entries('best', abstract.variables())
  finally:
    checkpoints.close()
  return LoadedRun(model, variables, config)
