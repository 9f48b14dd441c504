"""Many cells from one command."""

import textwrap

import pytest
import tiny_run
from run_folder import contents, read

from lorap_jax import sweep
from lorap_jax.runs import loop, protocol, side_by_side

CORA = 'configs/cora.py'


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch):
  tiny_run.feed(monkeypatch, tiny_run.node_data)


@pytest.fixture
def template(tmp_path):
  """A configuration file of tiny runs; the recipe is a cell."""
  path = tmp_path / 'configs' / 'tiny.py'
  path.parent.mkdir()
  path.write_text(
    textwrap.dedent("""
      import tiny_run

      def get_config(cell='gcn,fp32,none'):
        return tiny_run.node_config(cell)
    """)
  )
  return str(path)


def names(template, *fields):
  return [name for name, _ in sweep.expand(template, fields)]


class TestExpand:
  def test_one_run(self):
    ((name, config),) = sweep.expand(f'{CORA}:gcn,qat4,lorap', [])
    assert name == 'cora_gcn_qat4_lorap'
    assert config.scheme.name == 'qat' and config.prompt.name == 'lorap'

  def test_without_a_recipe(self):
    assert names(CORA) == ['cora']

  def test_braces_are_choices_in_their_order(self):
    assert names(f'{CORA}:{{gin,gcn}},qat4,{{none,gpf_lorap}}') == [
      'cora_gin_qat4_none',
      'cora_gin_qat4_gpf_lorap',
      'cora_gcn_qat4_none',
      'cora_gcn_qat4_gpf_lorap',
    ]

  def test_braces_in_the_name_of_the_file(self):
    found = names('configs/{cora,citeseer}.py:gcn,fp32,none')
    assert found == ['cora_gcn_fp32_none', 'citeseer_gcn_fp32_none']

  def test_bars_are_choices_and_name_the_run(self):
    runs = sweep.expand(
      f'{CORA}:gcn,{{qat4,dq4}},lorap',
      ['prompt.placement=pre|bypass', 'optim.prompt_factor=0.1|1', 'seeds=10'],
    )
    runs = dict(runs)
    assert len(runs) == 8
    config = runs['cora_gcn_dq4_lorap_placement=bypass_prompt_factor=0.1']
    assert config.scheme.name == 'dq'
    assert config.prompt.placement == 'bypass'
    assert config.optim.prompt_factor == 0.1
    assert {config.seeds for config in runs.values()} == {10}
    factors = [config.optim.prompt_factor for config in runs.values()]
    assert factors == [0.1, 1.0] * 4

  @pytest.mark.parametrize(
    'field, path, value',
    [
      ('train.epochs=7', 'train.epochs', 7),
      ('optim.learning_rate=1e-3', 'optim.learning_rate', 0.001),
      ('optim.learning_rate=1', 'optim.learning_rate', 1.0),
      ('model.norm=True', 'model.norm', True),
      ('prompt.placement=post', 'prompt.placement', 'post'),
      ('scheme.feature_start=(1.,2.)', 'scheme.feature_start', (1.0, 2.0)),
      ('data.workers=None', 'data.workers', None),
      ('data.dir=a=b', 'data.dir', 'a=b'),
    ],
  )
  def test_values(self, field, path, value):
    ((_, config),) = sweep.expand(CORA, [field, 'scheme.start=normal'])
    group, name = path.split('.')
    assert config[group][name] == value
    assert type(config[group][name]) is type(value)

  def test_runs_do_not_share_their_configuration(self):
    runs = list(sweep.expand(CORA, ['train.epochs=1|2']))
    assert [config.train.epochs for _, config in runs] == [1, 2]
    runs[0][1].train.patience = 99
    assert runs[1][1].train.patience != 99

  def test_choices_without_effect_are_left_out(self):
    found = dict(
      sweep.expand(
        f'{CORA}:gcn,{{fp32,qat4}},{{none,lorap}}',
        ['prompt.placement=pre|post', 'scheme.bits=2|4', 'seeds=3'],
      )
    )
    assert list(found) == [
      'cora_gcn_fp32_none',
      'cora_gcn_fp32_lorap_placement=pre',
      'cora_gcn_fp32_lorap_placement=post',
      'cora_gcn_qat4_none_bits=2',
      'cora_gcn_qat4_none_bits=4',
      'cora_gcn_qat4_lorap_placement=pre_bits=2',
      'cora_gcn_qat4_lorap_placement=pre_bits=4',
      'cora_gcn_qat4_lorap_placement=post_bits=2',
      'cora_gcn_qat4_lorap_placement=post_bits=4',
    ]
    assert {config.seeds for config in found.values()} == {3}
    assert found['cora_gcn_fp32_none'].prompt.placement is None

  def test_names_are_choices_as_well(self):
    found = dict(
      sweep.expand(f'{CORA}:gcn,dq4,lorap', ['scheme.name=dq|qat|fp32'])
    )
    assert [c.scheme.percentile for c in found.values()] == [0.01, 0.01, None]

  def test_names_are_unique(self):
    found = names(
      'configs/{cora,citeseer}.py:{gcn,gin},{qat4,qat8},{none,lorap}',
      'seed=0|1',
      'data.normalize=none|row',
    )
    assert len(found) == len(set(found)) == 64


