"""Published figures, to be shown beside those of a run.

A figure and a run compare only as far as their rules do: A2Q reports the best
TEST epoch of each run, Degree-Quant and MixQ select on the validation set. The
rule therefore stands beside each figure.

`certainty` says how a figure came here: KNOWN was read in the source named,
RECALLED is remembered from the paper and was not read again (take it as +-0.1).
Not listed: networks and quantizers that no run here has (GraphSAGE, TAG, MixQ
with Degree-Quant's mask).
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

Certainty = Literal['KNOWN', 'RECALLED']

# Rules, in the words that `collect` has for those of a run.
BEST_TEST = 'best test epoch'
VALID_LOSS = 'lowest validation loss'
VALID_ACCURACY = 'best validation accuracy'
NOT_STATED = 'not stated'


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
A2Q = Source('A2Q', 2023, 'arXiv 2302.00193')
DQ = Source('Degree-Quant', 2021, 'arXiv 2008.05000')
DQ_LOG = Source('Degree-Quant, log', 2021, 'github.com/camlsys/degree-quant')
PROMPT_LOG = Source(
  'QGNNPrompt, log', 2025, 'github.com/theguardsgod/QGNNPrompt'
)
MIXQ_LOG = Source('MixQ, log', 2025, 'github.com/SamirMoustafa/MixQ')


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


# One line: data set, backbones, quantizers (`?`: the source does not say), for
# each pair of the two a figure as printed, `value[+-deviation][@bits]`, with
# accuracies in per cent, and a note after a semicolon.
_TABLES: dict[tuple[Source, str, Certainty], str] = {
  (LORAP, NOT_STATED, 'KNOWN'): """
    cora                ? ? 79.1 ; best entry, setting not given
    ogbn_arxiv          ? ? 73.6 ; best entry, setting not given
    ogbn_mag            ? ? 34.2 ; best entry, setting not given
    mnist_superpixels   ? ? 96.4 ; best entry, setting not given
    cifar10_superpixels ? ? 62.9 ; best entry, setting not given
    zinc                ? ? 0.361 ; best entry, listed as MSE, surely MAE
    reddit_binary       ? ? 76.6 ; best entry of one list, setting not given
    reddit_binary       ? ? 94.6 ; best entry of another, setting not given
  """,
  # dq4 only where Degree-Quant's own paper has no figure.
  (A2Q, NOT_STATED, 'RECALLED'): """
    cora                gcn,gat fp32     81.5+-0.7 83.1+-0.4
    citeseer            gcn,gin fp32     71.1+-0.7 66.1+-0.9
    pubmed              gat     fp32,dq4 79.0+-0.3 70.6+-12.5
    ogbn_arxiv          gcn     fp32,dq4 71.7+-0.3 65.4+-3.9
    mnist_superpixels   gcn,gin fp32     90.1+-0.2 96.4+-0.4
    cifar10_superpixels gcn,gat fp32     55.9+-0.4 65.4+-0.4
    zinc                gcn     fp32     0.450+-0.008
    reddit_binary       gin     fp32     92.2+-2.3
  """,
  (A2Q, BEST_TEST, 'RECALLED'): """
    cora                gcn,gat a2q 80.9+-0.6@1.70 82.6+-0.6@2.03
    citeseer            gcn,gin a2q 70.6+-1.1@1.87 65.1+-1.7@2.54
    pubmed              gat     a2q 78.8+-0.4@2.12
    ogbn_arxiv          gcn     a2q 71.1+-0.3@2.65
    mnist_superpixels   gcn,gin a2q 89.9+-0.8@3.50 95.7+-0.2@3.75
    cifar10_superpixels gcn     a2q 52.5+-0.8@3.32
    cifar10_superpixels gat     a2q 64.7+-2.8@3.73 ; with care, its code for \
