"""What each field of a configuration may be: its type, and between which ends.

The ends are wide: beyond them a value can only be a mistake. What a method asks
for more narrowly, its own dataclass checks. Knows no JAX, so that mistakes are
named before its import.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

_INT, _FLOAT = 'integer', 'number'
_SMALL = 64  # Ranges of integers up to here are named by both ends.
_TYPES: dict[str, Any] = {
  'text': str,
  'true or false': bool,
  'list': list | tuple,
  'table': Mapping,
}


class Range(NamedTuple):
  """What a field may be.

  Attributes:
    kind: `integer` or `number`, of which NaN and infinity are none; or one of
      the kinds without ends: `text`, `true or false`, `list`, `table`.
    low: the least value.
    high: the largest one.
    open_low: `low` itself is too little.
    open_high: `high` itself is too much.
    entries: what those of a list or a table may be; None where the method
      checks them. Keys of a table are texts.
    length: number of entries; None for any.
  """

  kind: str
  low: float = 0
  high: float = 0
  open_low: bool = False
  open_high: bool = False
  entries: Any = None
  length: int | None = None

  @property
  def words(self) -> str:
    """The type and the ends, such as `number in [0, 1)`."""
    if self.entries is not None:
      kind, _, ends = self.entries.words.partition(' ')
      count = '' if self.length is None else f'{self.length} '
      return f'{self.kind} of {count}{kind}s {ends}'.rstrip()
    if self.kind not in (_INT, _FLOAT):
      return self.kind
    left, right = '[('[self.open_low], '])'[self.open_high]
    return f'{self.kind} in {left}{self.low:,}, {self.high:,}{right}'

  def fault(self, value: Any) -> str | None:
    """What a value must be, if it is not; None where it is fine."""
    if self.kind not in (_INT, _FLOAT):
      fits = isinstance(value, _TYPES[self.kind])
      article = '' if self.kind == 'true or false' else 'a '
      if not fits:
        return f'must be {article}{self.kind}'
      return None if self._holds(value) else f'must be a {self.words}'
    wanted = int if self.kind == _INT else int | float
    if not isinstance(value, wanted) or isinstance(value, bool):
      return f'must be {"an" if self.kind == _INT else "a"} {self.kind}'
    if isinstance(value, float) and not math.isfinite(value):
      return 'must be a finite number'
    low = value > self.low if self.open_low else value >= self.low
    high = value < self.high if self.open_high else value <= self.high
    if low and high:
      return None
    if self.kind == _INT and self.low and self.high <= _SMALL:
      return f'must be in {self.low}..{self.high}'
    if self.open_low or self.open_high or self.high <= 1:
      return f'must be {self.words.partition(" ")[2]}'
    if low:
      return f'must be at most {self.high:,}'
    return (
      'must be 0 or more' if not self.low else f'must be at least {self.low}'
    )

  def _holds(self, value: Any) -> bool:
    """Whether the entries of a list or a table are what they may be."""
    if self.entries is None:
      return True
    if self.length not in (None, len(value)):
      return False
    if isinstance(value, Mapping):
      if not all(isinstance(key, str) for key in value):
        return False
      value = value.values()
    return all(self.entries.fault(entry) is None for entry in value)


_TEXT, _FLAG = Range('text'), Range('true or false')
_TEXTS = Range('list', entries=_TEXT)
_BITS = Range(_INT, 1, 16)
_RATE = Range(_FLOAT, 0, 100)
_SHARE = Range(_FLOAT, 0, 1)
_DROPOUT = Range(_FLOAT, 0, 1, open_high=True)
_PERCENTILE = Range(_FLOAT, 0, 0.5, open_high=True)
_WEIGHT = Range(_FLOAT, 0, 10**6)
_PAIR = Range('list', entries=_WEIGHT, length=2)
_SEED = Range(_INT, 0, 2**32 - 1)
_WIDTH = Range(_INT, 1, 2**16)
_EPOCHS = Range(_INT, 1, 10**7)
_COUNT = Range(_INT, 1, 10**6)

RANGES: dict[str, Range] = {
  f'{group}{name}': allowed
  for group, rows in {
    '': {
      'seed': _SEED,
      'seeds': Range(_INT, 1, 10_000),
      'folds': Range(_INT, 1, 1000),
    },
    'data.': {
      'name dir source features normalize tu_name path': _TEXT,
      'offline relations': _FLAG,
      'workers': Range(_INT, 1, 1024),
      'limit': Range('list', entries=Range(_INT, 1, 10**9)),
      'fold': Range(_INT, 0, 999),
      'num_folds': Range(_INT, 2, 1000),
      'split_seed': _SEED,
    },
    'model.': {
      'name encoder encoder_operand pool mlp_norm existing_loops': _TEXT,
      'features heads': _WIDTH,
      'num_layers': Range(_INT, 1, 1000),
      'residual normalize_pooled own_term full_precision_first': _FLAG,
      'norm self_loops': _FLAG,
      'dropout input_dropout readout_dropout attention_dropout': _DROPOUT,
      'num_types': Range(_INT, 1, 10**7),
      'readout num_dense': Range(_INT, 1, 100),
    },
    'scheme.': {
      'name gradient start': _TEXT,
      'published symmetric edge_messages redraw': _FLAG,
      'quantize_features quantize_messages': _FLAG,
      'points protected_points': _TEXTS,
      'candidates': Range('list', entries=_BITS),
      'weight_start feature_start message_start': _PAIR,
      'bits': _BITS,
      'target_bits': Range(_FLOAT, 1, 8),
      'momentum': Range(_FLOAT, 0, 1, open_low=True),
      'percentile sum_percentile feature_percentile': _PERCENTILE,
      'low change': _SHARE,
      'stride memory_width num_groups': _COUNT,
      'memory_weight memory_target cost_weight': _WEIGHT,
      'assignment': Range('table', entries=_BITS),
    },
    'prompt.': {
      'name node_init placement form init low_rank objective': _TEXT,
      'implementation': _TEXT,
      'num_prompts rank': _WIDTH,
      'bits': Range(_INT, 2, 32),
    },
    'optim.': {
      'learning_rate feature_scale_lr feature_bits_lr weight_scale_lr': _RATE,
      'message_scale_lr bit_logits_lr': _RATE,
      'weight_decay prompt_weight_decay prompt_factor': _WEIGHT,
    },
    'train.': {
      'schedule selection init_from aggregation teacher': _TEXT,
      'plots export': _FLAG,
      'epochs search_epochs step_epochs': _EPOCHS,
      'batch_size': _COUNT,
      'fanout': Range('list', entries=Range(_INT, 1, 10_000)),
      'warmup label_smoothing ema': _DROPOUT,
      'augment': Range(_FLOAT, 0, 5),
      'teacher_weight': Range(_FLOAT, 0, 1, open_low=True),
      'teacher_temperature': Range(_FLOAT, 0, 100, open_low=True),
      'patience settle_batches pretrain_epochs': Range(_INT, 0, 10**6),
      'integer_epochs': Range(_INT, 0, 10**7),
      'devices unlabelled': Range(_INT, 0, 10**6),
      'together': Range(_INT, 1, 1000),
      'finetune_lr': _RATE,
    },
  }.items()
  for names, allowed in rows.items()
  for name in names.split()
}


def check(given: Mapping[str, Any]) -> None:
  """Refuses values of another type or beyond the ends.

  Args:
    given: by dotted path; None is not set.

  Raises:
    ValueError: names the field, what it must be and its value.
  """
  for path, value in given.items():
    if value is None or path not in RANGES:
      continue
    if fault := RANGES[path].fault(value):
      group, _, name = path.rpartition('.')
      place = f'config.{group}' if group else 'config'
      raise ValueError(f'{place}: `{name}` {fault}, got {value!r}')
