"""Who may import whom: arrows point downward only."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'lorap_jax'

# Parts of the package each part may import, beside itself.
PARTS = {
  '_typing': set(),
  '_version': set(),
  '_process': set(),
  '_logging': set(),
  '_stopping': set(),
  'ops': {'_typing'},
  'quantization': {'_typing', 'ops'},
  'prompts': {'ops', '_typing', 'quantization'},
  'graphs': {'_typing'},
  'data': {'graphs'},
  'nn': {'ops', '_typing', 'quantization', 'graphs', 'prompts'},
  'models': {'_typing', 'nn', 'graphs'},
  'training': {
    '_typing',
    'quantization',
    'prompts',
    'graphs',
    'data',
    'nn',
    'models',
  },
  'runs': {
    '_logging',
    '_typing',
    '_version',
    'quantization',
    'prompts',
    'graphs',
    'data',
    'nn',
    'models',
    'training',
    'integers',
  },
  'integers': {
    'data',
    'graphs',
    'models',
    'nn',
    'prompts',
    'quantization',
  },
  'convert': {'data'},
  'prepare': {'_logging', '_stopping', 'data', 'runs'},
  'export': {'runs'},
  'reports': {'data', 'runs', 'training'},
  'report': {'reports', 'runs'},
  'sweep': {
    '_process',
    '_logging',
    '_stopping',
    'report',
    'reports',
    'runs',
    'training',
  },
  'train': {'_process', '_logging', '_stopping', 'reports', 'runs'},
  'doctor': {'__init__', '_process', 'data', 'graphs', 'runs'},
  '__main__': set(),
  '__init__': {
    '_version',
    'data',
    'graphs',
    'integers',
    'models',
    'nn',
    'prompts',
    'quantization',
    'runs',
    'training',
  },
}
# Other libraries each part may import.
LIBRARIES = {
  '_typing': {'jaxtyping'},
  '_version': set(),
  '_process': set(),
  '_logging': {'absl'},
  '_stopping': set(),
  'ops': {'jax'},
  'quantization': {'jax', 'numpy'},
  'prompts': {'jax'},
  'graphs': {'jax', 'jraph', 'numpy'},
  'data': {
    'PIL',
    'absl',
    'filelock',
    'jax',
    'numpy',
    'rich',
    'scipy',
    'skimage',
    'sklearn',
  },
  'nn': {'jax', 'flax', 'jraph', 'numpy'},
  'models': {'jax', 'flax', 'jraph'},
  'training': {'absl', 'flax', 'jax', 'numpy', 'optax'},
  'runs': {
    'absl',
    'filelock',
    'flax',
    'jax',
    'jraph',
    'ml_collections',
    'numpy',
    'orbax',
    'rich',
    'tensorboardX',
  },
  'integers': {'jax', 'numpy', 'onnx', 'onnxruntime'},
  'convert': {'numpy'},
  'prepare': {'absl'},
  'export': set(),
  'reports': {'matplotlib', 'numpy', 'rich'},
  'report': set(),
  'sweep': {'absl', 'ml_collections'},
  'train': {'absl', 'ml_collections'},
  'doctor': {'jax', 'jraph', 'numpy'},
  '__main__': set(),
  '__init__': set(),
}
# Library to the one file that knows it.
CONFINED = {
  'orbax': 'runs/checkpointing.py',
  'matplotlib': 'reports/plots.py',
  'tensorboardX': 'runs/writers.py',
  'onnx': 'integers/onnx_writer.py',
  'onnxruntime': 'integers/parity.py',
}


def imports(path):
  """Dotted names of all imports of a file, late ones included."""
  found = []
  for node in ast.walk(ast.parse(path.read_text(), str(path))):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      found += [f'{node.module}.{alias.name}' for alias in node.names]
  return found


def part_of(name):
  """The part of the package that a dotted name starts in, or None."""
  head, *rest = name.split('.')
  if head != 'lorap_jax':
    return None
  known = rest and rest[0] in PARTS
  return rest[0] if known else '__init__'


FILES = sorted(PACKAGE.rglob('*.py'))


@pytest.mark.parametrize(
  'path', FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES]
)
def test_imports(path):
  own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  for name in imports(path):
    part = part_of(name)
    if part is not None:
      assert part in PARTS[own] | {own}, f'{own} imports {name}'
      continue
    library = name.partition('.')[0]
    if library in sys.stdlib_module_names:
      continue
    assert library in LIBRARIES[own], f'{own} imports {name}'
    only = CONFINED.get(library)
    assert only is None or path == PACKAGE / only, f'{path} imports {name}'


# Of the data layer, what each floor may import, beside itself.
DATA_FLOORS = {
  'files': set(),
  'containers': {'files'},
  'images': {'containers', 'files'},
  'sets': {'containers', 'files', 'images'},
  'pipeline': {'containers'},
  'sampling': {'containers', 'pipeline'},
}


@pytest.mark.parametrize('floor', DATA_FLOORS)
def test_floors_of_the_data(floor):
  for path in FILES:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    if parts[:2] != ('data', floor):
      continue
    for name in imports(path):
      if name.startswith('lorap_jax.data.'):
        other = name.split('.')[2]
        assert other in DATA_FLOORS[floor] | {floor}, f'{path} imports {name}'


def test_every_part_has_its_rules():
  parts = {p.relative_to(PACKAGE).parts[0].removesuffix('.py') for p in FILES}
  assert parts == set(PARTS) == set(LIBRARIES)


def test_no_cycles():
  """A part without dependencies can be taken away, until none is left."""
  left = dict(PARTS)
  while left:
    free = [part for part, below in left.items() if not below & left.keys()]
    assert free, f'cycle among {sorted(left)}'
    for part in free:
      del left[part]


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda path: path.name
)
def test_configurations_know_no_library(path):
  """But for the defaults and the cells, which the library has for all."""
  for name in imports(path):
    library = name.partition('.')[0]
    known = library in ('ml_collections', 'configs')
    if path.stem in ('default', 'cells', 'custom'):
      known |= name.startswith('lorap_jax.runs.')
    assert known or library in sys.stdlib_module_names, name


def test_command_line_is_that_of_the_package():
  assert [part_of(name) for name in imports(ROOT / 'train.py')] == ['train']
