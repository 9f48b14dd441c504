"""Tests of the choice between the user's folder and a download."""

import pathlib

import pytest

from lorap_jax.data.files import sources
from lorap_jax.data.files.store import DataError


@pytest.mark.parametrize(
  ('source', 'given', 'chosen'),
  [
    ('auto', True, True),
    ('auto', False, False),
    ('data_dir', True, True),
    ('download', True, False),
    ('download', False, False),
  ],
)
def test_choose_folder(tmp_path, source, given, chosen):
  folder = sources.choose_folder(source, tmp_path if given else None)
  assert folder == (tmp_path if chosen else None)


def test_the_home_folder_is_known(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert sources.choose_folder('auto', '~') == tmp_path


def test_bad_choices(tmp_path):
  with pytest.raises(ValueError, match="source is 'embedded'; choose one of"):
    sources.choose_folder('embedded', None)
  with pytest.raises(ValueError, match='data_dir is None'):
    sources.choose_folder('data_dir', None)
  with pytest.raises(DataError, match=f'{tmp_path}/nowhere: no such folder'):
    sources.choose_folder('auto', tmp_path / 'nowhere')


def test_first_file_goes_by_place_and_then_by_name(tmp_path):
  for name in ('b/x', 'b/y', 'a/y'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  find = lambda *places: sources.first_file(tmp_path, places, ['x', 'y'])
  assert find('a', 'b') == tmp_path / 'a/y'
  assert find('b', 'a') == tmp_path / 'b/x'
  assert find('', 'c') is None
  assert isinstance(find('a'), pathlib.Path)
