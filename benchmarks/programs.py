"""The library's own compiled training steps, called again and again."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import config_dict

from lorap_jax.graphs import Batch
from lorap_jax.runs import loop, settings
from lorap_jax.runs.full_batch import FullBatchRun
from lorap_jax.runs.run import Run
from lorap_jax.training import steps


def begin(
  config: config_dict.ConfigDict, data: settings.Data
) -> tuple[Run, Batch]:
  """A run at its first step, and the first batch of its training data."""
  chosen = settings.from_config(config)
  with tempfile.TemporaryDirectory() as folder:
    run = loop.create_run(chosen, data, pathlib.Path(folder))
    run.close()
  if isinstance(run, FullBatchRun):
    return run, run.batch
  loader = run.loaders['train']
  return run, next(loader.stream(loader.ordered()[:1]))


def compiled_step(run: Run) -> steps.Step:
  """The jitted training step of a run."""
  return steps.make_train_step(run.model, run.settings.scheme, run.task)


def stepper(
  config: config_dict.ConfigDict, data: settings.Data
) -> Callable[[], Any]:
  """A call that takes one training step after the other.

  Args:
    config: of the run.
    data: its data set; every step is on its first batch.
  """
  run, batch = begin(config, data)
  step, state = compiled_step(run), run.state
  rates = jax.device_put(run.settings.optimizer.rates())

  def call():
    nonlocal state
    state, metrics = step(state, batch, rates)
    return metrics

  return call
