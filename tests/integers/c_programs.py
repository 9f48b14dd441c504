"""Integer programs with random numbers that have every operation and option."""

import dataclasses
import functools

import numpy as np

from lorap_jax.integers.builder import Builder, Wide
from lorap_jax.integers.program import Graph, Program
from lorap_jax.quantization import grids

HUB = 5000
MAX_NODES = HUB + 1
MAX_EDGES = 3 * HUB
MAX_GRAPHS = 8
FEATURES = 5


def builder() -> Builder:
  return Builder(max_degree=HUB + 20, max_nodes=MAX_NODES)


def uniform(rng, width=None, *, bits=4, zero=False) -> grids.UniformGrid:
  """A grid of a tensor, or of `width` columns."""
  shape = () if width is None else (width,)
  low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
  point = rng.integers(low, high + 1, shape) if zero else np.zeros(shape)
  scale = rng.uniform(0.5, 1.5, shape) * 2.0**-bits
  return grids.UniformGrid(np.asarray(scale), np.asarray(point), low, high)


def grouped(rng, groups=37, *, bits=4) -> grids.GroupGrid:
  reach = np.exp(rng.uniform(-5, 3, groups))
  limit = 2 ** (rng.integers(2, bits + 1, groups) - 1) - 1
  return grids.GroupGrid(reach / (limit + 1), limit, reach)


def by_row(rng, rows=MAX_NODES) -> grids.RowGrid:
  limit = 2 ** (rng.integers(2, 9, rows) - 1) - 1
  return grids.RowGrid(np.exp(rng.uniform(-4, 1, rows)), limit)


def weights(rng, rows, columns, bits):
  """Weights that take all of `bits`, and scales of columns."""
  low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
  weight = rng.integers(low, high + 1, (rows, columns))
  weight.flat[0] = low
  return weight, rng.uniform(0.01, 0.1, columns)


def dense(b: Builder, rng, label, x, columns, *, grid, bits=4) -> Wide:
  with b.inside(label):
    codes = b.quantize('input', x, grid)
    weight, scale = weights(rng, x.width, columns, bits)
    total = b.product('product', codes, weight, scale)
    bias = rng.normal(size=columns)
    return b.widen('result', total, factor=rng.uniform(0.5, 2), bias=bias)


def gin(rng, *, pool='mean', width=19, layers=2, groups=37) -> Program:
  """Sums of neighbors with group tables; wider than a block is `wide`."""
  b = builder()
  x = b.fix('nodes', 4.0, FEATURES)
  for i in range(layers):
    with b.inside(f'conv_{i}'):
      message = b.quantize('message', x, uniform(rng, bits=8, zero=i > 0))
      total = b.neighbor_sum('neighbors', message, drop_loops=i > 0)
      own = b.widen('own', message, factor=1.25)
      s = b.plus('with_own', b.widen('sum', total), own)
      h = dense(b, rng, 'dense_0', s, width, grid=grouped(rng, groups))
      h = b.relu('relu', h)
      x = dense(b, rng, 'dense_1', h, width, grid=uniform(rng), bits=2 + 2 * i)
      x = b.plus('twice', x, h) if i else b.relu('relu', x)
  with b.inside('pool'):
    x = b.pool(pool, x)
  x = dense(b, rng, 'out', x, 3, grid=uniform(rng, bits=8, zero=True), bits=8)
  return b.program(x, per_graph=True, num_features=FEATURES)


def gcn(rng, *, edge_weights=False, keep=False) -> Program:
  """Normed sums, scales of rows, a prompt, and a result of nodes."""
  b = builder()
  x = b.fix('nodes', 4.0, FEATURES)
  x = b.shifted('prompt', x, rng.normal(size=FEATURES))
  h = dense(b, rng, 'dense', x, 133, grid=by_row(rng), bits=8)
  message = b.quantize('message', h, uniform(rng, 133, bits=4, zero=True))
  norm, loops = b.norms(self_loops=not edge_weights or keep, keep=keep)
  if edge_weights:
    codes = dataclasses.replace(message, scale=np.asarray(0.1))
    grid = grids.UniformGrid(np.asarray(1 / 7), np.asarray(1.4 * keep), 0, 7)
    s = b.edge_sum('neighbors', codes, norm, loops, grid)
    s = b.shifted('with_bias', s, rng.normal(size=133))
  else:
    total = b.normed_sum('neighbors', message, norm, loops)
    s = b.widen('sum', total, bias=rng.normal(size=133))
  with b.inside('mixture'):
    codes = b.quantize('input', s, None)
    logits = b.product('scores', codes, *weights(rng, s.width, 4, 8))
    shares = b.soften('shares', logits, rng.normal(size=4))
    mixed = b.product('mixed', shares, *weights(rng, 4, s.width, 8))
    s = b.plus('prompted', s, b.widen('values', mixed))
  return b.program(s, per_graph=False, num_features=FEATURES)


