"""Calls in a process of their own, whose JAX knows no other processes.

Orbax takes it that processes of one JAX save together, into one file system.
Here process 0 saves alone, as a run of one process does: in a child.
"""

import atexit
import multiprocessing
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lorap_jax._typing import PyTree


class Key(NamedTuple):
  """A random key on its way."""

  implementation: str
  data: np.ndarray


def call(function: Callable[..., Any], *args: PyTree) -> Any:
  """The result of a call: in this process, if it is the only one of its JAX.

  Args:
    function: of a module.
    *args: trees, whose arrays are whole in this process.

  Raises:
    Exception: what the function raises.
  """
  if jax.process_count() == 1:
    return function(*args)
  if not _children:
    _children.append(_start())
  connection = _children[0]
  connection.send((function, jax.tree.map(on_host, args)))
  done, value = connection.recv()
  if not done:
    raise value
  return on_device(value)


_children: list[Any] = []


def _start() -> Any:
  context = multiprocessing.get_context('spawn')
  here, there = context.Pipe()
  context.Process(target=_serve, args=(there,), daemon=True).start()
  there.close()
  atexit.register(here.close)  # By which the child ends.
  return here


def _serve(connection: Any) -> None:
  """The child."""
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # Its parent hears them, and saves.
  jax.config.update('jax_platforms', 'cpu')
  _answer(connection)


def _answer(connection: Any) -> None:
  """Does what the parent asks for, until it is gone."""
  while True:
    try:
      function, args = connection.recv()
    except (EOFError, OSError):
      return
    try:
      answer = True, jax.tree.map(on_host, function(*on_device(args)))
    except Exception as error:
      answer = False, _plain(error)
    connection.send(answer)


def _plain(error: Exception) -> Exception:
  """The error without its causes, which need not be sendable."""
  try:
    return type(error)(*error.args)
  except TypeError:
    return RuntimeError(str(error))


def on_host(leaf: Any) -> Any:
  """A leaf of a tree as a process can send it."""
  if not isinstance(leaf, jax.Array):
    return leaf
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    implementation = str(jax.random.key_impl(leaf))
    return Key(implementation, np.asarray(jax.random.key_data(leaf)))
  return np.asarray(leaf)


def on_device(tree: PyTree) -> PyTree:
  """What `on_host` made of a tree, as arrays of JAX again."""

  def back(leaf):
    if isinstance(leaf, Key):
      data = jax.numpy.asarray(leaf.data)
      return jax.random.wrap_key_data(data, impl=leaf.implementation)
    return jax.numpy.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

  return jax.tree.map(back, tree, is_leaf=lambda x: isinstance(x, Key))
