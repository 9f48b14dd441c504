"""Runs side by side: gains over no prompt, published figures, differences."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lorap_jax.reports import published
from lorap_jax.reports.collect import FinishedRun
from lorap_jax.runs import cells
from lorap_jax.runs.fields import FREE

# Settings of one repetition.
_REPEATED = ('seed', 'seeds', 'folds', 'data.fold')
# Settings that a run without prompts does not have.
_OF_PROMPTS = ('prompt.', 'optim.prompt_')


class Gain(NamedTuple):
  """What a prompt gains over none; positive is better, for errors too.

  Attributes:
    mean: mean of the paired differences, or difference of the means.
    error: standard error of `mean`, None if there are too few.
    count: pairs, or runs with the prompt.
    count_none: pairs, or runs without.
    paired: over the same seeds and folds.
  """

  mean: float
  error: float | None
  count: int
  count_none: int
  paired: bool


@dataclasses.dataclass(frozen=True)
class Row:
  """A run beside others.

  Attributes:
    run: the run.
    gain: gain over no prompt, or None.
    no_gain: why there is none, '' for a run without prompts.
    figures: published ones of the cell; none if the data do not compare.
    differs: settings in which the run differs from the first of its cell.
  """

  run: FinishedRun
  gain: Gain | None
  no_gain: str
  figures: tuple[published.Figure, ...]
  differs: tuple[str, ...]


def compare(runs: Sequence[FinishedRun]) -> list[Row]:
  """Sorts runs and lays each beside those that it compares with.

  Args:
    runs: in the order that decides which one of a cell is the first.

  Returns:
    One row for each.
  """
  first: dict[tuple[str, ...], FinishedRun] = {}
  rows = []
  for run in runs:
    differs = differences(first.setdefault(run.cell, run), run, free=FREE)
    found, reason = gain(run, runs)
    figures: tuple[published.Figure, ...] = ()
    if run.comparable:
      figures = published.find(
        run.dataset, run.backbone, run.quantizer, run.prompt, run.metric
      )
    rows.append(Row(run, found, reason, figures, tuple(differs)))
  return sorted(rows, key=lambda row: _order(row.run))


def _order(run: FinishedRun) -> tuple[Any, ...]:
  place = lambda names, name: (
    names.index(name) if name in names else len(names),
    name,
  )
  return (
    run.dataset,
    run.data_name,
    run.backbone,
    place(tuple(cells.QUANTIZERS), run.quantizer),
    place(cells.PROMPTS, run.prompt),
    run.placement,
  )


def differences(
  a: FinishedRun, b: FinishedRun, *, free: tuple[str, ...] = ()
) -> list[str]:
  """The settings in which two runs differ, as dotted paths.

  Args:
    a: the one run.
    b: the other run.
    free: starts of paths that may differ.

  Returns:
    Sorted paths.
  """
  missing = object()
  old, new = a.settings, b.settings
  return sorted(
    path
    for path in old.keys() | new.keys()
    if old.get(path, missing) != new.get(path, missing)
    and not path.startswith(free)
  )


def gain(
  run: FinishedRun, runs: Sequence[FinishedRun]
) -> tuple[Gain | None, str]:
  """What a run gains over those without prompts that are else like it.

  With test metrics t of the prompt and u of none, and the sign of better, the
  paired gain over n common (seed, fold) is mean(d), d = +-(t - u), with the
  standard error std(d) / sqrt(n). Without a common one it is +-(mean(t) -
  mean(u)), with sqrt(var(t) / n_t + var(u) / n_u).

  Args:
    run: with a prompt, or without.
    runs: among which to look.

  Returns:
    The gain, or None with the reason.
  """
  if run.prompt == 'none':
    return None, ''
  plain = [r for r in runs if r.prompt == 'none' and r.host == run.host]
  if not plain:
    return None, 'no run without prompts'
  free = (*FREE, *_REPEATED, *_OF_PROMPTS)
  apart = [differences(r, run, free=free) for r in plain]
  if all(apart):
    nearest = ', '.join(min(apart, key=len))
    return None, f'no run without prompts that has the same {nearest}'
  base: dict[tuple[int, int], float] = {}
  for other, paths in zip(plain, apart, strict=True):
    if not paths:
      base = other.members | base
  return _gain(run.members, base, -1 if run.metric == 'mae' else 1), ''


def _gain(
  prompted: dict[tuple[int, int], float],
  base: dict[tuple[int, int], float],
  sign: int,
) -> Gain:
  common = sorted(prompted.keys() & base.keys())
  if common:
    found = np.array([sign * (prompted[k] - base[k]) for k in common])
    n = len(common)
    error = float(np.std(found, ddof=1) / n**0.5) if n > 1 else None
    return Gain(float(np.mean(found)), error, n, n, paired=True)
  sides = [np.array(list(side.values())) for side in (prompted, base)]
  mean = sign * float(np.mean(sides[0]) - np.mean(sides[1]))
  error = None
  if all(side.size > 1 for side in sides):
    error = float(sum(np.var(s, ddof=1) / s.size for s in sides) ** 0.5)
  return Gain(mean, error, sides[0].size, sides[1].size, paired=False)
