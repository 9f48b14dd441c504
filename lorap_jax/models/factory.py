"""From plain configuration values to schemes, prompts and models."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from lorap_jax.models import gin
from lorap_jax.nn import prompts, schemes

SCHEMES = {'fp32': schemes.FP32, 'a2q': schemes.A2QGraph}
MODELS = {'gin': gin.GIN}


def create_scheme(values: Mapping[str, Any]) -> schemes.Scheme:
  """The scheme that `name` says, from the values it has fields for.

  Args:
    values: `name` and the fields of the schemes.

  Returns:
    A scheme.

  Raises:
    ValueError: unknown name, or a value that the scheme refuses.
  """
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
  num_classes: int,
  scheme: schemes.Scheme,
  prompt: prompts.PromptSpec,
) -> nn.Module:
  """The model that `name` says.

  Args:
    values: `name`, `features`, `num_layers`, `normalize_pooled`.
    num_classes: outputs per graph.
    scheme: from `create_scheme`.
    prompt: from `create_prompt`.

  Returns:
    A Linen module.

  Raises:
    ValueError: unknown name, or a width or depth below 1.
  """
  kind = _choose(MODELS, values, 'model')
  for name in ('features', 'num_layers'):
    if values[name] < 1:
      raise ValueError(
        f'config.model: `{name}` must be at least 1, got {values[name]}'
      )
  return kind(
    num_classes=num_classes,
    scheme=scheme,
    prompt=prompt,
    features=values['features'],
    num_layers=values['num_layers'],
    normalize_pooled=values['normalize_pooled'],
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
  try:
    return kind(**{k: v for k, v in values.items() if k in fields})
  except ValueError as error:
    raise ValueError(f'config.{what}: {error}') from error
