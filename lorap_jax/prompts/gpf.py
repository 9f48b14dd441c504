"""Prompts on node features: GPF and GPF-plus.

References:
  Fang, Zhang, Yang, Wang, Chen: Universal Prompt Tuning for Graph Neural
  Networks, NeurIPS 2023, arXiv 2209.15240.
"""

from typing import Any

import jax

from lorap_jax._typing import Array, Float
from lorap_jax.ops import matmul, to_each_row


def add_gpf(x: Float[Array, 'n f'], prompt: Float[Array, 'f']) -> Array:
  """One vector for every node: x_i + p.

  Args:
    x: node features [n, f].
    prompt: p [f].

  Returns:
    Prompted features [n, f].
  """
  return x + to_each_row(prompt[None, :], x.shape[0])


def add_gpf_plus(
  x: Float[Array, 'n f'],
  basis: Float[Array, 'k f'],
  kernel: Float[Array, 'f k'],
  bias: Float[Array, 'k'],
) -> Array:
  """A mixture of k vectors for each node: x_i + softmax(x_i W + c) P.

  Args:
    x: node features [n, f].
    basis: P [k, f].
    kernel: W [f, k].
    bias: c [k].

  Returns:
    Prompted features [n, f].
  """
  return x + gpf_plus_weights(x, kernel, bias) @ basis


def gpf_plus_weights(
  x: Any, kernel: Float[Array, 'f k'], bias: Float[Array, 'k']
) -> Float[Array, 'n k']:
  """The weights softmax(x_i W + c) of a mixture of prompts.

  Args:
    x: node features [n, f], or anything that multiplies W.
    kernel: W [f, k].
    bias: c [k].

  Returns:
    [n, k].
  """
  return jax.nn.softmax(matmul(x, kernel) + bias[None, :], axis=-1)
