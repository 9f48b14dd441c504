"""Training on sampled neighbourhoods of one graph."""

import pathlib
from typing import Any

import jax
import numpy as np

from lorap_jax.data import NodeDataset, sampling
from lorap_jax.runs import settings
from lorap_jax.runs.batched import BatchedRun
from lorap_jax.runs.run import Run
from lorap_jax.training import layerwise, steps

_MANY_NODES = 1024  # Of a batch: enough for the ranges of quantizers.


class SampledRun(BatchedRun):
  """A run on one graph, some nodes and their drawn neighbours at a time.

  Validation and test nodes are evaluated from all their edges.
  """

  costed = 'target node'  # With its drawn neighbours.

  def __init__(
    self, chosen: settings.Settings, data: NodeDataset, folder: pathlib.Path
  ):
    Run.__init__(self, chosen, data, folder)
    self._edges = sampling.in_edges(data)
    forms = {'layout': chosen.uses_layout, 'weighted': chosen.weighted}
    fanout: Any = chosen.train.fanout
    unlabelled = chosen.train.unlabelled
    if unlabelled is None:
      size = min(chosen.train.batch_size, int(data.train_mask.sum()))
      unlabelled = 0 if size >= _MANY_NODES else _MANY_NODES
    self.loaders = {
      split: sampling.NeighborLoader(
        data,
        split,
        self._edges,
        fanout,
        batch_size=chosen.train.batch_size,
        unlabelled=unlabelled if split == 'train' else 0,
        **forms,
      )
      for split in ('train', 'test')
    }
    self.make_steps()
    loader = self.loaders['train']
    plan = loader.shuffled(chosen.config['seed'], 0)
    self.epoch_steps = len(plan)
    first = loader.put(loader.batch(plan[0]))
    self.start(first, data.nodes.shape[1], data.num_nodes)
    self._held_out = layerwise.Layerwise(
      self.model,
      data,
      self._edges,
      data.valid_mask | data.test_mask,
      **forms,
    )

  @property
  def num_costed(self) -> int:
    """Test nodes."""
    data: Any = self.data
    return int(data.test_mask.sum())

  def held_out(self) -> dict[str, dict[str, float]]:
    """Loss and metric of the validation and of the test nodes, means."""
    data: Any = self.data
    targets = self._held_out.targets
    outputs = self._held_out.outputs(self.state.evaluated().variables())
    labels = np.asarray(data.labels[targets])
    found = {}
    for split in ('valid', 'test'):
      mask = getattr(data, f'{split}_mask')[targets]
      sums = steps.make_sums(self.task)(outputs[mask], labels[mask])
      loss, metric, count = (float(v) for v in jax.device_get(sums))
      found[split] = {'loss': loss / count, self.task.metric: metric / count}
    return found
