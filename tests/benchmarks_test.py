import ctypes
import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  __main__ as main,
)
from benchmarks import (
  aggregation,
  child,
  floats,
  growth,
  inputs,
  integers,
  integers_large,
  output,
  programs,
  prompts,
  scale,
  steps,
  timing,
)
from configs import cora, mnist, mnist_a2q_lorap
from lorap_jax.integers import c_run, evaluate
from lorap_jax.integers.program import Graph, Node, Program
from lorap_jax.nn import methods
from lorap_jax.runs import settings

# 2026-11: torch_geometric 2.8 calls what torch 2.13 deprecates.
pytestmark = pytest.mark.filterwarnings('ignore:.*torch.jit:DeprecationWarning')
TORCH = pytest.mark.skipif(
  not child.installed(), reason='torch_geometric is not installed'
)


def test_no_path_of_a_machine_is_recorded(tmp_path, monkeypatch):
  given = ['python', '-m', 'benchmarks', '--data-dir', str(tmp_path), 'steps']
  monkeypatch.setattr(sys, 'orig_argv', [*given, f'--out={tmp_path}', 'x/y=a'])
  name = tmp_path.name
  assert output.machine()['command'] == (
    f'python -m benchmarks --data-dir .../{name} steps --out=.../{name} x/y=a'
  )
  results = pathlib.Path(__file__).parents[1] / 'benchmarks' / 'results'
  paths = list(results.glob('*.json'))
  assert paths
  for path in paths:
    words = json.loads(path.read_text())['machine']['command'].split()
    assert not [w for w in words if w.rpartition('=')[2].startswith('/')], path


def test_variants_take_turns():
  calls = []
  variants = {name: functools.partial(calls.append, name) for name in 'ab'}
  times = timing.measure(variants, rounds=3)
  assert all(len(t.wall) == len(t.cpu) == 3 for t in times.values())
  # A call to warm up and one to count repeats by, then a block per round.
  assert calls[:4] == ['a', 'a', 'b', 'b']
  changes = [a for a, b in zip(calls[4:], calls[5:], strict=False) if a != b]
  assert changes == ['a', 'b', 'a', 'b', 'a']


def test_ratios_are_taken_round_by_round():
  times = {
    'a': timing.Times(wall=[2.0, 30.0, 4.0], cpu=[1.0, 1.0, 1.0]),
    'b': timing.Times(wall=[1.0, 10.0, 1.0], cpu=[2.0, 4.0, 8.0]),
  }
  columns = timing.columns(times, 'a', 'b')
  assert columns['wall / b'] == (3, 2, 4)
  assert columns['cpu / b'] == (0.25, 0.125, 0.5)
  assert columns['wall ms'] == (4000, 2000, 30000)


def test_copy_copies():
  timing.copier(4096)()


def test_table_and_file(tmp_path, capsys):
  rows = [
    {'form': 'layout', 'ms': timing.Stats(2.0, 1.0, 3.0), 'a / b': 0.5},
    {'form': 'torch', 'ms': output.MISSING},
  ]
  output.print_table('theme', 'Title.', rows)
  output.write_json(tmp_path / 'new' / 'theme.json', 'theme', rows, 1.0)
  printed = capsys.readouterr().out.splitlines()
  assert printed[0] == 'theme: Title.'
  assert printed[2].split() == ['form', 'ms', 'a', '/', 'b']
  assert printed[3].split() == ['layout', '2', '(1-3)', '0.5']
  assert printed[4].split() == ['torch', 'not', 'installed']
  saved = json.loads((tmp_path / 'new' / 'theme.json').read_text())
  assert saved['rows'][0]['ms'] == {'median': 2, 'low': 1, 'high': 3}
  assert saved['machine']['versions']['jax'] == jax.__version__
  assert saved['machine']['usable_cores'] >= 1


def test_main_writes_what_a_theme_finds(tmp_path, monkeypatch):
  monkeypatch.setattr(prompts, '_SHAPES', ((50, 8),))
  command = ['benchmarks', 'prompts', '--quick', '--out', str(tmp_path)]
  monkeypatch.setattr(sys, 'argv', command)
  main.main()
  rows = json.loads((tmp_path / 'prompts_quick.json').read_text())['rows']
  assert [row['what'] for row in rows] == [
    'copy',
    'forward',
    'forward + gradient',
    'fused',  # Not measured here: that it needs a GPU.
  ]


def test_main_refuses_an_unknown_theme(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['benchmarks', 'speed'])
  with pytest.raises(SystemExit):
    main.main()
  assert "no theme 'speed'" in capsys.readouterr().err


def test_superpixels_have_the_shape_of_mnist():
  train = inputs.superpixels(128).train
  assert (train.num_graphs, len(train.nodes)) == (128, 9062)
  assert len(train.senders) == 72496
  starts = np.cumsum(train.n_node) - train.n_node
  shift = np.repeat(starts, train.n_edge)
  sent = np.bincount(train.senders + shift, minlength=9062)
  received = np.bincount(train.receivers + shift, minlength=9062)
  assert (sent == 8).all() and (train.senders != train.receivers).all()
  assert received.min() == 0 and received.max() == 33


