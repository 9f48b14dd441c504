"""Forms of the published layers, switched by `published`."""

import dataclasses

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax.nn import conv, linear, methods


@dataclasses.dataclass(frozen=True)
class Formed(layers.Unquantized):
  """Full precision, in one of the forms."""

  forms: methods.Forms = methods.Forms()


KINDS = {
  'qat': methods.QAT,
  'dq': methods.DegreeQuant,
  'a2q': methods.A2QGraph,
  'a2q_node': methods.A2QNode,
  'mixq_search': methods.MixQSearch,
  'mixq': methods.MixQ,
}


@pytest.mark.parametrize('kind', list(KINDS))
def test_published_is_one_field_of_all_methods(kind):
  assert KINDS[kind]().forms == methods.Forms()
  assert KINDS[kind](published=True).forms != methods.Forms()


class TestDegreeQuant:
  def test_published_values(self):
    ours, theirs = (methods.DegreeQuant(published=p) for p in (False, True))
    assert (ours.gradient, theirs.gradient) == ('clipped', 'clipped_strict')
    assert (ours.edge_messages, theirs.edge_messages) == (False, True)
    eight = methods.DegreeQuant(bits=8, published=True)
    assert (theirs.percentile, eight.percentile) == (0.01, 0.001)

  def test_fields_that_are_set_stay(self):
    scheme = methods.DegreeQuant(
      published=True, gradient='plain', edge_messages=False, percentile=0.0
    )
    assert (scheme.gradient, scheme.edge_messages) == ('plain', False)
    assert scheme.percentile == 0.0

  def test_quantizers_multiply_by_the_inverse(self):
    for published in (False, True):
      scheme = methods.QAT(published=published)
      assert scheme.quantizer('weight', non_negative=False).published == (
        published
      )


class TestGIN:
  """The batch has duplicate edges and a self loop."""

  def run(self, scheme, **fields):
    batch = layers.batch_of(layers.graph_list())
    layer = conv.GINConv(6, scheme, norm='none', **fields)
    variables = layers.init(layer, batch)
    variables = layers.with_start(variables, 'eps', np.float32(0.5))
    protected = np.arange(len(batch.graph.nodes))[:, None] % 3 == 0
    rows = layers.rows_of(batch, train=True, protected=protected)
    return batch.graph, *layers.apply(layer, variables, batch, rows=rows)[::2]

  def test_messages_of_edges(self):
    """One message per edge, protected with its sender; the node itself raw."""
    scheme = methods.DegreeQuant(
      edge_messages=True, percentile=0.0, points=('message',)
    )
    graph, _, calls = self.run(scheme)
    call, nodes = calls['message'], np.asarray(graph.nodes)
    np.testing.assert_array_equal(call.x, nodes[graph.senders])
    np.testing.assert_array_equal(call.protected[:, 0], graph.senders % 3 == 0)
    kept = call.values * call.mask
    total = np.zeros_like(nodes)
    np.add.at(total, graph.receivers, kept)
    s = calls['aggregate'].x[: layers.REAL]
    expected = (1.5 * nodes + total)[: layers.REAL]
    np.testing.assert_allclose(s, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(call.values - call.x)[call.mask[:, 0]].max() > 0.01

  def test_messages_of_nodes_are_unchanged(self):
    scheme = methods.DegreeQuant(percentile=0.0, points=('message',))
    graph, _, calls = self.run(scheme)
    values = calls['message'].values
    s = (1.5 * values + layers.adjacency(graph) @ values)[: layers.REAL]
    np.testing.assert_allclose(
      calls['aggregate'].x[: layers.REAL], s, rtol=1e-5, atol=1e-5
    )

  @pytest.mark.parametrize('edge_messages', [False, True])
  def test_self_loops(self, edge_messages):
    forms = methods.Forms(drops_self_loops=True)
    graph, _, calls = self.run(Formed(edge_messages=edge_messages, forms=forms))
    nodes, matrix = np.asarray(graph.nodes), layers.adjacency(graph)
    loops = np.diag(np.diag(matrix))
    assert loops[: layers.REAL].sum() > 0
    s = (1.5 * nodes + (matrix - loops) @ nodes)[: layers.REAL]
    np.testing.assert_allclose(
      calls['aggregate'].x[: layers.REAL], s, rtol=1e-5, atol=1e-5
    )

  @pytest.mark.parametrize('edge_messages', [False, True])
  @pytest.mark.parametrize('drops', [False, True])
  def test_report_counts_what_is_summed(self, edge_messages, drops):
    forms = methods.Forms(drops_self_loops=drops)
    batch = layers.batch_of(layers.graph_list())
    layer = conv.GINConv(6, Formed(edge_messages=edge_messages, forms=forms))
    rows = layers.rows_of(batch)
    graph = jax.tree.map(jnp.asarray, batch.graph)
    variables = layer.init(jax.random.key(0), graph.nodes, graph, rows=rows)
    _, sown = layer.apply(
      variables, graph.nodes, graph, rows=rows, mutable=['telemetry']
    )
    matrix = layers.adjacency(batch.graph)[: layers.REAL, : layers.REAL]
    edges = matrix.sum() - drops * np.trace(matrix)
    assert np.trace(matrix) > 0
    assert sown['telemetry']['sum'].additions == edges * graph.nodes.shape[1]

  @pytest.mark.parametrize('published', [False, True])
  def test_rows_protected_in_the_mlp(self, published):
    scheme = methods.DegreeQuant(published=published, percentile=0.0)
    _, _, calls = self.run(scheme)
    for point in ('aggregate', 'dense_0/output', 'dense_1/input'):
      assert (calls[point].protected is None) == published, point
    assert calls['neighbor_sum'].protected is not None
    assert calls['update'].protected is not None


class TestGCN:
  def output(self, forms):
    batch = layers.batch_of(layers.graph_list())
    layer = conv.GCNConv(6, Formed(forms=forms))
    variables = layers.init(layer, batch)
    bias = np.linspace(-1, 1, 6).astype(np.float32)
    variables = layers.with_start(variables, 'bias', bias)
    out, _, _ = layers.apply(layer, variables, batch)
    return batch.graph, variables['params'], out[: layers.REAL]

  @pytest.mark.parametrize('end', ['receivers', 'senders'])
  @pytest.mark.parametrize('inside', [False, True])
  def test_degrees_and_bias(self, end, inside):
    graph, params, out = self.output(
      methods.Forms(degree_of=end, bias_in_messages=inside)
    )
    matrix = layers.adjacency(graph)
    np.fill_diagonal(matrix, 1)  # Self loops of a node are counted once.
    degree = matrix.sum(1 if end == 'receivers' else 0)
    scale = degree**-0.5
    matrix *= scale[:, None] * scale
    h = np.asarray(graph.nodes) @ np.asarray(params['dense']['kernel'])
    bias = np.asarray(params['bias'])
    expected = matrix @ (h + bias) if inside else matrix @ h + bias
    np.testing.assert_allclose(
      out, expected[: layers.REAL], rtol=1e-4, atol=1e-4
    )


def test_dense_without_its_bias():
  layer = linear.QuantDense(3, Formed(forms=methods.Forms(dense_bias=False)))
  batch = layers.batch_of(layers.graph_list())
  variables = layer.init(
    jax.random.key(0),
    jnp.asarray(batch.graph.nodes),
    rows=layers.rows_of(batch),
  )
  assert set(variables['params']) == {'kernel'}
