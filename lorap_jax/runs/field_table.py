"""`python -m lorap_jax.runs.field_table` prints docs/configuration.md."""

import sys

from lorap_jax.runs import default_config, fields, ranges


def page() -> str:
  """docs/configuration.md: all fields, what they may be and what they need."""
  defaults = fields.flat(default_config.get_config().to_dict())
  lines = [
    '# Configuration',
    '',
    'All fields, set by `--config.FIELD=VALUE`. Made by',
    '`python -m lorap_jax.runs.field_table > docs/configuration.md`.',
    '',
    'A field without a default has that of what it belongs to, see the comment',
    'beside it in `lorap_jax/runs/default_config.py`. One that is set and',
    'means nothing to a run is refused, and so is a value beyond its range.',
    '',
    '| field | may be | default | means something with |',
    '|---|---|---|---|',
  ]
  for path, needs in fields.NEEDS.items():
    if path not in ranges.RANGES:
      raise ValueError(f'{path} has no row in lorap_jax/runs/ranges.py')
    default = '' if defaults[path] is None else f'`{defaults[path]!r}`'
    words = '; '.join(need.words for need in needs)
    lines.append(
      f'| `{path}` | {ranges.RANGES[path].words} | {default} | {words} |'
    )
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  sys.stdout.write(page())
