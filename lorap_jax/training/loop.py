"""A configuration, run to its end."""

import contextlib
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

from absl import logging
from ml_collections import config_dict

from lorap_jax.data import NodeDataset
from lorap_jax.training import report, settings, workdir
from lorap_jax.training.batched import BatchedRun
from lorap_jax.training.full_batch import FullBatchRun
from lorap_jax.training.run import Run


def train_and_evaluate(
  config: config_dict.ConfigDict,
  folder: str | os.PathLike[str],
  *,
  data: settings.Data | None = None,
) -> dict[str, Any]:
  """Runs one configuration to its end, from wherever `folder` says it is.

  One seed, one fold, one phase: `protocol.run` does the rest.

  Args:
    config: as `configs.default`.
    folder: work folder of the run.
    data: the data set, such as `data.custom` makes of arrays; None for the one
      that the configuration names.

  Returns:
    The report, as in `report.json`.

  Raises:
    ValueError: a configuration, data file or folder that makes no run.
    NonFiniteError: training diverged.
    Interrupted: a signal came; the same call goes on from the checkpoint.
  """
  folder = pathlib.Path(folder).absolute()
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
  run = create_run(chosen, data or chosen.load_data(), folder)
  try:
    with _stop_signals() as stopped:
      run.restore()
      run.train(stopped)
    return report.finish(run)
  finally:
    run.close()


def create_run(
  chosen: settings.Settings, data: settings.Data, folder: pathlib.Path
) -> Run:
  """The run that suits the data: one graph in full, or batches of graphs."""
  if isinstance(data, NodeDataset):
    return FullBatchRun(chosen, data, folder)
  return BatchedRun(chosen, data, folder)


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
