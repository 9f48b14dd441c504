from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from lorap_jax.data import pipeline
from lorap_jax.nn import groups
from lorap_jax.runs import settings
from lorap_jax.training.optimizer import OptimizerConfig, create_optimizer

CONFIG = OptimizerConfig(
  learning_rate=0.1,
  weight_decay=0.05,
  prompt_factor=3.0,
  prompt_weight_decay=0.2,
  feature_scale_lr=0.01,
  feature_bits_lr=0.02,
  message_scale_lr=0.03,
  weight_scale_lr=0.04,
)
# Group, learning rate, weight decay.
TABLE = [
  ('base', 0.1, 0.05),
  ('prompt', 0.3, 0.2),
  ('feature_scale', 0.01, 0),
  ('feature_bits', 0.02, 0),
  ('message_scale', 0.03, 0),
  ('weight_scale', 0.04, 0),
  ('bit_logits', 0.01, 0),
  ('frozen', 0, 0),
]


def test_table_has_all_groups():
  assert [row[0] for row in TABLE] == list(get_args(groups.Group))


@pytest.mark.parametrize('group, rate, decay', TABLE)
def test_two_steps_of_adam(group, rate, decay):
  """Against Adam written out, half-way down the schedule; L2 is added."""
  nested = lambda leaf: {'a': jnp.ones(2), 'b': leaf}
  p = np.array([2.0, -3.0, 0.5])
  grads = [np.array([-0.05, 0.4, 1e-3]), np.array([0.2, 0.1, -1e-3])]
  optimizer = create_optimizer({'a': 'base', 'b': group})
  rates = CONFIG.rates(0.5)
  params = nested(jnp.asarray(p, jnp.float32))
  state = optimizer.init(params)
  m = v = np.zeros(3)
  for t, grad in enumerate(grads, start=1):
    given = nested(jnp.asarray(grad, jnp.float32))
    updates, state = optimizer.update(given, state, params, rates=rates)
    params = jax.tree.map(jnp.add, params, updates)
    g = grad + decay * p
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    unbiased = m / (1 - 0.9**t), v / (1 - 0.999**t)
    p = p - 0.5 * rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    # float32 rounds 1 - 0.999**t.
    np.testing.assert_allclose(jax.tree.leaves(params)[1], p, atol=1e-5)
  if rate == 0:  # Frozen: not by a hair.
    np.testing.assert_array_equal(jax.tree.leaves(params)[1], [2, -3, 0.5])


def test_every_leaf_of_the_headline_model():
  chosen = settings.from_config(tiny_run.config())
  data = tiny_run.splits()
  budget = pipeline.joint_budget(data[:3], batch_size=16)
  loader = pipeline.Loader(data.train, budget, layout=False)
  graph = loader.batch(np.arange(3)).graph
  labels = groups.param_labels(chosen.model(3), graph, train=False)
  found = {}
  for path, group in jax.tree_util.tree_leaves_with_path(labels):
    found.setdefault(group, []).append('/'.join(key.key for key in path))
  assert {name: set(paths) for name, paths in found.items()} == EXPECTED


DENSE = ['embedding', 'conv_0/dense_0', 'conv_0/dense_1', 'readout_0']
DENSE += ['readout_1']
NORMS = ['conv_0/norm_0/bn', 'conv_0/norm_1/bn', 'norm_pooled/bn']
INPUTS = [f'{name}/input' for name in DENSE if name != 'conv_0/dense_0']
INPUTS += ['conv_0/aggregate']
EXPECTED = {
  'base': {
    'conv_0/eps',
    *(f'{name}/{leaf}' for name in DENSE for leaf in ('kernel', 'bias')),
    *(f'{name}/{leaf}' for name in NORMS for leaf in ('scale', 'bias')),
  },
  'prompt': {
    'node_prompt/prompt',
    *(f'conv_0/prompt/{leaf}' for leaf in ('up', 'down', 'kernel', 'bias')),
  },
  'feature_scale': {f'{name}/scale' for name in INPUTS},
  'feature_bits': {f'{name}/bits' for name in INPUTS},
  'message_scale': {'conv_0/message/scale'},
  'weight_scale': {f'{name}/weight/scale' for name in DENSE},
  'frozen': {
    'conv_0/message/bits',
    *(f'{name}/weight/bits' for name in DENSE),
  },
}


@pytest.mark.parametrize('value', [-1e-3, float('inf'), float('nan')])
@pytest.mark.parametrize('name', list(OptimizerConfig.__dataclass_fields__))
def test_rates_that_make_no_sense(name, value):
  with pytest.raises(ValueError, match=f'`{name}` must be 0 or more, got'):
    OptimizerConfig(**{name: value})