MNIST trains on test graphs
    zinc                gcn     a2q 0.492+-0.056@3.68
    reddit_binary       gin     a2q 90.8+-1.8@3.50
  """,
  # Deviations: of the same means in A2Q's paper.
  (DQ, VALID_LOSS, 'RECALLED'): """
    cora                gcn,gat,gin fp32 81.4      83.1      77.6
    cora                gcn,gat,gin dq8  81.7      82.7      78.7
    cora                gcn,gat,gin dq4  78.3+-1.7 71.2+-2.9 69.9
    citeseer            gcn,gat,gin fp32 71.1      72.5      66.1
    citeseer            gcn,gat,gin dq8  71.0      71.6      67.5
    citeseer            gcn,gat,gin dq4  66.9+-2.4 67.6      60.8+-2.1
    mnist_superpixels   gcn,gat     fp32 90.0      95.6
    mnist_superpixels   gin         fp32 93.9 ; least certain
    mnist_superpixels   gcn,gat,gin dq8  90.9      95.8      96.6
    mnist_superpixels   gcn,gat,gin dq4  84.4+-1.3 93.1      95.5+-0.4
    cifar10_superpixels gcn,gat     fp32 54.5      65.4
    cifar10_superpixels gin         fp32 53.3 ; least certain
    cifar10_superpixels gcn,gat,gin dq8  56.3      67.7      55.5
    cifar10_superpixels gcn,gat,gin dq4  51.1+-0.7 56.5+-0.6 50.7
    zinc                gcn,gat,gin fp32 0.469     0.463     0.414
    zinc                gcn,gat,gin dq8  0.434     0.456     0.357
    zinc                gcn,gat,gin dq4  0.536+-0.011 0.520  0.431
    reddit_binary       gin         fp32 92.2
  """,
  (DQ, VALID_LOSS, 'KNOWN'): """
    reddit_binary gin qat8,dq8 76.0 91.8 ; as a comment in its code says
    reddit_binary gin qat4,dq4 54.1 81.3 ; as a comment in its code says
  """,
  (DQ_LOG, VALID_LOSS, 'KNOWN'): """
    reddit_binary gin qat8,dq8 75.7+-5.8 92.4+-2.6
    reddit_binary gin qat4,dq4 56.2+-8.2 86.2+-3.2
  """,
  (PROMPT_LOG, VALID_LOSS, 'KNOWN'): """
    reddit_binary gin dq4 91.0+-2.5 ; suspect, weights go on from fold to \
