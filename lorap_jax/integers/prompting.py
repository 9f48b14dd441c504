"""Prompts in integers: on node features, and on aggregates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lorap_jax.integers import parts
from lorap_jax.integers.builder import Builder, Codes, ExportError, Wide
from lorap_jax.integers.parts import Place
from lorap_jax.nn import prompts
from lorap_jax.prompts import lorap as lorap_lib


def on_nodes(
  builder: Builder, spec: prompts.PromptSpec, place: Place, x: Wide
) -> Wide:
  """The features x with the node prompt, if there is one."""
  kind, _ = prompts.PROMPTS[spec.name]
  own = place.child('node_prompt')
  if kind is None:
    return x
  if kind == 'gpf':
    return builder.shifted('node_prompt', x, own.array('prompt').reshape(-1))
  if kind != 'gpf_plus':
    raise ExportError(f'the node prompt {kind!r} has no integers')
  with builder.inside('node_prompt'):
    mixed = _mixture(
      builder,
      x,
      kernel=own.array('kernel'),
      bias=own.array('bias'),
      basis=own.array('prompt'),
      least_unit=x.unit,
    )
    return builder.plus('prompted', x, mixed)


def on_aggregate(
  builder: Builder, layer: Any, place: Place, point: Any, s: Wide
) -> Wide | Codes:
  """What `prompted` makes of an aggregate s, with Q the quantizer at a point.

  Behind Q, in placements `post` and `bypass`, the prompt is a wide value, and
  so is the sum.
  """
  spec = layer.prompt
  quantized = lambda v: parts.at_point(builder, layer.scheme, point, place, v)
  if not prompts.PROMPTS[spec.name][1]:
    return quantized(s)
  add = _FORMS.get(spec.form)
  if add is None:
    raise ExportError(f'the prompt form {spec.form!r} has no integers')
  own = place.child('prompt')
  with builder.inside('prompt'):
    if spec.placement == 'pre':
      s = add(builder, spec, own, s, s)
  if spec.placement == 'pre':
    return quantized(s)
  y = parts.widened(builder, f'{point}_values', quantized(s))
  with builder.inside('prompt'):
    return add(builder, spec, own, y, y if spec.placement == 'post' else s)


def _lorap(
  builder: Builder, spec: prompts.PromptSpec, own: Place, y: Wide, seen: Wide
) -> Wide:
  """The value y + softmax(seen W + c) P, the prompt folded."""
  values: dict[str, Any] = {
    name: jnp.asarray(own.params[name]) if name in own.params else None
    for name in lorap_lib.LoRAPParams._fields
  }
  params = lorap_lib.LoRAPParams(**values)
  bits = min(spec.bits, 8)
  folded = _folded(params, bits=bits)
  mixed = _mixture(
    builder,
    seen,
    kernel=_folded_kernel(folded),
    bias=np.asarray(folded.bias, np.float64),
    basis=np.asarray(folded.up, np.float64),
    least_unit=y.unit,
    # A kernel in two factors is not on a grid when they are multiplied.
    bits=8 if folded.score_down is not None else bits,
  )
  return builder.plus('prompted', y, mixed)


def _bias(
  builder: Builder, spec: prompts.PromptSpec, own: Place, y: Wide, seen: Wide
) -> Wide:
  """The value y plus one vector."""
  del spec, seen
  return builder.shifted('prompted', y, own.array('prompt').reshape(-1))


def _adapter(
  builder: Builder, spec: prompts.PromptSpec, own: Place, y: Wide, seen: Wide
) -> Wide:
  """The value y + relu(seen D + c) U."""
  del spec
  product = lambda label, x, name: builder.product(
    label, builder.operand(f'{label}_input', x), *_on_grid(own.array(name))
  )
  hidden = builder.widen(
    'hidden', product('down', seen, 'down'), bias=own.array('bias')
  )
  up = product('up', builder.relu('relu', hidden), 'up')
  return builder.plus('prompted', y, builder.widen('values', up))


_FORMS = {'lorap': _lorap, 'bias': _bias, 'adapter': _adapter}


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
  least_unit: float,
  bits: int = 8,
) -> Wide:
  """softmax(x W + c) P with W and P on grids, in `least_unit` or larger."""
  weights, scale = _on_grid(kernel, bits)
  codes = builder.operand('input', x, weights)
  logits = builder.product('scores', codes, weights, scale)
  shares = builder.soften('shares', logits, bias)
  mixed = builder.product('mixed', shares, *_on_grid(basis, bits))
  return builder.widen('values', mixed, least_unit=least_unit)


def _on_grid(
  matrix: np.ndarray, bits: int = 8
) -> tuple[np.ndarray, np.ndarray]:
  """Codes of `bits` bits and one scale, repeated for each column."""
  qmax = 2 ** (bits - 1) - 1
  scale = np.max(np.abs(matrix), initial=0) / qmax or 1.0
  return np.rint(matrix / scale), np.full(matrix.shape[1], scale)
