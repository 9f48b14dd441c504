import collections

import pytest

from lorap_jax.reports import published
from lorap_jax.reports.published import find


def test_one_cell_by_hand():
  (figure,) = find('cora', 'gcn', 'a2q', 'none', 'accuracy')
  assert figure == published.Figure(
    dataset='cora',
    backbone='gcn',
    quantizer='a2q',
    prompt='none',
    metric='accuracy',
    value=0.809,
    deviation=0.006,
    bits=1.7,
    rule='best test epoch',
    source=published.Source('A2Q', 2023, 'arXiv 2302.00193'),
    certainty='RECALLED',
    note='',
  )


@pytest.mark.parametrize(
  'cell, expected',
  [
    # Two backbones and two quantizers in one line.
    (('cora', 'gat', 'a2q'), [(0.826, 0.006, 2.03)]),
    (('pubmed', 'gat', 'dq4'), [(0.706, 0.125, 4)]),
    # An error is not in per cent; a figure without deviation.
    (('zinc', 'gin', 'dq8'), [(0.357, None, 8)]),
    (('zinc', 'gcn', 'a2q'), [(0.492, 0.056, 3.68)]),
    (
      ('pubmed', 'gcn', 'mixq'),
      [(0.7833, 0.0024, 7.36), (0.7732, 0.0069, 5.49), (0.7099, 0.0181, 4.09)],
    ),
    (('reddit_binary', 'gin', 'qat4'), [(0.541, None, 4), (0.562, 0.082, 4)]),
    (('cora', 'gin', 'mixq'), []),
    (('ogbn_mag', 'gcn', 'dq8'), []),
  ],
)
def test_figures_without_prompts(cell, expected):
  metric = 'mae' if cell[0] == 'zinc' else 'accuracy'
  found = find(*cell, 'none', metric)
  assert [(f.value, f.deviation, f.bits) for f in found] == expected


class TestWhatTheSourceDoesNotSay:
  @pytest.mark.parametrize('prompt', ['lorap', 'gpf_lorap', 'gpf_plus_lorap'])
  @pytest.mark.parametrize('cell', [('gcn', 'dq8'), ('gat', 'mixq')])
  def test_fits_every_cell_with_lorap(self, cell, prompt):
    (figure,) = find('ogbn_mag', *cell, prompt, 'accuracy')
    assert (figure.value, figure.bits, figure.rule) == (
      0.342,
      None,
      'not stated',
    )

  @pytest.mark.parametrize('prompt', ['none', 'gpf', 'gpf_plus'])
  def test_fits_no_other_prompt(self, prompt):
    found = find('cora', 'gcn', 'a2q', prompt, 'accuracy')
    assert published.LORAP not in [f.source for f in found]

  def test_does_not_fit_full_precision(self):
    assert find('cora', 'gcn', 'fp32', 'lorap', 'accuracy') == ()


def test_metric_must_be_the_same():
  assert find('zinc', 'gcn', 'a2q', 'none', 'accuracy') == ()


def test_numbers_are_plausible():
  for figure in published.FIGURES:
    high = 0.6 if figure.metric == 'mae' else 1
    assert 0.3 < figure.value < high, figure
    assert figure.deviation is None or 0 < figure.deviation < 0.13, figure
    assert figure.bits is None or 1.5 <= figure.bits <= 32, figure


def test_every_line_was_read():
  counts = collections.Counter(f.source for f in published.FIGURES)
  assert counts == {
    published.LORAP: 8,
    published.A2Q: 26,
    published.DQ: 45 + 1 + 4,
    published.DQ_LOG: 4,
    published.PROMPT_LOG: 1,
    published.MIXQ_LOG: 6 * 6 + 4 * 4,
  }


