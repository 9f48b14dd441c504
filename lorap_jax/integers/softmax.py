"""Softmax: over columns for prompts, over edges for attention."""

import math

import numpy as np

from lorap_jax.integers.sums import Sums
from lorap_jax.integers.values import Codes, f32

_LOG2_UNIT = 64  # Logits of a softmax are counted in 1 / 64 of an octave.
_LOG2_ENTRIES = 1024
_POWER = 2**13
_SHARE = 2**11


class Softmax(Sums):
  """The part of the builder for softmax."""

  def soften(self, label: str, logits: Codes, bias: np.ndarray) -> Codes:
    """Softmax over the columns, as whole numbers that add up to about 2048."""
    unit = math.log(2) / _LOG2_UNIT
    limit = 2**20
    inputs = {'a': logits.name}
    if logits.row is not None:
      inputs['row'] = logits.row
    shift = np.clip(np.rint(bias / unit), -limit, limit)
    scaled = self.add(
      'scale',
      f'{label}_logits',
      inputs,
      {
        'factor': f32(logits.scale / unit, columns=True),
        'bias': shift.astype(np.int32).reshape(1, -1),
      },
      bound=limit,
      low=-limit,
      high=limit,
    )
    table = np.rint(_POWER * 2.0 ** -(np.arange(_LOG2_ENTRIES) / _LOG2_UNIT))
    name = self.add(
      'soften',
      label,
      {'a': scaled},
      {'table': table.astype(np.int32)},
      bound=_SHARE,
      share=_SHARE,
    )
    return Codes(
      name, np.asarray(1 / _SHARE), np.zeros(()), _SHARE, logits.width
    )