MISTAKES = {
  'no file': ((f'{CORA}x',), "no configuration file 'configs/cora.pyx'"),
  'no configuration': (('README.md',), "no configuration file 'README.md'"),
  'no get_config': (('configs/cells.py',), 'get_config'),
  'no recipes': (('configs/default.py:gcn',), 'positional argument'),
  'no cell': ((f'{CORA}:gcn,int4,none',), "got 'int4'"),
  'open brace': ((f'{CORA}:gcn,{{qat4,none',), "got '{qat4'"),
  'no equal sign': ((CORA, 'seeds'), "give FIELD=VALUE, got 'seeds'"),
  'no field': ((CORA, '=3'), "give FIELD=VALUE, got '=3'"),
  'unknown field': (
    (CORA, 'optim.learnin_rate=1|2'),
    'config.optim.learnin_rate: no such field',
  ),
  'unknown top field': ((CORA, 'seed_s=1'), 'config.seed_s: no such field'),
  'unknown group': ((CORA, 'optm.x=1'), 'config.optm.x: no such field'),
  'a choice twice': ((CORA, 'seed=4|4'), "folder 'cora_seed=4'; give every"),
  'files of one name': (
    (CORA.replace('configs', '{configs,configs/../configs}'),),
    "two runs would have the folder 'cora'",
  ),
  'field of no run': (
    (f'{CORA}:gcn,{{fp32,a2q}},none', 'scheme.percentile=0.1|0.2'),
    'config.scheme: `percentile` = 0.1 has no effect on this run, it needs',
  ),
  'field that was': (
    (CORA, 'train.subset_epochs=5'),
    'config.train.subset_epochs: no such field any more; a run has one length',
  ),
  'own data without a file': (
    ('configs/custom.py',),
    'give --config.data.path=FILE.npz',
  ),
  'below a field': ((CORA, 'seed.x=1'), 'config.seed.x: no such field'),
  'wrong type': ((CORA, 'train.epochs=many'), 'config.train.epochs: '),
  'a group': ((CORA, 'train=3'), 'config.train: '),
}


