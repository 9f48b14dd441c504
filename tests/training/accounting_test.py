import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
import tiny_run

from lorap_jax import graphs
from lorap_jax.data import pipeline
from lorap_jax.nn import methods, telemetry
from lorap_jax.runs import settings
from lorap_jax.training import accounting, state, steps

REAL = jnp.array([True, True, True, False])  # The last node is padding.


def feature(point, bits, mask, *, width, metadata=0, table=0, error=None):
  bits = jnp.asarray(bits, jnp.float32)
  error = jnp.zeros_like(bits) if error is None else jnp.asarray(error)
  return {
    'feature': telemetry.FeatureRecord(
      point=point,
      bits=bits,
      error=error,
      energy=10 * error,
      energy_after=9 * error,
      clipped=error / 10,
      mask=jnp.asarray(mask),
      width=jnp.float32(width),
      row_metadata_bits=jnp.float32(metadata),
      table_bytes=jnp.float32(table),
    )
  }


def product(role, macs, bit_ops):
  return {
    'product': telemetry.ProductRecord(
      role, jnp.float32(macs), jnp.float32(bit_ops)
    )
  }


@pytest.fixture
def tree():
  """What a layer on three nodes and a readout of one graph report."""
  side = telemetry.SideRecord(jnp.float32(64), REAL)
  summed = telemetry.SumRecord(jnp.float32(10), jnp.float32(40))
  weight = telemetry.WeightRecord(*(jnp.float32(v) for v in (4, 4, 24)))
  return {
    'conv_0': {
      'aggregate': feature(
        'aggregate',
        [2, 4, 6, 8],
        REAL,
        width=2,
        metadata=3,
        table=40,
        error=[1.0, 2.0, 3.0, 99.0],
      ),
      'message': feature('message', [4, 4, 4, 4], REAL, width=2, table=8),
      'prompt': {**product('prompt', 30, 30 * 1024), 'side_path': side},
      'dense_0': {**product('layer', 12, 12 * 16), 'weight_matrix': weight},
      'sum': summed,
    },
    'readout_0': {
      'input': feature('readout', [8, 3], [True, False], width=5, metadata=7),
    },
  }


@pytest.fixture
def graph():
  """Node 1 receives two edges, node 2 one; the last edge is padding."""
  return jraph.GraphsTuple(
    nodes=jnp.zeros((4, 2)),
    edges=None,
    senders=jnp.array([0, 2, 0, 3]),
    receivers=jnp.array([1, 1, 2, 3]),
    n_node=jnp.array([3, 1]),
    n_edge=jnp.array([3, 1]),
    globals=None,
  )


@pytest.fixture
def summary(tree, graph):
  sums = accounting.totals(tree, graph)
  return accounting.summarize(
    sums,
    accounting.constants(tree),
    num_graphs=2,
    stored=methods.HIDDEN_OPERANDS,
  )


def test_average_bits(summary):
  bits = summary['average_bits']
  # Operands: 3 rows of 2 with 2, 4 and 6 bits, 1 row of 5 with 8 bits.
  assert bits['usage_weighted'] == pytest.approx((2 * 12 + 5 * 8) / 11)
  assert bits['unweighted'] == pytest.approx((4 + 8) / 2)
  assert bits['per_point'] == {'conv_0/aggregate': 4, 'readout_0/input': 8}
  # Messages: 3 rows of 2 with 4 bits.
  assert bits['usage_weighted_with_messages'] == pytest.approx((64 + 24) / 17)
  # Side path: 64 bits for each of 3 rows.
  assert bits['usage_weighted_with_side_path'] == pytest.approx((64 + 192) / 11)


def test_bytes_per_graph(summary):
  bits = {
    'feature_bytes_per_graph': 64,
    'feature_metadata_bytes_per_graph': 3 * 3 + 7,
    'side_path_bytes_per_graph': 192,
    'feature_bytes_fp32_per_graph': 11 * 32,
    'message_bytes_per_graph': 24,
  }
  for name, count in bits.items():
    assert summary[name] == count / 8 / 2, name


def test_bytes_of_the_network(summary):
  assert summary['weight_bytes'] == 4 * 4 / 8
  assert summary['weight_bytes_fp32'] == 4 * 4
  assert summary['weight_metadata_bytes'] == 24
  assert summary['table_bytes'] == 40 + 8


def test_operations_per_graph(summary):
  assert summary['bit_ops_per_graph'] == {
    'products': 12 * 16 / 2,
    'products_fp32': 12 * 1024 / 2,
    'prompts': 30 * 1024 / 2,
    'neighbor_sums': 40 / 2,
    'neighbor_sums_fp32': 10 * 32 / 2,
  }


def test_mean_bits_of_a_training_step(tree):
  total, count = accounting.mean_bits(tree, methods.HIDDEN_OPERANDS)
  assert (float(total), float(count)) == (64, 11)


def test_by_in_degree(tree, graph):
  features = accounting.totals(tree, graph)['features']
  degree = features['aggregate']['conv_0/aggregate']['degree']
  expected = {  # Of in-degree 0, 1 and 2: nodes 0, 2 and 1.
    'rows': [1, 1, 1],
    'bits': [2, 6, 4],
    'error': [1, 3, 2],
    'energy': [10, 30, 20],
    'energy_after': [9, 27, 18],
    'clipped': [0.1, 0.3, 0.2],
  }
  for name, values in expected.items():
    np.testing.assert_allclose(degree[name][:3], values, err_msg=name)
    assert not degree[name][3:].any()
  assert 'degree' not in features['readout']['readout_0/input']


