"""Drawn examples: few of them in the ordinary run, thousands when slow.

The same examples every time, and no more than one compiled program for many.
"""

from collections.abc import Callable

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

PROFILE = 'drawn'
hypothesis.settings.register_profile(
  PROFILE,
  deadline=None,
  derandomize=True,
  database=None,
  phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
  suppress_health_check=list(hypothesis.HealthCheck),
)

SHAPE = (6, 4)
PER = {'tensor': (1, 1), 'column': (1, 4), 'row': (6, 1)}
LARGE = float(np.float32(1e37))
TINY = 1e-25  # Over a scale it is a normal number yet.


def floats(low: float, high: float) -> st.SearchStrategy:
  """Float32 numbers; XLA reads what is smaller than normal as 0."""
  numbers = st.floats(low, high, width=32, allow_subnormal=False)
  return numbers.map(lambda v: v if abs(v) > TINY else 0.0)


scales = floats(float(np.float32(1e-3)), 1000)


def sizes(few: int, many: int) -> pytest.MarkDecorator:
  """Runs a test with `count` examples, and with more under the slow marker."""
  slow = pytest.param(many, marks=pytest.mark.slow, id='many')
  return pytest.mark.parametrize('count', [pytest.param(few, id='few'), slow])


def one_by_one(per: str, count: int) -> bool:
  """Whether operations also run one by one, for which each is compiled.

  The ordinary run does so for one shape of parameters.
  """
  return per == 'row' or count > 100


def check(
  count: int, holds: Callable[..., None], *strategies: st.SearchStrategy
) -> None:
  """Runs a property over drawn examples."""
  run = hypothesis.settings(max_examples=count)
  run(hypothesis.given(st.tuples(*strategies))(lambda v: holds(*v)))()


def _marks() -> list[float]:
  """Bounds and ties of all grids in units of a step, and their neighbours."""
  ends = {0, 1, 2, *(2**b for b in range(1, 9)), *(2**b - 1 for b in range(9))}
  ties = np.float32(sorted({e + h for e in ends for h in (0, -0.5, 0.5)}))
  near = [np.nextafter(ties, np.float32(to)) for to in (-1e9, 1e9)]
  both = np.concatenate([ties, *near])
  return sorted({float(v) for v in (*both, *-both)} - {0.0}) + [0.0, -0.0]


marks = st.sampled_from([v for v in _marks() if abs(v) > 1e-30 or v == 0])


@st.composite
def matrices(draw, step=1.0, zero=0.0, shape=SHAPE) -> np.ndarray:
  """Finite values, in part on the bounds and ties of grids of this step.

  Args:
    draw: given by hypothesis.
    step: what two neighbours of the grid lie apart.
    zero: the code of 0.
    shape: of the matrix.
  """
  kinds = draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 2)))
  on = draw(hnp.arrays(np.float32, shape, elements=marks))
  off = draw(
    hnp.arrays(
      np.float32,
      shape,
      elements=st.one_of(floats(-1000, 1000), floats(-LARGE, LARGE)),
      fill=st.just(np.float32(0.1)),
    )
  )
  on = (on - np.float32(zero)) * np.float32(step)
  return np.where(kinds > 0, on, off).astype(np.float32)


permutations = st.permutations(range(SHAPE[0])).map(np.array)
upstream = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([-1, 0.5, 3]))


def same(a, b) -> None:
  """Trees of the same arrays, to the last bit; 0 and -0 are equal."""
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    if not (x.shape == y.shape and (x == y).all()):  # As it is faster.
      np.testing.assert_array_equal(x, y)


def sums(actual, terms: np.ndarray, shape: tuple[int, ...], slack=0.0) -> None:
  """Sums of float64 terms over the axes that `shape` has not, up to rounding.

  Args:
    actual: float32 sums.
    terms: what is added up.
    shape: of the sums.
    slack: magnitudes of what cancels inside of terms, the shape of terms.
  """
  axes = tuple(i for i in (0, 1) if shape[i] == 1)
  total = terms.sum(axes, keepdims=True)
  size = (np.abs(terms) + slack).sum(axes, keepdims=True)
  error = np.abs(np.asarray(actual, np.float64) - total)
  assert np.all(error <= 1e-5 * size + 1e-30), (actual, total)


def monotone(x: np.ndarray, y: np.ndarray, per: str) -> None:
  """Larger values do not become smaller ones, where parameters are shared."""
  pairs = {
    'tensor': [(x.ravel(), y.ravel())],
    'column': zip(x.T, y.T, strict=True),
    'row': zip(x, y, strict=True),
  }[per]
  for a, b in pairs:
    assert np.all(np.diff(b[np.argsort(a, kind='stable')]) >= 0)


def padded(array, value):
  """Three more rows, if the array has one for each of x; and a twin."""
  array = np.asarray(array)
  if array.shape and array.shape[0] == SHAPE[0]:
    more = np.full((3, *array.shape[1:]), value, array.dtype)
    array = np.concatenate([array, more])
  return np.stack([array, array])


def unpadded(array):
  array = np.asarray(array)[0]
  return array[: SHAPE[0]] if array.shape[:1] == (SHAPE[0] + 3,) else array
