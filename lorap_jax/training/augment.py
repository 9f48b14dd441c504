"""Random affine maps of the positions of nodes, one for each graph."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from lorap_jax import graphs
from lorap_jax._typing import Array, Bool, Float
from lorap_jax.data.containers.positions import Positions
from lorap_jax.graphs import shards

# What a strength of 1 draws from, on either side of the map that moves nothing.
_DEGREES = 15.0
_SCALE = 0.15
_SHEAR = 0.15
_SHIFT = 0.1  # Sides of the image.


@dataclasses.dataclass(frozen=True)
class Augment:
  """How training batches are augmented.

  Attributes:
    strength: factor on all ranges.
    positions: the features that are moved.
  """

  strength: float
  positions: Positions


def draw(
  key: Array, real: Bool[Array, 'g'], strength: float
) -> tuple[Float[Array, 'g 2 2'], Float[Array, 'g 2']]:
  """A random map u -> A u + t of the plane for each graph.

  A = c R(a) [[1, h], [0, 1]], with the rotation R by a, and uniform draws of
  a up to 15 degrees, c up to .15 from 1, h up to .15, t up to .1, all times the
  strength.

  Args:
    key: of jax.random. The map of a graph follows from it and from the place of
      the graph among the real ones, for any padding and number of shards.
    real: True for the real of g graphs.
    strength: factor on the ranges.

  Returns:
    (A, t); those of padding graphs move nothing.
  """
  places = jnp.maximum(jnp.cumsum(real) - 1, 0)
  keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
  uniform = jax.vmap(
    lambda own: jax.random.uniform(own, (5,), minval=-strength, maxval=strength)
  )(keys)
  uniform = jnp.where(real[:, None], uniform, 0)
  angle = math.radians(_DEGREES) * uniform[:, 0]
  scale, shear = 1 + _SCALE * uniform[:, 1], _SHEAR * uniform[:, 2]
  cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
  matrix = [[cos, shear * cos - sin], [sin, shear * sin + cos]]
  rows = [jnp.stack(row, axis=-1) for row in matrix]
  return jnp.stack(rows, axis=1), _SHIFT * uniform[:, 3:]


def moved(batch: graphs.Batch, key: Array, augment: Augment) -> graphs.Batch:
  """A batch whose nodes are elsewhere, by a map of each graph's own.

  A node u sides off the middle of the image goes to A u + t, see `draw`. Other
  features, edges and the nodes of padding stay as they are.

  Args:
    batch: padded graphs with nodes [n, f].
    key: of jax.random.
    augment: strength and positions.

  Returns:
    The batch with other nodes.

  References:
    Simard, Steinkraus, Platt: Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis, ICDAR 2003, section 2 (affine maps of
    training digits).
  """
  graph: Any = batch.graph
  columns, middle, side = (jnp.array(v) for v in augment.positions)
  matrix, shift = draw(key, graphs.graph_mask(graph), augment.strength)

  def in_shard(nodes, n_node, change, shift):
    owner = jnp.repeat(
      jnp.arange(len(n_node)), n_node, total_repeat_length=len(nodes)
    )
    u = (nodes[:, columns] - middle[None]) / side[None]
    # Sums, not products of matrices, which an accelerator may round to fewer
    # bits. What is added is 0 where nothing is to move.
    step = jnp.sum(change[owner] * u[:, None], axis=-1) + shift[owner]
    place = side[:, None] * jax.nn.one_hot(columns, nodes.shape[1])
    return nodes + jnp.sum(step[:, :, None] * place[None], axis=1)

  change = matrix - jnp.eye(2)[None]
  count = shards.count(graph)
  nodes = shards.in_each(
    in_shard, count, graph.nodes, graph.n_node, change, shift
  )
  return batch._replace(graph=graph._replace(nodes=nodes))
