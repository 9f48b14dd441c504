"""Every field has a range; docs/configuration.md is the table as it is."""

import math
import pathlib
import subprocess
import sys

import pytest

from lorap_jax.runs import field_table, fields, ranges

ROOT = pathlib.Path(__file__).parents[2]
NUMBERS = {
  path: allowed
  for path, allowed in ranges.RANGES.items()
  if allowed.kind in ('integer', 'number')
}


def test_all_fields_have_a_range():
  assert set(ranges.RANGES) == set(fields.NEEDS)


def test_the_page_is_up_to_date():
  page = ROOT / 'docs' / 'configuration.md'
  assert page.read_text() == field_table.page(), (
    'make it by python -m lorap_jax.runs.field_table > docs/configuration.md'
  )


@pytest.mark.parametrize('path', NUMBERS)
def test_numbers(path):
  allowed = NUMBERS[path]
  step = 1 if allowed.kind == 'integer' else 0.25
  kind = int if allowed.kind == 'integer' else float
  for end, outward, is_open in (
    (kind(allowed.low), -step, allowed.open_low),
    (kind(allowed.high), step, allowed.open_high),
  ):
    assert (allowed.fault(end) is not None) == is_open
    assert allowed.fault(end - outward / 2 if kind is float else end) is None
    assert allowed.fault(end + outward)
  for wrong in (math.nan, math.inf, -math.inf, 1e30, -1e30, True, 'a', [1]):
    with pytest.raises(ValueError, match='^config.*`.*` must be .*, got '):
      ranges.check({path: wrong})


@pytest.mark.parametrize(
  'path, value, text',
  [
    ('data.tu_name', 5, 'config.data: `tu_name` must be a text, got 5'),
    ('data.fold', 1.5, 'config.data: `fold` must be an integer, got 1.5'),
    ('model.num_types', -1, 'config.model: `num_types` must be at least 1'),
    ('scheme.low', -1.0, r'`low` must be in \[0, 1\], got'),
    ('model.residual', 1, '`residual` must be true or false, got 1'),
    ('train.finetune_lr', 1e30, '`finetune_lr` must be at most 100, got 1e'),
    ('scheme.points', 'input', "`points` must be a list, got 'input'"),
    ('scheme.points', [['input']], '`points` must be a list of texts, got'),
    (
      'scheme.candidates',
      [2, 10**400],
      r'a list of integers in \[1, 16\], got',
    ),
    ('scheme.weight_start', [0.1], 'must be a list of 2 numbers in '),
    ('scheme.assignment', {'a': 4.5}, r'a table of integers in \[1, 16\], got'),
    ('scheme.assignment', {1: 4}, r'a table of integers in \[1, 16\], got'),
    ('data.limit', [1, None, 2], '`limit` must be a list of integers in'),
    ('scheme.low', 10**400, r'`low` must be in \[0, 1\], got 1000'),
  ],
)
def test_messages(path, value, text):
  with pytest.raises(ValueError, match=text):
    ranges.check({path: value})


def test_knows_no_jax():
  code = (
    'import sys; from lorap_jax.runs import fields, ranges;'
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
