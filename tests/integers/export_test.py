"""From a run to a folder of integers, and back to outputs."""

import ctypes
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
import tiny_run

import lorap_jax
from lorap_jax import export as command
from lorap_jax.data import DataSplits
from lorap_jax.integers import (
  artifact,
  builder,
  c_run,
  evaluate,
  onnx_writer,
  program,
)
from lorap_jax.runs import export


@pytest.fixture(scope='module')
def finished(finished_graphs):
  """A run of tiny graphs, and its data."""
  return finished_graphs.folder, tiny_run.splits()


@pytest.fixture(scope='module')
def exported(finished, tmp_path_factory):
  folder, data = finished
  out = tmp_path_factory.mktemp('out') / 'integers'
  lorap_jax.export_run(folder, out, data=data)
  return out


def arrays(data):
  graph = evaluate.first_graphs(data, data.num_graphs)
  return graph.nodes, graph.senders, graph.receivers, data.n_node


def test_manifest(exported, finished):
  manifest = json.loads((exported / 'manifest.json').read_text())
  report = json.loads((finished[0] / 'report.json').read_text())
  assert manifest['result'] == report['result']
  assert manifest['config'] == report['config']
  assert manifest['limits'] == {
    'max_degree': 12,
    'max_nodes': 14,
    'max_edges': 28,
  }
  found = manifest['integers']['test']
  assert found['network'] == pytest.approx(report['result']['test'])
  assert found['count'] == 21 and found['same'] > 0.8
  assert set(manifest['files']) == {
    p.name for p in exported.iterdir() if p.name != 'manifest.json'
  }
  assert manifest['versions']['exported']['jax'] == jax.__version__
  assert manifest['parity']['graphs'] == 21
  assert set(manifest['parity']['differing'].values()) == {0}
  # Bits, bounds and multipliers of every value; digests of every file.
  values = manifest['values']
  assert values['conv_0/dense_0/product']['weight_bits'] == 4
  assert values['conv_0/message/codes']['bound'] == 7
  low, high = values['conv_0/message/codes']['multipliers']
  assert 0 < low <= high
  assert all(len(f['sha256']) == 64 for f in manifest['files'].values())
  lines = export.told(manifest, exported)
  assert f'integers {found["integers"]:.4f}' in '\n'.join(lines)


def test_accuracy_is_that_of_the_artefact(exported, finished):
  test = finished[1].test
  network = lorap_jax.load_artifact(exported)
  outputs = network(*arrays(test))
  manifest = json.loads((exported / 'manifest.json').read_text())
  right = np.mean(outputs.argmax(1) == test.labels)
  assert right == pytest.approx(manifest['integers']['test']['integers'])
  # Of one graph, as of many.
  one = network(
    *arrays(test._replace(n_node=test.n_node[:1], n_edge=test.n_edge[:1]))
  )
  np.testing.assert_array_equal(one[0], outputs[0])


def test_parity_file(exported):
  network = lorap_jax.load_artifact(exported)
  with np.load(exported / 'parity.npz') as file:
    outputs = network(
      file['nodes'],
      file['senders'],
      file['receivers'],
      np.bincount(file['graph_of']),
    )
    scale = network.program.output_scale
    np.testing.assert_array_equal(outputs, file['outputs'] * scale)
    # The codes of every quantizer, in as many bits as the manifest says.
    values = network.manifest['values']
    codes = [n.removeprefix('codes/') for n in file.files if 'codes/' in n]
    assert len(codes) == len([n for n in values if n.endswith('codes')]) == 6
    for name in codes:
      found = file[f'codes/{name}']
      assert found.any() and np.abs(found).max() <= values[name]['bound']
      assert values[name]['bits'] <= 9


def test_onnx_runs_with_the_same_bits(exported):
  runtime = pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
  session = runtime.InferenceSession(exported / 'model.onnx')
  with np.load(exported / 'parity.npz') as file:
    given = {name: file[name] for name in file.files}
  expected = given['outputs']
  given['num_graphs'] = np.array([len(expected)], np.int32)
  inputs = {i.name: given[i.name] for i in session.get_inputs()}
  np.testing.assert_array_equal(session.run(['codes'], inputs)[0], expected)


def test_stablehlo_runs_with_the_same_bits(exported):
  path = exported / 'model.stablehlo'
  if not path.exists():
    pytest.skip('this jax.export has no form of the program')
  run = jax.export.deserialize(bytearray(path.read_bytes())).call
  with np.load(exported / 'parity.npz') as file:
    n_node = np.bincount(file['graph_of']).astype(np.int32)
    ends = file['senders'], file['receivers']
    found = run(file['nodes'], *ends, n_node)
    np.testing.assert_array_equal(found, file['outputs'])


