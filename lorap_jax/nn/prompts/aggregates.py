"""Prompts on aggregated features: LoRAP, and what to compare it with."""

import functools
from typing import Any

import flax.linen as nn
import jax

from lorap_jax._typing import Array, Float
from lorap_jax.nn import telemetry
from lorap_jax.nn.linear import uniform_init
from lorap_jax.nn.quantized import Quantized, Rows, real_rows
from lorap_jax.ops import to_each_row
from lorap_jax.prompts import controls
from lorap_jax.prompts import lorap as lorap_lib


class LoRAPPrompt(nn.Module):
  """softmax(s W + c) A B, to be added to an aggregate s.

  Parameters: `up` B [r, d], `down` A [k, r], `kernel` W [d, k], `bias` c [k].

  Attributes:
    num_prompts: k, number of prompts.
    rank: r of the low-rank factors.
    start: `zero` (B starts at 0) or `glorot`.
    low_rank: which matrices are factored, see `prompts.lorap`.
    bits: 32, or 2..8 for an integer prompt.
    implementation: `xla`, `pallas` or `pallas_interpret`, see `PromptSpec`.
  """

  param_groups = 'prompt'

  num_prompts: int = 10
  rank: int = 4
  start: lorap_lib.Init = 'zero'
  low_rank: lorap_lib.LowRank = 'basis'
  bits: int = 32
  implementation: str = 'xla'

  def __call__(
    self, s: Float[Array, 'n d'], *, rows: Rows
  ) -> Float[Array, 'n d']:
    """The prompt of each row of s."""
    return lorap_lib.lorap_prompt(self._params(s, rows), s, bits=self.bits)

  def inject(
    self, s: Float[Array, 'n d'], *, rows: Rows
  ) -> Float[Array, 'n d']:
    """Adds the prompt to s in one kernel."""
    # Late: a JAX without the kernels' backend should do for all the rest.
    from lorap_jax.prompts import lorap_kernel

    return lorap_kernel.inject_lorap(
      self._params(s, rows),
      s,
      interpret=self.implementation == 'pallas_interpret',
    )

  @nn.compact
  def _params(self, s: Array, rows: Rows) -> lorap_lib.LoRAPParams:
    """The parameters; reports the product that they are for."""
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
    macs = lorap_lib.num_lorap_params(
      width,
      num_prompts=self.num_prompts,
      rank=self.rank,
      low_rank=self.low_rank,
    )
    telemetry.record_product(
      self, Quantized(s), self.bits, real_rows(s, rows), macs, role='prompt'
    )
    return lorap_lib.LoRAPParams(**values)

  def side_width(self) -> int:
    """Numbers per node that a prompt added after Q has to carry.

    The update is linear in its input, so that not the prompt [d] but its
    coordinates travel: the rank, or the k weights where no factor is low-rank
    or the prompt is a folded integer one.
    """
    folded = self.low_rank == 'none' or self.bits != 32
    return self.num_prompts if folded else self.rank


class BiasPrompt(nn.Module):
  """One vector for all nodes: the control without input. Parameter `prompt`."""

  param_groups = 'prompt'

  @nn.compact
  def __call__(self, s: Float[Array, 'n d'], *, rows: Rows) -> Array:
    """The same prompt for every row, as `ops.to_each_row` returns it."""
    del rows
    prompt = self.param('prompt', nn.initializers.zeros, (1, s.shape[1]))
    return to_each_row(prompt, s.shape[0])

  def side_width(self) -> int:
    """0: the vector joins the bias of the update."""
    return 0


class AdapterPrompt(nn.Module):
  """relu(s D + c) U, with as many parameters as LoRAP: the control of its form.

  Parameters: `down` D [d, h], `bias` c [h], `up` U [h, d], which starts at 0.

  Attributes:
    num_prompts: k of the LoRAP to match.
    rank: r of the LoRAP to match.
  """

  param_groups = 'prompt'

  num_prompts: int
  rank: int

  @nn.compact
  def __call__(self, s: Float[Array, 'n d'], *, rows: Rows) -> Array:
    """The adapter's output for each row of s."""
    width = s.shape[1]
    hidden = controls.matched_width(
      width, num_prompts=self.num_prompts, rank=self.rank
    )
    uniform = uniform_init(width**-0.5)
    params = controls.AdapterParams(
      down=self.param('down', uniform, (width, hidden)),
      bias=self.param('bias', uniform, (hidden,)),
      up=self.param('up', nn.initializers.zeros, (hidden, width)),
    )
    macs = 2 * width * hidden
    telemetry.record_product(
      self, Quantized(s), 32, real_rows(s, rows), macs, role='prompt'
    )
    return controls.relu_adapter(params, s)

  def side_width(self) -> int:
    """Hidden units that travel beside the aggregate; see LoRAPPrompt."""
    return self.get_variable('params', 'bias').shape[0]
