"""Runs on edges of several kinds: a known answer, and what is refused."""

import jax
import numpy as np
import pytest
import tiny_run

import lorap_jax
from lorap_jax.data import pipeline
from lorap_jax.data.sets import custom
from lorap_jax.runs import loop, restore, settings

CLASSES = 4


def votes():
  """Nodes whose class only the relations of their edges tell.

  Four senders tell each node their classes, which are all classes once: by
  relation 0 that of the node, by relation 1 the three others. Whoever does not
  know the relations receives the same from all of them.
  """
  rng = np.random.default_rng(0)
  count = 240
  labels = np.arange(count) % CLASSES
  first = count + np.arange(CLASSES) * 10  # Ten senders of each class.
  senders = first + rng.integers(0, 10, (count, CLASSES))
  own = np.arange(CLASSES) == labels[:, None]
  nodes = np.zeros((count + 10 * CLASSES, CLASSES))
  nodes[count:] = np.repeat(np.eye(CLASSES), 10, axis=0)
  part = np.concatenate([rng.permutation(count) % 3, np.full(10 * CLASSES, 3)])
  order = rng.permutation(count * CLASSES)
  return custom.node_dataset(
    nodes,
    senders.ravel()[order],
    np.repeat(np.arange(count), CLASSES)[order],
    relations=np.where(own, 0, 1).ravel()[order],
    labels=np.concatenate([labels, np.full(10 * CLASSES, -1)]),
    train_mask=part == 0,
    valid_mask=part == 1,
    test_mask=part == 2,
  )


def accuracy(folder, cell, **changes):
  config = lorap_jax.own_data_config(cell)
  config.model.num_layers = 1
  config.optim.learning_rate = 0.05
  config.train.epochs = 30
  config.train.plots = False
  config.train.update(changes)
  report = lorap_jax.train_and_evaluate(config, folder, data=votes())
  return report['result']['test']


@pytest.mark.parametrize(
  'cell, changes',
  [
    ('rgcn,fp32,none', {}),
    pytest.param(
      'rgcn,qat4,lorap',
      {'fanout': (2,), 'batch_size': 40, 'epochs': 20},
      marks=pytest.mark.slow,
    ),
  ],
  ids=['whole', 'sampled'],
)
def test_relations_tell_what_edges_do_not(tmp_path, cell, changes):
  # Of two drawn edges one half shows no edge of relation 0.
  assert accuracy(tmp_path / 'rgcn', cell, **changes) > 0.95
  without = cell.replace('rgcn', 'gcn')
  assert accuracy(tmp_path / 'gcn', without, **changes) < 0.45


@pytest.fixture
def related(monkeypatch):
  tiny_run.feed(monkeypatch, tiny_run.related_data)


def config_of(cell, **changes):
  return tiny_run.node_config(
    cell, train__epochs=2, train__plots=False, **changes
  )


@pytest.mark.parametrize(
  'changes',
  [
    pytest.param({}, marks=pytest.mark.slow),
    {'train__fanout': (3,), 'train__batch_size': 3},
  ],
  ids=['whole', 'sampled'],
)
def test_a_run_is_reloaded_with_its_relations(tmp_path, related, changes):
  report = loop.train_and_evaluate(
    config_of('rgcn,a2q,gpf_lorap', **changes), tmp_path
  )
  run = restore.load_run(tmp_path)
  data = tiny_run.related_data()
  kernel = run.variables['params']['conv_0']['dense']['kernel']
  assert kernel.shape == (4 * 5, 3)
  right = run.predict(data).argmax(-1) == data.labels
  expected = pytest.approx(right[data.test_mask].mean())
  assert report['result']['test'] == expected
  for other in (
    tiny_run.node_data(),
    data._replace(num_relations=4),
  ):
    with pytest.raises(ValueError, match='no|4 relations.*trained on 3'):
      run.predict(other)


def test_who_has_no_use_for_relations_says_so(tmp_path, related, caplog):
  caplog.set_level('INFO')
  settings.log_relations(
    settings.from_config(config_of('gcn,fp32,none')).model(3),
    tiny_run.related_data(),
  )
  assert 'GCN does not read the 3 relations of the data' in caplog.text
  settings.log_relations(
    settings.from_config(config_of('rgcn,fp32,none')).model(3),
    tiny_run.node_data(),
  )
  assert 'The data has one kind of edge' in caplog.text


@pytest.mark.parametrize(
  'changes, reason',
  [
    ({'train__export': True}, r'means over the edges .*\(RGCN\)'),
    ({'scheme__published': True}, 'needs model.name gcn or gin or gat'),
    ({'model__self_loops': True}, 'needs model.name gcn or gat'),
  ],
  ids=str,
)
def test_what_rgcn_has_not_is_refused(changes, reason):
  with pytest.raises(ValueError, match=reason):
    settings.from_config(config_of('rgcn,qat4,none', **changes))


def test_other_backbones_see_one_kind_of_edge():
  outputs = []
  for data in (tiny_run.node_data(), tiny_run.related_data()):
    chosen = settings.from_config(config_of('gcn,fp32,none'))
    model = chosen.model(3)
    loader = pipeline.WholeGraph(data, 'test', layout=False)
    batch = jax.device_put(loader.batch())
    variables = model.init(jax.random.key(0), batch.graph, train=False)
    outputs.append(model.apply(variables, batch.graph, train=False))
  np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)
