"""From a trained network to its integer program, layer by layer.

What a quantizer becomes is the quantizer's business (its method `grid`); what
the network becomes stands here, its convolutions in `layers`, what they are
made of in `parts`, and prompts in `prompting`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorap_jax.integers import layers, parts, prompting
from lorap_jax.integers.builder import Builder, Codes, ExportError, Wide
from lorap_jax.integers.parts import Place
from lorap_jax.integers.program import Program
from lorap_jax.models import backbones, network
from lorap_jax.nn import methods


def lower(
  model: network.Network,
  variables: Mapping[str, Any],
  *,
  num_features: int,
  largest_input: float,
  max_degree: int,
  max_nodes: int,
) -> Program:
  """The integer program of a trained network.

  Args:
    model: the network.
    variables: `params`, `batch_stats`, `quant_stats`.
    num_features: columns of the raw features.
    largest_input: largest magnitude of a raw feature; others are clipped.
    max_degree: largest number of edges into a node.
    max_nodes: largest number of nodes of a graph.

  Returns:
    The program.

  Raises:
    ExportError: a network that has none, and why.
  """
  refuse(model)
  variables = jax.tree.map(jnp.asarray, dict(variables))
  place = Place(
    variables['params'],
    variables.get('batch_stats'),
    variables.get('quant_stats'),
  )
  builder = Builder(max_degree=max_degree, max_nodes=max_nodes)
  y: Any = _encode(builder, model, place, num_features, largest_input)
  for i in range(model.num_layers):
    y = _convolve(builder, model, place, i, y)
  if model.pool == 'none':
    return builder.program(y, per_graph=False, num_features=num_features)
  with builder.inside('pool'):
    y = builder.pool(model.pool, y)
  y = _read_out(builder, model, place, y)
  return builder.program(y, per_graph=True, num_features=num_features)


def refuse(model: network.Network) -> None:
  """Raises ExportError for a network that has no integers, and says why."""
  scheme = model.scheme
  name = type(scheme).__name__
  if isinstance(scheme, methods.FP32):
    raise ExportError(
      'a network in full precision (scheme fp32) has no integers; train one '
      'with qat, dq or a2q'
    )
  if getattr(scheme, 'published', False):
    raise ExportError(
      f'{name} with published=True has the arithmetic of the published code, '
      'which has no integer form; train with published=False'
    )
  if isinstance(scheme, methods.MixQSearch):
    raise ExportError(
      'a search for bits is a mixture of networks; export the run that used '
      'what it found (scheme mixq)'
    )
  if isinstance(model.backbone, backbones.RGCN):
    raise ExportError(
      'means over the edges of each relation (RGCN) have no integer form here; '
      'train GCN, GIN or GAT'
    )
  if scheme.edge_messages and isinstance(model.backbone, backbones.GCN):
    raise ExportError(
      'messages that are quantized edge by edge are not exported; train with '
      'edge_messages=False'
    )


def _encode(
  builder: Builder,
  model: network.Network,
  place: Place,
  num_features: int,
  largest_input: float,
) -> Wide | Codes:
  if model.encoder == 'embedding':
    table = place.child('embedding').array('embedding')
    x = builder.embed('nodes', *parts.on_columns(table))
    return prompting.on_nodes(builder, model.prompt, place, x)
  x = builder.fix('nodes', largest_input, num_features)
  x = prompting.on_nodes(builder, model.prompt, place, x)
  if model.encoder == 'none':
    if model.scheme.edge_messages and model.backbone.sums_first:
      return x
    # They count as quantized from here on, with a quantizer or without.
    return parts.codes_at(builder, model.scheme, 'features', place, x)
  own = place.child('embedding')
  operand: Any = x
  if model.encoder_operand == 'int8':
    observed = parts.grid_at(builder, methods.QAT(bits=8), 'input', place)
    operand = builder.quantize('input', x, observed)
  with builder.inside('embedding'):
    return parts.dense(
      builder,
      model.scheme,
      own,
      operand,
      non_negative=model.encoder_operand == 'non_negative',
    )


def _convolve(
  builder: Builder,
  model: network.Network,
  place: Place,
  i: int,
  x: Wide | Codes,
) -> Wide:
  logits = model.pool == 'none' and i == model.num_layers - 1
  layer: Any = model.backbone.layer(
    index=i,
    last=logits,
    features=model.outputs if logits else model.features,
    scheme=model.scheme,
    prompt=model.prompt,
    non_negative=i > 0 and not model.residual,
  )
  function = layers.LAYERS.get(type(layer))
  if function is None:
    raise ExportError(f'the layer {type(layer).__name__} has no integers')
  name = f'conv_{i}'
  with builder.inside(name):
    y = function(builder, layer, place.child(name), x)
    if logits:
      return y
    if not model.backbone.activates:
      if model.norm:
        gain, shift = parts.affine_of(place.child(f'norm_{i}'), y.width)
        y = builder.times('norm', y, gain, shift)
      y = builder.relu('relu', y)
    if model.residual and isinstance(x, Wide) and x.width == y.width:
      y = builder.plus('residual', x, y)
  return y


def _read_out(
  builder: Builder, model: network.Network, place: Place, z: Wide
) -> Wide:
  if model.normalize_pooled:
    gain, shift = parts.affine_of(place.child('norm_pooled'), z.width)
    with builder.inside('pool'):
      z = builder.times('norm', z, gain, shift)
  for i in range(model.readout):
    name = f'readout_{i}'
    with builder.inside(name):
      if i:
        z = builder.relu('relu', z)
      z = parts.dense(
        builder,
        model.scheme,
        place.child(name),
        z,
        point='readout',
        non_negative=i > 0,
      )
  return z
