"""What a scheme is: which quantizer acts at each point that a layer names.

A layer calls `quantize(scheme, point, x, ...)` at the points below and knows
no framework. A scheme maps points to quantizer modules and knows no layer.

| point          | tensor                                                    |
|----------------|-----------------------------------------------------------|
| `features`     | raw node features that enter a convolution                |
| `input`        | left operand of a dense product                           |
| `readout`      | left operand of a dense product of the readout            |
| `weight`       | right operand of a dense product                          |
| `output`       | result of a dense product                                 |
| `message`      | what nodes send, or edges carry (`edge_messages`)         |
| `norm`         | edge weights of a normalised adjacency                    |
| `attention`    | attention vectors [f, heads]                              |
| `logits`       | attention logits of the edges [e, heads]                  |
| `neighbor_sum` | what a sum over neighbours returns                        |
| `aggregate`    | the sum with the node itself, where an MLP takes it (GIN) |
| `update`       | result of a layer                                         |

A tensor that was quantized on its way is not quantized again as an `input`.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import flax.linen as nn

from lorap_jax._typing import Array, Float
from lorap_jax.graphs import SparseRows
from lorap_jax.nn import telemetry
from lorap_jax.nn.quantized import Quantized, Rows

Point = Literal[
  'features',
  'input',
  'readout',
  'weight',
  'output',
  'message',
  'norm',
  'attention',
  'logits',
  'neighbor_sum',
  'aggregate',
  'update',
]
# Left operands of dense products.
OPERANDS: tuple[Point, ...] = ('features', 'input', 'readout', 'aggregate')
# Of these, what a network computes itself.
HIDDEN_OPERANDS: tuple[Point, ...] = ('input', 'readout', 'aggregate')
# Trained tensors; all others are features of the data.
PARAMETERS: tuple[Point, ...] = ('weight', 'attention')


def check_points(field: str, points: Collection[str]) -> None:
  """Raises ValueError for points that do not exist."""
  known = get_args(Point)
  unknown = sorted(set(points) - set(known))
  if unknown:
    raise ValueError(f'`{field}` has {unknown}; the points are {known}')


def name_of(point: Point) -> str:
  """Name of the quantizer at a point: a readout's is an `input` as well."""
  return 'input' if point == 'readout' else point


class Protection(NamedTuple):
  """Degree-Quant's protection of nodes while training.

  Attributes:
    low: smallest probability of protection.
    change: largest minus smallest probability.
    redraw: draw a mask for every layer, not one per step.
  """

  low: float
  change: float
  redraw: bool


class Forms(NamedTuple):
  """Forms of the layers in which the published codes differ.

  Attributes:
    degree_of: GCN counts an edge at its `receivers` or its `senders`.
    bias_in_messages: GCN adds its bias before Q_message, not after the sum.
    drops_self_loops: GIN leaves out edges from a node to itself.
    protects_mlp: protected rows are protected in GIN's perceptron too.
    dense_bias: dense layers have their bias.
    unbiased_variance: batch norm averages the unbiased variance, as torch.
  """

  degree_of: Literal['receivers', 'senders'] = 'receivers'
  bias_in_messages: bool = False
  drops_self_loops: bool = False
  protects_mlp: bool = True
  dense_bias: bool = True
  unbiased_variance: bool = False


@runtime_checkable
class Scheme(Protocol):
  """A quantization framework, as layers see it."""

  @property
  def forms(self) -> Forms:
    """The forms of its layers."""
    ...

  def in_convolution(self) -> 'Scheme':
    """The scheme of the dense layers inside of a convolution."""
    ...

  @property
  def stored(self) -> tuple[Point, ...]:
    """The feature tensors that its networks store: what bits are averaged over.

    The raw features are data, and counted apart.
    """
    ...

  @property
  def bit_schedule(self) -> tuple[float, float] | None:
    """Average bits from which, and to which, its learned ones are driven.

    None without learned bits, or where `penalty` is what drives them.
    """
    ...

  @property
  def per_node(self) -> bool:
    """It has parameters for each node, and so serves one graph only."""
    ...

  @property
  def edge_messages(self) -> bool:
    """Messages are quantized edge by edge, after their edge weight."""
    ...

  @property
  def edge_weights(self) -> bool:
    """It has a quantizer for `norm`, so that sums need their edge weights."""
    ...

  def quantizer(self, point: Point, *, non_negative: bool) -> nn.Module | None:
    """A new, named quantizer for the point, or None to pass it by."""

  def penalty(self, memory: Float[Array, '']) -> Float[Array, '']:
    """What the scheme adds to the loss, given the `memory` sown, in KiB."""

  def protection(self) -> Protection | None:
    """Which nodes it leaves in full precision while training, None for none."""


def quantize(
  scheme: Scheme,
  point: Point,
  x: Array | SparseRows | Quantized,
  *,
  rows: Rows,
  non_negative: bool = False,
) -> Quantized:
  """Sends x through the scheme's quantizer for this point, if it has one.

  To be called in a compact method: the quantizer becomes a child of the
  calling module, under the name of the point.

  Args:
    scheme: the framework.
    point: the point's name.
    x: the tensor [n, f]; one that is quantized already is passed by.
    rows: real and protected rows of x, and whether this is training.
    non_negative: x has no negative values.

  Returns:
    The tensor and its bits.
  """
  if isinstance(x, Quantized):
    return x
  return run_quantizer(
    scheme.quantizer(point, non_negative=non_negative), point, x, rows=rows
  )


def run_quantizer(
  module: nn.Module | None,
  point: Point,
  x: Array | SparseRows,
  *,
  rows: Rows,
) -> Quantized:
  """Sends x through what a scheme has for a point, and reports a feature.

  Args:
    module: the quantizer from `Scheme.quantizer`; None passes x by.
    point: the point's name.
    x: the tensor [n, f].
    rows: real and protected rows of x, and whether this is training.

  Returns:
    The tensor and its bits.

  Raises:
    TypeError: a quantizer that does not declare its parameter groups, or that
      returns anything but `Quantized`.
  """
  if module is None:
    return Quantized(x)  # pyrefly: ignore
  if not hasattr(module, 'param_groups'):
    raise TypeError(
      f'the quantizer {type(module).__name__} has no attribute `param_groups`, '
      'which says how its parameters are trained; see `nn.groups` (a quantizer '
      'without parameters has {})'
    )
  y = module(x, rows=rows)
  if not isinstance(y, Quantized):
    raise TypeError(
      f'the quantizer {type(module).__name__} returned a {type(y).__name__}; '
      'return Quantized(values, bits), see `nn.quantized`'
    )
  if point not in PARAMETERS:
    telemetry.record_feature(module, point, x, y, rows)
    if y.usage is not None:
      telemetry.sow(module, telemetry.BIT_USAGE, point, y.usage)
  return y
