"""The network that all backbones share."""

from typing import Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph

from lorap_jax import graphs
from lorap_jax._typing import Array, Float
from lorap_jax.graphs import neighborhood, shards
from lorap_jax.nn import (
  linear,
  methods,
  norm,
  prompts,
  protection,
)
from lorap_jax.nn.quantized import Quantized, Rows, receiver_rows

Encoder = Literal['none', 'dense', 'embedding']
Pool = Literal['none', 'mean', 'sum', 'max']
EncoderOperand = Literal['signed', 'non_negative', 'int8']


_POOLS = {
  'mean': graphs.mean_pool,
  'sum': graphs.sum_pool,
  'max': graphs.max_pool,
}


@runtime_checkable
class Backbone(Protocol):
  """A kind of graph convolution, as the network sees it."""

  @property
  def activates(self) -> bool:
    """Its layers end in a non-linearity (a last layer's excepted)."""
    ...

  @property
  def sums_first(self) -> bool:
    """Its layers sum their input over neighbours before they multiply it."""
    ...

  def layer(
    self,
    *,
    index: int,
    last: bool,
    features: int,
    scheme: methods.Scheme,
    prompt: prompts.PromptSpec,
    non_negative: bool,
  ) -> nn.Module:
    """A new layer, named `conv_{index}`.

    Args:
      index: number of the layer, from 0.
      last: the layer gives logits.
      features: width of its output.
      scheme: the quantization framework.
      prompt: the prompts; for the aggregate hook.
      non_negative: its input has no negative values.
    """
    ...


