"""What a training step does beside: against what it should compute."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run

from lorap_jax.runs import fields, loop, settings
from lorap_jax.training import passes, steps

FP32 = {'scheme__name': 'fp32', 'prompt__name': 'none'}


def model_of(**changes):
  return settings.from_config(tiny_run.config(**changes)).model(3)


def outputs_of(state, batch, **changes):
  """The outputs of a training pass, and the mean cross entropy of labels."""
  outputs, _ = passes.apply(
    model_of(**changes),
    state.variables(),
    batch.graph,
    layout=batch.layout,
    train=True,
    key=steps.step_key(state),
  )
  mask = np.asarray(batch.target_mask())

  def cross_entropy(labels):
    losses = optax.softmax_cross_entropy(outputs, labels)
    return float(losses[mask].mean())

  return outputs, cross_entropy


def test_label_smoothing_is_in_the_objective_alone():
  with tiny_run.programs(**FP32, train__label_smoothing=0.3) as made:
    state, batch, train, evaluate = made
    before = jax.tree.map(jnp.copy, state)
    _, cross_entropy = outputs_of(before, batch, **FP32)
    _, found = train(state, batch, tiny_run.rates())
    plain = evaluate(before.variables(), batch)
  hot = jax.nn.one_hot(batch.labels, 3)
  smooth = optax.smooth_labels(hot, 0.3)
  assert float(found.loss) == pytest.approx(cross_entropy(smooth), rel=1e-5)
  # What is told of training and of evaluation is the plain loss.
  mean = float(found.task_loss / found.count)
  assert mean == pytest.approx(cross_entropy(hot), rel=1e-5)
  with tiny_run.programs(**FP32) as (_, _, _, evaluate):
    assert float(evaluate(before.variables(), batch)[0]) == float(plain[0])


class TestRefused:
  def test_label_smoothing_of_numbers(self):
    config = tiny_run.config(data__name='zinc')
    config.data.source = None
    settings.from_config(config)
    config.train.label_smoothing = 0.1
    with pytest.raises(ValueError, match='`label_smoothing` = 0.1 .* classes'):
      settings.from_config(config)

  def test_label_smoothing_of_numbers_as_own_data(self, tmp_path):
    config = tiny_run.config(train__label_smoothing=0.1)
    with pytest.raises(ValueError, match='this data is for regression') as e:
      loop.train_and_evaluate(
        config, tmp_path / 'run', data=tiny_run.regression_splits()
      )
    assert 'config.train: `label_smoothing`' in str(e.value)
    assert not (tmp_path / 'run').exists()


def test_what_is_off_leaves_no_trace_in_the_record():
  record = settings.from_config(tiny_run.config()).config
  off = {f'train__{p.removeprefix("train.")}': v for p, v in fields.OFF.items()}
  again = settings.from_config(tiny_run.config(**off)).config
  assert again == record
  assert not fields.OFF.keys() & fields.flat(record).keys()


@pytest.mark.parametrize('value', [-0.1, 1.0])
def test_label_smoothing_is_a_share(value):
  config = tiny_run.config(train__label_smoothing=value)
  with pytest.raises(ValueError, match='`label_smoothing` must be'):
    settings.from_config(config)
