"""What is no number stops a run; what is strange is said once."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from run_folder import metrics, read

from lorap_jax.nn import methods
from lorap_jax.runs import loop
from lorap_jax.runs.run import NonFiniteError
from lorap_jax.training import findings


def scaled(data, factor):
  return data._replace(nodes=(data.nodes * factor).astype(np.float32))


@pytest.mark.parametrize('cell', ['gin,dq4,none', 'gcn,fp32,none'])
@pytest.mark.parametrize('factor', [1e20, 3e37])
def test_features_out_of_range_end_with_the_place(tmp_path, cell, factor):
  config = tiny_run.node_config(cell)
  data = scaled(tiny_run.node_data(), factor)
  try:
    loop.train_and_evaluate(config, tmp_path, data=data)
  except NonFiniteError as error:
    assert 'step' in str(error) and 'scale the features' in str(error)
    assert 'not finite: ' in str(error) and 'point' in str(error), error
  for record in metrics(tmp_path):
    json.dumps(record, allow_nan=False)


def test_evaluation_that_is_no_number(tmp_path, monkeypatch):
  from lorap_jax.runs import batched

  monkeypatch.setattr(
    batched.BatchedRun,
    'evaluate',
    lambda self, split: {'loss': float('nan'), 'accuracy': 0.5},
  )
  config = tiny_run.config(scheme__name='fp32', prompt__name='none')
  with pytest.raises(NonFiniteError, match='valid_loss is nan after epoch 1'):
    loop.train_and_evaluate(config, tmp_path, data=tiny_run.splits())
  assert not metrics(tmp_path)


@pytest.mark.parametrize(
  'change, warned',
  [
    (lambda x: x, None),
    (lambda x: x * 0 + 9e3, None),
    (lambda x: x * 0 + 2e4, 'up to 2e+04 and a deviation of 0'),
    (lambda x: x * 2e3, 'a deviation of'),
    (lambda x: x * np.float32(1e38), 'up to'),
  ],
)
def test_features_far_out(change, warned):
  x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
  x[:, 1] = np.clip(change(x[:, 1]), -3e38, 3e38)
  line = findings.of_features(x, 'mine')
  assert (line is None) == (warned is None)
  if warned:
    assert line.startswith('mine: column 1 of the features') and warned in line


def point(**changes):
  base = {'path': 'conv_0/input', 'point': 'input', 'bits': 3.0}
  return {**base, 'rms': 1.0, 'rms_after': 1.0, **changes}


def found(points=(), bits=3.0, scheme=None, params=None, labels=None):
  report = {
    'points': [point(), *points],
    'cost': {'average_bits': {'usage_weighted': bits}},
  }
  scheme = scheme or methods.A2QNode()
  return findings.of_run(report, scheme, params or {}, labels or {})


def test_nothing_strange():
  assert found() == []
  assert found(bits=4.0, scheme=methods.QAT()) == []
  assert found(bits=3.0, scheme=methods.A2QGraph(target_bits=3.0)) == []


@pytest.mark.parametrize('bits', [4.0, 5.5])
def test_bits_that_do_not_fall(bits):
  (line,) = found(bits=bits)
  assert 'started at 4' in line and '--config.scheme.target_bits=3' in line


def test_places():
  at_bound = point(path='conv_1/aggregate', point='aggregate', bits=8.0)
  learned = {'conv_1': {'aggregate': {'bits': 'feature_bits'}}}
  # An operand of 8 fixed bits is at no bound.
  operand = point(path='embedding/input', bits=8.0)
  zeros = {'conv_1': {'aggregate': {'bits': jnp.zeros(3)}}}
  (line,) = found([at_bound, operand], params=zeros, labels=learned)
  assert 'embedding' not in line
  assert 'upper bound of 8 in conv_1/aggregate' in line
  (line,) = found([point(path='conv_2/input', rms_after=0.0)])
  assert 'become 0 in conv_2/input' in line
  scale = {'conv_0': {'scale': jnp.zeros(3), 'kernel': jnp.zeros(3)}}
  labels = {'conv_0': {'scale': 'feature_scale', 'kernel': 'base'}}
  (line,) = found(params=scale, labels=labels)
  assert 'scales at 0 in conv_0/scale;' in line


def test_a_run_says_it(tmp_path, caplog):
  config = tiny_run.node_config(
    'gcn,a2q,none',
    scheme__bits=2,
    scheme__memory_weight=0.0,
    scheme__target_bits=None,
    model__num_layers=2,
  )
  with caplog.at_level(logging.WARNING):
    report = loop.train_and_evaluate(
      config, tmp_path, data=scaled(tiny_run.node_data(), 5e3)
    )
  assert read(tmp_path)['warnings'] == report['warnings']
  assert any('the average bits ended at' in w for w in report['warnings'])
  told = [r.getMessage() for r in caplog.records]
  assert sum('tiny: column 0 of the features' in t for t in told) == 1
  assert sum('the average bits ended at' in t for t in told) == 1
