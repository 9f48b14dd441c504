"""Which prompts a model has."""

import dataclasses
from collections.abc import Callable
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

# On node features: from the spec to a module.
NODE_PROMPTS: dict[str, Callable[['PromptSpec'], nn.Module]] = {
  'gpf': lambda spec: GPFPrompt(start=spec.node_init, name='node_prompt'),
  'gpf_plus': lambda spec: GPFPlusPrompt(
    num_prompts=spec.num_prompts, start=spec.node_init, name='node_prompt'
  ),
}
# On aggregates: LoRAP, and forms to compare it with.
FORMS: dict[str, Callable[['PromptSpec'], nn.Module]] = {
  'lorap': lambda spec: LoRAPPrompt(
    num_prompts=spec.num_prompts,
    rank=spec.rank,
    start=spec.init,
    low_rank=spec.low_rank,
    bits=spec.bits,
    implementation=spec.implementation,
    name='prompt',
  ),
  'bias': lambda spec: BiasPrompt(name='prompt'),
  'adapter': lambda spec: AdapterPrompt(
    num_prompts=spec.num_prompts, rank=spec.rank, name='prompt'
  ),
}
# name -> (prompt on node features, whether aggregates have one)
PROMPTS: dict[str, tuple[str | None, bool]] = {
  'none': (None, False),
  **{name: (name, False) for name in NODE_PROMPTS},
  'lorap': (None, True),
  **{f'{name}_lorap': (name, True) for name in NODE_PROMPTS},
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
  form: str = 'lorap'
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
      ('form', tuple(FORMS)),
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
    kind, _ = PROMPTS[self.name]
    return None if kind is None else NODE_PROMPTS[kind](self)

  def on_aggregate(self) -> Any:
    """A new prompt on the aggregate, or None."""
    _, on_sums = PROMPTS[self.name]
    return FORMS[self.form](self) if on_sums else None
