"""A network and a data set so small that whole runs fit in a test."""

import contextlib
import itertools
import pathlib
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from configs import mnist_a2q_lorap, planetoid, superpixels
from lorap_jax.data import DataSplits, GraphDataset, NodeDataset, pipeline
from lorap_jax.data.containers.positions import Positions
from lorap_jax.runs import fields, full_batch, loop, result, settings
from lorap_jax.runs import run as run_lib
from lorap_jax.training import optimizer, state, steps, tasks

NUM_TRAIN = 40  # Batches of 16, 16 and 8.
BATCHES = 3


def dataset(seed: int, num_graphs: int) -> GraphDataset:
  """Random graphs of three classes, which differ in their mean features."""
  rng = np.random.default_rng(seed)
  labels = (np.arange(num_graphs) % 3).astype(np.int32)
  n_node = rng.integers(3, 8, num_graphs).astype(np.int32)
  n_edge = 2 * n_node
  nodes = rng.normal(size=(n_node.sum(), 3))
  nodes += np.eye(3)[np.repeat(labels, n_node)]
  bound = np.repeat(n_node, n_edge)
  return GraphDataset(
    nodes=nodes.astype(np.float32),
    senders=rng.integers(0, bound).astype(np.uint16),
    receivers=rng.integers(0, bound).astype(np.uint16),
    n_node=n_node,
    n_edge=n_edge,
    labels=labels,
  )


def splits() -> DataSplits:
  """Training, validation and test graphs, recorded as the library does."""
  source = {
    'name': 'tiny',
    'origin': 'random',
    'files': [],
    'sha256': {},
    'counts': {'train': NUM_TRAIN, 'valid': 20, 'test': 21},
    'subset': True,
    'comparable': False,
    'note': 'random graphs',
  }
  parts = dataset(1, NUM_TRAIN), dataset(2, 20), dataset(3, 21)
  return DataSplits(*parts, num_classes=3, source=source)


def positioned_splits() -> DataSplits:
  """The same graphs, of which two features are places in an image."""
  return splits()._replace(positions=Positions((1, 2), (0.1, 0.2), (4.0, 5.0)))


def regression_splits() -> DataSplits:
  """The same graphs, whose label is the mean of their first feature."""
  data = splits()
  parts = []
  for part in data[:3]:
    starts = np.cumsum(part.n_node) - part.n_node
    totals = np.add.reduceat(part.nodes[:, 0], starts)
    labels = (totals / part.n_node).astype(np.float32)
    parts.append(part._replace(labels=labels))
  return DataSplits(
    *parts, num_classes=1, source=data.source, task='regression'
  )


def node_data() -> NodeDataset:
  """A graph of 24 nodes and three classes, with its splits."""
  rng = np.random.default_rng(0)
  labels = np.arange(24, dtype=np.int32) % 3
  part = np.arange(24) // 8
  nodes = rng.normal(size=(24, 5)) + np.eye(5)[labels]
  return NodeDataset(
    nodes=nodes.astype(np.float32),
    senders=rng.integers(0, 24, 60).astype(np.int32),
    receivers=rng.integers(0, 24, 60).astype(np.int32),
    labels=labels,
    train_mask=part == 0,
    valid_mask=part == 1,
    test_mask=part == 2,
    num_classes=3,
    source=splits().source,
  )


def related_data() -> NodeDataset:
  """The same nodes, whose edges are of three kinds."""
  data = node_data()
  kinds = np.random.default_rng(1).integers(0, 3, len(data.senders))
  return data._replace(relations=kinds.astype(np.int32), num_relations=3)


def config(**changes) -> config_dict.ConfigDict:
  """The smoke recipe, smaller; `changes` by path, dots as two underscores."""
  values = mnist_a2q_lorap.get_config('smoke')
  values.model.features = 4
  values.model.num_layers = 1
  values.model.encoder_operand = None  # Another group table.
  values.scheme.num_groups = 8
  values.prompt.num_prompts = 3
  values.prompt.rank = 2
  values.train.batch_size = 16
  values.train.integer_epochs = values.train.export = None
  return _changed(values, changes)


def node_config(cell: str = 'gcn,fp32,none', **changes):
  """A cell of Cora, one layer and six epochs; `changes` as in `config`."""
  values = planetoid.create('cora', cell)
  values.model.features = 8
  values.model.num_layers = 1
  values.model.input_dropout = 0.3
  values.train.epochs = 6
  return _changed(values, changes)


def pair_config(**changes):
  """That of the two runs of `finished_pair` in conftest, each for itself."""
  return node_config(
    'gcn,a2q,lorap', train__epochs=2, train__plots=False, **changes
  )


