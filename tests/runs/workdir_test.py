import json
import os

import pytest

from lorap_jax.runs import workdir
from lorap_jax.runs.fields import FREE
from lorap_jax.runs.workdir import WorkdirError, claim, first_difference

CONFIG = {
  'seed': 0,
  'data': {'dir': None, 'workers': None, 'offline': False, 'limit': (1, 2)},
  'optim': {'learning_rate': 0.1},
}


@pytest.fixture
def used(tmp_path):
  """The folder of a run that has saved something."""
  claim(tmp_path, CONFIG)
  (tmp_path / workdir.CHECKPOINTS).mkdir()
  return tmp_path


def test_new_folder_with_parents(tmp_path):
  folder = tmp_path / 'a' / 'b'
  claim(folder, CONFIG)
  written = json.loads((folder / workdir.CONFIG).read_text())
  assert written == json.loads(json.dumps(CONFIG))
  assert [p.name for p in folder.iterdir()] == [workdir.CONFIG]


def test_same_configuration(used):
  claim(used, CONFIG)  # Tuples read back as lists, which is no difference.


@pytest.mark.parametrize('kept', [workdir.CHECKPOINTS, workdir.REPORT])
def test_another_configuration(tmp_path, kept):
  claim(tmp_path, CONFIG)
  place = tmp_path / kept
  place.write_text('{}') if kept == workdir.REPORT else place.mkdir()
  other = CONFIG | {'optim': {'learning_rate': 0.2}, 'seed': 1}
  with pytest.raises(WorkdirError) as caught:
    claim(tmp_path, other)
  text = str(caught.value)
  assert str(tmp_path) in text and '--workdir' in text and '\n' not in text
  assert 'config.optim.learning_rate = 0.1, this one has 0.2' in text
  assert json.loads((tmp_path / workdir.CONFIG).read_text())['seed'] == 0


def test_folder_of_a_run_that_never_trained(tmp_path):
  claim(tmp_path, CONFIG)
  claim(tmp_path, CONFIG | {'seed': 1})
  assert json.loads((tmp_path / workdir.CONFIG).read_text())['seed'] == 1


class TestEpochsOfTheData:
  """Unset, they are what the data says; the folder has what ran."""

  def config(self, epochs):
    return CONFIG | {'train': {'epochs': epochs}}

  def test_the_same_command_goes_on(self, tmp_path):
    claim(tmp_path, self.config(None))
    workdir.resolve(tmp_path, self.config(60))
    (tmp_path / workdir.CHECKPOINTS).mkdir()
    claim(tmp_path, self.config(None))
    claim(tmp_path, self.config(60))
    assert workdir.read_json(tmp_path / workdir.CONFIG)['train']['epochs'] == 60

  def test_another_length_is_another_run(self, tmp_path):
    claim(tmp_path, self.config(60))
    (tmp_path / workdir.CHECKPOINTS).mkdir()
    with pytest.raises(WorkdirError, match='epochs = 60, this one has 30'):
      claim(tmp_path, self.config(30))


class TestClaimData:
  DATA = {'name': 'mnist', 'sha256': {'a': 'b'}, 'num_classes': 10}

  def test_same_data(self, used):
    for _ in range(2):
      workdir.claim_data(used, self.DATA)

  @pytest.mark.parametrize('name', ['name', 'sha256', 'num_classes'])
  def test_other_data(self, used, name):
    workdir.claim_data(used, self.DATA)
    with pytest.raises(WorkdirError, match='run on mnist.*--workdir') as caught:
      workdir.claim_data(used, self.DATA | {name: 'other'})
    assert '\n' not in str(caught.value)
    assert workdir.read_json(used / workdir.DATA) == self.DATA

  def test_is_forgotten_with_a_run_that_never_trained(self, tmp_path):
    claim(tmp_path, CONFIG)
    workdir.claim_data(tmp_path, self.DATA)
    claim(tmp_path, CONFIG)
    workdir.claim_data(tmp_path, self.DATA | {'name': 'other'})


