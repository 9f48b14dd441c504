"""Where a data set is read from: the user's folder or a download."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from lorap_jax.data.files.store import DataError, PathLike

SOURCES = ('auto', 'data_dir', 'download')


def choose_folder(
  source: str, data_dir: PathLike | None
) -> pathlib.Path | None:
  """Returns the folder to read, or None for a download.

  Args:
    source: 'auto' takes `data_dir` if it is given, else a download; 'data_dir'
      and 'download' take that one.
    data_dir: folder of the user.

  Raises:
    ValueError: there is no such source, or `data_dir` is missing.
    DataError: there is no such folder.
  """
  if source not in SOURCES:
    raise ValueError(f'source is {source!r}; choose one of {SOURCES}.')
  if source == 'data_dir' and data_dir is None:
    raise ValueError(
      "source is 'data_dir' but data_dir is None; name a folder."
    )
  if data_dir is None or source == 'download':
    return None
  folder = pathlib.Path(data_dir).expanduser()
  if not folder.is_dir():
    raise DataError(f'data_dir {folder}: no such folder.')
  return folder


def first_file(
  folder: pathlib.Path, places: Sequence[str], names: Sequence[str]
) -> pathlib.Path | None:
  """Returns the first of the files `place/name` below `folder` that exists."""
  for place in places:
    for name in names:
      if (path := folder / place / name).is_file():
        return path
  return None
