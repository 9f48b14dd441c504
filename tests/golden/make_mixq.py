"""Writes the golden vectors of MixQ; README.md says with what.

  python tests/golden/make_mixq.py CLONE

CLONE is a checkout of github.com/SamirMoustafa/MixQ. Needs torch and numpy
only: other packages that its files import are replaced by stand-ins.
"""

import ast
import importlib
import itertools
import pathlib
import sys
import types
import warnings

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
BITS = (1, 2, 4, 8, 16)


def flatten(nested):
  return [
    leaf
    for item in nested
    for leaf in (flatten(item) if isinstance(item, list) else [item])
  ]


class Counter:
  """Stand-in for a counter of operations: another number each time."""

  counted: list[int] = []

  def __init__(self, module):
    self.total_main_operation = 1000 + 17 * len(self.counted)
    self.counted.append(self.total_main_operation)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return None


def scatter(inputs, index, dim, dim_size, reduce):
  assert (dim, reduce) == (0, 'add')
  out = inputs.new_zeros(dim_size, inputs.shape[1])
  return out.index_add(0, index, inputs)


def max_pool(x, batch):
  return torch.stack([x[batch == g].amax(0) for g in batch.unique()])


def install_stand_ins() -> None:
  names = {
    'torch_operation_counter': {'OperationsCounterMode': Counter},
    'torch_scatter': {'scatter': scatter},
    'torch_geometric': {},
    'torch_geometric.nn': {},
    'torch_geometric.nn.conv': {},
    'torch_geometric.nn.conv.gcn_conv': {'gcn_norm': None},
    'utility': {'flatten_list': flatten},
  }
  for name, values in names.items():
    module = types.ModuleType(name)
    module.__dict__.update(values)
    sys.modules[name] = module


def published(name: str) -> types.ModuleType:
  return importlib.import_module(f'quantization.{name}')


def load_model(clone: str):
  """The class MQGIN, without the rest of its script."""
  path = 'tasks_per_graph/tudataset/gin_tudataset_mixed_q.py'
  source = (pathlib.Path(clone) / path).read_text()
  mixed = 'mixed_modules'
  names = {
    'Module': torch.nn.Module,
    'ModuleList': torch.nn.ModuleList,
    'BatchNorm1d': torch.nn.BatchNorm1d,
    'global_max_pool': max_pool,
    'flatten_list': flatten,
    'MQLinear': published(f'{mixed}.parametric.linear').MQLinear,
    'MQReLU': published(f'{mixed}.non_parametric.activations').MQReLU,
    'MQGraphIsomorphism': published(
      f'{mixed}.parametric.graph_isomorphism'
    ).MQGraphIsomorphism,
  }
  for node in ast.parse(source).body:
    if getattr(node, 'name', None) in ('MQLinearReLULinearReLU', 'MQGIN'):
      exec(ast.unparse(node), names)
  return names['MQGIN']


def first_batch(rng, rows: int) -> np.ndarray:
  """Columns with both signs, one sign, equal extremes, 0 only, and tiny."""
  x = rng.normal(size=(rows, 7))
  x[:, 1] = np.abs(x[:, 1])
  x[:, 2] = -np.abs(x[:, 2]) - 0.1
  x[0, 3], x[1, 3] = 4, -4
  x[:, 3] = np.clip(x[:, 3], -4, 4)
  x[:, 4] = 0
  x[:, 5] *= 1e-6
  x[:, 6] *= 300
  return x.astype(np.float32)


def later_rows(scale, zero_point, codes, rng) -> np.ndarray:
  """Rows with ties, zeros, and points around the bounds of each column."""
  qmin, qmax = (np.float32(code) for code in codes)
  zeros = np.zeros_like(scale)
  rows = [zeros, -zeros]
  for code in (qmin, qmax):
    bound = scale * (code - zero_point)
    for sign in (np.float32(1), np.float32(-1)):
      # XLA may read subnormals, the neighbours of 0, as 0.
      near = np.nextafter(bound, sign * np.inf)
      rows += [bound, np.where(bound == 0, sign * np.float32(1e-30), near)]
    rows += [bound + step * scale for step in (-2, -0.5, -0.3, 0.3, 0.5, 2)]
  middle = np.round((qmin + qmax) / 2)
  rows += [(middle + k - zero_point) * scale for k in (-1.5, -0.5, 0.5, 1.5)]
  span = scale * (qmax - qmin)
  rows += [9 * span, -9 * span]
  rows += list(rng.uniform(-1.2, 1.2, (8, scale.size)) * span)
  return np.stack(rows).astype(np.float32)


