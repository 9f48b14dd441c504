"""The phases of MixQ, each in a folder of its own."""

import helpers
import numpy as np
import pytest
import tiny_run
from run_folder import contents, plain, read

from lorap_jax.runs import fields, full_batch, protocol, restore, workdir
from lorap_jax.runs.run import Interrupted, NonFiniteError


@pytest.fixture(autouse=True)
def short_dispatches(monkeypatch):
  """Feeds the node task, two epochs per dispatch."""
  tiny_run.feed_short_node_runs(monkeypatch)


# Phases of two, four and six epochs.
MIXQ = {
  'scheme__points': ('features', 'weight'),
  'scheme__candidates': (2, 8),
  'train__search_epochs': 2,
  'train__pretrain_epochs': 4,
  'train__finetune_lr': 0.002,
}


def mixq_config(**changes):
  return tiny_run.node_config('gcn,mixq,none', **MIXQ | changes)


@pytest.fixture(scope='module')
def phases(tmp_path_factory):
  """Folder, report and starting parameters of a run in three phases."""
  folder = tmp_path_factory.mktemp('mixq') / 'last'
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed_short_node_runs(monkeypatch)
    starts = tiny_run.starts(monkeypatch)
    return folder, protocol.run(mixq_config(), folder), starts


def test_phases_have_their_folders_schemes_and_lengths(phases):
  folder, report, starts = phases
  assert list(starts) == ['search', 'pretrain', 'last']
  for name, scheme, epochs in (
    ('search', 'mixq_search', 2),
    ('pretrain', 'fp32', 4),
    ('.', 'mixq', 6),
  ):
    found = read(folder / name)
    assert found['config']['scheme']['name'] == scheme
    assert found['epochs'] == epochs
  assert read(folder) == plain(report)
  assert report['cost']['average_bits']['usage_weighted'] < 32


def test_last_phase_has_the_assignment_found(phases):
  folder, report, _ = phases
  found = read(folder / 'search')['assignment']
  assert set(found) == {'features', 'conv_0/dense/weight'}
  best = restore.weights_of(folder / 'search')['params']
  chosen = lambda leaf: (2, 8)[int(np.argmax(leaf))]
  assert found == {
    'features': chosen(best['features']['logits']),
    'conv_0/dense/weight': chosen(best['conv_0']['dense']['weight']['logits']),
  }
  assert report['config']['scheme']['assignment'] == found
  per_point = report['cost']['average_bits']['per_point']
  assert per_point == {'features': found['features']}
  cost = report['cost']
  bits = 8 * cost['weight_bytes'] / (cost['weight_bytes_fp32'] / 4)
  assert bits == found['conv_0/dense/weight']
  assert 'assignment' not in report
  given = report['given']  # What is the search's, and what it was asked for.
  assert given['scheme']['candidates'] == (2, 8)
  assert given['scheme']['assignment'] is None
  assert given['train']['search_epochs'] == 2
  assert (
    not {'search_epochs', 'pretrain_epochs'} & report['config']['train'].keys()
  )


def test_last_phase_starts_from_the_pretrained_weights(phases):
  folder, _, starts = phases
  best = restore.weights_of(folder / 'pretrain')['params']
  found = starts['last']['conv_0']
  np.testing.assert_array_equal(
    found['dense']['kernel'], best['conv_0']['dense']['kernel']
  )
  np.testing.assert_array_equal(found['bias'], best['conv_0']['bias'])
  assert found['bias'].any()  # 0 in a fresh network.


def test_its_quantizers_start_from_these_weights(phases):
  folder, report, starts = phases
  dense = starts['last']['conv_0']['dense']
  bits = report['config']['scheme']['assignment']['conv_0/dense/weight']
  high = np.maximum(dense['kernel'].max(1), 0)  # Of each input feature.
  low = np.minimum(dense['kernel'].min(1), 0)
  found = dense['weight']['range_scale'][0]
  np.testing.assert_allclose(found, (high - low) / (2**bits - 1), rtol=1e-5)


def test_fine_tuning_has_its_own_optimizer(phases):
  config = phases[1]['config']
  assert config['optim']['learning_rate'] == 0.002
  assert config['optim']['weight_decay'] == 0
  assert config['train']['init_from'] == 'pretrain'
  for name in ('search', 'pretrain'):
    given = read(phases[0] / name, 'config.json')
    assert given['optim']['learning_rate'] == 0.01
    assert given['optim']['weight_decay'] == 2e-4
    assert given['train']['init_from'] is None


