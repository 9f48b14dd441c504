"""Seeds and folds, each in a folder of its own."""

import statistics

import numpy as np
import pytest
import tiny_run
from run_folder import contents, plain, read

from lorap_jax.runs import (
  datasets,
  fields,
  full_batch,
  loop,
  protocol,
  settings,
  workdir,
)
from lorap_jax.runs.run import Interrupted, NonFiniteError

# Seeds 3 and 4, folds 1 and 2.
GROUP = {
  'seed': 3,
  'seeds': 2,
  'data__name': 'folded',
  'data__fold': 1,
  'folds': 2,
}
MEMBERS = [(3, 1), (3, 2), (4, 1), (4, 2)]


def fold_data(fold):
  """The node task, its splits moved on by the fold."""
  data = tiny_run.node_data()
  masks = ('train_mask', 'valid_mask', 'test_mask')
  move = lambda name: np.roll(getattr(data, name), 3 * fold)
  return data._replace(**{name: move(name) for name in masks})


@pytest.fixture(autouse=True)
def folds(monkeypatch):
  """Feeds each run the data of its fold, and two epochs per dispatch."""
  set_up(monkeypatch)


def set_up(monkeypatch):
  row = datasets.DATASETS['cora']
  row = row._replace(fields=(*row.fields, 'fold'))
  monkeypatch.setitem(datasets.DATASETS, 'folded', row)
  tiny_run.two_epochs_per_dispatch(monkeypatch)
  monkeypatch.setattr(
    settings.Settings,
    'load_data',
    lambda self: fold_data(self.config['data'].get('fold', 0)),
  )


@pytest.fixture(scope='module')
def group(tmp_path_factory):
  """Folder and report of a finished group."""
  folder = tmp_path_factory.mktemp('group') / 'a'
  with pytest.MonkeyPatch.context() as monkeypatch:
    set_up(monkeypatch)
    return folder, protocol.run(tiny_run.node_config(**GROUP), folder)


class TestGroup:
  def test_members_have_folders_seeds_and_folds_of_their_own(self, group):
    folder, _ = group
    names = {p.name for p in folder.iterdir() if p.is_dir()}
    assert names == {f'seed_{s}_fold_{f}' for s, f in MEMBERS}
    for seed, fold in MEMBERS:
      config = read(folder / f'seed_{seed}_fold_{fold}', 'config.json')
      assert (config['seed'], config['data']['fold']) == (seed, fold)
      assert (config['seeds'], config['folds']) == (1, 1)

  def test_members_are_listed_with_their_values(self, group):
    folder, report = group
    assert [(m['seed'], m['fold']) for m in report['members']] == MEMBERS
    for member, (seed, fold) in zip(report['members'], MEMBERS, strict=True):
      own = read(folder / f'seed_{seed}_fold_{fold}')
      result = own['result']
      for name in ('test', 'valid', 'train', 'epoch'):
        assert member[name] == result[name]
      assert member['best_test'] == result['best_test_epoch']['test']
      bits = own['cost']['average_bits']['usage_weighted']
      assert member['bits'] == bits == 32

  def test_mean_and_sample_deviation(self, group):
    result, members = group[1]['result'], group[1]['members']
    assert result['count'] == 4
    for name in ('test', 'valid', 'best_test', 'bits'):
      values = [m[name] for m in members]
      assert result[name] == pytest.approx(statistics.mean(values))
      deviation = statistics.stdev(values)  # Over n - 1.
      assert result[f'{name}_std'] == pytest.approx(deviation)
    assert len({m['test'] for m in members}) > 1

  def test_what_the_members_share(self, group):
    folder, report = group
    first = read(folder / 'seed_3_fold_1')
    for name in ('metric', 'rule', 'rule_in_words'):
      assert report['result'][name] == first['result'][name]
    for name in ('parameters', 'data', 'versions', 'device'):
      assert report[name] == first[name]
    assert report['cost_of_first'] == first['cost']
    expected = settings.from_config(tiny_run.node_config(**GROUP)).config
    assert report['config'] == expected
    times = [m['seconds']['total'] for m in map(read, folder.glob('seed_*'))]
    assert report['seconds']['total'] == pytest.approx(sum(times))

  def test_files_hold_the_report_and_the_configuration(self, group):
    folder, report = group
    assert read(folder) == plain(report)
    config = settings.from_config(tiny_run.node_config(**GROUP)).config
    assert read(folder, 'config.json') == plain(config)

  def test_finished_members_are_not_run_again(self, group, monkeypatch):
    folder, report = group
    before = contents(folder)
    monkeypatch.delattr(loop, 'create_run')
    monkeypatch.delattr(settings.Settings, 'load_data')
    again = protocol.run(tiny_run.node_config(**GROUP), folder)
    assert again == plain(report)
    assert {p: b for p, (_, b) in contents(folder).items()} == {
      p: b for p, (_, b) in before.items()
    }

  def test_another_configuration_is_refused(self, group):
    folder, _ = group
    before = contents(folder)
    config = tiny_run.node_config(**GROUP, optim__learning_rate=0.5)
    with pytest.raises(
      workdir.WorkdirError,
      match=r'config\.optim\.learning_rate = 0\.01, this one has 0\.5; .*--w',
    ) as caught:
      protocol.run(config, folder)
    assert '\n' not in str(caught.value)
    assert contents(folder) == before

  def test_folder_of_a_single_run_is_refused(self, group):
    folder = group[0] / 'seed_3_fold_1'
    config = tiny_run.node_config(**GROUP)
    with pytest.raises(workdir.WorkdirError, match=r'config\.folds = 1, .* 2'):
      protocol.run(config, folder)
    assert not list(folder.glob('seed_*'))


