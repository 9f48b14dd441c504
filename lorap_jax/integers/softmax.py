"""Softmax: over columns for prompts, over edges for attention."""

import dataclasses
import math

import numpy as np

from lorap_jax.integers import packing
from lorap_jax.integers.program import INT32
from lorap_jax.integers.sums import Sums
from lorap_jax.integers.values import BIAS_BITS, Codes, Wide, f32

_LOG2_UNIT = 32  # Logits are counted in 1 / 32 of an octave,
_UNIT = math.log(2) / _LOG2_UNIT
_LOG2_ENTRIES = 12 * _LOG2_UNIT + 1  # and have a power down to 2**-12.
_LARGEST = 2**20  # Logit.
_POWER = 2**13
_SHARE = 2**11  # Of a prompt's mixture.
_EDGE_SHARE = 2**20  # Of attention, if sums have room.


def _powers() -> np.ndarray:
  """Powers of two in units of 2**-13; the last is 0."""
  powers = 2.0 ** -(np.arange(_LOG2_ENTRIES) / _LOG2_UNIT)
  table = np.rint(_POWER * powers).astype(np.int32)
  table[-1] = 0  # For all that lies further below.
  return table


class Softmax(Sums):
  """The part of the builder for softmax."""

  def soften(self, label: str, logits: Codes, bias: np.ndarray) -> Codes:
    """Softmax over the columns, as whole numbers that add up to about 2048."""
    inputs = {'a': logits.name}
    if logits.row is not None:
      inputs['row'] = logits.row
    shift = np.clip(np.rint(bias / _UNIT), -_LARGEST, _LARGEST)
    shift = packing.short(shift, BIAS_BITS)
    scaled = self.add(
      'scale',
      f'{label}_logits',
      inputs,
      {
        'factor': f32(logits.scale / _UNIT, columns=True),
        'bias': shift.astype(np.int32).reshape(1, -1),
      },
      bound=_LARGEST,
      low=-_LARGEST,
      high=_LARGEST,
    )
    name = self.add(
      'soften',
      label,
      {'a': scaled},
      {'table': _powers()},
      bound=_SHARE,
      share=_SHARE,
    )
    return Codes(
      name, np.asarray(1 / _SHARE), np.zeros(()), _SHARE, logits.width
    )

  def meet(self, label: str, scores: Wide, *, loops: int) -> Wide:
    """The sender's left half plus the receiver's right half, on each edge.

    With `loops` on the self loop of each node.
    """
    bound = 2 * scores.bound
    name = self.add('meet', label, {'a': scores.name}, bound=bound, loops=loops)
    return Wide(name, scores.unit, bound, scores.width // 2)

  def leaky_logits(self, label: str, logits: Codes, slope: float) -> str:
    """LeakyReLU of logits, counted from `_LOG2_ENTRIES` upwards.

    What has no edge has the logit 0, whose power is 0 beside any other.
    """
    zero = np.broadcast_to(logits.zero, (logits.width,))
    start = _LARGEST + _LOG2_ENTRIES
    inputs = {'a': logits.name}
    if logits.row is not None:
      inputs['row'] = logits.row

    def part(side: str, gain: float, shift: int, low: int, high: int) -> str:
      factor = np.asarray(logits.scale) * gain / _UNIT
      bias = np.rint(shift - zero * factor).astype(np.int32)[None]
      return self.add(
        'scale',
        f'{label}_{side}',
        inputs,
        {'factor': f32(factor, columns=True), 'bias': bias},
        bound=high,
        low=low,
        high=high,
      )

    above = part('above', 1.0, 0, 0, _LARGEST)
    below = part('below', slope, start, _LOG2_ENTRIES, start)
    return self.add(
      'add', label, {'a': above, 'b': below}, bound=start + _LARGEST
    )

  def attend(
    self, label: str, message: Codes, edges: str, loops: str | None = None
  ) -> Codes:
    """The messages of the edges into each row, weighed by a softmax.

    Args:
      label: the name of the sum.
      message: codes of nodes, the columns of h heads side by side.
      edges: logits of the edges [e, h], from `leaky_logits`.
      loops: logits of self loops [n, h]; nodes without one get one.
    """
    message = self.summable(label, message)
    # rint(x) <= 2 x: all shares of a row add up to twice the whole at most.
    share = _EDGE_SHARE
    while 2 * share * message.bound > INT32:
      share //= 2
    bound = 2 * share * message.bound
    shares = self._shares(label, share, edges, loops)
    name = self.add(
      'sum_edges',
      f'{label}_edges',
      {'a': message.name, 'weight': shares[0]},
      bound=bound,
    )
    if loops is not None:
      inputs = {'a': message.name, 'row': shares[1]}
      own = self.add('weigh', f'{label}_own', inputs, bound=bound)
      name = self.add('add', label, {'a': name, 'b': own}, bound=bound)
    return dataclasses.replace(
      message, name=name, scale=np.asarray(message.scale) / share, bound=bound
    )

  def _shares(
    self, label: str, share: int, edges: str, loops: str | None
  ) -> list[str]:
    """Softmax in units of 1 / share, of the edges and of the self loops."""
    logits, start, largest = [edges], {}, self.bounds[edges]
    if loops is not None:
      added = self.add(
        'add_loops', f'{label}_loops', {}, bound=self.max_degree, keep=0
      )
      added = self.add('relu', f'{label}_added', {'a': added}, bound=1)
      inputs = {'a': loops, 'row': added}
      loops = self.add('weigh', f'{label}_own_logits', inputs, bound=largest)
      logits, start = [edges, loops], {'b': loops}
    peak = self.add(
      'max_into', f'{label}_peak', {'a': edges, **start}, bound=largest
    )
    powers = [
      self.add(
        'powers',
        f'{label}_powers',
        {'a': name, 'b': peak},
        {'table': _powers()},
        bound=_POWER,
        loops=rows,
      )
      for rows, name in enumerate(logits)
    ]
    bound = _POWER * self.max_degree
    total = self.add(
      'sum_into', f'{label}_of_edges', {'a': powers[0]}, bound=bound
    )
    if loops is not None:
      inputs = {'a': total, 'b': powers[1]}
      total = self.add('add', f'{label}_total', inputs, bound=bound + _POWER)
    return [
      self.add(
        'shares',
        f'{label}_shares',
        {'a': name, 'b': total},
        bound=share,
        share=share,
        loops=rows,
      )
      for rows, name in enumerate(powers)
    ]
