import pathlib

import pytest
from report_files import group, single

from lorap_jax.reports import collect, comparison
from lorap_jax.reports.comparison import compare, gain
from lorap_jax.runs import fields

OTHER = {'name': 'cora-part', 'comparable': False, 'note': 'a part of it'}


def run(report):
  return collect._run(pathlib.Path('run'), report)


def with_prompt(tests, **changes):
  return run(group(tests, prompt__name='gpf_lorap', **changes))


def gain_of(prompted, *plain):
  return gain(prompted, [prompted, *plain])


class TestGain:
  BASE = {(0, 0): 0.80, (1, 0): 0.70, (2, 0): 0.75}

  def test_pairs_by_hand(self):
    found, reason = gain_of(
      with_prompt({(0, 0): 0.83, (1, 0): 0.71, (2, 0): 0.77}),
      run(group(self.BASE)),
    )
    # Differences 0.03, 0.01, 0.02: mean 0.02, deviation 0.01.
    assert found.mean == pytest.approx(0.02)
    assert found.error == pytest.approx(0.01 / 3**0.5)
    assert (found.count, found.count_none, found.paired) == (3, 3, True)
    assert reason == ''

  def test_only_common_members_count(self):
    found, _ = gain_of(
      with_prompt({(2, 0): 0.75, (1, 0): 0.72, (5, 0): 0.1}),
      run(group(self.BASE)),
    )
    assert found.mean == pytest.approx(0.01)
    assert found.error == pytest.approx(0.01)
    assert (found.count, found.count_none, found.paired) == (2, 2, True)

  def test_folds_are_not_seeds(self):
    found, _ = gain_of(
      with_prompt({(0, 1): 0.9, (0, 2): 0.9}), run(group(self.BASE))
    )
    assert not found.paired

  def test_unpaired_by_hand(self):
    found, _ = gain_of(
      with_prompt({(7, 0): 0.9, (8, 0): 0.8}), run(group(self.BASE))
    )
    assert found.mean == pytest.approx(0.1)
    # Variances 0.005 of two and 0.0025 of three.
    assert found.error == pytest.approx((0.005 / 2 + 0.0025 / 3) ** 0.5)
    assert (found.count, found.count_none, found.paired) == (2, 3, False)

  @pytest.mark.parametrize('seed', [0, 9])
  def test_single_runs_have_no_error(self, seed):
    found, _ = gain_of(
      run(single(0.85, prompt__name='gpf', seed=seed)), run(single(0.8))
    )
    assert found.mean == pytest.approx(0.05)
    assert (found.error, found.paired) == (None, seed == 0)

  def test_less_error_is_a_gain(self):
    zinc = {'metric': 'mae', 'data__name': 'zinc'}
    found, _ = gain_of(
      run(single(0.40, prompt__name='lorap', **zinc)), run(single(0.45, **zinc))
    )
    assert found.mean == pytest.approx(0.05)

  def test_single_runs_without_prompts_count_together(self):
    found, _ = gain_of(
      with_prompt({(0, 0): 0.9, (1, 0): 0.9}),
      run(single(0.8, seed=0)),
      run(single(0.7, seed=1)),
      run(single(0.1, seed=1, data__dir='/again')),
    )
    assert (found.mean, found.count) == (pytest.approx(0.15), 2)

  def test_none_of_no_prompt(self):
    assert gain_of(run(single()), run(single())) == (None, '')

  @pytest.mark.parametrize(
    'changes',
    [
      {'model__name': 'gat'},
      {'data__name': 'pubmed'},
      {'data': OTHER},
      {'scheme__name': 'fp32'},
      {'prompt__name': 'gpf'},
    ],
  )
  def test_other_hosts_are_no_base(self, changes):
    found, reason = gain_of(
      with_prompt(self.BASE), run(group(self.BASE, **changes))
    )
    assert (found, reason) == (None, 'no run without prompts')

  def test_other_settings_are_no_base(self):
    found, reason = gain_of(
      with_prompt(self.BASE),
      run(single(train__epochs=1, model__features=1)),
      run(single(train__epochs=1)),
    )
    assert found is None and reason.endswith('the same train.epochs')

  def test_a_base_of_the_same_settings_is_found_beside_others(self):
    found, _ = gain_of(
      with_prompt(self.BASE),
      run(single(0.1, train__epochs=1)),
      run(group(self.BASE)),
    )
    assert (found.mean, found.count) == (0, 3)

  def test_settings_of_prompts_are_free(self):
    changes = {'prompt__rank': 9, 'optim__prompt_factor': 0.1}
    prompted = with_prompt(self.BASE, **changes)
    assert gain_of(prompted, run(group(self.BASE)))[0].mean == 0

  @pytest.mark.parametrize('path', fields.FREE)
  def test_settings_that_change_no_result_are_free(self, path):
    """A base with other sums over neighbours, say, is found."""
    base = group(self.BASE)
    place, _, name = path.partition('.')
    base['config'][place][name] = 'another'
    found, reason = gain_of(with_prompt(self.BASE), run(base))
    assert found is not None, reason


