"""Which optimizer group each parameter belongs to, as modules declare it.

A module says it in an attribute `param_groups`, a property where it depends on
the module's fields:

    class MyQuantizer(nn.Module):
      param_groups = {'step': 'feature_scale', 'zero_point': 'frozen'}

A mapping names every parameter of the module itself. A text is the group of
all of them, and of those of modules inside that declare nothing. So a network
is `base` but for what says otherwise, and `methods.quantize` refuses a
quantizer that does not.
"""

import contextlib
from collections.abc import Generator, Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax

from lorap_jax._typing import PyTree

# What they are trained by: `training.optimizer.OptimizerConfig`.
Group = Literal[
  'base',
  'prompt',
  'feature_scale',
  'feature_bits',
  'message_scale',
  'weight_scale',
  'bit_logits',
  'frozen',
]
Path = tuple[str, ...]
Declared = dict[Path, str | Mapping[str, str]]


@contextlib.contextmanager
def recording(attribute: str = 'param_groups') -> Generator[dict[Path, Any]]:
  """Notes what all modules that run inside the block declare.

  Args:
    attribute: which of their attributes it is.

  Yields:
    Path of the module to it, where there is one and it is not None; filled as
    the modules run, which under jit is while they are traced.
  """
  declared: dict[Path, Any] = {}

  def note(method, args, kwargs, context):
    value = getattr(context.module, attribute, None)
    if value is not None:
      declared[context.module.path] = value
    return method(*args, **kwargs)

  with nn.intercept_methods(note):
    yield declared


def label(params: PyTree, declared: Declared) -> PyTree:
  """The group of each parameter.

  Args:
    params: the collection `params`, or a tree like it.
    declared: what `recording` noted in a run of the model.

  Returns:
    A tree like params, of texts.

  Raises:
    ValueError: a parameter that no module declares, or a group that the
      optimizer does not have; names the parameter.
  """

  def of(path, _):
    *module, name = (key.key for key in path)
    return _group(tuple(module), name, declared)

  return jax.tree_util.tree_map_with_path(of, params)


def _declaration(module: Path, declared: Declared) -> Any:
  """What a module declares, or else the text of the nearest one above."""
  if module in declared:
    return declared[module]
  for depth in range(len(module) - 1, -1, -1):
    if module[:depth] in declared:
      above = declared[module[:depth]]
      return above if isinstance(above, str) else None  # A mapping is its own.
  return None


def _group(module: Path, name: str, declared: Declared) -> str:
  where = '/'.join((*module, name))
  own = _declaration(module, declared)
  group = own.get(name) if isinstance(own, Mapping) else own
  if group is None:
    raise ValueError(
      f'no module declares the parameter group of {where!r}; give its module '
      f'an attribute `param_groups`, such as {{{name!r}: "base"}}'
    )
  if group not in get_args(Group):
    raise ValueError(
      f'{where!r} is of the parameter group {group!r}; the groups are '
      f'{get_args(Group)}'
    )
  return group


def param_labels(model: nn.Module, *args: Any, **kwargs: Any) -> PyTree:
  """The group of each parameter of a model, for `optax.partition` and counts.

  Args:
    model: any Linen module whose quantizers and prompts are of this library,
      or declare their groups as these do.
    *args: of a call; of arrays the shapes and types do.
    **kwargs: of a call; of arrays the shapes and types do.

  Returns:
    A tree like its parameters, of texts.

  Raises:
    ValueError: no module declares the group of a parameter, or the optimizer
      does not have it; names the parameter.
  """
  keys = {
    name: jax.random.key(0) for name in ('params', 'dropout', 'quantization')
  }
  leaves, structure = jax.tree.flatten((args, kwargs))
  is_array = [hasattr(leaf, 'shape') for leaf in leaves]

  def init(arrays):
    given = iter(arrays)
    merged = [
      next(given) if array else leaf
      for leaf, array in zip(leaves, is_array, strict=True)
    ]
    args, kwargs = jax.tree.unflatten(structure, merged)
    return model.init(keys, *args, **kwargs)

  arrays = [a for a, array in zip(leaves, is_array, strict=True) if array]
  with recording() as declared:
    variables = jax.eval_shape(init, arrays)
  return label(variables['params'], declared)
