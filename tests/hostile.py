"""Input that nobody means: values of any kind, damaged arrays and files.

`answered` says what a public function may do with it.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Generator
from typing import Any

import hypothesis.strategies as st
import jaxtyping
import numpy as np
import pytest

LONG = 'x' * 300

# Of every kind that a configuration or a file may hold by mistake.
VALUES = st.one_of(
  st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, -0.0, 0.5, 1e16]
  ),
  st.sampled_from([0, 1, -1, 7, 2**31, 2**63, -(2**70), 10**400, True, False]),
  st.sampled_from(['', ' ', 'nan', 'None', '4', 'a\0b', LONG, '../..', 'é\n']),
  st.sampled_from(
    [
      None,
      [],
      [[]],
      [1, 2],
      [math.nan],
      ['a', None],
      (),
      (3, -1, 'x'),
      [10**400],
    ]
  ),
  st.sampled_from(
    [{}, {'a': 1}, {'': {}}, b'bytes', 1j, np.float32(3), np.arange(3)]
  ),
  st.floats(-10, 10),
  st.integers(-20, 20),
  st.text(max_size=4),
)


@pytest.fixture
def as_users_run() -> Generator[None]:
  """Without the type checks of the test run, which no user has."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


def answered(
  action: Callable[[], Any], *names: str, errors: Any = (ValueError, OSError)
) -> Any:
  """The value, or None after an error of these kinds that names its cause.

  Everything else that is raised, warnings included, fails the test.
  """
  try:
    return action()
  except errors as error:
    text = str(error)
    assert any(name in text for name in names), (
      f'{type(error).__name__} names none of {names}: {text}'
    )
    return None


def damaged(content: bytes, draw: Any) -> bytes:
  """Bytes with a few changes: flipped, cut, filled, repeated, put in."""
  for _ in range(draw(st.integers(1, 3))):
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    length = draw(st.sampled_from([1, 1, 2, 8, 100]))
    piece = draw(
      st.one_of(
        st.binary(min_size=length, max_size=length),
        st.sampled_from(
          [b'\0', b'\xff', b'-', b'9' * 30, b'nan', b'\n', b'"', b'{']
        ),
      )
    )
    how = draw(st.sampled_from(['over', 'over', 'cut', 'in', 'twice', 'out']))
    head, tail = content[:place], content[place:]
    content = {
      'over': head + piece + tail[len(piece) :],
      'cut': head,
      'in': head + piece + tail,
      'twice': head + tail + tail,
      'out': head + tail[length:],
    }[how]
  return content


@contextlib.contextmanager
def replaced(path: pathlib.Path, content: bytes | None) -> Generator[None]:
  """Another content of a file, None for no file, for the time being."""
  sound = path.read_bytes()
  stat = path.stat()
  try:
    path.unlink() if content is None else path.write_bytes(content)
    yield
  finally:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sound)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
