"""Sampled neighbourhoods: draws, rows, shapes, and equality with the whole."""

import itertools

import jax
import numpy as np
import pytest
from hub_graph import N, dataset

from lorap_jax.data import sampling
from lorap_jax.data.files.store import DataError


def test_in_edges_are_the_edges():
  data = dataset()
  edges = sampling.in_edges(data)
  receivers = np.repeat(np.arange(N), np.diff(edges.indptr))
  pairs = lambda s, r: sorted(zip(s.tolist(), r.tolist(), strict=True))
  assert pairs(edges.senders, receivers) == pairs(data.senders, data.receivers)
  loops = np.bincount(receivers[edges.senders == receivers], minlength=N)
  np.testing.assert_array_equal(edges.loops, loops)
  degree = np.diff(edges.indptr)
  share = [(degree <= d).mean() for d in degree]
  np.testing.assert_allclose(edges.share[degree], share, rtol=1e-6)
  sorted_ones = data._replace(senders=edges.senders, receivers=receivers)
  given = sampling.in_edges(sorted_ones._replace(indptr=edges.indptr))
  for a, b in zip(given, edges, strict=True):
    np.testing.assert_array_equal(a, b)


def related(seed=0):
  data = dataset(seed)
  kinds = np.random.default_rng(9).integers(0, 4, len(data.senders))
  return data._replace(relations=kinds.astype(np.int32), num_relations=4)


def test_edges_of_a_node_are_in_the_order_of_their_relations(monkeypatch):
  monkeypatch.setattr(sampling, '_CHUNK', 7)
  data = related()
  edges = sampling.in_edges(data)
  receivers = np.repeat(np.arange(N), np.diff(edges.indptr))
  triples = lambda *ids: sorted(zip(*(a.tolist() for a in ids), strict=True))
  assert triples(edges.senders, receivers, edges.relations) == triples(
    data.senders, data.receivers, data.relations
  )
  assert (np.diff(receivers * 4 + edges.relations) >= 0).all()
  degree = np.zeros((N, 4), int)
  np.add.at(degree, (data.receivers, data.relations), 1)
  np.testing.assert_array_equal(edges.relation_degree, degree)
  wrong = data._replace(
    senders=edges.senders,
    receivers=receivers,
    relations=edges.relations[::-1].copy(),
    indptr=edges.indptr,
  )
  with pytest.raises(ValueError, match='not in the order of their relations'):
    sampling.in_edges(wrong)


def test_each_drawn_edge_has_its_relation():
  edges = sampling.in_edges(related())
  loader = sampling.NeighborLoader(
    related(), 'train', edges, (2, 3), batch_size=7, layout=False
  )
  batch = loader.batch(loader.shuffled(0, 0)[0])
  whole = set(
    zip(
      edges.senders.tolist(),
      np.repeat(np.arange(N), np.diff(edges.indptr)).tolist(),
      edges.relations.tolist(),
      strict=True,
    )
  )
  for graph in batch.graph.layers:
    ids = graph.globals.neighborhood.numbers.ids
    count = graph.n_edge[0]
    ends = ids[graph.senders[:count]], ids[graph.receivers[:count]]
    drawn = zip(*ends, graph.edges.ids[:count], strict=True)
    assert {tuple(int(i) for i in edge) for edge in drawn} <= whole
    keys = graph.receivers[:count] * 4 + graph.edges.ids[:count]
    assert graph.edges.ordered and (np.diff(keys) >= 0).all()


@pytest.mark.parametrize('fanout', [1, 3, 8])
def test_draws_are_distinct_edges_of_their_nodes(fanout):
  edges = sampling.in_edges(dataset())
  nodes = np.arange(N)[::-1].copy()
  places, counts = sampling.draw_edges(edges.indptr, nodes, fanout, key=5)
  np.testing.assert_array_equal(counts, np.minimum(edges.degree(nodes), fanout))
  owner = np.searchsorted(edges.indptr, places, 'right') - 1
  np.testing.assert_array_equal(owner, np.repeat(nodes, counts))
  assert len(np.unique(places)) == len(places)