@pytest.mark.parametrize('below', ['', 'deeper'])
def test_file_in_place_of_the_folder(tmp_path, below):
  file = tmp_path / 'file'
  file.write_text('mine')
  with pytest.raises(WorkdirError, match='cannot create the work folder .*--w'):
    claim(file / below if below else file, CONFIG)
  assert file.read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_folder_that_is_not_writable(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(WorkdirError, match='is not writable; choose another'):
    claim(tmp_path, CONFIG)
  tmp_path.chmod(0o700)


def test_access_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(WorkdirError, match='is not writable; choose another'):
    claim(tmp_path, CONFIG)


def test_checkpoints_of_unknown_origin(tmp_path):
  (tmp_path / workdir.CHECKPOINTS).mkdir()
  with pytest.raises(WorkdirError, match='but no config.json'):
    claim(tmp_path, CONFIG)


@pytest.mark.parametrize('content', ['', '{"seed": ', None])
def test_damaged_file(tmp_path, content):
  path = tmp_path / 'report.json'
  if content is not None:
    path.write_text(content)
  with pytest.raises(WorkdirError, match='cannot read .*report.json'):
    workdir.read_json(path)


class TestFirstDifference:
  @pytest.mark.parametrize('path', FREE)
  def test_free_settings(self, path):
    group, _, name = path.partition('.')
    other = CONFIG | {group: CONFIG.get(group, {}) | {name: 'other'}}
    assert (
      first_difference(CONFIG | {group: CONFIG.get(group, {})}, other) is None
    )

  def test_only_in_their_place(self):
    assert first_difference({'dir': 1}, {'dir': 2}) == ('dir', 1, 2)

  def test_missing_on_either_side(self):
    missing = '(not set)'
    assert first_difference({'a': 1}, {}) == ('a', 1, missing)
    assert first_difference({}, {'a': {'b': 1}}) == ('a', missing, {'b': 1})

  def test_first_in_the_order_of_names(self):
    old, new = {'a': {'z': 1}, 'b': 1}, {'a': {'z': 2}, 'b': 2}
    assert first_difference(old, new) == ('a.z', 1, 2)


def test_json_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'report.json'
  workdir.write_json(path, {'a': 1})
  with pytest.raises(TypeError):
    workdir.write_json(path, {'a': object()})
  assert workdir.read_json(path) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['report.json']


GARBAGE = [b'', b'{', b'[]', b'5', b'null', b'\xff\xfe\x00', b'[' * 100_000]


class TestDamage:
  @pytest.mark.parametrize('content', GARBAGE, ids=range(len(GARBAGE)))
  @pytest.mark.parametrize(
    'name', [workdir.CONFIG, workdir.DATA, workdir.REPORT]
  )
  def test_files_of_objects(self, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkdirError, match=f'cannot read .*{name}: .*; rest'):
      workdir.read_json(tmp_path / name)

  @pytest.mark.parametrize(
    'name, value, what',
    [
      (workdir.CONFIG, {'data': 'cora'}, "'data' is 'cora'"),
      (workdir.DATA, {'num_classes': '7'}, "'num_classes' is '7'"),
      (workdir.REPORT, {'result': [1]}, "'result' is"),
    ],
  )
  def test_parts(self, tmp_path, name, value, what):
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(WorkdirError, match=what):
      workdir.read_json(tmp_path / name)
    (tmp_path / name).write_text('{}')
    assert workdir.read_json(tmp_path / name) == {}
    with pytest.raises(WorkdirError, match='is missing; restore it'):
      workdir.read_json(tmp_path / name, whole=True)

  @pytest.mark.parametrize('content', [b'{"a": 1}\n', *GARBAGE[1:]])
  def test_metrics(self, tmp_path, content):
    (tmp_path / workdir.METRICS).write_bytes(content)
    with pytest.raises(WorkdirError, match='metrics.jsonl: .*; restore it'):
      workdir.read_records(tmp_path)

  @pytest.mark.parametrize(
    'name', [workdir.CONFIG, workdir.REPORT, workdir.METRICS, workdir.DATA]
  )
  def test_a_folder_where_a_file_should_be(self, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(WorkdirError, match=f'{name} is no file; move it'):
      claim(tmp_path, CONFIG)

  def test_a_file_where_a_folder_should_be(self, tmp_path):
    (tmp_path / workdir.CHECKPOINTS).write_text('')
    with pytest.raises(WorkdirError, match='checkpoints is no folder; move'):
      claim(tmp_path, CONFIG)
