"""The names of backbones, quantizers and prompts, and what each sets.

A data set's configuration takes `BACKBONE,QUANTIZER,PROMPT` after a colon:

    python train.py --config=configs/cora.py:gcn,a2q,gpf_lorap

| quantizer    | scheme                                                        |
|--------------|---------------------------------------------------------------|
| fp32         | full precision                                                |
| qat8, qat4   | affine, per tensor, momentum ranges; sums by percentile       |
| dq8, dq4     | Degree-Quant, percentiles .001 / .01                          |
| a2q          | A2Q, node or graph level by the data, 4 bits at the start     |
| mixq         | MixQ, both phases                                             |
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import config_dict

BACKBONES = ('gcn', 'gin', 'gat', 'rgcn')
# The fields of config.scheme that each sets. Of sums by percentile: hubs make
# the largest ones, and minimum and maximum would spend the range on them.
QUANTIZERS: dict[str, dict[str, Any]] = {
  'fp32': {'name': 'fp32'},
  'qat8': {'name': 'qat', 'bits': 8, 'sum_percentile': 0.001},
  'qat4': {'name': 'qat', 'sum_percentile': 0.01},
  'dq8': {'name': 'dq', 'bits': 8, 'percentile': 0.001},
  'dq4': {'name': 'dq', 'percentile': 0.01},
  'a2q': {'name': 'a2q'},
  'mixq': {'name': 'mixq'},
}
PROMPTS = ('none', 'gpf', 'gpf_plus', 'lorap', 'gpf_lorap', 'gpf_plus_lorap')


def names() -> dict[str, tuple[str, ...]]:
  """What the `name` of config.model, config.scheme and config.prompt may be."""
  schemes = dict.fromkeys(row['name'] for row in QUANTIZERS.values())
  return {
    'model': BACKBONES,
    # A phase of MixQ, which may also run alone.
    'scheme': (*schemes, 'mixq_search'),
    'prompt': PROMPTS,
  }


def parse(cell: str) -> tuple[str, str, str]:
  """The three parts of a cell.

  Args:
    cell: such as `gcn,a2q,gpf_lorap`.

  Returns:
    Backbone, quantizer and prompt.

  Raises:
    ValueError: not three parts, or one that does not exist.
  """
  given = cell.split(',') if isinstance(cell, str) else ()
  parts = tuple(part.strip() for part in given)
  if len(parts) != 3:
    raise ValueError(
      'give the cell as BACKBONE,QUANTIZER,PROMPT, after the colon of a '
      f'configuration, got {cell!r}; for example gcn,a2q,gpf_lorap'
    )
  kinds = ('backbone', 'quantizer', 'prompt')
  choices = (BACKBONES, QUANTIZERS, PROMPTS)
  for kind, part, allowed in zip(kinds, parts, choices, strict=True):
    check_choice(kind, part, allowed)
  return parts


def check_choice(kind: str, name: str, allowed: Collection[str]) -> None:
  """Refuses a name that is none of those allowed, with the nearest of them."""
  if name not in allowed:
    near = difflib.get_close_matches(name, allowed, 1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'{kind} must be one of {tuple(allowed)}, got {name!r}{hint}'
    )


def parse_variant(text: str, kind: str, allowed: Collection[str]) -> list[str]:
  """The two parts of QUANTIZER,VARIANT; `apply` checks the quantizer.

  Args:
    text: such as `qat4,lorap`.
    kind: what the second part is called.
    allowed: the second parts that exist.

  Returns:
    Quantizer and variant.

  Raises:
    ValueError: not two parts, or no such variant.
  """
  parts = [part.strip() for part in text.split(',')]
  if len(parts) != 2:
    raise ValueError(
      f'give QUANTIZER,{kind.upper()} after the colon, got {text!r}'
    )
  check_choice(kind, parts[1], allowed)
  return parts


def apply(config: config_dict.ConfigDict, cell: str) -> str:
  """Sets the names of a cell and the fields that follow from them alone.

  Args:
    config: changed in place.
    cell: BACKBONE,QUANTIZER,PROMPT, such as `gcn,a2q,gpf_lorap`.

  Returns:
    The quantizer, for what else a data set's configuration sets by it.
  """
  backbone, quantizer, prompt = parse(cell)
  config.model.name = backbone
  config.prompt.name = prompt
  config.scheme.update(QUANTIZERS[quantizer])
  return quantizer


def cell_text(config: Mapping[str, Any]) -> str:
  """Backbone, quantizer and prompt of a configuration, as text."""
  prompt = config['prompt']
  form = prompt.get('form')
  other = f' ({form})' if form not in (None, 'lorap') else ''
  return (
    f'{config["model"]["name"]}, {quantizer_text(config["scheme"])}, '
    f'prompt {prompt["name"]}{other}'
  )


def quantizer_text(scheme: Mapping[str, Any]) -> str:
  """A quantizer as configurations name it, such as `dq4`."""
  name = scheme['name']
  same = [row for row in QUANTIZERS.values() if row['name'] == name]
  if len(same) > 1:  # The bits tell them apart.
    return f'{name}{scheme["bits"]}'
  return 'a2q' if name == 'a2q_node' else name