def test_a_fan_out_beyond_all_degrees_takes_no_more_room():
  edges = sampling.in_edges(dataset())
  nodes = np.arange(N)
  found = sampling.draw_edges(edges.indptr, nodes, 10**9, key=5)
  expected = sampling.draw_edges(edges.indptr, nodes, N * N, key=5)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_subsets_are_alike_likely():
  # 3 of 6 edges: 20 subsets. 40,000 draws of each; chi-square, 19 degrees.
  indptr = np.arange(40_001) * 6
  places, _ = sampling.draw_edges(indptr, np.arange(40_000), 3, key=1)
  inside = (places.reshape(-1, 3) % 6).astype(int)
  sets = (1 << inside).sum(1)
  values, counts = np.unique(sets, return_counts=True)
  assert len(values) == 20
  expected = 40_000 / 20
  assert ((counts - expected) ** 2 / expected).sum() < 45  # p = .0007.


def test_draws_depend_on_key_and_node_alone():
  edges = sampling.in_edges(dataset())
  draw = lambda nodes, key: sampling.draw_edges(edges.indptr, nodes, 2, key)[0]
  one, other = np.array([3, 8, 20]), np.array([20, 3])
  together, again = draw(one, 7), draw(other, 7)
  np.testing.assert_array_equal(together[:2], again[-2:])  # Node 3.
  assert not np.array_equal(draw(np.array([3]), 7), draw(np.array([3]), 8))
  numbers = itertools.product((0, 1), repeat=3)
  assert len({sampling.draw_key(*three) for three in numbers}) == 8


def test_a_neighbourhood_is_numbered_in_the_order_it_is_found():
  edges = sampling.in_edges(dataset())
  numbering = sampling.Numbering(N)
  targets = sampling.Targets(np.array([5, 3, 50]), 0)
  for _ in range(2):  # The numbering is left as it was.
    found = sampling.find(edges, numbering, targets, (2, 4))
    np.testing.assert_array_equal(found.ids[:3], targets.ids)
    assert len(np.unique(found.ids)) == len(found.ids) == found.rows[-1]
  for hop, k in enumerate((2, 4)):
    start = 0 if hop == 0 else found.rows[hop - 1]
    frontier = found.ids[start : found.rows[hop]]
    places, counts = sampling.draw_edges(edges.indptr, frontier, k, 0)
    np.testing.assert_array_equal(found.counts[hop], counts)
    np.testing.assert_array_equal(
      found.ids[found.senders[hop]], edges.senders[places]
    )
  assert found.senders[1].max() < found.rows[2]


def test_all_batches_have_one_shape_until_one_does_not_fit():
  data = dataset()
  loader = sampling.NeighborLoader(
    data,
    'train',
    sampling.in_edges(data),
    (2, 3),
    batch_size=7,
    layout=True,
    weighted=True,
  )
  plan = loader.shuffled(0, 1)
  assert sorted(np.concatenate([t.ids for t in plan])) == sorted(
    np.flatnonzero(data.train_mask)
  )
  batches = [loader.batch(targets) for targets in plan]
  shapes = lambda b: [a.shape for a in jax.tree.leaves(b)]
  assert all(shapes(b) == shapes(batches[0]) for b in batches)
  last = batches[-1]
  assert last.targets.sum() == 20 % 7 == len(plan[-1].ids)
  np.testing.assert_array_equal(
    last.labels[last.targets], data.labels[plan[-1].ids]
  )
  loader.budget = sampling.NeighborBudget((8, 9, 10), (64, 64))
  larger = loader.batch(plan[0])
  np.testing.assert_array_equal(
    larger.graph.nodes[larger.graph.nodes.any(1)],
    batches[0].graph.nodes[batches[0].graph.nodes.any(1)],
  )
  assert len(larger.graph.nodes) > 10 == loader.budget.rows[2]


