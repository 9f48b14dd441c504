"""Writes integer programs, and bounds every value on the way."""

import numpy as np

from lorap_jax.integers.program import Program
from lorap_jax.integers.quantizers import Quantizers
from lorap_jax.integers.softmax import Softmax
from lorap_jax.integers.values import Codes, ExportError, Wide

__all__ = ['Builder', 'Codes', 'ExportError', 'Wide']


class Builder(Quantizers, Softmax):
  """Collects the nodes of a program.

  `values` has values between quantizers, `quantizers` those, `sums` products
  and sums, `softmax` what prompts and attention need.
  """

  def program(
    self, output: Wide, *, per_graph: bool, num_features: int
  ) -> Program:
    """The finished program."""
    return Program(
      tuple(self.nodes),
      output.name,
      np.float32(output.unit).reshape(1),
      per_graph,
      num_features,
      dict(self.bounds),
    )
