r"""What LoRAP's form is worth: one choice at a time, on superpixels.

    python train.py --config=configs/ablation.py:qat4,bypass
    python -m lorap_jax.sweep runs/ablation \
      'configs/ablation.py:qat4,{none,base,post,bypass,glorot,...}' seeds=3

The argument is QUANTIZER,VARIANT. `base` is LoRAP as it is by default; every
other variant changes what VARIANTS says. Network and quantizer are those of
`configs/mnist.py` with GIN, whose sums over neighbours lose most by few bits;
qat4 takes percentiles for their ranges, without which a few hubs spend them.

10,000 training graphs and 1,500 each to validate and to test, drawn once, and
six epochs: a screening, to rank variants by their validation accuracy.

Expected: a minute and a half per run and CPU core.
"""

from ml_collections import config_dict

from configs import cells, superpixels

_LOCAL = {'prompt.placement': 'post', 'prompt.objective': 'local'}
VARIANTS = {
  'base': {},
  'none': {'prompt.name': 'none'},
  'gpf': {'prompt.name': 'gpf'},
  'gpf_lorap': {'prompt.name': 'gpf_lorap'},
  'post': {'prompt.placement': 'post'},
  'bypass': {'prompt.placement': 'bypass'},
  'glorot': {'prompt.init': 'glorot'},
  'slow': {'optim.prompt_factor': 0.1},
  'fast': {'optim.prompt_factor': 5.0},
  'prompts1': {'prompt.num_prompts': 1},
  'prompts40': {'prompt.num_prompts': 40},
  'rank1': {'prompt.rank': 1},
  'rank10': {'prompt.rank': 10},
  'dense': {'prompt.low_rank': 'none'},
  'bias': {'prompt.form': 'bias'},
  'adapter': {'prompt.form': 'adapter'},
  'local': _LOCAL,
  'both': {**_LOCAL, 'prompt.objective': 'both'},
}
RECIPES = tuple(f'qat4,{name}' for name in VARIANTS)


def get_config(variant: str = 'qat4,base') -> config_dict.ConfigDict:
  """The configuration of a variant.

  Args:
    variant: QUANTIZER,VARIANT.

  Returns:
    A configuration.

  Raises:
    ValueError: no such quantizer or variant.
  """
  quantizer, name = cells.parse_variant(variant, 'variant', VARIANTS)
  config = superpixels.create('mnist', f'gin,{quantizer},lorap')
  config.data.limit = (10_000, 1_500, 1_500)
  config.train.epochs = 6
  config.train.plots = False
  config.update_from_flattened_dict(VARIANTS[name])
  return config
