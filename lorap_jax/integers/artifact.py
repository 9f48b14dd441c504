"""The folder of an exported network: written whole, and read with digests.

| file          | what it holds                                               |
|---------------|-------------------------------------------------------------|
| manifest.json | what was exported, from which run, its accuracy, digests    |
| program.npz   | the integer program, for `load_artifact`                    |
| model.onnx    | the same for ONNX Runtime and others (extra `export`)       |
| model.h       | the same for a C99 compiler                                 |
| model.stablehlo | the same for jax.export, if that can hold it              |
| parity.npz    | graphs, the codes of every quantizer, what is returned      |
| README.md     | how to run it; so do example.c and example_onnx.py          |

Reading needs NumPy alone.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from lorap_jax.integers import program as program_lib
from lorap_jax.integers.program import Graph, Node, Program

MANIFEST = 'manifest.json'
PROGRAM = 'program.npz'
ONNX = 'model.onnx'
HEADER = 'model.h'
STABLEHLO = 'model.stablehlo'
PARITY = 'parity.npz'
_FORMAT = 1


class ArtifactError(ValueError):
  """A folder that is no sound artefact, or a graph that does not fit it."""


def to_bytes(program: Program) -> bytes:
  """A program as the content of an npz file."""
  arrays: dict[str, np.ndarray] = {'output_scale': program.output_scale}
  known: dict[bytes, str] = {}
  nodes = []
  for node in program.nodes:
    constants = {}
    for name, value in node.constants.items():
      array = np.ascontiguousarray(value)
      content = b'%s %s ' % (
        array.dtype.str.encode(),
        repr(array.shape).encode(),
      )
      key = known.setdefault(content + array.tobytes(), f'c{len(known)}')
      arrays[key] = array
      constants[name] = key
    nodes.append(
      [node.op, dict(node.inputs), node.output, constants, dict(node.options)]
    )
  text = json.dumps(
    {
      'format': _FORMAT,
      'nodes': nodes,
      'output': program.output,
      'per_graph': program.per_graph,
      'num_features': program.num_features,
      'bounds': dict(program.bounds),
    }
  )
  file = io.BytesIO()
  np.savez_compressed(
    file, allow_pickle=False, program=np.array(text), **arrays
  )
  return file.getvalue()


def from_bytes(content: bytes) -> Program:
  """The inverse of `to_bytes`."""
  with np.load(io.BytesIO(content), allow_pickle=False) as file:
    arrays = {name: file[name] for name in file.files}
  record = json.loads(str(arrays['program']))
  if record['format'] != _FORMAT:
    raise ArtifactError(
      f'a program of format {record["format"]}; this version reads {_FORMAT}'
    )
  nodes = tuple(
    Node(
      op,
      inputs,
      output,
      {name: arrays[key] for name, key in constants.items()},
      options,
    )
    for op, inputs, output, constants, options in record['nodes']
  )
  return Program(
    nodes,
    record['output'],
    arrays['output_scale'],
    record['per_graph'],
    record['num_features'],
    record['bounds'],
  )


@dataclasses.dataclass(frozen=True)
class Artifact:
  """An exported network.

  Attributes:
    program: its integer program.
    manifest: the record of the folder.
  """

  program: Program
  manifest: Mapping[str, Any]

  def __call__(
    self, nodes: Any, senders: Any, receivers: Any, n_node: Any = None
  ) -> np.ndarray:
    """The outputs of graphs that lie one behind the other.

    Args:
      nodes: features [n, f].
      senders: int [e], numbers of nodes.
      receivers: int [e].
      n_node: nodes of each graph [g]; None for one graph.

    Returns:
      float32 [g, outputs], or [n, outputs] where nodes are classified: whole
      numbers times a power of two.

    Raises:
      ArtifactError: arrays that make no graph of this network.
    """
    graph = self._checked(nodes, senders, receivers, n_node)
    codes = program_lib.execute(self.program, graph)
    return codes.astype(np.float32) * self.program.output_scale

  def _checked(self, nodes, senders, receivers, n_node) -> Graph:
    nodes = np.asarray(nodes, np.float32)
    width = self.program.num_features
    if nodes.ndim != 2 or nodes.shape[1] != width:
      raise ArtifactError(
        f'`nodes` has shape {nodes.shape}; this network takes [n, {width}]'
      )
    if not np.all(np.isfinite(nodes)):
      raise ArtifactError('`nodes` has values that are not finite')
    types = program_lib.num_types(self.program)
    if types is not None and not np.all(np.isin(nodes[:, 0], np.arange(types))):
      raise ArtifactError(
        'the first column of `nodes` must have whole numbers from 0 to '
        f'{types - 1}, the types that this network knows'
      )
    count = len(nodes)
    ends = {}
    for name, given in (('senders', senders), ('receivers', receivers)):
      ids = np.asarray(given)
      if ids.ndim != 1 or (ids.size and ids.dtype.kind not in 'iu'):
        raise ArtifactError(f'`{name}` must be a list of whole numbers')
      if ids.size and not (0 <= ids.min() and ids.max() < count):
        raise ArtifactError(
          f'`{name}` names node {ids.min()} to {ids.max()}; there are {count}'
        )
      ends[name] = ids.astype(np.int32)
    if len(ends['senders']) != len(ends['receivers']):
      raise ArtifactError('`senders` and `receivers` differ in length')
    sizes = np.asarray([count] if n_node is None else n_node, np.int64)
    if sizes.ndim != 1 or sizes.min(initial=0) < 0 or sizes.sum() != count:
      raise ArtifactError(f'`n_node` must add up to {count}, the nodes')
    limits = self.manifest['limits']
    degree = np.bincount(ends['receivers'], minlength=1).max(initial=0)
    for name, found in (
      ('max_degree', int(degree)),
      ('max_nodes', int(sizes.max(initial=0))),
    ):
      if found > limits[name]:
        raise ArtifactError(
          f'a graph has {name} {found}; this export holds for up to '
          f'{limits[name]}: export it again with --{name}={found}'
        )
    graph_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return Graph(
      nodes, ends['senders'], ends['receivers'], graph_of, len(sizes)
    )


def write(
  folder: pathlib.Path, files: Mapping[str, bytes], manifest: dict[str, Any]
) -> None:
  """Writes a folder that appears whole, or not at all.

  Args:
    folder: to be made; must not exist.
    files: contents by name.
    manifest: what else is recorded beside their digests.

  Raises:
    ArtifactError: it is there already, or cannot be written.
  """
  if folder.exists():
    raise ArtifactError(
      f'{folder} is there already; remove it, or choose another with --out'
    )
  record = {
    'format': _FORMAT,
    **manifest,
    'files': {
      name: {
        'bytes': len(content),
        'sha256': hashlib.sha256(content).hexdigest(),
      }
      for name, content in sorted(files.items())
    },
  }
  part = folder.with_name(f'.{folder.name}.part')
  try:
    shutil.rmtree(part, ignore_errors=True)  # Of a killed process.
    part.mkdir(parents=True)
    for name, content in files.items():
      (part / name).write_bytes(content)
    text = json.dumps(record, indent=1) + '\n'
    (part / MANIFEST).write_text(text)
    os.rename(part, folder)
  except OSError as error:
    raise ArtifactError(f'{folder} cannot be written ({error})') from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def load_artifact(folder: str | os.PathLike[str]) -> Artifact:
  """An exported network, ready to be called; needs no JAX.

      network = lorap_jax.load_artifact('runs/mnist_a2q_lorap/integers')
      outputs = network(nodes, senders, receivers)

  Args:
    folder: of `python -m lorap_jax.export`.

  Returns:
    The network.

  Raises:
    ArtifactError: no such folder, or files that are not those exported.
  """
  path = pathlib.Path(folder)
  try:
    manifest = json.loads((path / MANIFEST).read_text())
    for name, record in manifest['files'].items():
      found = hashlib.sha256((path / name).read_bytes()).hexdigest()
      if found != record['sha256']:
        raise ArtifactError(
          f'{path / name} is not the file that was exported; export the run '
          'again'
        )
    program = from_bytes((path / PROGRAM).read_bytes())
  except ArtifactError:
    raise
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ArtifactError(
      f'{path}: no sound artefact ({error}); make one with '
      'python -m lorap_jax.export'
    ) from error
  return Artifact(program, manifest)