def calibrated(x, bits: int, signed: bool, per: str):
  parameters = published('base_parameter').QuantizationParameters(
    bits, signed, per
  )
  parameters.calibrate(torch.tensor(x))
  return parameters


def quantizer_cases(per: str, seed: int):
  """All bits, both signednesses; as calibrated, and as training moves them."""
  rng = np.random.default_rng(seed)
  first = first_batch(rng, 40)
  if per == 'tensor':
    first = first[:, :4]
  cases = []
  for bits, signed, moved in itertools.product(BITS, (1, 0), (0, 1)):
    parameters = calibrated(first, bits, bool(signed), per)
    start = [p.detach().numpy().copy() for p in parameters.parameters()]
    if moved:
      parameters.scale.data *= 1.17
      parameters.zero_point.data += 0.3125
    scale, zero_point = (p.detach().numpy() for p in parameters.parameters())
    codes = parameters.get_quantization_arguments()[2:]
    rows = later_rows(
      np.broadcast_to(scale, first.shape[1:]), zero_point, codes, rng
    )
    x = torch.tensor(rows, requires_grad=True)
    upstream = rng.normal(size=x.shape).astype(np.float32)
    out = parameters.fake_quantize(x)
    out.backward(torch.tensor(upstream))
    cases.append(
      {
        'bits': bits,
        'signed': bool(signed),
        'moved': bool(moved),
        'start_scale': start[0].reshape(1, -1),
        'start_zero_point': start[1].reshape(1, -1),
        'x': rows,
        'scale': scale.reshape(1, -1),
        'zero_point': zero_point.reshape(1, -1),
        'upstream': upstream,
        'out': out.detach().numpy(),
        'dx': x.grad.numpy(),
        'dscale': parameters.scale.grad.numpy().reshape(1, -1),
        'dzero_point': parameters.zero_point.grad.numpy().reshape(1, -1),
      }
    )
  arrays = {name: np.stack([c[name] for c in cases]) for name in cases[0]}
  return {'first': first, **arrays}


def mixture_case(candidates, signed: bool, logits, seed: int):
  """One relaxed quantizer with its gradients."""
  rng = np.random.default_rng(seed)
  module = published('mixed_modules.non_parametric.input_quantizer').MQInput(
    True, candidates, signed, 'column'
  )
  module.reset_parameters()
  module(torch.tensor(first_batch(rng, 40)))  # Calibrates.
  module.qi_relaxed_coeff.data = torch.tensor(logits)
  scales = np.stack([q.scale.detach().numpy()[None] for q in module.qi])
  rows = (first_batch(rng, 60) * 1.3).astype(np.float32)
  x = torch.tensor(rows, requires_grad=True)
  upstream = rng.normal(size=x.shape).astype(np.float32)
  out = module(x)
  out.backward(torch.tensor(upstream))
  stack = lambda values: np.stack([v.detach().numpy()[None] for v in values])
  return {
    'candidates': np.asarray(candidates),
    'signed': signed,
    'x': rows,
    'scales': scales,
    'zero_points': stack([q.zero_point for q in module.qi]),
    'logits': np.asarray(logits, np.float32),
    'upstream': upstream,
    'out': out.detach().numpy(),
    'dx': x.grad.numpy(),
    'dscales': stack([q.scale.grad for q in module.qi]),
    'dzero_points': stack([q.zero_point.grad for q in module.qi]),
    'dlogits': module.qi_relaxed_coeff.grad.numpy(),
  }


