"""Labelled images in three splits, before they become graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lorap_jax.data.containers import splits
from lorap_jax.data.files.store import DataError


class Images(NamedTuple):
  """Some images and their classes.

  Attributes:
    images: u8[n, height, width] grey values, or u8[n, height, width, 3] colours
      (red, green, blue).
    labels: u8[n].
  """

  images: np.ndarray
  labels: np.ndarray

  def take(self, indices: np.ndarray) -> Images:
    """Returns the images `indices`, in that order."""
    return Images(self.images[indices], self.labels[indices])


class ImageSplits(NamedTuple):
  """The three splits and their `DataSplits.source` record."""

  train: Images
  valid: Images
  test: Images
  source: dict[str, Any]


def recorded(
  train: Images, valid: Images, test: Images, record: dict[str, Any]
) -> ImageSplits:
  """Joins the splits, and adds their sizes to the record.

  Raises:
    DataError: a split is empty.
  """
  parts = dict(zip(splits.SPLITS, (train, valid, test), strict=True))
  counts = {name: len(part.labels) for name, part in parts.items()}
  for name, count in counts.items():
    if not count:
      raise DataError(f'{record["name"]}: the {name} split is empty.')
  return ImageSplits(**parts, source={**record, 'counts': counts})
