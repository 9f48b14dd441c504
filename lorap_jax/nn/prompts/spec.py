"""Which prompts a model has."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax

from lorap_jax.nn.prompts.aggregates import (
  AdapterPrompt,
  BiasPrompt,
  LoRAPPrompt,
)
from lorap_jax.nn.prompts.nodes import GPFPlusPrompt, GPFPrompt
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
    form: `lorap`, or a control in its place: `bias`, one vector for all nodes,
      or `adapter`, relu(s D + c) U with as many parameters.
    objective: `task`, `local` or `both`, see `placement.prompted`.
    implementation: `xla`, or `pallas` to compute s + p(s) in one kernel on a
      GPU, see `prompts.lorap_kernel`; `pallas_interpret` runs that kernel
      slowly on any device, for tests.
  """

  name: str = 'none'
  placement: Placement = 'pre'
  num_prompts: int = 10
  rank: int = 4
  init: lorap_lib.Init = 'zero'
  node_init: lorap_lib.Init = 'zero'
  low_rank: lorap_lib.LowRank = 'basis'
  bits: int = 32
  form: Literal['lorap', 'bias', 'adapter'] = 'lorap'
  objective: Literal['task', 'local', 'both'] = 'task'
  implementation: Literal['xla', 'pallas', 'pallas_interpret'] = 'xla'

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
      ('form', ('lorap', 'bias', 'adapter')),
      ('objective', ('task', 'local', 'both')),
      ('implementation', ('xla', 'pallas', 'pallas_interpret')),
    )
    for field, allowed in choices:
      value = getattr(self, field)
      if value not in allowed:
        raise ValueError(f'`{field}` must be one of {allowed}, got {value!r}')
    if self.objective != 'task' and self.placement == 'pre':
      raise ValueError(
        f"`objective` {self.objective!r} needs `placement` 'post' or 'bypass'"
      )
    if self.implementation != 'xla':
      self._check_kernel()

  def _check_kernel(self) -> None:
    what = f'`implementation` {self.implementation!r}'
    for field, needed in (
      ('placement', 'pre'),
      ('form', 'lorap'),
      ('low_rank', 'basis'),
      ('bits', 32),
    ):
      value = getattr(self, field)
      if value != needed:
        raise ValueError(
          f"{what} needs `{field}` {needed!r}, got {value!r}; use 'xla'"
        )
    backend = jax.default_backend()
    if self.implementation == 'pallas' and backend != 'gpu':
      raise ValueError(
        f"{what} needs a GPU, but runs on {backend!r}; use 'xla'"
      )

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

  def on_aggregate(self) -> Any:
    """A new prompt on the aggregate, or None."""
    if not PROMPTS[self.name][1]:
      return None
    if self.form == 'bias':
      return BiasPrompt(name='prompt')
    if self.form == 'adapter':
      return AdapterPrompt(
        num_prompts=self.num_prompts, rank=self.rank, name='prompt'
      )
    return LoRAPPrompt(
      num_prompts=self.num_prompts,
      rank=self.rank,
      start=self.init,
      low_rank=self.low_rank,
      bits=self.bits,
      implementation=self.implementation,
      name='prompt',
    )
