"""Which node features are places in an image, and in which units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Positions(NamedTuple):
  """Two columns of node features that say where a node is.

  A place of u sides of the image off its middle is middle + u side there.

  Attributes:
    columns: of row and column.
    middle: of the image, in the units of each.
    side: of the image, in the units of each.
  """

  columns: tuple[int, int]
  middle: tuple[float, float] = (0.5, 0.5)
  side: tuple[float, float] = (1.0, 1.0)

  def rescaled(self, shift: np.ndarray, scale: np.ndarray) -> Positions:
    """The same places after x became (x - shift) / scale.

    Args:
      shift: f32[f], of each column.
      scale: f32[f], of each column.

    Returns:
      Positions in the new units.
    """
    a, b = (
      np.asarray(v, np.float64)[list(self.columns)] for v in (shift, scale)
    )
    middle, side = (np.array(self.middle) - a) / b, np.array(self.side) / b
    return self._replace(
      middle=tuple(middle.tolist()), side=tuple(side.tolist())
    )
