"""Writes the golden vectors of Degree-Quant; README.md says with what.

  python tests/golden/make_dq.py CLONE

CLONE is a checkout of github.com/camlsys/degree-quant, of which
`dq/quantization.py` and `dq/transforms.py` are used. Needs torch,
torch_geometric, networkx and numpy.
"""

import pathlib
import sys

import networkx as nx
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
EPS = torch.finfo(torch.float32).eps
GRIDS = {
  'int8_signed': (8, True),
  'int8_unsigned': (8, False),
  'int4_signed': (4, True),
  'int4_unsigned': (4, False),
}
# Name to (use_ste, use_momentum, with percentile), as the published main.py.
RULES = {
  'ste_abs': (True, False, False),
  'ste_mom': (True, True, False),
  'ste_per': (True, False, True),
  'gc_abs': (False, False, False),
  'gc_mom': (False, True, False),
  'gc_per': (False, False, True),
}
BATCH_SCALES = (1.0, 0.4, 2.5, 1.3)


def training_inputs(rng):
  """Batches of unlike ranges; the second one protects no row."""
  shape = (len(BATCH_SCALES), 100, 6)
  x = rng.normal(size=shape) * np.reshape(BATCH_SCALES, (-1, 1, 1)) + 0.3
  protected = rng.random(shape[:2]) < 0.2
  protected[1] = False
  return {
    'x': x.astype(np.float32),
    'protected': protected,
    'upstream': (rng.integers(1, 9, shape) / 4).astype(np.float32),
    'x_eval': (2 * rng.normal(size=shape[1:])).astype(np.float32),
  }


def protected_pass(quantizer, x, mask):
  """Two lines of `MessagePassingMultiQuant.propagate`; high is Identity."""
  out = torch.empty_like(x)
  out[mask] = x[mask]
  out[~mask] = quantizer(x[~mask])
  return out


def training_case(published, rule, inputs):
  """A few training passes and one evaluation of all four grids."""
  use_ste, use_momentum, with_percentile = RULES[rule]
  found = {}
  for grid, (bits, signed) in GRIDS.items():
    percentile = {8: 0.001, 4: 0.01}[bits] if with_percentile else None
    quantizer = published.IntegerQuantizer(
      bits, signed, use_momentum, use_ste, percentile=percentile
    )
    steps = {'min': [], 'max': [], 'out': [], 'dx': []}
    for t in range(len(BATCH_SCALES)):
      x = torch.tensor(inputs['x'][t])
      x = (x if signed else torch.relu(x)).requires_grad_()
      out = protected_pass(quantizer, x, torch.tensor(inputs['protected'][t]))
      out.backward(torch.tensor(inputs['upstream'][t]))
      values = quantizer.min_val, quantizer.max_val, out.detach(), x.grad
      for name, value in zip(steps, values, strict=True):
        steps[name].append(value.numpy().copy())
    quantizer.eval()
    found |= {f'{grid}_{name}': np.stack(v) for name, v in steps.items()}
    found[f'{grid}_eval'] = quantizer(torch.tensor(inputs['x_eval'])).numpy()
  return found


def exact_points(qmin, qmax, zero_point, scale):
  """Ties, their neighbours, the bounds and far values, on a dyadic grid."""
  codes = np.arange(qmin - 2, qmax + 2.5, 0.5)
  near = [qmin - 2, qmax - 1, zero_point - 2]  # 3 windows where it matters
  codes = codes[np.any([(codes >= a) & (codes <= a + 3.5) for a in near], 0)]
  x = ((np.resize(codes, 24) - zero_point) * scale).astype(np.float32)
  up, down = (np.nextafter(x, np.float32(d)) for d in (np.inf, -np.inf))
  # Subnormals may read as 0.
  up, down = (np.where(np.abs(v) < 1e-30, 0, v) for v in (up, down))
  extra = np.array([0.0, -0.0, 1e-30, -1e-30, 1e6, -1e6], np.float32)
  return np.concatenate([x, up, down, extra])


