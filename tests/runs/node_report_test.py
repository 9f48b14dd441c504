"""The report of a run on one graph, and what can be loaded from its folder."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, plain, read

import lorap_jax
from lorap_jax.data import pipeline
from lorap_jax.runs import checkpointing, loop, settings
from lorap_jax.runs import result as report
from lorap_jax.training import history, tasks


class Finished(NamedTuple):
  folder: Any
  report: dict
  config: Any


RUNS = {
  # Sums with edge weights, and nothing learned but the network.
  'qat': ('gcn,qat4,none', {'scheme__points': ('features', 'weight', 'norm')}),
  # Parameters for each node.
  'a2q_node': ('gin,a2q,none', {}),
}


@pytest.fixture(scope='module', params=RUNS.values(), ids=RUNS)
def finished(request, tmp_path_factory):
  """A run on one graph."""
  folder = tmp_path_factory.mktemp('run')
  cell, changes = request.param
  config = tiny_run.node_config(cell, **changes)
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    return Finished(folder, loop.train_and_evaluate(config, folder), config)


def test_is_what_the_file_holds(finished):
  assert read(finished.folder) == plain(finished.report)


def test_result(finished):
  result = finished.report['result']
  records = metrics(finished.folder)
  best = max(records, key=lambda r: (r['valid_accuracy'], -r['valid_loss']))
  assert result['metric'] == 'accuracy' and result['rule'] == 'val_metric'
  assert 'best validation accuracy' in result['rule_in_words']
  for name in ('train', 'valid', 'test'):
    assert result[name] == best[f'{name}_accuracy']
  assert result['epoch'] == best['epoch']
  optimistic = max(r['test_accuracy'] for r in records)
  assert result['best_test_epoch']['test'] == optimistic


def test_all_of_a_result_is_of_the_selected_epoch():
  """Of three, whose numbers are 1, 2 and 3 at validation 5, 7 and 6."""
  records = [
    {
      'epoch': i,
      'train_accuracy': 0.1 * i,
      'valid_accuracy': 0.1 * valid,
      'test_accuracy': 0.01 * i,
      'valid_loss': 1.0,
    }
    for i, valid in ((1, 5), (2, 7), (3, 6))
  ]
  selection = history.Selection('val_metric', tasks.Task())
  result = report._result(selection, records)
  _, selected, _ = records
  assert result['epoch'] == 2
  for name in ('train', 'valid', 'test'):
    assert result[name] == selected[f'{name}_accuracy']
  assert result['best_test_epoch']['epoch'] == 3
  assert result['best_test_epoch']['test'] == 0.03


def test_length_and_origin(finished):
  found = finished.report
  assert (found['epochs'], found['steps'], found['seed']) == (6, 6, 0)
  assert found['data'] == tiny_run.node_data().source
  assert found['config'] == settings.from_config(finished.config).config
  assert found['seconds']['total'] > 0


def mean_code_bits(finished, kind):
  """What A2Q prints, of a state of a run: round(bits) - 1 over its rows."""
  checkpoints = checkpointing.Checkpoints(finished.folder / 'checkpoints')
  params = checkpoints.load_arrays(kind)['params']
  return float((np.round(params['conv_0']['aggregate']['bits']) - 1).mean())


def test_costs_are_of_the_one_graph(finished):
  cost = finished.report['cost']
  bits = cost['average_bits']
  elements = 24 * 5  # 24 nodes of 5 features, padding not counted.
  assert cost['feature_bytes_fp32_per_graph'] == 4 * elements
  if finished.config.scheme.name == 'qat':
    assert bits['per_point'] == {'features': 4}
    assert bits['usage_weighted'] == 4
    assert bits['published_print_out'] is None
  else:
    assert set(bits['per_point']) == {'conv_0/aggregate'}
    assert 3 < bits['usage_weighted'] < 5
    assert bits['published_print_out'] == mean_code_bits(finished, 'best')
    assert bits['published_print_out'] != mean_code_bits(finished, 'latest')
  assert cost['weight_bytes'] == 5 * 3 / 2  # 4 bits.
  fp32 = cost['bit_ops_per_graph']['products_fp32']
  assert fp32 == 24 * 5 * 3 * 32 * 32


def test_loaded_network_has_the_reported_accuracy(finished):
  loaded = lorap_jax.load_run(finished.folder)
  whole = pipeline.WholeGraph(tiny_run.node_data(), 'test', layout=False)
  batch = jax.device_put(whole.batch())
  apply = jax.jit(lambda v, g: loaded.model.apply(v, g, train=False))
  classes = np.argmax(apply(loaded.variables, batch.graph), -1)
  right = (classes == batch.labels)[whole.targets]
  assert len(right) == 8
  assert right.mean() == finished.report['result']['test']


def test_line_of_an_epoch(finished):
  record = metrics(finished.folder)[0]
  task = tasks.Task()
  line = report.epoch_line(task, record, 6)
  assert line.startswith(f'epoch 1/6  loss {record["train_loss"]:.4f}')
  assert f'val {100 * record["valid_accuracy"]:.2f}%' in line
