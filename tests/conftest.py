"""Settings of the whole test session."""

import tempfile

import drawing
import hypothesis
import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')
hypothesis.settings.load_profile(drawing.PROFILE)


def pytest_configure(config):
  """Compiles equal programs once in a session, and quickly: they run briefly.

  Tests of what XLA's optimizations do to a program are marked `optimized`.
  """
  jax.config.update('jax_disable_most_optimizations', True)
  folder = tempfile.TemporaryDirectory(prefix='lorap_jax_programs_')
  config.add_cleanup(folder.cleanup)
  jax.config.update('jax_compilation_cache_dir', folder.name)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def pytest_make_parametrize_id(val, argname):
  """Names bytes by their place: a gzip file holds the time of its making.

  Workers refuse to share tests whose names differ.
  """
  return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _optimizations(request):
  """Compiles as a user's programs are, where a test is about that."""
  off = request.node.get_closest_marker('optimized') is None
  if off != jax.config.read('jax_disable_most_optimizations'):
    jax.config.update('jax_disable_most_optimizations', off)
    jax.clear_caches()  # Else it gets what was compiled the other way.


@pytest.fixture
def key() -> jax.Array:
  return jax.random.key(0)


@pytest.fixture
def any_rate(monkeypatch):
  """Lets learning rates through at which every network diverges."""
  from lorap_jax.runs import ranges

  name = 'optim.learning_rate'
  allowed = ranges.RANGES[name]._replace(high=float('inf'))
  monkeypatch.setitem(ranges.RANGES, name, allowed)


@pytest.fixture(scope='session')
def finished_pair(tmp_path_factory):
  """The folder of two seeds that have trained together; not to be changed."""
  import tiny_run

  from lorap_jax.runs import protocol

  folder = tmp_path_factory.mktemp('finished') / 'run'
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.feed(monkeypatch, tiny_run.node_data)
    protocol.run(tiny_run.pair_config(seeds=2), folder)
  return folder
