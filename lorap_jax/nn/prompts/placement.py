"""Where a prompt on the aggregate acts, and what it is trained for."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lorap_jax._typing import Array, Float
from lorap_jax.nn import telemetry
from lorap_jax.nn.prompts.spec import PromptSpec
from lorap_jax.nn.quantized import FULL_BITS, Quantized, Rows, real_rows

LOCAL_LOSS = 'local_loss'  # The collection that the local objective goes to.


def prompted(
  spec: PromptSpec,
  quantizer: Callable[[Array], Quantized],
  s: Float[Array, 'n d'],
  *,
  rows: Rows,
  exact: Callable[[], Array] | None = None,
) -> Quantized:
  """Quantizes an aggregate with its prompt; to be called in a compact method.

  With Q the quantizer and p the prompt, by `spec.placement`: `pre` Q(s + p(s)),
  `post` Q(s) + p(Q(s)), `bypass` Q(s) + p(s).

  Objective `local` trains the prompt on the aggregation error alone,

      L = sum_i ||s_i - y_i||^2 / sum_i ||s_i||^2

  over real rows, with s the sum of the messages before their quantizer and y
  what is returned; the gradient reaches the prompt only. `both` adds it to the
  task's. It is sown into the collection `local_loss`.

  Args:
    spec: which prompt, where and what for.
    quantizer: Q, from an array to `Quantized`.
    s: aggregate [n, d] in full precision, the accumulator.
    rows: real rows.
    exact: the aggregate of unquantized messages, for the local objective.

  Returns:
    What the update receives. With `post` and `bypass` the sum is no longer on
    the grid of Q; the coordinates of the prompt are a full-precision side
    path, which the telemetry counts.
  """
  prompt = spec.on_aggregate()
  if prompt is None:
    return quantizer(s)
  if spec.implementation != 'xla':  # `pre`, in one kernel.
    prompted_s = prompt.inject(s, rows=rows)
    telemetry.record_prompt(prompt, s, prompted_s - s, rows)
    return quantizer(prompted_s)
  if spec.placement == 'pre':
    delta = prompt(s, rows=rows)
    telemetry.record_prompt(prompt, s, delta, rows)
    return quantizer(s + delta)
  y = quantizer(s)
  seen = y.values if spec.placement == 'post' else s
  delta = prompt(seen, rows=rows)
  telemetry.record_prompt(prompt, y.values, delta, rows)
  if spec.objective == 'local':
    delta = jax.lax.stop_gradient(delta)
  mask = real_rows(s, rows)
  if rows.train and spec.objective != 'task' and exact is not None:
    still = jax.lax.stop_gradient
    target = jnp.where(mask, still(exact()), 0)
    error = target - still(y.values) - prompt(still(seen), rows=rows)
    share = jnp.sum(jnp.where(mask, error, 0) ** 2) / jnp.maximum(
      jnp.sum(target**2), 1e-12
    )
    telemetry.sow(prompt, LOCAL_LOSS, 'share', share)
  # A prompt that does not say how little suffices carries all of its vector.
  of_prompt = getattr(prompt, 'side_width', None)
  width = s.shape[1] if of_prompt is None else of_prompt()
  row_bits = jnp.float32(FULL_BITS * width)
  report = telemetry.SideRecord(row_bits, mask[:, 0])
  telemetry.sow(prompt, telemetry.COLLECTION, 'side_path', report)
  return y._replace(values=y.values + delta)
