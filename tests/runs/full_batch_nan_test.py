"""Selection on one graph where scores are no numbers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from lorap_jax.runs import full_batch, loop, settings
from lorap_jax.training import history, tasks


@dataclasses.dataclass(frozen=True)
class Scripted(history.Selection):
  """A rule whose scores do not depend on the network."""

  scores: tuple[float, ...] = ()

  def score(self, record):
    scores = jnp.asarray(self.scores)
    return scores[jnp.int32(record['epoch']) - 1], jnp.float32(0)


NAN, LOW = float('nan'), float('-inf')


@pytest.mark.parametrize(
  'scores, best',
  [
    ((NAN, NAN, NAN), 1),
    ((LOW, LOW, LOW), 1),
    ((NAN, LOW, NAN), 2),
    ((NAN, 1.0, NAN), 2),
    ((1.0, NAN, 2.0), 3),
    ((1.0, NAN, LOW), 1),
  ],
  ids=str,
)
def test_scores_that_are_no_numbers(tmp_path, scores, best):
  chosen = settings.from_config(tiny_run.node_config())
  run = full_batch.FullBatchRun(chosen, tiny_run.node_data(), tmp_path)
  run.close()
  selection = Scripted('last', tasks.Task(), scores=scores)
  assert selection.best([{'epoch': e} for e in (1, 2, 3)])['epoch'] == best
  program = full_batch.make_epochs(run.model, run.settings.scheme, selection)
  carry, _ = program(run.carry(), *run.inputs(), run.rates(range(3)))
  assert int(carry.best.step) == best


def test_no_validation_nodes_are_refused(tmp_path):
  # The loss of no nodes is no number.
  data = tiny_run.node_data()
  data = data._replace(valid_mask=np.zeros_like(data.valid_mask))
  with pytest.raises(ValueError, match='data: the valid split is empty'):
    loop.train_and_evaluate(tiny_run.node_config(), tmp_path, data=data)
