"""From a finished run to the folder of its integers."""

import contextlib
import io
import json
import pathlib
from typing import Any

import numpy as np

from lorap_jax._version import __version__
from lorap_jax.data import DataSplits, NodeDataset
from lorap_jax.integers import (
  artifact,
  c_writer,
  evaluate,
  lowering,
  onnx_writer,
  program,
  sizes,
  stablehlo,
)
from lorap_jax.integers.builder import ExportError
from lorap_jax.runs import datasets, restore, workdir

_PARITY_GRAPHS = 20
_MARGIN = 2  # Between the largest graph of the data and what is allowed.


def export_run(
  folder: pathlib.Path,
  out: pathlib.Path,
  *,
  max_degree: int | None = None,
  max_nodes: int | None = None,
  data: DataSplits | NodeDataset | None = None,
) -> dict[str, Any]:
  """Writes the integers of a run.

  Args:
    folder: work folder of a finished run.
    out: folder to be made.
    max_degree: largest number of edges into a node; None for twice that of the
      run's data.
    max_nodes: largest number of nodes of a graph; None likewise.
    data: what the run was trained on; None to read it again.

  Returns:
    The manifest.

  Raises:
    ExportError: a network that has no integers, or limits below the data.
    WorkdirError: no finished run.
    ArtifactError: `out` exists or cannot be written.
  """
  if out.exists():
    raise artifact.ArtifactError(
      f'{out} is there already; remove it, or choose another with --out'
    )
  report = workdir.read_json(folder / workdir.REPORT, whole=True)
  run = restore.load_run(folder)
  if data is None:
    data = _data_of(run)
  limits = _limits(data, max_degree, max_nodes)
  per_graph = isinstance(data, DataSplits)
  largest = max(float(np.abs(part.nodes).max()) for part in _parts(data))
  model: Any = run.model
  lowered = lowering.lower(
    model,
    run.variables,
    num_features=run.data['num_features'],
    largest_input=largest,
    max_degree=limits['max_degree'],
    max_nodes=limits['max_nodes'],
  )
  accuracy = _accuracies(lowered, run, data)
  graph = (
    evaluate.first_graphs(data.test, _PARITY_GRAPHS)
    if isinstance(data, DataSplits)
    else evaluate.graph_of_nodes(data)
  )
  files = {
    artifact.PROGRAM: artifact.to_bytes(lowered),
    artifact.PARITY: _parity(lowered, graph),
    artifact.HEADER: c_writer.write(
      lowered,
      max_nodes=limits['max_nodes'],
      max_edges=limits['max_edges'],
      max_graphs=1,
    ).encode(),
  }
  names = {}
  with contextlib.suppress(ImportError):  # An extra; the rest goes without.
    onnx = onnx_writer.write(lowered, names=True)
    names = json.loads(onnx.metadata_props.pop().value)
    files[artifact.ONNX] = onnx.SerializeToString()
  # A by-product, which jax.export does not make of every program.
  with contextlib.suppress(stablehlo.CannotExportError):
    files[artifact.STABLEHLO] = stablehlo.write(lowered)
  files['README.md'] = _readme(per_graph, artifact.ONNX in files).encode()
  manifest = {
    'lorap_jax': __version__,
    'config': run.config,
    'data': report['data'],
    'result': report['result'],
    'cost': report['cost'],
    'limits': limits,
    'largest_input': largest,
    'num_features': lowered.num_features,
    'num_outputs': accuracy.pop('num_outputs'),
    'per_graph': per_graph,
    'integers': accuracy,
    'bytes': sizes.compare(lowered, files, report['cost']),
    'names_in_onnx': names,
    'licence': 'the files of this folder may be used as the data and the run '
    'allow; lorap_jax is under Apache-2.0',
  }
  artifact.write(out, files, manifest)
  return artifact.load_artifact(out).manifest  # pyrefly: ignore


def _data_of(run: restore.LoadedRun) -> DataSplits | NodeDataset:
  values, name = run.config['data'], run.data['name']
  remedy = (
    f'the run was trained on {name!r}; give it: '
    'lorap_jax.export_run(folder, out, data=data)'
  )
  if values['name'] == 'custom' and values.get('path') is None:
    raise ExportError(f'its data was given as arrays; {remedy}')
  data = datasets.load(values)
  if data.source['name'] != name:
    raise ExportError(
      f'its configuration finds the data {data.source["name"]!r} here; {remedy}'
    )
  return data


def told(manifest: dict[str, Any], out: pathlib.Path) -> list[str]:
  """What a user is told after an export."""
  found = manifest['integers']
  metric = manifest['result']['metric']
  lines = [f'Exported to {out}']
  lines += [
    f'  {split:<5} {metric}: integers {found[split]["integers"]:.4f}, '
    f'network {found[split]["network"]:.4f}; '
    f'{found[split]["same"]:.2%} of the answers are the same'
    for split in ('valid', 'test')
  ]
  lines += [
    f'  {name}: {record["bytes"]:,} bytes'
    for name, record in manifest['files'].items()
  ]
  return lines + sizes.told(manifest['bytes'])


