"""Prompts on node features: GPF and GPF-plus."""

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows
from lorap_jax.nn import telemetry
from lorap_jax.nn.linear import uniform_init
from lorap_jax.nn.quantized import Quantized, Rows, real_rows
from lorap_jax.ops import glorot_uniform
from lorap_jax.prompts import gpf as gpf_lib


class GPFPrompt(nn.Module):
  """x + p, one vector for all nodes. Parameter: `prompt` [f].

  Attributes:
    start: `zero` or `glorot`.
  """

  param_groups = 'prompt'

  start: str = 'zero'

  uniform = True  # Adds the same to every node.

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Float[Array, 'n f'] | SparseRows:
    """Adds the prompt to every node."""
    del rows
    prompt = self.param('prompt', _start(self.start), (1, x.shape[1]))
    if isinstance(x, SparseRows):
      return x.plus(None, prompt)
    return gpf_lib.add_gpf(x, prompt[0])


class GPFPlusPrompt(nn.Module):
  """x + softmax(x W + c) P. Parameters: `prompt` [k, f], `kernel`, `bias`.

  Attributes:
    num_prompts: k, number of prompts.
    start: `zero` or `glorot`, of the prompts.
  """

  param_groups = 'prompt'

  num_prompts: int = 10
  start: str = 'zero'

  uniform = False

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'] | SparseRows, *, rows: Rows
  ) -> Float[Array, 'n f'] | SparseRows:
    """Adds each node's mixture of prompts."""
    k, width = self.num_prompts, x.shape[1]
    basis = self.param('prompt', _start(self.start), (k, width))
    uniform = uniform_init(width**-0.5)
    kernel = self.param('kernel', uniform, (width, k))
    bias = self.param('bias', uniform, (k,))
    telemetry.record_product(
      self,
      Quantized(x),  # pyrefly: ignore
      32,
      real_rows(x, rows),
      2 * k * width,
      role='prompt',
    )
    if isinstance(x, SparseRows):
      return x.plus(gpf_lib.gpf_plus_weights(x, kernel, bias), basis)
    return gpf_lib.add_gpf_plus(x, basis, kernel, bias)


def _start(init: str):
  if init == 'zero':
    return nn.initializers.zeros
  return glorot_uniform
