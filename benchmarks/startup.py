"""From `python` to the end of the first training step, in seconds.

Each line is a fresh process: first with an empty persistent compilation cache,
then with what that one left in it. `data` makes synthetic graphs, `init` makes
the first state (and compiles that), `step` is the first step.
"""

import json
import sys
import tempfile
import time
from typing import Any

from benchmarks import child, output

_CELLS = ('mnist:gin,a2q,gpf_lorap', 'cora:gcn,a2q,gpf_lorap')
_QUICK = ('cora:gcn,fp32,none',)


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: a small cell only.
    data_dir: not used: reading a data set is no part of this.
  """
  del data_dir
  rows = []
  for cell in _QUICK if quick else _CELLS:
    with tempfile.TemporaryDirectory() as folder:
      environment = {
        'JAX_COMPILATION_CACHE_DIR': folder,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      }
      for cache in ('cold', 'warm'):
        parts = child.run('startup', cell, time.time(), environment=environment)
        total = sum(parts.values())
        rows.append({'cell': cell, 'cache': cache, **parts, 'total': total})
  return rows


def _main(cell: str, spawned: str) -> None:
  """Prints the seconds of every part."""
  clock = [float(spawned), time.time()]
  import jax

  from benchmarks import inputs, programs
  from configs import cora, mnist

  clock.append(time.time())
  name, _, parts = cell.partition(':')
  make = {'cora': cora.get_config, 'mnist': mnist.get_config}[name]
  data: Any = (
    inputs.node_data('cora') if name == 'cora' else inputs.superpixels(128)
  )
  clock.append(time.time())
  run, batch = jax.block_until_ready(programs.begin(make(parts), data))
  arguments = run.state, batch, run.settings.optimizer.rates()
  clock.append(time.time())
  step: Any = programs.compiled_step(run)
  compiled = step.lower(*arguments).compile()
  clock.append(time.time())
  jax.block_until_ready(compiled(*arguments))
  clock.append(time.time())
  names = ('python', 'import', 'data', 'init', 'compile', 'step')
  ends = zip(names, clock, clock[1:], strict=False)
  print(json.dumps({name: end - begin for name, begin, end in ends}))


if __name__ == '__main__':
  _main(*sys.argv[1:])
