"""The same networks in torch_geometric, full precision.

Import this only where `installed()` of `benchmarks.child` is true.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch  # pyrefly: ignore
from torch_geometric import nn as pyg  # pyrefly: ignore
from torch_geometric.data import Data  # pyrefly: ignore
from torch_geometric.loader import DataLoader  # pyrefly: ignore

from lorap_jax.data import GraphDataset, NodeDataset

nn, functional = torch.nn, torch.nn.functional


class GIN(nn.Module):
  """That of configs/mnist.py:gin: embedding, convolutions, readout."""

  def __init__(self, inputs, outputs, *, features=110, num_layers=4):
    super().__init__()
    self.embedding = nn.Linear(inputs, features)
    self.layers = nn.ModuleList(
      pyg.GINConv(_perceptron(features), train_eps=True)
      for _ in range(num_layers)
    )
    self.norm = nn.BatchNorm1d(features)
    self.readout = nn.Sequential(
      nn.Linear(features, features), nn.ReLU(), nn.Linear(features, outputs)
    )

  def forward(self, data):
    """Logits of every graph."""
    x = self.embedding(data.x)
    for layer in self.layers:
      x = layer(x, data.edge_index)
    pooled = pyg.global_mean_pool(x, data.batch, data.num_graphs)
    return self.readout(self.norm(pooled))


def _perceptron(features):
  return nn.Sequential(
    *(
      make()
      for _ in range(2)
      for make in (
        lambda: nn.Linear(features, features),
        lambda: nn.BatchNorm1d(features),
        nn.ReLU,
      )
    )
  )


class GCN(nn.Module):
  """Convolutions with their normalisation kept, as in the configurations."""

  def __init__(self, widths, *, dropout, norm=False):
    super().__init__()
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    self.layers = nn.ModuleList(pyg.GCNConv(*p, cached=True) for p in pairs)
    make = nn.BatchNorm1d if norm else (lambda width: nn.Identity())
    self.norms = nn.ModuleList(make(width) for width in widths[1:-1])
    self.dropout = dropout

  def forward(self, data):
    """Logits of every node."""
    x = self.layers[0](data.x, data.edge_index)
    for norm, layer in zip(self.norms, self.layers[1:], strict=True):
      x = functional.dropout(norm(x).relu(), self.dropout, self.training)
      x = layer(x, data.edge_index)
    return x


def gcn_of(config, data: NodeDataset) -> GCN:
  """The GCN of a configuration of the library."""
  model = config.model
  hidden = [model.features] * (model.num_layers - 1)
  widths = [data.nodes.shape[1], *hidden, data.num_classes]
  return GCN(widths, dropout=model.dropout, norm=bool(model.norm))


def node_graph(data: NodeDataset) -> Any:
  """A graph whose nodes have labels."""
  mask = lambda split: torch.from_numpy(getattr(data, f'{split}_mask'))
  return Data(
    x=torch.from_numpy(data.nodes),
    edge_index=_edges(data.senders, data.receivers),
    y=torch.from_numpy(data.labels).long(),
    train_mask=mask('train'),
    valid_mask=mask('valid'),
    test_mask=mask('test'),
  )


def one_graph(
  nodes: np.ndarray, senders: np.ndarray, receivers: np.ndarray
) -> Any:
  """A graph alone, as the networks take it."""
  return Data(
    x=torch.from_numpy(nodes),
    edge_index=_edges(senders, receivers),
    batch=torch.zeros(len(nodes), dtype=torch.long),
    num_graphs=1,
  )


def batches(data: GraphDataset, size: int, *, shuffle: bool) -> Any:
  """Graphs with a label each, in batches."""
  cut = lambda array, counts: np.split(array, np.cumsum(counts)[:-1])
  parts = zip(
    cut(data.nodes, data.n_node),
    cut(data.senders, data.n_edge),
    cut(data.receivers, data.n_edge),
    data.labels,
    strict=True,
  )
  graphs = [
    Data(x=torch.from_numpy(x), edge_index=_edges(s, r), y=int(label))
    for x, s, r, label in parts
  ]
  return DataLoader(graphs, size, shuffle=shuffle)


def _edges(senders, receivers):
  return torch.from_numpy(np.stack([senders, receivers]).astype(np.int64))


def stepper(model, config) -> Callable[[Any], None]:
  """A call that takes one training step on a batch or a graph.

  Args:
    model: the network.
    config: of the library, for Adam's rate and decay.
  """
  optim = config.optim
  optimizer = torch.optim.Adam(
    model.parameters(), optim.learning_rate, weight_decay=optim.weight_decay
  )

  def step(data):
    model.train()
    optimizer.zero_grad()
    outputs, labels = model(data), data.y
    if 'train_mask' in data:
      outputs, labels = outputs[data.train_mask], labels[data.train_mask]
    functional.cross_entropy(outputs, labels).backward()
    optimizer.step()

  return step


def node_epochs(config, data: NodeDataset, epochs: int) -> Iterator[float]:
  """Trains from the start, a step and an evaluation per epoch.

  Args:
    config: of the library.
    data: the graph.
    epochs: how many.

  Yields:
    Seconds of each epoch.
  """
  graph, model = node_graph(data), gcn_of(config, data)
  step = stepper(model, config)
  for _ in range(epochs):
    started = time.perf_counter()
    step(graph)
    model.eval()
    with torch.no_grad():
      outputs = model(graph)
      for mask in (graph.valid_mask, graph.test_mask):
        functional.cross_entropy(outputs[mask], graph.y[mask]).item()
        (outputs[mask].argmax(1) == graph.y[mask]).float().mean().item()
    yield time.perf_counter() - started


class _CsrProduct(torch.autograd.Function):
  """A x, with A transposed beforehand for the gradient."""

  @staticmethod
  def forward(ctx, x, matrix, transposed):
    ctx.transposed = transposed
    return matrix @ x

  @staticmethod
  def backward(ctx, *ds):
    return ctx.transposed @ ds[0], None, None


def sums(
  senders: np.ndarray, receivers: np.ndarray, num_nodes: int
) -> dict[str, Callable[[Any], Any]]:
  """Sums over neighbours, by name of the form.

  Args:
    senders: of the edges.
    receivers: of the edges.
    num_nodes: n.
  """
  edges, message_passing = _edges(senders, receivers), pyg.SimpleConv('sum')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Torch calls its CSR support a beta.
    matrices = [
      torch.sparse_coo_tensor(
        torch.stack(ends), torch.ones(len(senders)), (num_nodes, num_nodes)
      ).to_sparse_csr()
      for ends in ((edges[1], edges[0]), (edges[0], edges[1]))
    ]
  return {
    'PyG scatter': lambda x: message_passing(x, edges),
    'torch CSR': lambda x: _CsrProduct.apply(x, *matrices),
  }


def with_gradient(
  total: Callable[[Any], Any], x: np.ndarray, ds: np.ndarray
) -> tuple[Callable[[], Any], Callable[[], Any]]:
  """Calls for the sum alone, and for the sum and its gradient.

  Args:
    total: one of `sums`.
    x: features.
    ds: gradient of the sum.
  """
  plain, given = torch.from_numpy(x), torch.from_numpy(ds)
  leaf = plain.clone().requires_grad_()

  def forward():
    with torch.no_grad():
      return total(plain)

  def both():
    s = total(leaf)
    return s.detach(), torch.autograd.grad(s, leaf, given)[0]

  return forward, both


def neighbor_batches(
  data: NodeDataset, fanout: tuple[int, ...], targets: int
) -> Callable[[], Any] | None:
  """Batches of NeighborLoader, one at each call.

  Args:
    data: the graph.
    fanout: neighbours per hop, from the targets on.
    targets: nodes of a batch.

  Returns:
    The next batch of training nodes; None where the package has no sampler:
    it needs pyg-lib or torch-sparse, which are not on every registry.
  """
  from torch_geometric.loader import NeighborLoader  # pyrefly: ignore

  edges = np.stack([data.senders, data.receivers]).astype(np.int64)
  graph = Data(
    x=torch.from_numpy(data.nodes),
    edge_index=torch.from_numpy(edges),
    y=torch.from_numpy(data.labels),
  )
  try:
    loader = NeighborLoader(
      graph,
      num_neighbors=list(fanout),
      batch_size=targets,
      input_nodes=torch.from_numpy(np.flatnonzero(data.train_mask)),
      shuffle=True,
    )
    batches = iter(loader)
    next(batches)
  except ImportError:
    return None

  def call():
    nonlocal batches
    try:
      return next(batches)
    except StopIteration:
      batches = iter(loader)
      return next(batches)

  return call