def gat(rng, *, loops=True, heads=3, logits='tensor') -> Program:
  """Attention, with logits that are quantized or not."""
  b = builder()
  width = 4 * heads
  x = b.fix('nodes', 4.0, FEATURES)
  h = dense(b, rng, 'dense', x, width, grid=by_row(rng), bits=8)
  message = b.quantize('message', h, uniform(rng, width, bits=8, zero=True))
  operand = b.operand('operand', b.widen('message_values', message))
  weight, scale = weights(rng, width, 2 * heads, 8)
  scores = b.product('product', operand, weight, scale)
  scores = b.widen('scores', scores, factor=0.3)
  grid = {
    'tensor': grids.UniformGrid(np.asarray(0.1), np.asarray(3.0), -128, 127),
    'groups': grouped(rng, bits=8),
    'none': None,
  }[logits]
  rows = []
  for kind in range(1 + loops):
    met = b.meet('met', scores, loops=kind)
    codes = b.as_codes(met) if grid is None else b.quantize('logits', met, grid)
    rows.append(b.leaky_logits('leaky', codes, 0.2))
  s = b.widen('sum', b.attend('attended', message, *rows))
  return b.program(s, per_graph=False, num_features=FEATURES)


def typed(rng, types=7) -> Program:
  """Rows of a table, by the first feature."""
  b = builder()
  table, scale = weights(rng, types, 9, 8)
  x = b.embed('nodes', table, scale)
  message = b.quantize('message', x, uniform(rng, bits=4))
  s = b.widen('sum', b.neighbor_sum('neighbors', message))
  with b.inside('pool'):
    s = b.pool('mean', s)
  return b.program(s, per_graph=True, num_features=FEATURES)


def with_types(rng, given: Graph, types=7) -> Graph:
  """The graph with a first feature for `typed`."""
  nodes = given.nodes.copy()
  nodes[:, 0] = rng.integers(0, types, len(nodes))
  return given._replace(nodes=nodes)


def small() -> Program:
  """Ends of ranges: ties, large numbers, one column, tight limits."""
  b = Builder(max_degree=3, max_nodes=4)
  fixed = b.add(
    'fix',
    'fixed',
    {'x': 'nodes'},
    {'factor': np.array([[0.5, 1, 2, -1, 2.0**20]], np.float32)},
    bound=2**24,
    low=-(2**24),
    high=2**24 - 1,
  )
  weight = np.array([[127], [-128], [1], [0], [3]], np.int8)
  codes = b.add(
    'scale',
    'halves',
    {'a': fixed},
    {'factor': np.float32(0.5)},
    bound=2**14,
    low=-(2**14),
    high=2**14,
  )
  total = b.add('product', 'sum', {'a': codes}, {'weight': weight}, bound=2**22)
  into = b.add('sum_edges', 'into', {'a': total}, bound=3 * 2**22)
  pooled = b.add('pool_sum', 'pooled', {'a': into}, bound=3 * 2**24)
  return b.program(
    Wide(pooled, 0.25, 3 * 2**24, 1), per_graph=True, num_features=FEATURES
  )


def quotients() -> Program:
  """Quotients and shares that do not come out even."""
  rng = np.random.default_rng(3)
  b = builder()
  x = b.add(
    'fix',
    'fixed',
    {'x': 'nodes'},
    {'factor': np.float32(3)},
    bound=2**10,
    low=-(2**10),
    high=2**10,
  )
  most = b.add('row_max', 'most', {'a': x}, bound=2**10)
  reach = np.sort(rng.choice(np.arange(1, 40), 30, replace=False))
  group = b.add(
    'nearest',
    'group',
    {'a': most},
    {'reach': reach.astype(np.float32)},
    bound=29,
  )
  over, under = (
    b.add(
      'lookup',
      label,
      {'a': group},
      {'table': rng.integers(1, high, 30).astype(np.int16)},
      bound=high,
    )
    for label, high in (('over', 30000), ('under', 99))
  )
  row = b.add('quotient', 'row', {'a': over, 'b': under})
  scaled = b.add(
    'scale',
    'scaled',
    {'a': x, 'row': row},
    {'factor': np.float32(0.3)},
    bound=2**24,
    low=-(2**24),
    high=2**24,
  )
  shares = b.add(
    'soften',
    'shares',
    {'a': x},
    {'table': np.array([9, 7, 6, 5, 3, 2, 1], np.int32)},
    bound=63,
    share=63,
  )
  total = b.add('add', 'both', {'a': scaled, 'b': shares}, bound=2**25)
  return b.program(
    Wide(total, 1.0, 2**25, FEATURES), per_graph=False, num_features=FEATURES
  )


