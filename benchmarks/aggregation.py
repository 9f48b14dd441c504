"""Sums over neighbours: forms and graphs.

`layout` is what training uses, `segment_sum` what it falls back to. The bound
is the time to read one row per edge and write one per node at the bandwidth of
a copy too large for any cache, which runs in turn with the forms. Errors are
the largest difference from float64, of sum and gradient, over the largest
value.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import sparse

from benchmarks import child, inputs, output, timing
from lorap_jax import graphs
from lorap_jax.data import NodeDataset, pipeline
from lorap_jax.runs import settings

_PEERS = {'PyG scatter', 'torch CSR'}
_COPY_BYTES = 1 << 28
Call = Callable[[], Any]


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: small sizes, few repeats.
    data_dir: not used: the graphs are always synthetic.
  """
  del data_dir
  scale = 0.1 if quick else 1.0
  cited = inputs.node_data('arxiv', scale)
  once = cited.senders < cited.receivers  # A citation has one direction.
  cited = cited._replace(
    senders=cited.senders[once], receivers=cited.receivers[once]
  )
  workloads = {
    'W1': (inputs.superpixels(128), 110),
    'cora16': (inputs.node_data('cora'), 16),
    'pubmed64': (inputs.node_data('pubmed'), 64),
    'W4': (inputs.discussions(int(128 * scale)), 64),
    'arxiv128': (cited, 128),
  }
  rows = []
  for name, (data, width) in workloads.items():
    for row in _workload(data, width, 3 if quick else 15):
      rows.append({'graph': name, **row})
  return rows


def _workload(data: settings.Data, width: int, rounds: int) -> list[output.Row]:
  senders, receivers, num_nodes = _edges(data)
  rng = np.random.default_rng(1)
  x, ds = rng.standard_normal((2, num_nodes, width), np.float32)
  calls = {**_ours(data, x, ds), **_peers(senders, receivers, x, ds)}
  matrix = sparse.csr_array(
    (np.ones(len(senders)), (receivers, senders)), (num_nodes, num_nodes)
  )
  exact = matrix @ x.astype(np.float64), matrix.T @ ds.astype(np.float64)
  errors = {
    form: max(map(_error, both(), exact)) for form, (_, both) in calls.items()
  }
  # The bound, as a part of what the copy reads and writes.
  part = 4 * width * (len(senders) + num_nodes) / (2 * _COPY_BYTES)
  rows = []
  for what, of in (('forward', 0), ('forward + gradient', 1)):
    times = timing.measure(
      {
        'copy': timing.copier(_COPY_BYTES),
        **{form: pair[of] for form, pair in calls.items()},
      },
      rounds=rounds,
    )
    for form in (*calls, *sorted(_PEERS - calls.keys())):
      row: output.Row = {'nodes': num_nodes, 'edges': len(senders)}
      row.update({'what': what, 'form': form})
      if form in calls:
        row.update(_columns(times, form))
        row['error'] = errors[form]
        for clock in () if of else ('cpu', 'wall'):
          own, copy = (getattr(times[n], clock) for n in (form, 'copy'))
          bound = [part * t for t in copy]
          row[f'{clock} / bound'] = timing.ratio(own, bound)
      else:
        row['cpu ms'] = output.MISSING
      rows.append(row)
  return rows


def _columns(times: dict[str, timing.Times], form: str) -> output.Row:
  columns = {}
  for base in sorted(_PEERS & times.keys()) or ['segment_sum']:
    columns.update(timing.columns(times, form, base))
  return columns


def _edges(data: settings.Data) -> tuple[np.ndarray, np.ndarray, int]:
  """Ends of all training edges, and the number of nodes."""
  if isinstance(data, NodeDataset):
    return data.senders, data.receivers, data.num_nodes
  train = data.train
  shift = np.repeat(np.cumsum(train.n_node) - train.n_node, train.n_edge)
  return train.senders + shift, train.receivers + shift, len(train.nodes)


def _batch(data: settings.Data) -> graphs.Batch:
  """The one batch that training makes of the data."""
  if isinstance(data, NodeDataset):
    return pipeline.WholeGraph(data, 'train', layout=True).batch()
  train = data.train
  budget = pipeline.joint_budget((train,), batch_size=train.num_graphs)
  return pipeline.Loader(train, budget, layout=True).batch(
    np.arange(train.num_graphs)
  )


def _ours(
  data: settings.Data, x: np.ndarray, ds: np.ndarray
) -> dict[str, tuple[Call, Call]]:
  """The sum, and the sum with its gradient, by form."""
  batch: Any = jax.device_put(_batch(data))
  free = batch.graph.nodes.shape[0] - len(x)
  x, ds = (jax.device_put(np.pad(a, ((0, free), (0, 0)))) for a in (x, ds))

  @jax.jit
  def forward(x, graph, layout):
    return graphs.aggregate(x, graph, layout)

  @jax.jit
  def both(x, ds, graph, layout):
    s, pull = jax.vjp(lambda x: graphs.aggregate(x, graph, layout), x)
    return s, pull(ds)[0]

  return {
    form: (
      lambda layout=layout: forward(x, batch.graph, layout),
      lambda layout=layout: both(x, ds, batch.graph, layout),
    )
    for form, layout in (('segment_sum', None), ('layout', batch.layout))
  }


def _peers(
  senders: np.ndarray, receivers: np.ndarray, x: np.ndarray, ds: np.ndarray
) -> dict[str, tuple[Call, Call]]:
  if not child.installed():
    return {}
  from benchmarks import peer

  sums = peer.sums(senders, receivers, len(x))
  return {
    form: peer.with_gradient(total, x, ds) for form, total in sums.items()
  }


def _error(got: Any, exact: np.ndarray) -> float:
  got = np.asarray(got)[: len(exact)]
  return float(np.abs(got - exact).max() / np.abs(exact).max())
