"""What all runs have: data, state, checkpoints, logs, the folder."""

import functools
import math
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging

from lorap_jax.graphs import Batch, layout
from lorap_jax.integers.builder import ExportError
from lorap_jax.runs import export, restore, settings, workdir, writers
from lorap_jax.runs import teacher as teacher_lib
from lorap_jax.runs.checkpointing import (
  KINDS,
  CheckpointError,
  Checkpoints,
  DamagedError,
)
from lorap_jax.runs.integer_phase import IntegerEvaluation
from lorap_jax.training import history, schedules, steps
from lorap_jax.training import state as state_lib
from lorap_jax.training.optimizer import Rates


class Interrupted(Exception):
  """Ctrl-C or a termination signal; the state is saved."""


class NonFiniteError(ValueError):
  """The loss or a gradient is not finite."""


class Run:
  """One run: its model, its state and its folder.

  `batched.BatchedRun` and `full_batch.FullBatchRun` add `loaders` and `train`.

  Attributes:
    settings: what is run.
    data: the data set.
    folder: work folder.
    loaders: loaders of the batches, by split name.
    model: Linen module.
    teacher: of this run, if it has one.
    options: of its training step.
    state: arrays of the run.
    progress: position and history.
    checkpoints: saved states.
    epochs: length of the run.
    aggregation: how sums over neighbours are computed, in words.
    labels: group of each parameter, see `nn.groups`.
    epoch_steps: optimizer steps of an epoch.
    integers: evaluates the network as integers; None for a run whose integers
      nobody asked for.
    costed: what bytes and operations of the report are counted for.
  """

  loaders: dict[str, Any]
  epoch_steps = 1
  costed = 'graph'

  def __init__(
    self, chosen: settings.Settings, data: settings.Data, folder: pathlib.Path
  ):
    self.settings = chosen
    self.data = data
    self.folder = folder
    self.task = chosen.task(data)
    self.epochs = chosen.epochs(data)
    self.model = chosen.model(data.num_classes)
    self.teacher = teacher_lib.load(chosen, data)
    self.options = chosen.options(
      data, self.teacher.static if self.teacher else None
    )
    settings.log_relations(self.model, data)
    self.checkpoints = Checkpoints(folder / workdir.CHECKPOINTS)
    self.progress = history.Progress()
    self._writers: list[Any] = []

  def start(self, first: Batch, num_features: int, num_nodes: int) -> None:
    """Claims the folder for this data and makes the initial state.

    Args:
      first: a training batch; quantizers start from its ranges.
      num_features: columns of the node features.
      num_nodes: of a batch for one device, padding included.
    """
    self.aggregation = layout.describe(first.layout)
    self.labels = state_lib.labels_of(self.model, first)
    source = self.data.source
    count = getattr(self.data, 'num_relations', None)
    workdir.claim_data(
      self.folder,
      {
        'num_classes': self.data.num_classes,
        'num_features': num_features,
        'num_nodes': num_nodes,
        'name': source['name'],
        'sha256': source['sha256'],
        **({'teacher': self.teacher.digest} if self.teacher else {}),
        **({} if count is None else {'num_relations': count}),
      },
    )
    self.state = self._initial_state(first, self._weights())
    train = self.settings.train
    self.integers = None
    if train.integer_epochs or train.export:
      self.integers = IntegerEvaluation(
        self.model, self.data, self.loaders, self.task, self.state
      )

  def _initial_state(
    self, batch: Batch, weights: dict[str, Any] | None = None
  ) -> state_lib.TrainState:
    return state_lib.init_state(
      self.model,
      batch,
      jax.random.key(self.settings.config['seed']),
      weights=weights,
      averaged=bool(self.options.ema),
    )

  def _weights(self) -> dict[str, Any] | None:
    """The weights to start from; None for those of the seed."""
    origin = self.settings.train.init_from
    if not origin:
      return None
    inside = self.folder / origin  # An absolute path stays what it is.
    found = restore.weights_of(
      inside if inside.is_dir() else pathlib.Path(origin)
    )
    return jax.device_get(found)  # They were on one device.

  def load(self, step: int) -> None:
    """Takes up the checkpoint of a step, if it and what it needs are whole.

    Raises:
      DamagedError: it, or the state that its history selects, is not.
      CheckpointError: it is of another model.
    """
    state, saved = self.checkpoints.load('latest', self.state, step=step)
    progress = history.Progress.from_json(saved).until(step)
    self.selected_state(progress.history)
    self.state, self.progress = state, progress

  def selected_state(
    self, records: list[dict[str, Any]]
  ) -> state_lib.TrainState | None:
    """The saved state of the selected epoch; None before the first."""
    if not records:
      return None
    step = self.selection.best(records)['step']
    return self.checkpoints.load('best', self.state, step=step)[0]

  def begin(self) -> None:
    """Opens the logs. What lies beyond the present step does not count."""
    step = int(self.state.step)
    self.checkpoints.drop_after(step)
    if step:
      logging.info(
        'Resuming at epoch %d, batch %d (step %d).',
        self.progress.epoch + 1,
        self.progress.batch,
        step,
      )
    self._writers = [
      writers.JsonLines(self.folder / workdir.METRICS, self.progress.history),
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
    raise NotImplementedError

  @property
  def num_costed(self) -> int:
    """How many of `costed` there are: graphs of the test split, or the one."""
    test = getattr(self.data, 'test', None)
    return 1 if test is None else test.num_graphs

  @property
  def selection(self) -> history.Selection:
    """How the result's epoch is chosen: with a target in bits, behind it."""
    first, last = 0, self.settings.train.integer_epochs
    if self.settings.scheme.bit_schedule is not None:
      first = math.ceil(schedules.BITS_REACHED * self.epochs)
    as_integers = max(self.epochs - last + 1, 1) if last else None
    return history.Selection(
      self.settings.train.selection,
      self.task,
      max(first, as_integers or 0),
      as_integers,
    )

  def factor(self, epoch: int | float) -> float:
    """Learning-rate factor at a position in the run, in epochs."""
    train = self.settings.train
    if train.schedule == 'cosine':
      return schedules.warmup_cosine(epoch / self.epochs, warmup=train.warmup)
    if train.schedule == 'step':
      return schedules.step(epoch, every=train.step_epochs)
    return self.progress.plateau.factor

  def rates(self, epochs: float | range) -> Rates:
    """The rates at a position in the run, or at several, in epochs."""
    optimizer, scheme = self.settings.optimizer, self.settings.scheme

    def of(function: Callable[[float], float]) -> Any:
      if isinstance(epochs, range):
        return [function(epoch) for epoch in epochs]
      return function(epochs)

    if scheme.bit_schedule is None:
      return optimizer.rates(of(self.factor))
    start, end = scheme.bit_schedule
    target = functools.partial(schedules.bit_target, start=start, target=end)
    rate = functools.partial(
      schedules.bit_rate,
      start=start,
      target=end,
      steps=self.epochs * self.epoch_steps,
    )
    return optimizer.rates(
      of(self.factor),
      bits_lr=of(lambda e: rate(e / self.epochs)),
      target_bits=of(lambda e: target(e / self.epochs)),
    )

  def as_integers(
    self, record: dict[str, Any], state: state_lib.TrainState
  ) -> dict[str, Any]:
    """The record of an epoch, in the last ones with the integers' metrics.

    Those of the fake-quantized network are then `network_valid_loss` and so on.

    Args:
      record: of the epoch, with what the network has.
      state: of the network after it.

    Raises:
      NonFiniteError: there is no evaluating it.
    """
    first = self.selection.integers
    if first is None or record['epoch'] < first:
      return record
    self._refuse_no_numbers(record)
    try:
      found = self.integers(state.evaluated())  # pyrefly: ignore
    except ExportError as error:
      raise NonFiniteError(
        f'the network has no integers after epoch {record["epoch"]}: {error}; '
        'lower the learning rates'
      ) from error
    network = {f'network_{name}': record[name] for name in found}
    return {**record, **found, **network}

  def export(self, report: dict[str, Any]) -> dict[str, Any]:
    """Writes the integers of the selected epoch into the work folder.

    Args:
      report: of the run, so far.

    Returns:
      What the report says of them.
    """
    out = self.folder / workdir.INTEGERS
    shutil.rmtree(out, ignore_errors=True)  # Of one that had no report yet.
    allowed = self.integers.limits  # pyrefly: ignore
    with jax.set_mesh(None):  # What is loaded is on one device.
      loaded = restore.load_run(self.folder)
      manifest: Any = export.write(loaded, self.data, allowed, report, out)
    told = {name: manifest[name] for name in ('sizes', 'parity')}
    return {'folder': out.name, 'accuracy': manifest['integers'], **told}

  def write(self, record: dict[str, Any]) -> None:
    """Files the record of a finished epoch, if all of it are numbers."""
    self._refuse_no_numbers(record)
    self.progress.finish_epoch(record)
    for writer in self._writers:
      writer.write(record)

  def _refuse_no_numbers(self, record: dict[str, Any]) -> None:
    """Stops a run whose evaluation is not finite; JSON has no word for it."""
    for name, value in record.items():
      if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(
          f'{name} is {value} after epoch {record["epoch"]} (step '
          f'{record["step"]}){self._culprit()}; lower the learning rates, or '
          'scale the features'
        )

  def _culprit(self) -> str:
    """What is the first not to be finite, as a clause; nothing where none."""
    batch = getattr(self, 'batch', None)
    if batch is None:
      loader = self.loaders['train']
      batch = loader.put(loader.batch(loader.ordered()[0]))
    state = self.state
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
      # Given away to a dispatch: that of the checkpoint before it, or of none.
      state = self._initial_state(batch)
      if self.checkpoints.step('latest') is not None:
        state, _ = self.checkpoints.load('latest', state)
    found = steps.culprit(self.model, state.variables(), batch)
    return f'; first that is not finite: {found}' if found else ''

  def fail(self, loss: float, finite: Any, step: int) -> None:
    """Stops a run that diverged.

    Args:
      loss: loss of the step.
      finite: per gradient leaf, whether it is finite.
      step: number of the step, from 0.

    Raises:
      NonFiniteError: always; names step, tensor and last good checkpoint.
    """
    paths = [
      '/'.join(key.key for key in path)
      for path, _ in jax.tree_util.tree_leaves_with_path(self.state.params)
    ]
    bad = [p for p, ok in zip(paths, finite, strict=True) if not ok]
    good = self.checkpoints.step('latest')
    raise NonFiniteError(
      f'loss {loss} at step {step} (epoch '
      f'{self.progress.epoch + 1}); first non-finite gradient: '
      f'{bad[0] if bad else "none"}; last good checkpoint: '
      f'{"none" if good is None else f"step {good}"} in '
      f'{self.checkpoints.directory}{self._culprit()}; lower the learning '
      'rates, or scale the features'
    )

  def close(self) -> None:
    """Closes the logs."""
    for writer in self._writers:
      writer.close()


def take_up(runs: Sequence[Run]) -> None:
  """Has runs that train together go on from the newest step that all have.

  A damaged checkpoint is named in a warning, and the next older one taken.

  Args:
    runs: at their initial states, where they stay if one of them has not come
      to the end of its first save.

  Raises:
    CheckpointError: they have checkpoints, but no whole one in common, or one
      of another model.
  """
  all_steps = [
    [set(run.checkpoints.steps(kind)) for kind in KINDS] for run in runs
  ]
  latest = set.intersection(*(steps for steps, _ in all_steps))
  either = set.intersection(*(set.union(*steps) for steps in all_steps))
  reasons = []
  # The state of a best epoch will do where there is no other.
  newest_first = lambda steps: sorted(steps, reverse=True)
  for step in newest_first(latest) + newest_first(either - latest):
    try:
      for run in runs:
        run.load(step)
      return
    except DamagedError as error:
      logging.warning('%s. An older checkpoint is tried.', error)
      reasons.append(str(error))
  begun = [
    run for run, steps in zip(runs, all_steps, strict=True) if any(steps)
  ]
  saved_once = all(latest for latest, _ in all_steps)
  if len(begun) == len(runs) and (reasons or saved_once):
    folders = ', '.join(str(run.checkpoints.directory) for run in runs)
    raise CheckpointError(
      f'no whole checkpoint in {folders} to go on from'
      f'{": " if reasons else ""}{"; ".join(reasons)}; remove '
      f'{"it" if len(runs) == 1 else "them"} to begin anew'
    )
  for run in begun:
    logging.warning(
      '%s begins anew, as do those that train together with it: one of them '
      'was stopped before the end of its first save.',
      run.folder,
    )
