"""All engines that are installed give the same codes, and others are found."""

import c_programs
import numpy as np
import pytest
import tiny_run

from benchmarks import parity
from lorap_jax.integers import evaluate, program
from lorap_jax.integers import parity as engines

# OpenVINO asks the system for its release when it is imported.
pytestmark = pytest.mark.filterwarnings('ignore:os.fork')


def random_graphs(count, hub):
  return list(parity.random_graphs(count, c_programs.FEATURES, hub=hub))


def test_engines_agree():
  made = c_programs.all_programs()['gin_mean']
  rows = parity.compare(
    made, random_graphs(16, 200), slow=4, jax_too=False, flags=('-O1',)
  )
  assert rows and all(row['differing'] == 0 for row in rows), rows
  assert all(row['codes'] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gin_mean', 'gin_max', 'gcn', 'gcn_edges'])
def test_engines_agree_on_hundreds_of_graphs(name):
  made = c_programs.all_programs()[name]
  graphs = random_graphs(400, c_programs.HUB)
  rows = parity.compare(made, graphs, slow=40, jax_too=False)
  assert all(row['differing'] == 0 for row in rows), rows


def test_what_differs_is_counted(monkeypatch):
  made = c_programs.all_programs()['gin_mean']

  def wrong(graph):
    codes = program.execute(made, graph)
    codes[:1, 0] += 1
    return codes

  monkeypatch.setattr(parity, 'engines', lambda *_, **__: {'wrong': wrong})
  rows = parity.compare(made, random_graphs(8, 50))
  assert [row['differing'] for row in rows] == [8]


def test_codes_inside_are_compared(monkeypatch):
  made = c_programs.all_programs()['gin_mean']
  cuts = []

  def wrong(cut, *_, **__):
    cuts.append(cut.output)
    shift = cut.output == engines.inner_codes(made)[1]
    return {'JAX': lambda graph: program.execute(cut, graph) + shift}

  monkeypatch.setattr(parity, 'engines', wrong)
  graphs = random_graphs(4, 50)
  row = parity.compare_inside(made, graphs, label='gin', flags=('-O1',))
  values = [program.execute(made, graph, keep=True) for graph in graphs]
  size = lambda name: sum(v[name].size for v in values)
  names = engines.inner_codes(made)
  assert cuts == names and len(names) > 4
  assert row['codes'] == sum(map(size, names))
  assert row['differing'] == size(names[1]) > 0


def test_random_graphs_are_of_every_kind():
  graphs = random_graphs(208, 500)
  loops = [np.all(g.senders == g.receivers) for g in graphs[4::8]]
  assert all(loops) and {len(g.nodes) for g in graphs} >= {0, 1}
  degrees = [np.bincount(g.receivers, minlength=1).max() for g in graphs]
  assert 250 <= max(degrees) <= 500


def test_calls_of_a_data_set_are_its_graphs():
  data = tiny_run.dataset(3, 7)
  whole = evaluate.first_graphs(data, 7)
  calls = list(engines.parts(whole, 3))
  assert [call.num_graphs for call in calls] == [3, 3, 1]
  for field in ('nodes', 'senders'):
    parts = [getattr(call, field) for call in calls]
    assert sum(map(len, parts)) == len(getattr(whole, field))
  starts = np.cumsum([0, *(len(call.nodes) for call in calls[:-1])])
  shifted = [call.senders + s for call, s in zip(calls, starts, strict=True)]
  np.testing.assert_array_equal(np.concatenate(shifted), whole.senders)
