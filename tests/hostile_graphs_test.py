"""Graphs and arrays that are damaged: refused by name, or finite outputs."""

import types

import drawing
import hypothesis.strategies as st
import jax
import jraph
import numpy as np
import pytest
import tiny_run
from hostile import VALUES, answered, as_users_run  # noqa: F401
from scipy import sparse

import lorap_jax
from lorap_jax import graphs
from lorap_jax.data import GraphDataset, NodeDataset, pipeline
from lorap_jax.data.sets import custom
from lorap_jax.graphs import checks
from lorap_jax.runs import restore, settings
from lorap_jax.training import state

pytestmark = pytest.mark.usefixtures('as_users_run')

BUDGET = graphs.Budget(32, 64, 7, 16)
FIELDS = ('nodes', 'senders', 'receivers', 'n_node', 'n_edge')
NUMBERS = [
  *(0, 1, -1, 2, 5, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63),
  *(0.5, np.nan, np.inf, -np.inf, 1e30, 1e300, -1e38),
]
DTYPES = ['f2', 'f4', 'f8', 'i1', 'u1', 'i4', 'u4', 'i8', 'u8', '?', 'O', 'U5']
DTYPES += ['c8', 'M8[s]', 'V3', 'S2']


@st.composite
def damaged(draw, value):
  """An array of another value, type, length or number of axes; or no array."""
  value = np.asarray(value)
  how = draw(
    st.sampled_from(
      ['number', 'number', 'number', 'type', 'short', 'long', 'axis', 'flat']
      + ['empty', 'list', 'ragged', 'nothing', 'any', 'sparse']
    )
  )
  number = draw(st.sampled_from(NUMBERS))
  if how == 'number' and value.size:
    with np.errstate(all='ignore'):
      kind = draw(st.sampled_from([np.float64, np.int64, value.dtype]))
      if not np.isfinite(number) and kind != np.float64:
        number = 7
      number = int(number) if kind != np.float64 else number
      if kind != np.float64 and not -(2**15) <= number < 2**15:
        kind = object if abs(number) >= 2**63 else np.int64
    value = value.astype(kind)
    flat = value.reshape(-1)
    flat[draw(st.integers(0, value.size - 1))] = number
    return value
  if how == 'type':
    with np.errstate(all='ignore'):
      kind = draw(st.sampled_from(DTYPES))
      source = value.astype('i8') if kind.startswith(('M', 'V')) else value
      return (
        source.astype('S3').astype(kind)
        if kind == 'V3'
        else source.astype(kind)
      )
  return {
    'short': value[:-1],
    'long': np.concatenate([value, value[-1:]]),
    'axis': value[None] if draw(st.booleans()) else value[..., None],
    'flat': value.reshape(-1),
    'empty': value[:0],
    'list': value.tolist(),
    'ragged': [value.tolist(), [1]],
    'nothing': None,
    'any': draw(VALUES),
    'sparse': sparse.csr_array(np.atleast_2d(value)),
  }.get(how, value)


@st.composite
def changes(draw, arrays, least=0):
  """Some of the arrays of a graph, damaged."""
  names = draw(
    st.lists(st.sampled_from(list(arrays)), min_size=least, max_size=2)
  )
  return {name: draw(damaged(arrays[name])) for name in names}


def sound():
  """A graph of two, one after the other."""
  data = tiny_run.dataset(3, 2)
  shift = np.repeat(np.cumsum(data.n_node) - data.n_node, data.n_edge)
  arrays = {field: getattr(data, field) for field in FIELDS}
  arrays['senders'] = (data.senders + shift).astype(np.int32)
  arrays['receivers'] = (data.receivers + shift).astype(np.int32)
  return arrays


GRAPH = sound()
named = tuple(f'{f}' for f in (*FIELDS, '`graph', 'labels', 'features'))


def graph_of(arrays):
  return jraph.GraphsTuple(**{**GRAPH, **arrays}, edges=None, globals=None)


@drawing.sizes(30, 300)
def test_checks_and_batches(count):
  def holds(found, labels):
    graph = graph_of(found)
    checked = answered(lambda: checks.check_graph(graph), *named)
    answered(lambda: checks.check_shapes(graph), *named)
    if checked is not None:
      assert np.isfinite(checked.nodes).all()
    batch = answered(
      lambda: graphs.batch_graphs([graph, graph_of({})], labels, BUDGET),
      *named,
      'budget',
    )
    if batch is not None:
      assert np.isfinite(batch.graph.nodes).all()
      assert checked is not None

  labels = st.one_of(st.just(np.zeros(4, int)), damaged(np.zeros(4, int)))
  drawing.check(count, holds, changes(GRAPH), labels)


@drawing.sizes(15, 150)
def test_layouts(count):
  def holds(found, num_nodes, degree, weighted):
    ends = {**{k: GRAPH[k] for k in ('senders', 'receivers')}, **found}
    made = answered(
      lambda: graphs.make_layout(
        **ends, num_nodes=num_nodes, max_out_degree=degree, weighted=weighted
      ),
      *('senders', 'receivers', 'num_nodes', 'max_out_degree'),
    )
    if made is not None:
      assert made.incoming.indptr[-1] == len(ends['senders'])

  ends = {k: GRAPH[k] for k in ('senders', 'receivers')}
  few = st.one_of(st.sampled_from([len(GRAPH['nodes'])] * 2), VALUES)
  degrees = st.one_of(st.none(), st.just(9), VALUES)
  drawing.check(count, holds, changes(ends), few, degrees, st.booleans())


def loaded(config, data, width, count, batch):
  """A network with its first parameters, as `load_run` gives one."""
  chosen = settings.from_config(config)
  model = chosen.model(3)
  variables = state.init_state(model, batch, jax.random.key(0)).variables()
  record = {'num_features': width, 'num_nodes': count, 'num_classes': 3}
  return restore.LoadedRun(model, variables, chosen.config, record)


