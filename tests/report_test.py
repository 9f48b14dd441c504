"""The command line that collects runs."""

import csv
import json

import pytest
from report_files import group, single, write

from lorap_jax import report

SUBSET = {'name': 'cora-part', 'comparable': False, 'note': 'a | part'}
PNG = b'\x89PNG\r\n\x1a\n'


@pytest.fixture
def runs(tmp_path):
  """A prompt beside none on Cora, ZINC, a subset, and an unfinished run."""
  folder = tmp_path / 'runs'
  write(folder / 'none', group({(0, 0): 0.70, (1, 0): 0.80}, bits=1.65))
  write(
    folder / 'lorap',
    group(
      {(0, 0): 0.72, (1, 0): 0.81},
      prompt__name='lorap',
      prompt__placement='post',
      prompt__rank=2,
    ),
  )
  write(
    folder / 'zinc',
    single(0.45678, metric='mae', rule='val_loss', data__name='zinc'),
  )
  write(folder / 'subset', single(0.5, data=SUBSET, model__name='gat'))
  write(folder / 'unfinished', None)
  return folder


def records(runs, tmp_path):
  path = tmp_path / 'out' / 'table.csv'
  assert report.main([str(runs), '--csv', str(path)]) == 0
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def left_in(folder):
  return sorted(path.name for path in folder.iterdir())


def test_full_table_of_every_run(tmp_path, capsys):
  cost = {
    'average_bits': dict.fromkeys(
      (
        'usage_weighted',
        'usage_weighted_with_raw_features',
        'usage_weighted_with_side_path',
        'usage_weighted_with_messages',
        'unweighted',
        'published_print_out',
      ),
      1.875,
    ),
    **dict.fromkeys(
      (
        'feature_bytes_per_graph',
        'feature_bytes_fp32_per_graph',
        'feature_metadata_bytes_per_graph',
        'side_path_bytes_per_graph',
        'weight_bytes',
        'weight_bytes_fp32',
        'weight_metadata_bytes',
        'table_bytes',
      ),
      1024.0,
    ),
    'bit_ops_per_graph': dict.fromkeys(
      ('products', 'products_fp32', 'prompts', 'neighbor_sums'), 1e6
    ),
  }
  one = single() | {
    'cost': cost,
    'parameters': {'prompt': 5, 'prompt_share': 0.5},
    'seconds': {'total': 60, 'train_per_epoch': 1},
    'device': 'abacus',
  }
  one['data'] = one['data'] | {'origin': 'here'}
  write(tmp_path / 'run', one)
  assert report.main([str(tmp_path)]) == 0
  assert 'abacus' not in capsys.readouterr().out
  assert report.main([str(tmp_path), '--full']) == 0
  text = capsys.readouterr().out
  assert 'abacus' in text and '1.875' in text


class TestTerminal:
  @pytest.fixture
  def printed(self, runs, capsys):
    assert report.main([str(runs)]) == 0
    return capsys.readouterr()

  @pytest.mark.parametrize(
    'text',
    [
      '75.00 +- 7.07 %',
      'n = 2',
      'best validation accuracy',
      '76.00 +- 7.07 %',  # Validation.
      '77.00 +- 7.07 %',  # Best test epoch.
      '1.65',
      'lorap (post)',
      '+1.50 +- 0.50, n = 2',
      '80.9 +- 0.6 % @ 1.7 bits',
      '79.1 %',
      'best test epoch',
      'A2Q, 2023, arXiv 2302.00193',
      'RECALLED',
      'MAE 0.4568',
      'MAE 0.492 +- 0.056 @ 3.68 bits',
      'lowest validation loss',
      'cora*',
      '* cora-part: not comparable with published figures; a | part',
      'optimistic',
    ],
  )
  def test_shows(self, printed, text):
    assert text in printed.out

  def test_names_what_has_not_finished(self, printed, runs):
    (line,) = printed.err.splitlines()
    assert line.startswith('warning:') and str(runs / 'unfinished') in line

  def test_differences_and_reasons(self, tmp_path, capsys):
    for epochs in (200, 100):
      write(tmp_path / 'runs' / f'{epochs}', single(train__epochs=epochs))
    write(
      tmp_path / 'runs' / 'gpf',
      single(prompt__name='gpf', scheme__name='fp32'),
    )
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'differs: train.epochs' in out
    assert 'no run without prompts' in out

  def test_certainty_is_explained_where_it_occurs(self, tmp_path, capsys):
    write(tmp_path / 'run', single(scheme__name='mixq'))
    assert report.main([str(tmp_path)]) == 0
    assert 'RECALLED' not in capsys.readouterr().out

  def test_brackets_are_no_markup(self, tmp_path, capsys):
    data = SUBSET | {'note': 'see [1] and [bold]'}
    write(tmp_path / 'run', single(data=data))
    assert report.main([str(tmp_path)]) == 0
    assert 'see [1] and [bold]' in capsys.readouterr().out


