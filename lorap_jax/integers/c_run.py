"""Compiles the C of an integer program with the system's compiler, and runs it.

For tests and benchmarks; a product includes the header itself.
"""

import ctypes
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lorap_jax.integers import c_writer
from lorap_jax.integers.program import Graph, Program

STRICT = ('-std=c99', '-Wall', '-Wextra', '-Werror', '-pedantic')
FAST = ('-O3', '-march=native')


class RunError(RuntimeError):
  """A graph that the C code refuses.

  Attributes:
    code: what it returned, a `LORAP_...` of engine.h.
  """

  def __init__(self, code: int):
    super().__init__(f'the compiled program returned error {code}')
    self.code = code


def compiler() -> str | None:
  """The path of the system's C compiler, if it has one."""
  return shutil.which('cc')


def build(
  headers: Mapping[str, str],
  target: pathlib.Path,
  flags: Sequence[str] = FAST,
  *,
  cc: str = 'cc',
  more: str = '',
) -> None:
  """Compiles headers as C99 without a warning, into a folder.

  Args:
    headers: what `c_writer.write` made, by the names of the programs.
    target: file to write; a shared object if it ends in `.so`, else a program.
    flags: more of the compiler's, those of speed.
    cc: the compiler.
    more: C to stand behind the headers.

  Raises:
    RuntimeError: the compiler refused, with what it said.
  """
  lines = []
  for name, text in headers.items():
    target.with_name(f'{name}.h').write_text(text)
    upper = name.upper()
    lines += [
      f'#define {upper}_IMPLEMENTATION',
      f'#include "{name}.h"',
      f'extern const int64_t {name}_sizes[3];',
      f'const int64_t {name}_sizes[3] = {{',
      f'  {upper}_OUTPUTS, {upper}_ARENA_BYTES, {upper}_TABLE_BYTES}};',
    ]
  path = target.with_suffix('.c')
  path.write_text('\n'.join([*lines, more, '']))
  shared = ('-shared', '-fPIC') if target.suffix == '.so' else ()
  done = subprocess.run(
    [cc, *STRICT, *flags, *shared, '-o', str(target), str(path)],
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(f'{cc} {" ".join(flags)} failed:\n{done.stderr}')


class Compiled:
  """A program as native code.

  Attributes:
    arena_bytes: memory that it works in.
    table_bytes: of its weights and other constants.
  """

  def __init__(
    self,
    program: Program,
    *,
    max_nodes: int,
    max_edges: int,
    max_graphs: int,
    flags: Sequence[str] = FAST,
    cc: str = 'cc',
  ):
    text = c_writer.write(
      program,
      max_nodes=max_nodes,
      max_edges=max_edges,
      max_graphs=max_graphs,
    )
    with tempfile.TemporaryDirectory(prefix='lorap_jax_c_') as folder:
      target = pathlib.Path(folder) / 'model.so'
      build({'model': text}, target, flags, cc=cc)
      # What is loaded stays when its file is gone.
      library = ctypes.CDLL(str(target))
    self._program = program
    self._run = function(library, 'model')
    sizes = (ctypes.c_int64 * 3).in_dll(library, 'model_sizes')
    self._outputs, self.arena_bytes, self.table_bytes = sizes
    self._arena = np.zeros(self.arena_bytes, np.uint8)

  def __call__(self, graph: Graph) -> np.ndarray:
    """Codes int32 [rows, outputs].

    Raises:
      RunError: the program refused the graph.
    """
    rows = graph.num_graphs if self._program.per_graph else len(graph.nodes)
    out = np.zeros((rows, self._outputs), np.int32)
    code = self._run(*arguments(graph), self._arena, self.arena_bytes, out)
    if code:
      raise RunError(code)
    return out


def arguments(graph: Graph) -> tuple:
  """A graph as the first arguments of a run."""
  as_index = lambda array: np.ascontiguousarray(array, np.int32)
  return (
    np.ascontiguousarray(graph.nodes, np.float32),
    as_index(graph.senders),
    as_index(graph.receivers),
    as_index(graph.graph_of),
    len(graph.nodes),
    len(graph.senders),
    graph.num_graphs,
  )


def function(library: ctypes.CDLL, name: str) -> Callable[..., int]:
  """The run of the program `name`, which takes NumPy arrays."""
  found = getattr(library, f'{name}_run')
  array = lambda dtype: np.ctypeslib.ndpointer(dtype, flags='C_CONTIGUOUS')
  index = array(np.int32)
  found.argtypes = (
    array(np.float32),
    index,
    index,
    index,
    *[ctypes.c_int] * 3,
    array(np.uint8),
    ctypes.c_size_t,
    index,
  )
  found.restype = ctypes.c_int
  return found
