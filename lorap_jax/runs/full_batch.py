"""Full-batch training on one graph: many epochs per dispatch."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax._typing import Array
from lorap_jax.data import NodeDataset, pipeline
from lorap_jax.graphs import Batch
from lorap_jax.nn import methods
from lorap_jax.runs import result, settings, side_by_side
from lorap_jax.runs.run import Run
from lorap_jax.training import history, steps
from lorap_jax.training import options as options_lib
from lorap_jax.training.state import TrainState

# Per dispatch: how often a run can stop, save and say where it is. A large
# graph has fewer: so many nodes and edges, some seconds on a CPU.
_MOST_EPOCHS = 100
_MOST_NODES_AND_EDGES = 5_000_000


class Carry(NamedTuple):
  """What one epoch hands to the next.

  Attributes:
    state: present state.
    best: state of the selected epoch so far; before the first the initial one.
    score: key of that epoch, which `history.beats` compares.
  """

  state: TrainState
  best: TrainState
  score: tuple[Array, Array]


def _epochs(
  model: nn.Module,
  scheme: methods.Scheme,
  selection: history.Selection,
  options: options_lib.Options,
) -> Callable[..., tuple[Carry, dict[str, Array]]]:
  """`make_epochs` as a pure function."""
  task = selection.task
  step = steps.train_step(model, scheme, task, options)
  settle = steps.settle_step(model)

  def epoch(carry: Carry, batch, valid, test, rates):
    batch, *guide = batch if options.teacher else (batch,)
    state, metrics = step(carry.state, batch, rates, *guide)
    if options.ema:
      # Running statistics of the averaged network, on the one batch there is.
      state = state._replace(batch_stats=carry.state.batch_stats)
      state = settle(state, batch) if state.batch_stats else state
    outputs: Any = model.apply(
      state.evaluated().variables(),
      batch.graph,
      layout=batch.layout,
      train=False,
    )
    record = {**metrics._asdict(), 'epoch': state.step.astype(jnp.float32)}
    for name, mask in (('valid', valid), ('test', test)):
      loss, metric, count = task.sums(outputs, batch.labels, mask)
      record[f'{name}_loss'] = loss / count
      record[f'{name}_{task.metric}'] = metric / count
    score = tuple(jnp.float32(s) for s in selection.score(record))
    nothing_yet = carry.best.step == 0
    better = nothing_yet | history.beats(score, carry.score)
    choose = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(better, a, b), new, old
    )
    new = Carry(state, choose(state, carry.best), choose(score, carry.score))
    return new, record

  def run(carry, batch, valid, test, rates):
    return jax.lax.scan(
      lambda c, r: epoch(c, batch, valid, test, r), carry, rates
    )

  return run


@functools.lru_cache(steps.NUM_PROGRAMS)
def make_epochs(
  model: nn.Module,
  scheme: methods.Scheme,
  selection: history.Selection,
  options: options_lib.Options = options_lib.NONE,
  *,
  joint: bool = False,
) -> Callable[..., tuple[Carry, dict[str, Array]]]:
  """The jitted program of several epochs: a step and an evaluation each.

  Equal arguments give the same program, so that seeds and rates share it.

  Args:
    model: Linen module.
    scheme: quantization framework, whose penalty enters the loss.
    selection: rule and task.
    options: see `steps.train_step`.
    joint: for several runs at once, mapped over their carries and rates.

  Returns:
    run(carry, batch, valid, test, rates [k]) -> (carry, records), where with a
    teacher `batch` is a pair of it and the teacher's outputs, and where
    `valid` and `test` are masks like `batch.targets`, and `rates` and `records`
    hold arrays [k]. The old carry is donated. If joint, the leaves of carry and
    rates have a first axis [s], and records are [k, s].
  """
  run = _epochs(model, scheme, selection, options)
  if joint:
    run = jax.vmap(run, (0, None, None, None, 0), (0, 1))
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
    mesh = chosen.mesh
    self.loaders = {
      split: pipeline.WholeGraph(
        data,
        split,
        layout=chosen.uses_layout,
        weighted=chosen.weighted,
        sparse_features=jax.default_backend() == 'cpu' and mesh is None,
        mesh=mesh,
      )
      for split in ('train', 'valid', 'test')
    }
    loader = self.loaders['train']
    self.batch: Batch = loader.put(loader.batch())
    self.start(self.batch, data.nodes.shape[1], data.num_nodes)
    if self.teacher:
      # The same in every epoch: it sees the same graph.
      outputs = jax.jit(self.teacher.static.outputs)
      self._guide = outputs(self.teacher.variables, self.batch)
      self.options = dataclasses.replace(
        self.options,
        teacher=dataclasses.replace(self.teacher.static, known=True),
      )

  def share_batch(self, other: 'FullBatchRun') -> None:
    """Lets go of the own copy of the graph for that of a run on it."""
    self.batch = other.batch

  @property
  def recipe(self) -> tuple[Any, ...]:
    """What `make_epochs` is made of; runs with equal ones share a program."""
    return self.model, self.settings.scheme, self.selection, self.options

  def program(self, members: int) -> Callable[..., Any]:
    """The program of this many runs, see `make_epochs`."""
    run = make_epochs(*self.recipe, joint=members > 1)
    if self.selection.integers is None:
      return run
    return functools.partial(self._epoch_with_integers, run)

  def _epoch_with_integers(
    self, run: Callable[..., Any], carry: Carry, *inputs: Any
  ) -> tuple[Carry, dict[str, Any]]:
    """One epoch, whose place in the selection is found here."""
    score = carry.score
    unbeaten = (jnp.float32(jnp.inf), jnp.float32(jnp.inf))
    # What is the best already stays it: its arrays are given away.
    new, records = run(carry._replace(score=unbeaten), *inputs)
    record = {name: v[0] for name, v in jax.device_get(records).items()}
    if not (np.isfinite(record['loss']) and record['finite'].all()):
      return new, records  # `file` says what diverged.
    numbers = {name: v.item() for name, v in record.items() if not v.ndim}
    numbers['epoch'] = numbers['step'] = int(numbers['epoch'])
    record |= self.as_integers(numbers, new.state)
    new_score = tuple(jnp.float32(s) for s in self.selection.score(record))
    if record['epoch'] == 1 or history.beats(new_score, score):
      best, score = jax.tree.map(jnp.copy, new.state), new_score
      new = new._replace(best=best)
    records = {name: np.asarray(value)[None] for name, value in record.items()}
    return new._replace(score=score), records

  def inputs(self) -> tuple[Any, Array, Array]:
    """What the program reads: the batch, validation and test masks.

    With a teacher, the batch and its outputs in place of the batch.
    """
    loaders = (self.loaders[split] for split in ('valid', 'test'))
    batch = (self.batch, self._guide) if self.teacher else self.batch
    return batch, *(loader.put(loader.targets) for loader in loaders)

  def dispatch_size(self, members: int) -> int:
    """Epochs of each dispatch, wherever a run is taken up.

    A program of another length may round differently.

    Args:
      members: runs that train together.

    Returns:
      The largest divisor of the run's epochs, up to a limit.
    """
    if self.selection.integers is not None:
      return 1  # Programs of integers are made between epochs.
    data: Any = self.data
    size = data.num_nodes + len(data.senders)
    most = min(_MOST_EPOCHS, _MOST_NODES_AND_EDGES / size)
    # Epochs of several take longer, and share what a dispatch costs.
    most = math.ceil(most / min(members, 5))
    return max(k for k in range(1, most + 1) if self.epochs % k == 0)

  def train(self, stopped: Callable[[], bool]) -> None:
    """Trains to the end, alone in its program.

    Args:
      stopped: True once a signal asked to stop.

    Raises:
      NonFiniteError: training diverged.
      Interrupted: stopped; the state is saved.
    """
    alone = side_by_side.Group({self.folder: self}, (self.folder,))
    errors = side_by_side.train(alone, stopped)
    if errors:
      raise errors[self]

  def carry(self) -> Carry:
    """The carry at the present position."""
    records = self.progress.history
    if not records:
      # Any score does, because the first epoch is better than none.
      nothing = (jnp.float32(0), jnp.float32(0))
      return Carry(self.state, jax.tree.map(jnp.copy, self.state), nothing)
    best = self.selected_state(records)
    score = self.selection.score(self.selection.best(records))
    return Carry(self.state, best, tuple(jnp.float32(s) for s in score))  # pyrefly: ignore

  def file(self, records: dict[str, np.ndarray], seconds: float) -> None:
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
        if name.startswith(('valid_', 'test_', 'network_'))
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

  def shown(self, last: dict[str, Any]) -> dict[str, str]:
    """The fields that the display shows for a record."""
    return {
      'epoch': f'{self.progress.epoch}/{self.epochs}',
      'speed': f'{1 / max(last["train_seconds"], 1e-9):.1f}',
      'loss': f'{last["train_loss"]:.4f}',
      'valid': result.metric_text(self.task, last, 'valid'),
      'bits': f'{last["bits"]:.2f}',
    }

  def save(self, carry: Carry) -> None:
    """Saves the carry, and keeps its state."""
    self.state = carry.state
    latest, best = int(carry.state.step), int(carry.best.step)
    # `best` first: what is there when a save is cut off fits the older latest.
    # It is not written again before another epoch is the best.
    then = self.progress.until(best)
    self.checkpoints.save('best', best, carry.best, then.to_json())
    progress = self.progress.to_json()
    self.checkpoints.save('latest', latest, carry.state, progress)
    self.checkpoints.prune()
