"""Writes a trained run as integers that run elsewhere.

For example:
  python -m lorap_jax.export runs/mnist_a2q_lorap
  python -m lorap_jax.export runs/cora --out cora_integers --max_degree 500
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  """Exports the run and says what became of it.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0, or 2 if the run cannot be exported.
  """
  arguments = _parser().parse_args(argv)
  folder = pathlib.Path(arguments.run)
  from lorap_jax.runs import export, workdir

  out = pathlib.Path(arguments.out or folder / workdir.INTEGERS)
  try:
    manifest = export.export_run(
      folder,
      out,
      max_degree=arguments.max_degree,
      max_nodes=arguments.max_nodes,
    )
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  for line in export.told(manifest, out):
    print(line)
  return 0


def run() -> None:
  """Entry point of the console script."""
  sys.exit(main())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m lorap_jax.export',
    description='Writes a trained run as a folder of integers that other '
    'machines run without JAX, with the same bits.',
  )
  parser.add_argument('run', help='work folder of a finished run')
  parser.add_argument('--out', help='folder to be made; RUN/integers')
  parser.add_argument(
    '--max_degree',
    type=int,
    help="largest number of edges into a node; twice that of the run's data",
  )
  parser.add_argument(
    '--max_nodes',
    type=int,
    help="largest number of nodes of a graph; twice that of the run's data",
  )
  return parser


if __name__ == '__main__':
  run()