RAW = {'features': feature('features', [32] * 4, REAL, width=3)}


def summary_of(tree, graph, stored=methods.HIDDEN_OPERANDS):
  return accounting.summarize(
    accounting.totals(tree, graph),
    accounting.constants(tree),
    num_graphs=2,
    stored=stored,
  )


def test_raw_features_are_counted_apart(tree, graph, summary):
  bits = summary_of({**tree, **RAW}, graph)['average_bits']
  assert bits['usage_weighted'] == summary['average_bits']['usage_weighted']
  # 3 rows of 3 with 32 bits more.
  raw = bits['usage_weighted_with_raw_features']
  assert raw == pytest.approx((64 + 288) / 20)
  same = summary['average_bits']['usage_weighted_with_raw_features']
  assert same == summary['average_bits']['usage_weighted']


def test_a_network_that_stores_nothing_else_is_counted_by_its_input(graph):
  bits = summary_of(RAW, graph)['average_bits']
  assert bits['usage_weighted'] == bits['unweighted'] == 32


def test_the_scheme_says_what_is_stored(tree, graph):
  bits = summary_of(tree, graph, stored=('message', 'readout'))['average_bits']
  assert bits['per_point'] == {'conv_0/message': 4, 'readout_0/input': 8}


def test_mixq_counts_operations_by_the_mean_bits_of_a_module(tree, graph):
  found = accounting.mixq_cost(
    accounting.totals(tree, graph),
    {
      'features': 8,
      'conv_0/neighbor_sum': 4,
      'conv_0/dense_0/weight': 2,
      'conv_0/dense_0/output': 4,
      'readout_0/input': 2,
    },
    num_graphs=2,
  )
  assert found['average_bits'] == 20 / 5
  # 10 additions with 8 and 4 bits, 12 products with 2 and 4; the prompt has no
  # quantizer, and the readout of this tree no operations.
  assert found['bit_ops_per_graph'] == (10 * 6 + 12 * 3) / 2


def test_high_in_degrees_share_the_last_bin(tree, graph):
  many = accounting.MAX_DEGREE + 5
  padding = jnp.full((1,), 3)
  graph = graph._replace(
    senders=jnp.concatenate([jnp.zeros(many, jnp.int32), padding]),
    receivers=jnp.concatenate([jnp.ones(many, jnp.int32), padding]),
  )
  features = accounting.totals(tree, graph)['features']
  rows = features['aggregate']['conv_0/aggregate']['degree']['rows']
  assert rows[-1] == 1 and rows[0] == 2


def measure(batch, **changes):
  """The summary of one batch under the initial state of a model."""
  chosen = settings.from_config(tiny_run.config(**changes))
  model = chosen.model(3)
  first = state.init_state(model, batch, jax.random.key(0))
  sums, fixed = steps.make_cost_step(model)(first.variables(), batch)
  count = int(np.sum(graphs.graph_mask(batch.graph)))
  return accounting.summarize(
    sums, fixed, num_graphs=count, stored=chosen.scheme.stored
  )


def batch_of(num_graphs, *, more_padding=0):
  data = tiny_run.splits().train
  budget = pipeline.joint_budget((data,), batch_size=16)
  budget = budget._replace(num_nodes=budget.num_nodes + more_padding)
  return pipeline.Loader(data, budget, layout=True).batch(np.arange(num_graphs))


class TestFullPrecision:
  FP32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}

  def test_has_32_bits_and_saves_nothing(self):
    found = measure(batch_of(5), **self.FP32)
    bits = found['average_bits']
    assert set(bits.pop('per_point').values()) == {32}
    assert set(bits.values()) == {32}
    assert found['weight_bytes'] == found['weight_bytes_fp32']
    fp32 = found['feature_bytes_fp32_per_graph']
    assert found['feature_bytes_per_graph'] == fp32
    operations = found['bit_ops_per_graph']
    assert operations['products'] == operations['products_fp32']
    assert operations['neighbor_sums'] == operations['neighbor_sums_fp32']
    assert operations['prompts'] == found['table_bytes'] == 0

  def test_counts_of_the_model(self):
    """Width 4, one layer, 3 inputs, 3 classes, by hand."""
    found = measure(batch_of(5), **self.FP32)
    data = tiny_run.splits().train
    nodes, edges = (int(a[:5].sum()) for a in (data.n_node, data.n_edge))
    weights = 3 * 4 + 4 * 4 + 4 * 4 + 4 * 4 + 4 * 3
    assert found['weight_bytes'] == 4 * weights
    assert found['weight_metadata_bytes'] == 4 * (4 + 4 + 4 + 4 + 3)
    macs = nodes * (3 * 4 + 4 * 4 + 4 * 4) + 5 * (4 * 4 + 4 * 3)
    operations = found['bit_ops_per_graph']
    assert operations['products'] == pytest.approx(macs * 1024 / 5)
    assert operations['neighbor_sums'] == pytest.approx(edges * 4 * 32 / 5)
    numbers = nodes * (3 + 4 + 4) + 5 * (4 + 4)
    assert found['feature_bytes_per_graph'] == pytest.approx(numbers * 4 / 5)

  def test_padding_does_not_count(self):
    less = measure(batch_of(5), **self.FP32)
    more = measure(batch_of(5, more_padding=64), **self.FP32)
    assert less == more