def test_more_seeds_later(tmp_path, monkeypatch):
  protocol.run(tiny_run.node_config(seeds=2), tmp_path)
  before = contents(tmp_path)
  started = tiny_run.starts(monkeypatch)
  report = protocol.run(tiny_run.node_config(seeds=3), tmp_path)
  assert list(started) == ['seed_2_fold_0']
  assert report['result']['count'] == 3
  assert [m['seed'] for m in report['members']] == [0, 1, 2]
  after = contents(tmp_path)
  for path, value in before.items():
    if path.parent != tmp_path:
      assert after[path] == value
  assert read(tmp_path, 'config.json')['seeds'] == 3


def test_interrupted_group_goes_on_with_the_member(tmp_path, monkeypatch):
  config = tiny_run.node_config(seeds=2, train__together=1)
  with monkeypatch.context() as patch:
    # In the last dispatch of the first: Ctrl-C is not for one member alone.
    tiny_run.interrupt_after_dispatch(patch, 3)
    started = tiny_run.starts(patch)
    with pytest.raises(Interrupted):
      protocol.run(config, tmp_path)
    assert list(started) == ['seed_0_fold_0']
  assert not (tmp_path / 'report.json').exists()
  started = tiny_run.starts(monkeypatch)
  report = protocol.run(config, tmp_path)
  assert list(started) == ['seed_0_fold_0', 'seed_1_fold_0']
  assert report['result']['count'] == 2


def test_one_member_runs_in_the_folder_itself(tmp_path):
  report = protocol.run(tiny_run.node_config(), tmp_path)
  assert 'members' not in report
  assert read(tmp_path)['seed'] == 0
  assert not list(tmp_path.glob('seed_*'))


@pytest.mark.parametrize('name', ['seeds', 'folds'])
@pytest.mark.parametrize('value', [0, -1])
def test_fewer_than_one(tmp_path, name, value):
  config = tiny_run.node_config(**{name: value})
  with pytest.raises(ValueError, match=f'^config: `{name}` must be at least 1'):
    protocol.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_fewer_seeds_than_the_report_has(tmp_path):
  protocol.run(tiny_run.node_config(seeds=3), tmp_path)
  before = contents(tmp_path)
  with pytest.raises(
    workdir.WorkdirError,
    match=r'report of config\.seeds = 3, this run has 2; ask for 3 .*--workdir',
  ) as caught:
    protocol.run(tiny_run.node_config(seeds=2), tmp_path)
  assert '\n' not in str(caught.value)
  assert contents(tmp_path) == before


def test_fewer_seeds_before_the_report(tmp_path, monkeypatch):
  config = tiny_run.node_config(seeds=3)
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after_dispatch(patch, 1)
    with pytest.raises(Interrupted):
      protocol.run(config, tmp_path)
  assert len(list(tmp_path.glob('seed_*'))) == 3  # All have begun.
  report = protocol.run(tiny_run.node_config(seeds=2), tmp_path)
  assert report['result']['count'] == report['config']['seeds'] == 2
  with pytest.raises(workdir.WorkdirError, match=r'config\.seeds = 2, .* 1;'):
    protocol.run(tiny_run.node_config(), tmp_path)


def folded(**changes):
  return tiny_run.node_config(data__name='folded', **changes)


