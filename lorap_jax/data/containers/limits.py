"""A few items of each split, for quick runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lorap_jax.data.containers.dataset import DataSplits
from lorap_jax.data.containers.images import ImageSplits
from lorap_jax.data.containers.splits import SPLITS, permutation

_SEED = 20
_Splits = TypeVar('_Splits', DataSplits, ImageSplits)


def check_limit(limit: Sequence[int] | None) -> None:
  """Checks what the user gives as `limit`, before any work.

  Raises:
    ValueError: it is neither None nor three positive numbers.
  """
  if limit is not None and (len(limit) != 3 or min(limit) < 1):
    raise ValueError(
      f'limit is {tuple(limit)}; give three positive numbers (train, valid, '
      'test) or None.'
    )


def limited(whole: _Splits, limit: Sequence[int] | None, what: str) -> _Splits:
  """Keeps a few items of each split, and records that the others are missing.

  A smaller limit keeps a part of what a larger one keeps: the first items in
  the order `splits.permutation(n, [20])`.

  Args:
    whole: the splits.
    limit: numbers of training, validation and test items; None keeps all.
    what: plural of an item in messages.

  Returns:
    The smaller splits; their `source` says that they are a subset.

  Raises:
    ValueError: a split has fewer items.
  """
  if limit is None:
    return whole
  parts, counts = {}, {}
  for name, size in zip(SPLITS, limit, strict=True):
    part = getattr(whole, name)
    there = len(part.labels)
    if size > there:
      raise ValueError(
        f'limit asks for {size} {name} {what}; there are {there}.'
      )
    parts[name] = part.take(permutation(there, [_SEED])[:size])
    counts[name] = int(size)
  record = {
    **whole.source,
    'counts': counts,
    'subset': True,
    'comparable': False,
    'note': f'{whole.source["note"]}; LIMITED to {tuple(limit)} {what}',
  }
  return whole._replace(**parts, source=record)
