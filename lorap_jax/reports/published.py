"""Published figures, to be shown beside those of a run.

A figure and a run compare only as far as their rules do: A2Q reports the best
TEST epoch of each run, Degree-Quant and MixQ select on the validation set. The
rule therefore stands beside each figure.

`certainty` says how a figure came here: KNOWN was read in the source named,
RECALLED is remembered from the paper and was not read again (take it as +-0.1).
Not listed: networks and quantizers that no run here has (GraphSAGE, TAG, MixQ
with Degree-Quant's mask).

The figures are lines of published.csv, in the order in which they are shown.
Its columns are the fields of `Figure`. Accuracies are in per cent there, as
papers print them; a source is named by `Source.name`; `?` stands for None; a
number that is not given is left out.
"""

import csv
import dataclasses
import importlib.resources
import io
import math
import typing
from typing import Literal, NamedTuple

Certainty = Literal['KNOWN', 'RECALLED']

# Rules, in the words that `collect` has for those of a run.
BEST_TEST = 'best test epoch'
VALID_LOSS = 'lowest validation loss'
VALID_ACCURACY = 'best validation accuracy'
NOT_STATED = 'not stated'
RULES = (BEST_TEST, VALID_LOSS, VALID_ACCURACY, NOT_STATED)


class Source(NamedTuple):
  """Where a figure was published.

  Attributes:
    name: of the method or the document.
    year: of the publication.
    reference: arXiv number, repository or address.
  """

  name: str
  year: int
  reference: str


# The paper's tables could not be read; the best entry of each data set is
# listed at wizwand.com/paper/6971af34e25ad2fa9d1edb77.
LORAP = Source('LoRAP', 2026, 'arXiv 2601.15079, as listed at wizwand.com')
# Its figures of dq4 are listed only where Degree-Quant's own paper has none.
A2Q = Source('A2Q', 2023, 'arXiv 2302.00193')
# The deviations are those of the same means in A2Q's paper.
DQ = Source('Degree-Quant', 2021, 'arXiv 2008.05000')
DQ_LOG = Source('Degree-Quant, log', 2021, 'github.com/camlsys/degree-quant')
PROMPT_LOG = Source(
  'QGNNPrompt, log', 2025, 'github.com/theguardsgod/QGNNPrompt'
)
# TUDatasets are the cleaned ones.
MIXQ_LOG = Source('MixQ, log', 2025, 'github.com/SamirMoustafa/MixQ')
SOURCES = {s.name: s for s in (LORAP, A2Q, DQ, DQ_LOG, PROMPT_LOG, MIXQ_LOG)}


@dataclasses.dataclass(frozen=True)
class Figure:
  """One published figure.

  Attributes:
    dataset: as in the configurations; a TUDataset in small letters.
    backbone: `gcn`, `gin` or `gat`. None here and in the next two: the source
      does not say.
    quantizer: `fp32`, `qat8`, `qat4`, `dq8`, `dq4`, `a2q` or `mixq`.
    prompt: `none`, or None for one with LoRAP.
    metric: `accuracy`, in 0..1, or `mae`.
    value: of the metric.
    deviation: over seeds or folds, None if not given.
    bits: average bits, None if not given.
    rule: which epoch counts.
    source: where it was published.
    certainty: see the module.
    note: what else to know, or ''.
  """

  dataset: str
  backbone: str | None
  quantizer: str | None
  prompt: str | None
  metric: str
  value: float
  deviation: float | None
  bits: float | None
  rule: str
  source: Source
  certainty: Certainty
  note: str

  def fits(
    self, dataset: str, backbone: str, quantizer: str, prompt: str
  ) -> bool:
    """Whether the figure may stand beside a run of this cell.

    What the source does not say fits all backbones, all quantizers but `fp32`
    and all prompts with LoRAP.
    """
    if dataset != self.dataset or self.backbone not in (None, backbone):
      return False
    if self.prompt is None:
      same_prompt = 'lorap' in prompt
    else:
      same_prompt = prompt == self.prompt
    if self.quantizer is None:
      return same_prompt and quantizer != 'fp32'
    return same_prompt and quantizer == self.quantizer


