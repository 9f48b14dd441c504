"""The configuration of `processes_run`, for the flag of train.py."""

import tiny_run


def get_config(level='graphs'):
  """Of many graphs, or of `nodes` of one."""
  changes = {'train__plots': False, 'train__devices': 0}
  if level == 'graphs':
    return tiny_run.config(train__epochs=3, **changes)
  return tiny_run.node_config('gcn,a2q,gpf_lorap', train__epochs=8, **changes)