def _parts(data: Any) -> tuple[Any, ...]:
  if isinstance(data, NodeDataset):
    return (data,)
  return (data.train, data.valid, data.test)


def _limits(
  data: Any, max_degree: int | None, max_nodes: int | None
) -> dict[str, int]:
  degree, nodes, edges = 0, 0, 0
  for part in _parts(data):
    graph = (
      evaluate.graph_of_nodes(part)
      if isinstance(part, NodeDataset)
      else evaluate.first_graphs(part, part.num_graphs)
    )
    degree = max(degree, np.bincount(graph.receivers, minlength=1).max())
    nodes = max(nodes, np.bincount(graph.graph_of, minlength=1).max())
    of_edge = graph.graph_of[graph.receivers]
    edges = max(edges, np.bincount(of_edge, minlength=1).max())
  limits = {}
  for name, found, given in (
    ('max_degree', int(degree), max_degree),
    ('max_nodes', int(nodes), max_nodes),
  ):
    if given is not None and given < found:
      raise ExportError(
        f'--{name}={given} is less than the {found} of the data of the run'
      )
    limits[name] = _MARGIN * found if given is None else given
  limits['max_edges'] = _MARGIN * int(edges)
  return limits


def _accuracies(
  lowered: program.Program, run: restore.LoadedRun, data: Any
) -> dict[str, Any]:
  """The metric of the integers and of the network, on both held-out parts."""
  found: dict[str, Any] = {}
  if isinstance(data, NodeDataset):
    codes = evaluate.outputs(lowered, data)
    network = run.predict(data)
    parts = {
      split: (codes[mask], network[mask], data.labels[mask])
      for split, mask in (('valid', data.valid_mask), ('test', data.test_mask))
    }
  else:
    parts = {
      split: (evaluate.outputs(lowered, part), run.predict(part), part.labels)
      for split, part in (('valid', data.valid), ('test', data.test))
    }
  scale = lowered.output_scale
  for split, (codes, network, labels) in parts.items():
    found['num_outputs'] = codes.shape[1]
    values = codes.astype(np.float32) * scale
    if codes.shape[1] == 1 and labels.dtype.kind == 'f':
      error = lambda v, y=labels: float(np.abs(v[:, 0] - y).mean())
      same = float(np.mean(np.abs(values - network) < 1e-2))
    else:
      error = lambda v, y=labels: float(np.mean(v.argmax(1) == y))
      same = float(np.mean(values.argmax(1) == network.argmax(1)))
    found[split] = {
      'integers': error(values),
      'network': error(network),
      'same': same,
      'count': len(labels),
    }
  return found


def _parity(lowered: program.Program, graph: program.Graph) -> bytes:
  """Graphs, and what the program returns for them."""
  file = io.BytesIO()
  np.savez_compressed(
    file,
    allow_pickle=False,
    nodes=graph.nodes,
    senders=graph.senders,
    receivers=graph.receivers,
    graph_of=graph.graph_of,
    outputs=program.execute(lowered, graph),
  )
  return file.getvalue()


def _readme(per_graph: bool, with_onnx: bool) -> str:
  rows = 'graph' if per_graph else 'node'
  onnx = """
In ONNX Runtime, with int32 arrays (`graph_of`: the graph of each node) and
`num_graphs` [1]; leave out the inputs that the model does not have. OpenVINO
needs `{'INFERENCE_PRECISION_HINT': 'f32'}`.

    session = onnxruntime.InferenceSession('model.onnx')
    codes, outputs = session.run(None, inputs)
"""
  return f"""# An integer graph network

`manifest.json` says what was exported, for which graphs, and how accurate it
is. There is one row of outputs for each {rows}. In Python, with NumPy alone:

    import lorap_jax
    network = lorap_jax.load_artifact('.')
    outputs = network(nodes, senders, receivers, n_node)
{onnx if with_onnx else ''}
In C99, one graph at a time, without any other file:

    #define MODEL_IMPLEMENTATION
    #include "model.h"
    static unsigned char arena[MODEL_ARENA_BYTES];
    int error = model_run(nodes, senders, receivers, graph_of, n, e, 1,
                          arena, sizeof arena, out);

`model.stablehlo`, where it is there, is the same for `jax.export`:

    run = jax.export.deserialize(bytearray(content)).call
    codes = run(nodes, senders, receivers, n_node)

`parity.npz` has graphs with the whole numbers that every engine must return for
them, bit for bit; times the output scale they are the outputs.
"""
