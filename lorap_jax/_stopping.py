"""How a program ends when it is asked to."""

import signal


def interrupt_on_termination() -> None:
  """Has SIGTERM raise KeyboardInterrupt, as Ctrl-C does.

  What is being written is then tidied up. Training replaces the handlers of
  both by one that saves first.
  """
  signal.signal(signal.SIGTERM, signal.default_int_handler)
