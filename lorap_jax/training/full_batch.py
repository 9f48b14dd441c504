"""Full-batch training on one graph: many epochs per dispatch."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import Array
from lorap_jax.data import NodeDataset, pipeline
from lorap_jax.graphs import Batch
from lorap_jax.nn import schemes
from lorap_jax.training import history, report, settings, steps, writers
from lorap_jax.training.optimizer import OptimizerConfig, create_optimizer
from lorap_jax.training.run import Interrupted, Run
from lorap_jax.training.state import TrainState

_MOST_EPOCHS = 100  # Per dispatch: how often a run can stop and save.
_SAVE_SECONDS = 20.0


class Carry(NamedTuple):
  """What goes from epoch to epoch.

  Attributes:
    state: present state.
    best: state of the selected epoch so far.
    score: its key, larger is better, compared lexicographically.
  """

  state: TrainState
  best: TrainState
  score: tuple[Array, Array]


@functools.lru_cache
def make_epochs(
  model: nn.Module,
  scheme: schemes.Scheme,
  selection: history.Selection,
  config: OptimizerConfig,
) -> Callable[..., tuple[Carry, dict[str, Array]]]:
  """The jitted program of several epochs: a step and an evaluation each.

  Equal arguments give the same program, so that seeds share it.

  Args:
    model: Linen module.
    scheme: for its penalty.
    selection: rule and task.
    config: of the optimizer.

  Returns:
    run(carry, batch, valid, test, factors [k]) -> (carry, records), where
    `valid` and `test` are masks like `batch.targets`, and `records` holds
    arrays [k]. The old carry is donated.
  """
  task = selection.task
  step = steps.train_step(model, scheme, task, create_optimizer(config))

  def epoch(carry: Carry, batch, valid, test, factor):
    state, metrics = step(carry.state, batch, factor)
    outputs: Any = model.apply(
      state.variables(), batch.graph, layout=batch.layout, train=False
    )
    record = {**metrics._asdict(), 'epoch': state.step.astype(jnp.float32)}
    for name, mask in (('valid', valid), ('test', test)):
      loss, metric, count = task.sums(outputs, batch.labels, mask)
      record[f'{name}_loss'] = loss / count
      record[f'{name}_{task.metric}'] = metric / count
    score = tuple(jnp.float32(s) for s in selection.score(record))
    better = (score[0] > carry.score[0]) | (
      (score[0] == carry.score[0]) & (score[1] > carry.score[1])
    )
    choose = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(better, a, b), new, old
    )
    new = Carry(state, choose(state, carry.best), choose(score, carry.score))
    return new, record

  def run(carry, batch, valid, test, factors):
    return jax.lax.scan(
      lambda c, factor: epoch(c, batch, valid, test, factor), carry, factors
    )

  return jax.jit(run, donate_argnums=0)


class FullBatchRun(Run):
  """A run on one graph: node classification."""

  def __init__(
    self, chosen: settings.Settings, data: NodeDataset, folder: pathlib.Path
  ):
    if chosen.train.schedule == 'plateau':
      raise ValueError(
        "config.train: `schedule` 'plateau' is for batches of graphs; for one "
        "graph choose 'cosine', 'step' or 'constant'"
      )
    super().__init__(chosen, data, folder)
    on_cpu = jax.default_backend() == 'cpu'
    self.loaders = {
      split: pipeline.WholeGraph(
        data, split, layout=on_cpu, weighted=chosen.weighted
      )
      for split in ('train', 'valid', 'test')
    }
    self.batch: Batch = jax.device_put(self.loaders['train'].batch())
    self.start(self.batch, data.nodes.shape[1])

  def train(self, stopped: Callable[[], bool]) -> None:
    """See Run."""
    program = make_epochs(
      self.model, self.settings.scheme, self.selection, self.settings.optimizer
    )
    valid, test = (
      jax.device_put(self.loaders[split].targets) for split in ('valid', 'test')
    )
    carry = self._carry()
    display = writers.create_display(self.epochs)
    saved = time.monotonic()
    size = _dispatch_size(self.epochs)
    with contextlib.closing(display):
      while self.progress.epoch < self.epochs:
        first, started = self.progress.epoch, time.monotonic()
        factors = jnp.asarray(
          [self.factor(first + i) for i in range(size)], jnp.float32
        )
        carry, records = program(carry, self.batch, valid, test, factors)
        self.state = carry.state
        records = jax.device_get(records)
        self._file(records, (time.monotonic() - started) / size)
        display.step(self._shown(), self.progress.epoch)
        done = self.progress.epoch >= self.epochs
        stop = stopped()  # Asked once: what is interrupted has been saved.
        if done or stop or time.monotonic() - saved > _SAVE_SECONDS:
          self._save(carry)
          saved = time.monotonic()
        if stop:
          raise Interrupted
      display.epoch(
        report.epoch_line(self.task, self.progress.history[-1], self.epochs)
      )

  def _carry(self) -> Carry:
    """The carry at the present position."""
    records = self.progress.history
    if not records:
      low = (jnp.float32(-jnp.inf), jnp.float32(-jnp.inf))
      copy = jax.tree.map(jnp.copy, self.state)
      return Carry(self.state, copy, low)
    best, _ = self.checkpoints.load('best', self.state)
    score = self.selection.score(self.selection.best(records))
    return Carry(self.state, best, tuple(jnp.float32(s) for s in score))  # pyrefly: ignore

  def _file(self, records: dict[str, np.ndarray], seconds: float) -> None:
    """Files the records of a dispatch, epoch by epoch."""
    first = self.progress.epoch
    for i, loss in enumerate(records['loss']):
      finite = records['finite'][i]
      if not (np.isfinite(loss) and finite.all()):
        self.fail(float(loss), finite, first + i)
      value = lambda name, i=i: float(records[name][i])
      held_out = {
        name: value(name)
        for name in records
        if name.startswith(('valid_', 'test_'))
      }
      self.progress.seconds += seconds
      self.write(
        {
          'epoch': first + i + 1,
          'step': first + i + 1,
          'batches': 1,
          'objective': float(loss),
          'train_loss': value('task_loss') / value('count'),
          f'train_{self.task.metric}': value('metric') / value('count'),
          'bits': value('bits') / max(value('elements'), 1),
          'memory_kib': value('memory'),
          'factor': self.factor(first + i),
          **held_out,
          'train_seconds': seconds,
          'eval_seconds': 0.0,
        }
      )

  def _shown(self) -> dict[str, str]:
    last = self.progress.history[-1]
    return {
      'epoch': f'{self.progress.epoch}/{self.epochs}',
      'speed': f'{1 / max(last["train_seconds"], 1e-9):.1f}',
      'loss': f'{last["train_loss"]:.4f}',
      'valid': report.metric_text(self.task, last, 'valid'),
      'bits': f'{last["bits"]:.2f}',
    }

  def _save(self, carry: Carry) -> None:
    step, progress = int(carry.state.step), self.progress.to_json()
    # `best` first: what is there when a save is cut off fits the older latest.
    self.checkpoints.save('best', int(carry.best.step), carry.best, progress)
    self.checkpoints.save('latest', step, carry.state, progress)


def _dispatch_size(epochs: int) -> int:
  """The largest divisor of the run's length up to _MOST_EPOCHS."""
  return max(k for k in range(1, _MOST_EPOCHS + 1) if epochs % k == 0)
