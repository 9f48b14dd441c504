"""Seeds and rates that train side by side, each as if it were alone."""

import pathlib
import types

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, plain, read, without_times

from lorap_jax.runs import (
  checkpointing,
  full_batch,
  loop,
  side_by_side,
)
from lorap_jax.runs.run import Interrupted, NonFiniteError, Run

SEEDS = (0, 1, 2)
CELLS = {'fp32': 'gcn,fp32,none', 'a2q_node': 'gcn,a2q,gpf_lorap'}
DEEP = {'model__num_layers': 2, 'model__dropout': 0.5}
GRAPHS = {'scheme__name': 'fp32', 'prompt__name': 'none', 'train__epochs': 1}


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  """Feeds the node task, two epochs per dispatch."""
  tiny_run.feed_short_node_runs(monkeypatch)


def config_of(seed, cell='gcn,fp32,none', **changes):
  return tiny_run.node_config(cell, seed=seed, **changes)


def members(folder, seeds=SEEDS, **changes):
  """Configuration and folder of each seed."""
  return [(config_of(s, **changes), folder / f'seed_{s}_fold_0') for s in seeds]


def saved(folder, kind):
  """The arrays of a checkpoint and its progress."""
  checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
  state = checkpoints.load_arrays(kind)
  return {name: state[name] for name in ('step', 'params', 'quant_stats')}


def assert_same_run(found, expected, reports):
  """Two folders hold the same run, up to rounding."""
  names = {p.name for p in found.iterdir()} ^ {
    p.name for p in expected.iterdir()
  }
  assert names <= {'group.json'}  # Runs of several have it.
  records = without_times(metrics(found))
  wanted = without_times(metrics(expected))
  assert len(records) == len(wanted) == 6
  for record, other in zip(records, wanted, strict=True):
    assert record == pytest.approx(other, rel=1e-5, abs=1e-6)
  for kind in ('latest', 'best'):
    helpers.assert_trees_close(
      saved(found, kind), saved(expected, kind), rtol=1e-4, atol=1e-6
    )
  for report, other in (reports, (read(found), read(expected))):
    for part in ('seed', 'steps', 'epochs', 'parameters'):
      assert report[part] == other[part]
    assert report['result']['epoch'] == other['result']['epoch']
    assert report['result']['test'] == pytest.approx(other['result']['test'])


# A2Q's has all that the other has.
EACH = [
  pytest.param(cell, marks=[pytest.mark.slow] * (name == 'fp32'), id=name)
  for name, cell in CELLS.items()
]


@pytest.fixture(scope='module', params=EACH)
def trained(request, tmp_path_factory):
  """Folder, cell, and reports of seeds alone and together."""
  folder = tmp_path_factory.mktemp('seeds')
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed_short_node_runs(monkeypatch)
    alone = [
      loop.train_and_evaluate(*member)
      for member in members(folder / 'alone', cell=request.param, **DEEP)
    ]
    full_batch.make_epochs.cache_clear()
    make = full_batch.make_epochs

    def only_joint(*recipe, joint):
      assert joint
      return make(*recipe, joint=True)

    monkeypatch.setattr(full_batch, 'make_epochs', only_joint)
    together = members(folder / 'together', cell=request.param, **DEEP)
    return folder, request.param, alone, loop.train_members(together)


def test_each_seed_is_as_if_alone(trained):
  folder, _, alone, together = trained
  for i, seed in enumerate(SEEDS):
    name = f'seed_{seed}_fold_0'
    assert_same_run(
      folder / 'together' / name,
      folder / 'alone' / name,
      (together[i], alone[i]),
    )
  losses = {metrics(p)[-1]['valid_loss'] for p in folder.glob('together/*')}
  assert len(losses) == len(SEEDS)


