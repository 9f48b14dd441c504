import math

import numpy as np
import pytest

from lorap_jax.training import schedules
from lorap_jax.training.schedules import (
  Plateau,
  update_plateau,
  warmup_cosine,
)


@pytest.mark.parametrize(
  'progress, expected',
  [(0.0, 0), (0.1, 0.5), (0.2, 1), (0.6, 0.5), (1.0, 0), (1.5, 0)],
)
def test_warmup_cosine_values(progress, expected):
  assert warmup_cosine(progress, warmup=0.2) == pytest.approx(expected)


def test_warmup_cosine_without_warmup_starts_at_its_peak():
  assert warmup_cosine(0.0, warmup=0.0) == 1


@pytest.mark.parametrize('warmup', [0.05, 0.5, 0.99])
def test_warmup_cosine_rises_then_falls(warmup):
  points = np.linspace(0, 1, 1001)
  factors = np.array([warmup_cosine(p, warmup=warmup) for p in points])
  change = np.diff(factors)
  rising = points[1:] <= warmup
  assert (change[rising] > 0).all()
  assert (change[points[:-1] >= warmup] < 0).all()
  assert factors.min() == 0 and factors.max() <= 1
  # Continuous: no step is larger than the slopes allow.
  steepest = max(1 / warmup, math.pi / 2 / (1 - warmup)) / 1000
  assert np.abs(change).max() <= steepest * (1 + 1e-9)


# Worked by hand from torch's rules; patience 2, decay 1/2. None is improved on
# unless the loss falls below best (1 - 1e-4).
SEQUENCES = {
  'improving': ([4, 3, 2, 1], [1, 1, 1, 1]),
  'flat': ([1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
  'too small a gain': ([1, 0.99995, 0.99991, 0.99991], [1, 1, 1, 0.5]),
  'just enough': ([1, 0.9998, 0.9996, 0.9994], [1, 1, 1, 1]),
  'reset by a gain': ([1, 2, 2, 0.5, 2, 2, 2], [1, 1, 1, 1, 1, 1, 0.5]),
  'best is kept over a decay': ([1, 2, 2, 2, 1.5, 1.5, 1.5], None),
}


@pytest.mark.parametrize('losses, expected', SEQUENCES.values(), ids=SEQUENCES)
def test_plateau_sequences(losses, expected):
  state, factors = Plateau(), []
  for loss in losses:
    state = update_plateau(state, float(loss), patience=2)
    factors.append(state.factor)
  assert factors == (expected or [1, 1, 1, 0.5, 0.5, 0.5, 0.25])


def test_plateau_state():
  state = update_plateau(Plateau(), 3.0, patience=1)
  assert state == (1.0, 3.0, 0)
  state = update_plateau(state, 4.0, patience=1)
  assert state == (1.0, 3.0, 1)
  assert update_plateau(state, 4.0, patience=1, decay=0.1) == (0.1, 3.0, 0)


def test_plateau_without_patience_decays_at_once():
  state = Plateau(1.0, 1.0, 0)
  assert update_plateau(state, 1.0, patience=0).factor == 0.5


def test_plateau_takes_nan_for_no_gain():
  state = update_plateau(Plateau(1.0, 1.0, 0), math.nan, patience=5)
  assert state == (1.0, 1.0, 1)


def test_bits_go_to_their_target_in_a_line_and_are_fixed():
  target = lambda at: schedules.bit_target(at, start=4.0, target=2.5)
  assert target(0.0) == 4
  assert target(0.3) == pytest.approx(3.25)
  assert target(0.6) == target(1.0) == 2.5
  rate = lambda at: schedules.bit_rate(at, start=4.0, target=2.5, steps=50)
  assert rate(0.0) == rate(0.69) == 2 * 1.5 / 30  # Twice the line's.
  assert rate(0.7) == rate(1.0) == 0
