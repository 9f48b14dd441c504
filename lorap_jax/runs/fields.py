"""The fields of a configuration, and to which runs each means something.

A field that is None is not set: it has the default of what it belongs to. One
that is set and means nothing to a run is refused. This file knows no JAX, so
that mistakes are named before its import.
"""

import difflib
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from absl import logging
from ml_collections import config_dict

from lorap_jax.runs import cells, datasets, ranges
from lorap_jax.training.train_config import TrainConfig

Values = Mapping[str, Any]

# They change where data comes from, what is drawn or how fast, not what is
# computed: runs that differ in them continue and compare with each other.
FREE = (
  'data.dir',
  'data.source',
  'data.workers',
  'data.offline',
  'train.plots',
  'train.together',
  'train.aggregation',
  'train.devices',
  'prompt.implementation',
)
# Values that leave no trace in a record: before the field there was no other.
OFF = {
  'train.label_smoothing': 0.0,
  'train.augment': 0.0,
  'train.ema': 0.0,
  'train.teacher': None,
  'train.fanout': None,
}
# What compiled programs see as numbers, beside the rates of config.optim.
_NUMBERS = (
  'seed',
  'train.schedule',
  'train.warmup',
  'train.step_epochs',
  'train.finetune_lr',
)
REMOVED = {
  'train.subset_epochs': 'a run has one length: set `train.epochs`',
  'model.last_heads': 'it is 1; `backbones.GAT` has it',
  'model.negative_slope': 'it is .2; `GATConv` has it',
  'model.self_loop_weight': 'it is 1; `GCNConv` has it',
  'scheme.exact_range': '`a2q_groups.nearest_group` has it',
  'scheme.node_messages': 'it follows from `model.name`',
  'scheme.per_column': 'there is one range for each tensor',
  'scheme.range_rule': "'qat' averages its ranges, 'dq' only widens them",
}


class Need(NamedTuple):
  """What must hold for a field to mean something.

  Attributes:
    words: the condition, as the user would set it.
    holds: whether it does, given the groups of values as namespaces.
  """

  words: str
  holds: Callable[[Any], bool]


def _is(path: str, *allowed: Any, unset: bool = False) -> Need:
  """The field at `path` has one of these values; `unset`: None does too."""
  group, name = path.split('.')

  def holds(values: Any) -> bool:
    value = getattr(getattr(values, group), name)
    return unset if value is None else value in allowed

  return Need(f'{path} {" or ".join(map(str, allowed))}', holds)


def _of_data(name: str) -> Need:
  takers = lambda: [k for k, v in datasets.DATASETS.items() if name in v.fields]
  return Need(
    f'data.name {" or ".join(takers())}', lambda c: c.data.name in takers()
  )


def _search_comes(c: Any) -> bool:
  return c.scheme.name == 'mixq' and c.scheme.assignment is None


_GRAPHS = Need('graphs with a label each', lambda c: c.level == 'graph')
_BATCHES = Need(
  'graphs with a label each, or train.fanout',
  lambda c: c.level == 'graph' or c.train.fanout is not None,
)
_WHOLE = Need('train.fanout None', lambda c: c.train.fanout is None)
_SAMPLED = Need('train.fanout', lambda c: c.train.fanout is not None)
_NODES = Need('nodes with a label each', lambda c: c.level == 'node')

_TEACHER = Need('train.teacher', lambda c: bool(c.train.teacher))
_SETTLES = Need(
  'train.settle_batches 1 or more',
  lambda c: (
    (c.level == 'node' and c.train.fanout is None)
    or c.train.settle_batches != 0
  ),
)
_CLASSES = Need(
  'classes as labels',
  lambda c: datasets.DATASETS[c.data.name].task != 'regression',
)
_POSITIONS = Need(
  'features that are places in an image: data.name '
  f'{" or ".join(k for k, v in datasets.DATASETS.items() if v.positions)}',
  lambda c: datasets.DATASETS[c.data.name].positions,
)

_QUANTIZED = Need('a scheme other than fp32', lambda c: c.scheme.name != 'fp32')
_AFFINE = _is('scheme.name', 'qat', 'dq')
_QAT = _is('scheme.name', 'qat')
_DQ = _is('scheme.name', 'dq')
_A2Q = _is('scheme.name', 'a2q')
_MIXQ = ('mixq', 'mixq_search')
_SEARCH = Need(
  'scheme.name mixq without scheme.assignment',
  lambda c: _search_comes(c) or c.scheme.name == 'mixq_search',
)
_PHASES = Need('scheme.name mixq without scheme.assignment', _search_comes)
_WITH_BITS = ('qat', 'dq', 'a2q')
_INTEGERS = (
  _is('scheme.name', *_WITH_BITS, 'mixq'),
  _is('scheme.published', False, unset=True),
)
_FIXED_BITS = Need(
  f'scheme.name {" or ".join(_WITH_BITS)}, or mixq with scheme.assignment',
  lambda c: (
    c.scheme.name in _WITH_BITS
    or (c.scheme.name == 'mixq' and c.scheme.assignment is not None)
  ),
)
_BY_MEMORY = Need(
  'scheme.target_bits None', lambda c: c.scheme.target_bits is None
)
_BY_NODE = Need(
  'scheme.num_groups None',
  lambda c: c.train.fanout is None or c.scheme.num_groups is None,
)
_NORMAL = _is('scheme.start', 'normal')