@pytest.mark.parametrize('name', ['seeds', 'folds'])
def test_one_member_in_the_folder_of_a_group(tmp_path, monkeypatch, name):
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after_dispatch(patch, 1)
    with pytest.raises(Interrupted):
      protocol.run(folded(**{name: 2}), tmp_path)
  before = contents(tmp_path)
  match = rf'config\.{name} = 2, this one has 1; .*--workdir'
  with pytest.raises(workdir.WorkdirError, match=match):
    protocol.run(folded(), tmp_path)
  assert contents(tmp_path) == before


def test_more_seeds_in_the_folder_of_one(tmp_path):
  protocol.run(tiny_run.node_config(), tmp_path)
  before = contents(tmp_path)
  match = r'config\.seeds = 1, this one has 2; .*--workdir'
  with pytest.raises(workdir.WorkdirError, match=match):
    protocol.run(tiny_run.node_config(seeds=2), tmp_path)
  assert contents(tmp_path) == before


def test_together_may_change(tmp_path):
  first = protocol.run(tiny_run.node_config(seeds=2), tmp_path)
  again = tiny_run.node_config(seeds=2, train__together=1)
  assert protocol.run(again, tmp_path)['members'] == first['members']


class TestKind:
  @pytest.mark.parametrize(
    'changes',
    [
      {'seed': 5},
      {'optim__prompt_factor': 0.1},
      {'optim__learning_rate': 0.5, 'train__schedule': 'constant'},
      {'train__warmup': 0.2, 'train__step_epochs': 3},
    ],
    ids=str,
  )
  def test_numbers_that_a_program_reads(self, changes):
    config = tiny_run.node_config()
    other = tiny_run.node_config(**changes)
    assert fields.kind(other.to_dict()) == fields.kind(config.to_dict())

  @pytest.mark.parametrize(
    'changes',
    [
      {'seeds': 3},
      {'prompt__name': 'lorap'},
      {'prompt__rank': 2},
      {'scheme__bits': 3},
      {'train__epochs': 5},
      {'train__selection': 'last'},
      {'data__fold': 1},
    ],
    ids=str,
  )
  def test_all_else_is_another(self, changes):
    config = tiny_run.node_config()
    other = tiny_run.node_config(**changes)
    assert fields.kind(other.to_dict()) != fields.kind(config.to_dict())


def test_groups_together_are_as_alone(tmp_path):
  given = [
    (tiny_run.node_config(**GROUP, optim__learning_rate=rate), tmp_path / name)
    for name, rate in (('slow', 0.01), ('fast', 0.1))
  ]
  reports = protocol.run_together(given)
  for (config, place), report in zip(given, reports, strict=True):
    assert read(place) == plain(report)
    other = protocol.run(config, tmp_path / 'alone' / place.name)
    for name in ('seed', 'fold', 'test', 'valid', 'epoch'):
      assert [m[name] for m in report['members']] == [
        m[name] for m in other['members']
      ]
  assert reports[0]['members'] != reports[1]['members']


class TestDivergence:
  @pytest.fixture
  def damaged(self, monkeypatch):
    """Seed 4 of fold 1 diverges in its first dispatch."""
    file = full_batch.FullBatchRun.file

    def damage(run, records, seconds):
      if run.folder.name == 'seed_4_fold_1':
        records = {**records, 'loss': records['loss'] * np.nan}
      file(run, records, seconds)

    monkeypatch.setattr(full_batch.FullBatchRun, 'file', damage)

  def test_other_seeds_and_folds_are_finished(self, tmp_path, damaged):
    with pytest.raises(
      NonFiniteError,
      match='^1 of 4 runs diverged, the others are finished; seed 4, fold 1: '
      'loss nan at step 0',
    ):
      protocol.run(tiny_run.node_config(**GROUP), tmp_path)
    done = {path.parent.name for path in tmp_path.glob('*/report.json')}
    assert done == {'seed_3_fold_1', 'seed_3_fold_2', 'seed_4_fold_2'}
    assert not (tmp_path / 'report.json').exists()

  def test_other_configurations_are_finished(self, tmp_path, damaged):
    changes = {**GROUP, 'seeds': 1}
    given = [
      (tiny_run.node_config(**changes | {'seed': seed}), tmp_path / str(seed))
      for seed in (3, 4)
    ]
    report, error = protocol.run_together(given)
    assert read(tmp_path / '3') == plain(report)
    assert str(error).startswith('1 of 2 runs diverged')


def test_kinds_do_not_mix(tmp_path):
  given = [(tiny_run.node_config(seeds=n), tmp_path / str(n)) for n in (1, 2)]
  with pytest.raises(ValueError, match='must be of one kind'):
    protocol.run_together(given)
  assert not list(tmp_path.iterdir())
