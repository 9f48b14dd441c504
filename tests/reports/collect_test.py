import json

import pytest
from report_files import config, group, single, write

from lorap_jax.reports import collect
from lorap_jax.reports.collect import Value, read
from lorap_jax.runs.workdir import WorkdirError


class TestRead:
  def test_one_run(self, tmp_path):
    report = single(0.8, bits=1.75, seed=3, data__fold=2)
    run = read(write(tmp_path / 'run', report))
    assert (run.dataset, run.backbone, run.quantizer) == ('cora', 'gcn', 'a2q')
    assert (run.prompt, run.placement) == ('none', '')
    assert (run.test, run.valid) == (Value(0.8), Value(0.8 + 0.01))
    assert (run.best_test, run.bits) == (Value(0.8 + 0.02), Value(1.75))
    assert run.members == {(3, 2): 0.8}
    assert run.settings['optim.learning_rate'] == 0.01
    assert run.comparable and run.note == 'from the public files'

  def test_several_runs(self, tmp_path):
    report = group({(0, 0): 0.7, (1, 0): 0.8, (2, 0): 0.9})
    run = read(write(tmp_path / 'run', report))
    assert run.test.mean == pytest.approx(0.8)
    assert run.test.deviation == pytest.approx(0.1)
    assert run.bits == (1.7, 0.1)
    assert run.members == {(0, 0): 0.7, (1, 0): 0.8, (2, 0): 0.9}

  @pytest.mark.parametrize(
    'scheme, quantizer',
    [
      ({'name': 'qat', 'bits': 8}, 'qat8'),
      ({'name': 'dq', 'bits': 4}, 'dq4'),
      ({'name': 'a2q', 'bits': 4}, 'a2q'),
      ({'name': 'fp32', 'bits': 4}, 'fp32'),
    ],
  )
  def test_quantizer(self, tmp_path, scheme, quantizer):
    run = read(write(tmp_path / 'run', single(scheme=scheme)))
    assert run.quantizer == quantizer

  @pytest.mark.parametrize(
    'data, dataset',
    [
      ({'name': 'tu', 'tu_name': 'IMDB-MULTI', 'fold': 0}, 'imdb_multi'),
      ({'name': 'custom', 'tu_name': None, 'fold': 0}, 'mine'),
      ({'name': 'reddit_binary', 'fold': 0}, 'reddit_binary'),
    ],
  )
  def test_data_set(self, tmp_path, data, dataset):
    source = {'name': 'mine', 'comparable': False, 'note': ''}
    report = single(data=source)
    report['config']['data'] = data
    assert read(write(tmp_path / 'run', report)).dataset == dataset

  @pytest.mark.parametrize(
    'rule, metric, words',
    [
      ('val_metric', 'mae', 'best validation mae'),
      ('val_loss', 'mae', 'lowest validation loss'),
      ('last', 'accuracy', 'last epoch'),
      ('other', 'accuracy', 'other'),
    ],
  )
  def test_rule_in_words(self, tmp_path, rule, metric, words):
    run = read(write(tmp_path / 'run', single(rule=rule, metric=metric)))
    assert run.rule == words

  def test_placement_counts_for_aggregated_prompts_only(self, tmp_path):
    found = [
      read(
        write(
          tmp_path / name,
          single(prompt={'name': name, 'placement': 'post'}),
        )
      ).placement
      for name in ('gpf_plus', 'gpf_lorap')
    ]
    assert found == ['', 'post']

  def test_settings_of_mixq_are_those_given(self, tmp_path):
    given = config(scheme__name='mixq')
    last = single(
      scheme={'name': 'mixq', 'bits': 4, 'assignment': {'conv_0/input': 2}},
      optim={'learning_rate': 0.001, 'weight_decay': 0.0, 'prompt_factor': 1.0},
      train__init_from='/somewhere/pretrain',
    )
    folder = write(tmp_path / 'run', last)
    search = config(scheme__name='mixq_search', train__epochs=50)
    write(folder / 'search', None, search)
    plain = read(write(tmp_path / 'plain', single(scheme__name='mixq')))
    assert read(folder).settings == plain.settings
    assert (
      plain.settings['optim.learning_rate'] == given['optim']['learning_rate']
    )