fold, whose test graphs they were trained on
  """,
  # On the cleaned TUDatasets, as its next table.
  (MIXQ_LOG, VALID_LOSS, 'KNOWN'): """
    reddit_binary   gin fp32,dq8,dq4 89.54+-1.41 90.55+-2.03 83.40+-4.92 ; rerun
    reddit_multi_5k gin fp32,dq8,dq4 52.25+-3.19 50.91+-2.86 42.69+-2.19 ; rerun
    imdb_binary     gin fp32,dq8,dq4 75.25+-3.97 71.10+-3.96 68.60+-6.98 ; rerun
    imdb_multi      gin fp32,dq8,dq4 49.22+-5.38 48.47+-3.47 39.87+-2.28 ; rerun
    proteins        gin fp32,dq8,dq4 70.46+-4.24 72.96+-3.54 73.15+-4.06 ; rerun
    dd              gin fp32,dq8,dq4 73.85+-3.26 72.92+-3.16 72.75+-2.93 ; rerun
    reddit_binary   gin mixq 90.79+-1.52@14.98 ; cost weight -1e-8
    reddit_multi_5k gin mixq 53.65+-2.33@14.83 ; cost weight -1e-8
    imdb_binary     gin mixq 74.04+-5.64@7.84 ; cost weight -1e-8
    imdb_multi      gin mixq 44.21+-8.89@7.96 ; cost weight -1e-8
    proteins        gin mixq 71.59+-4.65@7.79 ; cost weight -1e-8
    dd              gin mixq 66.72+-9.75@7.23 ; cost weight -1e-8
    reddit_binary   gin mixq 89.34+-1.51@10.33 ; cost weight 1
    reddit_multi_5k gin mixq 51.67+-1.94@9.85 ; cost weight 1
    imdb_binary     gin mixq 69.61+-7.35@5.96 ; cost weight 1
    imdb_multi      gin mixq 47.03+-6.49@7.04 ; cost weight 1
    proteins        gin mixq 72.82+-5.23@5.43 ; cost weight 1
    dd              gin mixq 69.62+-10.81@4.91 ; cost weight 1
  """,
  (MIXQ_LOG, BEST_TEST, 'KNOWN'): """
    reddit_binary   gin a2q 88.85+-2.16 ; rerun, 3 folds, 4 bits at the start
    reddit_multi_5k gin a2q 54.43+-1.76 ; rerun, 3 folds, 4 bits at the start
    imdb_binary     gin a2q 74.60+-3.40 ; rerun, 3 folds, 4 bits at the start
    imdb_multi      gin a2q 50.60+-1.64 ; rerun, 3 folds, 4 bits at the start
    proteins        gin a2q 74.03+-1.27 ; rerun, 3 folds, 4 bits at the start
    dd              gin a2q 72.24+-1.06 ; rerun, 3 folds, 4 bits at the start
  """,
  (MIXQ_LOG, VALID_ACCURACY, 'KNOWN'): """
    cora     gcn fp32 82.15+-0.33
    citeseer gcn fp32 70.20+-0.37
    pubmed   gcn fp32 77.88+-0.67
    cora     gcn mixq 81.58+-0.75@7.69 ; cost weight -1e-8
    citeseer gcn mixq 68.97+-1.11@6.84 ; cost weight -1e-8
    pubmed   gcn mixq 78.33+-0.24@7.36 ; cost weight -1e-8
    cora     gcn mixq 77.72+-2.85@5.82 ; cost weight .1
    citeseer gcn mixq 66.52+-1.81@4.49 ; cost weight .1
    pubmed   gcn mixq 77.32+-0.69@5.49 ; cost weight .1
    cora     gcn mixq 68.68+-2.72@3.84 ; cost weight 1
    citeseer gcn mixq 60.87+-8.72@3.44 ; cost weight 1
    pubmed   gcn mixq 70.99+-1.81@4.09 ; cost weight 1
  """,
  (MIXQ_LOG, NOT_STATED, 'KNOWN'): """
    ogbn_arxiv gcn fp32 70.60
    ogbn_arxiv gcn mixq 70.61+-0.04@8.00 ; cost weight -1e-8
    ogbn_arxiv gcn mixq 69.97+-0.05@7.08 ; cost weight .1
    ogbn_arxiv gcn mixq 69.29+-0.02@7.08 ; cost weight 1
  """,
}
_NOMINAL_BITS = {'fp32': 32.0, 'qat8': 8.0, 'qat4': 4.0, 'dq8': 8.0, 'dq4': 4.0}


def _read(
  source: Source, rule: str, certainty: Certainty, text: str
) -> Iterator[Figure]:
  """The figures of one table."""
  for line in text.strip().splitlines():
    figures, _, note = line.partition(' ; ')
    dataset, backbones, quantizers, *printed = figures.split()
    cells = itertools.product(backbones.split(','), quantizers.split(','))
    metric = 'mae' if dataset == 'zinc' else 'accuracy'
    for (backbone, quantizer), entry in zip(cells, printed, strict=True):
      quality, _, bits = entry.partition('@')
      value, _, deviation = quality.partition('+-')
      yield Figure(
        dataset=dataset,
        backbone=None if backbone == '?' else backbone,
        quantizer=None if quantizer == '?' else quantizer,
        prompt=None if source is LORAP else 'none',
        metric=metric,
        value=_number(value, metric),
        deviation=_number(deviation, metric) if deviation else None,
        bits=float(bits) if bits else _NOMINAL_BITS.get(quantizer),
        rule=rule,
        source=source,
        certainty=certainty,
        note=note.strip(),
      )


def _number(text: str, metric: str) -> float:
  number = float(text)
  # Rounded, so that 80.9 % is 0.809 and not the double next to it.
  return round(number / 100, 6) if metric == 'accuracy' else number


FIGURES = tuple(
  figure for key, text in _TABLES.items() for figure in _read(*key, text)
)
