"""Says whether this machine is ready, and what to do if it is not.

    lorap-jax doctor
    lorap-jax doctor --data

Versions, devices, how sums over neighbours run and how fast, folders and what
is in them. Ends with `ready`, or with what to do. `--data` reads every data
set of the data directory, which takes a minute for the large ones.
"""

import argparse
import glob
import importlib.metadata
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lorap_jax import _process

# Libraries whose version can change what is computed, and the versions that
# the tests have run with: from the first up to, not including, the second.
TESTED = {
  'jax': ('0.10.1', '0.13'),
  'jaxlib': ('0.10.1', '0.13'),
  'flax': ('0.12.8', '0.13'),
  'optax': ('0.2.8', '0.3'),
  'orbax-checkpoint': ('0.12.8', '1'),
  'jraph': ('0.0.6.dev0', '0.0.7'),
  'numpy': ('2', '3'),
}
# Versions that are in range, and wrong: library and version to what goes wrong.
_ROWS = 'computes wrong rows on a CPU, github.com/jax-ml/jax/issues/39103'
KNOWN_BAD = {('jax', '0.10.2'): _ROWS, ('jaxlib', '0.10.2'): _ROWS}
_ACCELERATORS = {
  '/dev/nvidia[0-9]*': ('an NVIDIA GPU', 'pip install "jax[cuda12]"'),
  '/dev/kfd': ('an AMD GPU', 'install the ROCm build of jaxlib'),
  '/dev/accel[0-9]*': ('a TPU', 'pip install "jax[tpu]"'),
  '/dev/vfio/[0-9]*': ('a TPU', 'pip install "jax[tpu]"'),
}
_FREE_DISK = 1 << 30  # Bytes; less is told.
# A batch of MNIST superpixels: graphs, nodes and neighbours of each, features.
_GRAPHS, _NODES, _NEIGHBOURS, _FEATURES = 128, 71, 8, 110
_ROUNDS = 9
_TAIL = (1 << 15) + 1  # Rows of the probe of the compiler.


class Finding(NamedTuple):
  """A line of the report.

  Attributes:
    about: subject of the line.
    found: what is there.
    remedy: what to do; empty if nothing.
  """

  about: str
  found: str
  remedy: str = ''


def examine(*, read_data: bool = False) -> Iterator[Finding]:
  """Looks at this machine.

  Args:
    read_data: read the data sets of the data directory.

  Yields:
    Findings, in the order of the report.
  """
  yield from _versions()
  try:
    import jax  # Late: a broken one is a finding.
  except Exception as error:
    yield Finding('JAX', f'cannot be imported: {error}', 'reinstall jax')
    return
  yield from _devices(jax)
  yield from _compiler(jax)
  yield from _aggregation(jax)
  yield from _folders()
  if read_data:
    yield from _data_sets()


def _versions() -> Iterator[Finding]:
  from lorap_jax import __version__

  own = f'{__version__}, Python {sys.version.split()[0]}'
  yield Finding('lorap_jax', own)
  found = {}
  for name, (low, high) in TESTED.items():
    try:
      version = found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      yield Finding(name, 'is not installed', f'pip install "{name}>={low}"')
      continue
    wrong = KNOWN_BAD.get((name, version), '')
    remedy = f'pip install "{name}>={low},<{high}"'
    if wrong:
      remedy = f'pip install "{name}>={low},!={version},<{high}"'
      yield Finding(name, f'{version}: {wrong}', remedy)
    elif not _number(low) <= _number(version) < _number(high):
      yield Finding(name, f'{version}, not tested', remedy)
    else:
      yield Finding(name, version)
  versions = found.get('jax'), found.get('jaxlib')
  if None not in versions and versions[0] != versions[1]:
    yield Finding(
      'jax and jaxlib',
      f'are of two versions, {versions[0]} and {versions[1]}',
      f'pip install "jaxlib=={versions[0]}"',
    )


