"""What LoRAP has to beat: adapters of other forms, of its size."""

from typing import NamedTuple

import jax

from lorap_jax._typing import Array, Float
from lorap_jax.ops import matmul
from lorap_jax.prompts.lorap import num_lorap_params


class AdapterParams(NamedTuple):
  """Parameters of a ReLU adapter.

  Attributes:
    down: D [d, h].
    bias: c [h].
    up: U [h, d].
  """

  down: Array
  bias: Array
  up: Array


def relu_adapter(
  params: AdapterParams, s: Float[Array, 'n d']
) -> Float[Array, 'n d']:
  """relu(s D + c) U.

  Args:
    params: D, c and U.
    s: aggregated features [n, d].

  Returns:
    What the caller adds to s, [n, d]; zero wherever U is.
  """
  return jax.nn.relu(matmul(s, params.down) + params.bias[None]) @ params.up


def matched_width(features: int, *, num_prompts: int, rank: int) -> int:
  """Hidden width h of an adapter with about as many parameters as a LoRAP.

  h (2 d + 1) is the nearest to r (k + d) + k (d + 1).

  Args:
    features: d, width of the aggregated feature.
    num_prompts: k, number of prompts.
    rank: r of the low-rank factors.

  Returns:
    h, at least 1.
  """
  count = num_lorap_params(features, num_prompts=num_prompts, rank=rank)
  return max(1, round(count / (2 * features + 1)))
