"""A network and a data set so small that whole runs fit in a test."""

import contextlib
import itertools
import signal

import jax
import numpy as np
from ml_collections import config_dict

from configs import mnist_a2q_lorap
from lorap_jax.data import DataSplits, GraphDataset, pipeline
from lorap_jax.training import optimizer, settings, state, steps

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


def config(**changes) -> config_dict.ConfigDict:
  """The smoke recipe, smaller; `changes` by path, dots as two underscores."""
  values = mnist_a2q_lorap.get_config('smoke')
  values.model.features = 4
  values.model.num_layers = 1
  values.scheme.num_groups = 8
  values.prompt.num_prompts = 3
  values.prompt.rank = 2
  values.train.batch_size = 16
  values.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return values


def feed(monkeypatch) -> None:
  """Has every run read `splits` instead of files."""
  monkeypatch.setattr(settings.Settings, 'load_data', lambda self: splits())


def interrupt_after(monkeypatch, step: int) -> None:
  """Sends this process Ctrl-C once the given training step is dispatched."""
  make = steps.make_train_step

  def make_interrupted(*args):
    train_step, count = make(*args), itertools.count(1)

    def call(*args):
      out = train_step(*args)
      if next(count) == step:
        signal.raise_signal(signal.SIGINT)
      return out

    return call

  monkeypatch.setattr(steps, 'make_train_step', make_interrupted)


@contextlib.contextmanager
def programs(**changes):
  """State, batch, training and evaluation step of a configuration."""
  chosen = settings.from_config(config(**changes))
  data = splits()
  budget = pipeline.joint_budget(data[:3], batch_size=chosen.train.batch_size)
  loader = pipeline.Loader(data.train, budget, layout=True)
  batch = jax.device_put(loader.batch(loader.ordered()[0]))
  model = chosen.model(data.num_classes)
  adam = optimizer.create_optimizer(chosen.optimizer)
  first = state.init_state(model, adam, batch, jax.random.key(0))
  yield (
    first,
    batch,
    steps.make_train_step(model, chosen.scheme, adam),
    steps.make_eval_step(model),
  )
