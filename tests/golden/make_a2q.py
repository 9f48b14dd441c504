"""Writes the golden vectors of A2Q; README.md says with what.

  python tests/golden/make_a2q.py CLONE

CLONE is a checkout of github.com/weihai-98/A-2Q. Needs torch and numpy only:
the two packages that its files import beside torch are replaced by stand-ins.
"""

import pathlib
import sys
import types

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
SCALES = (0.5, 0.25, -0.125, 0.0371, -0.7, 1.3e-3)
# Rounded: 0, 1, 2 (half to even), 4 (half to even), 4, 8, 4, 2, 0.
BITS = (0.3, 1.2, 2.5, 3.5, 4.0, 8.0, -4.2, -2.5, -0.4)


def load(path: pathlib.Path) -> types.ModuleType:
  """Runs one published file. torch has renamed `ctx.saved_variables`."""
  source = path.read_text().replace('saved_variables', 'saved_tensors')
  module = types.ModuleType(path.stem)
  exec(compile(source, str(path), 'exec'), module.__dict__)
  return module


def install_stand_ins() -> None:
  def scatter_add(src, index, dim, out):
    assert dim == 0
    return out.index_add_(0, index, src)

  def degree(index, num_nodes):
    return torch.bincount(index, minlength=num_nodes).float()

  names = {
    'torch_scatter': {
      'scatter_add': scatter_add,
      'scatter_mean': None,
      'scatter_max': None,
      'scatter_min': None,
    },
    'torch_geometric': {},
    'torch_geometric.nn': {'MessagePassing': None},
    'torch_geometric.utils': {
      'degree': degree,
      'add_self_loops': None,
      'remove_self_loops': None,
    },
  }
  for name, values in names.items():
    module = types.ModuleType(name)
    module.__dict__.update(values)
    sys.modules[name] = module


def rows_of_x(scale: np.ndarray, bits: np.ndarray, rng) -> np.ndarray:
  """Rows with ties, zeros, and points around the bound of their quantizer."""
  step = np.abs(scale)
  qmax = np.float32(2) ** (np.round(np.abs(bits)) - 1) - 1
  bound = (qmax * step).astype(np.float32)
  tiny = np.float32(1e-30)  # Around a bound of 0: subnormals may read as 0.
  up = np.maximum(np.nextafter(bound, np.float32(np.inf)), tiny)
  down = np.where(bound == 0, -tiny, np.nextafter(bound, np.float32(-np.inf)))
  columns = [np.zeros_like(bound), -np.zeros_like(bound)]
  columns += [v for edge in (bound, up, down) for v in (edge, -edge)]
  columns += [c * step for c in (0.5, -0.5, 1.5, -2.5, 6.5, 4.0, -3.0)]
  columns += [9 * bound + step, -3 * bound - 2 * step]
  inside = rng.uniform(-1.3, 1.3, (7, len(step))) * (np.abs(bound) + step)
  return np.stack([*columns, *inside], axis=1).astype(np.float32)


def gradients(function, inputs, trailing, upstream):
  """Output and gradients; the published backward overwrites its argument."""
  leaves = [torch.tensor(v, requires_grad=True) for v in inputs]
  out = function.apply(*leaves, *trailing)
  out.backward(torch.tensor(upstream))
  return [out.detach().numpy()] + [leaf.grad.numpy() for leaf in leaves]


def quantizer_case(function, seed: int, *, num_rows: int | None = None):
  """One function at all pairs of SCALES and BITS.

  With num_rows the pairs are a table from which rows borrow.
  """
  rng = np.random.default_rng(seed)
  scale, bits = (
    v.astype(np.float32).ravel() for v in np.meshgrid(SCALES, BITS)
  )
  group, trailing = np.arange(scale.size), ()
  if num_rows is not None:
    group = rng.integers(0, scale.size - 4, num_rows)  # Four stay unused.
    trailing = (1.0, 1, torch.tensor(group))
  x = rows_of_x(scale[group], bits[group], rng)
  upstream = rng.normal(size=x.shape).astype(np.float32)
  out, dx, dscale, dbits = gradients(
    function, (x, scale[:, None], bits[:, None]), trailing, upstream
  )
  return {
    'x': x,
    'scale': scale,
    'bits': bits,
    'group': group.astype(np.int32),
    'upstream': upstream,
    'out': out,
    'dx': dx,
    'dscale': dscale[:, 0],
    'dbits': dbits[:, 0],
  }


