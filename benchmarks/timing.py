"""Times variants of one computation in turn: A B C A B C ...

What else happens on the machine then meets all variants alike, and a ratio is
taken within each round before the median over rounds.
"""

import concurrent.futures
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

_SHORTEST = 0.02  # Seconds: calls that take less are repeated in one sample.


class Stats(NamedTuple):
  """Of several values.

  Attributes:
    median: of them.
    low: the smallest.
    high: the largest.
  """

  median: float
  low: float
  high: float


class Times(NamedTuple):
  """Seconds per call of one variant, round by round.

  Attributes:
    wall: elapsed.
    cpu: user and system time of all threads of the process.
  """

  wall: list[float]
  cpu: list[float]


def stats(values: list[float]) -> Stats:
  """Median, smallest and largest."""
  return Stats(statistics.median(values), min(values), max(values))


def measure(
  variants: dict[str, Callable[[], Any]], *, rounds: int
) -> dict[str, Times]:
  """Times the variants in turn, after two calls of each to warm up.

  Args:
    variants: by name; what they return is waited for.
    rounds: samples per variant.

  Returns:
    The times, by name.
  """
  repeats = {}
  for name, variant in variants.items():
    jax.block_until_ready(variant())
    once = _sample(variant, 1)[0]
    repeats[name] = max(1, math.ceil(_SHORTEST / max(once, 1e-9)))
  times = {name: Times([], []) for name in variants}
  for _ in range(rounds):
    for name, variant in variants.items():
      wall, cpu = _sample(variant, repeats[name])
      times[name].wall.append(wall)
      times[name].cpu.append(cpu)
  return times


def _sample(variant: Callable[[], Any], repeats: int) -> tuple[float, float]:
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(repeats):
    jax.block_until_ready(variant())
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return wall / repeats, cpu / repeats


def ratio(of: list[float], to: list[float]) -> Stats:
  """Statistics of the ratios within each round."""
  return stats([a / b for a, b in zip(of, to, strict=True)])


def columns(times: dict[str, Times], name: str, base: str) -> dict[str, Stats]:
  """The columns of a variant: milliseconds, and ratios to a baseline.

  Args:
    times: from `measure`.
    name: the variant.
    base: the baseline.

  Returns:
    By heading.
  """
  own, other = times[name], times[base]
  return {
    'cpu ms': stats([1e3 * t for t in own.cpu]),
    'wall ms': stats([1e3 * t for t in own.wall]),
    f'cpu / {base}': ratio(own.cpu, other.cpu),
    f'wall / {base}': ratio(own.wall, other.wall),
  }


def usable_cores() -> int:
  """Cores that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def copier(num_bytes: int) -> Callable[[], None]:
  """A call that reads so many bytes once and writes as many.

  All usable cores share the work; numpy copies without holding the lock.

  Args:
    num_bytes: read by a call.
  """
  cores = usable_cores()
  source = np.ones(num_bytes // 4, np.float32)
  pairs = list(
    zip(
      np.array_split(source, cores),
      np.array_split(np.zeros_like(source), cores),
      strict=True,
    )
  )
  pool = concurrent.futures.ThreadPoolExecutor(cores)

  def copy():
    list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))

  return copy
