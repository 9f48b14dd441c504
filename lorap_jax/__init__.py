"""Low-rank aggregation prompts for quantized graph neural networks.

Pure functions: `quantization`, `prompts`, `graphs`. Linen modules over them:
`nn`, `models`. Data sets: `data`. Runs: `training`.
"""

from lorap_jax._version import __version__

__all__ = [
  'LoadedRun',
  '__version__',
  'default_config',
  'from_pyg',
  'load_run',
  'own_data_config',
  'train_and_evaluate',
]


def __getattr__(name: str):
  # Late: worker processes of the data layer import this package too, and
  # have no use for JAX.
  if name in ('LoadedRun', 'load_run'):
    from lorap_jax.runs import restore

    return getattr(restore, name)
  if name in ('default_config', 'own_data_config'):
    from lorap_jax.runs import default_config

    whole = default_config.get_config
    return whole if name == 'default_config' else default_config.own_data_config
  if name == 'from_pyg':
    from lorap_jax.data.sets import pyg

    return pyg.from_pyg
  if name == 'train_and_evaluate':
    from lorap_jax.runs import loop

    return loop.train_and_evaluate
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