def _number(version: str) -> tuple[int, ...]:
  """The leading numbers of a version, for comparisons."""
  return tuple(map(int, re.findall(r'\d+', version.partition('.dev')[0])))


def _devices(jax: Any) -> Iterator[Finding]:
  try:
    devices = jax.devices()
  except RuntimeError as error:
    text = str(error).partition('\n')[0]
    yield Finding('devices', text, 'check JAX_PLATFORMS and the driver')
    return
  kinds = sorted({device.device_kind for device in devices})
  cores = (
    len(os.sched_getaffinity(0))
    if sys.platform == 'linux'
    else (os.cpu_count() or 1)
  )
  yield Finding(
    'devices', f'{len(devices)} x {", ".join(kinds)}; {cores} CPU cores'
  )
  if jax.default_backend() != 'cpu':
    return
  for pattern, (what, remedy) in _ACCELERATORS.items():
    if glob.glob(pattern):
      if os.environ.get('JAX_PLATFORMS') == 'cpu':
        remedy = 'unset JAX_PLATFORMS'
      yield Finding('accelerator', f'{what} is here and not used', remedy)


def _compiler(jax: Any) -> Iterator[Finding]:
  """The case of a known fault: rows behind the last whole tile."""
  import numpy as np

  rng = np.random.default_rng(0)
  x = rng.standard_normal((_TAIL, 3), np.float32)
  w = rng.standard_normal((3, 3), np.float32)
  norms = jax.jit(jax.vmap(lambda row: ((w @ row) ** 2).sum()))
  exact = ((x.astype(np.float64) @ w.T.astype(np.float64)) ** 2).sum(-1)
  wrong = int(np.sum(~np.isclose(norms(x), exact, rtol=1e-2, atol=1e-3)))
  if wrong:
    yield Finding(
      'compiler',
      f'{wrong} of {_TAIL:,} rows of a small product are wrong',
      'install another jaxlib; see KNOWN_BAD in lorap_jax/doctor.py',
    )
  else:
    yield Finding('compiler', 'small products are right')


def _aggregation(jax: Any) -> Iterator[Finding]:
  """Times both forms of a sum over neighbours, and compares their results."""
  import jraph
  import numpy as np

  from lorap_jax import graphs
  from lorap_jax.graphs import layout

  rng = np.random.default_rng(0)
  count = _GRAPHS * _NODES
  receivers = np.repeat(np.arange(count), _NEIGHBOURS).astype(np.int32)
  senders = receivers // _NODES * _NODES + rng.integers(
    0, _NODES, len(receivers), np.int32
  )
  # Whole numbers: both orders of a sum give the same.
  x = rng.integers(-8, 9, (count, _FEATURES)).astype(np.float32)
  graph: Any = jraph.GraphsTuple  # Of numpy arrays.
  graph = graph(
    x,
    None,
    receivers,
    senders,
    None,
    np.array([count], np.int32),
    np.array([len(senders)], np.int32),
  )
  forms = {
    'layout': graphs.make_layout(senders, receivers, count),
    'segment_sum': None,
  }
  run = jax.jit(graphs.aggregate)
  results = {name: run(x, graph, form) for name, form in forms.items()}
  seconds = dict.fromkeys(forms, float('inf'))
  for _ in range(_ROUNDS):  # In turn, so that both meet the same noise.
    for name, form in forms.items():
      start = time.perf_counter()
      jax.block_until_ready(run(x, graph, form))
      seconds[name] = min(seconds[name], time.perf_counter() - start)
  chosen, other = 'layout', 'segment_sum'
  if not layout.wants_layout('auto', jax.default_backend()):
    chosen, other = other, chosen
  ratio = seconds[other] / seconds[chosen]
  found = f'{chosen}, {ratio:.1f} times the speed of {other}'
  exact = np.zeros_like(x)
  np.add.at(exact, receivers, x[senders])
  wrong = [
    n for n, value in results.items() if not np.array_equal(value, exact)
  ]
  if wrong:
    yield Finding(
      'sums over neighbours',
      f'{" and ".join(wrong)} give wrong sums with this jaxlib',
      'install another jaxlib, and report this line',
    )
  elif ratio < 0.7:
    yield Finding(
      'sums over neighbours', found, f'--config.train.aggregation={other}'
    )
  else:
    yield Finding('sums over neighbours', found)


