import threading
import time

import jax
import numpy as np
import pytest
import tiny_run

from lorap_jax import graphs
from lorap_jax.data import pipeline


@pytest.fixture(scope='module')
def loader():
  data = tiny_run.splits().train
  budget = pipeline.joint_budget((data,), batch_size=16)
  return pipeline.Loader(data, budget, layout=True)


def joined(plan):
  return np.concatenate(plan).tolist()


class TestOrder:
  def test_every_graph_once_per_epoch(self, loader):
    plan = loader.shuffled(0, 0)
    assert sorted(joined(plan)) == list(range(40))
    assert [len(batch) for batch in plan] == [16, 16, 8]

  def test_depends_on_seed_and_epoch_alone(self, loader):
    first = joined(loader.shuffled(3, 5))
    np.random.seed(1)  # No hidden state, no memory of other epochs.
    joined(loader.shuffled(3, 4))
    assert joined(loader.shuffled(3, 5)) == first
    other = pipeline.Loader(loader.data, loader.budget, layout=False)
    assert joined(other.shuffled(3, 5)) == first

  def test_every_seed_and_epoch_has_its_own(self, loader):
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    orders = {tuple(joined(loader.shuffled(*pair))) for pair in pairs}
    assert len(orders) == 4

  def test_of_evaluation(self, loader):
    assert joined(loader.ordered()) == list(range(40))


class TestBatch:
  def test_holds_the_graphs_asked_for(self, loader):
    batch = loader.batch(np.array([7, 2, 30]))
    data = loader.data
    at = 0
    for slot, number in enumerate([7, 2, 30]):
      one = data.take([number])
      n = int(one.n_node[0])
      assert batch.graph.n_node[slot] == n
      assert batch.labels[slot] == one.labels[0]
      np.testing.assert_array_equal(batch.graph.nodes[at : at + n], one.nodes)
      inside = (batch.graph.receivers >= at) & (batch.graph.receivers < at + n)
      edges = zip(
        batch.graph.senders[inside] - at,
        batch.graph.receivers[inside] - at,
        strict=True,
      )
      expected = zip(one.senders, one.receivers, strict=True)
      assert sorted(edges) == sorted((int(s), int(r)) for s, r in expected)
      at += n
    assert not batch.graph.nodes[at:].any()

  @pytest.mark.parametrize('layout', [True, False])
  def test_layout_only_if_wanted(self, loader, layout):
    other = pipeline.Loader(loader.data, loader.budget, layout=layout)
    assert (other.batch(np.array([0])).layout is not None) == layout

  def test_all_have_one_shape(self, loader):
    shapes = {
      tuple(leaf.shape for leaf in jax.tree.leaves(loader.batch(indices)))
      for indices in loader.shuffled(0, 0)
    }
    assert len(shapes) == 1


def builders(before):
  """Threads that were started since `before`."""
  return [t for t in threading.enumerate() if t not in before]


class TestStream:
  def test_equals_the_batches(self, loader):
    plan = loader.shuffled(0, 0)
    streamed = list(loader.stream(plan))
    assert len(streamed) == len(plan)
    for batch, indices in zip(streamed, plan, strict=True):
      expected = loader.batch(indices)
      assert jax.tree.structure(batch) == jax.tree.structure(expected)
      for a, b in zip(
        jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True
      ):
        assert isinstance(a, jax.Array) and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)

  def test_of_nothing(self, loader):
    assert list(loader.stream([])) == []

  def test_error_reaches_the_consumer_in_its_place(self, loader):
    before = threading.enumerate()
    plan = [*loader.shuffled(0, 0)[:2], np.arange(40)]  # The last is too big.
    stream = loader.stream(plan)
    next(stream)
    next(stream)
    with pytest.raises(ValueError, match='do not fit the budget'):
      next(stream)
    assert builders(before) == []

  def test_closing_early_joins_the_thread(self, loader):
    before = threading.enumerate()
    stream = loader.stream([np.array([0])] * 100)
    next(stream)
    assert len(builders(before)) == 1
    stream.close()
    assert builders(before) == []

  def test_works_ahead_but_not_far(self, loader, monkeypatch):
    built = []
    batch = loader.batch
    monkeypatch.setattr(
      loader, 'batch', lambda indices: built.append(1) or batch(indices)
    )
    stream = loader.stream([np.array([0])] * 50)
    next(stream)
    deadline = time.monotonic() + 20
    # One handed out, those in the queue, and one that waits for its place.
    ahead = 1 + pipeline._QUEUE_SIZE + 1
    while len(built) < ahead and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.2)
    assert len(built) == ahead
    stream.close()