_GIN = _is('model.name', 'gin')
_GAT = _is('model.name', 'gat')
_GCN_GAT = _is('model.name', 'gcn', 'gat')
_NORMED = _is('model.name', 'gcn', 'gat', 'rgcn')
_LOOPS = (_is('model.name', 'gcn'), _is('model.self_loops', True, unset=True))
_RAW = _is('model.encoder', 'none')

_PROMPT = Need('a prompt', lambda c: c.prompt.name != 'none')
_ON_NODES = _is(
  'prompt.name', *(p for p in cells.PROMPTS if p not in ('none', 'lorap'))
)
_ON_SUMS = _is(
  'prompt.name', *(p for p in cells.PROMPTS if p.endswith('lorap'))
)
_LORAP = (_ON_SUMS, _is('prompt.form', 'lorap', unset=True))
_SIZED = (_ON_SUMS, _is('prompt.form', 'lorap', 'adapter', unset=True))
_MIXES = Need(
  'prompt.name gpf_plus or gpf_plus_lorap, or LoRAP with prompt.form lorap or '
  'adapter',
  lambda c: (
    'gpf_plus' in (c.prompt.name, c.prompt.name.removesuffix('_lorap'))
    or all(need.holds(c) for need in _SIZED)
  ),
)
_FACTORED = _is('prompt.low_rank', 'basis', 'basis_and_score', unset=True)

# All fields, and what they need to mean something.
NEEDS: dict[str, tuple[Need, ...]] = {
  f'{group}{name}': needs
  for group, rows in {
    '': {
      'seed seeds': (),
      'folds': (_of_data('fold'),),
    },
    'data.': {
      'name': (),
      **{name: (_of_data(name),) for name in datasets.FIELDS},
    },
    'model.': {
      'name features num_layers residual dropout input_dropout': (),
      'encoder pool': (),
      'encoder_operand': (_is('model.encoder', 'dense'), _QUANTIZED),
      'num_types': (_is('model.encoder', 'embedding'),),
      'norm': (_NORMED,),
      'normalize_pooled readout': (_GRAPHS,),
      'readout_dropout': (
        _GRAPHS,
        Need('model.readout 2 or more', lambda c: c.model.readout != 1),
      ),
      'num_dense mlp_norm own_term': (_GIN,),
      'full_precision_first': (_GIN, _RAW),
      'self_loops': (_GCN_GAT,),
      'existing_loops': _LOOPS,
      'heads attention_dropout': (_GAT,),
    },
    'scheme.': {
      'name': (),
      'bits': (_FIXED_BITS,),
      'published': (
        _is('scheme.name', 'qat', 'dq', 'a2q', *_MIXQ),
        # No published code quantizes RGCN.
        _is('model.name', 'gcn', 'gin', 'gat'),
      ),
      'points': (_is('scheme.name', 'qat', 'dq', *_MIXQ),),
      'gradient': (_is('scheme.name', 'qat', 'dq', 'a2q'),),
      'symmetric percentile sum_percentile stride': (_AFFINE,),
      'momentum': (_QAT,),
      'feature_percentile': (_AFFINE, _RAW),
      'edge_messages': (_AFFINE, _is('model.name', 'gcn', 'gin', 'rgcn')),
      'low change redraw protected_points': (_DQ,),
      'start target_bits': (_A2Q,),
      'memory_weight memory_target': (_A2Q, _BY_MEMORY),
      'quantize_features': (_A2Q, _RAW),
      'num_groups': (_A2Q, _BATCHES),
      'memory_width': (_A2Q, _NODES, _BY_NODE, _BY_MEMORY),
      'quantize_messages': (_A2Q, _NODES, _BY_NODE),
      'weight_start feature_start message_start': (
        _A2Q,
        _NODES,
        _BY_NODE,
        _NORMAL,
      ),
      'candidates cost_weight': (_SEARCH,),
      'assignment': (_is('scheme.name', 'mixq'),),
    },
    'prompt.': {
      'name': (),
      'node_init': (_ON_NODES,),
      'num_prompts': (_MIXES,),
      'placement form': (_ON_SUMS,),
      'objective': (_ON_SUMS, _is('prompt.placement', 'post', 'bypass')),
      'rank': (*_SIZED, _FACTORED),
      'init low_rank bits implementation': _LORAP,
    },
    'optim.': {
      'learning_rate weight_decay': (),
      'prompt_factor prompt_weight_decay': (_PROMPT,),
      'feature_scale_lr weight_scale_lr': (_A2Q,),
      'feature_bits_lr': (_A2Q, _BY_MEMORY),
      'message_scale_lr': (
        _A2Q,
        Need(
          'scheme.quantize_messages True, or model.name gat',
          lambda c: (
            c.scheme.quantize_messages in (None, True) or c.model.name == 'gat'
          ),
        ),
      ),
      'bit_logits_lr': (_SEARCH,),
    },
    'train.': {
      'epochs schedule selection init_from plots aggregation': (),
      'batch_size settle_batches': (_BATCHES,),
      'devices': (_WHOLE,),
      'fanout': (_NODES, _is('scheme.published', False, unset=True)),
      'unlabelled': (_SAMPLED,),
      'label_smoothing': (_CLASSES,),
      'augment': (_GRAPHS, _POSITIONS),
      'ema': (_SETTLES,),
      'teacher': (_WHOLE,),
      'teacher_weight': (_TEACHER,),
      'teacher_temperature': (_TEACHER, _CLASSES),
      'integer_epochs export': (*_INTEGERS, _WHOLE),
      'together': (
        _NODES,
        _WHOLE,
        # Programs of integers are made one after the other.
        _is('train.integer_epochs', 0, unset=True),
      ),
      'warmup': (_is('train.schedule', 'cosine'),),
      'patience': (_is('train.schedule', 'plateau'),),
      'step_epochs': (_is('train.schedule', 'step'),),
      'search_epochs pretrain_epochs': (_PHASES,),
      'finetune_lr': (
        _PHASES,
        Need(
          'train.pretrain_epochs 1 or more',
          lambda c: bool(c.train.pretrain_epochs),
        ),
      ),
    },
  }.items()
  for names, needs in rows.items()
  for name in names.split()
}