def _folders() -> Iterator[Finding]:
  from lorap_jax.data.files import store
  from lorap_jax.runs import datasets

  cache = store.cache_dir()
  yield _cache(cache)
  variable = datasets.DATA_DIR_VARIABLE
  named = os.environ.get(variable)
  if not named:
    yield Finding('data directory', f'none, ${variable} is not set')
    return
  folder = pathlib.Path(named).expanduser()
  if not folder.is_dir():
    yield Finding(
      'data directory',
      f'${variable} names {folder}, which is no folder',
      f'unset {variable}, or name the folder with the raw files',
    )
    return
  files = sorted(path.name for path in folder.iterdir())
  more = f' and {len(files) - 12} more' if len(files) > 12 else ''
  names = ', '.join(files[:12]) + more if files else 'empty'
  yield Finding('data directory', f'{folder}: {names}')


def _cache(cache: pathlib.Path) -> Finding:
  there = cache
  while not there.exists():
    there = there.parent
  if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
    return Finding(
      'caches',
      f'{there} cannot be written',
      'set LORAP_JAX_CACHE to a folder that can',
    )
  parts = (
    sorted(p for p in cache.iterdir() if p.is_dir()) if cache.exists() else []
  )
  sizes = [f'{part.name} {_mib(_size(part))}' for part in parts]
  free = shutil.disk_usage(there).free
  found = f'{cache}: {", ".join(sizes) or "empty"}; {_mib(free)} free'
  if free < _FREE_DISK:
    return Finding('caches', found, f'make room, or remove {cache}')
  return Finding('caches', found)


def _size(folder: pathlib.Path) -> int:
  total = 0
  for path in folder.rglob('*'):
    try:
      total += path.stat().st_size
    except OSError:  # Gone meanwhile, or not ours to see.
      pass
  return total


def _mib(count: int) -> str:
  return f'{count / 2**20:,.0f} MiB'


def _data_sets() -> Iterator[Finding]:
  """Reads what the data directory holds, one data set after the other."""
  from lorap_jax.data.files import store
  from lorap_jax.runs import datasets

  folder = os.environ.get(datasets.DATA_DIR_VARIABLE)
  if not folder or not pathlib.Path(folder).expanduser().is_dir():
    return
  for name, row in datasets.DATASETS.items():
    if 'dir' not in row.fields or 'tu_name' in row.fields:
      continue
    asked: dict[str, Any] = {
      'name': name,
      'source': 'data_dir',
      'offline': True,
    }
    if 'limit' in row.fields:
      asked['limit'] = (8, 2, 2)
    try:
      data = datasets.load(dict.fromkeys(datasets.FIELDS) | asked)
    except store.AbsentDataError:
      yield Finding(name, 'not there, or not complete')
      continue
    except (ValueError, OSError) as error:
      text = str(error).partition('\n')[0]
      yield Finding(name, text, 'replace the file, or take it away')
      continue
    yield Finding(name, f'{data.source["origin"]}, read')


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the findings.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0 if ready, 1 if there is something to do.
  """
  parser = argparse.ArgumentParser(
    prog='lorap-jax doctor',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--data', action='store_true', help='read the data sets as well'
  )
  arguments = parser.parse_args(argv)
  to_do = []
  for finding in examine(read_data=arguments.data):
    print(f'{finding.about}: {finding.found}', flush=True)
    if finding.remedy:
      to_do.append(finding)
  if not to_do:
    print('ready')
    return 0
  print('to do:')
  for finding in to_do:
    print(f'  {finding.about}: {finding.remedy}')
  return 1


def run() -> None:
  """The whole program."""
  _process.set_up()  # As training runs.
  sys.exit(main())


if __name__ == '__main__':
  run()