@pytest.fixture(scope='module')
def run():
  data = tiny_run.dataset(3, 2)
  budget = pipeline.joint_budget((data,), batch_size=4)
  loader = pipeline.Loader(data, budget, layout=True)
  batch = jax.device_put(loader.batch(np.arange(2)))
  return loaded(tiny_run.config(), data, 3, batch.graph.nodes.shape[0], batch)


@drawing.sizes(20, 200)
def test_predict(run, count):
  def holds(found, batch_size, shape, value):
    graph = graph_of(found)
    given = {'one': graph, 'list': [graph_of({}), graph], 'any': value}[shape]
    out = answered(
      lambda: run.predict(given, batch_size=batch_size), *named, 'batch_size'
    )
    if out is not None:
      assert np.isfinite(out).all() and out.shape[1] == 3

  sizes = st.one_of(st.sampled_from([1, 4, 4, 4]), VALUES)
  kinds = st.sampled_from(['one', 'one', 'one', 'list', 'any'])
  values = st.one_of(VALUES, changes(GRAPH, 1))
  drawing.check(count, holds, changes(GRAPH, 1), sizes, kinds, values)


NODE = {
  k: getattr(tiny_run.node_data(), k)
  for k in ('nodes', 'senders', 'receivers', *custom.NODE_ARRAYS)
}
MANY = {
  k: np.concatenate([getattr(part, k) for part in tiny_run.splits()[:3]])
  for k in (*FIELDS, 'labels')
}
MANY['split'] = np.repeat([0, 1, 2], [40, 20, 21])
OPTIONS = st.fixed_dictionaries(
  {},
  optional={
    'undirected': st.one_of(st.booleans(), VALUES),
    'task': st.one_of(
      st.sampled_from(['classification', 'regression']), VALUES
    ),
    'num_classes': st.one_of(st.integers(-1, 5), VALUES),
    'edge_index': damaged(np.stack([NODE['senders'], NODE['receivers']])),
  },
)


@drawing.sizes(30, 300)
@pytest.mark.parametrize('level', ['node', 'graph'])
def test_own_arrays(level, tmp_path, count):
  """What is taken can be written, read and trained on."""
  arrays, make = {
    'node': (NODE, custom.node_dataset),
    'graph': (MANY, custom.graph_splits),
  }[level]
  words = (
    *arrays,
    'split',
    'task',
    'undirected',
    'num_classes',
    'edge',
    'nodes',
  )
  words += ('node ', 'label', 'graph ', 'senders', 'graphs')

  def holds(found, options):
    data = answered(lambda: make(**{**arrays, **found, **options}), *words)
    if data is None:
      return
    settings.check_data(data)
    custom.save(tmp_path / 'own.npz', data)
    again = custom.load_custom(tmp_path / 'own.npz')
    assert again.num_classes == data.num_classes and again.task == data.task

  drawing.check(count, holds, changes(arrays), st.one_of(st.just({}), OPTIONS))


@drawing.sizes(15, 150)
def test_from_pyg(count):
  """Objects with attributes of any kind."""
  one = {
    'x': NODE['nodes'],
    'edge_index': np.stack([NODE['senders'], NODE['receivers']]),
    'y': NODE['labels'],
    **{
      k: NODE[f'{v}_mask']
      for k, v in (
        ('train_mask', 'train'),
        ('val_mask', 'valid'),
        ('test_mask', 'test'),
      )
    },
  }
  words = (
    *one,
    *custom.NODE_ARRAYS,
    'nodes',
    'labels',
    'split',
    'node ',
    'edge',
  )
  words += ('graph', 'task', 'ignore', 'num_classes', 'undirected', 'label')

  def holds(found, split, options):
    graph = types.SimpleNamespace(**{**one, **found})
    data = graph if split is None else [graph, graph, graph]
    answered(lambda: lorap_jax.from_pyg(data, split, **options), *words)

  split = st.one_of(st.none(), st.just([0, 1, 2]), VALUES)
  more = st.fixed_dictionaries(
    {}, optional={'ignore': VALUES, 'task': VALUES, 'num_classes': VALUES}
  )
  drawing.check(count, holds, changes(one), split, st.one_of(st.just({}), more))


@drawing.sizes(10, 100)
def test_data_of_a_run(tmp_path, count):
  """`data=` of train_and_evaluate, before a folder is made."""
  node, many = tiny_run.node_data(), tiny_run.splits()

  def holds(found, part, field, value):
    if part == 'node':
      data = node._replace(**found)
    elif part == 'graph':
      inner = {k: v for k, v in found.items() if k in GraphDataset._fields}
      data = many._replace(train=many.train._replace(**inner))
    elif part == 'field':
      data = many if field in many._fields else node
      data = data._replace(**{field: value})
    else:
      data = value
    config = tiny_run.node_config() if part == 'node' else tiny_run.config()
    words = (
      *NodeDataset._fields,
      *GraphDataset._fields,
      'node',
      'edge',
      'graph',
      '`data`',
      *('train', 'valid', 'test'),
    )
    answered(lambda: settings.check_data(data), *words)
    if part == 'any':
      answered(
        lambda: lorap_jax.train_and_evaluate(config, tmp_path / 'x', data=data),
        *words,
      )
    assert not (tmp_path / 'x').exists()

  found = changes({k: NODE[k] for k in NODE}, 1)
  values = VALUES.filter(lambda v: v is not None)
  parts = st.sampled_from(['node', 'graph', 'field', 'any'])
  names = st.sampled_from([*NodeDataset._fields, 'train', 'valid', 'test'])
  drawing.check(count, holds, found, parts, names, values)
