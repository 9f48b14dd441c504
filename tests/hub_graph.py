"""A graph whose nodes have labels: a hub, self loops, nodes without edges."""

import numpy as np

from lorap_jax.data.sets import custom

N, E = 60, 300


def dataset(seed=0, **more):
  """Random features and four classes; a third of the nodes to each split.

  Args:
    seed: of the draws.
    **more: arguments of `custom.node_dataset`.
  """
  rng = np.random.default_rng(seed)
  senders = rng.integers(0, N, E)
  receivers = rng.integers(0, N - 5, E)  # Some receive no edge.
  receivers[:30] = 3  # One receives many.
  senders[-9:] = receivers[-9:]
  part = np.arange(N) % 3
  return custom.node_dataset(
    rng.normal(size=(N, 6)),
    senders,
    receivers,
    labels=rng.integers(0, 4, N),
    train_mask=part == 0,
    valid_mask=part == 1,
    test_mask=part == 2,
    **more,
  )
