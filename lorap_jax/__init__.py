"""Low-rank aggregation prompts for quantized graph neural networks.

    import lorap_jax as lj

Quantization methods: `FP32`, `QAT`, `DegreeQuant`, `A2Q` (many graphs),
`A2QNode` (one graph), `MixQSearch` and `MixQ`. Layers: `QuantDense`, `GCNConv`,
`GINConv`, `GATConv`, `RGCNConv` (whose graph has `Relations` as its edges), and
`Network` of them. Prompts: `PromptSpec` for a layer; the modules `GPF`,
`GPFPlus`, `LoRAP`. Pure quantizers with their gradients: `affine.fake_quant`,
`a2q.fake_quant`, `mixq.fake_quant`, and Degree-Quant's
`degree_quant.protective_mask`; pure prompts: `init_lorap`, `lorap_prompt`. In
layers of one's own: `quantize`, `Quantized`, `Rows`, `node_mask`. For loops of
one's own: `init`, `apply`, `average_bits`, `param_labels`. Runs:
`train_and_evaluate`, `load_run`, `default_config`, `own_data_config`,
`from_pyg`; as integers: `export_run`, `load_artifact`.

All pure functions lie in `lorap_jax.quantization`, `prompts` and `graphs`,
modules in `nn` and `models`, data sets in `data`, the steps of a training in
`training`, whole runs in `runs`, what is said of finished ones in `reports`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lorap_jax._version import __version__

if TYPE_CHECKING:
  from lorap_jax.data.sets.pyg import from_pyg
  from lorap_jax.graphs import Relations, node_mask
  from lorap_jax.integers.artifact import load_artifact
  from lorap_jax.models.network import Network
  from lorap_jax.nn.conv import GATConv, GCNConv, GINConv, RGCNConv
  from lorap_jax.nn.groups import param_labels
  from lorap_jax.nn.linear import QuantDense
  from lorap_jax.nn.methods import (
    FP32,
    QAT,
    A2QNode,
    DegreeQuant,
    MixQ,
    MixQSearch,
    quantize,
  )
  from lorap_jax.nn.methods import A2QGraph as A2Q
  from lorap_jax.nn.prompts import GPFPlusPrompt as GPFPlus
  from lorap_jax.nn.prompts import GPFPrompt as GPF
  from lorap_jax.nn.prompts import LoRAPPrompt as LoRAP
  from lorap_jax.nn.prompts import PromptSpec
  from lorap_jax.nn.quantized import Quantized, Rows
  from lorap_jax.prompts import init_lorap, lorap_prompt
  from lorap_jax.quantization import a2q, affine, degree_quant, mixq
  from lorap_jax.runs.default_config import get_config as default_config
  from lorap_jax.runs.default_config import own_data_config
  from lorap_jax.runs.export import export_run
  from lorap_jax.runs.loop import train_and_evaluate
  from lorap_jax.runs.restore import LoadedRun, load_run
  from lorap_jax.training.passes import Pass, apply, average_bits, init

# Module, and its name there; None for the module. Read late: worker processes
# of the data layer import this package too, and have no use for JAX.
_PLACES: dict[str, tuple[str, str | None]] = {
  'A2Q': ('nn.methods', 'A2QGraph'),
  'A2QNode': ('nn.methods', 'A2QNode'),
  'DegreeQuant': ('nn.methods', 'DegreeQuant'),
  'FP32': ('nn.methods', 'FP32'),
  'GATConv': ('nn.conv', 'GATConv'),
  'GCNConv': ('nn.conv', 'GCNConv'),
  'GINConv': ('nn.conv', 'GINConv'),
  'GPF': ('nn.prompts', 'GPFPrompt'),
  'GPFPlus': ('nn.prompts', 'GPFPlusPrompt'),
  'LoRAP': ('nn.prompts', 'LoRAPPrompt'),
  'LoadedRun': ('runs.restore', 'LoadedRun'),
  'MixQ': ('nn.methods', 'MixQ'),
  'MixQSearch': ('nn.methods', 'MixQSearch'),
  'Network': ('models.network', 'Network'),
  'Pass': ('training.passes', 'Pass'),
  'PromptSpec': ('nn.prompts', 'PromptSpec'),
  'QAT': ('nn.methods', 'QAT'),
  'RGCNConv': ('nn.conv', 'RGCNConv'),
  'Relations': ('graphs', 'Relations'),
  'QuantDense': ('nn.linear', 'QuantDense'),
  'Quantized': ('nn.quantized', 'Quantized'),
  'Rows': ('nn.quantized', 'Rows'),
  'a2q': ('quantization.a2q', None),
  'affine': ('quantization.affine', None),
  'apply': ('training.passes', 'apply'),
  'average_bits': ('training.passes', 'average_bits'),
  'default_config': ('runs.default_config', 'get_config'),
  'degree_quant': ('quantization.degree_quant', None),
  'export_run': ('runs.export', 'export_run'),
  'from_pyg': ('data.sets.pyg', 'from_pyg'),
  'init': ('training.passes', 'init'),
  'init_lorap': ('prompts', 'init_lorap'),
  'load_artifact': ('integers.artifact', 'load_artifact'),
  'load_run': ('runs.restore', 'load_run'),
  'lorap_prompt': ('prompts', 'lorap_prompt'),
  'mixq': ('quantization.mixq', None),
  'node_mask': ('graphs', 'node_mask'),
  'own_data_config': ('runs.default_config', 'own_data_config'),
  'param_labels': ('nn.groups', 'param_labels'),
  'quantize': ('nn.methods', 'quantize'),
  'train_and_evaluate': ('runs.loop', 'train_and_evaluate'),
}

__all__ = [
  'A2Q',
  'A2QNode',
  'DegreeQuant',
  'FP32',
  'GATConv',
  'GCNConv',
  'GINConv',
  'GPF',
  'GPFPlus',
  'LoRAP',
  'LoadedRun',
  'MixQ',
  'MixQSearch',
  'Network',
  'Pass',
  'PromptSpec',
  'QAT',
  'QuantDense',
  'Quantized',
  'RGCNConv',
  'Relations',
  'Rows',
  '__version__',
  'a2q',
  'affine',
  'apply',
  'average_bits',
  'default_config',
  'degree_quant',
  'export_run',
  'from_pyg',
  'init',
  'init_lorap',
  'load_artifact',
  'load_run',
  'lorap_prompt',
  'mixq',
  'node_mask',
  'own_data_config',
  'param_labels',
  'quantize',
  'train_and_evaluate',
]


def __getattr__(name: str) -> Any:
  if name not in _PLACES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  place, there = _PLACES[name]
  module = importlib.import_module(f'{__name__}.{place}')
  return module if there is None else getattr(module, there)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