def test_without_pretraining_from_scratch(tmp_path, monkeypatch):
  starts = tiny_run.starts(monkeypatch)
  config = mixq_config(train__pretrain_epochs=0, train__finetune_lr=None)
  report = protocol.run(config, tmp_path / 'last')
  assert list(starts) == ['search', 'last']
  kernel = lambda name: starts[name]['conv_0']['dense']['kernel']
  np.testing.assert_array_equal(kernel('last'), kernel('search'))
  assert not starts['last']['conv_0']['bias'].any()
  config = report['config']
  assert config['optim']['learning_rate'] == 0.01
  assert config['optim']['weight_decay'] == 2e-4
  assert config['train']['init_from'] is None


def test_assignment_given_needs_no_search(tmp_path, monkeypatch, phases):
  config = mixq_config()
  config.scheme.assignment = phases[1]['config']['scheme']['assignment']
  fields.drop_unused(config)  # What is the search's.
  starts = tiny_run.starts(monkeypatch)
  report = protocol.run(config, tmp_path / 'last')
  assert list(starts) == ['last']
  for name in ('average_bits', 'weight_bytes'):
    assert report['cost'][name] == phases[1]['cost'][name]


# Dispatches of two epochs: inside the pretraining, inside the last phase.
@pytest.mark.parametrize(
  'dispatch, again', [(2, ['pretrain', 'last']), (4, ['last'])]
)
def test_resumed_inside_a_phase(tmp_path, monkeypatch, phases, dispatch, again):
  folder = tmp_path / 'last'
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after_dispatch(patch, dispatch)
    with pytest.raises(Interrupted):
      protocol.run(mixq_config(), folder)
  assert not (folder / 'report.json').exists()
  starts = tiny_run.starts(monkeypatch)
  report = protocol.run(mixq_config(), folder)
  assert list(starts) == again
  for part in ('result', 'cost', 'steps'):
    assert report[part] == phases[1][part]
  found, expected = map(restore.weights_of, (folder, phases[0]))
  helpers.assert_trees_close(found, expected)


def test_folder_of_another_run_is_refused_before_the_search(tmp_path):
  protocol.run(tiny_run.node_config(), tmp_path)
  before = contents(tmp_path)
  with pytest.raises(workdir.WorkdirError, match='belongs to a run with'):
    protocol.run(mixq_config(), tmp_path)
  assert contents(tmp_path) == before


def test_moved_folder_goes_on(tmp_path, monkeypatch, phases):
  first, second = tmp_path / 'first', tmp_path / 'second'
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after_dispatch(patch, 4)  # In the last phase.
    with pytest.raises(Interrupted):
      protocol.run(mixq_config(), first)
  first.rename(second)
  report = protocol.run(mixq_config(), second)
  assert report['result'] == phases[1]['result']


@pytest.mark.parametrize('relative', [False, True])
def test_start_from_another_run(tmp_path, monkeypatch, phases, relative):
  origin = phases[0] / 'pretrain'
  monkeypatch.chdir(phases[0].parent)
  if relative:
    origin = origin.relative_to(phases[0].parent)
  starts = tiny_run.starts(monkeypatch)
  config = tiny_run.node_config(train__epochs=1, train__init_from=str(origin))
  config.model.features = mixq_config().model.features
  protocol.run(config, tmp_path / 'run')
  best = restore.weights_of(phases[0] / 'pretrain')['params']
  np.testing.assert_array_equal(
    starts['run']['conv_0']['bias'], best['conv_0']['bias']
  )


def test_phases_of_several_seeds(tmp_path, monkeypatch):
  alone = protocol.run(mixq_config(seed=1), tmp_path / 'alone')
  report = protocol.run(mixq_config(seeds=2), tmp_path / 'group')
  member = read(tmp_path / 'group' / 'seed_1_fold_0')
  given = member['config']['scheme']['assignment']
  assert given == alone['config']['scheme']['assignment']
  assert member['result']['test'] == pytest.approx(alone['result']['test'])
  assert report['result']['count'] == 2


@pytest.mark.parametrize('phase', ['search', 'pretrain', 'seed_1_fold_0'])
def test_seeds_beside_one_that_diverges(tmp_path, monkeypatch, phase):
  file = full_batch.FullBatchRun.file

  def damage(run, records, seconds):
    if run.settings.config['seed'] == 1 and run.folder.name == phase:
      records = {**records, 'loss': records['loss'] * np.nan}
    file(run, records, seconds)

  monkeypatch.setattr(full_batch.FullBatchRun, 'file', damage)
  with pytest.raises(
    NonFiniteError, match='^1 of 2 runs diverged, .*; seed 1, fold 0: loss nan'
  ) as caught:
    protocol.run(mixq_config(seeds=2), tmp_path)
  assert f'/{phase}/checkpoints' in str(caught.value)
  assert read(tmp_path / 'seed_0_fold_0')['epochs'] == 6
  assert not (tmp_path / 'seed_1_fold_0' / 'report.json').exists()
