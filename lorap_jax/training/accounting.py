"""Average bits, bytes and bit operations from the telemetry of a model.

Definitions, over the feature tensors that a network stores (`Scheme.stored`:
the operands of its dense products). The raw features are data: A2Q leaves them
out of its average, and so does every scheme here.

* usage-weighted: sum of bits over all elements of all real rows, divided by
  their number. The number to compare hardware by.
* with raw features: the same with the raw features that enter a convolution,
  32 bits where the scheme does not quantize them.
* unweighted: mean over quantizers of the mean over rows.
* published: A2Q's print-out, see `quantization.a2q_groups`.
* MixQ's: mean over all quantizers, those of weights included.

A network that stores nothing but its input (one GCN layer) is counted by that.

Non-negative data is counted with its unsigned bits, one less than the signed
formula uses. Bit operations follow the product rule: multiply-accumulates
times the bits of both operands; a neighbour sum has no second operand and is
listed apart. Batch norms, activations and pooling are not counted.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lorap_jax import graphs
from lorap_jax._typing import Array, PyTree
from lorap_jax.nn import telemetry
from lorap_jax.nn.methods import Point
from lorap_jax.quantization import mixq_search

MAX_DEGREE = 64  # In-degrees from here on share the last bin.


def records(tree: PyTree, kind: type) -> dict[str, Any]:
  """All records of one kind, by the path of the module that sowed them.

  Args:
    tree: the `telemetry` collection.
    kind: one of the record types of `nn.telemetry`.

  Returns:
    Path such as `conv_0/aggregate` to record.
  """
  is_record = lambda leaf: isinstance(leaf, kind)
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_record)
  return {
    '/'.join(key.key for key in path[:-1]): leaf
    for path, leaf in leaves
    if is_record(leaf)
  }


def stored_features(
  features: Mapping[str, Mapping[str, Any]], stored: tuple[Point, ...]
) -> dict[str, Any]:
  """Those entries that belong to tensors which the network stores.

  Args:
    features: by quantization point, and then by path of the quantizer.
    stored: points of the tensors that the network stores, `Scheme.stored`.

  Returns:
    By path; those of the raw features if the network stores nothing else.
  """
  return joined(features, stored) or joined(features, ('features',))


def joined(
  grouped: Mapping[str, Mapping[str, Any]],
  keys: Collection[str] | None = None,
) -> dict[str, Any]:
  """The entries of some groups, or of all, by path.

  Args:
    grouped: entries by group, and then by path.
    keys: the groups; None for all.

  Returns:
    Entries by path, in the order of paths.
  """
  entries = {
    path: entry
    for key, group in grouped.items()
    if keys is None or key in keys
    for path, entry in group.items()
  }
  return dict(sorted(entries.items()))


def _grouped(
  entries: Mapping[str, Any], field: str
) -> dict[str, dict[str, Any]]:
  """Records by the value of a field, and then by path."""
  groups: dict[str, dict[str, Any]] = {}
  for path, entry in entries.items():
    groups.setdefault(getattr(entry, field), {})[path] = entry
  return groups


def mean_bits(tree: PyTree, stored: tuple[Point, ...]) -> tuple[Array, Array]:
  """Sum of bits over stored features, and the number of their elements."""
  total = count = jnp.float32(0)
  features = _grouped(records(tree, telemetry.FeatureRecord), 'point')
  for r in stored_features(features, stored).values():
    total += r.width * jnp.sum(r.bits * r.mask)
    count += r.width * jnp.sum(r.mask)
  return total, count


def totals(tree: PyTree, graph: Any) -> dict[str, Any]:
  """Sums over one batch, to be added up over batches.

  Args:
    tree: the `telemetry` collection of one forward pass.
    graph: the batch; a sampled one has no breakdown by degree.

  Returns:
    Nested dict of scalars and of [MAX_DEGREE + 1] arrays: `features` by
    quantization point and path, `products` by role and path, `sums`,
    `prompts` and `side_bits` by path.
  """
  # Of a sampled graph the rows of a layer are the first of the layer before:
  # their sizes, which may be equal by chance, do not say whose they are.
  sampled = isinstance(graph, graphs.Sampled)
  if sampled:
    graph = graph.layers[0]
  num_nodes = graph.nodes.shape[0]
  degree = jnp.minimum(graphs.in_degree(graph, num_nodes), MAX_DEGREE)
  by_degree = lambda v: jax.ops.segment_sum(v, degree, MAX_DEGREE + 1)

  def totals_of(r: telemetry.FeatureRecord) -> dict[str, Any]:
    rows = jnp.sum(r.mask, dtype=jnp.float32)
    entry: dict[str, Any] = {
      'rows': rows,
      'elements': rows * r.width,
      'bits': r.width * jnp.sum(r.bits * r.mask),
      'error': jnp.sum(r.error * r.mask),
      'energy': jnp.sum(r.energy * r.mask),
      'energy_after': jnp.sum(r.energy_after * r.mask),
      'clipped': jnp.sum(r.clipped * r.mask),
      'metadata_bits': rows * r.row_metadata_bits,
    }
    if r.mask.shape[0] == num_nodes and not sampled:
      entry['degree'] = {
        'rows': by_degree(r.mask.astype(jnp.float32)),
        'bits': by_degree(r.bits * r.mask),
        'error': by_degree(r.error * r.mask),
        'energy': by_degree(r.energy * r.mask),
        'energy_after': by_degree(r.energy_after * r.mask),
        'clipped': by_degree(r.clipped * r.mask),
      }
    return entry

  by_group = lambda kind, field, entry_of: {
    key: {path: entry_of(r) for path, r in group.items()}
    for key, group in _grouped(records(tree, kind), field).items()
  }
  sides = {
    path: r.row_bits * jnp.sum(r.mask)
    for path, r in records(tree, telemetry.SideRecord).items()
  }
  return {
    'features': by_group(telemetry.FeatureRecord, 'point', totals_of),
    'products': by_group(
      telemetry.ProductRecord,
      'role',
      lambda r: {'macs': r.macs, 'bit_ops': r.bit_ops},
    ),
    'sums': {
      path: r._asdict()
      for path, r in records(tree, telemetry.SumRecord).items()
    },
    'prompts': {
      path: r._asdict()
      for path, r in records(tree, telemetry.PromptRecord).items()
    },
    'side_bits': sides,
  }


def constants(tree: PyTree) -> dict[str, Any]:
  """Sizes that no batch changes: those of weights and of quantizers' tables.

  Args:
    tree: the `telemetry` collection of one forward pass.

  Returns:
    Scalars: `weight_elements`, `weight_bits`, `weight_metadata_bytes` and
    `table_bytes`.
  """
  weights = records(tree, telemetry.WeightRecord).values()
  features = records(tree, telemetry.FeatureRecord).values()
  total = lambda values: sum(values, start=jnp.float32(0))
  return {
    'weight_elements': total(w.elements for w in weights),
    'weight_bits': total(w.elements * w.bits for w in weights),
    'weight_metadata_bytes': total(w.metadata_bytes for w in weights),
    'table_bytes': total(r.table_bytes for r in features),
  }


def summarize(
  sums: dict[str, Any],
  fixed: dict[str, Any],
  *,
  num_graphs: int,
  stored: tuple[Point, ...],
) -> dict[str, Any]:
  """The cost part of a report.

  Args:
    sums: `totals` added up over the batches of a split.
    fixed: sizes from `constants`.
    num_graphs: graphs of the split; bytes and operations are per graph.
    stored: points of the tensors that the network stores, `Scheme.stored`.

  Returns:
    JSON-able dict; every size states its unit in its name.
  """
  features = stored_features(sums['features'], stored)
  with_raw = stored_features(sums['features'], (*stored, 'features')).values()
  add = lambda entries, key: sum(float(e[key]) for e in entries)
  operands = features.values()
  everything = joined(sums['features']).values()
  per_point = {p: float(r['bits'] / r['elements']) for p, r in features.items()}
  side_bits = sum(float(v) for v in sums['side_bits'].values())
  elements = add(operands, 'elements')
  to_bytes = lambda bits: bits / 8 / num_graphs
  prompts = sums['products'].get('prompt', {}).values()
  dense = sums['products'].get('layer', {}).values()
  neighbors = sums['sums'].values()
  return {
    'average_bits': {
      'usage_weighted': add(operands, 'bits') / elements,
      'usage_weighted_with_raw_features': add(with_raw, 'bits')
      / add(with_raw, 'elements'),
      'usage_weighted_with_side_path': (add(operands, 'bits') + side_bits)
      / elements,
      'usage_weighted_with_messages': add(everything, 'bits')
      / add(everything, 'elements'),
      'unweighted': sum(per_point.values()) / len(per_point),
      'per_point': per_point,
    },
    'feature_bytes_per_graph': to_bytes(add(operands, 'bits')),
    'feature_metadata_bytes_per_graph': to_bytes(
      add(operands, 'metadata_bits')
    ),
    'side_path_bytes_per_graph': to_bytes(side_bits),
    'feature_bytes_fp32_per_graph': to_bytes(32 * elements),
    'message_bytes_per_graph': to_bytes(
      add(everything, 'bits') - add(operands, 'bits')
    ),
    'weight_bytes': float(fixed['weight_bits']) / 8,
    'weight_metadata_bytes': float(fixed['weight_metadata_bytes']),
    'weight_bytes_fp32': float(fixed['weight_elements']) * 4,
    'table_bytes': float(fixed['table_bytes']),
    'bit_ops_per_graph': {
      'products': add(dense, 'bit_ops') / num_graphs,
      'products_fp32': add(dense, 'macs') * 32 * 32 / num_graphs,
      'prompts': add(prompts, 'bit_ops') / num_graphs,
      'neighbor_sums': add(neighbors, 'bit_ops') / num_graphs,
      'neighbor_sums_fp32': add(neighbors, 'additions') * 32 / num_graphs,
    },
  }


def mixq_cost(
  sums: dict[str, Any], assignment: dict[str, int], *, num_graphs: int
) -> dict[str, float]:
  """Average bits and bit operations as MixQ counts them.

  Bit operations are the operations of each module times the mean bits of its
  quantizers, not the product of the bits of two operands, and 0 for a module
  without any (a prompt). The quantizer of the raw features counts with the
  first module that they enter.

  Args:
    sums: `totals` added up over the batches of a split.
    assignment: bits by path of the quantizer.
    num_graphs: graphs of the split; operations are per graph.

  Returns:
    `average_bits` and `bit_ops_per_graph`.

  References:
    Moustafa, Kriege, Gansterer, 2025, arXiv 2505.09361, and its code.
  """
  operations = {
    **{path: r['additions'] for path, r in sums['sums'].items()},
    **{path: r['macs'] for path, r in joined(sums['products']).items()},
  }
  modules: dict[str, list[int]] = {path: [] for path in operations}
  first = 'conv_0/dense' if 'conv_0/dense' in operations else 'conv_0'
  for path, bits in assignment.items():
    module = path.rpartition('/')[0] or first
    modules.setdefault(module, []).append(bits)
  total = sum(
    mixq_search.bit_operations(int(count), modules[path])
    for path, count in operations.items()
  )
  return {
    'average_bits': mixq_search.average_bits(list(assignment.values())),
    'bit_ops_per_graph': total / num_graphs,
  }