def superpixels_config(cell: str = 'gcn,fp32,none', **changes):
  """A cell of MNIST superpixels, one layer; `changes` as in `config`."""
  values = superpixels.create('mnist', cell)
  values.model.features = 8
  values.model.num_layers = 1
  return _changed(values, changes)


def _changed(values: config_dict.ConfigDict, changes):
  given = {name.replace('__', '.'): value for name, value in changes.items()}
  values.update_from_flattened_dict(given)
  with contextlib.suppress(ValueError):  # Of names, for tests of mistakes.
    fields.drop_unused(values, given)
  return values


class Finished(NamedTuple):
  """A run that has ended, the object that ran it, and its programs."""

  folder: pathlib.Path
  report: dict[str, Any]
  run: run_lib.Run
  compilations: list[int]


def finish(monkeypatch, folder: pathlib.Path) -> Finished:
  """Runs `config` on graphs to the end, in a folder to be made."""
  feed(monkeypatch)
  forget_programs()
  runs, end = [], result.finish
  monkeypatch.setattr(result, 'finish', lambda r: end(runs.append(r) or r))
  report = loop.train_and_evaluate(config(), folder)
  (run,) = runs
  programs = run.train_step, run.eval_step
  return Finished(folder, report, run, [p._cache_size() for p in programs])


def feed(monkeypatch, data: Callable[[], settings.Data] = splits) -> None:
  """Has every run read this data instead of files."""
  monkeypatch.setattr(settings.Settings, 'load_data', lambda self: data())


def starts(monkeypatch) -> dict[str, Any]:
  """Gets, from now on, folder name to first parameters of every run begun."""
  found, create = {}, loop.create_run

  def recorded(chosen, data, folder):
    run = create(chosen, data, folder)
    found[folder.name] = jax.device_get(run.state.params)
    return run

  monkeypatch.setattr(loop, 'create_run', recorded)
  return found


def interrupt_after(monkeypatch, step: int) -> None:
  """Sends this process Ctrl-C once the given training step is dispatched."""
  _interrupt(monkeypatch, steps, 'make_train_step', step)


def interrupt_after_dispatch(monkeypatch, dispatch: int) -> None:
  """The same, for full-batch runs and their dispatches of several epochs."""
  _interrupt(monkeypatch, full_batch, 'make_epochs', dispatch)


def two_epochs_per_dispatch(monkeypatch) -> None:
  """Makes full-batch runs of an even length stop for breath more often."""
  size = lambda run, members: 2 - run.epochs % 2
  monkeypatch.setattr(full_batch.FullBatchRun, 'dispatch_size', size)


def feed_short_node_runs(monkeypatch) -> None:
  """Feeds the node task to runs of two epochs per dispatch."""
  feed(monkeypatch, node_data)
  two_epochs_per_dispatch(monkeypatch)


def _interrupt(monkeypatch, module, name: str, number: int):
  make, count = getattr(module, name), itertools.count(1)
  monkeypatch.setattr(module, name, _interrupted(make, count, number))


def _interrupted(make, count, number):
  def make_interrupted(*args, **options):
    program = make(*args, **options)

    def call(*args):
      out = program(*args)
      if next(count) == number:
        signal.raise_signal(signal.SIGINT)
      return out

    return call

  return make_interrupted


def rates(factor=1.0) -> optimizer.Rates:
  """The rates of `config` at a place in the schedule."""
  return settings.from_config(config()).optimizer.rates(factor)


def forget_programs() -> None:
  """Drops compiled programs: other tests share them, with other shapes."""
  steps.make_train_step.cache_clear()
  steps.make_eval_step.cache_clear()
  full_batch.make_epochs.cache_clear()


@contextlib.contextmanager
def programs(data: DataSplits | None = None, **changes):
  """State, batch, training and evaluation step of a configuration."""
  forget_programs()
  chosen = settings.from_config(config(**changes))
  data = data or splits()
  budget = pipeline.joint_budget(data[:3], batch_size=chosen.train.batch_size)
  loader = pipeline.Loader(data.train, budget, layout=True)
  batch = jax.device_put(loader.batch(loader.ordered()[0]))
  model = chosen.model(data.num_classes)
  options = chosen.options(data)
  first = state.init_state(
    model, batch, jax.random.key(0), averaged=bool(options.ema)
  )
  yield (
    first,
    batch,
    steps.make_train_step(model, chosen.scheme, tasks.Task(), options),
    steps.make_eval_step(model, tasks.Task()),
  )
