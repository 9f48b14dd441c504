"""Graph convolutions in integers, each in the order of its layer's call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lorap_jax.integers import parts, prompting
from lorap_jax.integers.builder import Builder, Codes, ExportError, Wide
from lorap_jax.integers.parts import Place
from lorap_jax.nn import conv
from lorap_jax.quantization import grids


def _gin(
  builder: Builder, layer: conv.GINConv, place: Place, x: Wide | Codes
) -> Wide:
  scheme = layer.scheme
  message = x
  if isinstance(x, Wide):
    message = parts.codes_at(builder, scheme, 'message', place, x)
  assert isinstance(message, Codes)
  total = builder.neighbor_sum('neighbors', message)
  s = parts.wide_at(
    builder, scheme, 'neighbor_sum', place, builder.widen('sum', total)
  )
  if layer.own_term:
    # A layer that quantizes the messages of edges keeps the node as it is.
    node = x if scheme.edge_messages and isinstance(x, Wide) else message
    own = 1 + float(place.params['eps'])
    if isinstance(node, Wide):
      term = builder.times('own', node, own)
    else:
      term = builder.widen('own', node, factor=own, least_unit=s.unit)
    s = builder.plus('with_own', s, term)
  h: Any = prompting.on_aggregate(builder, layer, place, 'aggregate', s)
  if isinstance(h, Wide):  # It is not quantized again.
    h = builder.operand('aggregate', h)
  for i in range(layer.num_dense):
    if layer.full_precision_dense and i == 0:
      raise ExportError(
        'the first Dense layer is in full precision '
        '(full_precision_first); train without it'
      )
    norm = None
    last = i == layer.num_dense - 1
    if layer.norm == 'each':
      norm = place.child(f'norm_{i}')
    elif layer.norm == 'last' and last and layer.last:
      norm = place.child('norm')
    name = f'dense_{i}'
    with builder.inside(name):
      h = parts.dense(
        builder,
        scheme.in_convolution(),
        place.child(name),
        h,
        non_negative=i > 0,
        norm=norm,
      )
      if not (layer.last and last):
        h = builder.relu('relu', h)
  if layer.norm == 'last' and not layer.last:
    gain, shift = parts.affine_of(place.child('norm'), h.width)
    h = builder.times('norm', h, gain, shift)
  return parts.wide_at(builder, scheme, 'update', place, h)


def _transformed(
  builder: Builder, layer: Any, place: Place, x: Wide | Codes
) -> Wide:
  """The dense layer in front of the messages of GCN and GAT."""
  with builder.inside('dense'):
    return parts.dense(
      builder,
      layer.scheme.in_convolution(),
      place.child('dense'),
      x,
      non_negative=layer.non_negative,
    )


def _gcn(
  builder: Builder, layer: conv.GCNConv, place: Place, x: Wide | Codes
) -> Wide:
  scheme = layer.scheme
  if layer.self_loop_weight != 1:
    raise ExportError(
      f'self loops of weight {layer.self_loop_weight} are no whole numbers'
    )
  h = _transformed(builder, layer, place, x)
  norm, loops = builder.norms(
    self_loops=layer.self_loops, keep=layer.existing_loops == 'keep'
  )
  message = parts.codes_at(builder, scheme, 'message', place, h)
  grid = parts.grid_at(builder, scheme, 'norm', place, non_negative=True)
  if scheme.edge_weights and isinstance(grid, grids.UniformGrid):
    s = builder.edge_sum('neighbors', message, norm, loops, grid)
  else:
    total = builder.normed_sum('neighbors', message, norm, loops)
    s = builder.widen('sum', total)
  s = _aggregate(builder, layer, place, s)
  s = builder.shifted('with_bias', s, place.array('bias'))
  return parts.wide_at(builder, scheme, 'update', place, s)


def _aggregate(builder: Builder, layer: Any, place: Place, s: Wide) -> Wide:
  """The sum over neighbors behind its prompt and its quantizer."""
  found = prompting.on_aggregate(builder, layer, place, 'neighbor_sum', s)
  return parts.widened(builder, 'neighbor_sum_values', found)


def _gat(
  builder: Builder, layer: conv.GATConv, place: Place, x: Wide | Codes
) -> Wide:
  scheme = layer.scheme
  h = _transformed(builder, layer, place, x)
  message = parts.codes_at(builder, scheme, 'message', place, h)
  vectors = parts.weight_of(
    builder, scheme, place, point='attention', name='attention_kernel'
  )
  grid = parts.grid_at(builder, scheme, 'logits', place)
  with builder.inside('attention'):
    scores = _scores(builder, layer.heads, message, *vectors)
    logits = [
      _logits(builder, layer, scores, grid, loops=loops)
      for loops in range(1 + layer.self_loops)
    ]
    total = builder.attend('sum', message, *logits)
  s = _aggregate(builder, layer, place, builder.widen('sum', total))
  if not layer.concat and layer.heads > 1:
    width = s.width // layer.heads
    mean = np.tile(np.eye(width), (layer.heads, 1))
    total = builder.product(
      'heads', builder.as_codes(s), mean, np.full(width, 1 / layer.heads)
    )
    s = builder.widen('mean', total)
  s = builder.shifted('with_bias', s, place.array('bias'))
  return parts.wide_at(builder, scheme, 'update', place, s)


def _scores(
  builder: Builder,
  heads: int,
  message: Codes,
  vectors: np.ndarray,
  scale: np.ndarray,
) -> Wide:
  """The products a . m of all heads, then b . m: [n, 2 h]."""
  width = len(vectors)
  weight = np.zeros((heads, width, 2, heads))
  for k in range(heads):
    weight[k, :, :, k] = vectors.reshape(width, heads, 2)[:, k]
  total = builder.product(
    'product',
    parts.factored(builder, message),
    weight.reshape(heads * width, 2 * heads),
    scale.reshape(heads, 2).T.reshape(-1),
  )
  return builder.widen('scores', total)


def _logits(
  builder: Builder,
  layer: conv.GATConv,
  scores: Wide,
  grid: grids.Grid | None,
  *,
  loops: int,
) -> str:
  """LeakyReLU of the quantized logits of edges, or of self loops."""
  with builder.inside('loops' if loops else 'edges'):
    met = builder.meet('met', scores, loops=loops)
    if grid is None:
      codes = builder.as_codes(met)
    else:
      codes = builder.quantize('logits', met, grid)
    return builder.leaky_logits('leaky', codes, layer.negative_slope)


LAYERS: dict[type, Callable[..., Wide]] = {
  conv.GINConv: _gin,
  conv.GCNConv: _gcn,
  conv.GATConv: _gat,
}
