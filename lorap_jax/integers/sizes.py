"""Bytes of an exported network, part by part, beside its cost report."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lorap_jax.integers import artifact, packing
from lorap_jax.integers.program import Node, Program

PARTS = ('weights', 'prompts', 'multipliers and biases', 'tables')
_SHARE, _ROOM = 0.15, 10_000  # What a file may take beside the report's bits.


def parts(program: Program) -> dict[str, int]:
  """Bytes of the packed constants by part; equal ones count once."""
  found = dict.fromkeys(PARTS, 0)
  seen = set()
  for node in program.nodes:
    for name, value in node.constants.items():
      array = np.asarray(value)
      key = (array.astype(np.float64).tobytes(), array.shape)
      if key not in seen:
        seen.add(key)
        found[_part(node, name)] += _bytes(array)
  return found


def _part(node: Node, name: str) -> str:
  if name in ('table', 'thresholds', 'reach'):
    return 'tables'
  if name != 'weight':
    return 'multipliers and biases'
  inside = any(step.endswith('prompt') for step in node.output.split('/'))
  return 'prompts' if inside else 'weights'


def _bytes(array: np.ndarray) -> int:
  packed = packing.pack(array)
  return packing.size(packed.bits, array.size) if packed else array.nbytes


def compare(
  program: Program, files: Mapping[str, bytes], cost: Mapping[str, Any]
) -> dict[str, Any]:
  """What the files take, and what the cost report counts.

  The report counts weights, their float32 scales and the tables of quantizers;
  of the tables an export keeps only what can be told apart, so the smaller
  number counts. Prompts are no part of the report: theirs are added.

  Args:
    program: what the files hold.
    files: `model.h`, and `model.onnx` if it was written.
    cost: of the run's report.

  Returns:
    JSON-able bytes: `onnx` (None without it), `c_tables` and `c_arena` of
    `model.h`, `counted` by the report, `parts`; and whether the first two are
    `within` 15 % plus 10 KB of the report.
  """
  constants = parts(program)
  counted = round(
    cost['weight_bytes']
    + cost['weight_metadata_bytes']
    + constants['prompts']
    + min(cost['table_bytes'], constants['tables'])
  )
  header, onnx = files[artifact.HEADER].decode(), files.get(artifact.ONNX)
  defined = dict(re.findall(r'#define \w+_(TABLE|ARENA)_BYTES (\d+)', header))
  taken = {
    'onnx': None if onnx is None else len(onnx),
    'c_tables': int(defined['TABLE']),
  }
  return {
    **taken,
    'c_arena': int(defined['ARENA']),
    'counted': counted,
    'parts': constants,
    'within': {
      name: abs(size - counted) <= _SHARE * counted + _ROOM
      for name, size in taken.items()
      if size is not None
    },
  }


def told(found: Mapping[str, Any]) -> list[str]:
  """The comparison in lines."""
  names = {'onnx': artifact.ONNX, 'c_tables': f'tables of {artifact.HEADER}'}
  return [
    f'  {names[name]}: {found[name]:,} bytes, the cost report counts '
    f'{found["counted"]:,} ({"" if within else "not "}within 15 % plus 10 KB)'
    for name, within in found['within'].items()
  ]
