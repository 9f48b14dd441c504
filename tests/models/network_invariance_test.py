"""What may not change the outputs of a network."""

import functools

import helpers
import jax
import jax.numpy as jnp
import layers
import networks
import numpy as np
import pytest

from lorap_jax.nn import methods

ALL_BACKBONES = pytest.mark.parametrize('backbone', list(networks.BACKBONES))
REAL = networks.REAL_GRAPHS
SCHEMES = {
  'fp32': methods.FP32(),
  'qat': methods.QAT(bits=8),
  'a2q': methods.A2QGraph(bits=8, num_groups=8),
}


def assert_close(actual, expected, scheme):
  """Sums in another order may carry a value over a rounding tie."""
  share = 1e-5 if scheme == 'fp32' else 0.02
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=share * np.abs(expected).max()
  )


@functools.cache
def padded_case(backbone, scheme):
  """A small network in training, as a function of the batch."""
  model = networks.make(
    backbone,
    SCHEMES[scheme],
    num_layers=1,
    norm=True,
    normalize_pooled=True,
    readout=1,
  )
  variables = networks.variables_of(model, jit=True)

  def run(batch):
    return model.apply(
      variables,
      batch.graph,
      layout=batch.layout,
      train=True,
      mutable=layers.WRITTEN,
    )

  return jax.jit(run)


class TestPadding:
  @pytest.mark.parametrize(
    'backbone, scheme',
    [
      ('gcn', 'qat'),
      ('gat', 'a2q'),
      *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [('gcn', 'a2q'), ('gat', 'qat')]
      ),
      *((b, 'fp32') for b in ('gcn', 'gat')),
    ],
  )
  def test_garbage(self, backbone, scheme):
    """Not even the last bit changes, nor a statistic."""
    run, batch = padded_case(backbone, scheme), networks.batch_of()
    mask = layers.rows_of(batch).mask
    nodes = jnp.where(mask, batch.graph.nodes, 1e3)
    dirty = batch._replace(graph=batch.graph._replace(nodes=nodes))
    (one, written), (other, dirtied) = run(batch), run(dirty)
    np.testing.assert_array_equal(other[:REAL], one[:REAL])
    helpers.assert_trees_close(dirtied, written)

  @pytest.mark.parametrize(
    'backbone, scheme',
    [
      ('gcn', 'qat'),
      ('gat', 'a2q'),
      pytest.param('gcn', 'a2q', marks=pytest.mark.slow),
    ],
  )
  def test_more(self, backbone, scheme):
    run = padded_case(backbone, scheme)
    one, written = run(networks.batch_of())
    other, more = run(networks.batch_of(larger=True))
    assert_close(other[:REAL], one[:REAL], scheme)
    helpers.assert_trees_close(more, written, rtol=0.02, atol=0.01)


def trained(model):
  """Variables with the ranges of a training step."""
  variables = networks.variables_of(model)
  _, written, _ = networks.apply(model, variables, train=True)
  return {**variables, **written}


@ALL_BACKBONES
class TestPermutation:
  @pytest.mark.parametrize('scheme', ['fp32', 'qat'])
  def test_nodes_of_graphs(self, backbone, scheme):
    model = networks.make(backbone, SCHEMES[scheme], pool='max')
    variables = trained(model)
    rng = np.random.default_rng(0)
    graph_list = [helpers.permute_nodes(g, rng) for g in layers.graph_list()]
    one, _, _ = networks.apply(model, variables)
    other, _, _ = networks.apply(
      model, variables, networks.as_arrays(graph_list)
    )
    assert_close(other[:REAL], one[:REAL], scheme)
    assert np.std(one[:REAL], axis=0).max() > 0.1

  def test_nodes_of_a_node_task(self, backbone):
    model = networks.make(backbone, pool='none')
    variables = networks.variables_of(model)
    graph = helpers.random_graph(np.random.default_rng(4), 20, 50, features=4)
    order = np.random.default_rng(0).permutation(20)
    place = np.argsort(order).astype(np.int32)
    permuted = graph._replace(
      nodes=graph.nodes[order],
      senders=place[graph.senders],
      receivers=place[graph.receivers],
    )
    one, other = (
      networks.apply(model, variables, networks.as_arrays([g]))[0][:20]
      for g in (graph, permuted)
    )
    np.testing.assert_allclose(other, one[order], rtol=1e-4, atol=1e-5)
    assert np.abs(other - one).max() > 0.01


def test_graphs_do_not_see_each_other():
  model = networks.make('gat', SCHEMES['qat'])
  variables = trained(model)
  together, _, _ = networks.apply(model, variables)
  alone = networks.as_arrays([layers.graph_list()[3]])
  out, _, _ = networks.apply(model, variables, alone)
  assert_close(out[0], together[3], 'qat')