def test_time_is_shared(monkeypatch, tmp_path):
  ticks = iter(range(0, 10**6, 12))
  clock = types.SimpleNamespace(monotonic=lambda: float(next(ticks)))
  monkeypatch.setattr(side_by_side, 'time', clock)
  loop.train_members(members(tmp_path))
  for _, folder in members(tmp_path):
    # 12 seconds of two epochs of three seeds.
    assert {r['train_seconds'] for r in metrics(folder)} == {2.0}
    assert read(folder)['seconds']['total'] == 12.0


def test_one_compilation(tmp_path, monkeypatch):
  epochs_of, traced = full_batch._epochs, []

  def counted(*recipe):
    run = epochs_of(*recipe)
    return lambda *inputs: traced.append(recipe) or run(*inputs)

  monkeypatch.setattr(full_batch, '_epochs', counted)
  full_batch.make_epochs.cache_clear()
  for seeds in ((0, 1), (2, 3)):
    loop.train_members(members(tmp_path, seeds))
  full_batch.make_epochs.cache_clear()
  assert len(traced) == 1


class TestGroups:
  def test_members_are_at_their_places(self):
    """Not in the order of their names, nor in that of those that train."""
    places = tuple(pathlib.Path(f'seed_{seed}') for seed in (9, 10, 11))
    group = side_by_side.Group({places[2]: 'last', places[0]: 'first'}, places)
    assert group.members() == ['first', 'last', 'last']

  def test_is_recorded_in_every_folder(self, tmp_path):
    given = members(tmp_path)
    loop.train_members(given)
    places = tuple(place for _, place in given)
    for i, place in enumerate(places):
      assert side_by_side.recorded(place) == places
      assert read(place, 'group.json')['members'][i] == '.'

  def test_record_follows_folders_that_move(self, tmp_path):
    loop.train_members(members(tmp_path / 'old'))
    (tmp_path / 'old').rename(tmp_path / 'new')
    places = tuple(place for _, place in members(tmp_path / 'new'))
    assert side_by_side.recorded(places[1]) == places

  def test_one_alone_has_no_record(self, tmp_path):
    loop.train_members(members(tmp_path, (0,)))
    assert side_by_side.recorded(tmp_path / 'seed_0_fold_0') == ()
    assert not (tmp_path / 'seed_0_fold_0' / 'group.json').exists()

  def test_record_of_another_configuration_does_not_count(
    self, tmp_path, monkeypatch
  ):
    with monkeypatch.context() as patch:
      patch.setattr(side_by_side, 'train', interrupt)
      with pytest.raises(Interrupted):
        loop.train_members(members(tmp_path))
    found = sizes(monkeypatch)
    loop.train_members(members(tmp_path, (0, 1), optim__learning_rate=0.5))
    assert found == [2] * 3


def interrupt(*args):
  raise Interrupted


def sizes(monkeypatch):
  """Gets, from now on, the number of members of each dispatch."""
  found, program = [], full_batch.FullBatchRun.program

  def counted(run, count):
    call = program(run, count)
    return lambda *args: found.append(count) or call(*args)

  monkeypatch.setattr(full_batch.FullBatchRun, 'program', counted)
  return found


@pytest.mark.parametrize(
  'together, expected', [(1, [1] * 9), (2, [2] * 3 + [1] * 3), (10, [3] * 3)]
)
def test_at_most_so_many(tmp_path, monkeypatch, together, expected):
  found = sizes(monkeypatch)
  loop.train_members(members(tmp_path, train__together=together))
  assert found == expected


def test_graphs_run_one_after_the_other(tmp_path, monkeypatch):
  tiny_run.feed(monkeypatch)
  monkeypatch.delattr(side_by_side, 'train')
  started = tiny_run.starts(monkeypatch)
  loop.train_members(
    [(tiny_run.config(seed=s, **GRAPHS), tmp_path / str(s)) for s in (0, 1)]
  )
  assert list(started) == ['0', '1']