class TestMistakes:
  def test_unfinished(self, tmp_path):
    folder = write(tmp_path / 'run', None)
    with pytest.raises(WorkdirError, match='run: not finished') as caught:
      read(folder)
    assert '\n' not in str(caught.value)

  @pytest.mark.parametrize('text', ['', '{"result": ', '\x00'])
  def test_damaged(self, tmp_path, text):
    folder = write(tmp_path / 'run', None)
    (folder / 'report.json').write_text(text)
    with pytest.raises(WorkdirError, match='cannot read .*report.json'):
      read(folder)

  @pytest.mark.parametrize(
    'path, value',
    [
      (['result'], None),
      (['result', 'test'], None),
      (['result', 'test'], 'high'),
      (['result', 'rule'], None),
      (['data', 'comparable'], ...),
      (['config', 'prompt'], []),
      (['cost'], ...),
    ],
  )
  def test_other_version(self, tmp_path, path, value):
    report = json.loads(json.dumps(single()))
    place = report
    for name in path[:-1]:
      place = place[name]
    if value is ...:
      del place[path[-1]]
    else:
      place[path[-1]] = value
    folder = write(tmp_path / 'run', None)
    (folder / 'report.json').write_text(json.dumps(report))
    message = 'run.*(not a report|is None)'
    with pytest.raises(WorkdirError, match=message) as caught:
      read(folder)
    assert '\n' not in str(caught.value)


class TestCollect:
  def names(self, *folders):
    runs, warnings = collect.collect(folders)
    return [run.folder.name for run in runs], warnings

  def test_at_any_depth_in_order(self, tmp_path):
    for name in ('b', 'a/deep', 'c/run'):
      write(tmp_path / name, single())
    assert self.names(tmp_path) == (['deep', 'b', 'run'], [])

  def test_parts_of_a_run_are_not_listed(self, tmp_path):
    folder = write(tmp_path / 'run', group({(0, 0): 0.8, (1, 0): 0.9}))
    write(folder / 'seed_0_fold_0', single())
    write(folder / 'seed_0_fold_0' / 'search', single())
    write(folder / 'seed_1_fold_0', single())
    write(folder / 'checkpoints' / '3', single())
    phases = write(tmp_path / 'mixq', single())
    for name in ('search', 'pretrain'):
      write(phases / name, single())
    assert self.names(tmp_path) == (['mixq', 'run'], [])

  def test_a_part_is_listed_if_asked_for(self, tmp_path):
    folder = write(tmp_path / 'run', None)
    write(folder / 'seed_0_fold_0', single())
    names, warnings = self.names(folder / 'seed_0_fold_0')
    assert (names, warnings) == (['seed_0_fold_0'], [])

  def test_a_run_within_the_folder_of_another(self, tmp_path):
    write(tmp_path / 'runs', single())
    write(tmp_path / 'runs' / 'second', single())
    assert self.names(tmp_path) == (['runs', 'second'], [])

  def test_a_folder_given_twice(self, tmp_path):
    folder = write(tmp_path / 'run', single())
    write(tmp_path / 'unfinished', None)
    names, warnings = self.names(folder, tmp_path, tmp_path)
    assert names == ['run'] and len(warnings) == 1

  def test_what_cannot_be_read_is_named(self, tmp_path):
    write(tmp_path / 'a', single())
    write(tmp_path / 'b', None)
    names, warnings = self.names(tmp_path, tmp_path / 'nowhere')
    assert names == ['a'] and len(warnings) == 2
    assert str(tmp_path / 'b') in warnings[0]
    assert str(tmp_path / 'nowhere') in warnings[1]