def test_cora_has_its_shape():
  data = inputs.node_data('cora')
  assert data.nodes.shape == (2708, 1433) and len(data.senders) == 10556
  assert [int(mask.sum()) for mask in data[4:7]] == [140, 500, 1000]
  assert inputs.origin(data) == 'synthetic'


def test_discussions_have_hubs():
  train = inputs.discussions(128).train
  starts = np.cumsum(train.n_node) - train.n_node
  shift = np.repeat(starts, train.n_edge)
  assert abs(len(train.nodes) - 63000) < 1000
  assert abs(len(train.senders) - 147000) < 2000
  assert 1000 < np.bincount(train.receivers + shift).max() < 1400


def test_a_folder_without_the_data_leaves_what_was_made(tmp_path):
  made = inputs.node_data('cora', 0.1)
  config = cora.get_config('gcn,fp32,none')
  assert inputs.real_or(made, config, str(tmp_path)) is made
  assert config.data.dir is None


def test_forms_agree_with_float64():
  rows = aggregation._workload(inputs.superpixels(2), 5, 1)
  measured = [row for row in rows if row['cpu ms'] != output.MISSING]
  assert len(measured) == (8 if child.installed() else 4)
  assert all(0 < row['error'] < 1e-6 for row in measured)


def test_all_cells_have_the_network_of_the_first():
  base = cora.get_config('gcn,fp32,none')
  config = steps.cell_config(cora.get_config, base, 'gcn,mixq,lorap')
  assert cora.get_config('gcn,mixq,lorap').model.features == 128
  assert config.model.features == 16
  chosen = settings.from_config(config)
  assert chosen.scheme == methods.MixQ(points=methods.MIXQ_POINTS['gcn'])


def test_steps_go_on():
  base = cora.get_config('gcn,fp32,none')
  step = programs.stepper(base, inputs.node_data('cora', 0.05))
  first, second = step(), step()
  assert jnp.isfinite(second.loss) and second.loss != first.loss


@TORCH
def test_peers_are_the_same_networks():
  from benchmarks import peer

  data = inputs.superpixels(4)
  model = peer.GIN(3, data.num_classes)
  count = sum(p.numel() for p in model.parameters())
  config = mnist.get_config('gin,fp32,none')
  assert count == steps.num_parameters(config, data)
  whole = inputs.node_data('cora', 0.05)
  config = cora.get_config('gcn,fp32,none')
  model = peer.gcn_of(config, whole)
  count = sum(p.numel() for p in model.parameters())
  assert count == steps.num_parameters(config, whole)


@TORCH
def test_peers_train():
  from benchmarks import peer

  whole = inputs.node_data('cora', 0.05)
  config = cora.get_config('gcn,fp32,none')
  assert len(list(peer.node_epochs(config, whole, 2))) == 2
  data = inputs.superpixels(4)
  batch = next(iter(peer.batches(data.train, 4, shuffle=False)))
  model = peer.GIN(3, data.num_classes)
  before = [p.detach().clone() for p in model.parameters()]
  peer.stepper(model, mnist.get_config('gin,fp32,none'))(batch)
  assert any(
    (a != b).any() for a, b in zip(before, model.parameters(), strict=True)
  )


def test_child_says_what_failed():
  with pytest.raises(RuntimeError, match='No module named'):
    child.run('nothing')


def test_peak_memory_is_that_of_this_process():
  assert child.peak_bytes() > 1e8


@pytest.mark.slow
def test_float_controls_are_the_network_without_quantizers(tmp_path):
  config = mnist_a2q_lorap.get_config('smoke')
  data = inputs.superpixels(16)
  model, variables = integers.network(config, data)
  steps = floats.of_gin(variables, model.num_layers)
  graph = evaluate.first_graphs(data.test, 1)
  expected = integers.full_precision(model, variables, graph)
  assert expected.std() > 1e-3
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  runtime = pytest.importorskip('onnxruntime')
  session = runtime.InferenceSession(floats.onnx_model(steps))
  index = lambda array: array.astype(np.int64)
  feed = {
    'nodes': graph.nodes,
    'senders': index(graph.senders),
    'receivers': index(graph.receivers),
  }
  close(session.run(None, feed)[0], expected)
  if c_run.compiler() is None:
    pytest.skip('no C compiler here')
  target = tmp_path / 'floats.so'
  c_run.build({'floats': floats.header(steps, max_nodes=99)}, target, ('-O1',))
  library = ctypes.CDLL(str(target))
  _, bytes_, _ = (ctypes.c_int64 * 3).in_dll(library, 'floats_sizes')
  out, arena = np.zeros((1, 10), np.int32), np.zeros(bytes_, np.uint8)
  run = c_run.function(library, 'floats')
  assert run(*c_run.arguments(graph), arena, arena.size, out) == 0
  close(out.view(np.float32), expected)


