"""Graphs that are none: refused on the host, harmless in compiled programs."""

import os
import pathlib
import subprocess
import sys

import helpers
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.graphs import checks

BUDGET = graphs.Budget(32, 64, 7, 16)
ROOT = pathlib.Path(__file__).parents[2]

# In a process of its own: what this guards against ends the process.
_HARMLESS = """
import jax, jax.numpy as jnp, jraph, numpy as np
from lorap_jax import graphs

x = jnp.ones((5, 8))
ints = lambda *v: jnp.array(v, jnp.int32)

def run(f, *args):
  jax.block_until_ready(jax.jit(f)(x, *args))
  jax.block_until_ready(jax.jit(jax.grad(lambda x: f(x, *args).sum()))(x))

def graph(n_node, senders=(0,), receivers=(0,)):
  return jraph.GraphsTuple(
    x, None, ints(*receivers), ints(*senders), None, ints(*n_node),
    ints(*([1] * len(n_node))))

for n_node in ((6,), (5000,), (10**9,), (-10**9,), (2**31 - 1, 2**31 - 1)):
  for pool in (graphs.sum_pool, graphs.mean_pool, graphs.max_pool):
    run(pool, graph(n_node))
for end in (5, 10**9, -1, -10**9):
  run(graphs.aggregate, graph((5,), (end,), (end,)))
  for side in (graphs.Csr(ints(0, 1, 2, 3, 4, 5), ints(0, 1, 2, 3, end)),
               graphs.Csr(ints(0, 1, 2, 3, 4, end), ints(0, 1, 2, 3, 4)),
               graphs.Csr(ints(end, 1, 2, 3, 4, 5), ints(0, 1, 2, 3, 4))):
    lay = graphs.Layout(side, side)
    run(lambda x, l: graphs.aggregate(x, graph((5,)), l), lay)
    weighted = side._replace(order=ints(0, 1, 2, 3, end))
    lay = graphs.Layout(weighted, weighted)
    w, five = jnp.ones(5), graph((5,), (0,) * 5, (0,) * 5)
    run(lambda x, l: graphs.aggregate_weighted(x, w, five, l), lay)
print('alive')
"""


def test_no_index_ends_the_process():
  done = subprocess.run(
    [sys.executable, '-c', _HARMLESS],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout) == (0, 'alive\n'), done.stderr[-2000:]


def sums_of(indptr, indices):
  """Over five nodes of the numbers 1 to 40."""
  x = jnp.arange(1, 41, dtype=jnp.float32).reshape(5, 8)
  side = graphs.Csr(jnp.array(indptr), jnp.array(indices))
  graph = helpers.random_graph(np.random.default_rng(0), 5, 5)
  return graphs.aggregate(x, graph, graphs.Layout(side, side))


@pytest.mark.parametrize('end, edge', [(5, 4), (10**9, 4), (-1, 0)])
def test_columns_outside_are_read_from_the_edge(end, edge):
  found, expected = (
    sums_of([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, last]) for last in (end, edge)
  )
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('end', [6, 10**9])
def test_rows_outside_end_with_the_entries(end):
  found, expected = (
    sums_of([0, 1, 2, 3, 4, last], [0, 1, 2, 3, 4]) for last in (end, 5)
  )
  np.testing.assert_array_equal(found, expected)


def test_pools_of_too_many_nodes_are_those_of_the_rows():
  graph = helpers.random_graph(np.random.default_rng(0), 5, 6)
  wrong = graph._replace(n_node=np.array([500], np.int32))
  pools = [
    jax.jit(graphs.sum_pool)(jnp.asarray(graph.nodes), g)
    for g in (graph, wrong)
  ]
  np.testing.assert_array_equal(*pools)


def changed(**changes):
  """Two graphs, the second with other arrays."""
  one, other = helpers.random_graphs(1, sizes=(4, 5))
  return [one, other._replace(**changes)]


