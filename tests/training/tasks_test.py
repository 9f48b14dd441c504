import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lorap_jax.training.tasks import Task

CLASSIFY, REGRESS = Task('classification'), Task('regression')
LN3 = float(np.log(3))

# Softmax of (0, ln 3) is (1/4, 3/4). Right, wrong, right, padding.
LOGITS = jnp.array([[0, LN3], [0, LN3], [LN3, 0], [99.0, -99.0]])
CLASSES = jnp.array([1, 0, 0, 1])
# Errors of 0.5, 3 and 0.
NUMBERS = jnp.array([[1.5], [-2.0], [4.0], [99.0]])
TARGETS = jnp.array([1.0, 1.0, 4.0, 0.0])
MASK = jnp.array([True, True, True, False])


def values(sums):
  return [float(v) for v in sums]


def test_classification_by_hand():
  found = values(CLASSIFY.sums(LOGITS, CLASSES, MASK))
  loss = np.log(4 / 3) + np.log(4) + np.log(4 / 3)
  assert found == pytest.approx([loss, 2, 3], rel=1e-6)


def test_regression_by_hand():
  assert values(REGRESS.sums(NUMBERS, TARGETS, MASK)) == [3.5, 3.5, 3]


CASES = {
  'classification': (CLASSIFY, LOGITS, CLASSES),
  'regression': (REGRESS, NUMBERS, TARGETS),
}
both = pytest.mark.parametrize('case', CASES.values(), ids=CASES)


@both
def test_sums_add_up_over_disjoint_masks(case):
  task, outputs, labels = case
  masks = [jnp.arange(4) == i for i in range(3)]
  parts = [values(task.sums(outputs, labels, mask)) for mask in masks]
  whole = values(task.sums(outputs, labels, MASK))
  assert np.sum(parts, axis=0) == pytest.approx(whole, rel=1e-6)


@both
def test_nothing_counts_behind_an_empty_mask(case):
  task, outputs, labels = case
  assert values(task.sums(outputs, labels, jnp.zeros(4, bool))) == [0, 0, 0]


@both
def test_sums_are_float32(case):
  task, outputs, labels = case
  assert {v.dtype.name for v in task.sums(outputs, labels, MASK)} == {'float32'}


def gradient(task, outputs, labels, mask):
  return jax.grad(lambda x: task.sums(x, labels, mask)[0])(outputs)


def test_gradient_of_classification_is_softmax_minus_one_hot():
  grad = gradient(CLASSIFY, LOGITS, CLASSES, MASK)
  expected = [[0.25, -0.25], [-0.75, 0.75], [-0.25, 0.25], [0, 0]]
  np.testing.assert_allclose(grad, expected, rtol=1e-6)


def test_gradient_of_regression_is_the_sign_of_the_error():
  grad = gradient(REGRESS, NUMBERS[:2], TARGETS[:2], MASK[:2])
  np.testing.assert_array_equal(grad, [[1], [-1]])


@both
@pytest.mark.parametrize('scale', [1.0, 1e30])
def test_padding_has_no_gradient(case, scale):
  task, outputs, labels = case
  outputs = outputs.at[3].multiply(scale)
  grad = gradient(task, outputs, labels, MASK)
  assert grad[1].any() and not grad[3].any()
  assert np.isfinite(grad).all()


def test_nodes_without_a_label_are_left_out():
  labels = jnp.array([1, -1, -1, -1])
  mask = labels >= 0
  found = values(CLASSIFY.sums(LOGITS, labels, mask))
  assert found == pytest.approx([np.log(4 / 3), 1, 1], rel=1e-6)
  grad = gradient(CLASSIFY, LOGITS, labels, mask)
  np.testing.assert_allclose(grad[0], [0.25, -0.25], rtol=1e-6)
  np.testing.assert_array_equal(grad[1:], 0)


class TestDistillation:
  @pytest.mark.parametrize('t', [1.0, 2.0])
  def test_of_classes(self, t):
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 4, 5))
    soft = lambda v: np.exp(v / t) / np.exp(v / t).sum(1, keepdims=True)
    p, q = soft(x), soft(z)
    expected = t**2 * (q * np.log(q / p)).sum(1)[:3].sum()
    loss = lambda x: CLASSIFY.distillation(x, jnp.float32(z), MASK, t)
    found, grad = jax.value_and_grad(loss)(jnp.float32(x))
    assert float(found) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(grad[:3], (t * (p - q))[:3], atol=1e-5)
    assert not grad[3].any()

  def test_of_numbers(self):
    guide = NUMBERS + jnp.array([[1.0], [-2], [0], [9]])
    found = REGRESS.distillation(NUMBERS, guide, MASK, 2.0)
    assert float(found) == 3

  @both
  def test_none_from_itself_and_no_gradient_to_the_teacher(self, case):
    task, outputs, _ = case
    assert float(task.distillation(outputs, outputs, MASK, 2.0)) == 0
    to_teacher = jax.grad(lambda z: task.distillation(outputs, z, MASK, 2.0))
    assert not to_teacher(outputs + 1.5).any()


class TestSmoothing:
  def test_by_hand(self):
    # x_y - mean x: half of ln 3 where right, less by ln 3 where wrong.
    found = float(CLASSIFY.smoothing(LOGITS, CLASSES, MASK))
    assert found == pytest.approx(0.5 * LN3)

  @pytest.mark.parametrize('share', [0.1, 0.9])
  def test_equals_the_cross_entropy_of_smooth_labels(self, share):
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    smooth = (1 - share) * np.eye(5)[labels] + share / 5
    log_p = outputs - np.log(np.exp(outputs).sum(1, keepdims=True))
    given = jnp.float32(outputs), jnp.asarray(labels), jnp.arange(6) < 4
    found = CLASSIFY.sums(*given)[0] + share * CLASSIFY.smoothing(*given)
    assert float(found) == pytest.approx(-(smooth * log_p)[:4].sum(), rel=1e-5)

  def test_unlabelled_and_padding_have_no_gradient(self):
    labels = CLASSES.at[1].set(-1)
    grad = jax.grad(CLASSIFY.smoothing)(LOGITS, labels, labels == 1)
    np.testing.assert_array_equal(grad[0], [-0.5, 0.5])
    assert not grad[1:3].any()


def test_metrics_have_their_name_and_direction():
  assert (CLASSIFY.metric, CLASSIFY.sign) == ('accuracy', 1)
  assert (REGRESS.metric, REGRESS.sign) == ('mae', -1)
  assert Task() == CLASSIFY
