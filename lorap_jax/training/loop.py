"""The training run: data, steps, evaluation, checkpoints, result."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import config_dict

from lorap_jax.data import DataSplits, pipeline
from lorap_jax.data.pipeline import Loader
from lorap_jax.training import (
  history,
  report,
  schedules,
  settings,
  steps,
  workdir,
  writers,
)
from lorap_jax.training import state as state_lib
from lorap_jax.training.checkpointing import Checkpoints
from lorap_jax.training.optimizer import create_optimizer


class Interrupted(Exception):
  """Ctrl-C or a termination signal; the state is saved."""


class NonFiniteError(ValueError):
  """The loss or a gradient is not finite."""


def train_and_evaluate(
  config: config_dict.ConfigDict, folder: pathlib.Path
) -> dict[str, Any]:
  """Runs a configuration to its end, from wherever `folder` says it is.

  Args:
    config: as `configs.default`.
    folder: work folder of the run.

  Returns:
    The report, as in `report.json`.

  Raises:
    ValueError: a configuration, data file or folder that makes no run.
    NonFiniteError: training diverged.
    Interrupted: a signal came; the same call goes on from the checkpoint.
  """
  chosen = settings.from_config(config)
  workdir.claim(folder, chosen.config)
  if (folder / workdir.REPORT).exists():
    done = workdir.read_json(folder / workdir.REPORT)
    logging.info(
      '%s is finished, on %s; this is its report. Another --workdir starts '
      'a new run.',
      folder,
      done['data']['name'],
    )
    return done
  _log_start(chosen)
  data = chosen.load_data()
  run = Run(chosen, data, folder)
  try:
    with _stop_signals() as stopped:
      run.restore()
      run.train(stopped)
    return report.finish(run)
  finally:
    run.close()


class Run:
  """One run: its programs, its state and its folder.

  Attributes:
    settings: what is run.
    data: the splits.
    folder: work folder.
    model: Linen module.
    loaders: by split name.
    state: arrays of the run.
    progress: position and history.
    checkpoints: saved states.
    epochs: length of the run.
  """

  def __init__(
    self, chosen: settings.Settings, data: DataSplits, folder: pathlib.Path
  ):
    self.settings = chosen
    self.data = data
    self.folder = folder
    self.epochs = chosen.epochs(data)
    self.model = chosen.model(data.num_classes)
    splits = {'train': data.train, 'valid': data.valid, 'test': data.test}
    budget = pipeline.joint_budget(
      tuple(splits.values()), batch_size=chosen.train.batch_size
    )
    on_cpu = jax.default_backend() == 'cpu'
    self.loaders = {
      name: Loader(split, budget, layout=on_cpu)
      for name, split in splits.items()
    }
    self.optimizer = create_optimizer(chosen.optimizer)
    self.checkpoints = Checkpoints(folder / workdir.CHECKPOINTS)
    self.train_step = steps.make_train_step(
      self.model, chosen.scheme, self.optimizer
    )
    self.settle_step = steps.make_settle_step(self.model)
    self.eval_step = steps.make_eval_step(self.model)
    workdir.claim_data(
      folder,
      {
        'num_classes': data.num_classes,
        'num_features': data.train.nodes.shape[1],
        'name': data.source['name'],
        'sha256': data.source['sha256'],
      },
    )
    self.progress = history.Progress()
    self.state = self._initial_state()
    self._writers: list[Any] = []

  def _initial_state(self) -> state_lib.TrainState:
    loader = self.loaders['train']
    first = loader.shuffled(self.settings.config['seed'], 0)[0]
    key = jax.random.key(self.settings.config['seed'])
    return state_lib.init_state(
      self.model, self.optimizer, jax.device_put(loader.batch(first)), key
    )

  def restore(self) -> None:
    """Takes up the latest checkpoint, if there is one, and opens the logs."""
    if self.checkpoints.step('latest') is not None:
      self.state, saved = self.checkpoints.load('latest', self.state)
      self.progress = history.Progress.from_json(saved)
      logging.info(
        'Resuming at epoch %d, batch %d (step %d).',
        self.progress.epoch + 1,
        self.progress.batch,
        int(self.state.step),
      )
    self._writers = [
      writers.JsonLines(
        self.folder / workdir.METRICS, resume_step=int(self.state.step)
      ),
      writers.TensorBoard(self.folder / 'tensorboard'),
    ]

  def train(self, stopped: Callable[[], bool]) -> None:
    """Trains the epochs that are left.

    Args:
      stopped: callable, True once a signal asked to stop.

    Raises:
      Interrupted: after saving.
      NonFiniteError: training diverged.
    """
    plan_length = len(self.loaders['train'].shuffled(0, 0))
    display = writers.create_display(self.epochs * plan_length)
    try:
      while self.progress.epoch < self.epochs:
        started = time.monotonic()
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

  def _factor(self, batch: int, num_batches: int) -> float:
    train = self.settings.train
    if train.schedule == 'cosine':
      position = self.progress.epoch + batch / num_batches
      return schedules.warmup_cosine(
        position / self.epochs, warmup=train.warmup
      )
    return self.progress.plateau.factor

  def _train_epoch(self, display, stopped) -> bool:
    """Steps through the rest of the epoch; False if stopped inside it."""
    loader, progress = self.loaders['train'], self.progress
    plan = loader.shuffled(self.settings.config['seed'], progress.epoch)
    first = progress.batch
    clock = time.monotonic()
    pending = None
    with contextlib.closing(loader.stream(plan[first:])) as batches:
      for number, batch in enumerate(batches, start=first):
        factor = jnp.float32(self._factor(number, len(plan)))
        self.state, metrics = self.train_step(self.state, batch, factor)
        # Fetched one step late, so that the device never waits.
        if pending is not None:
          self._count(pending)
        pending = metrics
        done = number + 1 - first
        display.step(
          self._shown(done / (time.monotonic() - clock)),
          progress.epoch * len(plan) + number + 1,
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
      self._report_non_finite(values)
    self.progress.add(
      {
        name: float(getattr(values, name))
        for name in values._fields
        if name != 'finite'
      }
    )

  def _report_non_finite(self, values: steps.StepMetrics) -> None:
    paths = [
      '/'.join(key.key for key in path)
      for path, _ in jax.tree_util.tree_leaves_with_path(self.state.params)
    ]
    bad = [p for p, ok in zip(paths, values.finite, strict=True) if not ok]
    step = self.progress.batch + sum(
      r['batches'] for r in self.progress.history
    )
    good = self.checkpoints.step('latest')
    raise NonFiniteError(
      f'loss {float(values.loss)} at step {step} (epoch '
      f'{self.progress.epoch + 1}); first non-finite gradient: '
      f'{bad[0] if bad else "none"}; last good checkpoint: '
      f'{"none" if good is None else f"step {good}"} in '
      f'{self.checkpoints.directory}; lower the learning rates'
    )

  def _shown(self, speed: float) -> dict[str, str]:
    sums, done = self.progress.sums, self.progress.history
    mean = lambda a, b, form: form % (sums[a] / sums[b]) if sums else '-'
    return {
      'epoch': f'{self.progress.epoch + 1}/{self.epochs}',
      'speed': f'{speed:.1f}',
      'loss': mean('cross_entropy', 'count', '%.4f'),
      'valid': f'{100 * done[-1]["valid_accuracy"]:.2f}%' if done else '-',
      'bits': mean('bits', 'elements', '%.2f'),
    }

  def evaluate(self, split: str) -> dict[str, float]:
    """Loss and accuracy of a split.

    Args:
      split: `train`, `valid` or `test`.

    Returns:
      `loss`, the mean cross entropy, and `accuracy`.
    """
    loader = self.loaders[split]
    variables = self.state.variables()
    total = np.zeros(3)
    with contextlib.closing(loader.stream(loader.ordered())) as batches:
      for batch in batches:
        total += np.asarray(self.eval_step(variables, batch), np.float64)
    return {'loss': total[0] / total[2], 'accuracy': total[1] / total[2]}

  def _settle(self) -> None:
    """Renews batch norm's statistics on the first batches of the epoch."""
    loader, count = self.loaders['train'], self.settings.train.settle_batches
    plan = loader.shuffled(self.settings.config['seed'], self.progress.epoch)
    with contextlib.closing(loader.stream(plan[:count])) as batches:
      for batch in batches:
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
      'train_loss': sums['cross_entropy'] / sums['count'],
      'train_accuracy': sums['correct'] / sums['count'],
      'bits': sums['bits'] / sums['elements'],
      'memory_kib': sums['memory'] / progress.batch,
      'factor': self._factor(progress.batch - 1, progress.batch),
    }
    for split in ('valid', 'test'):
      for name, value in self.evaluate(split).items():
        record[f'{split}_{name}'] = value
    if self.settings.train.schedule == 'plateau':
      progress.plateau = schedules.update_plateau(
        progress.plateau,
        record['valid_loss'],
        patience=self.settings.train.patience,
      )
    record['train_seconds'] = train_seconds
    record['eval_seconds'] = time.monotonic() - started
    progress.seconds += train_seconds + record['eval_seconds']
    progress.finish_epoch(record)
    for writer in self._writers:
      writer.write(record)
    display.epoch(report.epoch_line(record, self.epochs))

  def _save(self) -> None:
    """Saves `best` if it is, then `latest`."""
    step, saved = int(self.state.step), self.progress.to_json()
    records = self.progress.history
    at_epoch_end = self.progress.batch == 0
    if at_epoch_end and history.best_epoch(records) is records[-1]:
      self.checkpoints.save('best', step, self.state, saved)
    self.checkpoints.save('latest', step, self.state, saved)

  def close(self) -> None:
    """Closes logs and checkpoints."""
    for writer in self._writers:
      writer.close()
    self.checkpoints.close()


@contextlib.contextmanager
def _stop_signals() -> Iterator[Any]:
  """Turns SIGINT and SIGTERM into a flag; a second SIGINT interrupts."""
  received = []

  def handle(number, frame):
    if received and number == signal.SIGINT:
      raise KeyboardInterrupt
    received.append(number)

  old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield lambda: bool(received)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def _log_start(chosen: settings.Settings) -> None:
  logging.info('Versions: %s', report.versions())
  logging.info('Device: %s', report.device())
  logging.info('Config: %s', chosen.config)
