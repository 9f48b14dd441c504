"""What is logged: its first line on the screen, all of it in a file.

The first line of a message says what happened, as that of a docstring does;
details follow it.
"""

import contextlib
import logging
import os
import pathlib
from collections.abc import Generator, Iterable

from absl import logging as absl_logging

_PACKAGE = os.path.dirname(__file__) + os.sep


def is_told(record: logging.LogRecord) -> bool:
  """True for what this package says, and for warnings of others."""
  return record.levelno >= logging.WARNING or record.pathname.startswith(
    _PACKAGE
  )


class FirstLine(logging.Formatter):
  """The first line of a message, for the screen."""

  def format(self, record: logging.LogRecord) -> str:
    """Formats the message as usual, and leaves out all but its first line."""
    return super().format(record).partition('\n')[0]


@contextlib.contextmanager
def to_files(paths: Iterable[pathlib.Path]) -> Generator[None]:
  """Appends to files, whole and with the time, what is logged meanwhile.

  Args:
    paths: in folders that are there; a file without a message is not made.
  """
  form = logging.Formatter('%(asctime)s %(levelname)s %(message)s')
  logger = absl_logging.get_absl_logger()
  handlers = [
    logging.FileHandler(path, encoding='utf-8', delay=True) for path in paths
  ]
  try:
    for handler in handlers:
      handler.setFormatter(form)
      handler.addFilter(is_told)
      logger.addHandler(handler)
    yield
  finally:
    for handler in handlers:
      logger.removeHandler(handler)
      handler.close()
