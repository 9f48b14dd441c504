"""Collects finished runs into one table, beside the published figures.

For example:
  python -m lorap_jax.report runs
  python -m lorap_jax.report runs/cora_* --markdown cora.md --plots plots
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from lorap_jax.reports import collect, comparison, render, tables
from lorap_jax.runs import workdir


def main(argv: Sequence[str] | None = None) -> int:
  """Reads the runs, prints the table and writes the files asked for.

  Args:
    argv: arguments, those of the process if None.

  Returns:
    Exit code: 0, or 2 if no run could be read or a file not be written.
  """
  arguments = _parser().parse_args(argv)
  runs, warnings = collect.collect(arguments.folders)
  for warning in warnings:
    print(f'warning: {warning}', file=sys.stderr)
  if not runs:
    print(
      'error: RUN_DIR: no finished run in '
      f'{", ".join(map(str, arguments.folders))}; train one with train.py',
      file=sys.stderr,
    )
    return 2
  rows = comparison.compare(runs)
  render.print_rows(rows)
  if arguments.full:
    for row in rows:
      folder = row.run.folder
      path = folder / workdir.REPORT
      try:
        with workdir.reading(path):
          tables.print_table(workdir.read_json(path), folder, full=True)
      except workdir.WorkdirError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
  if arguments.pages:
    from lorap_jax.reports import present

    for row in rows:
      try:
        print(present.present(row.run.folder))
      except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
  for path, write in (
    (arguments.markdown, render.write_markdown),
    (arguments.csv, render.write_csv),
    (arguments.plots, _write_plots),
  ):
    if path is None:
      continue
    try:
      write(rows, path)
    except OSError as error:
      print(f'error: cannot write {path}: {error.strerror}', file=sys.stderr)
      return 2
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m lorap_jax.report',
    description='Collects finished runs into one table, beside the published '
    'figures, their rules and their sources.',
  )
  parser.add_argument(
    'folders',
    metavar='RUN_DIR',
    nargs='+',
    type=pathlib.Path,
    help='work folder of a run, or a folder that holds some at any depth',
  )
  parser.add_argument(
    '--full', action='store_true', help='all quantities of every run as well'
  )
  parser.add_argument(
    '--pages',
    action='store_true',
    help='write report.html into every run folder that has none',
  )
  for name, what in (
    ('--markdown', 'the table as Markdown'),
    ('--csv', 'the table as CSV, accuracies in 0..1'),
  ):
    parser.add_argument(name, metavar='FILE', type=pathlib.Path, help=what)
  parser.add_argument(
    '--plots',
    metavar='FOLDER',
    type=pathlib.Path,
    help='quality against bits, and gains over no prompt, as PNG files',
  )
  return parser


def _write_plots(rows: Sequence[comparison.Row], folder: pathlib.Path) -> None:
  from lorap_jax.reports import plots

  folder.mkdir(parents=True, exist_ok=True)
  plots.quality_against_bits(rows, folder / 'quality_against_bits.png')
  plots.gains(rows, folder / 'gains.png')


def run() -> None:
  """The whole program."""
  sys.exit(main())


if __name__ == '__main__':
  run()
