"""Seeded choices of examples that no NumPy version changes.

NumPy guarantees the raw stream of a bit generator, but not what
`Generator.permutation` makes of it; so orders come from sorting raw draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SPLITS = ('train', 'valid', 'test')


def permutation(n: int, seed: Sequence[int]) -> np.ndarray:
  """Returns 0 to n - 1 sorted by the first n raw draws of `PCG64(seed)`."""
  draws = np.random.PCG64(list(seed)).random_raw(n)
  return np.argsort(draws, kind='stable')


def stratified(
  labels: np.ndarray, sizes: Sequence[int], seed: int
) -> list[np.ndarray]:
  """Splits indices so that every part has the classes in equal proportion.

  The indices of class c, in ascending order, are reordered by
  `permutation(n_c, [seed, c])`. Part j takes the next `sizes[j] * n_c / n` of
  them, rounded so that its size is met (largest remainder first, ties to the
  lower class); the last part takes what is left. Every part is then sorted.

  Args:
    labels: [n] class of each item.
    sizes: size of each part.
    seed: seed of the orders.

  Returns:
    The indices of each part, i64[sizes[j]]; together each of 0 to n - 1 once.

  Raises:
    ValueError: the sizes do not add up to n.
  """
  if sum(sizes) != len(labels):
    raise ValueError(
      f'sizes {tuple(sizes)} add up to {sum(sizes)}; there are {len(labels)} '
      'labels.'
    )
  classes, left = np.unique(labels, return_counts=True)
  counts = left.copy()
  queues = []
  for c, count in zip(classes, counts, strict=True):
    order = permutation(int(count), [seed, int(c)])
    queues.append(np.flatnonzero(labels == c)[order])
  parts = []
  for size in sizes[:-1]:
    share = size * counts / len(labels)
    take = np.floor(share).astype(int)
    by_remainder = np.argsort(take - share, kind='stable')
    take[by_remainder[: size - take.sum()]] += 1
    parts.append([q[:t] for q, t in zip(queues, take, strict=True)])
    queues = [q[t:] for q, t in zip(queues, take, strict=True)]
  return [np.sort(np.concatenate(part)) for part in (*parts, queues)]
