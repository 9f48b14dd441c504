"""From a finished run to the folder of its integers."""

import contextlib
import importlib.metadata
import io
import json
import pathlib
from typing import Any

import numpy as np

from lorap_jax.data import DataSplits, NodeDataset
from lorap_jax.integers import (
  artifact,
  c_writer,
  evaluate,
  examples,
  limits,
  onnx_writer,
  parity,
  program,
  sizes,
  stablehlo,
)
from lorap_jax.integers.builder import ExportError
from lorap_jax.runs import datasets, restore, result, workdir

_PARITY_GRAPHS = 20  # In the folder.
_COMPARED_GRAPHS = 100  # In all engines that are here.
_EXAMPLE_NODES = 50
_EXTRAS = ('onnx', 'onnxruntime')


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
    ExportError: no finished run, a network that has no integers, or limits
      below the data.
    WorkdirError: a damaged folder.
    ArtifactError: `out` exists or cannot be written.
  """
  if out.exists():
    raise artifact.ArtifactError(
      f'{out} is there already; remove it, or choose another with --out'
    )
  if not (folder / workdir.REPORT).exists():
    raise ExportError(
      f'{folder} has no {workdir.REPORT}, it is no finished run; run its '
      'command to the end first'
    )
  report = workdir.read_json(folder / workdir.REPORT, whole=True)
  if 'members' in report:
    member = report['members'][0]
    name = workdir.member(member['seed'], member['fold'])
    raise ExportError(
      f'{folder} holds several runs; export one of them, such as '
      f'{folder / name}'
    )
  run = restore.load_run(folder)
  if data is None:
    data = _data_of(run)
  allowed = limits.of_data(data, max_degree=max_degree, max_nodes=max_nodes)
  return write(run, data, allowed, report, out)


def write(
  run: restore.LoadedRun,
  data: DataSplits | NodeDataset,
  allowed: limits.Limits,
  report: dict[str, Any],
  out: pathlib.Path,
) -> dict[str, Any]:
  """Writes the integers of a network; see `export_run`.

  Args:
    run: the network.
    data: what it was trained on.
    allowed: what the integers are to allow for.
    report: of the run.
    out: folder to be made.

  Returns:
    The manifest.
  """
  model: Any = run.model
  lowered = allowed.lower(model, run.variables)
  accuracy, codes = _accuracies(lowered, run, data)
  per_graph = isinstance(data, DataSplits)
  if isinstance(data, DataSplits):
    few = evaluate.first_graphs(data.test, _PARITY_GRAPHS)
    more = evaluate.first_graphs(data.test, _COMPARED_GRAPHS)
    codes = codes[: more.num_graphs]
  else:
    few = more = evaluate.graph_of_nodes(data)
  files, names = _files(lowered, allowed, few, per_graph=per_graph)
  manifest = {
    'config': run.config,
    'data': report['data'],
    'result': report['result'],
    'cost': report['cost'],
    'versions': {'trained': report['versions'], 'exported': _versions()},
    'limits': {
      name: getattr(allowed, name)
      for name in ('max_degree', 'max_nodes', 'max_edges')
    },
    'largest_input': allowed.largest_input,
    'num_features': lowered.num_features,
    'num_outputs': codes.shape[1],
    'output_scale': np.ravel(lowered.output_scale).tolist(),
    'per_graph': per_graph,
    'integers': accuracy,
    'parity': parity.compare(lowered, more, codes, files.get(artifact.ONNX)),
    'sizes': sizes.compare(lowered, files, report['cost']),
    'values': _values(lowered),
    'names_in_onnx': names,
    'licence': 'the files of this folder may be used as the data and the run '
    'allow; lorap_jax is under Apache-2.0',
  }
  artifact.write(out, files, manifest)
  return artifact.load_artifact(out).manifest  # pyrefly: ignore


def _files(
  lowered: program.Program,
  allowed: limits.Limits,
  few: program.Graph,
  *,
  per_graph: bool,
) -> tuple[dict[str, bytes], dict[str, str]]:
  """Contents of the folder by name, and the names of values in ONNX."""
  header = c_writer.write(
    lowered,
    max_nodes=allowed.max_nodes,
    max_edges=allowed.max_edges,
    max_graphs=1,
  )
  files = {
    artifact.PROGRAM: artifact.to_bytes(lowered),
    artifact.PARITY: _parity(lowered, few),
    artifact.HEADER: header.encode(),
  }
  names = {}
  with contextlib.suppress(ImportError):  # An extra; the rest goes without.
    onnx = onnx_writer.write(lowered, names=True)
    names = json.loads(onnx.metadata_props.pop().value)
    files[artifact.ONNX] = onnx.SerializeToString()
    files['example_onnx.py'] = examples.ONNX.encode()
  # A by-product, which jax.export does not make of every program.
  with contextlib.suppress(stablehlo.CannotExportError):
    files[artifact.STABLEHLO] = stablehlo.write(lowered)
  one = _one_graph(few, per_graph)
  outputs = program.execute(lowered, one)
  files['example.c'] = examples.c_program(one, outputs).encode()
  text = examples.readme(
    per_graph=per_graph,
    with_onnx=artifact.ONNX in files,
    with_stablehlo=artifact.STABLEHLO in files,
  )
  files['README.md'] = text.encode()
  return files, names


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
  lines += sizes.told(manifest['sizes'])
  return [*lines, f'  {parity_text(manifest["parity"])}']


def parity_text(found: dict[str, Any]) -> str:
  """Which engines ran, and how many of their values differ, in a line."""
  text = ', '.join(f'{n} {count}' for n, count in found['differing'].items())
  line = (
    f'of {found["values"]:,} values ({found["graphs"]} graphs) differ from '
    f"NumPy's: {text}"
  )
  left_out = [f'{name}: {why}' for name, why in found['left_out'].items()]
  return '; '.join([line, *left_out])


def _versions() -> dict[str, str]:
  found = result.versions()
  for name in _EXTRAS:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def _values(lowered: program.Program) -> dict[str, Any]:
  """What a reader has to know of each value: its bits, bounds and scales."""
  found = {}
  for node in lowered.nodes:
    bound = lowered.bounds[node.output]
    record: dict[str, Any] = {'op': node.op}
    if bound:
      record |= {'bound': bound, 'bits': bound.bit_length() + 1}
    if 'factor' in node.constants:
      factor = np.abs(np.asarray(node.constants['factor'], np.float64))
      record['multipliers'] = [float(factor.min()), float(factor.max())]
    if 'reach' in node.constants:
      reach = np.asarray(node.constants['reach'])
      record['ranges'] = [int(reach.min()), int(reach.max())]
    if 'weight' in node.constants:
      weight = np.asarray(node.constants['weight'])
      most = int(np.abs(weight.astype(int)).max(initial=0))
      record |= {'weight': weight.shape, 'weight_bits': most.bit_length() + 1}
    found[node.output] = record
  return found


def _accuracies(
  lowered: program.Program, run: restore.LoadedRun, data: Any
) -> tuple[dict[str, Any], np.ndarray]:
  """The metric of the integers and of the network, on both held-out parts.

  Also the codes of the test part, or of all nodes.
  """
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
    codes = parts['test'][0]
  found = {}
  for split, (own, network, labels) in parts.items():
    values = own.astype(np.float32) * lowered.output_scale
    if values.shape[1] == 1 and labels.dtype.kind == 'f':
      metric = lambda v, y=labels: float(np.abs(v[:, 0] - y).mean())
      same = float(np.mean(np.abs(values - network) < 1e-2))
    else:
      metric = lambda v, y=labels: float(np.mean(v.argmax(1) == y))
      same = float(np.mean(values.argmax(1) == network.argmax(1)))
    found[split] = {
      'integers': metric(values),
      'network': metric(network),
      'same': same,
      'count': len(labels),
    }
  return found, codes


def _one_graph(graph: program.Graph, per_graph: bool) -> program.Graph:
  """The first graph; of one graph of nodes its first nodes."""
  if per_graph:
    return next(parity.parts(graph, 1))
  few = slice(_EXAMPLE_NODES)
  inside = np.maximum(graph.senders, graph.receivers) < _EXAMPLE_NODES
  return graph._replace(
    nodes=graph.nodes[few],
    senders=graph.senders[inside],
    receivers=graph.receivers[inside],
    graph_of=graph.graph_of[few],
  )


def _parity(lowered: program.Program, graph: program.Graph) -> bytes:
  """Graphs, the codes of all quantizers for them, and the outputs."""
  values = program.execute(lowered, graph, keep=True)
  codes = {
    f'codes/{name}': values[name].astype(
      np.int8 if lowered.bounds[name] <= 127 else np.int16
    )
    for name in parity.inner_codes(lowered)
  }
  file = io.BytesIO()
  np.savez_compressed(
    file,
    allow_pickle=False,
    nodes=graph.nodes,
    senders=graph.senders,
    receivers=graph.receivers,
    graph_of=graph.graph_of,
    outputs=values[lowered.output],
    **codes,
  )
  return file.getvalue()