def find(
  dataset: str, backbone: str, quantizer: str, prompt: str, metric: str
) -> tuple[Figure, ...]:
  """The figures to show beside a run.

  Args:
    dataset: this and the others: of the run, in the words of `Figure`.
    backbone: its network.
    quantizer: its quantizer.
    prompt: its prompt.
    metric: its metric.

  Returns:
    Those that fit, in the order of `FIGURES`; none if nothing was published.
  """
  cell = (dataset, backbone, quantizer, prompt)
  return tuple(f for f in FIGURES if f.metric == metric and f.fits(*cell))


_FILE = 'published.csv'
_COLUMNS = tuple(field.name for field in dataclasses.fields(Figure))
_CHOICES = {
  'backbone': ('gcn', 'gin', 'gat', '?'),
  'quantizer': ('fp32', 'qat8', 'qat4', 'dq8', 'dq4', 'a2q', 'mixq', '?'),
  'prompt': ('none', '?'),
  'metric': ('accuracy', 'mae'),
  'rule': RULES,
  'source': tuple(SOURCES),
  'certainty': typing.get_args(Certainty),
}


def parse(text: str) -> tuple[Figure, ...]:
  """Reads a table of figures, see the module.

  Raises:
    ValueError: a line is not as described, or is of the same figure as one
      before it; names the line.
  """
  rows = csv.reader(io.StringIO(text, newline=''), strict=True)
  figures: list[Figure] = []
  lines: dict[Figure, int] = {}
  try:
    if (header := next(rows, [])) != list(_COLUMNS):
      raise ValueError(f'columns {header}; expected {list(_COLUMNS)}')
    for cells in rows:
      figure = _figure(cells)
      # Several figures of one source for a cell are told apart by their notes.
      same = dataclasses.replace(
        figure, value=0.0, deviation=None, bits=None, certainty='KNOWN'
      )
      if (line := lines.setdefault(same, rows.line_num)) != rows.line_num:
        raise ValueError(f'the figure of line {line} again')
      figures.append(figure)
  except (ValueError, csv.Error) as error:
    raise ValueError(f'{_FILE}, line {rows.line_num}: {error}.') from error
  return tuple(figures)


def _figure(cells: list[str]) -> Figure:
  """The figure of one line."""
  if len(cells) != len(_COLUMNS):
    raise ValueError(f'{len(cells)} cells; expected {len(_COLUMNS)}')
  text = dict(zip(_COLUMNS, cells, strict=True))
  for column, choices in _CHOICES.items():
    if text[column] not in choices:
      raise ValueError(f'{column} {text[column]!r}; choose one of {choices}')
  said = {key: None if cell == '?' else cell for key, cell in text.items()}
  scale = 100 if text['metric'] == 'accuracy' else 1
  value = _number(text, 'value', scale)
  if value is None:
    raise ValueError('no value')
  return Figure(
    dataset=text['dataset'],
    backbone=said['backbone'],
    quantizer=said['quantizer'],
    prompt=said['prompt'],
    metric=text['metric'],
    value=value,
    deviation=_number(text, 'deviation', scale),
    bits=_number(text, 'bits'),
    rule=text['rule'],
    source=SOURCES[text['source']],
    certainty=typing.cast(Certainty, text['certainty']),
    note=text['note'],
  )


def _number(text: dict[str, str], column: str, scale: int = 1) -> float | None:
  """A number over `scale`, None for an empty cell."""
  if not text[column]:
    return None
  try:
    number = float(text[column])
  except ValueError:
    number = math.nan
  if not 0 <= number < math.inf:
    raise ValueError(f'{column} {text[column]!r}; expected a number')
  # Rounded, so that 80.9 % is 0.809 and not the double next to it.
  return number if scale == 1 else round(number / scale, 6)


FIGURES = parse(
  importlib.resources.files('lorap_jax.reports')
  .joinpath(_FILE)
  .read_text('utf-8')
)
