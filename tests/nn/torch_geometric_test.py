"""Layers against torch_geometric, where it is installed."""

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax.nn import conv, methods

torch = pytest.importorskip('torch')
pyg = pytest.importorskip('torch_geometric.nn')


@pytest.fixture(scope='module')
def batch():
  """Directed, with duplicate edges, self loops and isolated nodes."""
  return layers.batch_of(layers.graph_list())


def without_repeated_loops(batch):
  """Nodes have one self loop or none: torch_geometric's GAT replaces them."""
  lists = []
  for graph in layers.graph_list():
    ends = np.stack([graph.senders, graph.receivers])
    loops = ends[0] == ends[1]
    ends = np.concatenate(
      [ends[:, ~loops], np.unique(ends[:, loops], axis=1)], axis=1
    )
    lists.append(
      graph._replace(
        senders=ends[0],
        receivers=ends[1],
        n_edge=np.array([ends.shape[1]], np.int32),
      )
    )
  return layers.batch_of(lists)


def edges_of(batch):
  graph, count = batch.graph, batch.graph.n_edge[:-1].sum()
  ends = np.stack([graph.senders, graph.receivers])[:, :count]
  return torch.tensor(ends, dtype=torch.long)


def compare(layer, theirs, params, batch, **kwargs):
  """Our output with `params` against theirs, for real nodes."""
  ours, _, _ = layers.apply(
    layer, {'params': jax.tree.map(jnp.asarray, params)}, batch
  )
  x = torch.tensor(np.asarray(batch.graph.nodes)[: layers.REAL])
  with torch.no_grad():
    expected = theirs(x, edges_of(batch), **kwargs).numpy()
  np.testing.assert_allclose(
    ours[: layers.REAL], expected, rtol=1e-4, atol=1e-5
  )


def array(parameter):
  return parameter.detach().numpy().copy()


def draw(module):
  """Parameters away from zero, biases included."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.copy_(torch.randn(parameter.shape, generator=generator))
  return module


@pytest.mark.parametrize('kind', ['scaled', 'norm', 'edge_messages'])
@pytest.mark.parametrize(
  'self_loops, weight', [(True, 1), (True, 2), (False, 1)]
)
def test_gcn(batch, self_loops, weight, kind):
  theirs = draw(
    pyg.GCNConv(4, 5, improved=weight == 2, add_self_loops=self_loops)
  )
  scheme = layers.Unquantized(
    edge_weights=kind != 'scaled', edge_messages=kind == 'edge_messages'
  )
  layer = conv.GCNConv(
    5, scheme, self_loops=self_loops, self_loop_weight=float(weight)
  )
  params = {
    'dense': {'kernel': array(theirs.lin.weight).T},
    'bias': array(theirs.bias),
  }
  # Without weights of the edges it would ignore `improved`.
  ones = torch.ones(layers.EDGES)
  compare(layer, theirs, params, batch, edge_weight=ones)


@pytest.mark.parametrize('concat', [True, False])
@pytest.mark.parametrize('self_loops', [True, False])
def test_gat(batch, self_loops, concat):
  width = 2 if concat else 6
  theirs = draw(
    pyg.GATConv(4, width, heads=3, concat=concat, add_self_loops=self_loops)
  )
  layer = conv.GATConv(
    6, methods.FP32(), heads=3, concat=concat, self_loops=self_loops
  )
  # Ours has [f, h] vectors of senders and receivers, turn by turn.
  ends = [array(v)[0].T for v in (theirs.att_src, theirs.att_dst)]
  params = {
    'dense': {'kernel': array(theirs.lin.weight).T},
    'attention_kernel': np.stack(ends, axis=-1).reshape(width, 6),
    'bias': array(theirs.bias),
  }
  compare(layer, theirs, params, without_repeated_loops(batch))


@pytest.mark.parametrize('own_term', [True, False])
def test_gin(batch, own_term):
  linear = torch.nn.Linear(4, 5)
  theirs = draw(pyg.GINConv(linear, train_eps=True))
  params = {
    'dense_0': {'kernel': array(linear.weight).T, 'bias': array(linear.bias)},
  }
  if own_term:
    params['eps'] = array(theirs.eps)[0]
  else:
    theirs.eps.data[:] = -1.0
  layer = conv.GINConv(
    5, methods.FP32(), num_dense=1, norm='none', last=True, own_term=own_term
  )
  compare(layer, theirs, params, batch)
