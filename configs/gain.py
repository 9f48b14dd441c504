r"""What a prompt's gain is made of: arms and controls on MNIST superpixels.

    python train.py --config=configs/gain.py:a2q,gpf_lorap
    python -m lorap_jax.sweep runs/gain \
      'configs/gain.py:{a2q,fp32},{none,gpf,lorap,gpf_lorap,center}' seeds=5

The argument is QUANTIZER,ARM; ARMS says what each arm changes. A2Q is
`configs/mnist_a2q_lorap.py`; the others are `configs/mnist.py` with GIN
(`scheme.bits=2|3|4` for QAT). Arms with a prompt have 8-bit ones where the
network is quantized. docs/experiments.md has hypotheses, rules and results.

10,000 training graphs, 1,500 each to validate and to test, 10 epochs; the full
set with `data.limit=None train.epochs=30`.

Expected: two minutes per run and CPU core.
"""

from ml_collections import config_dict

from configs import cells, mnist_a2q_lorap, superpixels

_NONE = {'prompt.name': 'none'}
ARMS = {
  'none': _NONE,
  'gpf': {'prompt.name': 'gpf'},
  'lorap': {'prompt.name': 'lorap'},
  'gpf_lorap': {'prompt.name': 'gpf_lorap'},
  # The simplest explanations: the grid of the raw features.
  'center': {**_NONE, 'data.normalize': 'center'},
  'standard': {**_NONE, 'data.normalize': 'standard'},
  'unsigned': {**_NONE, 'model.encoder_operand': 'non_negative'},
  'int8': {**_NONE, 'model.encoder_operand': 'int8'},
  # As many parameters, without LoRAP's form.
  'bias': {'prompt.name': 'lorap', 'prompt.form': 'bias'},
  'adapter': {'prompt.name': 'lorap', 'prompt.form': 'adapter'},
  'wide': {**_NONE, 'model.features': 113},
  'prompts40': {'prompt.name': 'lorap', 'prompt.num_prompts': 40},
  'adapter40': {
    'prompt.name': 'lorap',
    'prompt.form': 'adapter',
    'prompt.num_prompts': 40,
  },
  # Both at once.
  'standard_gpf_lorap': {
    'prompt.name': 'gpf_lorap',
    'data.normalize': 'standard',
  },
  'int8_gpf_lorap': {
    'prompt.name': 'gpf_lorap',
    'model.encoder_operand': 'int8',
  },
}
RECIPES = ('a2q,gpf_lorap', 'fp32,gpf_lorap', 'qat4,gpf_lorap')


def get_config(arm: str = 'a2q,gpf_lorap') -> config_dict.ConfigDict:
  """The configuration of an arm.

  Args:
    arm: QUANTIZER,ARM.

  Returns:
    A configuration.

  Raises:
    ValueError: no such quantizer or arm.
  """
  quantizer, name = cells.parse_variant(arm, 'arm', ARMS)
  if quantizer == 'a2q':
    config = mnist_a2q_lorap.get_config()
  else:
    config = superpixels.create('mnist', f'gin,{quantizer},lorap')
  config.model.encoder_operand = None  # The scheme's, unless the arm says it.
  config.data.limit = (10_000, 1_500, 1_500)
  config.train.epochs = 10
  config.train.plots = False
  config.update_from_flattened_dict(ARMS[name])
  prompt = config.prompt
  low_rank = 'lorap' in prompt.name and prompt.form is None
  prompt.bits = 8 if low_rank and quantizer != 'fp32' else None
  return config
