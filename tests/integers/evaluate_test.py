"""Programs as JAX evaluates them: the same bits, compiled once."""

import dataclasses

import c_programs
import jax
import layers
import numpy as np
import pytest
import tiny_run

from lorap_jax.data import pipeline
from lorap_jax.graphs import batching
from lorap_jax.integers import builder, evaluate, program
from lorap_jax.quantization import grids


def made(width, *, reach=None, weights=None, seed=0):
  """A quantizer of groups or of 16 bits, a product, and a sum over edges."""
  rng = np.random.default_rng(seed)
  own = builder.Builder(max_degree=16, max_nodes=8)
  grid = None
  if reach is not None:
    bits = rng.integers(2, 5, len(reach))
    limit = 2 ** (bits - 1) - 1
    grid = grids.GroupGrid(reach / (limit + 1), limit, reach)
  codes = own.quantize('input', own.fix('nodes', 4.0, width), grid)
  if weights is None:
    weights = rng.integers(-127, 128, (width, 5))
  total = own.product('product', codes, weights, np.full(5, 0.01))
  own_codes = own.quantize('more', own.widen('wide', total), None)
  small = own.narrow('small', own.widen('again', own_codes), 6)
  summed = own.neighbor_sum(
    'sum',
    builder.Codes(small.name, np.ones(()), np.zeros(()), small.bound, 5),
  )
  return own.program(
    own.widen('out', summed), per_graph=False, num_features=width
  )


def batch_of(width, seed=1):
  """Graphs in a padded batch, with its layout, and the rows that are real."""
  data = tiny_run.dataset(seed, 9)
  rng = np.random.default_rng(seed)
  nodes = 3 * rng.normal(size=(len(data.nodes), width))
  data = data._replace(nodes=nodes.astype(np.float32))
  budget = pipeline.joint_budget((data,), batch_size=16)
  loader = pipeline.Loader(data, budget, layout=True)
  return data, loader.batch(np.arange(9))


@pytest.mark.parametrize(
  'width, reach, op',
  [
    (4, np.array([0.5, 1.0, 2.0]), 'float_product'),
    (12, None, 'half_products'),
  ],
)
@pytest.mark.parametrize('with_layout', [True, False])
def test_equal_bits(width, reach, op, with_layout):
  """With the largest operands and weights that a product can have."""
  # Of one sign, so that the sums are as large as their bound.
  weights = np.full((width, 5), 127)
  own = made(width, reach=reach, weights=weights)
  ops = [row[0] for row in evaluate.split(own)[0].nodes]
  assert op in ops and 'float_sum' in ops
  data, batch = batch_of(width)
  data = data._replace(nodes=np.abs(data.nodes) + 3)
  batch.graph.nodes[: len(data.nodes)] = data.nodes
  expected = program.execute(own, evaluate.first_graphs(data, 9))
  found = evaluate.compiled(own)(
    batch.graph, batch.layout if with_layout else None
  )
  np.testing.assert_array_equal(found[: len(expected)], expected)
  assert expected.std() > 0


def test_programs_of_one_structure_share_what_is_compiled():
  """Other weights, limits and numbers of groups are arguments."""
  _, batch = batch_of(4)
  evaluate._runner.cache_clear()
  results = []
  for seed, count in ((0, 3), (1, 40), (2, 200)):
    own = made(4, reach=np.linspace(0.1, 4, count), seed=seed)
    graph = batch.graph
    results.append(np.asarray(evaluate.compiled(own)(graph, batch.layout)))
  skeleton, _ = evaluate.split(own)
  assert evaluate._runner.cache_info().currsize == 1
  assert evaluate._runner(skeleton)._cache_size() == 1
  assert not np.array_equal(results[0], results[1])


def test_a_bound_beyond_24_bits_is_computed_in_whole_numbers():
  own = made(4, reach=np.array([1.0]))
  (name,) = (n.output for n in own.nodes if n.op == 'product')
  op = lambda p: next(
    row[0] for row in evaluate.split(p)[0].nodes if row[2] == name
  )
  for bound, operand, expected in (
    (2**24 - 1, 7, 'float_product'),
    (2**24, 7, 'half_products'),
    (2**24, 2**26, 'product'),
  ):
    bounds = {**own.bounds, name: bound, 'input/codes': operand}
    assert op(dataclasses.replace(own, bounds=bounds)) == expected


def test_programs_are_whole_but_for_what_is_exact():
  """The evaluator's float32 products are of whole numbers, and cast at once."""
  own = made(4, reach=np.array([0.5, 1.0]))
  _, batch = batch_of(4)
  text = str(jax.make_jaxpr(evaluate.compiled(own))(batch.graph, batch.layout))
  lines = [line for line in text.splitlines() if 'dot_general' in line]
  assert lines and 'HIGHEST' in text


def test_integers_are_those_of_each_shard():
  run = evaluate.compiled(c_programs.all_programs()['gin_mean'])
  listed = layers.graph_list(c_programs.FEATURES)
  single = [layers.batch_of(part) for part in (listed[:3], listed[3:])]
  both = batching.join_shards(single)
  expected = [run(batch.graph, batch.layout) for batch in single]
  assert np.ptp(expected[0]) > 0
  for layout in (both.layout, None):
    np.testing.assert_array_equal(
      run(both.graph, layout), np.concatenate(expected)
    )
