"""Measures the library on this machine, theme by theme.

    python -m benchmarks --quick
    python -m benchmarks aggregation steps --out results

Themes: aggregation, steps, seeds, epochs, startup, memory, prompts, ops,
integers, integers_large, sampling, shared_graph, scale, growth; all of them by
default.
Each prints a table and writes OUT/THEME.json, or THEME_quick.json with --quick.
Graphs are synthetic, of the right shapes, unless the folder of --data-dir or
$LORAP_JAX_DATA_DIR holds the real ones.
"""

import argparse
import importlib
import os
import pathlib
import time

from benchmarks import output
from lorap_jax import _process

THEMES = (
  'aggregation',
  'steps',
  'seeds',
  'epochs',
  'startup',
  'memory',
  'prompts',
  'ops',
  'integers',
  'integers_large',
  'sampling',
  'shared_graph',
  'scale',
  'growth',
)


def main() -> None:
  """Parses the command line and runs the themes."""
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('themes', nargs='*', metavar='THEME')
  parser.add_argument(
    '--quick', action='store_true', help='small sizes, few repeats'
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path(__file__).parent / 'results',
    help='folder of the JSON files (default: benchmarks/results)',
  )
  parser.add_argument(
    '--data-dir',
    default=os.environ.get('LORAP_JAX_DATA_DIR'),
    help='folder with real data (default: $LORAP_JAX_DATA_DIR)',
  )
  given = parser.parse_args()
  if unknown := set(given.themes) - set(THEMES):
    parser.error(f'no theme {sorted(unknown)[0]!r}; there are {THEMES}')
  for name in given.themes or THEMES:
    theme = importlib.import_module(f'benchmarks.{name}')
    started = time.monotonic()
    rows = theme.run(given.quick, given.data_dir)
    output.print_table(name, theme.__doc__, rows)
    path = given.out / f'{name}{"_quick" if given.quick else ""}.json'
    output.write_json(path, name, rows, time.monotonic() - started)
    print(f'{path} ({time.monotonic() - started:.0f} s)\n', flush=True)


if __name__ == '__main__':
  _process.set_up()
  main()