def exact_case(published):
  """Scales that are powers of two: no operation but round() rounds."""
  found = {}
  for grid, (bits, signed) in GRIDS.items():
    rows = {n: [] for n in ('min', 'max', 'x', 'ste', 'gc', 'upstream')}
    rows |= {'ste_dx': [], 'gc_dx': []}
    levels = 2**bits - 1
    for below in (0, 1, levels // 2, levels - 1, levels):
      for scale in (0.5, 2.0**-7):
        low, high = -below * scale, (levels - below) * scale
        qmin, qmax, zero_point, _ = published.get_qparams(
          high, low, bits, signed, EPS, False
        )
        x = exact_points(qmin, qmax, zero_point, scale)
        upstream = (np.arange(x.size) % 7 + 1).astype(np.float32)
        rows['min'].append(low)
        rows['max'].append(high)
        rows['x'].append(x)
        rows['upstream'].append(upstream)
        for name, ste in (('ste', True), ('gc', False)):
          leaf = torch.tensor(x, requires_grad=True)
          out = published.quantize(
            leaf, high, low, bits, signed, EPS, False, ste
          )
          out.backward(torch.tensor(upstream))
          rows[name].append(out.detach().numpy())
          rows[f'{name}_dx'].append(leaf.grad.numpy())
    found |= {
      f'{grid}_{name}': np.array(value, np.float32)
      for name, value in rows.items()
    }
  return found


def qparams_case(published, rng):
  """Scale and zero point of constant, tiny, one-sided and random ranges."""
  ranges = [(0, 0), (2, 2), (-3, -3), (1e-9, 2e-9), (-1e-7, 1e-7), (0, 7)]
  ranges += [(-5, 0), (1, 4), (-4, -1), (-1e-30, 0), (0, 1e4)]
  ranges = np.concatenate([ranges, rng.normal(size=(60, 2)) * 3])
  ranges = np.sort(ranges, axis=1).astype(np.float32)
  found = {'min': ranges[:, 0], 'max': ranges[:, 1]}
  for grid, (bits, signed) in GRIDS.items():
    for form, symmetric in (('affine', False), ('symmetric', True)):
      values = [
        published.get_qparams(high, low, bits, signed, EPS, symmetric)
        for low, high in ranges
      ]
      found[f'{grid}_{form}_zero_point'] = np.array([v[2] for v in values])
      found[f'{grid}_{form}_scale'] = np.array([v[3] for v in values])
  return found


def percentile_case(published, rng):
  """Ranges of the first `rows` rows, of values without and with many ties."""
  plain = rng.normal(size=(2600, 2)).astype(np.float32)
  ties = (np.round(plain * 4) / 4).astype(np.float32)
  rows = np.array([1, 2, 40, 50, 51, 99, 499, 500, 501, 1000, 1500, 2600])
  found = {'plain': plain, 'ties': ties, 'rows': rows.astype(np.int32)}
  for name in ('plain', 'ties'):
    for bits, percentile in ((8, 0.001), (4, 0.01)):
      quantizer = published.IntegerQuantizer(
        bits, True, False, True, percentile=percentile
      )
      parts = [torch.tensor(found[name][:r]) for r in rows]
      found[f'{name}_int{bits}'] = np.array(
        [(quantizer.min_fn(p), quantizer.max_fn(p)) for p in parts], np.float32
      )
  return found


def probability_case(transforms, rng):
  """Probabilities in a batch of social networks, some with directed edges."""
  data = sys.modules['torch_geometric.data']
  graphs = [
    nx.karate_club_graph(),
    nx.florentine_families_graph(),
    nx.davis_southern_women_graph(),
    nx.les_miserables_graph(),
    nx.krackhardt_kite_graph(),
    nx.petersen_graph(),  # All degrees are equal.
  ]
  items = []
  for index, graph in enumerate(graphs):
    graph = nx.convert_node_labels_to_integers(graph)
    edges = np.array(graph.edges).T
    edges = np.concatenate([edges, edges[::-1]], axis=1)
    if index % 2:
      edges = edges[:, rng.random(edges.shape[1]) < 0.6]
    items.append(
      data.Data(
        edge_index=torch.tensor(edges), num_nodes=graph.number_of_nodes()
      )
    )
  batch = data.Batch.from_data_list(items)
  found = {
    'receivers': batch.edge_index[1].numpy().astype(np.int32),
    'n_node': np.array([item.num_nodes for item in items], np.int32),
  }
  # Low and change of the published runs, and a sum that is capped.
  settings = np.array([(0.0, 0.1), (0.1, 0.1), (0.2, 0.5), (0.7, 0.4)])
  found['settings'] = settings
  found['probability'] = np.stack(
    [
      transforms.ProbabilisticHighDegreeMask(low, min(low + change, 1.0))(
        batch.clone()
      ).prob_mask.numpy()
      for low, change in settings
    ]
  )
  return found


def main(clone: str) -> None:
  sys.path.insert(0, clone)
  from dq import quantization, transforms

  inputs = training_inputs(np.random.default_rng(1))
  cases = {'inputs': inputs}
  cases |= {rule: training_case(quantization, rule, inputs) for rule in RULES}
  cases['exact'] = exact_case(quantization)
  cases['qparams'] = qparams_case(quantization, np.random.default_rng(2))
  cases['percentiles'] = percentile_case(quantization, np.random.default_rng(3))
  cases['probability'] = probability_case(transforms, np.random.default_rng(4))
  for name, arrays in cases.items():
    np.savez_compressed(HERE / f'dq_{name}.npz', **arrays)
  print(f'wrote {len(cases)} files with torch {torch.__version__}')


if __name__ == '__main__':
  main(sys.argv[1])