class TestGoingOn:
  @pytest.mark.parametrize(
    'trained, dispatch',
    [
      pytest.param(CELLS['fp32'], 1, marks=pytest.mark.slow),
      (CELLS['a2q_node'], 1),
      pytest.param(CELLS['fp32'], 3, marks=pytest.mark.slow),
      (CELLS['a2q_node'], 3),
    ],
    indirect=['trained'],
  )
  def test_after_an_interruption(
    self, trained, tmp_path, monkeypatch, dispatch
  ):
    folder, cell, alone, _ = trained
    given = members(tmp_path, cell=cell, **DEEP)
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, dispatch)
      with pytest.raises(Interrupted):
        loop.train_members(given)
    for _, place in given:
      assert len(metrics(place)) == 2 * dispatch
      assert int(saved(place, 'latest')['step']) == 2 * dispatch
      assert not (place / 'report.json').exists()
    reports = loop.train_members(given)
    for (_, place), report, other in zip(given, reports, alone, strict=True):
      assert_same_run(place, folder / 'alone' / place.name, (report, other))

  def exact(self, folder):
    """What a run must have in common to the last bit with another."""
    state = saved(folder, 'latest'), saved(folder, 'best')
    return without_times(metrics(folder)), jax.tree.map(np.asarray, state)

  def assert_exact(self, folders, expected):
    for folder, other in zip(folders, expected, strict=True):
      (lines, state), (wanted, theirs) = self.exact(folder), self.exact(other)
      assert lines == wanted
      jax.tree.map(np.testing.assert_array_equal, state, theirs)

  def stop(self, monkeypatch, given, dispatch):
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, dispatch)
      with pytest.raises(Interrupted):
        loop.train_members(given)

  @pytest.mark.slow
  def test_some_are_asked_for_later(self, tmp_path, monkeypatch):
    cell = CELLS['a2q_node']
    whole = members(tmp_path / 'whole', cell=cell)
    loop.train_members(whole)
    given = members(tmp_path / 'parts', cell=cell)
    self.stop(monkeypatch, given, 1)
    found = sizes(monkeypatch)
    loop.train_members(given[1:2])
    loop.train_members(
      members(tmp_path / 'parts', cell=cell, train__together=1)
    )
    assert found == [3] * 4  # Whoever is asked for, and however many may.
    self.assert_exact([p for _, p in given], [p for _, p in whole])

  def test_more_make_a_group_of_their_own(self, tmp_path, monkeypatch):
    self.stop(monkeypatch, members(tmp_path), 1)
    found = sizes(monkeypatch)
    loop.train_members(members(tmp_path, range(5)))
    assert found == [3, 3, 2, 2, 2]

  def test_one_has_diverged(self, tmp_path, monkeypatch):
    file = full_batch.FullBatchRun.file

    def damage(run, records, seconds):
      if run.settings.config['seed'] == 1 and run.progress.epoch == 2:
        records = {**records, 'loss': records['loss'] * np.nan}
      file(run, records, seconds)

    monkeypatch.setattr(full_batch.FullBatchRun, 'file', damage)
    whole = members(tmp_path / 'whole')
    loop.train_members(whole)
    given = members(tmp_path / 'stopped')
    self.stop(monkeypatch, given, 2)
    found = sizes(monkeypatch)
    _, error, _ = loop.train_members(given)
    assert found == [3]
    assert isinstance(error, NonFiniteError)
    assert str(error).startswith('loss nan at step 2 (epoch 3)')
    folders = [place for _, place in given[::2]]
    self.assert_exact(folders, [place for _, place in whole[::2]])

  def test_from_different_places(self, tmp_path, monkeypatch):
    given = members(tmp_path, range(4))
    expected = loop.train_members(members(tmp_path / 'whole', range(4)))
    loop.train_and_evaluate(*given[0])  # One is finished,
    for i, dispatch in ((1, 1), (2, 2)):  # two have begun, one has not.
      with monkeypatch.context() as patch:
        tiny_run.interrupt_after_dispatch(patch, dispatch)
        with pytest.raises(Interrupted):
          loop.train_and_evaluate(*given[i])
    found = sizes(monkeypatch)
    reports = loop.train_members(given)
    assert found == [1] * (2 + 1 + 3)  # Each as it began.
    for (_, place), *pair in zip(given, reports, expected, strict=True):
      assert_same_run(place, tmp_path / 'whole' / place.name, pair)

  def test_finished_members_are_skipped(self, tmp_path, monkeypatch):
    given = members(tmp_path)
    first = loop.train_and_evaluate(*given[1])
    started = tiny_run.starts(monkeypatch)
    found = sizes(monkeypatch)
    reports = loop.train_members(given)
    assert list(started) == ['seed_0_fold_0', 'seed_2_fold_0']
    assert found == [2] * 3
    assert [r['seed'] for r in reports] == [0, 1, 2]
    assert reports[1]['seconds'] == first['seconds']

  def test_other_folder_is_refused_before_any_work(self, tmp_path, monkeypatch):
    given = members(tmp_path)
    loop.train_and_evaluate(config_of(9), given[2][1])
    monkeypatch.delattr(loop, 'create_run')
    with pytest.raises(ValueError, match='belongs to a run with config.seed'):
      loop.train_members(given)