class TestCsv:
  def test_numbers_come_back(self, runs, tmp_path):
    rows = records(runs, tmp_path)
    cells = [(r['dataset'], r['backbone'], r['prompt']) for r in rows]
    assert cells == [
      ('cora', 'gcn', 'none'),
      ('cora', 'gcn', 'lorap'),
      ('cora', 'gat', 'none'),
      ('zinc', 'gcn', 'none'),
    ]
    source = json.loads((runs / 'none' / 'report.json').read_text())['result']
    for name in ('test', 'valid', 'best_test', 'bits'):
      assert float(rows[0][name]) == source[name]
      assert float(rows[0][f'{name}_std']) == source[f'{name}_std']
    assert (rows[0]['count'], rows[0]['metric']) == ('2', 'accuracy')
    assert rows[0]['folder'] == str(runs / 'none')

  def test_gain(self, runs, tmp_path):
    none, lorap, *_ = records(runs, tmp_path)
    assert float(lorap['gain']) == pytest.approx(0.015)
    assert float(lorap['gain_error']) == pytest.approx(0.005)
    assert (lorap['gain_count'], lorap['gain_paired']) == ('2', 'True')
    assert (none['gain'], none['gain_paired']) == ('', '')

  def test_published(self, runs, tmp_path):
    none, _, subset, zinc = records(runs, tmp_path)
    names = ('published', 'published_std', 'published_bits')
    assert [none[name] for name in names] == ['0.809', '0.006', '1.7']
    assert none['published_rule'] == 'best test epoch'
    assert none['published_source'].startswith('A2Q, 2023')
    assert zinc['published'] == '0.492'
    assert subset['published'] == '' and subset['comparable'] == 'False'

  def test_several_published_figures(self, tmp_path):
    write(tmp_path / 'run', single(scheme__name='mixq'))
    (row,) = records(tmp_path / 'run', tmp_path)
    assert row['published'] == '0.8158; 0.7772; 0.6868'
    assert row['published_bits'] == '7.69; 5.82; 3.84'


class TestMarkdown:
  def table(self, folder, tmp_path):
    path = tmp_path / 'table.md'
    assert report.main([str(folder), '--markdown', str(path)]) == 0
    text = path.read_text()
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    cells = [line[2:-2].split(' | ') for line in lines]
    assert {len(line) for line in cells} == {16}
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]], text

  def test_columns(self, runs, tmp_path):
    rows, text = self.table(runs, tmp_path)
    lorap = rows[1]
    assert (lorap['prompt'], lorap['runs']) == ('lorap (post)', '2')
    assert lorap['test'] == '76.50 +- 6.36 %'
    assert lorap['gain over none'] == '+1.50 +- 0.50, n = 2'
    assert lorap['published'] == '79.1 %'
    assert lorap['rule of published'] == 'not stated'
    assert 'arXiv 2601.15079' in lorap['source of published']
    assert rows[2]['data set'] == r'cora\*'
    assert r'a \| part' in text

  def test_several_published_figures_are_lines_of_a_cell(self, tmp_path):
    write(tmp_path / 'run', single(scheme__name='mixq'))
    ((row,), _) = self.table(tmp_path / 'run', tmp_path)
    for name in ('published', 'rule of published', 'source of published'):
      assert row[name].count('<br>') == 2
    assert row['published'].startswith('81.58 +- 0.75 % @ 7.69 bits<br>77.72')


class TestPlots:
  def test_are_png(self, runs, tmp_path):
    folder = tmp_path / 'new' / 'plots'
    assert report.main([str(runs), '--plots', str(folder)]) == 0
    assert left_in(folder) == ['gains.png', 'quality_against_bits.png']
    assert all(p.read_bytes().startswith(PNG) for p in folder.iterdir())

  def test_without_any_gain(self, tmp_path):
    write(tmp_path / 'run', single())
    folder = tmp_path / 'plots'
    assert report.main([str(tmp_path), '--plots', str(folder)]) == 0
    assert (folder / 'gains.png').read_bytes().startswith(PNG)


class TestMistakes:
  @pytest.mark.parametrize('kind', ['missing', 'empty', 'unfinished'])
  def test_nothing_to_read(self, tmp_path, capsys, kind):
    folder, file = tmp_path / 'runs', tmp_path / 'table.csv'
    if kind == 'empty':
      folder.mkdir()
    if kind == 'unfinished':
      write(folder, None)
    assert report.main([str(folder), '--csv', str(file)]) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[-1].startswith('error:') and str(folder) in lines[-1]
    assert sum(line.startswith('error:') for line in lines) == 1
    assert printed.out == '' and not file.exists()

  @pytest.mark.parametrize('option', ['--csv', '--markdown', '--plots'])
  def test_output_in_the_way(self, runs, tmp_path, capsys, option):
    place = tmp_path / 'place'
    place.write_text('mine') if option == '--plots' else place.mkdir()
    assert report.main([str(runs), option, str(place)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f'error: cannot write {place}: ')
    assert left_in(tmp_path) == ['place', 'runs']

  @pytest.mark.parametrize('arguments', [[], ['runs', '--cvs', 'x']])
  def test_usage(self, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
      report.main(arguments)
    assert caught.value.code == 2
    assert 'error:' in capsys.readouterr().err
