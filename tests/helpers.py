"""Random graphs, cases and comparisons that several test folders use."""

import dataclasses

import flax.linen as nn
import jax
import jraph
import numpy as np
import pytest

from lorap_jax.nn import telemetry

# Compiled as networks are; one by one, operations compile for each shape.
JIT = pytest.mark.parametrize(
  'jit',
  [
    pytest.param(True, id='jit'),
    pytest.param(False, marks=pytest.mark.slow, id='eager'),
  ],
)


def random_graph(
  rng: np.random.Generator, num_nodes: int, num_edges: int, *, features: int = 3
) -> jraph.GraphsTuple:
  """A multigraph: duplicate edges, self loops and isolated nodes do occur.

  The last node of a graph of three or more has no edges, the first receives
  about half of them, and the first edge is there twice.
  """
  last = num_nodes - 1 if num_nodes >= 3 else num_nodes
  senders, receivers = rng.integers(
    0, max(last, 1), (2, num_edges if num_nodes else 0)
  )
  receivers[::2] = 0
  if senders.size >= 2:
    senders[-1], receivers[-1] = senders[0], receivers[0]
  return jraph.GraphsTuple(
    nodes=rng.normal(size=(num_nodes, features)).astype(np.float32),
    edges=None,
    senders=senders.astype(np.int32),
    receivers=receivers.astype(np.int32),
    n_node=np.array([num_nodes], np.int32),
    n_edge=np.array([senders.size], np.int32),
    globals=None,
  )


def random_graphs(
  seed: int, *, sizes=(5, 1, 0, 9, 3), features: int = 3
) -> list[jraph.GraphsTuple]:
  """Graphs of the given numbers of nodes, one of them empty by default."""
  rng = np.random.default_rng(seed)
  return [random_graph(rng, n, 3 * n, features=features) for n in sizes]


def permute_nodes(
  graph: jraph.GraphsTuple, rng: np.random.Generator
) -> jraph.GraphsTuple:
  """The same graph with its nodes renumbered and its edges shuffled."""
  new_of_old = rng.permutation(len(graph.nodes)).astype(np.int32)
  edges = rng.permutation(len(graph.senders))
  nodes = np.empty_like(graph.nodes)
  nodes[new_of_old] = graph.nodes
  return graph._replace(
    nodes=nodes,
    senders=new_of_old[graph.senders[edges]],
    receivers=new_of_old[graph.receivers[edges]],
  )


def assert_trees_close(actual, expected, *, rtol=0.0, atol=0.0) -> None:
  """Compares two trees leaf by leaf; exactly unless tolerances are given."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  paths = jax.tree_util.tree_leaves_with_path(actual)
  for (path, a), b in zip(paths, jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(
      a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path)
    )


def tree_spec(tree) -> dict[str, tuple[int, ...]]:
  """Path to shape, of every leaf."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {'/'.join(key.key for key in path): v.shape for path, v in leaves}


class _Reporter(nn.Module):
  point: str

  @nn.compact
  def __call__(self, x, y, rows):
    telemetry.record_feature(self, self.point, x, y, rows)


def feature_report(x, y, rows, point='input'):
  """What a quantization point reports of a tensor x that became y."""
  _, sown = _Reporter(point).apply(
    {}, x, y, rows, mutable=[telemetry.COLLECTION]
  )
  return sown[telemetry.COLLECTION]['feature']


def records(tree, kind: type) -> dict[str, list]:
  """Telemetry records of one kind, by the path of their module."""
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda leaf: isinstance(leaf, kind)
  )
  found = {}
  for path, leaf in leaves:
    if isinstance(leaf, kind):
      module = '/'.join(key.key for key in path[:-1])
      found.setdefault(module, []).append(leaf)
  return found


def fields_of(module) -> dict:
  """The values of a Linen module's own fields."""
  names = {field.name for field in dataclasses.fields(module)}
  return {name: getattr(module, name) for name in names - {'parent', 'name'}}


def create_untyped(kind, values: dict) -> None:
  """Creates a dataclass without the type checks of the test run."""
  init = getattr(kind.__init__, '__wrapped__', kind.__init__)
  init(object.__new__(kind), **values)