@pytest.mark.usefixtures('any_rate')
class TestDivergence:
  @pytest.fixture
  def damaged(self, monkeypatch):
    """Seed 1 diverges after its first dispatch, as often as it is restored."""
    restore = Run.begin

    def damage(run):
      restore(run)
      if run.settings.config['seed'] == 1:
        params = jax.tree.map(lambda leaf: leaf, run.state.params)
        params['conv_0']['bias'] *= jnp.nan
        run.state = run.state._replace(params=params)

    monkeypatch.setattr(Run, 'begin', damage)

  def test_the_others_are_as_if_alone(self, tmp_path, damaged):
    given = members(tmp_path)
    first, error, third = loop.train_members(given)
    text = str(error)
    assert text.startswith('loss nan at step 0 (epoch 1);') and '\n' not in text
    assert error.__traceback__ is None  # It would hold the arrays.
    done = [(place / 'report.json').exists() for _, place in given]
    assert done == [True, False, True]
    assert not (given[1][1] / 'checkpoints' / 'latest').exists()
    expected = members(tmp_path / 'alone', (0, 2))
    for (_, place), member, report in zip(
      given[::2], expected, (first, third), strict=True
    ):
      other = loop.train_and_evaluate(*member)
      assert_same_run(place, member[1], (report, other))

  def test_same_command_says_the_same(self, tmp_path, monkeypatch, damaged):
    given = members(tmp_path)
    _, first, _ = loop.train_members(given)
    started = tiny_run.starts(monkeypatch)
    outcomes = loop.train_members(given)
    assert not started
    assert [isinstance(o, NonFiniteError) for o in outcomes] == [0, 1, 0]
    assert str(outcomes[1]) == str(first)

  def test_later_than_the_first_dispatch(self, tmp_path, monkeypatch):
    file = full_batch.FullBatchRun.file

    def damage(run, records, seconds):
      if run.settings.config['seed'] == 1 and run.progress.epoch == 2:
        records = {**records, 'loss': records['loss'] * np.nan}
      file(run, records, seconds)

    monkeypatch.setattr(full_batch.FullBatchRun, 'file', damage)
    found = sizes(monkeypatch)
    given = members(tmp_path)
    _, error, _ = loop.train_members(given)
    assert 'loss nan at step 2' in str(error)
    assert found == [3] * 3
    assert [len(metrics(place)) for _, place in given] == [6, 2, 6]

  def test_all(self, tmp_path, monkeypatch):
    given = members(tmp_path, optim__learning_rate=1e38)
    found = sizes(monkeypatch)
    outcomes = loop.train_members(given)
    assert all(isinstance(o, NonFiniteError) for o in outcomes)
    assert found == [3]

  def test_one_that_is_too_fast(self, tmp_path, monkeypatch):
    given = [
      (config_of(0, optim__learning_rate=rate), tmp_path / str(rate))
      for rate in (0.01, 1e38, 0.02)
    ]
    found = sizes(monkeypatch)
    reports = loop.train_members(given)
    assert isinstance(reports[1], NonFiniteError)
    assert found == [3] * 3
    for (config, place), report in zip(given[::2], reports[::2], strict=True):
      alone = tmp_path / 'alone' / place.name
      other = loop.train_and_evaluate(config, alone)
      assert_same_run(place, alone, (report, other))

  def test_graphs_after_it_are_run(self, tmp_path, monkeypatch):
    tiny_run.feed(monkeypatch)
    given = [
      (tiny_run.config(**GRAPHS, optim__learning_rate=rate), tmp_path / name)
      for name, rate in (('fast', 1e38), ('slow', 0.01))
    ]
    error, report = loop.train_members(given)
    assert isinstance(error, NonFiniteError)
    assert plain(report) == read(tmp_path / 'slow')

  def test_an_interruption_is_not_lost(self, tmp_path, monkeypatch, damaged):
    given = members(tmp_path, (1, 2), train__together=1)
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, 1)
      with pytest.raises(Interrupted):
        loop.train_members(given)
    assert not (given[1][1] / 'checkpoints' / 'latest').exists()

  def test_one_alone_raises(self, tmp_path, damaged):
    with pytest.raises(NonFiniteError, match='^loss nan at step 0'):
      loop.train_and_evaluate(*members(tmp_path, (1,))[0])


