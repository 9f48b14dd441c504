"""MNIST superpixels, GIN: what a training recipe adds to any quantizer.

    python train.py --config=configs/recipe.py:a2q,gpf_lorap,recipe
    python -m lorap_jax.sweep runs/recipe \
      'configs/recipe.py:{a2q,fp32},{none,gpf_lorap},{protocol,recipe,beyond}'

The argument is QUANTIZER,PROMPT,COLUMN. `protocol` is `configs/mnist.py` with
GIN; with A2Q `configs/mnist_a2q_lorap.py`, with this prompt. `recipe` adds
smoothed labels and a moving average of the parameters; `beyond` random affine
maps of the training graphs as well, which the published results have not.

30 epochs. Expected: not run yet.
"""

from ml_collections import config_dict

from configs import cells, mnist_a2q_lorap, superpixels

_RECIPE = {'train.ema': 0.999, 'train.label_smoothing': 0.05}
COLUMNS = {
  'protocol': {},
  'recipe': _RECIPE,
  'beyond': {**_RECIPE, 'train.augment': 1.0},
}
RECIPES = (
  'a2q,gpf_lorap,recipe',
  'a2q,none,protocol',
  'fp32,none,beyond',
  'qat4,gpf_plus,recipe',
  'dq8,lorap,beyond',
  'mixq,gpf,beyond',
)


def get_config(arm: str = 'a2q,gpf_lorap,recipe') -> config_dict.ConfigDict:
  """The configuration of a quantizer, a prompt and a column.

  Args:
    arm: QUANTIZER,PROMPT,COLUMN.

  Returns:
    A configuration.

  Raises:
    ValueError: not three parts, or one that does not exist.
  """
  cell, _, column = arm.rpartition(',')
  quantizer, _, prompt = cell.partition(',')
  if not prompt:
    raise ValueError(
      f'give QUANTIZER,PROMPT,COLUMN after the colon, got {arm!r}'
    )
  cells.check_choice('column', column.strip(), COLUMNS)
  config = superpixels.create('mnist', f'gin,{cell}')
  if quantizer.strip() == 'a2q':
    config = mnist_a2q_lorap.get_config()
    config.prompt.name = prompt.strip()
    if 'lorap' not in prompt:
      config.prompt.bits = None
  config.update_from_flattened_dict(COLUMNS[column.strip()])
  return config
