"""LoRAP: low-rank prompts on aggregated features.

    s^_i = s_i + softmax(s_i W + c) A B

s_i is the aggregated feature of node i, A [k, r] and B [r, d] hold k prompts
of rank r, and the scores W [d, k], c [k] make the prompt depend on the node.

What is known and what is inferred. The paper's abstract and summaries say:
injected after the aggregation, in every layer, dependent on the node's own
input, composed of a small low-rank basis. The equation above is inferred from
that and from GPF-plus, of which it is the low-rank form on s; which factor is
low-rank is therefore an argument.

| `low_rank`        | prompts  | scores     | parameters               |
|-------------------|----------|------------|--------------------------|
| `basis`           | A B      | W          | r (k + d) + k (d + 1)    |
| `basis_and_score` | A B      | W1 W2      | r (k + d) + r (k + d) + k|
| `none`            | P        | W          | k d + k (d + 1)          |

References:
  Liu, Li, Rossi: LoRAP: Low-Rank Aggregation Prompting for Quantized Graph
  Neural Networks Training, 2026, arXiv 2601.15079.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Float, Key
from lorap_jax.ops import combine, glorot_uniform, matmul, uniform
from lorap_jax.quantization import numerics

LowRank = Literal['basis', 'basis_and_score', 'none']
Init = Literal['zero', 'glorot']


class LoRAPParams(NamedTuple):
  """Parameters of one LoRAP prompt. `None` marks a factor not in use.

  Attributes:
    up: B [r, d], or the dense prompts P [k, d] with `low_rank='none'`.
    down: A [k, r].
    kernel: W [d, k], or its second factor W2 [r, k].
    bias: c [k].
    score_down: W1 [d, r] with `low_rank='basis_and_score'`.
  """

  up: Array
  down: Array | None
  kernel: Array
  bias: Array
  score_down: Array | None


def init_lorap(
  key: Key[Array, ''],
  features: int,
  *,
  num_prompts: int = 10,
  rank: int = 4,
  init: Init = 'zero',
  low_rank: LowRank = 'basis',
) -> LoRAPParams:
  """Initial LoRAP parameters.

  The scores start as torch's Linear does, uniform in +-1/sqrt(d). The prompts
  start with A and B Glorot uniform (`glorot`), or with B = 0 (`zero`), which
  makes the first step exactly the un-prompted network.

  Args:
    key: typed random key.
    features: d, width of the aggregated feature.
    num_prompts: k, at least 1.
    rank: r, at least 1.
    init: `zero` or `glorot`.
    low_rank: which factors are low-rank: `basis`, `basis_and_score` or `none`.

  Returns:
    Float32 parameters.

  Raises:
    ValueError: num_prompts or rank below 1, unknown init or low_rank.
  """
  check_lorap(num_prompts=num_prompts, rank=rank, init=init, low_rank=low_rank)
  keys = jax.random.split(key, 5)

  def fan_in(key, shape):
    return uniform(key, shape, shape[0] ** -0.5)

  rows = num_prompts if low_rank == 'none' else rank
  up = glorot_uniform(keys[0], (rows, features))
  factored = low_rank == 'basis_and_score'
  return LoRAPParams(
    up=jnp.zeros_like(up) if init == 'zero' else up,
    down=None
    if low_rank == 'none'
    else glorot_uniform(keys[1], (num_prompts, rank)),
    kernel=fan_in(keys[2], (rank if factored else features, num_prompts)),
    bias=uniform(keys[3], (num_prompts,), features**-0.5),
    score_down=fan_in(keys[4], (features, rank)) if factored else None,
  )


def lorap_prompt(
  params: LoRAPParams, s: Float[Array, 'n d'], *, bits: int = 32
) -> Float[Array, 'n d']:
  """The prompt softmax(s W + c) A B itself; the caller adds it.

  Computed as (softmax A) B, which is the cheaper order to differentiate.

  Args:
    params: full-precision parameters, from `init_lorap`.
    s: aggregated features [n, d], what the scores are computed from.
    bits: 32 for a full-precision prompt; 2 to 8 for an integer prompt, whose
      prompts and scores are put on a grid (see `quantize_prompt`).

  Returns:
    The prompt of each node [n, d]. Zero wherever `up` is zero.
  """
  if bits != 32:
    params = quantize_prompt(params, bits=bits)
  if params.score_down is not None:
    s = matmul(s, params.score_down)
  weights = jax.nn.softmax(
    matmul(s, params.kernel) + params.bias[None, :], axis=-1
  )
  if params.down is not None:
    weights = weights @ params.down
  return combine(weights, params.up)


def quantize_prompt(params: LoRAPParams, *, bits: int) -> LoRAPParams:
  """The integer form of a prompt: every matrix on a per-tensor grid.

  A and B are folded into P = A B, the form that inference uses, before P is
  quantized. Each matrix M becomes s round(M / s) with s = max|M| / qmax and
  qmax = 2**(bits-1) - 1. Score biases stay in full precision.

  Args:
    params: full-precision parameters, from `init_lorap`.
    bits: bits per entry, 2 to 8.

  Returns:
    Parameters with `down` None and `up` = P [k, d].

  Gradient:
    Straight through to A, B and W; s is a constant.

  Raises:
    ValueError: bits outside 2..8.
  """
  if not 2 <= bits <= 8:
    raise ValueError(
      f'`bits` of a prompt must be in 2..8, or 32 for none, got {bits}'
    )
  dense = params.up if params.down is None else params.down @ params.up
  on_grid = functools.partial(_on_grid, qmax=2 ** (bits - 1) - 1)
  return LoRAPParams(
    up=on_grid(dense),
    down=None,
    kernel=on_grid(params.kernel),
    bias=params.bias,
    score_down=None
    if params.score_down is None
    else on_grid(params.score_down),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _on_grid(matrix: Array, qmax: int) -> Array:
  scale = numerics.divide(jnp.max(jnp.abs(matrix)), qmax)
  scale = jnp.where(scale > 0, scale, 1)
  return jnp.round(numerics.divide(matrix, scale)) * scale


_on_grid.defvjp(
  lambda matrix, qmax: (_on_grid(matrix, qmax), None),
  lambda qmax, _, dy: (dy,),
)


def num_lorap_params(
  features: int,
  *,
  num_prompts: int,
  rank: int,
  low_rank: LowRank = 'basis',
) -> int:
  """Number of parameters of one prompt: the table of the module.

  Args:
    features: d, width of the aggregated feature.
    num_prompts: k, number of prompts.
    rank: r of the low-rank factors.
    low_rank: which matrices are factored.

  Returns:
    The count.
  """
  factored = rank * (num_prompts + features)
  dense = num_prompts * features
  basis = dense if low_rank == 'none' else factored
  score = factored if low_rank == 'basis_and_score' else dense
  return basis + score + num_prompts


def check_lorap(
  *, num_prompts: int, rank: int, init: str, low_rank: str
) -> None:
  """Raises ValueError for hyper-parameters that no prompt can have."""
  for name, value in (('num_prompts', num_prompts), ('rank', rank)):
    if value < 1:
      raise ValueError(f'`{name}` must be at least 1, got {value}')
  if init not in ('zero', 'glorot'):
    raise ValueError(f"`init` must be 'zero' or 'glorot', got {init!r}")
  if low_rank not in ('basis', 'basis_and_score', 'none'):
    raise ValueError(
      "`low_rank` must be 'basis', 'basis_and_score' or 'none', got "
      f'{low_rank!r}'
    )