@functools.cache
def all_programs() -> dict[str, Program]:
  rng = np.random.default_rng(0)
  return {
    'gin_mean': gin(rng),
    'gin_max': gin(rng, pool='max', width=7),
    'gin_wide': gin(rng, pool='sum', width=259, layers=1, groups=1),
    'gcn': gcn(rng),
    'gcn_keep': gcn(rng, keep=True),
    'gcn_edges': gcn(rng, edge_weights=True),
    'gcn_edges_keep': gcn(rng, edge_weights=True, keep=True),
    'gat': gat(rng),
    'gat_groups': gat(rng, loops=False, heads=1, logits='groups'),
    'gat_free': gat(rng, heads=2, logits='none'),
    'quotients': quotients(),
  }


def with_every_value(programs: dict[str, Program]) -> dict[str, Program]:
  """Programs that end at each value of whole numbers."""
  reals = ('pool_share', 'edge_norm', 'loop_norm', 'quotient')
  edges = {'edge_norm', 'meet', 'powers', 'shares'}
  nodes = ('sum_edges', 'sum_into', 'max_into')
  found = {}
  for name, program in programs.items():
    by_graph, by_edge = set(), set()
    for i, node in enumerate(program.nodes):
      before = set(node.inputs.values())
      if node.op.startswith('pool') or before & by_graph:
        by_graph.add(node.output)
      of_edges = node.op in edges and not node.options.get('loops')
      if of_edges or (before & by_edge and node.op not in nodes):
        by_edge.add(node.output)
      table = node.constants.get('table', np.zeros(0, np.int32))
      real = node.op in reals or (
        node.op == 'lookup' and table.dtype.kind == 'f'
      )
      if not real and node.output not in by_edge:
        found[f'{name}_{i}'] = dataclasses.replace(
          program,
          output=node.output,
          output_scale=np.ones(1, np.float32),
          per_graph=node.output in by_graph,
        )
  return found


def graph(rng, sizes, edges, *, senders=None, receivers=None) -> Graph:
  """Random features, edges inside of graphs, all of them in one."""
  n = sum(sizes)
  nodes = (rng.normal(size=(n, FEATURES)) * 2).astype(np.float32)
  # Ties, zeros, and numbers beyond all limits.
  nodes[rng.random(nodes.shape) < 0.2] = rng.choice([0, 0.5, -1.5, -0.0, 1e30])
  of = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
  if senders is None:
    start = np.concatenate([[0], np.cumsum(sizes)])
    senders = rng.integers(0, max(n, 1), edges if n else 0)
    size = np.asarray(sizes)[of[senders]] if n else senders
    receivers = start[of[senders]] + rng.integers(0, 2**31, len(senders)) % size
  as_index = lambda array: np.asarray(array, np.int32)
  return Graph(nodes, as_index(senders), as_index(receivers), of, len(sizes))


@functools.cache
def graphs(count=40) -> dict[str, Graph]:
  rng = np.random.default_rng(1)
  leaves = np.arange(1, HUB + 1)
  none = np.zeros(HUB, np.int64)
  found = {
    'nothing': graph(rng, [], 0),
    'no_nodes': graph(rng, [0, 0], 0),
    'one_node': graph(rng, [1], 0),
    'one_loop': graph(rng, [1], 0, senders=[0], receivers=[0]),
    'no_edges': graph(rng, [4, 3], 0),
    'loops': graph(
      rng, [3], 0, senders=[0, 0, 1, 2, 2, 2], receivers=[0, 1, 1, 2, 2, 0]
    ),
    'twice': graph(
      rng, [3], 0, senders=[0, 0, 0, 1, 1], receivers=[1, 1, 1, 2, 2]
    ),
    'empty_between': graph(rng, [3, 0, 0, 4, 0], 12),
    'hub_of_receivers': graph(
      rng, [HUB + 1], 0, senders=leaves, receivers=none
    ),
    'hub_of_both': graph(
      rng,
      [HUB + 1],
      0,
      senders=np.concatenate([leaves, none]),
      receivers=np.concatenate([none, leaves]),
    ),
  }
  for i in range(count):
    sizes = rng.integers(0, 30, rng.integers(1, MAX_GRAPHS + 1))
    found[f'random_{i}'] = graph(rng, list(sizes), rng.integers(0, 300))
  return found
