"""Prompt adapters: what is added to node features and to aggregates."""

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Bool, Float
from lorap_jax.nn import telemetry
from lorap_jax.nn.linear import uniform_init
from lorap_jax.nn.telemetry import Quantized
from lorap_jax.prompts import gpf as gpf_lib
from lorap_jax.prompts import lorap as lorap_lib

Placement = Literal['pre', 'post', 'bypass']
PLACEMENTS = ('pre', 'post', 'bypass')

# name -> (prompt on node features, LoRAP on aggregates)
PROMPTS = {
  'none': (None, False),
  'gpf': ('gpf', False),
  'gpf_plus': ('gpf_plus', False),
  'lorap': (None, True),
  'gpf_lorap': ('gpf', True),
  'gpf_plus_lorap': ('gpf_plus', True),
}


@dataclasses.dataclass(frozen=True)
class PromptSpec:
  """Which prompts a model has. Its two hooks make the modules.

  Attributes:
    name: `none`, `gpf`, `gpf_plus`, `lorap`, `gpf_lorap`, `gpf_plus_lorap`.
    placement: where LoRAP is added, with s the aggregate and Q its quantizer:
      `pre` Q(s + p(s)), `post` Q(s) + p(Q(s)), `bypass` Q(s) + p(s).
    num_prompts: k of LoRAP and of GPF-plus.
    rank: r of LoRAP.
    init: `zero` (B = 0) or `glorot`, for LoRAP.
    node_init: `zero` or `glorot`, for GPF and GPF-plus. Both papers start
      from Glorot; a shift shared by all nodes is multiplied by the degree in
      a sum, which is why zero is the default here.
    low_rank: `basis`, `basis_and_score` or `none`, see `prompts.lorap`.
    bits: 32, or 2..8 for an integer LoRAP prompt.
  """

  name: str = 'none'
  placement: Placement = 'pre'
  num_prompts: int = 10
  rank: int = 4
  init: lorap_lib.Init = 'zero'
  node_init: lorap_lib.Init = 'zero'
  low_rank: lorap_lib.LowRank = 'basis'
  bits: int = 32

  def __post_init__(self):
    lorap_lib.check_lorap(
      num_prompts=self.num_prompts,
      rank=self.rank,
      init=self.init,
      low_rank=self.low_rank,
    )
    choices = (
      ('name', tuple(PROMPTS)),
      ('placement', PLACEMENTS),
      ('node_init', ('zero', 'glorot')),
      ('bits', (2, 3, 4, 5, 6, 7, 8, 32)),
    )
    for field, allowed in choices:
      value = getattr(self, field)
      if value not in allowed:
        raise ValueError(f'`{field}` must be one of {allowed}, got {value!r}')

  def on_nodes(self) -> nn.Module | None:
    """A new node prompt, or None."""
    kind = PROMPTS[self.name][0]
    if kind == 'gpf':
      return GPFPrompt(start=self.node_init, name='node_prompt')
    if kind == 'gpf_plus':
      return GPFPlusPrompt(
        num_prompts=self.num_prompts, start=self.node_init, name='node_prompt'
      )
    return None

  def on_aggregate(self) -> 'LoRAPPrompt | None':
    """A new LoRAP prompt, or None."""
    if not PROMPTS[self.name][1]:
      return None
    return LoRAPPrompt(
      num_prompts=self.num_prompts,
      rank=self.rank,
      start=self.init,
      low_rank=self.low_rank,
      bits=self.bits,
      name='prompt',
    )


class GPFPrompt(nn.Module):
  """x + p, one vector for all nodes. Parameter: `prompt` [f].

  Attributes:
    start: `zero` or `glorot`.
  """

  start: str

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, mask: Bool[Array, 'n 1']
  ) -> Float[Array, 'n f']:
    """Adds the prompt to every node."""
    del mask
    prompt = self.param('prompt', _start(self.start), (1, x.shape[1]))
    return gpf_lib.add_gpf(x, prompt[0])