@pytest.mark.parametrize('arguments, text', MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_line_before_any_work(tmp_path, capsys, arguments, text):
  folder = tmp_path / 'runs'
  assert sweep.main([str(folder), *arguments]) == 2
  out, err = capsys.readouterr()
  lines = err.splitlines()
  assert len(lines) == 1 and lines[0].startswith('error: ')
  assert text in lines[0] and out == ''
  assert not folder.exists()


class TestMain:
  @pytest.fixture
  def out(self, tmp_path):
    return tmp_path / 'runs'

  def test_runs_end_with_their_table(self, out, template, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    arguments = [str(out), f'{template}:gcn,fp32,none', 'seed=4|5']
    assert sweep.main(arguments) == 0
    folders = [f'tiny_gcn_fp32_none_seed={seed}' for seed in (4, 5)]
    assert sorted(p.name for p in out.iterdir()) == folders
    assert [read(out / name)['seed'] for name in folders] == [4, 5]
    assert 'fp32' in capsys.readouterr().out

    before = contents(out)
    monkeypatch.delattr(loop, 'create_run')
    assert sweep.main(arguments) == 0
    assert contents(out) == before

  def test_mistake_in_one_choice_is_told_before_any_run(
    self, out, template, capsys
  ):
    field = 'optim.weight_decay=0.02|-1.0'
    assert sweep.main([str(out), template, field]) == 2
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err.count('error: ') == 1
    assert '`weight_decay` must be 0 or more, got -1.0' in captured.err
    assert not out.exists()

  def test_reports_do_not_wait_for_all(self, out, template, monkeypatch):
    template = f'{template}:gcn,fp32,lorap'
    fields = ['optim.prompt_factor=0.1|1|10', 'seeds=2', 'train.together=4']
    with monkeypatch.context() as patch:
      # Two of the rates train together, with two seeds each.
      tiny_run.interrupt_after_dispatch(patch, 2)
      assert sweep.main([str(out), template, *fields]) == 130
    done = {path.parent.name for path in out.glob('*/report.json')}
    assert done == {
      'tiny_gcn_fp32_lorap_prompt_factor=0.1',
      'tiny_gcn_fp32_lorap_prompt_factor=1',
    }
    assert sweep.main([str(out), template, *fields]) == 0
    assert len(list(out.glob('*/report.json'))) == 3

  @pytest.mark.usefixtures('any_rate')
  def test_no_table_if_all_fail(self, out, template, capsys):
    assert sweep.main([str(out), template, 'optim.learning_rate=1e38']) == 1
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err.count('error: ') == 1

  def test_interrupted_sweep_goes_on(self, out, template, capsys, monkeypatch):
    arguments = [str(out), template, 'seed=4|5']
    with monkeypatch.context() as patch:
      tiny_run.interrupt_after_dispatch(patch, 1)
      assert sweep.main(arguments) == 130
    captured = capsys.readouterr()
    assert 'Stopped; the same command goes on.' in captured.err
    # Both had begun: they train together.
    for name in ('tiny_seed=4', 'tiny_seed=5'):
      assert (out / name / 'checkpoints' / 'latest').exists()
      assert not (out / name / 'report.json').exists()
    assert sweep.main(arguments) == 0
    assert len(list(out.glob('*/report.json'))) == 2

  def test_second_ctrl_c(self, out, template, monkeypatch):
    def stop(members):
      raise KeyboardInterrupt

    monkeypatch.setattr(protocol, 'run_together', stop)
    assert sweep.main([str(out), template]) == 130

  def test_prompt_rates_of_all_seeds_share_a_program(
    self, out, template, monkeypatch
  ):
    members = []
    train = side_by_side.train
    monkeypatch.setattr(
      side_by_side,
      'train',
      lambda group, stopped: (
        members.append(len(group.places)) or train(group, stopped)
      ),
    )
    cell = f'{template}:gcn,fp32,{{none,lorap}}'
    fields = ['optim.prompt_factor=0.1|1|10', 'seeds=2']
    assert sweep.main([str(out), cell, *fields]) == 0
    assert members == [2, 6]  # None has no rate of prompts.
    tests = [
      read(out / f'tiny_gcn_fp32_lorap_prompt_factor={rate}')['members']
      for rate in ('0.1', '1', '10')
    ]
    assert [[m['seed'] for m in own] for own in tests] == [[0, 1]] * 3

  @pytest.mark.usefixtures('any_rate')
  def test_diverging_run_does_not_stop_the_others(self, out, template, capsys):
    field = 'optim.learning_rate=0.01|1e38|0.02'
    assert sweep.main([str(out), template, field]) == 1
    errors = capsys.readouterr().err.splitlines()
    errors = [e for e in errors if e.startswith('error: ')]
    assert len(errors) == 1
    # The first that is no number may be a loss of training or of evaluation.
    assert errors[0].startswith('error: tiny_learning_rate=1e+38: ')
    assert 'loss' in errors[0] and 'nan' in errors[0]
    done = {path.parent.name for path in out.glob('*/report.json')}
    assert done == {'tiny_learning_rate=0.01', 'tiny_learning_rate=0.02'}