class Network(nn.Module):
  """Encoder, graph convolutions, and for graph tasks pooling and readout.

      x = encoder(nodes + node prompt)
      x = dropout(x);  x = [x +] relu(norm(conv_l(x)))    for each layer l
      y = x of the last layer                             for node tasks
      y = readout(pool(x))                                for graph tasks

  A backbone whose layers end in a non-linearity of their own (GIN) gets
  neither norm nor ReLU. Quantization points are those of the layers; raw
  features that enter a convolution without encoder pass the point `features`
  instead of its `input`.

  Attributes:
    outputs: classes, or 1 for regression.
    backbone: kind of convolution.
    scheme: the quantization framework.
    prompt: the prompts. Node prompts act on the raw node features, or on their
      rows of the `embedding`.
    features: hidden width.
    num_layers: convolutions.
    encoder: `none`, a `dense` layer, or an `embedding` of integer types in
      full precision.
    encoder_operand: grid of the raw features that enter the `dense` encoder:
      the scheme's for `signed` or for `non_negative` values, or 8 bits by the
      observed range (`int8`).
    num_types: rows of the embedding.
    norm: batch norm after each convolution but a node task's last.
    residual: add the input of a convolution to its output.
    dropout: rate before each convolution but the first.
    input_dropout: rate before the first convolution.
    pool: `none` for node tasks, else `mean`, `sum` or `max` over the nodes.
    normalize_pooled: batch norm on the pooled vector; in no paper. Most
      superpixels are background, so that their mean varies little.
    readout: Dense layers after pooling, with ReLU between them.
    readout_dropout: rate between them.
  """

  outputs: int
  backbone: Backbone
  scheme: methods.Scheme
  prompt: prompts.PromptSpec = prompts.PromptSpec()
  features: int = 110
  num_layers: int = 4
  encoder: Encoder = 'dense'
  encoder_operand: EncoderOperand = 'signed'
  num_types: int = 28
  norm: bool = False
  residual: bool = False
  dropout: float = 0.0
  input_dropout: float = 0.0
  pool: Pool = 'mean'
  normalize_pooled: bool = False
  readout: int = 2
  readout_dropout: float = 0.0

  param_groups = 'base'

  @nn.compact
  def __call__(
    self,
    graph: jraph.GraphsTuple | graphs.Sampled,
    *,
    layout: Any = None,
    train: bool,
    only: int | None = None,
  ) -> Float[Array, 'r c']:
    """Outputs of every graph, or of every node where nothing is pooled.

    Args:
      graph: a padded batch with nodes [n, f], or `graphs.Features`; or the
        sampled neighbourhoods of some nodes, with a graph for each layer.
      layout: memory layout of the edges, of a sampled graph one for each layer;
        None for segment_sum.
      train: use and update the statistics of the batch.
      only: number of the one convolution to compute, on a graph whose nodes are
        what the one before it returned; for large graphs, layer by layer.

    Returns:
      [g, outputs], or [n, outputs]; of a sampled graph those of its receivers.
      Those of padding mean nothing.

    Raises:
      ValueError: shapes or types that make no graph, or a sampled graph of
        another number of layers.
    """
    chosen = range(self.num_layers) if only is None else (only,)
    parts = neighborhood.of_layers(graph, layout, len(chosen))
    first, _ = parts[0]
    graphs.check_shapes(first)
    rows = self._rows(first, train)
    x: Any = graph.nodes
    if chosen[0] == 0:
      x = self._encode(x, rows)
    for i, (part, lay) in zip(chosen, parts, strict=True):
      if i and protection.redraws(self.scheme):
        rows = self._rows(part, train)
      x = self._convolve(i, x, part, rows, lay)
      rows = receiver_rows(rows, part)
    if self.pool == 'none':
      return x
    return self._read_out(_POOLS[self.pool](x, first), first, train)

  def _rows(self, graph: jraph.GraphsTuple, train: bool) -> Rows:
    mask = graphs.node_mask(graph)[:, None]
    return protection.node_rows(self, self.scheme, graph, mask, train=train)

  def _encode(self, x: Any, rows: Rows) -> Any:
    node_prompt = self.prompt.on_nodes()
    quantizer = None
    if self.encoder == 'none':
      quantizer = self._of_raw_features()
    if isinstance(x, graphs.Features):
      takes_all = self._takes_all(node_prompt, quantizer)
      x = x.dense if takes_all else x.sparse
    if self.encoder == 'embedding':
      table = nn.Embed(self.num_types, self.features, name='embedding')
      x = table(x[:, 0].astype('int32'))
    if node_prompt is not None:
      x = node_prompt(x, rows=rows)
    if self.encoder == 'dense':
      if self.encoder_operand == 'int8':
        x = methods.quantize(methods.QAT(bits=8), 'input', x, rows=rows)
      layer = linear.QuantDense(
        self.features,
        self.scheme,
        non_negative=self.encoder_operand == 'non_negative',
        name='embedding',
      )
      x = layer(x, rows=rows)
    if self.encoder == 'none':
      x = self._drop(self.input_dropout, x, rows)
      x = methods.run_quantizer(quantizer, 'features', x, rows=rows)
    return x

  def _of_raw_features(self) -> nn.Module | None:
    """What acts on raw features that enter a convolution."""
    if self.scheme.edge_messages and self.backbone.sums_first:
      # The messages of the edges are these features, and quantized as such.
      return methods.Identity(name='features')
    return self.scheme.quantizer('features', non_negative=False)

  def _takes_all(self, node_prompt: Any, quantizer: Any) -> bool:
    """Whether something before the first product takes every element."""
    if self.encoder != 'none' or self.backbone.sums_first:
      return True
    # What a prompt adds is of low rank until dropout thins it, or until it
    # differs from node to node where a quantizer follows.
    prompted = node_prompt is not None
    if prompted and self.input_dropout > 0:
      return True
    if isinstance(quantizer, methods.Identity | None):
      return False
    if prompted and not node_prompt.uniform:
      return True
    return not getattr(quantizer, 'takes_sparse', False)

  def _convolve(self, i: int, x: Any, graph, rows: Rows, layout) -> Any:
    logits = self.pool == 'none' and i == self.num_layers - 1
    if i or self.encoder != 'none':
      rate = self.dropout if i else self.input_dropout
      x = self._drop(rate, x, rows)
    layer = self.backbone.layer(
      index=i,
      last=logits,
      features=self.outputs if logits else self.features,
      scheme=self.scheme,
      prompt=self.prompt,
      non_negative=i > 0 and not self.residual,
    )
    y: Any = layer(x, graph, rows=rows, layout=layout)
    if logits:
      return y
    if self.norm and not self.backbone.activates:
      y = self._norm(f'norm_{i}')(y, rows=receiver_rows(rows, graph))
    if not self.backbone.activates:
      y = jax.nn.relu(y)
    if self.residual and not isinstance(x, Quantized):
      x = graphs.at_receivers(x, graph)
      if x.shape == y.shape:
        y = x + y
    return y

  def _read_out(self, z: Any, graph: jraph.GraphsTuple, train: bool) -> Array:
    mask = graphs.graph_mask(graph)
    order = shards.order(mask, shards.count(graph))
    rows = Rows(mask[:, None], train, order=order)
    if self.normalize_pooled:
      z = self._norm('norm_pooled')(z, rows=rows)
    for i in range(self.readout):
      last = i == self.readout - 1
      if i:
        z = self._drop(self.readout_dropout, jax.nn.relu(z), rows)
      z = linear.QuantDense(
        self.outputs if last else self.features,
        self.scheme,
        non_negative=i > 0,
        point='readout',
        name=f'readout_{i}',
      )(z, rows=rows)
    return z

  def _norm(self, name: str) -> nn.Module:
    unbiased = self.scheme.forms.unbiased_variance
    return norm.MaskedBatchNorm(unbiased, name=name)

  def _drop(self, rate: float, x: Any, rows: Rows) -> Any:
    if not rate:
      return x
    if isinstance(x, graphs.SparseRows):  # A zero stays one, dropped or not.
      return x._replace(values=self._drop(rate, x.values, rows))
    dropped = nn.Dropout(rate, deterministic=not rows.train)
    # The same draws as for [n, f], which XLA's CPU backend unrolls over short
    # rows: a third of the code of ten seeds of GCN on Cora.
    flat = lambda t: dropped(t.reshape(-1)).reshape(t.shape)
    if rows.order is None or not rows.train:
      return flat(x)
    return flat(x[rows.order])[jnp.argsort(rows.order)]
