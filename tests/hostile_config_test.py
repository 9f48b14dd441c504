"""Any value in any field of a configuration is taken, or refused by name."""

import drawing
import hypothesis.strategies as st
import pytest
import tiny_run
from hostile import VALUES, answered, as_users_run  # noqa: F401
from ml_collections import config_dict

import lorap_jax
from configs import custom
from lorap_jax.runs import fields, settings

pytestmark = pytest.mark.usefixtures('as_users_run')

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
    if base != 'own':
      # What train.py does first.
      answered(lambda: fields.drop_unused(config, list(changes)), *names)

  drawing.check(
    count,
    holds,
    st.sampled_from(list(BASES)),
    st.dictionaries(st.sampled_from(PATHS), VALUES, min_size=1, max_size=2),
  )


@drawing.sizes(20, 200)
def test_functions_of_the_package(count, tmp_path):
  """Arguments of any kind, and configurations that are none."""

  def holds(value, field):
    settings.from_config(lorap_jax.default_config())
    answered(lambda: lorap_jax.own_data_config(value), 'cell')
    config = tiny_run.node_config()
    broken = changed('node', {field: value})
    answered(
      lambda: lorap_jax.train_and_evaluate(
        broken if value is not None else config, tmp_path / 'x', data=value
      ),
      *('`', 'data'),
    )
    assert not (tmp_path / 'x').exists()
    missing = tmp_path / 'nothing'
    answered(lambda: lorap_jax.load_run(missing), str(missing))

  values = VALUES.filter(lambda v: v is not None)
  drawing.check(count, holds, values, st.sampled_from(PATHS))


def test_all_that_is_public_is_met():
  """By these names: hostile_config, _graphs, _files and _folders."""
  # Layers, methods and passes are met through networks, in graphs.
  # Pure functions are for programs, which cannot raise for their values.
  parts = ('nn.', 'models.', 'graphs', 'training.', 'quantization.', 'prompts')
  inside = {
    name
    for name, (module, _) in lorap_jax._PLACES.items()
    if module.startswith(parts)
  }
  assert set(lorap_jax.__all__) - {'__version__'} - inside == {
    'LoadedRun',  # Its predict in graphs.
    'default_config',
    'export_run',  # With its graphs in integers/export_test.
    'from_pyg',  # In graphs.
    'load_artifact',  # As export_run.
    'load_run',  # In folders.
    'own_data_config',
    'train_and_evaluate',  # Data in graphs, going on in folders.
  }
