"""Tables of quantizers as files of integers hold them, while training goes on.

A quantizer whose parameters files hold in fewer bits has an attribute
`snapped`, a function from its parameters to such ones, or None.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from flax import traverse_util

from lorap_jax import graphs
from lorap_jax._typing import PyTree
from lorap_jax.nn import groups
from lorap_jax.training.state import TrainState

# Parameter groups that are trained no more, once they are snapped.
FROZEN = ('feature_scale', 'feature_bits')


def of_model(
  model: nn.Module, batch: graphs.Batch
) -> Callable[[TrainState], TrainState] | None:
  """What snaps the tables of a model; None if it has none.

  Args:
    model: Linen module called as `model(graph, layout=..., train=...)`.
    batch: any batch; only its shapes and types matter.

  Returns:
    From a state to one whose parameters, and their moving average, have the
    snapped tables of what is evaluated.
  """
  streams = dict.fromkeys(
    ('params', 'dropout', 'quantization'), jax.random.key(0)
  )
  with groups.recording('snapped') as found:
    jax.eval_shape(
      lambda graph, layout: model.init(
        streams, graph, layout=layout, train=True
      ),
      batch.graph,
      batch.layout,
    )
  if not found:
    return None

  @jax.jit
  def tables(params: PyTree) -> PyTree:
    flat = traverse_util.flatten_dict(params)
    at = lambda path: {k[-1]: v for k, v in flat.items() if k[:-1] == path}
    return {path: function(at(path)) for path, function in found.items()}

  def snap(state: TrainState) -> TrainState:
    new = {
      (*path, name): leaf
      for path, table in tables(state.evaluated().params).items()
      for name, leaf in table.items()
    }

    def put(params: PyTree) -> PyTree:
      flat = traverse_util.flatten_dict(params)
      # Arrays of their own: a step gives the old ones away.
      own = {path: leaf.copy() for path, leaf in new.items()}
      return traverse_util.unflatten_dict({**flat, **own})

    return state._replace(
      params=put(state.params), ema=put(state.ema) if state.ema else {}
    )

  return snap
