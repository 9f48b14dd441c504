"""From plain configuration values to schemes, prompts and models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from lorap_jax.models import gat, gcn, gin, network
from lorap_jax.nn import prompts, schemes

SCHEMES = {
  'fp32': schemes.FP32,
  'qat': schemes.QAT,
  'dq': schemes.DegreeQuant,
  'a2q': schemes.A2QGraph,
  'a2q_node': schemes.A2QNode,
  'mixq_search': schemes.MixQSearch,
  'mixq': schemes.MixQ,
}
BACKBONES = {'gcn': gcn.GCN, 'gin': gin.GIN, 'gat': gat.GAT}
_CHOICES = {
  'encoder': ('none', 'dense', 'embedding'),
  'encoder_operand': ('signed', 'non_negative', 'int8'),
  'pool': ('none', 'mean', 'sum', 'max'),
  'mlp_norm': ('each', 'last', 'none'),
  'existing_loops': ('remaining', 'keep'),
}


def create_scheme(values: Mapping[str, Any]) -> schemes.Scheme:
  """The scheme that `name` says, from the values it has fields for.

  Args:
    values: `name` and the fields of the schemes; None takes the default.

  Returns:
    A scheme.

  Raises:
    ValueError: unknown name, or a value that the scheme refuses.
  """
  values = dict(values)
  if values.get('assignment') is not None:
    values['assignment'] = tuple(sorted(values['assignment'].items()))
  return _build(_choose(SCHEMES, values, 'scheme'), values, 'scheme')


def create_prompt(values: Mapping[str, Any]) -> prompts.PromptSpec:
  """The prompt of a model.

  Args:
    values: fields of PromptSpec.

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
  scheme: schemes.Scheme,
  prompt: prompts.PromptSpec,
) -> nn.Module:
  """The network whose backbone `name` says.

  Args:
    values: `name`, and the fields of the backbones and of `Network`.
    outputs: classes, or 1 for regression.
    scheme: from `create_scheme`.
    prompt: from `create_prompt`.

  Returns:
    A Linen module.

  Raises:
    ValueError: unknown name or choice, a width or depth below 1, a rate outside
      [0, 1), or heads that do not divide the width.
  """
  kind = _choose(BACKBONES, values, 'model')
  _check_model(values)
  fields = {'features', 'num_layers', 'num_types', 'norm', 'residual'}
  fields |= {'encoder', 'encoder_operand', 'dropout', 'input_dropout', 'pool'}
  fields |= {'normalize_pooled', 'readout', 'readout_dropout'}
  return network.Network(
    outputs=outputs,
    backbone=_build(kind, values, 'model'),
    scheme=scheme,
    prompt=prompt,
    **{name: values[name] for name in fields},
  )


def _check_model(values: Mapping[str, Any]) -> None:
  for name in ('features', 'num_layers', 'num_types', 'readout', 'num_dense'):
    if values[name] < 1:
      raise ValueError(
        f'config.model: `{name}` must be at least 1, got {values[name]}'
      )
  for name in (
    'dropout',
    'input_dropout',
    'readout_dropout',
    'attention_dropout',
  ):
    if not 0 <= values[name] < 1:
      raise ValueError(
        f'config.model: `{name}` must be in [0, 1), got {values[name]}'
      )
  for name, allowed in _CHOICES.items():
    if values[name] not in allowed:
      raise ValueError(
        f'config.model: `{name}` must be one of {allowed}, got {values[name]!r}'
      )
  heads = values['heads']
  if heads < 1 or (values['name'] == 'gat' and values['features'] % heads):
    raise ValueError(
      f'config.model: `heads` must divide `features` = {values["features"]}, '
      f'got {heads}'
    )


def _choose(table: dict, values: Mapping[str, Any], what: str):
  name = values['name']
  if name not in table:
    raise ValueError(
      f'config.{what}: `name` must be one of {sorted(table)}, got {name!r}'
    )
  return table[name]


def _build(kind, values: Mapping[str, Any], what: str):
  fields = {f.name for f in dataclasses.fields(kind)}
  given = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in values.items()
    if name in fields and value is not None
  }
  try:
    return kind(**given)
  except ValueError as error:
    raise ValueError(f'config.{what}: {error}') from error