class TestWholeGraph:
  def nodes_of(self, share, **kwargs):
    """Features of the batch of a graph, a share of them not zero."""
    data = tiny_run.node_data()
    keep = np.random.default_rng(0).random(data.nodes.shape) < share
    data = data._replace(nodes=data.nodes * keep)
    whole = pipeline.WholeGraph(data, 'train', layout=True, **kwargs)
    return data.nodes, whole.batch().graph.nodes

  def test_nothing_is_padding(self):
    nodes, found = self.nodes_of(1)
    np.testing.assert_array_equal(found, nodes)
    batch = pipeline.WholeGraph(
      tiny_run.node_data(), 'test', layout=True
    ).batch()
    assert batch.graph.globals is None and len(batch.graph.n_node) == 1
    assert batch.labels.shape == batch.targets.shape == (24,)

  def test_few_nonzeros_in_both_forms_if_wanted(self):
    nodes, found = self.nodes_of(0.1, sparse_features=True)
    assert isinstance(found, graphs.Features)
    assert found.sparse.shape == found.shape == (24, 5)
    np.testing.assert_array_equal(found.dense, nodes)

  @pytest.mark.parametrize(
    ('share', 'wanted'), [(0.1, False), (1, True)], ids=['unwanted', 'many']
  )
  def test_otherwise_dense_alone(self, share, wanted):
    _, found = self.nodes_of(share, sparse_features=wanted)
    assert isinstance(found, np.ndarray)

  def test_classes_stay_as_they_are(self):
    data = tiny_run.node_data()
    batch = pipeline.WholeGraph(data, 'train', layout=True).batch()
    assert batch.labels.dtype == np.int32
    assert batch.labels.tolist() == data.labels.tolist()

  def test_numbers_to_predict_are_finite_and_whole_in_all_splits(self):
    data = tiny_run.node_data()
    labels = np.linspace(-1, 1, 24).astype(np.float32)
    labels[data.test_mask] = np.nan
    numbers = data._replace(labels=labels, num_classes=1, task='regression')
    batch = pipeline.WholeGraph(numbers, 'train', layout=True).batch()
    assert batch.labels.dtype == np.float32 and np.isfinite(batch.labels).all()
    np.testing.assert_array_equal(batch.labels[batch.targets], labels[:8])
    # Validated on the same batch.
    known = ~data.test_mask
    np.testing.assert_array_equal(batch.labels[known], labels[known])


def test_max_out_degree():
  data = tiny_run.dataset(0, 3)
  data = data._replace(
    n_node=np.array([2, 3, 2], np.int32),
    n_edge=np.array([2, 4, 0], np.int32),
    nodes=np.zeros((7, 3), np.float32),
    # Node 0 of graph 0 sends 2 edges; node 1 of graph 1 sends 3.
    senders=np.array([0, 0, 1, 1, 1, 0], np.uint16),
    receivers=np.array([0, 1, 0, 1, 2, 0], np.uint16),
  )
  assert pipeline.max_out_degree(data) == 3
  assert pipeline.max_out_degree(data.take([0, 2])) == 2
  assert pipeline.max_out_degree(data.take([0]), data.take([1])) == 3
  assert pipeline.max_out_degree(data.take([2])) == 0


def test_joint_budget_fits_every_split():
  data = tiny_run.splits()
  budget = pipeline.joint_budget(data[:3], batch_size=16)
  assert budget.num_graphs == 17
  assert budget.max_out_degree == max(map(pipeline.max_out_degree, data[:3]))
  for split in data[:3]:
    loader = pipeline.Loader(split, budget, layout=True)
    batches = list(loader.stream(loader.ordered()))
    assert batches[0].graph.nodes.shape == (budget.num_nodes, 3)