_WRONG = [
  ({'senders': np.full(15, 5)}, r'`graphs\[1\].senders` of edge 0 is 5, outs'),
  ({'receivers': np.full(15, 31)}, r'receivers` of edge 0 is 31, outside'),
  ({'senders': np.full(15, -1)}, r'senders` of edge 0 is -1, outside'),
  ({'senders': np.full(15, 2**32)}, r'senders` holds 4294967296, outside of'),
  ({'senders': np.full(15, 0.5)}, r'senders` is float64 \(15,\); give integ'),
  ({'senders': None}, r'senders` is object \(\); give integers'),
  ({'receivers': np.zeros(3, int)}, '15 senders and 3 receivers; each pair'),
  ({'n_node': np.array([6])}, r'`graphs\[1\].n_node` adds up to 6 .* the 5'),
  ({'n_node': np.array([4])}, r'n_node` adds up to 4 .* must count the 5'),
  ({'n_edge': np.array([9])}, r'n_edge` adds up to 9 .* must count the 15'),
  ({'nodes': np.full((5, 3), np.nan)}, 'nodes` of node 0 are not finite'),
  ({'nodes': np.full((5, 3), 1e300)}, 'nodes` of node 0 are not finite'),
  ({'nodes': np.ones((5, 4))}, r'different numbers of features: \[3, 4\]'),
  ({'nodes': [[1, 2], [3]]}, 'nodes` is no array of numbers'),
  ({'nodes': None}, r'nodes` is object \(\); give numbers'),
]


@pytest.mark.parametrize('changes, message', _WRONG)
def test_batch_graphs_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    graphs.batch_graphs(changed(**changes), np.zeros(2, int), BUDGET)


def test_batch_graphs_refuses_no_graphs():
  with pytest.raises(ValueError, match='`graphs` is empty; give at least one'):
    graphs.batch_graphs([], np.zeros(0, int), BUDGET)


def test_a_graph_without_nodes_is_one():
  nothing = helpers.random_graphs(1, sizes=(0,))
  batch = graphs.batch_graphs(nothing, np.zeros(1, int), BUDGET)
  assert graphs.graph_mask(batch.graph).sum() == 1
  assert not graphs.node_mask(batch.graph).any()


@pytest.mark.parametrize('labels', [np.zeros(3, int), np.zeros((2, 1), int)])
def test_batch_graphs_refuses_labels_of_other_graphs(labels):
  with pytest.raises(ValueError, match='`labels` is int64 .* the 2 graphs'):
    graphs.batch_graphs(changed(), labels, BUDGET)


@pytest.mark.parametrize('end', [-1, 5])
def test_make_layout_refuses_ends_that_are_no_nodes(end):
  ids, good = np.array([0, end]), np.array([0, 1])
  for ends, name in (((ids, good), 'senders'), ((good, ids), 'receivers')):
    with pytest.raises(ValueError, match=f'`{name}` of edge 1 is {end}, but'):
      graphs.make_layout(*ends, 5)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'nodes': jnp.ones(5)}, r'nodes` has shape \(5,\); give numbers'),
    ({'senders': jnp.ones(15)}, r'senders` is float32 \(15,\); give integers'),
    ({'n_node': jnp.ones((1, 1), int)}, r'n_node` is int32 \(1, 1\); give'),
    ({'n_edge': jnp.ones(2, int)}, '1 n_node and 2 n_edge'),
    ({'receivers': None}, r'receivers` is object None; give integers'),
  ],
)
def test_shapes_are_checked_under_jit(changes, message):
  graph = helpers.random_graph(np.random.default_rng(0), 5, 15)
  graph = graph._replace(**changes)
  with pytest.raises(ValueError, match=message):
    jax.jit(lambda g: checks.check_shapes(g))(graph)


def test_what_is_no_graph():
  for check in (checks.check_graph, checks.check_shapes):
    with pytest.raises(ValueError, match='`graph` is a dict; give a jraph'):
      getattr(check, '__wrapped__', check)({'nodes': 1})


def test_a_sound_graph_passes_through():
  graph = helpers.random_graph(np.random.default_rng(0), 5, 15)
  checks.check_shapes(graph)
  checked = checks.check_graph(graph)
  for name in ('nodes', 'senders', 'receivers', 'n_node', 'n_edge'):
    np.testing.assert_array_equal(getattr(checked, name), getattr(graph, name))
  assert isinstance(checked, jraph.GraphsTuple)