def test_papers_from_memory_are_marked():
  recalled = {f.source for f in published.FIGURES if f.certainty == 'RECALLED'}
  assert recalled == {published.A2Q, published.DQ}
  known = [
    f
    for f in published.FIGURES
    if f.source in recalled and f.certainty == 'KNOWN'
  ]
  assert {f.dataset for f in known} == {'reddit_binary'}


HEADER = (
  'dataset,backbone,quantizer,prompt,metric,value,deviation,bits,rule,source,'
  'certainty,note\n'
)
LINE = 'cora,gcn,a2q,none,accuracy,80.9,0.6,1.70,best test epoch,A2Q,KNOWN,\n'


class TestTable:
  def test_sound_lines(self):
    other = 'zinc,?,?,?,mae,0.361,,,not stated,"Degree-Quant, log",KNOWN,"a, b"'
    first, second = published.parse(HEADER + LINE + other)
    assert (first.value, first.deviation, first.bits) == (0.809, 0.006, 1.7)
    assert second == published.Figure(
      dataset='zinc',
      backbone=None,
      quantizer=None,
      prompt=None,
      metric='mae',
      value=0.361,
      deviation=None,
      bits=None,
      rule='not stated',
      source=published.DQ_LOG,
      certainty='KNOWN',
      note='a, b',
    )

  @pytest.mark.parametrize(
    ('old', 'new', 'reason'),
    [
      ('gcn', 'sage', "backbone 'sage'; choose one of .*'gin'"),
      ('a2q', 'A2Q', "quantizer 'A2Q'; choose"),
      ('none', 'lorap', "prompt 'lorap'; choose"),
      ('accuracy', 'mse', "metric 'mse'; choose"),
      ('best test', 'best', "rule 'best epoch'; choose one of .*'not stated'"),
      ('A2Q', 'A3Q', "source 'A3Q'; choose one of .*'LoRAP'"),
      ('KNOWN', 'GUESSED', "certainty 'GUESSED'; choose .*'RECALLED'"),
      ('KNOWN', ' KNOWN', "certainty ' KNOWN'; choose"),
      ('80.9', '', 'no value'),
      ('80.9', '80.9 %', "value '80.9 %'; expected a number"),
      ('80.9', 'nan', "value 'nan'; expected a number"),
      ('0.6', '-0.6', "deviation '-0.6'; expected a number"),
      ('1.70', 'few', "bits 'few'; expected a number"),
      ('A2Q,', 'Degree-Quant, log,', '13 cells; expected 12'),
      ('KNOWN,', 'KNOWN', '11 cells; expected 12'),
      (LINE, '\n', '0 cells; expected 12'),
      ('KNOWN,', 'KNOWN,"', 'unexpected end of data'),
    ],
  )
  def test_wrong_lines_are_named(self, old, new, reason):
    sound = LINE.replace('cora', 'citeseer')
    assert old in LINE
    with pytest.raises(ValueError, match=f'published.csv, line 3: .*{reason}'):
      published.parse(HEADER + sound + LINE.replace(old, new))

  @pytest.mark.parametrize(
    'header', ['', LINE, HEADER.replace('rule', 'rules'), HEADER[5:]]
  )
  def test_columns(self, header):
    with pytest.raises(
      ValueError, match=r"line .: columns \[.*expected \['dataset', 'backbone'"
    ):
      published.parse(header)

  @pytest.mark.parametrize(
    ('old', 'new'),
    [('', ''), ('80.9', '81'), ('0.6,1.70', ',2'), ('KNOWN', 'RECALLED')],
  )
  def test_a_figure_comes_once(self, old, new):
    again = LINE.replace(old, new)
    other = LINE.replace('cora', 'citeseer')
    with pytest.raises(ValueError, match='line 4: the figure of line 2 again'):
      published.parse(HEADER + LINE + other + again)

  def test_notes_tell_figures_of_a_cell_apart(self):
    again = LINE.replace('KNOWN,', 'KNOWN,cost weight 1')
    assert len(published.parse(HEADER + LINE + again)) == 2
