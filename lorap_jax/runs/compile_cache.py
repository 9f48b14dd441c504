"""Compiled programs, kept from one process to the next."""

import os

import jax

from lorap_jax.data.files import store

# Most programs here are small: JAX's own threshold of a second misses them.
_SHORTEST = 0.1  # Seconds of compilation.


def keep_programs() -> None:
  """Lets JAX keep compiled programs in `programs` of the user's cache.

  For a program that owns its process; JAX's variables go first:
  $JAX_COMPILATION_CACHE_DIR for another folder,
  $JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS for another threshold,
  JAX_ENABLE_COMPILATION_CACHE=0 for none.
  """
  if jax.config.jax_compilation_cache_dir is None:  # pyrefly: ignore
    folder = store.cache_dir() / 'programs'
    jax.config.update('jax_compilation_cache_dir', str(folder))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', _SHORTEST)
