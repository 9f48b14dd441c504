"""LoRAP's injection s + softmax(s W + c) A B, 10 prompts of rank 4.

The baseline reads and writes an array of the same size once. The gradient is
that of s and of the prompt's parameters. `fused` is the kernel of
`prompts.lorap_kernel`, which only a GPU runs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import output, timing
from lorap_jax.prompts import init_lorap, lorap_prompt
from lorap_jax.prompts.lorap_kernel import inject_lorap

_SHAPES = ((9062, 110), (169343, 256))
_BASE = 'copy'


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """Measures the theme.

  Args:
    quick: a tenth of the rows of the second array, few repeats.
    data_dir: not used.
  """
  del data_dir
  forms: dict[str, Callable[..., Any]] = {
    '': lambda params, s: s + lorap_prompt(params, s)
  }
  if jax.default_backend() == 'gpu':
    forms['fused '] = inject_lorap
  rows = []
  for num_rows, width in _SHAPES:
    if quick:
      num_rows = min(num_rows, 16934)
    keys = jax.random.split(jax.random.key(0), 3)
    s, ds = (jax.random.normal(k, (num_rows, width)) for k in keys[:2])
    params = init_lorap(keys[2], width, num_prompts=10, rank=4, init='glorot')
    calls = {_BASE: timing.copier(4 * num_rows * width)}
    for form, inject in forms.items():

      @jax.jit
      def both(params, s, ds, inject=inject):
        y, pull = jax.vjp(inject, params, s)
        return y, pull(ds)

      calls[f'{form}forward'] = functools.partial(jax.jit(inject), params, s)
      calls[f'{form}forward + gradient'] = functools.partial(
        both, params, s, ds
      )
    times = timing.measure(calls, rounds=5 if quick else 21)
    shape = f'[{num_rows}, {width}]'
    for name in calls:
      columns = timing.columns(times, name, _BASE)
      rows.append({'s': shape, 'what': name, **columns})
    if 'fused ' not in forms:
      rows.append({'s': shape, 'what': 'fused', 'cpu ms': 'needs a GPU'})
  return rows
