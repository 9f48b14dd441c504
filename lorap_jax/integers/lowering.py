"""From a trained network to its integer program, layer by layer.

What a quantizer becomes is the quantizer's business (its method `grid`); what a
layer becomes stands here, in the order of the layer's own call.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.integers.builder import Builder, Codes, ExportError, Wide
from lorap_jax.integers.program import Program
from lorap_jax.models import backbones, network
from lorap_jax.nn import conv, methods, prompts
from lorap_jax.nn.quantized import Rows
from lorap_jax.prompts import lorap as lorap_lib
from lorap_jax.quantization import grids

_EPSILON = 1e-5  # Of batch norm.


class Place:
  """The variables of a module, by the names of its children."""

  def __init__(self, params: Any, batch_stats: Any, quant_stats: Any):
    self.params = params or {}
    self.batch_stats = batch_stats or {}
    self.quant_stats = quant_stats or {}

  def child(self, name: str) -> 'Place':
    """The variables of a child; empty if it has none."""
    return Place(
      self.params.get(name),
      self.batch_stats.get(name),
      self.quant_stats.get(name),
    )

  def array(self, name: str) -> np.ndarray:
    """A parameter, float64."""
    return np.asarray(self.params[name], np.float64)


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
  x: Any = builder.fix('nodes', largest_input, num_features)
  y: Any = _encode(builder, model, place, x)
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
  if model.encoder == 'embedding':
    raise ExportError(
      "the encoder 'embedding' is in full precision; it is not exported yet"
    )
  if isinstance(model.backbone, backbones.GAT):
    raise ExportError('GAT is not exported yet')
  if model.prompt.placement != 'pre' and 'lorap' in model.prompt.name:
    raise ExportError(
      f'a prompt with placement {model.prompt.placement!r} travels beside the '
      "integers in full precision; train with 'pre'"
    )
  if model.prompt.form != 'lorap' and 'lorap' in model.prompt.name:
    raise ExportError(
      f'the prompt form {model.prompt.form!r} is a control and not exported'
    )


def _grid(
  builder: Builder,
  scheme: methods.Scheme,
  point: methods.Point,
  place: Place,
  *,
  non_negative: bool = False,
) -> grids.Grid | None:
  """The grid at a point; None where the scheme has no quantizer."""
  module: Any = scheme.quantizer(point, non_negative=non_negative)
  if module is None or not hasattr(module, 'grid'):
    return None
  name = methods.name_of(point)
  own = place.child(name)
  return module.grid(own.params, own.quant_stats, builder.path(name))


def _codes(
  builder: Builder,
  scheme: methods.Scheme,
  point: methods.Point,
  place: Place,
  value: Wide,
  *,
  non_negative: bool = False,
) -> Codes:
  """What the scheme makes of a value at a point."""
  grid = _grid(builder, scheme, point, place, non_negative=non_negative)
  return builder.quantize(methods.name_of(point), value, grid)


def _point(
  builder: Builder, scheme: Any, point: Any, place: Place, value: Wide
) -> Wide:
  """What passes a point that feeds no product: codes, and wide again."""
  grid = _grid(builder, scheme, point, place)
  if grid is None:
    return value
  return builder.widen(f'{point}_values', builder.quantize(point, value, grid))


def _dense(
  builder: Builder,
  scheme: methods.Scheme,
  place: Place,
  x: Wide | Codes,
  *,
  point: methods.Point = 'input',
  non_negative: bool = False,
  norm: Place | None = None,
) -> Wide:
  """`QuantDense`, and the batch norm behind it."""
  if isinstance(x, Wide):
    x = _codes(builder, scheme, point, place, x, non_negative=non_negative)
  x = _factored(builder, x)
  weight, scale = _weight(builder, scheme, place)
  total = builder.product('product', x, weight, scale)
  bias = place.array('bias') if 'bias' in place.params else None
  gain, shift = _affine_of(norm, weight.shape[1])
  if _grid(builder, scheme, 'output', place) is None:
    bias = shift if bias is None else gain * bias + shift
    return builder.widen('result', total, factor=gain, bias=bias)
  y = builder.widen('result', total, bias=bias)
  codes = builder.quantize('output', y, _grid(builder, scheme, 'output', place))
  return builder.widen('output_values', codes, factor=gain, bias=shift)


def _factored(builder: Builder, x: Codes) -> Codes:
  """Codes whose scale factors out of a product; 16 bits if theirs does not."""
  if not np.ndim(x.scale) and np.all(x.zero == np.rint(x.zero)):
    return x
  return builder.quantize('operand', builder.widen('operand_values', x), None)


def _affine_of(norm: Place | None, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Gain and shift of a batch norm at evaluation."""
  if norm is None:
    return np.ones(width), np.zeros(width)
  norm = norm.child('bn')
  mean, var = (
    np.asarray(norm.batch_stats[k], np.float64) for k in ('mean', 'var')
  )
  gain = norm.array('scale') / np.sqrt(var + _EPSILON)
  return gain, norm.array('bias') - mean * gain


