"""LoRAP's kernel as a choice of the specification, `implementation`."""

import dataclasses

import helpers
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest

from lorap_jax.models import factory
from lorap_jax.nn import conv, methods, prompts, telemetry
from lorap_jax.prompts import lorap_kernel

LORAP = prompts.PromptSpec('lorap', num_prompts=5, rank=2, init='glorot')
FUSED = dataclasses.replace(LORAP, implementation='pallas_interpret')
ON_GPU = jax.default_backend() == 'gpu'


def run(spec, key):
  """Parameters, output and its gradient, and the reports of a layer."""
  batch = layers.batch_of(layers.graph_list())
  x, rows = jnp.asarray(batch.graph.nodes), layers.rows_of(batch)
  layer = conv.GINConv(8, methods.A2QGraph(bits=4, num_groups=16), spec)
  variables = jax.jit(lambda: layer.init(key, x, batch.graph, rows=rows))()
  variables = {k: variables[k] for k in ('params', 'batch_stats')}

  @jax.jit
  def loss(params):
    out, sown = layer.apply(
      {**variables, 'params': params},
      x,
      batch.graph,
      rows=rows,
      mutable=[telemetry.COLLECTION],
    )
    return jnp.sum(jnp.sin(out)), (out, sown[telemetry.COLLECTION])

  gradient, (out, sown) = jax.jit(jax.grad(loss, has_aux=True))(
    variables['params']
  )
  return variables['params'], out, gradient, sown


def test_layer_differs_in_rounding_only(key, monkeypatch):
  plain = run(LORAP, key)
  shapes = []
  inject = lorap_kernel.inject_lorap

  def note(params, s, **options):
    shapes.append(s.shape)
    return inject(params, s, **options)

  monkeypatch.setattr(lorap_kernel, 'inject_lorap', note)
  fused = run(FUSED, key)
  assert set(shapes) == {(28, 4)}
  helpers.assert_trees_close(fused[0], plain[0])
  helpers.assert_trees_close(fused, plain, rtol=1e-4, atol=1e-5)
  assert np.any(fused[2]['prompt']['up'])


@pytest.mark.parametrize(
  'changes',
  [
    {'placement': 'post'},
    {'placement': 'bypass'},
    {'form': 'bias'},
    {'low_rank': 'none'},
    {'bits': 4},
  ],
)
def test_what_the_kernel_does_not_do(changes):
  ((field, value),) = changes.items()
  with pytest.raises(ValueError, match=f"`{field}`.*got {value!r}; use 'xla'"):
    dataclasses.replace(FUSED, **changes)


@pytest.mark.skipif(ON_GPU, reason='there is a GPU')
def test_needs_a_gpu():
  message = "^config.prompt: .* 'pallas' needs a GPU, .* use 'xla'$"
  with pytest.raises(ValueError, match=message):
    factory.create_prompt({'name': 'lorap', 'implementation': 'pallas'})
