"""Operations of `lorap_jax.ops` against their plain forms.

`times` is the plain form's time over ours: at 1.05 or less an operation may go.
Of `uniform` it is the time to compile.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import output, timing
from lorap_jax import ops
from lorap_jax.quantization import a2q, numerics


def run(quick: bool, data_dir: str | None) -> list[output.Row]:
  """A row for each operation."""
  del data_dir
  rows = 1000 if quick else 10000
  rounds = 3 if quick else 15
  key = jax.random.key(0)
  draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
  x, senders = draw(0, rows, 110), jnp.argsort(draw(1, 8 * rows)) % rows
  programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    'matmul': (_of_matmul, (x, draw(2, 110, 10), draw(3, rows, 10))),
    'combine': (_of_combine, (draw(4, rows, 4), draw(5, 4, 110), x)),
    'computed_once': (_of_computed_once, (x, draw(6, 1, 110))),
    'pass_where': (_of_pass_where, (x, senders)),
    'sort_key': (_of_sort_key, (draw(7, 64 * rows),)),
  }
  found = []
  for name, (program, arguments) in programs.items():
    one = jax.jit(functools.partial(program, getattr(ops, name)))
    other = jax.jit(functools.partial(program, ops.PLAIN[name]))
    times = timing.measure(
      {
        'ours': functools.partial(one, *arguments),
        'plain': functools.partial(other, *arguments),
      },
      rounds=rounds,
    )
    ratios = [
      p / o
      for p, o in zip(times['plain'].wall, times['ours'].wall, strict=True)
    ]
    found.append({'operation': name, 'times': timing.stats(ratios).median})
  compiling = [
    _seconds(ops.PLAIN['uniform'], i) / _seconds(ops.uniform, i)
    for i in range(rounds)
  ]
  times = timing.stats(compiling).median
  found.append({'operation': 'uniform', 'times': times})
  return found


def _of_matmul(matmul, x, kernel, dy):
  y, pull = jax.vjp(matmul, x, kernel)
  return y, pull(dy)


def _of_combine(combine, weights, basis, x):
  return jax.value_and_grad(
    lambda w, b: jnp.sum(jax.nn.relu(x + combine(w, b))), (0, 1)
  )(weights, basis)


def _of_computed_once(computed_once, x, bits):
  """As a quantizer with a bit-width for each column."""
  qmax = computed_once(numerics.symmetric_qmax(a2q.round_bits(bits)))
  return jnp.floor(jnp.minimum(jnp.abs(x), qmax) + 0.5)


def _of_pass_where(pass_where, x, senders):
  """As the gradient of messages, which neighbours gather."""
  dx = pass_where(jnp.abs(x) <= 3 * jnp.abs(x[:, :1]), x)
  return jnp.sum(dx[senders.reshape(-1, 8)], axis=1)


def _of_sort_key(sort_key, x):
  return jnp.sort(sort_key(x))


def _seconds(uniform, i: int) -> float:
  """The time to compile the start of a matrix, of another size each time."""
  start = time.perf_counter()
  shape = 110 + i, 10
  jax.jit(lambda key: uniform(key, shape, 0.3)).lower(
    jax.random.key(0)
  ).compile()
  return time.perf_counter() - start
