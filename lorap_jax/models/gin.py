"""GIN for graph classification."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.nn import conv, linear, norm, prompts, schemes


class GIN(nn.Module):
  """The A2Q paper's GIN for MNIST and CIFAR-10 superpixels.

  Dense embedding, `num_layers` GINConv, mean over the nodes of each graph,
  Dense-ReLU-Dense. Quantization points: `input` and `weight` of every Dense,
  and those of GINConv. The node prompt acts on the raw node features.

  Attributes:
    num_classes: outputs per graph.
    scheme: the quantization framework.
    prompt: the prompts.
    features: hidden width. (default: 110)
    num_layers: GINConv layers. (default: 4)
    normalize_pooled: batch norm on the pooled vector; not in the paper's
      model. Most superpixels are background, so that the mean over nodes
      varies little from digit to digit. (default: False)
  """

  num_classes: int
  scheme: schemes.Scheme
  prompt: prompts.PromptSpec = prompts.PromptSpec()
  features: int = 110
  num_layers: int = 4
  normalize_pooled: bool = False

  @nn.compact
  def __call__(
    self,
    graph: jraph.GraphsTuple,
    *,
    layout: graphs.Layout | None = None,
    train: bool,
  ) -> Float[Array, 'g c']:
    """Class logits of every graph.

    Args:
      graph: a padded batch with nodes [n, f].
      layout: of the batch, or None.
      train: batch norm uses and updates batch statistics.

    Returns:
      Logits [g, num_classes]; those of padding graphs mean nothing.
    """
    node_mask = graphs.node_mask(graph)[:, None]
    graph_mask = graphs.graph_mask(graph)[:, None]
    dense = functools.partial(linear.QuantDense, scheme=self.scheme)
    x: Any = graph.nodes
    node_prompt = self.prompt.on_nodes()
    if node_prompt is not None:
      x = node_prompt(x, mask=node_mask)
    x = dense(self.features, name='embedding')(x, mask=node_mask)
    for i in range(self.num_layers):
      layer = conv.GINConv(
        self.features, self.scheme, self.prompt, name=f'conv_{i}'
      )
      x = layer(x, graph, mask=node_mask, layout=layout, train=train)
    z = graphs.mean_pool(x, graph)
    if self.normalize_pooled:
      z = norm.MaskedBatchNorm(name='norm_pooled')(
        z, mask=graph_mask, train=train
      )
    z = dense(self.features, name='readout_0')(z, mask=graph_mask)
    return dense(self.num_classes, non_negative=True, name='readout_1')(
      jax.nn.relu(z), mask=graph_mask
    )
