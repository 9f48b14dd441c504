"""Damaged work folders are named, or go on from what is whole."""

import json
import math
import pathlib
import shutil

import drawing
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny_run
from hostile import VALUES, as_users_run, damaged  # noqa: F401

import lorap_jax
from lorap_jax import report
from lorap_jax.reports import collect, page
from lorap_jax.runs import side_by_side, workdir

pytestmark = pytest.mark.usefixtures('as_users_run')

FILES = (workdir.CONFIG, workdir.DATA, workdir.METRICS, workdir.REPORT)
FILES += (workdir.GROUP,)


def is_json(value) -> bool:
  try:
    return json.loads(json.dumps(value)) is not None or value is None
  except (TypeError, ValueError):
    return False


def places(value, path=()):
  """Paths of all parts of a JSON value."""
  yield path
  if isinstance(value, dict | list):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(items)[:60]:
      yield from places(part, (*path, key))


@st.composite
def other_json(draw, content: bytes) -> bytes:
  """JSON with a part that is missing or something else, at any depth."""
  lines = content.decode().splitlines() if content[-2:-1] != b'}' else None
  value = json.loads(content) if lines is None else None
  if value is None:
    value = [json.loads(line) for line in lines]
  path = draw(st.sampled_from(list(places(value))[1:]))
  inner = value
  for key in path[:-1]:
    inner = inner[key]
  if draw(st.integers(0, 3)):
    inner[path[-1]] = draw(VALUES.filter(is_json))
  else:
    del inner[path[-1]]
  if lines is not None:
    return '\n'.join(map(json.dumps, value)).encode()
  return json.dumps(value).encode()


@st.composite
def changes(draw, folder: pathlib.Path, names) -> tuple[str, bytes | None]:
  """A file of a folder, and what it holds now; None for no file."""
  name = draw(st.sampled_from(names))
  content = (folder / name).read_bytes()
  how = draw(st.sampled_from(['json', 'json', 'json', 'bytes', 'none']))
  if how == 'none':
    return name, None
  if how == 'json' and name.endswith(('.json', '.jsonl')):
    try:
      return name, draw(other_json(content))
    except json.JSONDecodeError:
      pass
  return name, damaged(content, draw)


def names_of(folder: pathlib.Path, only=None) -> list[str]:
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file() and (only is None or path.name in only)
  )


class Copy:
  """A copy of a folder, made anew for each example."""

  def __init__(self, sound, place):
    self.sound, self.place = sound, place

  def with_change(self, change):
    shutil.rmtree(self.place, ignore_errors=True)
    shutil.copytree(self.sound, self.place)
    name, content = change
    path = self.place / name
    path.unlink() if content is None else path.write_bytes(content)
    return self.place


def named(error: Exception, folder: pathlib.Path) -> None:
  text = str(error)
  assert str(folder) in text, f'{type(error).__name__}: {text}'


@drawing.sizes(30, 600)
def test_load_run(finished_pair, tmp_path, count):
  copy = Copy(finished_pair / 'seed_0_fold_0', tmp_path / 'copy')

  def holds(change):
    folder = copy.with_change(change)
    try:
      run = lorap_jax.load_run(folder)
    except (ValueError, OSError) as error:
      named(error, folder)
      return
    leaves = [np.asarray(v) for v in _leaves(run.variables)]
    assert leaves and all(np.isfinite(v).all() for v in leaves)

  sound = copy.sound
  some = changes(sound, names_of(sound, (workdir.CONFIG, workdir.DATA)))
  drawing.check(count, holds, st.one_of(some, changes(sound, names_of(sound))))


def _leaves(tree):
  import jax

  return jax.tree.leaves(tree)


@drawing.sizes(30, 600)
def test_reports(finished_pair, tmp_path, count, capsys):
  """The collected table, all quantities and the page of a run."""
  copy = Copy(finished_pair, tmp_path / 'copy')

  def holds(change):
    folder = copy.with_change(change)
    (folder / workdir.PAGE).unlink(missing_ok=True)
    runs, warnings = collect.collect([folder])
    assert len(runs) + len(warnings) == 1
    for run in runs:
      assert math.isfinite(run.test.mean)
    for warning in warnings:
      assert str(folder) in warning
    files = ['--markdown', str(tmp_path / 'm'), '--csv', str(tmp_path / 'c')]
    code = report.main([str(folder), '--full', *files])
    captured = capsys.readouterr()
    assert code == 0 or (code == 2 and 'error: ' in captured.err)
    assert runs or code == 2
    try:
      page.write(folder)
    except (ValueError, OSError) as error:
      named(error, folder)

  names = [*names_of(finished_pair, (workdir.REPORT, workdir.METRICS))]
  some = changes(finished_pair, names)
  every = changes(finished_pair, names_of(finished_pair, FILES))
  drawing.check(count, holds, st.one_of(some, every))


@drawing.sizes(10, 150)
def test_going_on(finished_pair, tmp_path, count, monkeypatch):
  """A run whose report is not there: it goes on, or says what is damaged."""
  tiny_run.feed(monkeypatch, tiny_run.node_data)
  copy = Copy(finished_pair / 'seed_0_fold_0', tmp_path / 'seed_0_fold_0')
  shutil.copytree(finished_pair / 'seed_1_fold_0', tmp_path / 'seed_1_fold_0')

  def holds(change):
    folder = copy.with_change(change)
    if change[0] != workdir.REPORT:
      (folder / workdir.REPORT).unlink(missing_ok=True)
    try:
      side_by_side.recorded(folder)
      found = lorap_jax.train_and_evaluate(tiny_run.pair_config(), folder)
    except (ValueError, OSError) as error:
      named(error, folder)
      return
    assert math.isfinite(found['result']['test'])

  sound = copy.sound
  some = changes(sound, names_of(sound, FILES))
  drawing.check(count, holds, st.one_of(some, changes(sound, names_of(sound))))