def quantizers(model, *, nodes: int, graphs: int):
  """(logits, elements, depth, module) of every quantizer of MQGIN."""
  found = []

  def add(module, depth, rows, before):
    width = getattr(module, 'out_features', before)
    sizes = {'qi': rows * before, 'qw': before * width, 'qo': rows * width}
    for name, size in sizes.items():
      logits = getattr(module, f'{name}_relaxed_coeff', None)
      if logits is not None:
        found.append((logits, size, depth, module))

  for conv in model.convs:
    width = conv.nn.lin_1.in_features
    add(conv.mp, 2, nodes, width)
    for linear in (conv.nn.lin_1, conv.nn.lin_2):
      add(linear, 2, nodes, linear.in_features)
  for linear in (model.lin1, model.lin2):
    add(linear, 1, graphs, linear.in_features)
  return found


def search_case(model_class, seed: int):
  """Cost, winners, average bits and BitOPs of a whole model."""
  rng = np.random.default_rng(seed)
  torch.manual_seed(seed)
  candidates, nodes, graphs = [2, 4, 8], 50, 6
  model = model_class(3, 2, 5, 4, candidates)
  data = types.SimpleNamespace(
    x=torch.tensor(rng.normal(size=(nodes, 3)).astype(np.float32)),
    edge_index=torch.tensor(rng.integers(0, nodes, (2, 200))),
    batch=torch.arange(nodes) % graphs,
  )
  found = quantizers(model, nodes=nodes, graphs=graphs)
  for parameter, *_ in found:
    parameter.data = torch.tensor(rng.normal(size=3).astype(np.float32))
  found[0][0].data[:] = 0.25
  found[1][0].data[1:] = found[1][0].data.max() + 1  # Two equal winners.
  equal_in_softmax = [-90, 0.25, 0.25 + 2**-25]
  found[2][0].data = torch.tensor(equal_in_softmax)
  cost = model.calculate_weighted_loss(data)
  cost.sum().backward()
  modules = list(dict.fromkeys(module for *_, module in found))
  present = lambda nested: [bits for bits in flatten(nested) if bits]
  bit_operations = model.estimated_bit_operation_precision(data)
  return {
    'candidates': np.asarray(candidates),
    'logits': np.stack([p.detach().numpy() for p, *_ in found]),
    'elements': np.asarray([size for _, size, *_ in found]),
    'depth': np.asarray([depth for *_, depth, _ in found]),
    'module': np.asarray([modules.index(module) for *_, module in found]),
    'cost': cost.sum().detach().numpy(),
    'dlogits': np.stack([p.grad.numpy() for p, *_ in found]),
    'winners': np.asarray(
      present([[*m.select_top_k_winners(1).values()] for m in modules])
    ),
    'average_bits': np.mean(present([*model.select_top_k_winners(1).values()])),
    'operations': np.asarray(Counter.counted),
    'bit_operations': bit_operations,
  }


def initial_case():
  module = published('mixed_modules.non_parametric.input_quantizer').MQInput
  arrays = {}
  for candidates in ([2, 4, 8], [4, 8], [8, 16], [1, 2, 16]):
    one = module(True, candidates)
    one.reset_parameters()
    name = '_'.join(map(str, candidates))
    arrays[name] = one.qi_relaxed_coeff.detach().numpy()
  return arrays


def main(clone: str) -> None:
  warnings.simplefilter('ignore')  # Tensors made of tensors.
  install_stand_ins()
  sys.path.insert(0, clone)
  cases = {
    'columns': quantizer_cases('column', 1),
    'tensor': quantizer_cases('tensor', 2),
    'mixture_2_4_8': mixture_case([2, 4, 8], True, [0.3, -0.7, 0.4], 3),
    'mixture_8_16': mixture_case([8, 16], False, [1.2, -0.1], 4),
    'search': search_case(load_model(clone), 5),
    'initial': initial_case(),
  }
  for name, arrays in cases.items():
    np.savez_compressed(HERE / f'mixq_{name}.npz', **arrays)
  print(f'wrote {len(cases)} files with torch {torch.__version__}')


if __name__ == '__main__':
  main(sys.argv[1])