def test_what_goes_between_devices_is_counted():
  text = """
  %a = (f32[110]{0}, /*index=1*/f32[3,4]{1,0}) all-reduce(%x, %y), channel_id=1
  %b = pred[8]{0} all-gather-start(%z), channel_id=2
  %c = f32[1000]{0} add(%a, %a), metadata={op_name="all-reduce"}
  %d = f32[] all-reduce(%w)
  """
  assert scale.exchanged(text) == [
    ('f32', 110),
    ('f32', 12),
    ('pred', 8),
    ('f32', 1),
  ]
  assert scale.bytes_moved(text) == 4 * 123 + 8


def test_an_exponent_is_that_of_a_power():
  sizes = (3, 10, 700)
  costs = [0.2 * size**1.25 for size in sizes]
  assert growth.exponent(sizes, costs) == pytest.approx(1.25)
  assert growth.exponent(sizes, [7, 7, 7]) == pytest.approx(0)


def test_each_line_has_its_points_in_processes_of_their_own(monkeypatch):
  calls = []

  def point(*arguments, environment):
    calls.append((*arguments, environment['JAX_NUM_CPU_DEVICES']))
    _, scale, density, devices, *_ = arguments
    seconds = 2.0 * scale * density / devices
    return {
      'wall': [seconds, 9 * seconds, seconds],
      'cpu': [1.0, 3.0, 5.0],
      'batch': [seconds / 4] * 3,
      'held': 8e6 / devices,
      'state': 1e6,
      'peak': 3e6,
      'rows': 10,
      'nodes': 1000 * scale,
      'edges': 1000 * scale * density,
    }

  monkeypatch.setattr(child, 'run', point)
  rows = growth.run(False, None)
  assert len(rows) == len(calls)
  assert all(int(call[-1]) == call[3] for call in calls)
  for name, series in growth.SERIES.items():
    own = [row for row in rows if row['series'] == name]
    grown = [row[series.grows] / own[0][series.grows] for row in own]
    assert len(own) >= 3 and grown == sorted(set(grown))
    # The last point's rounds over the median of the first one's.
    last = grown[-1] if series.grows != 'devices' else 1 / grown[-1]
    assert own[-1]['time over first'] == pytest.approx((last, last, 9 * last))
    assert own[-1]['cpu over first'] == pytest.approx((1, 1 / 3, 5 / 3))
    assert own[-1]['MB per device'] == 8 / own[-1]['devices']
    assert ('batch over step' in own[0]) == series.sampled
  assert own[-1]['batch over step'] == pytest.approx(1 / 4)


def test_a_graph_may_have_more_edges():
  data = inputs.node_data('cora', 0.1, 2.0)
  assert data.num_nodes == 270
  assert len(data.senders) == 2 * 2 * 527


@pytest.mark.parametrize(
  'groups', [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_what_a_sampled_step_holds(groups, monkeypatch):
  monkeypatch.setattr(growth, '_FEATURES', 8)
  monkeypatch.setattr(growth, '_FANOUT', (5,))
  data = inputs.node_data('arxiv', 0.004)
  found = growth.measured(data, 1, True, groups, 1)
  assert found['nodes'] == 677 and 128 < found['rows'] <= 678
  assert found['state'] < found['held'] < found['peak']
  assert len(found['wall']) == len(found['batch']) == 1
  # Scale and bits of each node's features and messages, with two moments.
  assert (found['state'] > 4 * 3 * 2 * 2 * 677) != groups


def test_bytes_of_integers():
  nodes = (
    Node('fix', {'x': 'nodes'}, 'a', {'factor': 1.0}, {'low': -7, 'high': 7}),
    Node('sum_edges', {'a': 'a'}, 's'),
    Node('scale', {'a': 's'}, 'y', {'factor': 1.0}, {'low': -9, 'high': 9}),
  )
  bounds = {'a': 7, 's': 700, 'y': 9}
  program = Program(nodes, 'y', np.ones(1, np.float32), False, 2, bounds)
  graph = Graph(
    np.zeros((10, 2), np.float32), *np.zeros((2, 30), np.int32), None, 1
  )
  # Floats in, codes of one byte; one row and two ends for each edge; results
  # of two bytes; those of the program have four.
  sums = 30 * 2 * 1 + 30 * 8 + 10 * 2 * 2
  total = 10 * 2 * (4 + 1) + sums + 10 * 2 * (2 + 4)
  assert integers_large.bytes_moved(program, graph, narrow=True) == (
    total,
    sums,
  )
  wide = 30 * 2 * 4 + 30 * 8 + 10 * 2 * 4
  total = 10 * 2 * 8 + wide + 10 * 2 * 8
  assert integers_large.bytes_moved(program, graph, narrow=False) == (
    total,
    wide,
  )