def group_case(index: types.ModuleType, seed: int, *, dyadic: bool):
  """All three ways to choose a group; `dyadic` makes equal distances exact."""
  rng = np.random.default_rng(seed)
  num_groups, num_rows = 130, 400
  scale = rng.uniform(-1, 1, num_groups).astype(np.float32)
  bits = rng.uniform(-5, 6, num_groups).astype(np.float32)
  features = rng.normal(size=(num_rows, 5)).astype(np.float32) * 4
  if dyadic:
    scale = (np.round(scale * 8) / 8).astype(np.float32)
    bits = (np.round(bits * 2) / 2).astype(np.float32)
    features = (np.round(features * 8) / 8).astype(np.float32)
  senders = rng.geometric(0.02, 1500) % num_rows
  edges = torch.tensor(np.stack([senders, rng.permutation(senders)]))
  x, s, b = (torch.tensor(v) for v in (features, scale[:, None], bits[:, None]))
  by_degree = index.get_scale_index(x, index.get_deg_index(x, edges), s, b)
  return {
    'max_abs': np.abs(features).max(1),
    'scale': scale,
    'bits': bits,
    'degree': np.bincount(senders, minlength=num_rows).astype(np.int32),
    'uniform': index.get_scale_index_uniform(x, None, s, b).numpy(),
    'by_degree': by_degree.numpy(),
    'naive': index.get_scale_index_naive(x, edges, 12).numpy(),
  }


def memory_case(seed: int):
  """The sum of bits in `u_quant_fea.forward` and the penalty of the scripts."""
  rng = np.random.default_rng(seed)
  width, weight, target = 110, 5e-5, 0.1
  bits = torch.tensor(
    rng.uniform(-2, 6, (2, 40)).astype(np.float32), requires_grad=True
  )
  group = torch.tensor(rng.integers(0, 40, (2, 30)))
  memory = 0
  for table, used in zip(bits, group, strict=True):
    memory = memory + width * table[torch.unique(used)].sum() / 8.0 / 1024.0
  penalty = weight * torch.relu(memory - target) ** 2
  penalty.backward()
  return {
    'bits': bits.detach().numpy(),
    'group': group.numpy().astype(np.int32),
    'width': np.int32(width),
    'weight': np.float32(weight),
    'target': np.float32(target),
    'memory': memory.detach().numpy(),
    'penalty': penalty.detach().numpy(),
    'dbits': bits.grad.numpy(),
  }


def main(clone: str) -> None:
  install_stand_ins()
  folder = pathlib.Path(clone)
  node = load(folder / 'quantize_method/quant_method_bit_debug.py')
  graph = load(folder / 'quantize_method/quant_method_red_uniform_bit_debug.py')
  index = load(folder / 'quantize_function/get_scale_index.py')
  feature, message, weight = (
    'u_quant_fea_func_gama_div',
    'u_quant_xw_func_alpha_linear_div',
    'u_quant_w_func_alpha_linear_div',
  )
  cases = {
    'node_feature': quantizer_case(getattr(node, feature), 1),
    'node_message': quantizer_case(getattr(node, message), 2),
    'node_weight': quantizer_case(getattr(node, weight), 3),
    'graph_feature': quantizer_case(getattr(graph, feature), 4, num_rows=90),
    'graph_message': quantizer_case(getattr(graph, message), 5),
    'graph_weight': quantizer_case(getattr(graph, weight), 6),
    'groups': group_case(index, 7, dyadic=False),
    'groups_dyadic': group_case(index, 8, dyadic=True),
    'memory': memory_case(9),
  }
  for name, arrays in cases.items():
    np.savez_compressed(HERE / f'a2q_{name}.npz', **arrays)
  print(f'wrote {len(cases)} files with torch {torch.__version__}')


if __name__ == '__main__':
  main(sys.argv[1])