def _weight(
  builder: Builder, scheme: methods.Scheme, place: Place
) -> tuple[np.ndarray, np.ndarray]:
  """Integer weights with zero point 0, and the scale of each column.

  Two kinds get new codes of 8 bits with a scale for each output: weights with a
  scale for each input feature (MixQ), which does not factor out of a product,
  and codes that leave 8 bits without their zero point.
  """
  module: Any = scheme.quantizer('weight', non_negative=False)
  if module is None or not hasattr(module, 'grid'):
    raise ExportError(
      'a weight is in full precision: the scheme leaves out the point '
      "'weight'; train with it"
    )
  own = place.child('weight')
  path = builder.path('weight')
  grid = module.grid(own.params, own.quant_stats, path)
  collections = {'params': own.params, 'quant_stats': own.quant_stats}
  kernel = jnp.asarray(place.params['kernel'])
  # By the quantizer's own arithmetic: its rounding is what was trained.
  given = {k: v for k, v in collections.items() if v}
  values = np.asarray(_quantizer(module)(given, kernel), np.float64)
  if not getattr(module, 'transposed', False):
    scale = np.broadcast_to(grid.scale, (kernel.shape[1],))
    codes = np.rint(values / scale)
    if np.max(np.abs(codes), initial=0) <= 127:
      return codes, scale
  scale = np.max(np.abs(values), axis=0, initial=0) / 127
  scale = np.where(scale > 0, scale, 1)
  return np.rint(values / scale), scale


@functools.lru_cache(16)
def _quantizer(module: Any) -> Any:
  """The values that a quantizer makes of a weight, compiled once."""
  return jax.jit(lambda given, x: module.apply(given, x, rows=Rows()).values)


def _prompt(
  builder: Builder, spec: prompts.PromptSpec, place: Place, s: Wide
) -> Wide:
  """The value s + softmax(s W + c) P, the prompt folded and in integers."""
  if 'lorap' not in spec.name:
    return s
  own = place.child('prompt')
  values: dict[str, Any] = {
    name: jnp.asarray(own.params[name]) if name in own.params else None
    for name in lorap_lib.LoRAPParams._fields
  }
  params = lorap_lib.LoRAPParams(**values)
  folded = _folded(params, bits=min(spec.bits, 8))
  with builder.inside('prompt'):
    return builder.plus(
      'prompted',
      s,
      _mixture(
        builder,
        s,
        kernel=_folded_kernel(folded),
        bias=np.asarray(folded.bias, np.float64),
        basis=np.asarray(folded.up, np.float64),
      ),
    )


_folded = jax.jit(lorap_lib.quantize_prompt, static_argnames='bits')


def _folded_kernel(params: lorap_lib.LoRAPParams) -> np.ndarray:
  kernel = np.asarray(params.kernel, np.float64)
  if params.score_down is None:
    return kernel
  return np.asarray(params.score_down, np.float64) @ kernel


def _mixture(
  builder: Builder,
  x: Wide,
  *,
  kernel: np.ndarray,
  bias: np.ndarray,
  basis: np.ndarray,
) -> Wide:
  """softmax(x W + c) P with W and P on grids of 8 bits."""
  codes = builder.quantize('input', x, None)
  weights, scale = _on_grid(kernel)
  logits = builder.product('scores', codes, weights, scale)
  shares = builder.soften('shares', logits, bias)
  return builder.widen(
    'values', builder.product('mixed', shares, *_on_grid(basis))
  )