def flat(values: Values, prefix: str = '') -> dict[str, Any]:
  """Values by dotted path; `scheme.assignment` stays a dict."""
  found: dict[str, Any] = {}
  for name, value in values.items():
    path = f'{prefix}{name}'
    if isinstance(value, Mapping) and path not in NEEDS:
      found |= flat(value, f'{path}.')
    else:
      found[path] = value
  return found


def nested(values: Values) -> dict[str, Any]:
  """The inverse of `flat`."""
  found: dict[str, Any] = {}
  for path, value in values.items():
    group, _, name = path.rpartition('.')
    (found.setdefault(group, {}) if group else found)[name] = value
  return found


def complete(values: Values) -> dict[str, Any]:
  """All groups and fields; what is not there is None."""
  there = flat(values)
  return nested({path: there.get(path) for path in NEEDS})


def unknown(path: str) -> str:
  """Says that a field does not exist, and what to set in its place."""
  if path in REMOVED:
    return f'config.{path}: no such field any more; {REMOVED[path]}'
  near = difflib.get_close_matches(path, NEEDS, 1)
  hint = f'; did you mean `{near[0]}`?' if near else ''
  return f'config.{path}: no such field{hint}'


def level_of(values: Values) -> str:
  """`node` or `graph`: what has a label in the data of a configuration."""
  return datasets.level(values['data'])


def meaningful(values: Values, level: str) -> dict[str, tuple[Need, ...]]:
  """The fields of a run, and for all others what they lack.

  Args:
    values: all groups and fields, plain values.
    level: of the data.

  Returns:
    Path to the needs that do not hold; none for a field of the run.
  """
  values = {**values, 'model': {**values['model']}}
  values['model'] |= at_level(values['model'], level)
  groups = {
    name: types.SimpleNamespace(**value)
    for name, value in values.items()
    if isinstance(value, Mapping)
  }
  view = types.SimpleNamespace(level=level, **groups)
  return {
    path: tuple(need for need in needs if not need.holds(view))
    for path, needs in NEEDS.items()
  }


def at_level(model: Values, level: str) -> dict[str, Any]:
  """Encoder and pool: what is set, or what follows from the level.

  | level | encoder | pool |
  |-------|---------|------|
  | node  | none    | none |
  | graph | dense   | mean |
  """
  encoder, pool = ('none', 'none') if level == 'node' else ('dense', 'mean')
  return {
    'encoder': encoder if model['encoder'] is None else model['encoder'],
    'pool': pool if model['pool'] is None else model['pool'],
  }


