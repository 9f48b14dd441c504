import jax
import numpy as np
import pytest

from lorap_jax import graphs
from lorap_jax.graphs import layout as layout_lib


class TestMakeLayout:
  def test_written_out(self):
    senders, receivers = np.array([2, 0, 2, 1]), np.array([0, 1, 1, 1])
    layout = graphs.make_layout(senders, receivers, 4, max_out_degree=2)
    np.testing.assert_array_equal(layout.incoming.indptr, [0, 1, 4, 4, 4])
    np.testing.assert_array_equal(layout.incoming.indices, [2, 0, 2, 1])
    np.testing.assert_array_equal(
      layout.outgoing.indices, [[1, 4], [1, 4], [0, 1], [4, 4]]
    )
    for leaf in jax.tree.leaves(layout):
      assert leaf.dtype == np.int32

  def test_wide_bound_gives_csr(self):
    edges = np.array([0]), np.array([1])
    layout = graphs.make_layout(*edges, 2, max_out_degree=17)
    assert isinstance(layout.outgoing, graphs.Csr)

  def test_weighted_written_out(self):
    """Edges 0 and 2 leave node 2, edge 1 node 0, edge 3 node 1."""
    senders, receivers = np.array([2, 0, 2, 1]), np.array([0, 1, 1, 1])
    layout = graphs.make_layout(senders, receivers, 4, weighted=True)
    np.testing.assert_array_equal(layout.outgoing.indptr, [0, 1, 2, 4, 4])
    np.testing.assert_array_equal(layout.outgoing.indices, [1, 1, 0, 1])
    np.testing.assert_array_equal(layout.outgoing.order, [1, 3, 0, 2])
    assert layout.incoming.order is None
    table = graphs.make_layout(
      senders, receivers, 4, max_out_degree=2, weighted=True
    ).outgoing
    np.testing.assert_array_equal(
      table.indices, [[1, 4], [1, 4], [0, 1], [4, 4]]
    )
    none = np.iinfo(np.int32).max
    np.testing.assert_array_equal(
      table.order, [[1, none], [3, none], [0, 2], [none, none]]
    )
    for leaf in jax.tree.leaves((layout, table)):
      assert leaf.dtype == np.int32

  @pytest.mark.parametrize('max_out_degree', [2, None])
  def test_plain_layouts_carry_no_order(self, max_out_degree):
    senders, receivers = np.array([2, 0, 2, 1]), np.array([0, 1, 1, 1])
    layout = graphs.make_layout(
      senders, receivers, 4, max_out_degree=max_out_degree
    )
    assert layout.incoming.order is None and layout.outgoing.order is None

  def test_weighted_needs_sorted_receivers(self):
    senders, receivers = np.array([0, 1, 2]), np.array([1, 3, 2])
    message = '`receivers` must be sorted .* edge 2 has 2 after 3; order the'
    with pytest.raises(ValueError, match=message):
      graphs.make_layout(senders, receivers, 4, weighted=True)

  def test_many_nodes(self):
    """Beyond 16-bit node numbers."""
    n = (1 << 16) + 3
    senders, receivers = np.array([n - 1, 5, 0]), np.array([n - 2, n - 2, 3])
    layout = graphs.make_layout(senders, receivers, n)
    start, stop = layout.incoming.indptr[n - 2 : n]
    np.testing.assert_array_equal(
      layout.incoming.indices[start:stop], [n - 1, 5]
    )
    assert layout.incoming.indptr[-1] == 3

  def test_degree_error(self):
    senders, receivers = np.array([1, 3, 3, 3]), np.array([0, 0, 1, 2])
    message = 'node 3 sends 3 edges, more than `max_out_degree` = 2'
    with pytest.raises(ValueError, match=message):
      graphs.make_layout(senders, receivers, 4, max_out_degree=2)


class TestChoice:
  @pytest.mark.parametrize(
    'aggregation, backend, expected',
    [
      ('auto', 'cpu', True),
      ('auto', 'gpu', False),
      ('auto', 'tpu', False),
      ('layout', 'gpu', True),
      ('segment_sum', 'cpu', False),
    ],
  )
  def test_rule(self, aggregation, backend, expected):
    assert layout_lib.wants_layout(aggregation, backend) is expected

  def test_unknown(self):
    with pytest.raises(ValueError, match="`aggregation` must .* got 'csr'"):
      choose = layout_lib.wants_layout
      getattr(choose, '__wrapped__', choose)('csr', 'cpu')

  @pytest.mark.parametrize(
    'degree, words',
    [(3, 'CSR; gradients table of 3 slots'), (None, 'CSR; gradients CSR')],
  )
  def test_in_words(self, degree, words):
    edges = np.array([0, 1]), np.array([1, 1])
    layout = graphs.make_layout(*edges, 2, max_out_degree=degree)
    assert layout_lib.describe(layout) == words
    assert layout_lib.describe(None) == 'gather and segment_sum'