def test_a_plan_is_the_same_for_a_run_that_goes_on():
  data = dataset()
  edges = sampling.in_edges(data)
  make = lambda: sampling.NeighborLoader(
    data, 'train', edges, (2,), batch_size=4, layout=False
  )
  plan = make().shuffled(3, 2)
  later = make()
  one, other = make().batch(plan[2]), later.batch(later.shuffled(3, 2)[2])
  np.testing.assert_array_equal(one.graph.nodes, other.graph.nodes)
  np.testing.assert_array_equal(
    one.graph.layers[0].senders, other.graph.layers[0].senders
  )
  keys = {t.key for epoch in range(3) for t in later.shuffled(3, epoch)}
  assert len(keys) == 3 * len(plan)


def unlabelled_loader(count, batch_size=7):
  data = dataset()
  edges = sampling.in_edges(data)
  return sampling.NeighborLoader(
    data,
    'train',
    edges,
    (2, 3),
    batch_size=batch_size,
    layout=True,
    unlabelled=count,
  )


def test_unlabelled_nodes_are_of_the_whole_graph_and_behind_the_targets():
  loader = unlabelled_loader(12)
  data, seen, shapes = loader.data, [], set()
  for epoch in range(20):
    for targets in loader.shuffled(0, epoch):
      batch = loader.batch(targets)
      shapes.add(tuple(a.shape for a in jax.tree.leaves(batch)))
      there = batch.graph.layers[-1].globals.neighborhood
      ids = there.numbers.ids[: there.receivers.sum()]
      count = len(targets.ids)
      np.testing.assert_array_equal(ids[:count], targets.ids)
      assert len(np.unique(ids)) == len(ids) <= count + 12
      for graph in batch.graph.layers:  # The draw, and of the targets its part.
        each = graph.globals.neighborhood
        observed = each.numbers.ids[each.observed]
        assert len(np.unique(observed)) == len(observed) == 12
        assert set(observed) >= set(ids[count:])
        assert set(observed) <= set(ids)
      np.testing.assert_array_equal(batch.targets.sum(), count)
      assert batch.targets[:count].all()
      np.testing.assert_array_equal(
        batch.labels[:count], data.labels[targets.ids]
      )
      assert not batch.labels[count:].any()  # Nobody can read theirs.
      seen.append(ids[count:])
  counts = np.bincount(np.concatenate(seen), minlength=N)
  assert (counts > 0).all()  # 60 draws of 12 of 60 nodes.
  assert len(shapes) <= 2


def test_unlabelled_nodes_depend_on_the_batch_alone():
  one, other = unlabelled_loader(12), unlabelled_loader(12)
  plan = one.shuffled(3, 2)
  later = other.batch(other.shuffled(3, 2)[2])  # Of a run that goes on.
  jax.tree.map(np.testing.assert_array_equal, one.batch(plan[2]), later)
  drawn = [one.batch(t).graph.layers[-1] for t in plan[:2]]
  ids = [set(g.globals.neighborhood.numbers.ids.tolist()) for g in drawn]
  assert ids[0] != ids[1]
  assert all(t.beside == 0 for t in one.ordered())


def test_more_unlabelled_nodes_than_there_are_take_the_whole_graph():
  loader = unlabelled_loader(10**9)
  (targets, *_) = loader.shuffled(0, 0)
  batch = loader.batch(targets)
  there = batch.graph.layers[-1].globals.neighborhood
  assert there.receivers.sum() == N
  assert len(there.receivers) == N + 1


def test_an_indptr_of_other_edges_is_refused():
  data = dataset()
  edges = sampling.in_edges(data)
  order = np.argsort(data.receivers, kind='stable')
  ends = {'senders': data.senders[order], 'receivers': data.receivers[order]}
  given = data._replace(**ends, indptr=edges.indptr)
  given.check()
  shifted = edges.indptr.copy()
  shifted[4] += 1
  for wrong in (
    given._replace(indptr=shifted),
    data._replace(indptr=edges.indptr),
  ):
    with pytest.raises(DataError, match='indptr does not say where'):
      wrong.check()