def test_bytes_beside_the_cost_report(exported):
  manifest = json.loads((exported / 'manifest.json').read_text())
  found = manifest['sizes']
  assert found['onnx'] == (exported / 'model.onnx').stat().st_size
  weights = manifest['cost']['weight_bytes']
  assert 0 <= found['parts']['weights'] - weights < 60
  # Fields are filled up; constants of other parts may have equal bytes.
  assert -20 < found['c_tables'] - sum(found['parts'].values()) < 400
  assert found['within']['c_tables']
  lines = '\n'.join(export.told(manifest, exported))
  assert f'the cost report counts {found["counted"]:,} (' in lines
  names = manifest['names_in_onnx']
  assert len(set(names.values())) == len(names) and 'nodes' in names


def test_c_runs_with_the_same_bits(exported, tmp_path):
  if c_run.compiler() is None:
    pytest.skip('no C compiler here')
  target = tmp_path / 'model.so'
  c_run.build({'model': (exported / 'model.h').read_text()}, target, ('-O1',))
  run = c_run.function(ctypes.CDLL(str(target)), 'model')
  with np.load(exported / 'parity.npz') as file:
    nodes, graph_of = file['nodes'], file['graph_of']
    ends, expected = (file['senders'], file['receivers']), file['outputs']
  arena = np.zeros(1 << 20, np.uint8)
  for g, row in enumerate(expected):
    mine, first = graph_of == g, int(np.argmax(graph_of == g))
    edges = [(end - first)[graph_of[ends[1]] == g] for end in ends]
    one = program.Graph(nodes[mine], *edges, 0 * graph_of[mine], 1)
    out = np.zeros((1, 3), np.int32)
    assert run(*c_run.arguments(one), arena, arena.size, out) == 0
    np.testing.assert_array_equal(out[0], row)


