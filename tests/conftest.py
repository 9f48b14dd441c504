"""Settings of the whole test session."""

import functools
import gc
import os
import tempfile

import drawing
import hypothesis
import jax
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

# Half of the time that XLA takes to compile a small program for a CPU.
_QUICK = (
  ('xla_cpu_use_fusion_emitters', False),
  ('xla_cpu_parallel_codegen_split_count', 1),
)

jax.config.update('jax_numpy_rank_promotion', 'raise')
hypothesis.settings.load_profile(drawing.PROFILE)


def _quicker(options_of, known):
  """JAX's options of a compilation, and more where it optimizes little."""

  def quick(*args, **kwargs):
    options = options_of(*args, **kwargs)
    if jax.config.read('jax_disable_most_optimizations'):
      options.env_option_overrides = [*known, *options.env_option_overrides]
    return options

  return quick


def _is_known(name, value):
  """Whether this XLA has the option: they come and go."""
  program = jax.jit(lambda x: x).lower(0.0)
  try:
    program.compile(compiler_options={name: value})
  except jax.errors.JaxRuntimeError:
    return False
  return True


_KNOWN = [option for option in _QUICK if _is_known(*option)]
compiler.get_compile_options = _quicker(compiler.get_compile_options, _KNOWN)
# One context for all programs: making it is half of lowering a small one.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)


def pytest_configure(config):
  """Compiles equal programs once in a session, and quickly: they run briefly.

  Tests of what XLA's optimizations do to a program are marked `optimized`.
  """
  jax.config.update('jax_disable_most_optimizations', True)
  # Processes that tests start do the same.
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'
  os.environ['XLA_FLAGS'] = ' '.join(
    [
      os.environ.get('XLA_FLAGS', ''),
      *(f'--{name}={str(value).lower()}' for name, value in _KNOWN),
    ]
  )
  # Lines of Python in programs, which nobody reads here.
  jax.config.update('jax_traceback_in_locations_limit', 0)
  folder = tempfile.TemporaryDirectory(prefix='lorap_jax_programs_')
  config.add_cleanup(folder.cleanup)
  jax.config.update('jax_compilation_cache_dir', folder.name)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.05)


def pytest_collection_modifyitems(items):
  """Puts the `optimized` ones last: each change of compiler empties caches."""
  items.sort(key=lambda item: item.get_closest_marker('optimized') is not None)


def pytest_collection_finish():
  """Leaves what was imported out of garbage collections: a tenth of the time.

  Each would look at millions of objects that stay until the end.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 100)


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
def finished_graphs(tmp_path_factory):
  """A run on graphs that has ended; its folder is not to be changed."""
  import tiny_run

  folder = tmp_path_factory.mktemp('graphs') / 'a' / 'b'
  with pytest.MonkeyPatch.context() as monkeypatch:
    return tiny_run.finish(monkeypatch, folder)


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
