"""Training by padded batches of graphs."""

import collections
import contextlib
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

from lorap_jax.data import DataSplits, pipeline
from lorap_jax.data.pipeline import Loader
from lorap_jax.runs import processes, result, settings, writers
from lorap_jax.runs.run import Interrupted, Run
from lorap_jax.training import schedules, snapping, steps
from lorap_jax.training.optimizer import Rates


class BatchedRun(Run):
  """A run on many graphs: graph classification and regression."""

  _snap = None

  def __init__(
    self, chosen: settings.Settings, data: DataSplits, folder: pathlib.Path
  ):
    super().__init__(chosen, data, folder)
    splits = {'train': data.train, 'valid': data.valid, 'test': data.test}
    budget = pipeline.joint_budget(
      tuple(splits.values()), batch_size=chosen.train.batch_size
    )
    mesh = chosen.mesh
    count = 1 if mesh is None else mesh.size
    shard = pipeline.joint_budget(
      tuple(splits.values()), batch_size=chosen.train.batch_size // count
    )
    self.loaders = {
      name: Loader(
        split,
        budget,
        layout=chosen.uses_layout,
        weighted=chosen.weighted,
        num_shards=count,
        shard=shard,
        mesh=mesh,
      )
      for name, split in splits.items()
    }
    self.make_steps()
    self.eval_step = steps.make_eval_step(self.model, self.task)
    loader = self.loaders['train']
    plan = loader.shuffled(chosen.config['seed'], 0)
    self.epoch_steps = len(plan)
    first = loader.put(loader.batch(plan[0]))
    self.start(first, data.train.nodes.shape[1], budget.num_nodes)
    if self.selection.integers is not None:
      self._snap = snapping.of_model(self.model, first)

  def make_steps(self) -> None:
    """Makes the programs of training."""
    # Of each program, shapes of the batches that it has had.
    self._shapes = collections.defaultdict(set)
    self.train_step = steps.make_train_step(
      self.model, self.settings.scheme, self.task, self.options
    )
    self.settle_step = steps.make_settle_step(self.model)

  def train(self, stopped: Callable[[], bool]) -> None:
    """Trains to the end, and evaluates and saves after each epoch.

    Args:
      stopped: True once a signal asked to stop; looked at after each step.

    Raises:
      NonFiniteError: training diverged.
      Interrupted: stopped; the state is saved.
    """
    plan_length = len(self.loaders['train'].shuffled(0, 0))
    display = writers.create_display(
      self.epochs * plan_length, shown=processes.is_main()
    )
    try:
      while self.progress.epoch < self.epochs:
        started = time.monotonic()
        if self._snapped(self.progress.epoch):
          self.state = self._snap(self.state)  # pyrefly: ignore
        finished = self._train_epoch(display, stopped)
        if finished:
          self._evaluate_epoch(display, time.monotonic() - started)
        else:
          self.progress.seconds += time.monotonic() - started
        self._save()
        if not finished or stopped():
          raise Interrupted
    finally:
      display.close()

  def _snapped(self, epoch: int | float) -> bool:
    """Whether tables are as files hold them at a position in the run."""
    first = self.selection.integers
    return self._snap is not None and first is not None and epoch >= first - 1

  def rates(self, epochs: float | range) -> Rates:
    """The rates at a position; snapped tables are trained no more."""
    rates = super().rates(epochs)
    if not isinstance(epochs, range) and self._snapped(epochs):
      rates.learning.update(dict.fromkeys(snapping.FROZEN, np.float32(0)))
    return rates

  def _train_epoch(self, display, stopped) -> bool:
    """Steps through the rest of the epoch; False if stopped inside it."""
    loader, progress = self.loaders['train'], self.progress
    given = (self.teacher.variables,) if self.teacher else ()
    plan = loader.shuffled(self.settings.config['seed'], progress.epoch)
    first = progress.batch
    clock = time.monotonic()
    pending = None
    with contextlib.closing(loader.stream(plan[first:])) as batches:
      watched = processes.watched(batches, self._shapes['train'])
      for number, batch in enumerate(watched, start=first):
        rates = self.rates(progress.epoch + number / len(plan))
        self.state, metrics = self.train_step(self.state, batch, rates, *given)
        # Fetched one step late, so that the device never waits.
        if pending is not None:
          self._count(pending)
        pending = metrics
        done = number + 1 - first
        taken = progress.epoch * len(plan) + number + 1
        processes.tick(taken, batch=True)
        display.step(
          self._shown(done / (time.monotonic() - clock)),
          taken,
        )
        if stopped():
          break
    if pending is not None:
      self._count(pending)
    return progress.batch == len(plan)

  def _count(self, metrics: steps.StepMetrics) -> None:
    """Adds the metrics of a step; stops the run if they are not finite."""
    values = jax.device_get(metrics)
    if not (np.isfinite(values.loss) and values.finite.all()):
      done = sum(record['batches'] for record in self.progress.history)
      self.fail(float(values.loss), values.finite, done + self.progress.batch)
    self.progress.add(
      {
        name: float(getattr(values, name))
        for name in values._fields
        if name != 'finite'
      }
    )

  def _shown(self, speed: float) -> dict[str, str]:
    sums, done = self.progress.sums, self.progress.history
    mean = lambda a, b, form: form % (sums[a] / sums[b]) if sums else '-'
    return {
      'epoch': f'{self.progress.epoch + 1}/{self.epochs}',
      'speed': f'{speed:.1f}',
      'loss': mean('task_loss', 'count', '%.4f'),
      'valid': result.metric_text(self.task, done[-1], 'valid')
      if done
      else '-',
      'bits': mean('bits', 'elements', '%.2f'),
    }

  def evaluate(self, split: str) -> dict[str, float]:
    """Loss and metric of a split.

    Args:
      split: `train`, `valid` or `test`.

    Returns:
      `loss` and the metric of the task, means.
    """
    loader = self.loaders[split]
    variables = self.state.evaluated().variables()
    total = np.zeros(3)
    with contextlib.closing(loader.stream(loader.ordered())) as batches:
      for batch in processes.watched(batches, self._shapes['evaluate']):
        total += np.asarray(self.eval_step(variables, batch), np.float64)
    return {
      'loss': total[0] / total[2],
      self.task.metric: total[1] / total[2],
    }

  def held_out(self) -> dict[str, dict[str, float]]:
    """`evaluate` of the validation and of the test split."""
    return {split: self.evaluate(split) for split in ('valid', 'test')}

  def _settle(self) -> None:
    """Renews batch norm's statistics on the first batches of the epoch."""
    loader, count = self.loaders['train'], self.settings.train.settle_batches
    plan = loader.shuffled(self.settings.config['seed'], self.progress.epoch)
    with contextlib.closing(loader.stream(plan[:count])) as batches:
      for batch in processes.watched(batches, self._shapes['settle']):
        self.state = self.settle_step(self.state, batch)

  def _evaluate_epoch(self, display, train_seconds: float) -> None:
    progress, sums = self.progress, self.progress.sums
    started = time.monotonic()
    self._settle()
    record = {
      'epoch': progress.epoch + 1,
      'step': int(self.state.step),
      'batches': progress.batch,
      'objective': sums['loss'] / progress.batch,
      'train_loss': sums['task_loss'] / sums['count'],
      f'train_{self.task.metric}': sums['metric'] / sums['count'],
      'bits': sums['bits'] / max(sums['elements'], 1),
      'memory_kib': sums['memory'] / progress.batch,
      'factor': self.factor(progress.epoch + 1 - 1 / progress.batch),
    }
    for split, values in self.held_out().items():
      for name, value in values.items():
        record[f'{split}_{name}'] = value
    if self.settings.train.schedule == 'plateau':
      progress.plateau = schedules.update_plateau(
        progress.plateau,
        record['valid_loss'],
        patience=self.settings.train.patience,
      )
    record = self.as_integers(record, self.state)
    record['train_seconds'] = train_seconds
    record['eval_seconds'] = time.monotonic() - started
    progress.seconds += train_seconds + record['eval_seconds']
    self.write(record)
    display.epoch(result.epoch_line(self.task, record, self.epochs))

  def _save(self) -> None:
    """Saves `best` if it is, then `latest`."""
    step, saved = int(self.state.step), self.progress.to_json()
    records = self.progress.history
    at_epoch_end = self.progress.batch == 0
    if at_epoch_end and self.selection.best(records) is records[-1]:
      self.checkpoints.save('best', step, self.state, saved)
    self.checkpoints.save('latest', step, self.state, saved)
    self.checkpoints.prune()