def _on_grid(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Codes in -127..127 and one scale, repeated for each column."""
  scale = np.max(np.abs(matrix), initial=0) / 127 or 1.0
  return np.rint(matrix / scale), np.full(matrix.shape[1], scale)


def _encode(
  builder: Builder, model: network.Network, place: Place, x: Wide
) -> Wide | Codes:
  spec = model.prompt
  node, _ = prompts.PROMPTS[spec.name]
  own = place.child('node_prompt')
  if node == 'gpf':
    x = builder.shifted('node_prompt', x, own.array('prompt').reshape(-1))
  elif node == 'gpf_plus':
    with builder.inside('node_prompt'):
      mixed = _mixture(
        builder,
        x,
        kernel=own.array('kernel'),
        bias=own.array('bias'),
        basis=own.array('prompt'),
      )
      x = builder.plus('prompted', x, mixed)
  if model.encoder == 'none':
    if model.scheme.edge_messages and model.backbone.sums_first:
      return x
    # They count as quantized from here on, with a quantizer or without.
    return _codes(builder, model.scheme, 'features', place, x)
  own = place.child('embedding')
  operand: Any = x
  if model.encoder_operand == 'int8':
    observed = _grid(builder, methods.QAT(bits=8), 'input', place)
    operand = builder.quantize('input', x, observed)
  with builder.inside('embedding'):
    return _dense(
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
  name = f'conv_{i}'
  with builder.inside(name):
    y = _LAYERS[type(layer)](builder, layer, place.child(name), x)
    if logits:
      return y
    if not model.backbone.activates:
      if model.norm:
        gain, shift = _affine_of(place.child(f'norm_{i}'), y.width)
        y = _times(builder, 'norm', y, gain, shift)
      y = builder.relu('relu', y)
    if model.residual and isinstance(x, Wide) and x.width == y.width:
      y = builder.plus('residual', x, y)
  return y


def _times(
  builder: Builder, label: str, value: Wide, gain: Any, shift: Any = None
) -> Wide:
  """The value times a gain plus a shift, column by column."""
  as_codes = Codes(
    value.name,
    np.asarray(value.unit),
    np.zeros(()),
    value.bound,
    value.width,
  )
  return builder.widen(label, as_codes, factor=gain, bias=shift)


def _gin(
  builder: Builder, layer: conv.GINConv, place: Place, x: Wide | Codes
) -> Wide:
  scheme = layer.scheme
  message = x
  if isinstance(x, Wide):
    message = _codes(builder, scheme, 'message', place, x)
  assert isinstance(message, Codes)
  if message.row is not None:
    # Rows of different scales have no common sum.
    message = builder.quantize(
      'rows', builder.widen('row_values', message), None
    )
  total = builder.neighbor_sum('neighbors', message)
  s = _point(
    builder, scheme, 'neighbor_sum', place, builder.widen('sum', total)
  )
  if layer.own_term:
    # A layer that quantizes the messages of edges keeps the node as it is.
    node = x if scheme.edge_messages and isinstance(x, Wide) else message
    own = 1 + float(place.params['eps'])
    if isinstance(node, Wide):
      term = _times(builder, 'own', node, own)
    else:
      term = builder.widen('own', node, factor=own)
    s = builder.plus('with_own', s, term)
  s = _prompt(builder, layer.prompt, place, s)
  h: Any = _codes(builder, scheme, 'aggregate', place, s)
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
      h = _dense(
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
    gain, shift = _affine_of(place.child('norm'), h.width)
    h = _times(builder, 'norm', h, gain, shift)
  return _point(builder, scheme, 'update', place, h)


def _gcn(
  builder: Builder, layer: conv.GCNConv, place: Place, x: Wide | Codes
) -> Wide:
  scheme = layer.scheme
  if layer.self_loop_weight != 1:
    raise ExportError(
      f'self loops of weight {layer.self_loop_weight} are no whole numbers'
    )
  if scheme.edge_messages:
    raise ExportError(
      'messages that are quantized edge by edge are not exported; train with '
      'edge_messages=False'
    )
  with builder.inside('dense'):
    h = _dense(
      builder,
      scheme.in_convolution(),
      place.child('dense'),
      x,
      non_negative=layer.non_negative,
    )
  norm, loops = builder.norms(
    self_loops=layer.self_loops, keep=layer.existing_loops == 'keep'
  )
  message = _codes(builder, scheme, 'message', place, h)
  grid = _grid(builder, scheme, 'norm', place, non_negative=True)
  if scheme.edge_weights and isinstance(grid, grids.UniformGrid):
    s = builder.edge_sum('neighbors', message, norm, loops, grid)
  else:
    total = builder.normed_sum('neighbors', message, norm, loops)
    s = builder.widen('sum', total)
  s = _prompt(builder, layer.prompt, place, s)
  s = _point(builder, scheme, 'neighbor_sum', place, s)
  s = builder.shifted('with_bias', s, place.array('bias'))
  return _point(builder, scheme, 'update', place, s)


_LAYERS = {conv.GINConv: _gin, conv.GCNConv: _gcn}


def _read_out(
  builder: Builder, model: network.Network, place: Place, z: Wide
) -> Wide:
  if model.normalize_pooled:
    gain, shift = _affine_of(place.child('norm_pooled'), z.width)
    with builder.inside('pool'):
      z = _times(builder, 'norm', z, gain, shift)
  for i in range(model.readout):
    name = f'readout_{i}'
    with builder.inside(name):
      if i:
        z = builder.relu('relu', z)
      z = _dense(
        builder,
        model.scheme,
        place.child(name),
        z,
        point='readout',
        non_negative=i > 0,
      )
  return z
