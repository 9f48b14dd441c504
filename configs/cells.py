"""Cells of the matrix: what a backbone, a quantizer and a prompt set.

A data set's configuration takes `BACKBONE,QUANTIZER,PROMPT` after a colon:

    python train.py --config=configs/cora.py:gcn,a2q,gpf_lorap

| quantizer    | scheme                                                        |
|--------------|---------------------------------------------------------------|
| fp32         | full precision                                                |
| qat8, qat4   | affine, per tensor, momentum ranges; sums by percentile       |
| dq8, dq4     | Degree-Quant, percentiles .001 / .01                          |
| a2q          | A2Q, node or graph level by the task, 4 bits at the start     |
| mixq         | MixQ, both phases                                             |
"""

from ml_collections import config_dict

BACKBONES = ('gcn', 'gin', 'gat')
QUANTIZERS = ('fp32', 'qat8', 'qat4', 'dq8', 'dq4', 'a2q', 'mixq')
PROMPTS = ('none', 'gpf', 'gpf_plus', 'lorap', 'gpf_lorap', 'gpf_plus_lorap')

# Points that MixQ quantizes, by backbone (github.com/SamirMoustafa/MixQ).
_MIXQ_POINTS = {
  'gcn': ('features', 'readout', 'weight', 'output', 'norm', 'neighbor_sum'),
  'gin': ('features', 'readout', 'weight', 'output', 'neighbor_sum'),
  'gat': (
    'features',
    'readout',
    'weight',
    'output',
    'attention',
    'neighbor_sum',
  ),
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
  parts = tuple(part.strip() for part in cell.split(','))
  if len(parts) != 3:
    raise ValueError(
      f'give BACKBONE,QUANTIZER,PROMPT after the colon, got {cell!r}; for '
      'example gcn,a2q,gpf_lorap'
    )
  kinds = ('backbone', 'quantizer', 'prompt')
  choices = (BACKBONES, QUANTIZERS, PROMPTS)
  for kind, part, allowed in zip(kinds, parts, choices, strict=True):
    if part not in allowed:
      raise ValueError(f'{kind} must be one of {allowed}, got {part!r}')
  return parts


def apply(config: config_dict.ConfigDict, cell: str, *, node_task: bool) -> str:
  """Sets the names of a cell and the fields that follow from them alone.

  Args:
    config: changed in place.
    cell: see `parse`.
    node_task: one graph, whose nodes are classified.

  Returns:
    The quantizer, for what else a data set's configuration sets by it.
  """
  backbone, quantizer, prompt = parse(cell)
  config.model.name = backbone
  config.prompt.name = prompt
  scheme = config.scheme
  scheme.name = quantizer.rstrip('48') if quantizer[-1] in '48' else quantizer
  if quantizer in ('qat8', 'dq8'):
    scheme.bits = 8
  if quantizer.startswith('qat'):
    # Hubs make the largest sums: minimum and maximum would spend the range.
    scheme.sum_percentile = 0.001 if quantizer == 'qat8' else 0.01
  if quantizer.startswith('dq'):
    scheme.percentile = 0.001 if quantizer == 'dq8' else 0.01
  if quantizer == 'a2q' and node_task:
    scheme.name = 'a2q_node'
    scheme.node_messages = backbone == 'gat'
  if quantizer == 'mixq':
    scheme.points = _MIXQ_POINTS[backbone]
    scheme.cost_weight = 0.1
  return quantizer