class GPFPlusPrompt(nn.Module):
  """x + softmax(x W + c) P. Parameters: `prompt` [k, f], `kernel`, `bias`.

  Attributes:
    num_prompts: k.
    start: `zero` or `glorot`, of the prompts.
  """

  num_prompts: int
  start: str

  @nn.compact
  def __call__(
    self, x: Float[Array, 'n f'], *, mask: Bool[Array, 'n 1']
  ) -> Float[Array, 'n f']:
    """Adds each node's mixture of prompts."""
    k, width = self.num_prompts, x.shape[1]
    basis = self.param('prompt', _start(self.start), (k, width))
    uniform = uniform_init(width**-0.5)
    kernel = self.param('kernel', uniform, (width, k))
    bias = self.param('bias', uniform, (k,))
    telemetry.report_product(self, Quantized(x), 32, mask, 2 * k * width)
    return gpf_lib.add_gpf_plus(x, basis, kernel, bias)


class LoRAPPrompt(nn.Module):
  """softmax(s W + c) A B, to be added to s by `prompted`.

  Parameters: `up` B [r, d], `down` A [k, r], `kernel` W [d, k], `bias` c [k].

  Attributes:
    num_prompts: k.
    rank: r.
    start: `zero` or `glorot`.
    low_rank: which matrices are factored, see `prompts.lorap`.
    bits: 32, or 2..8 for an integer prompt.
  """

  num_prompts: int
  rank: int
  start: lorap_lib.Init
  low_rank: lorap_lib.LowRank
  bits: int

  @nn.compact
  def __call__(
    self, s: Float[Array, 'n d'], *, mask: Bool[Array, 'n 1']
  ) -> Float[Array, 'n d']:
    """The prompt of each row of s."""
    width = s.shape[1]
    create = functools.partial(
      lorap_lib.init_lorap,
      features=width,
      num_prompts=self.num_prompts,
      rank=self.rank,
      init=self.start,
      low_rank=self.low_rank,
    )
    fields = lorap_lib.LoRAPParams._fields
    shapes = jax.eval_shape(create, jax.random.key(0))
    values: dict[str, Any] = {
      name: None
      if shape is None
      else self.param(name, lambda key, n=name: getattr(create(key), n))
      for name, shape in zip(fields, shapes, strict=True)
    }
    params = lorap_lib.LoRAPParams(**values)
    macs = lorap_lib.num_lorap_params(
      width,
      num_prompts=self.num_prompts,
      rank=self.rank,
      low_rank=self.low_rank,
    )
    telemetry.report_product(self, Quantized(s), self.bits, mask, macs)
    return lorap_lib.lorap_prompt(params, s, bits=self.bits)

  def side_width(self) -> int:
    """Numbers per node that a prompt added after Q has to carry.

    The update is linear in its input, so that not the prompt [d] but its
    coordinates travel: the rank, or the k weights where no factor is low-rank
    or the prompt is a folded integer one.
    """
    folded = self.low_rank == 'none' or self.bits != 32
    return self.num_prompts if folded else self.rank


def prompted(
  prompt: LoRAPPrompt | None, placement: Placement, quantizer, s, *, mask
) -> Quantized:
  """Quantizes an aggregate with its prompt.

  Args:
    prompt: adapter, or None for Q(s).
    placement: `pre` Q(s + p(s)), `post` Q(s) + p(Q(s)), `bypass` Q(s) + p(s).
    quantizer: Q, from an array to `Quantized`.
    s: aggregate [n, d] in full precision, the accumulator.
    mask: [n, 1], True for real rows.

  Returns:
    What the update receives. With `post` and `bypass` the sum is no longer on
    the grid of Q; the coordinates of the prompt are a full-precision side
    path, which the telemetry counts.
  """
  if prompt is None:
    return quantizer(s)
  if placement == 'pre':
    return quantizer(s + prompt(s, mask=mask))
  y = quantizer(s)
  delta = prompt(y.values if placement == 'post' else s, mask=mask)
  row_bits = jnp.float32(telemetry.FULL_BITS * prompt.side_width())
  prompt.sow(
    telemetry.COLLECTION,
    'side_path',
    telemetry.SideReport(row_bits, mask[:, 0]),
  )
  return Quantized(y.values + delta, y.bits)


def _start(init: str):
  if init == 'zero':
    return nn.initializers.zeros
  return nn.initializers.glorot_uniform()