def test_an_artefact_needs_no_jax(exported):
  code = (
    'import sys; sys.modules["jax"] = None; import lorap_jax, numpy as np;'
    f'n = lorap_jax.load_artifact({str(exported)!r});'
    'print(n(np.ones((2, 3)), [0], [1]).shape)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '(1, 3)'


@pytest.mark.parametrize(
  'change, message',
  [
    (
      {'nodes': np.ones((2, 4))},
      r'shape \(2, 4\); this network takes \[n, 3\]',
    ),
    ({'nodes': np.full((2, 3), np.nan)}, 'not finite'),
    ({'senders': [2]}, 'names node 2 to 2; there are 2'),
    ({'senders': [-1]}, 'names node -1'),
    ({'senders': [0.5]}, 'list of whole numbers'),
    ({'senders': [0, 1]}, 'differ in length'),
    ({'n_node': [3]}, 'must add up to 2'),
    (
      {'senders': [0] * 13, 'receivers': [1] * 13},
      'max_degree 13; .* up to 12: export it again with --max_degree=13',
    ),
    ({'nodes': np.ones((15, 3)), 'n_node': [15]}, 'max_nodes 15'),
  ],
)
def test_graphs_that_do_not_fit(exported, change, message):
  network = lorap_jax.load_artifact(exported)
  given = {
    'nodes': np.ones((2, 3)),
    'senders': [0],
    'receivers': [1],
    'n_node': [2],
    **change,
  }
  with pytest.raises(artifact.ArtifactError, match=message):
    network(**given)


@pytest.mark.parametrize(
  'name, content',
  [
    ('program.npz', b'other'),
    ('model.h', b'of another export'),
    ('manifest.json', b'{'),
    ('manifest.json', b'{}'),
    ('parity.npz', None),
  ],
)
def test_damaged_folders(exported, tmp_path, name, content):
  folder = tmp_path / 'copy'
  folder.mkdir()
  for path in exported.iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  if content is None:
    (folder / name).unlink()
  else:
    (folder / name).write_bytes(content)
  with pytest.raises(artifact.ArtifactError, match='export'):
    lorap_jax.load_artifact(folder)


def molecules():
  """Graphs of nodes of five types; the label is the mean of the type."""
  data = tiny_run.regression_splits()
  parts = []
  for part in data[:3]:
    types = np.arange(len(part.nodes)) * 7 % 5
    starts = np.cumsum(part.n_node) - part.n_node
    labels = np.add.reduceat(types, starts) / part.n_node
    nodes = types[:, None].astype(np.float32)
    parts.append(part._replace(nodes=nodes, labels=labels.astype(np.float32)))
  return DataSplits(*parts, num_classes=1, source=data.source, task=data.task)


@pytest.mark.slow
def test_regression_on_types(tmp_path):
  data = molecules()
  config = tiny_run.config(
    train__plots=False,
    train__epochs=3,
    optim__learning_rate=0.02,
    model__encoder='embedding',
    model__encoder_operand=None,
    prompt__name='lorap',
    model__residual=True,
  )
  lorap_jax.train_and_evaluate(config, tmp_path / 'run', data=data)
  manifest = lorap_jax.export_run(tmp_path / 'run', tmp_path / 'out', data=data)
  assert manifest['result']['metric'] == 'mae'
  found = manifest['integers']['test']
  assert found['network'] == pytest.approx(manifest['result']['test'], rel=1e-4)
  assert found['integers'] == pytest.approx(found['network'], rel=0.05)
  network = lorap_jax.load_artifact(tmp_path / 'out')
  nodes, *others = arrays(data.test)
  error = np.abs(network(nodes, *others)[:, 0] - data.test.labels).mean()
  assert error == pytest.approx(found['integers'], rel=1e-5)
  for wrong in (-1, 28, 0.5):
    nodes = nodes.copy()
    nodes[3] = wrong
    with pytest.raises(artifact.ArtifactError, match='from 0 to 27'):
      network(nodes, *others)


def test_a_folder_that_is_there_is_left_alone(finished, tmp_path):
  folder, data = finished
  (tmp_path / 'out').mkdir()
  with pytest.raises(artifact.ArtifactError, match='is there already'):
    lorap_jax.export_run(folder, tmp_path / 'out', data=data)
  assert not list((tmp_path / 'out').iterdir())


def test_nothing_is_left_of_a_folder_that_cannot_be_written(
  tmp_path, monkeypatch
):
  def fail(*_):
    raise OSError('no room')

  monkeypatch.setattr(artifact.os, 'rename', fail)
  with pytest.raises(artifact.ArtifactError, match='no room'):
    artifact.write(tmp_path / 'out', {'a': b'1'}, {})
  assert not list(tmp_path.iterdir())


def test_limits_below_the_data_and_runs_of_arrays(finished, tmp_path):
  folder, data = finished
  with pytest.raises(builder.ExportError, match='max_degree=2 is less than'):
    lorap_jax.export_run(folder, tmp_path / 'out', data=data, max_degree=2)
  with pytest.raises(builder.ExportError, match="trained on 'tiny'; give it"):
    lorap_jax.export_run(folder, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'report, message',
  [
    (None, 'it is no finished run; run its command to the end first'),
    ({'members': [{'seed': 3, 'fold': 0}]}, 'such as .*seed_3_fold_0'),
  ],
)
def test_command_says_what_is_wrong(
  finished, tmp_path, capsys, report, message
):
  """A run without a report; a group of runs."""
  if report is not None:
    own = json.loads((finished[0] / 'report.json').read_text())
    (tmp_path / 'report.json').write_text(json.dumps({**own, **report}))
  assert command.main([str(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and len(error.splitlines()) == 1
  assert re.search(message, error)
  assert not (tmp_path / 'integers').exists()


def test_without_the_packages_and_the_compiler(finished, tmp_path, monkeypatch):
  """What needs them is left out, and said with its remedy."""
  folder, data = finished

  def missing():
    raise ImportError

  monkeypatch.setattr(onnx_writer, '_import_onnx', missing)
  monkeypatch.setattr(c_run, 'compiler', lambda: None)
  manifest = lorap_jax.export_run(folder, tmp_path / 'out', data=data)
  assert manifest['sizes']['onnx'] is None
  assert not list((tmp_path / 'out').glob('*onnx*'))
  assert manifest['parity']['differing'] == {'JAX': 0}
  text = '\n'.join(export.told(manifest, tmp_path / 'out'))
  assert 'pip install onnx' in text and 'no C compiler (cc)' in text


def test_a_program_survives_its_file(exported):
  network = lorap_jax.load_artifact(exported)
  again = artifact.from_bytes(artifact.to_bytes(network.program))
  assert [n.op for n in again.nodes] == [n.op for n in network.program.nodes]
  jax.tree.map(
    np.testing.assert_array_equal,
    [dict(n.constants) for n in again.nodes],
    [dict(n.constants) for n in network.program.nodes],
  )


def test_the_example_of_the_page(exported, finished):
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'integers.md'
  code = page.read_text().split('```python\n', 1)[1].split('```', 1)[0]
  assert 'runs/mnist_a2q_lorap/integers' in code
  code = code.replace('runs/mnist_a2q_lorap/integers', str(exported))
  nodes, senders, receivers, n_node = arrays(finished[1].test)
  names = {
    'nodes': nodes,
    'senders': senders,
    'receivers': receivers,
    'n_node': n_node,
  }
  exec(compile(code, page.name, 'exec'), names)
  assert names['outputs'].shape == (21, 3)
