"""Whole runs of a tiny network, stopped, resumed, broken and reloaded."""

import functools
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
import pytest
import tiny_run

import lorap_jax
from lorap_jax.reports import present, tables
from lorap_jax.runs import batched, checkpointing, loop, settings, workdir
from lorap_jax.runs import run as run_lib
from lorap_jax.training import history, steps, tasks

EPOCHS = 3
STEPS = EPOCHS * tiny_run.BATCHES


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  tiny_run.feed(monkeypatch)


@pytest.fixture
def finished(finished_graphs):
  """One uninterrupted run, and the object that ran it."""
  return finished_graphs


def metrics(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def without_times(records):
  return [
    {k: v for k, v in r.items() if not k.endswith('_seconds')} for r in records
  ]


def last_checkpoint(folder, like):
  checkpoints = checkpointing.Checkpoints(folder / 'checkpoints')
  return checkpoints.load('latest', like)


def contents(folder):
  """Path to (time of change, bytes), of every file."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


class TestReport:
  def test_is_what_the_file_holds(self, finished):
    written = json.loads((finished.folder / 'report.json').read_text())
    returned = json.loads(json.dumps(finished.report))
    assert written == returned

  def test_accuracy_follows_the_rule(self, finished):
    accuracy = finished.report['result']
    records = metrics(finished.folder)
    best = max(records, key=lambda r: (r['valid_accuracy'], -r['valid_loss']))
    assert accuracy['epoch'] == best['epoch']
    assert accuracy['test'] == best['test_accuracy']
    assert accuracy['valid'] == best['valid_accuracy']
    assert accuracy['rule'] == 'val_metric'

  def test_best_test_epoch_is_marked_as_optimistic(self, finished):
    marked = finished.report['result']['best_test_epoch']
    tests = [r['test_accuracy'] for r in metrics(finished.folder)]
    assert marked['test'] == max(tests)
    assert marked['epoch'] == tests.index(max(tests)) + 1
    assert 'optimistic' in marked['note']

  def test_costs_are_complete_and_sensible(self, finished):
    cost = finished.report['cost']
    bits = cost['average_bits']
    assert set(bits) == {
      'usage_weighted',
      'usage_weighted_with_raw_features',
      'usage_weighted_with_side_path',
      'usage_weighted_with_messages',
      'unweighted',
      'per_point',
      'published_print_out',
    }
    assert set(bits['per_point']) == {
      'embedding/input',
      'conv_0/aggregate',
      'conv_0/dense_1/input',
      'readout_0/input',
      'readout_1/input',
    }
    for name, value in {**bits, **bits['per_point']}.items():
      if name != 'per_point':
        assert 1 <= value <= 8, name
    assert (
      cost['feature_bytes_per_graph'] < cost['feature_bytes_fp32_per_graph']
    )
    assert cost['weight_bytes'] == cost['weight_bytes_fp32'] / 8  # 4 bits.
    assert cost['table_bytes'] > 0 and cost['message_bytes_per_graph'] > 0
    operations = cost['bit_ops_per_graph']
    assert 0 < operations['products'] < operations['products_fp32']
    assert 0 < operations['neighbor_sums'] < operations['neighbor_sums_fp32']
    assert operations['prompts'] > 0

  def test_parameters(self, finished):
    parameters = finished.report['parameters']
    sizes = [leaf.size for leaf in jax.tree.leaves(finished.run.state.params)]
    assert sum(parameters['by_group'].values()) == sum(sizes)
    # GPF: 3 features. LoRAP of width 4, 3 prompts of rank 2.
    assert parameters['prompt'] == 3 + (2 * 4 + 3 * 2 + 4 * 3 + 3)
    assert parameters['prompt_bytes_fp32'] == 4 * parameters['prompt']
    assert 0 < parameters['prompt_share'] < 1

  def test_what_it_takes_to_repeat_the_run(self, finished):
    result = finished.report
    assert (result['epochs'], result['steps'], result['seed']) == (
      EPOCHS,
      STEPS,
      0,
    )
    assert result['data'] == tiny_run.splits().source
    assert result['config'] == settings.from_config(tiny_run.config()).config
    assert result['versions']['lorap_jax'] == lorap_jax.__version__
    assert result['versions']['jax'] == jax.__version__
    assert '(cpu)' in result['device'] or jax.default_backend() != 'cpu'
    assert all(value > 0 for value in result['seconds'].values())

  def test_plots_are_png_files(self, finished):
    present.present(finished.folder)
    for name in ('learning_curves.png', 'bits_by_degree.png'):
      content = (finished.folder / name).read_bytes()
      assert content.startswith(b'\x89PNG\r\n\x1a\n') and len(content) > 5000

  def test_metrics_have_one_line_per_epoch(self, finished):
    records = metrics(finished.folder)
    assert [r['epoch'] for r in records] == [1, 2, 3]
    assert [r['step'] for r in records] == [3, 6, 9]
    assert records == finished.run.progress.history

  def test_table(self, finished, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    tables.print_table(finished.report, finished.folder, full=True)
    text = capsys.readouterr().out
    assert 'test accuracy' in text
    assert 'best validation accuracy' in text
    assert 'optimistic, as A2Q reports' in text
    assert 'random graphs' in text  # The note on data that is not comparable.


def test_one_compilation_serves_the_run(finished):
  batches = finished.run.loaders['train'].shuffled(0, 0)
  assert [len(batch) for batch in batches] == [16, 16, 8]
  assert finished.compilations == [1, 1]


def test_learns(finished):
  records = metrics(finished.folder)
  assert records[-1]['train_loss'] < records[0]['train_loss']


# Inside an epoch, at its last step, and at the last step of the run.
@pytest.mark.parametrize('step', [5, tiny_run.BATCHES, STEPS])
def test_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, step):
  config = tiny_run.config()
  with monkeypatch.context() as patch:
    tiny_run.interrupt_after(patch, step)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(config, tmp_path)
  assert not (tmp_path / 'report.json').exists()
  assert len(metrics(tmp_path)) == step // tiny_run.BATCHES
  result = loop.train_and_evaluate(config, tmp_path)

  like = finished.run.state
  state, progress = last_checkpoint(tmp_path, like)
  expected, expected_progress = last_checkpoint(finished.folder, like)
  assert int(state.step) == STEPS
  leaves = jax.tree_util.tree_leaves_with_path(_raw_key(state))
  for (path, a), b in zip(
    leaves, jax.tree.leaves(_raw_key(expected)), strict=True
  ):
    np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))
  assert without_times(metrics(tmp_path)) == without_times(
    metrics(finished.folder)
  )
  assert without_times(progress['history']) == without_times(
    expected_progress['history']
  )
  assert result['result'] == finished.report['result']
  assert result['cost'] == finished.report['cost']


def _raw_key(state):
  return state._replace(key=jax.random.key_data(state.key))


def test_interrupted_run_stops_at_the_step(tmp_path, monkeypatch, finished):
  tiny_run.interrupt_after(monkeypatch, 2)
  with pytest.raises(run_lib.Interrupted):
    loop.train_and_evaluate(tiny_run.config(), tmp_path)
  state, progress = last_checkpoint(tmp_path, finished.run.state)
  assert int(state.step) == 2
  assert (progress['epoch'], progress['batch']) == (0, 2)
  assert progress['sums']['count'] == 32


def test_finished_folder_returns_its_report(finished, monkeypatch):
  monkeypatch.delattr(loop, 'Run')
  monkeypatch.delattr(settings.Settings, 'load_data')
  before = contents(finished.folder)
  again = loop.train_and_evaluate(tiny_run.config(), finished.folder)
  assert again == json.loads(json.dumps(finished.report))
  assert contents(finished.folder) == before


def test_folder_of_another_configuration(finished):
  before = contents(finished.folder)
  config = tiny_run.config(optim__learning_rate=0.5, train__warmup=0.5)
  with pytest.raises(
    workdir.WorkdirError, match=r'config\.optim\.learning_rate = 0\.004.* 0\.5'
  ) as caught:
    loop.train_and_evaluate(config, finished.folder)
  assert '--workdir' in str(caught.value) and '\n' not in str(caught.value)
  assert contents(finished.folder) == before


def test_where_the_data_lies_may_change(finished, tmp_path):
  config = tiny_run.config(
    data__dir=str(tmp_path), data__workers=3, data__offline=True
  )
  again = loop.train_and_evaluate(config, finished.folder)
  assert again['result'] == finished.report['result']


def test_mistake_in_the_data_leaves_the_folder_free(tmp_path, monkeypatch):
  def fail(self):
    raise ValueError('limit asks for 256')

  monkeypatch.setattr(settings.Settings, 'load_data', fail)
  for limit in ((1, 1, 1), (9, 9, 9)):
    # The second time as well it is the data, and not whose folder it is.
    with pytest.raises(ValueError, match='^limit asks'):
      loop.train_and_evaluate(tiny_run.config(data__limit=limit), tmp_path)


class TestDivergence:
  def test_names_step_tensor_and_checkpoint(self, tmp_path, monkeypatch):
    config = tiny_run.config()
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after(patch, 4)
      with pytest.raises(run_lib.Interrupted):
        loop.train_and_evaluate(config, tmp_path)
    restore = run_lib.Run.begin

    def damaged(run):
      restore(run)
      params = jax.tree.map(lambda leaf: leaf, run.state.params)
      bias = params['readout_1']['bias']
      params['readout_1']['bias'] = jnp.full_like(bias, jnp.nan)
      run.state = run.state._replace(params=params)

    monkeypatch.setattr(run_lib.Run, 'begin', damaged)
    before = contents(tmp_path / 'checkpoints')
    with pytest.raises(run_lib.NonFiniteError) as caught:
      loop.train_and_evaluate(config, tmp_path)
    text = str(caught.value)
    assert 'loss nan at step 4 (epoch 2)' in text
    assert 'first non-finite gradient: conv_0/' in text
    assert 'last good checkpoint: step 4' in text
    assert str(tmp_path) in text and '\n' not in text
    assert contents(tmp_path / 'checkpoints') == before

  @pytest.mark.usefixtures('any_rate')
  def test_huge_learning_rate(self, tmp_path):
    config = tiny_run.config(
      scheme__name='fp32', prompt__name='none', optim__learning_rate=1e30
    )
    with pytest.raises(run_lib.NonFiniteError) as caught:
      loop.train_and_evaluate(config, tmp_path)
    assert 'last good checkpoint: none' in str(caught.value)
    assert not (tmp_path / 'report.json').exists()


class TestLoadRun:
  def test_reproduces_the_reported_test_results(self, finished):
    loaded = lorap_jax.load_run(finished.folder)
    data = tiny_run.splits().test
    graphs = []
    for i in range(data.num_graphs):
      one = data.take([i])
      graphs.append(
        jraph.GraphsTuple(
          nodes=one.nodes,
          edges=None,
          senders=one.senders.astype(np.int32),
          receivers=one.receivers.astype(np.int32),
          n_node=one.n_node,
          n_edge=one.n_edge,
          globals=None,
        )
      )
    batch = jraph.batch_np(graphs)
    padded = jraph.pad_with_graphs(
      batch, len(batch.nodes) + 3, len(batch.senders) + 2, data.num_graphs + 1
    )
    apply = jax.jit(functools.partial(loaded.model.apply, train=False))
    logits = apply(loaded.variables, padded)[: data.num_graphs]
    accuracy = np.mean(np.argmax(logits, -1) == data.labels)
    assert accuracy == pytest.approx(finished.report['result']['test'])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, data.labels)
    best = history.Selection('val_metric', tasks.Task()).best(
      metrics(finished.folder)
    )
    # Other array shapes, other kernels: not bit for bit.
    assert float(loss.mean()) == pytest.approx(best['test_loss'], rel=1e-5)
    assert loaded.config == finished.report['config'] | {
      'data': loaded.config['data']
    }

  def test_is_the_best_state_and_not_the_last(self, finished):
    loaded = lorap_jax.load_run(finished.folder)
    for a, b in zip(
      jax.tree.leaves(loaded.variables),
      jax.tree.leaves(finished.run.state.variables()),
      strict=True,
    ):
      np.testing.assert_array_equal(a, b)

  def test_run_of_a_gpu_and_of_an_older_version(self, finished, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(finished.folder, folder)
    config = json.loads((folder / 'config.json').read_text())
    config['prompt'] |= {
      'bits': 32,
      'placement': 'pre',
      'implementation': 'pallas',
    }
    del config['train']['aggregation']
    config['train'] |= {'subset_epochs': 60, 'patience': 5}
    config['model'] |= {'heads': 8}
    (folder / 'config.json').write_text(json.dumps(config))
    loaded = lorap_jax.load_run(folder)
    assert loaded.config['prompt']['implementation'] == 'xla'

  def test_folder_without_a_run(self, tmp_path):
    with pytest.raises(ValueError, match='cannot read .*data.json'):
      lorap_jax.load_run(tmp_path)

  def test_run_without_a_checkpoint(self, tmp_path, monkeypatch):
    tiny_run.interrupt_after(monkeypatch, 1)
    with pytest.raises(run_lib.Interrupted):
      loop.train_and_evaluate(tiny_run.config(), tmp_path)
    with pytest.raises(ValueError, match='no best checkpoint in '):
      lorap_jax.load_run(tmp_path)


# The runs above have A2Q with gpf_lorap, placed `pre`.
VARIANTS = {
  'fp32': {'scheme__name': 'fp32', 'prompt__name': 'none'},
  'fp32-gpf_plus_lorap': {
    'scheme__name': 'fp32',
    'prompt__name': 'gpf_plus_lorap',
  },
  'a2q': {'prompt__name': 'none'},
  'a2q-gpf-published': {
    'prompt__name': 'gpf',
    'scheme__published': True,
    'scheme__start': 'uniform',
    'model__normalize_pooled': False,
  },
  'a2q-gpf_plus': {'prompt__name': 'gpf_plus'},
  'a2q-lorap-post': {'prompt__name': 'lorap', 'prompt__placement': 'post'},
  'a2q-integer-bypass': {'prompt__placement': 'bypass', 'prompt__bits': 4},
}


# What no other run has; tests/matrix_test.py trains the parts of the rest.
ALONE = ('a2q-gpf-published',)


@pytest.mark.parametrize(
  'changes',
  [
    pytest.param(
      changes, marks=() if name in ALONE else pytest.mark.slow, id=name
    )
    for name, changes in VARIANTS.items()
  ],
)
def test_every_variant_takes_two_steps(changes):
  with tiny_run.programs(**changes) as (state, batch, train_step, _):
    before = jax.device_get(state.params)
    for _ in range(2):
      state, found = train_step(state, batch, tiny_run.rates())
  assert np.isfinite(found.loss) and found.finite.all()
  assert int(state.step) == 2
  moved = jax.tree.map(lambda a, b: (a != b).any(), before, state.params)
  assert moved['readout_1']['kernel'] and moved['conv_0']['eps']
  prompts = [m for m in (moved, moved['conv_0']) for m in m.items()]
  for name, leaves in prompts:
    if name in ('prompt', 'node_prompt'):
      assert any(jax.tree.leaves(leaves))


@pytest.mark.parametrize('schedule', ['cosine', 'plateau', 'constant'])
def test_schedules_reach_the_steps(tmp_path, monkeypatch, schedule):
  factors, base = [], tiny_run.rates().learning['base']
  make = steps.make_train_step

  def make_recorded(*args):
    train_step = make(*args)

    def call(state, batch, rates):
      factors.append(rates.learning['base'] / base)
      return train_step(state, batch, rates)

    return call

  monkeypatch.setattr(steps, 'make_train_step', make_recorded)
  same = {'loss': 1.0, 'accuracy': 0.5}
  monkeypatch.setattr(batched.BatchedRun, 'evaluate', lambda run, split: same)
  config = tiny_run.config(
    scheme__name='fp32',
    prompt__name='none',
    train__schedule=schedule,
    **{
      'cosine': {'train__warmup': 1 / 3},
      'plateau': {'train__patience': 0},
      'constant': {},
    }[schedule],
  )
  loop.train_and_evaluate(config, tmp_path)
  rise, cosine = np.arange(3) / 3, 0.5 + 0.5 * np.cos(np.pi * np.arange(6) / 6)
  expected = {
    'cosine': [*rise, *cosine],
    # The second epoch brings no better loss than the first.
    'plateau': [1] * 6 + [0.5] * 3,
    'constant': [1] * STEPS,
  }
  np.testing.assert_allclose(factors, expected[schedule], atol=1e-6)


def test_signals_only_set_a_flag():
  before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  with loop._stop_signals() as stopped:
    assert not stopped()
    signal.raise_signal(signal.SIGTERM)
    assert stopped()
    with pytest.raises(KeyboardInterrupt):  # Impatience is respected.
      signal.raise_signal(signal.SIGINT)
  after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  assert after == before