class TestCompare:
  def cells(self, *reports):
    rows = compare([run(report) for report in reports])
    return [comparison_cell(row) for row in rows]

  def test_order(self):
    reports = [
      single(data__name='pubmed'),
      single(prompt__name='lorap'),
      single(prompt__name='gpf'),
      single(prompt__name='mine'),
      single(),
      single(scheme={'name': 'dq', 'bits': 4}),
      single(scheme={'name': 'dq', 'bits': 8}),
      single(scheme__name='fp32'),
      single(model__name='gat'),
    ]
    assert self.cells(*reversed(reports)) == [
      ('cora', 'gat', 'a2q', 'none'),
      ('cora', 'gcn', 'fp32', 'none'),
      ('cora', 'gcn', 'dq8', 'none'),
      ('cora', 'gcn', 'dq4', 'none'),
      ('cora', 'gcn', 'a2q', 'none'),
      ('cora', 'gcn', 'a2q', 'gpf'),
      ('cora', 'gcn', 'a2q', 'lorap'),
      ('cora', 'gcn', 'a2q', 'mine'),
      ('pubmed', 'gcn', 'a2q', 'none'),
    ]

  def test_second_of_a_cell_says_how_it_differs(self):
    rows = compare(
      [
        run(single()),
        run(single(train__epochs=9, optim__weight_decay=0.0, data__dir='/a')),
        run(single(seed=1)),
        run(single(prompt__name='lorap')),
      ]
    )
    assert [row.differs for row in rows] == [
      (),
      ('optim.weight_decay', 'train.epochs'),
      ('seed',),
      (),
    ]

  def test_a_setting_that_one_of_them_lacks(self):
    old = single()
    del old['config']['model']['features']
    rows = compare([run(single()), run(old)])
    assert rows[1].differs == ('model.features',)

  def test_placements_are_cells_of_their_own(self):
    rows = compare(
      [
        run(single(prompt__name='lorap', prompt__placement=name))
        for name in ('pre', 'post')
      ]
    )
    assert [row.differs for row in rows] == [(), ()]

  def test_figures(self):
    (row,) = compare([run(single())])
    assert [f.value for f in row.figures] == [0.809]

  def test_no_figures_beside_data_that_do_not_compare(self):
    (row,) = compare([run(single(data=OTHER))])
    assert row.figures == ()


def comparison_cell(row):
  one = row.run
  return one.dataset, one.backbone, one.quantizer, one.prompt


def test_differences_are_free_by_their_start():
  a, b = run(single(seed=1, data__fold=3)), run(single(seeds=2))
  assert comparison.differences(a, b) == ['data.fold', 'seed', 'seeds']
  assert comparison.differences(a, b, free=('seed', 'data.')) == []