def test_two_runs_in_one_folder(tmp_path):
  config, folder = members(tmp_path)[0]
  with pytest.raises(ValueError, match='is the work folder of two runs'):
    loop.train_members([(config, folder), (config_of(1), folder)])
  assert not folder.exists()


def test_data_is_held_once(tmp_path, monkeypatch):
  held, train = [], side_by_side.train

  def look(group, stopped):
    held.extend(id(run.batch) for run in group.members())
    return train(group, stopped)

  monkeypatch.setattr(side_by_side, 'train', look)
  loop.train_members(members(tmp_path))
  assert len(held) == 3 and len(set(held)) == 1


def test_stacked_and_taken_apart():
  trees = [(jnp.arange(3) + i, jax.random.key(i)) for i in range(2)]
  joined = side_by_side._join(trees)
  for i, (numbers, key) in enumerate(trees):
    found = side_by_side._part(joined, i, 2)
    np.testing.assert_array_equal(found[0], numbers)
    assert found[1].dtype == key.dtype and (found[1] == key).all()


RATES = {
  'plain': {},
  'fast prompts': {'optim__prompt_factor': 20.0},
  'decayed': {'optim__prompt_weight_decay': 0.5, 'optim__weight_decay': 0.1},
  'steps': {'train__schedule': 'step', 'train__step_epochs': 2},
  'warm': {
    'train__schedule': 'cosine',
    'train__warmup': 0.5,
    'optim__feature_scale_lr': 0.1,
  },
  'seed': {'seed': 1},
}


def test_rates_and_schedules_share_a_program(tmp_path, monkeypatch):
  full_batch.make_epochs.cache_clear()
  found = sizes(monkeypatch)
  cell = CELLS['a2q_node']
  given = [
    (config_of(**{'seed': 0, 'cell': cell, **changes}), tmp_path / name)
    for name, changes in RATES.items()
  ]
  reports = loop.train_members(given)
  assert found == [len(RATES)] * 3
  assert full_batch.make_epochs.cache_info().misses == 1
  for (config, place), report in zip(given, reports, strict=True):
    alone = tmp_path / 'alone' / place.name
    other = loop.train_and_evaluate(config, alone)
    assert_same_run(place, alone, (report, other))
  losses = {metrics(place)[-1]['valid_loss'] for _, place in given}
  assert len(losses) == len(RATES)
  # One for all of them together, one for each alone.
  assert full_batch.make_epochs.cache_info().misses == 2
