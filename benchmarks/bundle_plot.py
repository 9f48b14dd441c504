"""`python -m benchmarks.bundle_plot` draws docs/bundle.svg.

The bars are the rows of the table of bytes in docs/integers.md, so that there
is one place for each figure.
"""

import hashlib
import pathlib
import re
from typing import NamedTuple

import matplotlib

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
_PARTS = (
  'weights',
  'prompts',
  'multipliers and biases',
  'tables of quantizers',
  'structure of the program',
)
_COLORS = ('#0072B2', '#56B4E9', '#009E73', '#E69F00', '#999999')
_FP32 = 453_696  # 113,424 weights and biases.


class Row(NamedTuple):
  """A file: bytes by part."""

  name: str
  parts: tuple[int, ...]


def rows(page: str) -> list[Row]:
  """The files of the table of bytes in the text of docs/integers.md."""
  table = page.split('| file | weights |', 1)[1].split('\n\n', 1)[0]
  found = []
  for line in table.strip().splitlines()[2:]:
    name, *cells = (cell.strip() for cell in line.strip('| ').split('|'))
    if len(cells) != len(_PARTS) + 1:
      raise ValueError(f'docs/integers.md: this row is not read: {line}')
    *parts, total = (int(re.sub(r'[^\d]', '', cell)) for cell in cells)
    if sum(parts) != total:
      raise ValueError(f'docs/integers.md: parts do not add up: {line}')
    found.append(Row(name.replace('`', ''), tuple(parts)))
  return found


def digest(files: list[Row]) -> str:
  """Tells whether a plot is that of a table."""
  return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def draw(files: list[Row], path: pathlib.Path) -> None:
  """One bar for each file, its parts side by side."""
  matplotlib.use('svg')
  from matplotlib import pyplot

  pyplot.rcParams.update(
    {'svg.fonttype': 'none', 'svg.hashsalt': '', 'font.size': 9}
  )
  figure, axes = pyplot.subplots(figsize=(7.2, 3.2), layout='constrained')
  for row, file in enumerate(reversed(files)):
    start = 0.0
    for part, size, color in zip(_PARTS, file.parts, _COLORS, strict=True):
      label = part if row == 0 else None
      axes.barh(row, size / 1000, left=start, color=color, label=label)
      start += size / 1000
    axes.text(start + 1, row, f'{start:.1f}', va='center')
  axes.set_yticks(range(len(files)), [f.name for f in reversed(files)])
  axes.set_xlabel(f'KB (1,000 bytes); in FP32 {_FP32 / 1000:.0f} KB')
  axes.set_xlim(0, 100)
  axes.legend(fontsize=7, loc='lower right')
  axes.set_title(
    'Bytes by part, GIN with A2Q and GPF-LoRAP on MNIST superpixels', fontsize=9
  )
  figure.savefig(path, metadata={'Date': None, 'Description': digest(files)})
  pyplot.close(figure)


if __name__ == '__main__':
  draw(rows((DOCS / 'integers.md').read_text()), DOCS / 'bundle.svg')