def unused(values: Values, level: str) -> dict[str, str]:
  """The fields that are set and mean nothing.

  Args:
    values: see `meaningful`.
    level: of the data.

  Returns:
    Path to what is wrong, in a line.
  """
  given = flat(values)
  return {
    path: f'{_place(path)} = {given[path]!r} has no effect on this run, it '
    f'needs {lacks[0].words}; leave it out'
    for path, lacks in meaningful(values, level).items()
    if lacks and given[path] not in (None, 1 if path == 'folds' else None)
  }


def drop_unused(
  config: config_dict.ConfigDict, given: Collection[str] = ()
) -> list[str]:
  """Takes out what the configuration file sets and the run has no use for.

  A file sets what its own method needs; whoever changes a name should not
  have to know what that was.

  Args:
    config: changed in place.
    given: paths that the user has set; they stay, to be refused by `check`.

  Returns:
    The paths that were taken out.
  """
  values = config.to_dict()
  check_values(values)
  dropped = [p for p in unused(values, level_of(values)) if p not in given]
  for path in dropped:
    group, _, name = path.rpartition('.')
    place = config[group] if group else config
    logging.info(
      'config.%s = %r has no effect here, left out', path, place[name]
    )
    place[name] = 1 if path == 'folds' else None
  return dropped


def check(values: Values, level: str | None = None) -> str:
  """Refuses what makes no run, as far as that can be known without JAX.

  Args:
    values: of a configuration.
    level: of the data, if it is known.

  Returns:
    The level.

  Raises:
    ValueError: names the field, its value and what to do.
  """
  for path in flat(values):
    if path not in NEEDS:
      raise ValueError(unknown(path))
  missing = [path for path in NEEDS if path not in flat(values)]
  if missing:
    raise ValueError(
      f'config.{missing[0]} is missing; start from configs/default.py'
    )
  check_values(values)
  train = train_config(values['train'])
  if level is None:
    datasets.check(values['data'])
    level = level_of(values)
  for reason in unused(values, level).values():
    raise ValueError(reason)
  pool = at_level(values['model'], level)['pool']
  if (pool == 'none') != (level == 'node'):
    raise ValueError(
      f'config.model: `pool` is {pool!r}, but the data has a label for each '
      f'{level}; leave it out'
    )
  count = values['model']['num_layers']
  if train.fanout is not None and len(train.fanout) != count:
    raise ValueError(
      f'config.train: `fanout` {train.fanout} has {len(train.fanout)} numbers; '
      f'give one for each of the {count} convolutions'
    )
  if train.schedule == 'plateau' and level == 'node' and train.fanout is None:
    raise ValueError(
      "config.train: `schedule` 'plateau' is for batches of graphs; for one "
      "graph choose 'cosine', 'step' or 'constant'"
    )
  return level


def kind(values: Values) -> str:
  """What configurations that train in one program have in common.

  All but the seed, the optimizer's rates and the schedule, of which compiled
  programs see no more than numbers.

  Args:
    values: of a configuration.

  Returns:
    A key.
  """
  given = flat(values)
  return repr(
    [
      (path, given[path])
      for path in NEEDS
      if path not in _NUMBERS and not path.startswith('optim.')
    ]
  )


def train_config(values: Values) -> TrainConfig:
  """The TrainConfig of config.train; None takes the default."""
  try:
    given = {k: v for k, v in values.items() if v is not None}
    if 'fanout' in given:
      given['fanout'] = tuple(given['fanout'])
    return TrainConfig(**given)
  except (TypeError, ValueError) as error:
    raise ValueError(f'config.train: {error}') from error


def record(values: Values, level: str) -> dict[str, Any]:
  """What a run is, as plain values: its fields alone, with `data.level`.

  What is `OFF` is left out, as in the records of versions that had no such
  field.

  Args:
    values: all groups and fields with the values in force.
    level: of the data.
  """
  lacks = meaningful(values, level)
  kept = {
    p: v
    for p, v in flat(values).items()
    if not lacks[p] and not (p in OFF and v == OFF[p])
  }
  # `seed`, `seeds` and `folds` are of all runs: members of a group or none.
  return nested({**kept, 'folds': values['folds'], 'data.level': level})


def _place(path: str) -> str:
  group, _, name = path.rpartition('.')
  return f'config.{group}: `{name}`' if group else f'config: `{name}`'


def check_values(values: Values) -> None:
  """Refuses types, ranges and names, each field for itself.

  Args:
    values: all groups and fields, plain values.

  Raises:
    ValueError: names the field, what it may be and its value.
  """
  ranges.check(flat(values))
  datasets.check_name(values['data']['name'])
  for group, allowed in cells.names().items():
    value = values[group]['name']
    if value == 'a2q_node':
      raise ValueError(
        "config.scheme: `name` 'a2q_node' is 'a2q' now; whether nodes or "
        'graphs have labels follows from the data'
      )
    if value not in allowed:
      raise ValueError(
        f'config.{group}: `name` must be one of {sorted(allowed)}, got '
        f'{value!r}'
      )
