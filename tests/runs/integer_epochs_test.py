"""The last epochs, in which the integers are evaluated, and their export."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import traverse_util

import lorap_jax
from lorap_jax.integers import builder
from lorap_jax.quantization import a2q, a2q_groups
from lorap_jax.reports import tables
from lorap_jax.runs import integer_phase, loop, protocol, settings
from lorap_jax.runs import run as run_lib


def graph_config(**changes):
  changes = {'train__integer_epochs': 2, 'train__plots': False, **changes}
  return tiny_run.config(**changes)


def node_config(**changes):
  changes = {
    'train__integer_epochs': 2,
    'train__epochs': 3,
    'train__plots': False,
    **changes,
  }
  return tiny_run.node_config('gcn,a2q,lorap', **changes)


CASES = {
  'graphs': (graph_config, tiny_run.splits),
  'nodes': (node_config, tiny_run.node_data),
}


def records_of(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module', params=CASES)
def finished(request, tmp_path_factory):
  """A run with integers to the end, and its data: folder, report, data."""
  make, data = CASES[request.param]
  folder = tmp_path_factory.mktemp(request.param) / 'run'
  config = make(train__export=True)
  report = loop.train_and_evaluate(config, folder, data=data())
  return folder, report, data()


def test_the_result_is_that_of_the_file(finished):
  folder, report, _ = finished
  records, result = records_of(folder), report['result']
  assert ['network_test_accuracy' in r for r in records] == [False, True, True]
  best = max(records[1:], key=lambda r: (r['valid_accuracy'], -r['valid_loss']))
  assert result['epoch'] == best['epoch']
  assert result['evaluated'] == 'integers'
  assert 'from epoch 2 on (evaluated as integers)' in result['rule_in_words']
  manifest = json.loads((folder / 'integers' / 'manifest.json').read_text())
  assert manifest['result'] == result
  for split in ('valid', 'test'):
    # Equal, not close: it is the same program.
    own = manifest['integers'][split]
    assert own['integers'] == pytest.approx(result[split], abs=1e-12)
    assert own['network'] == pytest.approx(result['network'][split], abs=1e-6)
    assert best[f'network_{split}_accuracy'] == result['network'][split]


def test_tables_are_those_of_the_file(finished):
  folder, report, _ = finished
  params = traverse_util.flatten_dict(
    lorap_jax.load_run(folder).variables['params']
  )
  tables = [
    p[:-1] for p, x in params.items() if (p[-1], x.shape) == ('bits', (8,))
  ]
  graphs = report['config']['data']['level'] == 'graph'
  assert len(tables) == (5 if graphs else 0)
  for path in tables:
    table = [jnp.asarray(params[(*path, name)]) for name in ('scale', 'bits')]
    rule = a2q.a2q_rule('graph', 'feature')
    for old, new in zip(
      table, a2q_groups.snapped_table(*table, rule=rule), strict=True
    ):
      np.testing.assert_array_equal(old, new)
    # Trained before: no longer those of the start, which are evenly spread.
    assert np.ptp(np.diff(table[0])) > 0


def test_the_report_says_what_was_exported(finished, capsys):
  folder, report, _ = finished
  saved = json.loads((folder / 'report.json').read_text())
  assert saved['integers'] == json.loads(json.dumps(report['integers']))
  found = report['integers']
  assert found['sizes']['c_tables'] and found['sizes']['counted']
  assert not any(found['parity']['differing'].values())
  assert found['parity']['values'] in (21 * 3, 24 * 3)
  tables.print_table(report, folder)
  text = ' '.join(capsys.readouterr().out.split())
  assert f'0 of {found["parity"]["values"]} on' in text
  assert 'exported KiB' in text and 'fake-quantized' in text


def test_the_folder_runs(finished):
  folder, report, data = finished
  network = lorap_jax.load_artifact(folder / 'integers')
  if hasattr(data, 'test_mask'):
    outputs = network(data.nodes, data.senders, data.receivers)
    right = (outputs.argmax(1) == data.labels)[data.test_mask]
  else:
    from lorap_jax.integers import evaluate

    test = data.test
    graph = evaluate.first_graphs(test, test.num_graphs)
    outputs = network(graph.nodes, graph.senders, graph.receivers, test.n_node)
    right = outputs.argmax(1) == test.labels
  assert right.mean() == pytest.approx(report['result']['test'])


@pytest.mark.parametrize(
  'finished',
  ['nodes', pytest.param('graphs', marks=pytest.mark.slow)],
  indirect=True,
)
def test_a_stopped_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
  folder, report, data = finished
  case = f'{report["config"]["data"]["level"]}s'
  make = CASES[case][0]
  with monkeypatch.context() as patch:
    if case == 'nodes':
      tiny_run.interrupt_after_dispatch(patch, 2)
    else:
      tiny_run.interrupt_after(patch, 2 * tiny_run.BATCHES)
    config = make(train__export=True)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(config, tmp_path / 'run', data=data)
  again = loop.train_and_evaluate(config, tmp_path / 'run', data=data)
  assert again['result'] == report['result']
  timeless = lambda records: [
    {k: v for k, v in r.items() if 'seconds' not in k} for r in records
  ]
  assert timeless(records_of(tmp_path / 'run')) == timeless(records_of(folder))
  for name in ('program.npz', 'model.h'):
    one, two = (f / 'integers' / name for f in (folder, tmp_path / 'run'))
    assert one.read_bytes() == two.read_bytes()


def test_seeds_of_one_graph_train_one_after_the_other(tmp_path):
  config = node_config(seeds=2, train__epochs=2, train__integer_epochs=5)
  with pytest.MonkeyPatch.context() as patch:
    tiny_run.feed(patch, tiny_run.node_data)
    report = protocol.run(config, tmp_path)
  assert report['result']['count'] == 2
  assert set(report['result']['network']) == {'test', 'valid'}
  for seed in (0, 1):
    folder = tmp_path / f'seed_{seed}_fold_0'
    assert not (folder / 'group.json').exists()
    # All epochs of a shorter run.
    assert all('network_test_loss' in r for r in records_of(folder))


def test_a_network_that_loses_its_integers_has_diverged(tmp_path, monkeypatch):
  def fail(*_):
    raise builder.ExportError('a multiplier is not finite in float32')

  monkeypatch.setattr(integer_phase.IntegerEvaluation, '__call__', fail)
  with pytest.raises(
    run_lib.NonFiniteError, match='no integers after epoch 2: a multiplier'
  ):
    config = node_config()
    loop.train_and_evaluate(config, tmp_path, data=tiny_run.node_data())


@pytest.mark.parametrize('field', ['integer_epochs', 'export'])
@pytest.mark.parametrize(
  'config, message',
  [
    (
      lambda **c: tiny_run.node_config('gcn,fp32,none', **c),
      'needs scheme.name qat or dq or a2q or mixq',
    ),
    (
      lambda **c: tiny_run.node_config(
        'gcn,qat4,none', scheme__published=True, **c
      ),
      'needs scheme.published False',
    ),
    (
      lambda **c: tiny_run.node_config(
        'gcn,qat4,none', scheme__edge_messages=True, **c
      ),
      'a network that has integers: messages that are quantized edge by edge',
    ),
  ],
)
def test_what_has_no_integers_is_refused_before_any_work(
  field, config, message
):
  value = {'integer_epochs': 1, 'export': True}[field]
  given = config(**{f'train__{field}': value})
  with pytest.raises(ValueError, match=message) as caught:
    settings.from_config(given)
  assert 'config.train: `' in str(caught.value)


def test_bounds_are_looked_at_before_training(tmp_path, monkeypatch):
  """QAT's ranges are not known yet; what does not fit 32 bits is."""
  data = tiny_run.node_data()
  make = lambda: tiny_run.node_config(
    'gin,qat4,none', train__epochs=1, train__export=True, train__plots=False
  )
  chosen = settings.from_config(make())
  run = loop.create_run(chosen.on(data), data, tmp_path)
  assert run.integers.limits.max_degree > 0
  monkeypatch.setattr(integer_phase.limits, '_MARGIN', 2**28)
  with pytest.raises(builder.ExportError, match='more than 32 bits hold'):
    loop.create_run(chosen.on(data), data, tmp_path)


def test_ranges_that_no_data_has_set():
  found = integer_phase._as_if_seen(
    {'a': {'range': {'initialized': np.array(False), 'min_val': np.zeros(2)}}}
  )
  leaves = jax.tree.leaves(found)
  assert leaves[0] and (leaves[1] == -1).all()
