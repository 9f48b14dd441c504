"""Seeds that train side by side, each as if it were alone."""

import types

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, read, without_times

from lorap_jax.training import (
  checkpointing,
  full_batch,
  loop,
  many_seeds,
  settings,
)
from lorap_jax.training.run import Interrupted, NonFiniteError, Run

SEEDS = (0, 1, 2)
CELLS = {'fp32': 'gcn,fp32,none', 'a2q_node': 'gcn,a2q,gpf_lorap'}


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  """Feeds the node task, two epochs per dispatch."""
  tiny_run.feed_short_node_runs(monkeypatch)


def config_of(seed, cell='gcn,fp32,none', **changes):
  return tiny_run.node_config(
    cell, seed=seed, model__num_layers=2, model__dropout=0.5, **changes
  )


def members(folder, seeds=SEEDS, **changes):
  """Configuration and folder of each seed."""
  return [(config_of(s, **changes), folder / f'seed_{s}_fold_0') for s in seeds]


def saved(folder, kind):
  """The arrays of a checkpoint and its progress."""
  checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
  state = checkpoints.load_arrays(kind)
  checkpoints.close()
  return {name: state[name] for name in ('step', 'params', 'quant_stats')}


def assert_same_run(found, expected, reports):
  """Two folders hold the same run, up to rounding."""
  names = {p.name for p in found.iterdir()} ^ {
    p.name for p in expected.iterdir()
  }
  assert not names
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


@pytest.fixture(scope='module', params=CELLS.values(), ids=CELLS)
def trained(request, tmp_path_factory):
  """Folder, cell, and reports of seeds alone and together."""
  folder = tmp_path_factory.mktemp('seeds')
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed_short_node_runs(monkeypatch)
    alone = [
      loop.train_and_evaluate(*member)
      for member in members(folder / 'alone', cell=request.param)
    ]
    full_batch.make_epochs.cache_clear()
    make = full_batch.make_epochs

    def only_joint(*recipe, joint):
      assert joint
      return make(*recipe, joint=True)

    monkeypatch.setattr(full_batch, 'make_epochs', only_joint)
    together = members(folder / 'together', cell=request.param)
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
  monkeypatch.setattr(many_seeds, 'time', clock)
  loop.train_members(members(tmp_path))
  for _, folder in members(tmp_path):
    # 12 seconds of two epochs of three seeds.
    assert {r['train_seconds'] for r in metrics(folder)} == {2.0}
    assert read(folder)['seconds']['total'] == 12.0


def test_one_compilation(tmp_path):
  full_batch.make_epochs.cache_clear()
  for seeds in ((0, 1), (2, 3)):
    loop.train_members(members(tmp_path, seeds))
  chosen = settings.from_config(config_of(0))
  run = full_batch.FullBatchRun(chosen, tiny_run.node_data(), tmp_path / 'run')
  assert run.program(2)._cache_size() == 1
  run.close()


class TestGroups:
  def groups(self, folder, positions):
    """Seeds of each program that is run, with members at these epochs."""
    data, runs = tiny_run.node_data(), []
    for (config, place), epoch in zip(
      members(folder, range(len(positions))), positions, strict=True
    ):
      chosen = settings.from_config(config)
      runs.append(full_batch.FullBatchRun(chosen, data, place))
      runs[-1].progress.epoch = epoch
      runs[-1].close()
    return [
      [run.settings.config['seed'] for run in group]
      for group in many_seeds.groups(runs)
    ]

  def test_the_furthest_are_the_first(self, tmp_path):
    assert self.groups(tmp_path, (2, 0, 4, 2, 0)) == [[2], [0, 3], [1, 4]]

  def test_all_at_one_place(self, tmp_path):
    assert self.groups(tmp_path, (0, 0)) == [[0, 1]]


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
  monkeypatch.delattr(many_seeds, 'train')
  started = tiny_run.starts(monkeypatch)
  changes = {'scheme__name': 'fp32', 'train__subset_epochs': 1}
  loop.train_members(
    [(tiny_run.config(seed=s, **changes), tmp_path / str(s)) for s in (0, 1)]
  )
  assert list(started) == ['0', '1']


class TestGoingOn:
  @pytest.mark.parametrize('dispatch', [1, 3])
  def test_after_an_interruption(
    self, trained, tmp_path, monkeypatch, dispatch
  ):
    folder, cell, alone, _ = trained
    given = members(tmp_path, cell=cell)
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
    assert found == [1] * (1 + 2 + 3)
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


class TestDivergence:
  @pytest.fixture
  def damaged(self, monkeypatch):
    """Seed 1 diverges after its first dispatch, as often as it is restored."""
    restore = Run.restore

    def damage(run):
      restore(run)
      if run.settings.config['seed'] == 1:
        params = jax.tree.map(lambda leaf: leaf, run.state.params)
        params['conv_0']['bias'] *= jnp.nan
        run.state = run.state._replace(params=params)

    monkeypatch.setattr(Run, 'restore', damage)

  def test_names_the_seed_and_saves_the_others(self, tmp_path, damaged):
    given = members(tmp_path)
    with pytest.raises(NonFiniteError) as caught:
      loop.train_members(given)
    text = str(caught.value)
    assert text.startswith('seed 1: loss nan at step 0 (epoch 1);')
    assert '2 of the 3 seeds are saved' in text and '\n' not in text
    for i in (0, 2):
      assert int(saved(given[i][1], 'latest')['step']) == 2
      assert len(metrics(given[i][1])) == 2
    assert not (given[1][1] / 'checkpoints' / 'latest').exists()

  def test_others_are_finished_by_the_same_command(self, tmp_path, damaged):
    given = members(tmp_path)
    for _ in range(2):
      with pytest.raises(NonFiniteError):
        loop.train_members(given)
    done = [(place / 'report.json').exists() for _, place in given]
    assert done == [True, False, True]
    expected = members(tmp_path / 'alone', (0, 2))
    for (_, place), member in zip(given[::2], expected, strict=True):
      report = loop.train_and_evaluate(*member)
      assert_same_run(place, member[1], (read(place), report))

  def test_one_alone_has_the_plain_message(self, tmp_path, damaged):
    with pytest.raises(NonFiniteError, match='^loss nan at step 0'):
      loop.train_members(members(tmp_path, (1,)))


def test_data_is_held_once(tmp_path, monkeypatch):
  held, train = [], many_seeds.train

  def look(runs, stopped):
    held.extend(id(run.batch) for run in runs)
    train(runs, stopped)

  monkeypatch.setattr(many_seeds, 'train', look)
  loop.train_members(members(tmp_path))
  assert len(held) == 3 and len(set(held)) == 1


def test_stacked_and_taken_apart():
  trees = [(jnp.arange(3) + i, jax.random.key(i)) for i in range(2)]
  joined = many_seeds._join(trees)
  for i, (numbers, key) in enumerate(trees):
    found = many_seeds._part(joined, i, 2)
    np.testing.assert_array_equal(found[0], numbers)
    assert found[1].dtype == key.dtype and (found[1] == key).all()
