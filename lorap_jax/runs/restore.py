"""A trained run, reloaded for use."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from lorap_jax._typing import Array, PyTree
from lorap_jax.data import GraphDataset, NodeDataset, pipeline
from lorap_jax.graphs import Batch, Relations, batching, checks, relations
from lorap_jax.runs import settings, workdir
from lorap_jax.runs.checkpointing import Checkpoints
from lorap_jax.training import state, steps

Graphs = (
  jraph.GraphsTuple | Sequence[jraph.GraphsTuple] | GraphDataset | NodeDataset
)


class LoadedRun(NamedTuple):
  """A trained network.

  Attributes:
    model: Linen module.
    variables: what `model.apply` takes first.
    config: the run's configuration, plain values.
    data: record of the data that it was trained on: `num_features`,
      `num_classes`, `num_nodes` (of the one graph, or of its batches), `name`;
      `num_relations` if its edges were of several kinds.
  """

  model: nn.Module
  variables: dict[str, PyTree]
  config: dict[str, Any]
  data: dict[str, Any]

  def predict(self, graphs: Graphs, *, batch_size: int = 128) -> np.ndarray:
    """The outputs for graphs that need no padding, in their order.

    Many graphs go through in padded batches of one shape, so that one
    compilation serves them all. A graph whose nodes are classified goes
    through whole.

    Args:
      graphs: a jraph.GraphsTuple of one or many graphs, a sequence of such, or
        a data set. All that it has is taken as real, unless its `globals` say
        otherwise, see `graphs.RealGraphs`.
      batch_size: graphs per batch, for a network of graphs.

    Returns:
      float32 [g, outputs] of the graphs, or [n, outputs] of the nodes: logits
      of the classes, or the number itself.

    Raises:
      ValueError: an array whose shape, type or values fit no graph, another
        number of features or of relations than the run's, or (A2Q with
        parameters for each node) another number of nodes.
    """
    batching.check_batch_size(batch_size)
    if isinstance(graphs, NodeDataset):
      graphs = _as_graph(graphs)
    kinds = None
    if isinstance(graphs, GraphDataset):
      data = graphs
    else:
      data, kinds = _ragged(graphs)
    self._check_relations(kinds)
    width = self.data['num_features']
    if data.nodes.shape[1] != width:
      raise ValueError(
        f'`graphs` has {data.nodes.shape[1]} features per node; the run in '
        f'question was trained on {width}'
      )
    if self._settings().level == 'node':
      return self._of_nodes(data, kinds)
    return self._of_graphs(data, batch_size)

  def _check_relations(self, kinds: Relations | None) -> None:
    there = None if kinds is None else kinds.count
    trained = self.data.get('num_relations')
    if settings.is_relational(self.model) and there != trained:
      raise ValueError(
        f'`graphs` has {there or "no"} relations of edges; the run in question '
        f'was trained on {trained or "none"}'
      )

  def _settings(self) -> settings.Settings:
    return settings.from_record(self.config)

  def _of_graphs(self, data: GraphDataset, batch_size: int) -> np.ndarray:
    chosen = self._settings()
    loader = pipeline.Loader(
      data,
      pipeline.joint_budget((data,), batch_size=batch_size),
      layout=chosen.uses_layout,
      weighted=chosen.weighted,
    )
    step, outputs = make_predict_step(self.model), []
    plan = loader.ordered()
    for indices in plan:
      batch = jax.device_put(loader.batch(indices))
      outputs.append(np.asarray(step(self.variables, batch))[: len(indices)])
    return np.concatenate(outputs)

  def _of_nodes(
    self, data: GraphDataset, kinds: Relations | None
  ) -> np.ndarray:
    count = len(data.nodes)
    budget = pipeline.whole_budget(data)
    trained = self.data['num_nodes']
    if self._settings().scheme.per_node and count != trained:
      if count != trained - 1:
        raise ValueError(
          f'`graphs` has {count} nodes; this network has quantizer parameters '
          f'for each of the {trained} nodes of its graph, and serves no other '
          'graph'
        )
      # A run of a version that padded its graph by a node.
      budget = budget._replace(
        num_nodes=trained, num_graphs=budget.num_graphs + 1
      )
    loader = pipeline.Loader(data, budget, layout=False, relations=kinds)
    batch = loader.batch(np.arange(data.num_graphs))
    step = make_predict_step(self.model)
    return np.asarray(step(self.variables, jax.device_put(batch)))[:count]


@functools.lru_cache(steps.NUM_PROGRAMS)
def make_predict_step(
  model: nn.Module,
) -> Callable[[dict[str, Any], Batch], Array]:
  """The jitted forward pass.

  Args:
    model: Linen module.

  Returns:
    step(variables, batch) -> outputs, those of padding included.
  """

  def step(variables, batch):
    return model.apply(variables, batch.graph, layout=batch.layout, train=False)

  return jax.jit(step)


def _as_graph(data: NodeDataset) -> jraph.GraphsTuple:
  arrays: dict[str, Any] = {
    'nodes': data.nodes,
    'senders': data.senders,
    'receivers': data.receivers,
    'n_node': np.array([data.num_nodes]),
    'n_edge': np.array([len(data.senders)]),
  }
  edges: Any = pipeline.relations_of(data)
  return jraph.GraphsTuple(**arrays, edges=edges, globals=None)


def _ragged(
  graphs: jraph.GraphsTuple | Sequence[jraph.GraphsTuple],
) -> tuple[GraphDataset, Relations | None]:
  """Checked graphs one after the other, with ids inside each graph."""
  if not isinstance(graphs, Iterable):
    raise ValueError(
      f'`graphs` is a {type(graphs).__name__}; give a jraph.GraphsTuple, some '
      'of them, or a data set'
    )
  parts: list[Any] = (
    [graphs] if isinstance(graphs, jraph.GraphsTuple) else list(graphs)
  )
  if not parts:
    raise ValueError('`graphs` is empty; give at least one graph')
  parts = [
    checks.check_graph(part, f'graphs[{i}]' if len(parts) > 1 else 'graphs')
    for i, part in enumerate(parts)
  ]
  widths = sorted({part.nodes.shape[1] for part in parts})
  if len(widths) > 1:
    raise ValueError(f'`graphs` have different numbers of features: {widths}')
  join = lambda field: np.concatenate([getattr(p, field) for p in parts])
  starts = [np.cumsum(p.n_node) - p.n_node for p in parts]
  local = lambda field: np.concatenate(
    [
      getattr(p, field) - np.repeat(start, p.n_edge)
      for p, start in zip(parts, starts, strict=True)
    ]
  )
  n_node = join('n_node').astype(np.int32)
  kinds = relations.joined(parts)
  data = GraphDataset(
    nodes=join('nodes'),
    senders=local('senders'),
    receivers=local('receivers'),
    n_node=n_node,
    n_edge=join('n_edge').astype(np.int32),
    labels=np.zeros(len(n_node), np.int32),
  )
  return data, kinds


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
  """The network of a run at its best validation epoch.

      run = load_run('runs/mnist_a2q_lorap')
      logits = run.predict(graph)

  `run.model.apply(run.variables, graph, train=False)` is the same for one
  jraph.GraphsTuple, inside of other JAX programs.

  Args:
    folder: work folder of a run that has finished at least one epoch.

  Returns:
    Model, variables, configuration and record of the data.

  Raises:
    ValueError: no run there, no checkpoint yet, or damaged files.
  """
  path = pathlib.Path(folder).absolute()
  data = workdir.read_json(path / workdir.DATA, whole=True)
  config = workdir.read_json(path / workdir.CONFIG, whole=True)
  with workdir.reading(path / workdir.DATA):
    sizes = [data[key] for key in ('num_classes', 'num_features', 'num_nodes')]
    for size in (*sizes, data.get('num_relations', 1)):
      if not 1 <= size <= np.iinfo(np.int32).max:
        raise ValueError(f'{size} is no size of a data set')
  with workdir.reading(path / workdir.CONFIG):
    config['prompt']['implementation'] = 'xla'  # Whatever it was trained on.
    chosen = settings.from_record(config)
    model = chosen.model(data['num_classes'])
    abstract = jax.eval_shape(lambda: _initial(model, data))
  checkpoints = Checkpoints(path / workdir.CHECKPOINTS)
  # Not what the optimizer of the run kept.
  entries = abstract.variables()
  if chosen.train.ema:
    entries['ema'] = entries.pop('params')
  variables = checkpoints.load_entries('best', entries)
  if chosen.train.ema:
    variables['params'] = variables.pop('ema')
  return LoadedRun(model, variables, chosen.config, data)


def _initial(model: nn.Module, data: dict[str, Any]) -> Any:
  """An initial state: some quantizers have parameters for each node."""
  count = data['num_nodes']
  kinds: Any = None
  if data.get('num_relations') is not None:
    kinds = Relations(jnp.zeros(0, jnp.int32), data['num_relations'])
  graph = jraph.GraphsTuple(
    nodes=jnp.zeros((count, data['num_features'])),
    edges=kinds,
    senders=jnp.zeros(0, jnp.int32),
    receivers=jnp.zeros(0, jnp.int32),
    n_node=jnp.array([count]),
    n_edge=jnp.array([0]),
    globals=None,
  )
  batch = Batch(graph, np.zeros(1, np.int32), None)
  return state.init_state(model, batch, jax.random.key(0))


def weights_of(folder: pathlib.Path) -> dict[str, PyTree]:
  """The trained weights of another run, at its selected epoch.

  Args:
    folder: work folder of a run that has finished.

  Returns:
    `params`, averaged ones if it has them, and `batch_stats`.

  Raises:
    CheckpointError: the folder holds no such run.
  """
  checkpoints = Checkpoints(folder / workdir.CHECKPOINTS)
  saved = checkpoints.load_arrays('best', ('params', 'batch_stats', 'ema'))
  averaged = saved.pop('ema', None)
  saved['params'] = averaged or saved['params']
  return {name: part for name, part in saved.items() if part}
