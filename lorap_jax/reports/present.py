"""What a finished run shows: its plots and its page, made from its folder."""

import pathlib

from lorap_jax.reports import page, plots, tables
from lorap_jax.runs import workdir

CURVES = 'learning_curves.png'
BY_DEGREE = 'bits_by_degree.png'


def present(folder: pathlib.Path, *, command: str = '') -> pathlib.Path:
  """Draws what `train.plots` asks for, and writes the page.

  Args:
    folder: work folder of a finished run, or of a group of seeds and folds.
    command: how it was run, for the page.

  Returns:
    The page. What is newer than its report is left as it is.

  Raises:
    WorkdirError: the folder has no report.
    OSError: a file cannot be written.
  """
  draw(folder)
  return page.write(folder, command=command)


def draw(folder: pathlib.Path) -> None:
  """Draws what `train.plots` asks for; see `present`."""
  source = folder / workdir.REPORT
  report = workdir.read_json(source)
  if 'members' in report:
    for member in report['members']:
      draw(folder / workdir.member(member['seed'], member['fold']))
    return
  if not report['config']['train']['plots']:
    return
  title = tables.title(report)
  metric, epoch = report['result']['metric'], report['result']['epoch']
  figures = {
    CURVES: lambda: plots.learning_curves(
      workdir.read_records(folder), metric, title=title, selected=epoch
    ),
    BY_DEGREE: lambda: plots.by_degree(report.get('points', []), title=title),
  }
  for name, figure in figures.items():
    path = folder / name
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
      plots.save(figure(), path)
