"""Any value in any field of a configuration is taken, or refused by its name."""

import drawing
import hypothesis.strategies as st
import tiny_run
from hostile import VALUES, answered, as_users_run  # noqa: F401
from ml_collections import config_dict

from configs import custom
from lorap_jax.training import fields, settings

BASES = {
  'graph': tiny_run.config,
  'superpixels': lambda: tiny_run.superpixels_config('gin,mixq,gpf_lorap'),
  'dq': lambda: tiny_run.superpixels_config('gcn,dq4,lorap'),
  'node': lambda: tiny_run.node_config('gat,a2q,lorap'),
  'search': lambda: tiny_run.node_config('gcn,mixq,gpf_plus_lorap'),
  'own': lambda: custom.get_config('gcn,qat4,none'),
}
PATHS = sorted(fields.NEEDS)


def changed(base: str, changes: dict) -> config_dict.ConfigDict:
  """A configuration of any content: ConfigDict itself refuses other types."""
  values = BASES[base]().to_dict()
  for path, value in changes.items():
    group, _, name = path.rpartition('.')
    (values[group] if group else values)[name] = value
  return config_dict.ConfigDict(values)


@drawing.sizes(60, 600)
def test_any_field_has_any_value(count):
  def holds(base, changes):
    config = changed(base, changes)
    names = [f'`{path.rpartition(".")[2]}`' for path in changes]
    level = 'node' if base == 'own' else None
    names += [path for path in changes]
    answered(lambda: settings.from_config(config, level=level), *names)

  drawing.check(
    count,
    holds,
    st.sampled_from(list(BASES)),
    st.dictionaries(st.sampled_from(PATHS), VALUES, min_size=1, max_size=2),
  )
