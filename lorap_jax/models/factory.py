"""From plain configuration values to schemes, prompts and models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from lorap_jax.models import backbones, network
from lorap_jax.nn import methods, prompts

SCHEMES = {
  'fp32': methods.FP32,
  'qat': methods.QAT,
  'dq': methods.DegreeQuant,
  'a2q': methods.A2QGraph,
  'mixq_search': methods.MixQSearch,
  'mixq': methods.MixQ,
}
# Those of data whose nodes have labels.
NODE_SCHEMES = {**SCHEMES, 'a2q': methods.A2QNode}
BACKBONES = {
  'gcn': backbones.GCN,
  'gin': backbones.GIN,
  'gat': backbones.GAT,
  'rgcn': backbones.RGCN,
}
_CHOICES = {
  'encoder': ('none', 'dense', 'embedding'),
  'encoder_operand': ('signed', 'non_negative', 'int8'),
  'pool': ('none', 'mean', 'sum', 'max'),
  'mlp_norm': ('each', 'last', 'none'),
  'existing_loops': ('remaining', 'keep'),
}


def create_scheme(
  values: Mapping[str, Any], *, level: str = 'graph'
) -> methods.Scheme:
  """The scheme that `name` says.

  Args:
    values: `name` and fields of the scheme; None takes the default.
    level: what has a label in the data, `node` or `graph`.

  Returns:
    A scheme.

  Raises:
    ValueError: unknown name, a field of another scheme, or a value that the
      scheme refuses.
  """
  values = dict(values)
  if values.get('assignment') is not None:
    values['assignment'] = tuple(sorted(values['assignment'].items()))
  # Of one graph too, a table of groups is A2Q's where one is asked for.
  by_node = level == 'node' and values.get('num_groups') is None
  table = NODE_SCHEMES if by_node else SCHEMES
  kind = _choose(table, values, 'scheme')
  del values['name']
  return _build(kind, values, 'scheme')


def create_prompt(values: Mapping[str, Any]) -> prompts.PromptSpec:
  """The prompt of a model.

  Args:
    values: fields of PromptSpec; None takes the default.

  Returns:
    A prompt specification.

  Raises:
    ValueError: a value that it refuses.
  """
  return _build(prompts.PromptSpec, values, 'prompt')


def create_model(
  values: Mapping[str, Any],
  *,
  outputs: int,
  scheme: methods.Scheme,
  prompt: prompts.PromptSpec,
) -> nn.Module:
  """The network whose backbone `name` says.

  Args:
    values: `name`, and fields of the backbone and of `Network`; None takes the
      default.
    outputs: classes, or 1 for regression.
    scheme: the quantization framework, from `create_scheme`.
    prompt: the prompts, from `create_prompt`.

  Returns:
    A Linen module.

  Raises:
    ValueError: unknown name or choice, a field of another backbone, a width or
      depth below 1, a rate outside [0, 1), or heads that do not divide the
      width.
  """
  values = {name: v for name, v in values.items() if v is not None}
  kind = _choose(BACKBONES, values, 'model')
  del values['name']
  _check_model(values)
  own = {f.name for f in dataclasses.fields(kind)}
  backbone = {name: values.pop(name) for name in own & values.keys()}
  given = {
    'outputs': outputs,
    'backbone': _build(kind, backbone, 'model'),
    'scheme': scheme,
    'prompt': prompt,
  }
  model = _build(network.Network, {**values, **given}, 'model')
  heads = getattr(model.backbone, 'heads', 1)
  if heads < 1 or model.features % heads:
    raise ValueError(
      f'config.model: `heads` must divide `features` = {model.features}, got '
      f'{heads}'
    )
  return model


def model_values(model: Any) -> dict[str, Any]:
  """The inverse of `create_model`, less the name."""
  others = ('outputs', 'backbone', 'scheme', 'prompt', 'parent', 'name')
  return {
    **{
      f.name: getattr(model, f.name)
      for f in dataclasses.fields(model)
      if f.name not in others
    },
    **dataclasses.asdict(model.backbone),
  }


def _check_model(values: Mapping[str, Any]) -> None:
  counts = ('features', 'num_layers', 'num_types', 'readout', 'num_dense')
  rates = [name for name in values if name.endswith('dropout')]
  for name in counts:
    if values.get(name, 1) < 1:
      raise ValueError(
        f'config.model: `{name}` must be at least 1, got {values[name]}'
      )
  for name in rates:
    if not 0 <= values[name] < 1:
      raise ValueError(
        f'config.model: `{name}` must be in [0, 1), got {values[name]}'
      )
  for name, allowed in _CHOICES.items():
    if values.get(name, allowed[0]) not in allowed:
      raise ValueError(
        f'config.model: `{name}` must be one of {allowed}, got {values[name]!r}'
      )


def _choose(table: dict, values: Mapping[str, Any], what: str):
  name = values['name']
  if name not in table:
    raise ValueError(
      f'config.{what}: `name` must be one of {sorted(table)}, got {name!r}'
    )
  return table[name]


def _build(kind, values: Mapping[str, Any], what: str) -> Any:
  """The object of these values; None takes the default."""
  given = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in values.items()
    if value is not None
  }
  known = {f.name for f in dataclasses.fields(kind)}
  for name in given:
    if name not in known:
      raise ValueError(
        f'config.{what}: `{name}` is no field of {kind.__name__}; leave it out'
      )
  try:
    return kind(**given)
  except ValueError as error:
    raise ValueError(f'config.{what}: {error}') from error
