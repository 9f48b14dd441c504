import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
os.environ["GLIBC_TUNABLES"] = ""
from lorap_jax import _process
_process.set_up()
import jax, jax.numpy as jnp
from lorap_jax.runs.compile_cache import keep_programs
keep_programs()
jax.jit(lambda x: jnp.sort(jnp.sin(x)))(jnp.ones(9)).block_until_ready()
print(jax.config.jax_persistent_cache_min_compile_time_secs)
"""
THRESHOLD = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'
FOLDER = 'JAX_COMPILATION_CACHE_DIR'
LOG_LEVEL = 'TF_CPP_MIN_LOG_LEVEL'  # JAX sets it where it is imported.


@pytest.fixture
def run(tmp_path):
  def call(**variables):
    own = dict(os.environ, LORAP_JAX_CACHE=str(tmp_path / 'own'))
    for name in (THRESHOLD, FOLDER, LOG_LEVEL):
      own.pop(name, None)
    done = subprocess.run(
      [sys.executable, '-c', PROGRAM],
      env=own | variables,
      capture_output=True,
      text=True,
      check=True,
    )
    assert done.stderr == ''
    return float(done.stdout)

  return call


def names(folder):
  return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_programs_are_kept(run, tmp_path):
  run(**{THRESHOLD: '0'})
  first = names(tmp_path / 'own' / 'programs')
  assert any('lambda' in name for name in first)
  run(**{THRESHOLD: '0'})
  compiled = [name for name in first if name.endswith('-cache')]
  again = names(tmp_path / 'own' / 'programs')
  assert [name for name in again if name.endswith('-cache')] == compiled


def test_threshold_fits_small_programs(run):
  assert run() == 0.1


def test_variables_of_jax_go_first(run, tmp_path):
  other = tmp_path / 'other'
  assert run(**{THRESHOLD: '0', FOLDER: str(other)}) == 0
  assert names(other)
  assert not (tmp_path / 'own').exists()
